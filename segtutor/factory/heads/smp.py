"""Decoders of segmentation_models_pytorch as heads; the one file of the package that imports that library.

After the papers that each class of that library names.

**When to use it.** To compare with a network of that library, to go on from its weights, or for its U-shapes.

A decoder is taken from a whole network of smp, which is built over an encoder that has no layers and says the channels
of our maps (`MapsAsEncoder`, registered the way smp's documentation shows).

**Differences from the library**

* These decoders enlarge by factors of two, so maps of other sizes are brought to a grid where that fits, and the
  result back to c1's size.
* U-shaped ones stop at c1: beyond it they read no map of the backbone.
"""

import itertools
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from segtutor.factory.backbones.norms import adapt_norms
from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.factory.heads.context import rates_at
from segtutor.layers import conv_norm_relu, region_means, resize, rounded_up, sizes_are_symbols


class MapsAsEncoder(nn.Module):
    """An encoder as smp wants it, for networks whose decoder alone is wanted: channel counts and no layers.

    Args:
        out_channels: channels of the image and of the maps, from fine to coarse.
        options: what smp passes to every encoder, which means nothing here.
    """

    def __init__(self, out_channels: Sequence[int], **options: Any):
        super().__init__()
        self.out_channels = list(out_channels)
        self.output_stride = options.get("output_stride", 32)

    def set_in_channels(self, in_channels: int, pretrained: bool = False) -> None:
        """There is no first layer to change."""

    def make_dilated(self, output_stride: int) -> None:
        """There is nothing to dilate."""


class RegionMeans(nn.AdaptiveAvgPool2d):
    """Adaptive pooling that can be exported for maps of any size."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) to the means of its regions (B, C, output_size, output_size)."""
        return region_means(x, cast(int, self.output_size))


_NUMBERS = itertools.count()  # threads that build at the same time do not meet under one name


def smp_decoder(architecture: str, out_channels: Sequence[int], **options: Any) -> Any:
    """The decoder of a network of smp, initialised as there.

    Args:
        architecture: smp's name of the network, such as "unetplusplus".
        out_channels: channels of the image (0: it is not read) and of the maps, from fine to coarse.
        options: passed on to ``smp.create_model``.
    """
    import segmentation_models_pytorch as smp

    name = f"maps_{next(_NUMBERS)}"
    params = {"out_channels": list(out_channels)}
    smp.encoders.encoders[name] = {"encoder": MapsAsEncoder, "params": params, "pretrained_settings": {}}
    try:
        network = smp.create_model(architecture, name, encoder_weights=None, **options)
    finally:
        del smp.encoders.encoders[name]
    for layer in network.decoder.modules():
        if type(layer) is nn.AdaptiveAvgPool2d and isinstance(layer.output_size, int):
            layer.__class__ = RegionMeans
    return adapt_norms(network.decoder)


def fit_size(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, h, w) resized to this (H, W), or left alone where it has that size already."""
    return x if not sizes_are_symbols() and x.shape[2:] == tuple(size) else resize(x, size)


class SMPHead(Head):
    """A decoder of segmentation_models_pytorch on the four maps, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the embedding; None: the decoder's own.

    Attributes:
        architecture: smp's name of the network that the decoder is taken from.
        width: the decoder's own channels.
        unread: how many maps stand before c1 in smp's lists and are not read: the image and, mostly, stride 2.
    """

    in_strides: tuple[int, ...] = (4, 8, 16, 32)
    out_stride = 4
    architecture: str
    width: int
    unread = 2

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, proj_dim: Count | None = None
    ):
        super().__init__()
        proj_dim = self.width if proj_dim is None else proj_dim
        self.factors = self.sides(strides)
        maps = (0,) * self.unread + tuple(channels)
        self.decoder: Any = smp_decoder(self.architecture, maps, **self.options(proj_dim))
        width = self.out_channels(channels, proj_dim)
        self.fit = nn.Identity() if width == proj_dim else conv_norm_relu(width, proj_dim, kernel=1)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def sides(self, strides: Sequence[int]) -> tuple[int, ...]:
        """How many times longer the decoder wants the sides of c1 .. c4 to be than those of c4."""
        return 8, 4, 2, 1

    def options(self, width: int) -> dict[str, Any]:
        """What ``smp.create_model`` is told, so that the decoder has ``width`` channels."""
        return {"decoder_channels": width}

    def out_channels(self, channels: Sequence[int], width: int) -> int:
        """How many channels come out of a decoder that was asked for ``width``."""
        return width

    def arranged(self, features: Features) -> list[Tensor]:
        """The maps as smp lists them, those that it reads with sides in the ratios of ``factors``."""
        maps = list(features.maps)
        if self.out_stride == 4:
            least = [rounded_up(side, self.factors[0]) for side in features.c1.shape[2:]]
            for level in (0, 3) if len(self.in_strides) == 2 else range(4):
                size = tuple(self.factors[level] * side for side in least)
                maps[level] = fit_size(maps[level], size)
        batch, _, height, width = maps[0].shape
        scales = (4, 2)[-self.unread :]
        return [maps[0].new_empty(batch, 0, scale * height, scale * width) for scale in scales] + maps

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c1's stride, or c4's where only c4 is read."""
        embedding = self.fit(self.decoder(self.arranged(features)))  # (B, E, ~H/4, ~W/4)
        size = (features.c1 if self.out_stride == 4 else features.c4).shape[2:]
        embedding = fit_size(embedding, size)  # (B, E, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)


