"""SegFormer's decoder on a quarter of the channels: the head of `ultrafast_segformer`, half as wide.

After Xie et al. 2021 (arXiv 2105.15203).

**When to use it.** Where the budget of time is the backbone's and nothing is left over: what remains of the head's cost
is mostly the enlargement of its logits to the image, which every head pays. ``out_stride: 8`` takes a little off that
remainder, and thin things pay for it.

It differs from the paper as `ultrafast_segformer` does, and has 64 channels.
"""

from collections.abc import Sequence
from typing import Literal

from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import register_head
from segtutor.factory.heads.ultrafast_segformer import UltrafastSegFormerHead


@register_head("extremely_fast_segformer")
class ExtremelyFastSegFormerHead(UltrafastSegFormerHead):
    """The stepwise decoder on all four maps, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of every level and of the embedding.
        out_stride: of the logits, 4 or 8; at 8, c1 is averaged down to c2's size first.
        dropout: share of the embedding's channels dropped in training.
    """

    when = "The least cost: behind mit-b0 hardly more than no head, for a little less mIoU in our short runs."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 64,
        out_stride: Literal[4, 8] = 4,
        dropout: Probability = 0.1,
    ):
        super().__init__(channels, strides, num_classes, proj_dim=proj_dim, out_stride=out_stride, dropout=dropout)
