"""torchvision's ResNet into ours and what stands on it; torchvision's DeepLab v3; smp's DeepLab v3+."""

import re

from segtutor.models.deeplab_v2 import DeepLabV2
from segtutor.models.deeplab_v3 import DeepLabV3
from segtutor.models.deeplab_v3plus import DeepLabV3Plus
from segtutor.models.pspnet import PSPNet
from segtutor.models.resnet import ResNet
from segtutor.weights.keymap import KeyMap, Tensors, by_prefix, register_map, register_model, register_source

STEM = "backbone.conv1.weight"
register_model(ResNet, stem="conv1.weight")
register_model(PSPNet, scores=r"(head|auxiliary)\.2\.", optional=r"auxiliary\.", stem=STEM)
register_model(DeepLabV2, scores=r"aspp\.", stem=STEM)
register_model(DeepLabV3, scores=r"(head\.classifier|auxiliary\.2)\.", optional=r"auxiliary\.", stem=STEM)
register_model(DeepLabV3Plus, scores=r"classifier\.", stem=STEM)


@register_source
def _resnet(tensors: Tensors) -> str | None:
    return "torchvision resnet" if {"layer1.0.conv1.weight", "conv1.weight"} <= tensors.keys() else None


@register_source
def _deeplab(tensors: Tensors) -> str | None:
    if "classifier.0.convs.0.0.weight" in tensors:
        return "torchvision deeplabv3"
    smp = {"decoder.aspp.0.convs.0.0.weight", "decoder.block1.0.weight"}
    return "smp deeplabv3plus" if smp <= tensors.keys() else None


def _renamed(name: str) -> str | None:
    if name.startswith("fc."):
        return None
    name = re.sub(r"^layer(\d)", lambda match: f"conv{int(match[1]) + 1}_x", name)
    return name.replace(".downsample.", ".shortcut.")


def _resnet_map(rest: str) -> KeyMap:
    """Into a model that stands on a ResNet; ``rest`` is the pattern of what is not its backbone."""

    def rename(name: str) -> str | None:
        renamed = _renamed(name)
        return None if renamed is None else f"backbone.{renamed}"

    return KeyMap(rename, reinitialized=rest)


def _torchvision_deeplab_map() -> KeyMap:
    parts: dict[str, str | None] = {
        "backbone": "backbone",
        "classifier.0.convs.4.1": "head.context.image_pooling.0",
        "classifier.0.convs.4.2": "head.context.image_pooling.1",
        "classifier.0.convs": "head.context.branches",
        "classifier.0.project": "head.context.project",
        "classifier.1": "head.refine.0",
        "classifier.2": "head.refine.1",
        "classifier.4": "head.classifier",
        "aux_classifier.0": "auxiliary.0.0",
        "aux_classifier.1": "auxiliary.0.1",
        "aux_classifier.4": "auxiliary.2",
    }
    return KeyMap(by_prefix(parts, {"backbone": _renamed}), reinitialized=r"auxiliary\.", optional=r"auxiliary\.")


def _smp_deeplab_map() -> KeyMap:
    """smp's convolution between ASPP and the upsampling stays out; the decoder's second one keeps its own start."""
    parts: dict[str, str | None] = {
        "encoder": "backbone",
        "decoder.aspp.0.convs.4.1": "aspp.image_pooling.0",
        "decoder.aspp.0.convs.4.2": "aspp.image_pooling.1",
        "decoder.aspp.0.convs.0": "aspp.branches.0",
        **{f"decoder.aspp.0.convs.{i}.0": f"aspp.branches.{i}" for i in (1, 2, 3)},
        **{f"decoder.aspp.0.convs.{i}.1": f"aspp.branches.{i}.2" for i in (1, 2, 3)},
        "decoder.aspp.0.project": "aspp.project",
        "decoder.aspp.1": None,
        "decoder.aspp.2": None,
        "decoder.block1": "decoder.project",
        "decoder.block2.0": "decoder.refine.0",
        "decoder.block2.1": "decoder.refine.0.2",
        "segmentation_head.0": "classifier",
    }
    return KeyMap(by_prefix(parts, {"backbone": _renamed}), reinitialized=r"decoder\.refine\.1\.")


register_map("torchvision resnet", ResNet, KeyMap(_renamed))
register_map("torchvision resnet", PSPNet, _resnet_map(r"(pyramid|head|auxiliary)\."))
register_map("torchvision resnet", DeepLabV2, _resnet_map(r"aspp\."))
register_map("torchvision resnet", DeepLabV3, _resnet_map(r"(head|auxiliary)\."))
register_map("torchvision resnet", DeepLabV3Plus, _resnet_map(r"(aspp|decoder|classifier)\."))
register_map("torchvision deeplabv3", DeepLabV3, _torchvision_deeplab_map())
register_map("smp deeplabv3plus", DeepLabV3Plus, _smp_deeplab_map())
