"""SegFormer's decoder: four linear projections, their sum at stride 4, one linear classifier.

After Xie et al. 2021 (arXiv 2105.15203); the decoder is `segtutor.models.segformer.MLPDecoder`.

**When to use it.** On transformer backbones, MiT above all: they have looked around already, and the head need only
bring four maps together. A convolutional backbone leaves the looking around to the head; give it `aspp` there.

It differs from the paper as the decoder's ledger says: each level is fused at its own size and enlarged then, the same
sum in another order. ``upsample_first: true`` is the order of the paper, at three times the cost.
"""

from collections.abc import Sequence

from torch import nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.models.segformer import MLPDecoder


@register_head("segformer")
class SegFormerHead(Head):
    """The MLP decoder on all four maps, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels to which each map is projected, and of the embedding; the paper has 256 for B0 and B1, 768
            from B2 on.
        upsample_first: enlarge before fusing, in the order of the paper; same scores, more time and memory.
        dropout: share of the embedding's channels dropped in training.
    """

    in_strides, out_stride = (4, 8, 16, 32), 4
    when = "As in the SegFormer paper, on transformer backbones, which can look around by themselves."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 256,
        upsample_first: bool = False,
        dropout: Probability = 0.1,
    ):
        super().__init__()
        self.decoder = MLPDecoder(channels, proj_dim, dropout, upsample_first=upsample_first)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c1's stride."""
        embedding = self.decoder(features.maps)  # (B, E, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)
