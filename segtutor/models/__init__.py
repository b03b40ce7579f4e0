"""Every architecture once, from scratch, one file per paper. Importing a name imports only its own file."""

from importlib import import_module

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

__all__ = list(_FILES)


def __getattr__(name: str):
    if name in _FILES:
        return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
