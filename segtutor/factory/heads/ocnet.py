"""Object context by self-attention: each position gathers from all others, by how alike they are.

After Yuan, Huang, Guo, Zhang, Chen and Wang 2018 (arXiv 1809.00916), the form that its code calls base-OC.

**When to use it.** Where what a pixel is depends on things anywhere in the image, not only so many pixels away, and
images are small: the weights of N positions are N^2 numbers, if they are ever written down.

**Differences from the paper**

* The paper's c4 has stride 8. Where a backbone's is coarser, c4 is narrowed first and enlarged to 8 then: a 3x3 at 8
  on what was just enlarged costs sixteen times as much and sees nothing more.
* ReLU where the reference normalises in place with a leaky ReLU; no bias before a normalisation, which takes it away.
* Attention by PyTorch's fused kernel, which never writes the weights down; `SelfAttention.weights` does, for a look.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtutor.factory.backbones.registry import Features
from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import Head, HeadOutput, register_head
from segtutor.layers import attention, conv_norm_relu, resize, softmax_attention


class SelfAttention(nn.Module):
    """Each position's context: the values of all positions, weighted by how alike their keys are to its own.

    Args:
        in_channels: channels of the incoming map.
        key_channels: channels in which positions are compared.
        value_channels: channels that are gathered.
        out_channels: channels of the context.
    """

    def __init__(self, in_channels: int, key_channels: int, value_channels: int, out_channels: int):
        super().__init__()
        # Query and key are one: whether two positions belong together does not depend on which of them asks.
        self.key = conv_norm_relu(in_channels, key_channels, kernel=1)
        self.value = nn.Conv2d(in_channels, value_channels, 1)
        self.out = nn.Conv2d(value_channels, out_channels, 1)
        # Zero, so that training starts from the network without context and adds it where it helps.
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, in_channels, h, w) to keys (B, h w, key_channels) and values (B, h w, value_channels)."""
        return tuple(map_.flatten(2).transpose(1, 2) for map_ in (self.key(x), self.value(x)))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to the context (B, out_channels, h, w)."""
        keys, values = self.keys_values(x)
        gathered = attention(keys, keys, values)  # (B, h w, value_channels)
        return self.out(gathered.transpose(1, 2).unflatten(2, x.shape[2:]))

    def weights(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to what each position gives to each: (B, h w, h w), rows sum to 1."""
        keys, values = self.keys_values(x)
        return softmax_attention(keys, keys, values)[1]


@register_head("ocnet")
class OCNetHead(Head):
    """3x3 convolution on c4, at stride 8 its self-attention beside it, 1x1 convolution, 1x1 classifier.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the narrowed c4 and of the embedding.
        key_dim: channels of keys and values; None: half of ``proj_dim``.
        dropout: share of the embedding's channels dropped in training.
    """

    in_strides, out_stride = (32,), 8
    when = "Context from anywhere in the image, not at fixed distances; its cost grows with the square of the pixels."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 512,
        key_dim: Count | None = None,
        dropout: Probability = 0.05,
    ):
        super().__init__()
        key_dim = max(1, proj_dim // 2) if key_dim is None else key_dim
        self.dilated = strides[3] == strides[1]
        self.reduce = conv_norm_relu(channels[3], proj_dim)
        self.attention = SelfAttention(proj_dim, key_dim, key_dim, proj_dim)
        self.project = conv_norm_relu(2 * proj_dim, proj_dim, kernel=1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def reduced(self, features: Features) -> Tensor:
        """What attends to itself: c4 narrowed, at stride 8, (B, proj_dim, H/8, W/8)."""
        x = self.reduce(features.c4)  # (B, 512, H/32, W/32), or at 8 if dilated
        return x if self.dilated else resize(x, features.c2.shape[2:])  # (B, 512, H/8, W/8)

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at stride 8."""
        x = self.reduced(features)
        both = torch.cat([self.attention(x), x], dim=1)  # (B, 1024, H/8, W/8)
        embedding = self.dropout(self.project(both))  # (B, 512, H/8, W/8)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/8, W/8)
