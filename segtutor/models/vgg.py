r"""VGG-16, the classification backbone of FCN, SegNet and the first two DeepLabs.

**Paper.** Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015,
arXiv 1409.1556. Read Section 2.1 (why only 3x3 kernels: two of them see 5x5 pixels, three see 7x7, with fewer weights
and more non-linearities) and Table 1, column D (this network).

**Departures ledger**

* The three fully connected layers are left to whoever uses the backbone: a segmentation network replaces them.
* Weights start at He's initialisation (arXiv 1502.01852). The paper trained shallow networks first and grew them.
* Pools round up, as in Caffe, in which the paper's weights were trained; torchvision rounds down. The two agree
  wherever both sides are divisible by 32.
* ``batch_norm`` puts a batch normalisation after each convolution, as torchvision's ``vgg16_bn`` does. The paper has
  none.
* ``output_stride`` below 32 turns the last pools into 3x3 pools of stride 1 and dilates the convolutions after them,
  as DeepLab does (arXiv 1412.7062, Section 3.1).

**Shapes.** images (B, in_channels, H, W) to five maps, the outputs of pool1 .. pool5, at 1/2, 1/4, 1/8, 1/16 and 1/32
of the input's sides, rounded up.
"""

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

from segtutor.layers import BatchNorm2d

DEPTHS = (2, 2, 3, 3, 3)  # convolutions before each pool (Table 1, column D)


def vgg_stage(
    stage: int, in_channels: int, out_channels: int, *, batch_norm: bool = False, dilation: int = 1
) -> nn.Sequential:
    """The convolutions between two pools, named as in the paper: conv3_1, conv3_2, ...

    Args:
        stage: 1 to 5; decides how many convolutions there are.
        in_channels: channels of the incoming map (B, in_channels, h, w).
        out_channels: channels of the outgoing map (B, out_channels, h, w).
        batch_norm: normalise after each convolution.
        dilation: spacing of the kernel's taps.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, DEPTHS[stage - 1] + 1):
        layers[f"conv{stage}_{i}"] = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        if batch_norm:
            layers[f"bn{stage}_{i}"] = BatchNorm2d(out_channels)
        layers[f"relu{stage}_{i}"] = nn.ReLU()
        in_channels = out_channels
    return nn.Sequential(layers)


def vgg_pool(stride: int) -> nn.MaxPool2d:
    """Halve the map (stride 2), or keep its size (stride 1: a 3x3 window, so that it stays centred)."""
    if stride == 1:
        return nn.MaxPool2d(3, stride=1, padding=1)
    return nn.MaxPool2d(2, stride=2, ceil_mode=True)


def he_init(module: nn.Module) -> None:
    """Keep the signal's variance through ReLU layers (He et al. 2015, arXiv 1502.01852, Section 2.2)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class VGG16(nn.Module):
    """The thirteen convolutions and five pools of VGG-16.

    Args:
        in_channels: channels of the images.
        widths: channels of the five stages.
        batch_norm: normalise after each convolution.
        output_stride: 32 as in the paper; 16 or 8 keep the map larger and dilate instead.

    Raises:
        ValueError: an output stride other than 32, 16, 8, or not five widths.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        batch_norm: bool = False,
        output_stride: int = 32,
    ):
        super().__init__()
        if output_stride not in (32, 16, 8):
            raise ValueError(f"output_stride is {output_stride}; VGG16 can keep 32, 16 or 8.")
        if len(widths) != 5:
            raise ValueError(f"widths has {len(widths)} entries; VGG16 has 5 stages and needs one width for each.")
        self.widths = tuple(widths)
        channels, stride, dilation = in_channels, 1, 1
        for stage, width in enumerate(widths, start=1):
            convolutions = vgg_stage(stage, channels, width, batch_norm=batch_norm, dilation=dilation)
            self.add_module(f"stage{stage}", convolutions)
            step = 2 if stride < output_stride else 1
            self.add_module(f"pool{stage}", vgg_pool(step))
            # A pool that no longer halves the map leaves later kernels seeing half as far: double their reach.
            channels, stride, dilation = width, stride * step, dilation * 2 // step
        he_init(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in_channels, H, W) to [pool1, ..., pool5]."""
        pool1 = self.pool1(self.stage1(images))  # (B, 64, H/2, W/2)
        pool2 = self.pool2(self.stage2(pool1))  # (B, 128, H/4, W/4)
        pool3 = self.pool3(self.stage3(pool2))  # (B, 256, H/8, W/8)
        pool4 = self.pool4(self.stage4(pool3))  # (B, 512, H/16, W/16)
        pool5 = self.pool5(self.stage5(pool4))  # (B, 512, H/32, W/32)
        return [pool1, pool2, pool3, pool4, pool5]


PRESETS: dict[str, dict[str, Any]] = {
    "vgg16": {},
    "vgg16_bn": {"batch_norm": True},
    "tiny": {"widths": (16, 24, 32, 48, 48)},
}
