"""UPerNet: pyramid pooling on c4, a feature pyramid down to c1, all levels fused at stride 4.

After Xiao et al. 2018 (arXiv 1807.10221); the decoder is `segtutor.models.upernet.UPerNetDecoder`.

**When to use it.** As the strong, heavy head with which Swin, ConvNeXt and most backbones since are compared. Its 3x3
convolutions at stride 4 cost more than many a backbone; narrow it by ``proj_dim`` when that is not wanted.

It differs from the paper as the decoder's ledger says; as elsewhere, dropout stands before the classifier.
"""

from collections.abc import Sequence

from torch import nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.models.upernet import UPerNetDecoder


@register_head("uper")
class UPerHead(Head):
    """UPerNet's decoder on all four maps, dropout, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of every level and of the embedding.
        bins: sides of the grids of regions over which c4 is averaged.
        dropout: share of the embedding's channels dropped in training.
    """

    in_strides, out_stride = (4, 8, 16, 32), 4
    when = "The heavy standard for comparisons, as in the papers of Swin and ConvNeXt."

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
        self.decoder = UPerNetDecoder(channels, proj_dim, bins)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c1's stride."""
        embedding = self.dropout(self.decoder(features.maps))  # (B, E, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)
