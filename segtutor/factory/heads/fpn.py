"""Semantic FPN: a feature pyramid, each level brought to stride 4 by convolutions, and their sum.

After Kirillov, Girshick, He and Dollar 2019 (arXiv 1901.02446), the semantic branch of Panoptic FPN on the pyramid of
Lin et al. 2017 (arXiv 1612.03144).

**When to use it.** Where fine and coarse things are both wanted from a backbone that is not dilated: it reads all four
maps, for a little less work than `aspp`. Its far sight is the backbone's own; nothing in it looks around.

**Differences from the paper**

* Maps are enlarged to the real size of the next level, not by two, so that images of any size go through. In the
  pyramid by nearest neighbours, in the branches bilinearly, as the papers do.
* Normalisation is by groups of four channels or more, 32 groups at the paper's 128 channels; fewer when narrower.
* Dropout before the classifier, as OpenMMLab has it.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.layers import resize


class FeaturePyramid(nn.Module):
    """Maps c1 .. c4 to four of one width, each with everything that is coarser added to it (Lin et al., Figure 3).

    Args:
        channels: of c1 .. c4.
        width: channels of every level.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channel, width, 1) for channel in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Maps (B, channels[i], h_i, w_i) to levels (B, width, h_i, w_i)."""
        *finer, coarsest = (lateral(x) for lateral, x in zip(self.laterals, maps, strict=True))
        levels = [coarsest]  # (B, 256, H/32, W/32)
        for x in reversed(finer):
            levels.insert(0, x + F.interpolate(levels[0], size=x.shape[2:], mode="nearest"))  # (B, 256, h_i, w_i)
        # The sum carries the blocks of its coarser part; a 3x3 smooths them away.
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


def conv_group_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, group normalisation, ReLU: (B, in_channels, h, w) to (B, out_channels, h, w)."""
    # A group of one channel would be normalised to zero on the 1x1 map of a small image.
    groups = math.gcd(32, out_channels // 4) if out_channels % 4 == 0 else 1
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.GroupNorm(groups, out_channels),
        nn.ReLU(),
    )


@register_head("fpn")
class FPNHead(Head):
    """Pyramid of c1 .. c4; level i is convolved and enlarged until it has c1's size; sum; 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the branches and of the embedding.
        pyramid_dim: channels of the pyramid's levels.
        dropout: share of the embedding's channels dropped in training.
    """

    in_strides, out_stride = (4, 8, 16, 32), 4
    when = "All four maps by convolutions, from a backbone without dilation, for a little less work than aspp."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Annotated[int, Interval(ge=2, le=8192)] = 128,
        pyramid_dim: Count = 256,
        dropout: Probability = 0.1,
    ):
        super().__init__()
        self.pyramid = FeaturePyramid(channels, pyramid_dim)
        self.branches = nn.ModuleList()
        for level in range(4):  # one convolution for each enlargement, and one where there is nothing to enlarge
            widths = (pyramid_dim,) + (proj_dim,) * max(1, level)
            self.branches.append(nn.ModuleList(map(conv_group_norm_relu, widths[:-1], widths[1:])))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c1's stride."""
        sizes = [x.shape[2:] for x in features.maps]
        total = 0
        for level, (x, branch) in enumerate(zip(self.pyramid(features.maps), self.branches, strict=True)):
            for step, convolve in enumerate(branch.children(), 1):
                x = convolve(x)  # (B, 128, h, w)
                if level > 0:
                    x = resize(x, sizes[level - step])  # (B, 128, 2 h, 2 w)
            total = total + x
        embedding = self.dropout(total)  # (B, 128, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)
