"""Published weights by name: which of torchvision's files fits a model, registered by the model's class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segtutor.models.deeplab_v1 import DeepLabV1
from segtutor.models.deeplab_v2 import DeepLabV2
from segtutor.models.deeplab_v3 import DeepLabV3
from segtutor.models.deeplab_v3plus import DeepLabV3Plus
from segtutor.models.fcn import FCN
from segtutor.models.pspnet import PSPNet
from segtutor.models.resnet import ResNet
from segtutor.models.segnet import SegNet
from segtutor.models.swin import SwinTransformer
from segtutor.models.unet import UNet
from segtutor.models.upernet import SwinUPerNet
from segtutor.models.vgg import VGG16
from segtutor.models.vit import ViT
from segtutor.weights.files import fetch_from_hub, fetch_url, read_weights
from segtutor.weights.keymap import kind_of
from segtutor.weights.notices import licence_notice
from segtutor.weights.transplant import Report, transplant, unwrapped

Model = type[nn.Module]
Choose = Callable[[Any], str | None]  # a model to torchvision's name for its weights, or None where it has none


@dataclass(frozen=True)
class Collection:
    """Weights that `load_pretrained` knows under one name.

    Attributes:
        title: of the images that they were trained on.
        terms: under which those images may be used.
        models: class of the model to what chooses among the files, and the presets for which there are some.
    """

    title: str
    terms: str
    models: dict[Model, tuple[Choose, tuple[str, ...]]] = field(default_factory=dict)


COLLECTIONS = {
    "imagenet": Collection("ImageNet", "whose images are for research use"),
    "coco": Collection("COCO", "whose images stand under the terms of Flickr; 21 classes of PASCAL VOC"),
}
# Who publishes weights for non-commercial use only: sources whose names say that they are SegFormer's.
NVIDIA = {"transformers mit", "transformers segformer", "nvidia mit", "nvidia segformer"}


def register_published(collection: str, *models: Model, presets: tuple[str, ...] = ()) -> Callable[[Choose], Choose]:
    """Decorate a function from a model to torchvision's name for its weights, or None where there are none.

    Args:
        collection: "imagenet" or "coco".
        models: classes that it knows, with their subclasses.
        presets: for which there are weights; left out, for all of them.
    """

    def register(choose: Choose) -> Choose:
        COLLECTIONS[collection].models.update(dict.fromkeys(models, (choose, presets)))
        return choose

    return register


@register_published("imagenet", FCN, DeepLabV1)
def _vgg16(model: nn.Module) -> str | None:
    return "VGG16_Weights.IMAGENET1K_V1"


@register_published("imagenet", SegNet)
def _vgg16_bn(model: nn.Module) -> str | None:
    return "VGG16_BN_Weights.IMAGENET1K_V1"


@register_published("imagenet", VGG16)
def _vgg16_either(model: VGG16) -> str | None:
    return _vgg16_bn(model) if hasattr(model.stage1, "bn1_1") else _vgg16(model)


@register_published("imagenet", UNet)
def _vgg13(model: UNet) -> str | None:
    return f"VGG13{'_BN' if hasattr(model.contract1, 'bn1') else ''}_Weights.IMAGENET1K_V1"


@register_published("imagenet", ResNet)
def _resnet(model: ResNet) -> str | None:
    return f"ResNet{model.depth}_Weights.IMAGENET1K_V1"


@register_published("imagenet", PSPNet, DeepLabV2, DeepLabV3, DeepLabV3Plus)
def _on_resnet(model: PSPNet | DeepLabV2 | DeepLabV3 | DeepLabV3Plus) -> str | None:
    return _resnet(model.backbone)


@register_published("imagenet", ViT, presets=("b16", "b32", "l16"))
def _vit(model: ViT) -> str | None:
    sizes = {(768, 12): "B", (1024, 24): "L"}
    size = sizes.get((model.class_token.shape[-1], len(model.blocks)))
    return f"ViT_{size}_{model.patch}_Weights.IMAGENET1K_V1" if size and model.patch in (16, 32) else None


@register_published("imagenet", SwinTransformer, presets=("swin_t", "swin_s", "swin_b"))
def _swin(model: SwinTransformer) -> str | None:
    sizes: dict[tuple[int, tuple[int, ...]], str]
    sizes = {(96, (2, 2, 6, 2)): "T", (96, (2, 2, 18, 2)): "S", (128, (2, 2, 18, 2)): "B"}
    size = sizes.get((model.channels[0], model.depths))
    return f"Swin_{size}_Weights.IMAGENET1K_V1" if size else None


@register_published("imagenet", SwinUPerNet, presets=("swin_t", "swin_s", "swin_b"))
def _on_swin(model: SwinUPerNet) -> str | None:
    return _swin(model.backbone)


@register_published("coco", DeepLabV3, presets=("torchvision_resnet50", "torchvision_resnet101"))
def _deeplab_v3(model: DeepLabV3) -> str | None:
    depth = model.backbone.depth
    return f"DeepLabV3_ResNet{depth}_Weights.COCO_WITH_VOC_LABELS_V1" if depth in (50, 101) else None


def _name_for(model: nn.Module, collection: Collection) -> str:
    """torchvision's name for the weights of a collection that fit a model."""
    known = next((collection.models[cls] for cls in type(model).__mro__ if cls in collection.models), None)
    model_name = type(model).__name__
    if known is None:
        classes = ", ".join(cls.__name__ for cls in collection.models)
        raise ValueError(f"There are no {collection.title} weights for {model_name}; there are for {classes}.")
    choose, presets = known
    name = choose(model)
    if name is None:
        raise ValueError(
            f"There are no {collection.title} weights for a {model_name} of this size: build it with one of the "
            f"presets {', '.join(presets)}."
        )
    return name


