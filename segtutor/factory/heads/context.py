"""What `aspp`, `ksac` and `aspp_ocnet` share: a context module on c4, and DeepLab v3+'s decoder, which meets c1."""

from collections.abc import Callable

from torch import nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.heads.base import Head, HeadOutput
from segtutor.layers import conv_norm_relu
from segtutor.models.deeplab_v3plus import Decoder


def rates_at(stride: int, rates: tuple[int, ...] | None) -> tuple[int, ...]:
    """The rates asked for, or 6, 12 and 18 scaled so that they reach as many pixels as at output stride 16."""
    return tuple(max(1, 16 * rate // stride) for rate in (6, 12, 18)) if rates is None else tuple(rates)


class ContextHead(Head):
    """A context module on c4, its result at c1's size beside c1, two 3x3 convolutions, 1x1 classifier.

    Args:
        context: maps c4 to ``proj_dim`` channels.
        low_level: channels of c1.
        num_classes: classes to score.
        proj_dim: channels of the embedding.
        low_level_dim: channels to which c1 is reduced.
        convolution: makes the decoder's 3x3 convolutions.
    """

    in_strides, out_stride = (4, 32), 4

    def __init__(
        self,
        context: nn.Module,
        low_level: int,
        num_classes: int,
        proj_dim: int,
        low_level_dim: int,
        convolution: Callable[..., nn.Module] = conv_norm_relu,
    ):
        super().__init__()
        self.context = context
        self.decoder = Decoder(low_level, proj_dim, low_level_dim, convolution)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c1's stride."""
        context = self.context(features.c4)  # (B, E, H/16, W/16) where c4 is dilated to 16
        embedding = self.decoder(context, features.c1)  # (B, E, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)
