"""Joint pyramid upsampling: what a backbone dilated to stride 8 would see, made from one that is not.

After Wu, Zhang, Huang, Liang and Yu 2019 (arXiv 1903.11816), FastFCN with the plain head.

**When to use it.** In place of dilation: c4 in the manner of stride 8 for a fraction of the backbone's time and memory,
on backbones that cannot be dilated too. A dilated backbone is refused, because there is nothing left to stand in for.

**Differences from the paper**

* ``align_corners=False`` where maps are enlarged.
* The paper puts PSPNet's, DeepLab v3's or EncNet's head behind it; here it is the plain one, 3x3 and classifier.
* Logits have stride 4 like those of most heads here: the embedding is enlarged once more, which adds no detail.
  ``out_stride: 8`` is the paper's.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import ConfigError, Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.layers import BatchNorm2d, conv_norm_relu, resize


def separable(in_channels: int, out_channels: int, rate: int) -> nn.Sequential:
    """Atrous depthwise 3x3 and 1x1, each normalised: (B, in_channels, h, w) to (B, out_channels, h, w)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False),
        BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class JointPyramidUpsampling(nn.Module):
    """c2, c3, c4 to one map at c2's size, read at four rates (Figure 4).

    Args:
        channels: of c2, c3 and c4.
        width: channels of each map and of each rate.
        rates: dilations of the separable convolutions.

    Attributes:
        out_channels: channels that come out, ``width`` for each rate.
    """

    def __init__(self, channels: Sequence[int], width: int = 512, rates: tuple[int, ...] = (1, 2, 4, 8)):
        super().__init__()
        self.out_channels = len(rates) * width
        self.narrow = nn.ModuleList(conv_norm_relu(channel, width) for channel in channels)
        self.rates = nn.ModuleList(separable(len(channels) * width, width, rate) for rate in rates)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """c2, c3, c4 to (B, out_channels, H/8, W/8)."""
        narrow = [convolve(x) for convolve, x in zip(self.narrow, maps, strict=True)]  # (B, 512, h, w) each
        size = narrow[0].shape[2:]
        joint = torch.cat([resize(x, size) for x in narrow[:0:-1]] + narrow[:1], dim=1)  # (B, 1536, H/8, W/8)
        return torch.cat([rate(joint) for rate in self.rates], dim=1)  # (B, 2048, H/8, W/8)


@register_head("jpu")
class JPUHead(Head):
    """Joint pyramid upsampling of c2, c3 and c4, 3x3 convolution, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the pyramid's maps and of the embedding.
        out_stride: 4, or the paper's 8.
        dropout: share of the embedding's activations dropped in training.

    Raises:
        ConfigError: the backbone is dilated.
    """

    in_strides, out_stride = (8, 16, 32), 4
    when = "In place of dilation: a fine map from a backbone at stride 32, faster and in less memory than dilating it."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 512,
        out_stride: Literal[4, 8] = 4,
        dropout: Probability = 0.1,
    ):
        if tuple(strides[1:]) != (8, 16, 32):
            raise ConfigError(
                f"head.type: 'jpu' stands in for dilation, but the backbone's c4 is dilated to stride {strides[3]}: "
                "set backbone.output_stride to 32, or take the head 'aspp'."
            )
        super().__init__()
        self.out_stride = out_stride
        self.upsampling = JointPyramidUpsampling(channels[1:], proj_dim)
        self.project = conv_norm_relu(self.upsampling.out_channels, proj_dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at stride 4, or 8 where asked for."""
        joint = self.upsampling(features.maps[1:])  # (B, 2048, H/8, W/8)
        embedding = self.dropout(self.project(joint))  # (B, 512, H/8, W/8)
        if self.out_stride == 4:
            embedding = resize(embedding, features.c1.shape[2:])  # (B, 512, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)
