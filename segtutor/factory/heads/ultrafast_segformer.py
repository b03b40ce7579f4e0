"""SegFormer's decoder on half the channels: one linear map per level, summed from coarse to fine.

After Xie et al. 2021 (arXiv 2105.15203), whose decoder spends most of its time in enlarging maps of 256 channels to
stride 4 and in a matrix of 1,024 by 256 there.

**When to use it.** With a small transformer backbone, where the decoder of the paper takes longer than the backbone.

**Differences from the paper**

* Projection and fusion are one matrix: nothing but linear maps stood between them.
* A level is enlarged to the size of the next finer one and added there, so that only one map is ever made at stride 4.
* 128 channels in place of 256.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.layers import BatchNorm2d, resize


class StepwiseDecoder(nn.Module):
    """Maps to one of ``width`` channels at the size of the first: project each, add from coarse to fine, normalise.

    Args:
        channels: of the maps, from fine to coarse.
        width: channels that come out.
        dropout: share of the channels dropped in training.
    """

    def __init__(self, channels: Sequence[int], width: int, dropout: float):
        super().__init__()
        # No bias: the normalisation that follows the sum would take it away.
        self.project = nn.ModuleList(nn.Conv2d(channel, width, 1, bias=False) for channel in channels)
        self.norm = BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps (B, channels[i], h_i, w_i), from fine to coarse, to (B, width, h_1, w_1)."""
        total = None
        for project, x in zip(reversed(self.project), reversed(maps), strict=True):
            level = project(x)  # (B, E, h_i, w_i)
            total = level if total is None else level + resize(total, x.shape[2:])
        return self.dropout(F.relu(self.norm(total)))


@register_head("ultrafast_segformer")
class UltrafastSegFormerHead(Head):
    """The stepwise decoder on all four maps, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of every level and of the embedding.
        out_stride: of the logits, 4 or 8; at 8, c1 is averaged down to c2's size first.
        dropout: share of the embedding's channels dropped in training.
    """

    in_strides, out_stride = (4, 8, 16, 32), 4
    when = "A small transformer backbone at nearly its own speed; wider than the extremely fast one."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 128,
        out_stride: Literal[4, 8] = 4,
        dropout: Probability = 0.1,
    ):
        super().__init__()
        self.out_stride = out_stride
        self.decoder = StepwiseDecoder(channels, proj_dim, dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at ``out_stride``."""
        c1, *coarser = features.maps
        if self.out_stride == 8:
            c1 = resize(c1, coarser[0].shape[2:])  # (B, C1, H/8, W/8)
        embedding = self.decoder([c1, *coarser])  # (B, E, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)
