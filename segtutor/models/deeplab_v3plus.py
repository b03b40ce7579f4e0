r"""DeepLab v3+: DeepLab v3 reads the image, a small decoder draws the borders from stride-4 features.

**Paper.** Chen, Zhu, Papandreou, Schroff and Adam, *Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation*, ECCV 2018, arXiv 1802.02611. Read Section 3.1 with Figure 2 (the decoder), Figure 3 (depthwise,
pointwise and atrous depthwise convolution) and Section 4.1 (why 48 channels, and two 3x3 convolutions).

**Departures ledger**

* ``align_corners=False`` wherever a map is enlarged. The authors' code and smp use True.
* The backbone is a ResNet, one of the paper's two; the modified Xception is left out. It normalises and rectifies after
  each depthwise convolution too, and the authors' code does so in ASPP and decoder; smp and this file do not.
* Backbone, ASPP and multi-grid are those of `segtutor.models.deeplab_v3`, with its ledger.
* smp puts one more separable 3x3 between ASPP and the upsampling, and only one after the concatenation; its rates are
  12, 24, 36 even at output stride 16. Here as in the paper: none, two, and 6, 12, 18.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.layers import BatchNorm2d, check_images, check_num_classes, conv_norm_relu, resize
from segtutor.models.deeplab_v3 import ASPP, atrous_backbone


def separable_conv_norm_relu(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Atrous separable convolution (Figure 3 c): each channel by a 3x3 of its own, then mixed by a 1x1.

    Maps (B, in_channels, h, w) to (B, out_channels, h, w) with 9 in + in out weights, where a 3x3 has 9 in out.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Decoder(nn.Module):
    """Join what ASPP knows to where conv2_x saw it (Figure 2).

    Args:
        low_level: channels of conv2_x.
        channels: channels of ASPP's map, and of the result.
        reduced: channels to which conv2_x is reduced before the two meet.
        convolution: makes a 3x3 convolution, called as ``convolution(in_channels, out_channels)``.
    """

    def __init__(self, low_level: int, channels: int, reduced: int, convolution: Callable[..., nn.Module]):
        super().__init__()
        # 256 channels of edges and colours would drown ASPP's 256 channels of meaning, and are harder to train.
        self.project = conv_norm_relu(low_level, reduced, kernel=1)
        self.refine = nn.Sequential(convolution(channels + reduced, channels), convolution(channels, channels))

    def forward(self, aspp: Tensor, conv2_x: Tensor) -> Tensor:
        """aspp (B, 256, H/16, W/16) and conv2_x (B, 256, H/4, W/4) to (B, 256, H/4, W/4)."""
        low_level = self.project(conv2_x)  # (B, 48, H/4, W/4)
        aspp = resize(aspp, low_level.shape[2:])  # (B, 256, H/4, W/4)
        return self.refine(torch.cat([aspp, low_level], dim=1))  # (B, 304, H/4, W/4) to (B, 256, H/4, W/4)


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 as the encoder, a decoder at 1/4, one enlargement by 4.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        backbone: a preset of `segtutor.models.resnet`: "resnet50", "resnet101", ..., "tiny".
        output_stride: of the encoder, 16 or 8.
        multi_grid: factors on the rate of conv5_x's units; None leaves them as torchvision has them.
        rates: of ASPP at output stride 16; at 8 they are doubled.
        separable: make the 3x3 convolutions of ASPP and decoder depthwise separable.
        low_level_channels: channels to which conv2_x is reduced.

    Raises:
        ValueError: no classes, or an unknown backbone, output stride or multi-grid.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        backbone: str = "resnet50",
        output_stride: int = 16,
        multi_grid: tuple[int, ...] | None = (1, 2, 4),
        rates: tuple[int, ...] = (6, 12, 18),
        separable: bool = False,
        low_level_channels: int = 48,
    ):
        super().__init__()
        check_num_classes(num_classes)
        self.in_channels = in_channels
        self.backbone = atrous_backbone(backbone, in_channels, output_stride, multi_grid)
        conv2, *_, conv5 = self.backbone.channels
        convolution = separable_conv_norm_relu if separable else conv_norm_relu
        rates = tuple(16 // output_stride * rate for rate in rates)
        self.aspp = ASPP(conv5, min(256, conv5), rates, convolution=convolution)
        channels = self.aspp.out_channels
        self.decoder = Decoder(conv2, channels, low_level_channels, convolution)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        conv2_x, *_, conv5_x = self.backbone(images)  # (B, 256, H/4, W/4), (B, 2048, H/16, W/16)
        aspp = self.aspp(conv5_x)  # (B, 256, H/16, W/16)
        score = self.classifier(self.decoder(aspp, conv2_x))  # (B, C, H/4, W/4)
        return resize(score, images.shape[2:])  # (B, C, H, W)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "resnet101": {"backbone": "resnet101"},
    "separable": {"separable": True},
    "tiny": {"backbone": "narrow", "multi_grid": (1, 2), "rates": (1, 2, 3), "low_level_channels": 24},
}
