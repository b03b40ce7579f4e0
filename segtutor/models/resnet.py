r"""ResNet-18 to ResNet-152, the classification backbone of PSPNet, the later DeepLabs and most production networks.

**Paper.** He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, arXiv 1512.03385. Read
Section 3.2 (a block learns what to add to its input), Figure 5 (the two kinds of block) and Table 1 (the five depths).

**Departures ledger**

* The average pool and the classifier are left out: the backbone returns feature maps.
* The stride of a bottleneck sits on its 3x3 convolution, as in torchvision ("ResNet v1.5"); the paper puts it on the
  first 1x1, which never looks at three of every four positions. Parameters are the same.
* ``output_stride`` 16 or 8 replaces the last strides by dilation (Yu et al. 2017, arXiv 1705.09914, and DeepLab). The
  convolution that loses its stride still reads the map of the stage before, so torchvision and timm leave it that
  stage's dilation (``first_dilation="previous"``, the default); PSPNet's released code gives it the new one
  (``first_dilation="new"``). Parameters are the same, the function is not.

**Shapes.** images (B, in_channels, H, W) to [conv2_x, conv3_x, conv4_x, conv5_x], at 1/4, 1/8, 1/16 and 1/32 of the
input's sides, rounded up (no smaller than 1/output_stride).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import BatchNorm2d


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or a projection where the shape changes (option B of Section 3.3)."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(projection, BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity around them (Figure 5, left): (B, in, h, w) to (B, width, h/s, w/s)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        first, dilation = dilations
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, first, first, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.shortcut = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, width, h/stride, w/stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))  # (B, width, h/s, w/s)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """Narrow by a 1x1, 3x3, widen by a 1x1 (Figure 5, right): (B, in, h, w) to (B, 4 width, h/s, w/s)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        dilation = dilations[0]  # one 3x3 per block, and it is the one that may stride
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = BatchNorm2d(4 * width)
        self.shortcut = shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, 4 width, h/stride, w/stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))  # (B, width, h, w)
        residual = F.relu(self.bn2(self.conv2(residual)))  # (B, width, h/s, w/s)
        residual = self.bn3(self.conv3(residual))  # (B, 4 width, h/s, w/s)
        return F.relu(residual + self.shortcut(x), inplace=True)


def residual_stage(
    block: type[BasicBlock | Bottleneck],
    in_channels: int,
    width: int,
    blocks: int,
    stride: int,
    first_dilation: int,
    dilation: int,
) -> nn.Sequential:
    """``blocks`` blocks at one resolution: (B, in_channels, h, w) to (B, width * expansion, h/stride, w/stride)."""
    first = block(in_channels, width, stride, (first_dilation, dilation))
    rest = [block(width * block.expansion, width, 1, (dilation, dilation)) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def stage_plan(output_stride: int, first_dilation: str) -> list[tuple[int, int, int]]:
    """(stride, dilation of the convolution that strides, dilation after it) of conv2_x .. conv5_x."""
    plan, reached, dilation = [(1, 1, 1)], 4, 1
    for _ in range(3):
        previous = dilation
        stride = 2 if reached < output_stride else 1
        # A stride that is left out halves the reach of every later kernel; doubling the dilation restores it.
        reached, dilation = reached * stride, dilation * 2 // stride
        plan.append((stride, previous if first_dilation == "previous" else dilation, dilation))
    return plan


def he_init(network: nn.Module) -> None:
    """He et al. 2015 (arXiv 1502.01852), as the paper's Section 3.4 asks; fan-out, as torchvision does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {  # Table 1: blocks in conv2_x .. conv5_x
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """The convolutional part of a residual network.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the images.
        widths: base widths of conv2_x .. conv5_x; a bottleneck's output has four times as many channels.
        output_stride: 32 as in the paper; 16 or 8 dilate instead of striding.
        first_dilation: dilation where a stage's stride was, "previous" or "new" (see the ledger).

    Attributes:
        channels: channels of the four maps that the network returns.

    Raises:
        ValueError: an unknown depth, output stride or first_dilation.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        in_channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        output_stride: int = 32,
        first_dilation: str = "previous",
    ):
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth is {depth}; ResNet comes in {', '.join(map(str, DEPTHS))}.")
        if output_stride not in (32, 16, 8):
            raise ValueError(f"output_stride is {output_stride}; ResNet can keep 32, 16 or 8.")
        if first_dilation not in ("previous", "new"):
            raise ValueError(f'first_dilation is "{first_dilation}"; choose "previous" or "new".')
        self.depth = depth
        block, blocks = DEPTHS[depth]
        self.channels = tuple(width * block.expansion for width in widths)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = (widths[0], *self.channels)
        plan = stage_plan(output_stride, first_dilation)
        self.conv2_x = residual_stage(block, inputs[0], widths[0], blocks[0], *plan[0])
        self.conv3_x = residual_stage(block, inputs[1], widths[1], blocks[1], *plan[1])
        self.conv4_x = residual_stage(block, inputs[2], widths[2], blocks[2], *plan[2])
        self.conv5_x = residual_stage(block, inputs[3], widths[3], blocks[3], *plan[3])
        he_init(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in_channels, H, W) to [conv2_x, conv3_x, conv4_x, conv5_x]; channels as for a bottleneck."""
        x = F.relu(self.bn1(self.conv1(images)))  # (B, 64, H/2, W/2)
        conv2_x = self.conv2_x(self.maxpool(x))  # (B, 256, H/4, W/4)
        conv3_x = self.conv3_x(conv2_x)  # (B, 512, H/8, W/8)
        conv4_x = self.conv4_x(conv3_x)  # (B, 1024, H/16, W/16)
        conv5_x = self.conv5_x(conv4_x)  # (B, 2048, H/32, W/32)
        return [conv2_x, conv3_x, conv4_x, conv5_x]


PRESETS: dict[str, dict[str, Any]] = {
    "resnet18": {"depth": 18},
    "resnet34": {"depth": 34},
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnet152": {"depth": 152},
    "narrow": {"depth": 18, "widths": (16, 24, 48, 96)},
    "tiny": {"depth": 18, "widths": (16, 24, 32, 48)},
}