def _fetch(model: nn.Module, collection: Collection, progress: bool) -> dict[str, Tensor]:
    name = _name_for(model, collection)
    from torchvision.models import get_weight  # costs seconds to import, so only here

    tensors = fetch_url(get_weight(name).url, progress)
    licence_notice(f"{name}: from torchvision (BSD-3-Clause), trained on {collection.title}, {collection.terms}.")
    return tensors


def load_pretrained(
    model: nn.Module, name: str = "imagenet", *, path: str | Path | None = None, progress: bool = True
) -> Report:
    """Fill a model with published weights. Once per process, `logging` says under which terms they may be used.

    Args:
        model: an FCN, a `UNet`, a `SegNet`, a `PSPNet`, a `DeepLabV1`, `DeepLabV2`, `DeepLabV3` or `DeepLabV3Plus`,
            a `ViT`, a `ViTSegmenter`, a `VGG16`, a `ResNet`, a `SwinTransformer` or a `SwinUPerNet` of the paper's
            widths; a `SegFormer` or a `MixTransformer`.
        name: "imagenet": torchvision's classification weights for the model's backbone; "coco": the whole of
            torchvision's DeepLab v3, for ``DeepLabV3(21, **PRESETS["torchvision_resnet50"])`` or its "resnet101";
            for a `SegFormer` or its backbone a repository of the Hugging Face hub, such as "nvidia/mit-b0" (the
            backbone, from ImageNet) or "nvidia/segformer-b0-finetuned-ade-512-512" (all of it, 150 classes). NVIDIA's
            licence allows non-commercial use only.
        path: a local file instead (.safetensors, or .pth and .bin read with ``weights_only=True``), or a folder
            copied from the hub: the weights of the reference library, or a state dict of the model itself.
        progress: show the download's progress.

    Returns:
        Report: what was loaded, skipped, reinitialized and adapted. Scoring layers for another number of classes start
        fresh; weights for RGB images are adapted to other channels (see `transplant`).

    Raises:
        ValueError: an unknown name, or weights that do not fit the model.
        WeightsError: the file could not be fetched or read.
    """
    tensors: Mapping[str, Tensor]
    if path is not None:
        tensors = read_weights(path)
    elif name in COLLECTIONS:
        tensors = _fetch(model, COLLECTIONS[name], progress)
    elif name.count("/") == 1:
        tensors = fetch_from_hub(name)
    else:
        known = " or ".join(f'"{collection}"' for collection in COLLECTIONS)
        raise ValueError(
            f'There are no weights named "{name}"; choose {known}, or "owner/repository" of the hub, or pass path= to '
            "a file."
        )
    report = transplant(tensors, model)
    if kind_of(unwrapped(tensors)) in NVIDIA:
        source = name if path is None else Path(path).name
        licence_notice(
            f"{source}: NVIDIA's weights are for non-commercial use only (NVIDIA Source Code License for SegFormer)."
        )
    return report
