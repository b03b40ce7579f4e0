"""The plain head: one convolution, one classifier, on the coarsest map.

After the head that torchvision and others put on a dilated ResNet under the name FCN. It is not the network of Long et
al. 2015 (`segtutor.models.fcn`): no skips, no learned upsampling.
"""

from dataclasses import dataclass

from torch import nn

from segtutor.factory.backbones import Features
from segtutor.factory.heads import HeadOutput, register_head
from segtutor.layers import conv_norm_relu


@dataclass(frozen=True)
class FCNHeadConfig:
    """Settings of ``type: fcn``.

    Attributes:
        type: "fcn".
        proj_dim: channels of the embedding; by default a quarter of c4's.
        dropout: share of the embedding's activations dropped in training.
    """

    type: str = "fcn"
    proj_dim: int | None = None
    dropout: float = 0.1


@register_head("fcn", FCNHeadConfig)
class FCNHead(nn.Module):
    """3x3 convolution, batch normalisation, ReLU, dropout, 1x1 classifier, all on c4.

    Attributes:
        in_strides: nominal strides of the maps that it reads.
    """

    in_strides = (32,)

    def __init__(self, config: FCNHeadConfig, channels: tuple[int, ...], num_classes: int):
        super().__init__()
        proj_dim = channels[3] // 4 if config.proj_dim is None else config.proj_dim
        self.project = conv_norm_relu(channels[3], proj_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c4's stride."""
        embedding = self.dropout(self.project(features.c4))  # (B, E, H/32, W/32)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/32, W/32)
