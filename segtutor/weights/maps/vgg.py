"""torchvision's VGG into VGG-16, FCN, U-Net, SegNet and DeepLab v1."""

import re
from collections.abc import Mapping

from torch import Tensor

from segtutor.models.deeplab_v1 import DeepLabV1
from segtutor.models.fcn import FCN
from segtutor.models.segnet import SegNet
from segtutor.models.unet import UNet
from segtutor.models.vgg import VGG16
from segtutor.weights.keymap import KeyMap, Tensors, register_map, register_model, register_source

register_model(VGG16, stem="stage1.conv1_1.weight")
register_model(FCN, scores=r"(score_|upscore)", stem="backbone.stage1.conv1_1.weight")
register_model(UNet, scores=r"score\.", stem="contract1.conv1.weight")
register_model(SegNet, scores=r"decoder\.stage1\.conv1_1\.", stem="encoder.stage1.conv1_1.weight")
register_model(DeepLabV1, scores=r"fc8\.", stem="backbone.stage1.conv1_1.weight")


@register_source
def _vgg(tensors: Tensors) -> str | None:
    if not {"features.0.weight", "classifier.0.weight"} <= tensors.keys():
        return None
    depth = 3 + sum(name.startswith("features.") and tensor.dim() == 4 for name, tensor in tensors.items())
    return f"torchvision vgg{depth}{'_bn' if 'features.1.running_mean' in tensors else ''}"


def _features(batch_norm: bool, depths: tuple[int, ...] = (2, 2, 3, 3, 3)) -> dict[str, str]:
    """torchvision's ``features.<index>`` to the paper's names, by counting its layers."""
    names, index = {}, 0
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            names[f"features.{index}"] = f"stage{stage}.conv{stage}_{i}"
            if batch_norm:
                names[f"features.{index + 1}"] = f"stage{stage}.bn{stage}_{i}"
            index += 3 if batch_norm else 2  # convolution, (normalisation), ReLU
        index += 1  # pool
    return names


def _vgg_map(
    batch_norm: bool,
    *,
    prefix: str = "",
    classifier: Mapping[str, str] | None = None,
    reinitialized: str = r"(?!)",
    reshape: str = r"(?!)",
    subsample: Mapping[str, int] | None = None,
) -> KeyMap:
    layers = {source: prefix + target for source, target in _features(batch_norm).items()} | dict(classifier or {})

    def rename(name: str) -> str | None:
        layer, _, tensor = name.rpartition(".")
        if layer.startswith("classifier.") and layer not in layers:
            return None
        return f"{layers[layer]}.{tensor}" if layer in layers else name

    return KeyMap(rename, reinitialized=reinitialized, reshape=reshape, subsample=subsample or {})


def _unet_map(batch_norm: bool) -> KeyMap:
    """The first eight convolutions of VGG-13 have the widths of U-Net's contracting path; its fifth stage stays out."""
    layers: dict[str, str | None] = {}
    for source, target in _features(batch_norm, depths=(2, 2, 2, 2, 2)).items():
        contracting = re.sub(r"stage(\d)\.(conv|bn)\d_(\d)", r"contract\1.\2\3", target)
        layers[source] = None if contracting.startswith("contract5") else contracting

    def rename(name: str) -> str | None:
        layer, _, tensor = name.rpartition(".")
        if layer.startswith("classifier."):
            return None
        target = layers.get(layer, layer)
        if target is None or (batch_norm and ".conv" in target and tensor == "bias"):
            return None
        return f"{target}.{tensor}"

    rest = r"(bottom|up\d|expand\d|score)\."
    return KeyMap(rename, rest, prepare=_fold_biases) if batch_norm else KeyMap(rename, rest)


def _fold_biases(source: Tensors) -> dict[str, Tensor]:
    """Take each convolution's bias off the mean that the normalisation after it subtracts: the same function."""
    folded = dict(source)
    for name, mean in source.items():
        if name.endswith(".running_mean"):
            folded[name] = mean - source[f"features.{int(name.split('.')[1]) - 1}.bias"]
    return folded


_DENSE = {"classifier.0": "fc6", "classifier.3": "fc7"}

register_map("torchvision vgg16", VGG16, _vgg_map(False))
register_map("torchvision vgg16_bn", VGG16, _vgg_map(True))
register_map(
    "torchvision vgg16",
    FCN,
    _vgg_map(
        False, prefix="backbone.", classifier=_DENSE, reinitialized=r"(score_|upscore)", reshape=r"fc[67]\.weight"
    ),
)
register_map("torchvision vgg13", UNet, _unet_map(False))
register_map("torchvision vgg13_bn", UNet, _unet_map(True))
register_map("torchvision vgg16_bn", SegNet, _vgg_map(True, prefix="encoder.", reinitialized=r"decoder\."))
register_map(
    "torchvision vgg16",
    DeepLabV1,
    _vgg_map(False, prefix="backbone.", classifier=_DENSE, reinitialized=r"fc8\.", subsample={"fc6": 7, "fc7": 1}),
)
