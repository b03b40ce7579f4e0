"""Pyramid pooling on c4: the mean of the map, and of its quarters, ninths and thirty-sixths, beside every position.

After Zhao et al. 2017 (arXiv 1612.01105); the modules are those of `segtutor.models.pspnet`.

**When to use it.** On a backbone dilated to stride 8, where the kind of scene decides what a pixel can be. On one that
is not dilated its borders are as coarse as c4; take `uper` there, which pools alike and draws at stride 4.

Unlike the paper's network it takes c4 at any stride.
"""

from collections.abc import Sequence

from torch import nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.layers import conv_norm_relu
from segtutor.models.pspnet import PyramidPooling


@register_head("psp")
class PSPHead(Head):
    """Pyramid pooling, 3x3 convolution, dropout, 1x1 classifier, all on c4.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the embedding; the pyramid's summaries together are as wide as c4.
        bins: sides of the grids of regions.
        dropout: share of the embedding's channels dropped in training.
    """

    in_strides, out_stride = (32,), 32
    when = "Averages of the whole scene beside every position; it reads c4 alone, so dilate the backbone."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 512,
        bins: tuple[Count, ...] = (1, 2, 3, 6),
        dropout: Probability = 0.1,
    ):
        super().__init__()
        self.pyramid = PyramidPooling(channels[3], max(1, channels[3] // max(1, len(bins))), bins)
        self.project = conv_norm_relu(self.pyramid.out_channels, proj_dim)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c4's stride."""
        pooled = self.pyramid(features.c4)  # (B, 2 C4, H/32, W/32)
        embedding = self.dropout(self.project(pooled))  # (B, E, H/32, W/32)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/32, W/32)
