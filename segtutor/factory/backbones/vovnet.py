"""VoVNet, as its authors published it; timm's vovnet39a and vovnet57a lack the identity path.

**Paper.** Lee, Hwang, Lee, Bae and Park, *An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object
Detection*, CVPR Workshops 2019, arXiv 1904.09730. Read Section 3.2 with Figure 1 (one-shot aggregation) and Table 2.

**Departures ledger.** None from the authors' code (stigma0617/VoVNet.pytorch), but for the classifier, which is left
out. The identity path of later blocks stands in that code and not in the paper.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segtutor.layers import conv_norm_relu


@dataclass(frozen=True)
class Widths:
    """Four stages: channels of the 3x3 convolutions, channels of the maps, and number of blocks."""

    inner: tuple[int, ...]
    channels: tuple[int, ...]
    blocks: tuple[int, ...]


# By depth: every block has five 3x3 and one 1x1 convolution, and the stem three.
_WIDE = {"inner": (128, 160, 192, 224), "channels": (256, 512, 768, 1024)}
STAGES = {
    27: Widths(inner=(64, 80, 96, 112), channels=(128, 256, 384, 512), blocks=(1, 1, 1, 1)),
    39: Widths(**_WIDE, blocks=(1, 1, 2, 2)),
    57: Widths(**_WIDE, blocks=(1, 1, 4, 3)),
}


class OneShotAggregation(nn.Module):
    """A chain of convolutions whose every output is kept, and concatenated once, at the end.

    DenseNet concatenates before every layer, so each layer reads all maps again; here each reads one.

    Args:
        in_channels: channels of the incoming map.
        inner: channels of each convolution.
        out_channels: channels of the outgoing map.
        identity: add the incoming map to the outgoing one.
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int, identity: bool):
        super().__init__()
        self.convs = nn.ModuleList(conv_norm_relu(inner if i else in_channels, inner) for i in range(5))
        self.concat = conv_norm_relu(in_channels + 5 * inner, out_channels, kernel=1)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) to (B, out_channels, H, W)."""
        maps = [x]
        for conv in self.convs:
            maps.append(conv(maps[-1]))  # (B, inner, H, W)
        aggregated = self.concat(torch.cat(maps, dim=1))  # (B, out_channels, H, W)
        return aggregated + x if self.identity else aggregated


class VoVNet(nn.Module):
    """The backbone: ``VoVNet(**dataclasses.asdict(STAGES[39]))``.

    Args:
        in_channels: channels of the images.
        inner: channels of the convolutions in each stage's blocks.
        channels: of c1 .. c4.
        blocks: in each stage.

    Attributes:
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self, *, in_channels: int = 3, inner: tuple[int, ...], channels: tuple[int, ...], blocks: tuple[int, ...]
    ):
        super().__init__()
        self.channels = tuple(channels)
        self.stem = nn.Sequential(
            conv_norm_relu(in_channels, 64, stride=2), conv_norm_relu(64, 64), conv_norm_relu(64, 128, stride=2)
        )
        # Rounding up keeps a last odd row or column, which the pooling would drop.
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        before = (128, *channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(*(OneShotAggregation(width if i else c, inside, width, identity=i > 0) for i in range(count)))
            for c, inside, width, count in zip(before, inner, channels, blocks, strict=True)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in_channels, H, W) to c1 .. c4, (B, channels[i], ~H / strides[i], ~W / strides[i])."""
        x = self.stem(images)  # (B, 128, H/4, W/4)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(self.pool(x) if i else x)  # half the size from stage to stage
            maps.append(x)
        return maps
