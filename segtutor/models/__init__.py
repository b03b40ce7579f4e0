"""Every architecture once, from scratch, one file per paper. Importing a name imports only its own file."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker sees; a program looks names up on first use
    from segtutor.models.deeplab_v1 import DeepLabV1
    from segtutor.models.deeplab_v2 import DeepLabV2
    from segtutor.models.deeplab_v3 import DeepLabV3
    from segtutor.models.deeplab_v3plus import DeepLabV3Plus
    from segtutor.models.dense_crf import DenseCRF
    from segtutor.models.fcn import FCN8s, FCN16s, FCN32s
    from segtutor.models.pspnet import PSPNet
    from segtutor.models.resnet import ResNet
    from segtutor.models.segformer import MixTransformer, SegFormer
    from segtutor.models.segnet import SegNet
    from segtutor.models.swin import SwinTransformer
    from segtutor.models.unet import UNet
    from segtutor.models.upernet import SwinUPerNet
    from segtutor.models.vgg import VGG16
    from segtutor.models.vit import ViT, ViTSegmenter

_FILES = {
    "VGG16": "vgg",
    "ResNet": "resnet",
    "FCN32s": "fcn",
    "FCN16s": "fcn",
    "FCN8s": "fcn",
    "UNet": "unet",
    "SegNet": "segnet",
    "PSPNet": "pspnet",
    "DeepLabV1": "deeplab_v1",
    "DenseCRF": "dense_crf",
    "DeepLabV2": "deeplab_v2",
    "DeepLabV3": "deeplab_v3",
    "DeepLabV3Plus": "deeplab_v3plus",
    "ViT": "vit",
    "ViTSegmenter": "vit",
    "SwinTransformer": "swin",
    "SwinUPerNet": "upernet",
    "MixTransformer": "segformer",
    "SegFormer": "segformer",
}

__all__ = [
    "VGG16",
    "ResNet",
    "FCN32s",
    "FCN16s",
    "FCN8s",
    "UNet",
    "SegNet",
    "PSPNet",
    "DeepLabV1",
    "DenseCRF",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "ViT",
    "ViTSegmenter",
    "SwinTransformer",
    "SwinUPerNet",
    "MixTransformer",
    "SegFormer",
]

# Hidden from type checkers, which would take any name for one that is here
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _FILES:
            return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
