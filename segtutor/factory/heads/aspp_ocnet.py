"""ASPP with object context: the branch that sees the mean of the map gives way to self-attention.

After Yuan et al. 2018 (arXiv 1809.00916), ASP-OC; its attention is that of `ocnet`.

**When to use it.** When `aspp` is nearly right and errors are of the kind that a look elsewhere in the image would
settle. It takes as many FLOPs as `aspp` and more memory; attention works on c4 at half its resolution, and stays cheap.

**Differences from the paper**

* The result goes through the decoder of DeepLab v3+ to stride 4, as in `aspp`, and so it has 256 channels, not 512.
* Rates go with the stride of c4: the paper's 12, 24, 36 at 8, half of these at 16.
* A map of odd sides is pooled with its last row and column, not without; ReLU where the reference has a leaky one; no
  bias before a normalisation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import register_head
from segtutor.factory.heads.context import ContextHead, rates_at
from segtutor.factory.heads.ocnet import SelfAttention
from segtutor.layers import conv_norm_relu, resize


class ObjectContext(nn.Module):
    """3x3 convolution, self-attention at half the resolution, 1x1: (B, in_channels, h, w) to (B, channels, h, w)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, channels)
        self.attention = SelfAttention(channels, max(1, channels // 2), channels, channels)
        self.project = conv_norm_relu(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, channels, h, w)."""
        # A quarter of the positions, a sixteenth of the pairs. Rounded up, so that a map of 1x1 still has one.
        small = F.max_pool2d(self.reduce(x), 2, ceil_mode=True)  # (B, 256, h/2, w/2)
        return self.project(resize(self.attention(small), x.shape[2:]))  # (B, 256, h, w)


class ASPPWithContext(nn.Module):
    """Object context, a 1x1 and three atrous branches, side by side.

    Args:
        in_channels: channels of the incoming map.
        channels: channels of each branch.
        rates: dilations of the 3x3 branches.
        out_channels: channels that come out.
        dropout: share of the result's channels dropped in training.
    """

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...], out_channels: int, dropout: float):
        super().__init__()
        self.object_context = ObjectContext(in_channels, channels)
        atrous = [conv_norm_relu(in_channels, channels, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, channels, kernel=1), *atrous])
        self.project = conv_norm_relu((2 + len(rates)) * channels, out_channels, kernel=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, out_channels, h, w)."""
        maps = [self.object_context(x), *(branch(x) for branch in self.branches)]  # (B, 256, h, w) each
        return self.dropout(self.project(torch.cat(maps, dim=1)))  # (B, 1280, h, w) to (B, out_channels, h, w)


@register_head("aspp_ocnet")
class ASPPOCNetHead(ContextHead):
    """c4 narrowed by a 3x3, ASPP with object context on it, DeepLab v3+'s decoder at c1.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the branches, of the decoder and of the embedding; c4 is narrowed to twice as many.
        rates: of the atrous branches at c4's own stride; None: 6, 12, 18 at 16, doubled at 8, halved at 32.
        low_level_dim: channels to which c1 is reduced.
        dropout: share of the context's channels dropped in training.
    """

    when = "Atrous rates and self-attention: to see what it adds to aspp, for as many FLOPs and more memory."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 256,
        rates: tuple[Count, ...] | None = None,
        low_level_dim: Count = 48,
        dropout: Probability = 0.1,
    ):
        rates = rates_at(strides[3], rates)
        context = nn.Sequential(
            conv_norm_relu(channels[3], 2 * proj_dim),
            ASPPWithContext(2 * proj_dim, proj_dim, rates, proj_dim, dropout),
        )
        super().__init__(context, channels[0], num_classes, proj_dim, low_level_dim)