class UShapedHead(SMPHead):
    """A U-shaped decoder of smp, which ends at c1: the last of its four blocks, which reads no map, is taken off."""

    unread = 1

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], num_classes: int, *, proj_dim: Count | None = None
    ):
        super().__init__(channels, strides, num_classes, proj_dim=proj_dim)
        self.end_at_c1()

    def end_at_c1(self) -> None:
        """Take off the last block, which would only enlarge."""
        self.decoder.blocks = self.decoder.blocks[:-1]

    def options(self, width: int) -> dict[str, Any]:
        """Four blocks, from wide to narrow."""
        return {"encoder_depth": 4, "decoder_channels": (4 * width, 2 * width, width, width)}


@register_head("smp:unet")
class SMPUnetHead(UShapedHead):
    """smp's U-Net; see `SMPHead`."""

    architecture, width = "unet", 64
    when = "U-Net's skips on any backbone."


@register_head("smp:unetplusplus")
class SMPUnetPlusPlusHead(UShapedHead):
    """smp's U-Net++; see `SMPHead`."""

    architecture, width = "unetplusplus", 64
    when = "U-Net's skips made dense: many more convolutions between the levels."

    def end_at_c1(self) -> None:
        """Take off the last block, which is asked for by its name."""
        self.decoder.blocks["x_0_3"] = nn.Identity()


@register_head("smp:manet")
class SMPMAnetHead(UShapedHead):
    """smp's MA-Net; see `SMPHead`."""

    architecture, width = "manet", 64
    when = "U-Net's skips, weighted by attention over positions and channels."


@register_head("smp:linknet")
class SMPLinknetHead(UShapedHead):
    """smp's LinkNet; see `SMPHead`."""

    architecture, width = "linknet", 32
    when = "Skips that are added, not laid beside: few parameters, quick."

    def options(self, width: int) -> dict[str, Any]:
        """Four blocks, as wide as the maps that they are added to."""
        return {"encoder_depth": 4}

    def out_channels(self, channels: Sequence[int], width: int) -> int:
        """As many as c1 has."""
        return channels[0]


@register_head("smp:fpn")
class SMPFPNHead(SMPHead):
    """smp's FPN; see `SMPHead`."""

    architecture, width = "fpn", 128
    when = "To go on from weights of smp.FPN; otherwise take fpn."

    def options(self, width: int) -> dict[str, Any]:
        """Its own width: groups of a normalisation divide it."""
        return {}

    def out_channels(self, channels: Sequence[int], width: int) -> int:
        """Its own width."""
        return self.width


@register_head("smp:pspnet")
class SMPPSPNetHead(SMPHead):
    """smp's PSPNet, on c4 alone; see `SMPHead`."""

    in_strides, out_stride = (32,), 32
    architecture, width = "pspnet", 512
    when = "To compare with smp.PSPNet; otherwise take psp."

    def options(self, width: int) -> dict[str, Any]:
        """Its width has another name."""
        return {"psp_out_channels": width}


@register_head("smp:deeplabv3plus")
class SMPDeepLabV3PlusHead(SMPHead):
    """smp's DeepLabV3+, on c4 and c1; see `SMPHead`."""

    in_strides = (4, 32)
    architecture, width = "deeplabv3plus", 256
    when = "To go on from weights of smp.DeepLabV3Plus; otherwise aspp."

    def sides(self, strides: Sequence[int]) -> tuple[int, ...]:
        """c4 is enlarged by 4, or by 2 where it lies at stride 8."""
        return (4, 2, 1, 1) if strides[3] > 8 else (2, 1, 1, 1)

    def options(self, width: int) -> dict[str, Any]:
        """Its rates go with the stride of c4, as everywhere here."""
        stride = 4 * self.factors[0]
        return {
            "encoder_output_stride": stride,
            "decoder_channels": width,
            "decoder_atrous_rates": rates_at(stride, None),
        }


@register_head("smp:upernet")
class SMPUPerNetHead(SMPHead):
    """smp's UPerNet; see `SMPHead`."""

    architecture, width = "upernet", 256
    when = "To go on from weights of smp.UPerNet; otherwise take uper."


@register_head("smp:segformer")
class SMPSegformerHead(SMPHead):
    """smp's SegFormer; see `SMPHead`."""

    architecture, width = "segformer", 256
    when = "To go on from weights of smp.Segformer; else segformer."

    def options(self, width: int) -> dict[str, Any]:
        """Its width has another name."""
        return {"decoder_segmentation_channels": width}
