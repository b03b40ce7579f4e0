r"""PSPNet: every position gets summaries of the whole image beside its own features.

**Paper.** Zhao, Shi, Qi, Wang and Jia, *Pyramid Scene Parsing Network*, CVPR 2017, arXiv 1612.01105. Read Section 3.1
(what goes wrong without context), Section 3.2 with Figure 3 (the pyramid pooling module) and Section 3.3 with Figure 4
(the auxiliary loss).

**Departures ledger**

* ``align_corners=False`` wherever a map is enlarged. The authors' code uses True, for which its inputs are 8k + 1
  pixels wide: only then do the corners of map and image coincide. Here any side from 32 on works.
* The backbone has torchvision's stem, one 7x7 convolution. The authors' code has three 3x3 ones (64, 64, 128 channels):
  123,776 parameters more.
* ``first_dilation="new"`` dilates every 3x3 of conv4_x by 2 and of conv5_x by 4, as the authors' code does;
  ``"previous"`` is what torchvision and timm do with the convolution that lost its stride (see the ResNet's ledger).
* A single training image is normalised on the 1x1 map by running statistics (`segtutor.layers.BatchNorm2d`); PyTorch
  raises there, and so does the authors' code.
* ``bins=()`` leaves the pyramid out: the dilated FCN that the paper's ablation starts from.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from typing import Any

import torch
from torch import Tensor, nn

from segtutor.layers import check_auxiliary, check_images, check_num_classes, conv_norm_relu, region_means, resize
from segtutor.models.resnet import ResNet


class PyramidPooling(nn.Module):
    """Average the map over 1, 4, 9 and 36 regions, and lay these summaries beside every position (Figure 3, c).

    Args:
        in_channels: channels of the incoming map.
        channels: channels of each summary.
        bins: sides of the grids of regions; 1 is the mean of the whole map.

    Attributes:
        out_channels: channels that come out, ``in_channels + len(bins) * channels``.
    """

    def __init__(self, in_channels: int, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)):
        super().__init__()
        self.bins = tuple(bins)
        self.out_channels = in_channels + len(self.bins) * channels
        self.levels = nn.ModuleList(conv_norm_relu(in_channels, channels, kernel=1) for _ in self.bins)

    def summaries(self, x: Tensor) -> list[Tensor]:
        """x (B, in_channels, h, w) to one map (B, channels, h, w) for each bin, in the order of ``bins``."""
        maps = []
        for side, level in zip(self.bins, self.levels, strict=True):
            pooled = region_means(x, side)  # (B, 2048, side, side)
            # Narrowed before it is enlarged: the 1x1 convolution then works on at most 36 positions.
            maps.append(resize(level(pooled), x.shape[2:]))  # (B, 512, h, w)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, out_channels, h, w): x itself first, then the summaries."""
        return torch.cat([x, *self.summaries(x)], dim=1)  # (B, 4096, h, w)


def scoring_head(in_channels: int, channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """3x3 convolution, dropout of whole channels, 1x1 to scores: (B, in_channels, h, w) to (B, num_classes, h, w)."""
    return nn.Sequential(
        conv_norm_relu(in_channels, channels),
        # Neighbouring values of a map are alike: only dropping the whole channel takes something away.
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, num_classes, 1),
    )


class PSPNet(nn.Module):
    """A ResNet dilated to 1/8, pyramid pooling on its last map, and one enlargement by 8.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        auxiliary: add the training-time head on conv4_x, whose scores ``model(images, auxiliary=True)`` returns too.
        first_dilation: dilation where a stage's stride was, "new" or "previous" (see the ledger).
        widths: base widths of conv2_x .. conv5_x. The summaries together are as wide as conv5_x, and the fusing
            convolution is a quarter of that.
        bins: sides of the pyramid's grids; () for no pyramid.
        dropout: share of the channels dropped before each classifier in training.

    Raises:
        ValueError: no classes, or an unknown depth or first_dilation.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        depth: int = 50,
        auxiliary: bool = False,
        first_dilation: str = "new",
        widths: tuple[int, ...] = (64, 128, 256, 512),
        bins: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ):
        super().__init__()
        check_num_classes(num_classes)
        self.in_channels = in_channels
        self.backbone = ResNet(
            depth, in_channels=in_channels, widths=widths, output_stride=8, first_dilation=first_dilation
        )
        *_, conv4, conv5 = self.backbone.channels
        self.pyramid = PyramidPooling(conv5, conv5 // max(1, len(bins)), bins)
        self.head = scoring_head(self.pyramid.out_channels, conv5 // 4, num_classes, dropout)
        self.auxiliary = scoring_head(conv4, conv4 // 4, num_classes, dropout) if auxiliary else None

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W).

        Args:
            images: to score.
            auxiliary: return ``(logits, auxiliary_logits)``, both (B, num_classes, H, W), as training needs them.

        Raises:
            ValueError: auxiliary logits of a model that was built without an auxiliary head.
        """
        check_images(images, self.in_channels, next(self.parameters(), None))
        check_auxiliary(auxiliary, self.auxiliary)
        *_, conv4_x, conv5_x = self.backbone(images)  # (B, 1024, H/8, W/8), (B, 2048, H/8, W/8)
        score = self.head(self.pyramid(conv5_x))  # (B, C, H/8, W/8)
        logits = resize(score, images.shape[2:])  # (B, C, H, W)
        if self.auxiliary is None or not auxiliary:
            return logits
        return logits, resize(self.auxiliary(conv4_x), images.shape[2:])  # (B, C, H, W) twice


PRESETS: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "resnet101": {"depth": 101},
    "tiny": {"depth": 18, "widths": (16, 32, 64, 128)},
}
