"""The plain head: one convolution, one classifier, on the coarsest map.

After the head that torchvision and others put on a dilated ResNet under the name FCN. It is not the network of Long et
al. 2015 (`segtutor.models.fcn`): no skips, no learned upsampling.

**When to use it.** As the baseline that a better head must beat, as the auxiliary head, and on a backbone dilated to
stride 8, where c4 is fine enough by itself.
"""

from collections.abc import Sequence

from torch import nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.layers import conv_norm_relu


@register_head("fcn")
class FCNHead(Head):
    """3x3 convolution, batch normalisation, ReLU, dropout, 1x1 classifier, all on c4.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the embedding; None: a quarter of c4's.
        dropout: share of the embedding's activations dropped in training.
    """

    in_strides, out_stride = (32,), 32
    when = "The baseline that a better head must beat; it reads c4 alone, so dilate the backbone."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count | None = None,
        dropout: Probability = 0.1,
    ):
        super().__init__()
        proj_dim = max(1, channels[3] // 4) if proj_dim is None else proj_dim
        self.project = conv_norm_relu(channels[3], proj_dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c4's stride."""
        embedding = self.dropout(self.project(features.c4))  # (B, E, H/32, W/32)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/32, W/32)
