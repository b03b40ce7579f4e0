"""Kernel-sharing atrous convolution: ASPP whose rates share one 3x3 kernel.

After Huang, Wang, Jia, Liu and He 2019 (arXiv 1908.09443). An object of any size is looked for with the same nine
weights per channel pair, so that each rate's examples teach all of them, and two of ASPP's three kernels are saved.

**When to use it.** Where ASPP is wanted and parameters or downloads are scarce: it has about two fifths of ASPP's
weights, and as many FLOPs. The paper argues for the sharing with little data too; this book has not measured that.

**Differences from the paper**

* No source that we could read says how the maps of the rates are joined, so it is a setting: ``fusion: sum`` adds
  them, ``concat`` lays them side by side, with a larger projection.
* The result goes through the decoder of DeepLab v3+ to stride 4, as in `aspp`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.factory.config import ConfigError, Count, Probability
from segtutor.factory.heads.base import register_head
from segtutor.factory.heads.context import ContextHead, rates_at
from segtutor.layers import BatchNorm2d, conv_norm_relu, resize


class SharedKernel(nn.Conv2d):
    """A 3x3 convolution that is told its rate at each call, so that hooks see every use of its one kernel."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, rate: int = 1) -> Tensor:
        """x (B, in_channels, h, w) to (B, out_channels, h, w), at one rate."""
        return F.conv2d(x, self.weight, padding=rate, dilation=rate)


class SharedKernelPooling(nn.Module):
    """A 1x1 branch, one kernel at several rates, a summary of the whole map: (B, in_channels, h, w) to 256 channels.

    Args:
        in_channels: channels of the incoming map.
        channels: channels of each branch and of the result.
        rates: dilations at which the kernel is used.
        fusion: "sum" or "concat" of the rates' maps.
        dropout: share of the result dropped in training.
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...], fusion: str, dropout: float):
        super().__init__()
        self.rates, self.fusion = tuple(rates), fusion
        self.point = conv_norm_relu(in_channels, channels, kernel=1)
        self.kernel = SharedKernel(in_channels, channels)
        # What a kernel finds twelve pixels apart has another mean and variance than what it finds six apart.
        self.norms = nn.ModuleList(BatchNorm2d(channels) for _ in self.rates)
        self.image_pooling = conv_norm_relu(in_channels, channels, kernel=1)
        maps = 2 + (len(self.rates) if fusion == "concat" else 1)
        self.project = conv_norm_relu(maps * channels, channels, kernel=1)
        self.dropout = nn.Dropout(dropout)

    def responses(self, x: Tensor) -> list[Tensor]:
        """x (B, in_channels, h, w) to the kernel's map (B, channels, h, w) at each rate, normalised."""
        return [norm(self.kernel(x, rate)) for rate, norm in zip(self.rates, self.norms, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, channels, h, w)."""
        atrous = self.responses(x)  # (B, 256, h, w) each
        if self.fusion == "sum":
            atrous = [torch.stack(atrous).sum(dim=0)]
        summary = resize(self.image_pooling(F.adaptive_avg_pool2d(x, 1)), x.shape[2:])  # (B, 256, h, w)
        maps = [self.point(x), *(F.relu(each) for each in atrous), summary]
        return self.dropout(self.project(torch.cat(maps, dim=1)))  # (B, 768 or 1280, h, w) to (B, 256, h, w)


@register_head("ksac")
class KSACHead(ContextHead):
    """One kernel at several rates on c4, DeepLab v3+'s decoder at c1.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the branches, of the decoder and of the embedding.
        rates: of the shared kernel at c4's own stride, at least one; None: 6, 12, 18 at 16, doubled at 8, halved at 32.
        fusion: "sum" of the rates' maps, or "concat".
        low_level_dim: channels to which c1 is reduced.
        dropout: share of the context's activations dropped in training.

    Raises:
        ConfigError: no rate at all.
    """

    when = "ASPP's rates with one kernel: two fifths of its weights, as many FLOPs; for small downloads."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 256,
        rates: tuple[Count, ...] | None = None,
        fusion: Literal["sum", "concat"] = "sum",
        low_level_dim: Count = 48,
        dropout: Probability = 0.1,
    ):
        rates = rates_at(strides[3], rates)
        if not rates:
            raise ConfigError("head.rates: an empty list leaves the shared kernel without a rate; give at least one.")
        context = SharedKernelPooling(channels[3], proj_dim, rates, fusion, dropout)
        super().__init__(context, channels[0], num_classes, proj_dim, low_level_dim)
