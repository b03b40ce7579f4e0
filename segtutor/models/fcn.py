r"""FCN-32s, FCN-16s and FCN-8s: a classifier turned into a network that scores every pixel.

**Paper.** Long, Shelhamer and Darrell, *Fully Convolutional Networks for Semantic Segmentation*, CVPR 2015,
arXiv 1411.4038; extended as Shelhamer, Long and Darrell, PAMI 2017, arXiv 1605.06211. Read Section 3.1 (a fully
connected layer is a convolution whose kernel covers the whole map), Section 3.3 (upsampling is a transposed
convolution) and Section 4.2 with Figure 3 (skips from pool4 and pool3 refine the coarse scores).

**Departures ledger**

* ``padding="same"`` (the default) pads every convolution by half its kernel. The paper, and ``padding="paper"``,
  pad conv1_1 by 100 pixels and fc6 by none, and crop at the offsets of the released networks (5, 9 and 19 / 27 / 31).
  The parameters are the same; padding by 100 makes the backbone's work about (H + 198)(W + 198) / HW times larger.
* The backbone starts at He's initialisation. The paper starts from ImageNet weights, as
  `segtutor.weights.load_pretrained` does.
* ``score_init="he"`` exists for narrow networks trained from scratch; the paper starts the score layers at zero.
* All upsampling kernels are trained. The paper fixed the last one; the released networks froze them all, and their
  authors report no significant difference.
* ``scaled_skips=True`` scales pool4 by 0.01 and pool3 by 0.0001, with which the released FCN-8s trains in one run
  instead of three (16s from 32s, 8s from 16s).

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import bilinear_kernel, check_images, check_num_classes, crop
from segtutor.models.vgg import VGG16, he_init


def score_layer(in_channels: int, num_classes: int, init: str) -> nn.Conv2d:
    """A 1x1 convolution from features (B, in_channels, h, w) to class scores (B, num_classes, h, w)."""
    score = nn.Conv2d(in_channels, num_classes, 1)
    if init == "zeros":
        # Zero scores for the new layer: the pretrained features are not disturbed by the gradients of a random one.
        for parameter in score.parameters():
            nn.init.zeros_(parameter)
    else:
        he_init(score)
    return score


def upscore_layer(num_classes: int, stride: int, padding: int) -> nn.ConvTranspose2d:
    """A transposed convolution that starts as bilinear interpolation by ``stride`` and may learn to mix classes."""
    upscore = nn.ConvTranspose2d(num_classes, num_classes, 2 * stride, stride, padding, bias=False)
    nn.init.zeros_(upscore.weight)
    with torch.no_grad():
        classes = torch.arange(num_classes)
        upscore.weight[classes, classes] = bilinear_kernel(2 * stride)
    return upscore


def fuse(upscore: Tensor, score_pool: Tensor, offset: int) -> Tensor:
    """Add the finer scores, from ``offset`` on, to the upsampled coarser ones, where both exist."""
    # Without an offset the coarser map is the larger one, for pools round up; with it, fc6 has cost it more than that.
    size = (upscore if offset else score_pool).shape[2:]
    return crop(upscore, size) + crop(score_pool, size, offset)


class FCN(nn.Module):
    """What the three networks share: VGG-16, its classifier as convolutions, and the coarse scores.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        padding: "same" or "paper" (see the ledger).
        widths: channels of the five VGG stages.
        hidden: channels of fc6 and fc7.
        dropout: share of fc6's and fc7's activations dropped in training.
        score_init: "zeros" (paper) or "he".
        scaled_skips: scale the skips for training in one run; FCN-32s has no skips to scale.

    Raises:
        ValueError: no classes, or an unknown padding or score_init.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        padding: str = "same",
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        hidden: int = 4096,
        dropout: float = 0.5,
        score_init: str = "zeros",
        scaled_skips: bool = False,
    ):
        super().__init__()
        check_num_classes(num_classes)
        if padding not in ("same", "paper"):
            raise ValueError(f'padding is "{padding}"; choose "same" or "paper".')
        if score_init not in ("zeros", "he"):
            raise ValueError(f'score_init is "{score_init}"; choose "zeros" or "he".')
        self.in_channels, self.paper = in_channels, padding == "paper"
        self.scale_pool4, self.scale_pool3 = (0.01, 0.0001) if scaled_skips else (1.0, 1.0)
        self.backbone = VGG16(in_channels=in_channels, widths=widths)
        self.fc6 = nn.Conv2d(widths[4], hidden, 7, padding=0 if self.paper else 3)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        he_init(self.fc6)
        he_init(self.fc7)
        self.dropout = nn.Dropout(dropout)
        self.score_fr = score_layer(hidden, num_classes, score_init)
        self.add_upsampling(num_classes, score_init)

    def add_upsampling(self, num_classes: int, score_init: str) -> None:
        """Where the three differ: the layers between the coarse scores and those of the pixels."""
        raise NotImplementedError

    def upscore(self, num_classes: int, stride: int) -> nn.ConvTranspose2d:
        """The paper pads nothing and crops later; "same" trims the half stride that sticks out on each side."""
        return upscore_layer(num_classes, stride, padding=0 if self.paper else stride // 2)

    def classify(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, in_channels, H, W) to pool3, pool4 and fc7, the last 4096-channel map of the classifier."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        if self.paper:
            images = F.pad(images, [99] * 4)  # (B, 3, H+198, W+198); conv1_1 itself pads the hundredth pixel
        _, _, pool3, pool4, pool5 = self.backbone(images)
        fc6 = self.dropout(F.relu(self.fc6(pool5)))  # (B, 4096, H/32, W/32), on "paper" 6 less than pool5
        fc7 = self.dropout(F.relu(self.fc7(fc6)))
        return pool3, pool4, fc7


class FCN32s(FCN):
    """One upsampling by 32, straight from the coarse scores."""

    def add_upsampling(self, num_classes: int, score_init: str) -> None:
        self.upscore32 = self.upscore(num_classes, 32)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        _, _, fc7 = self.classify(images)
        score = self.score_fr(fc7)  # (B, C, H/32, W/32)
        return crop(self.upscore32(score), images.shape[2:], 19 if self.paper else 0)  # (B, C, H, W)


class FCN16s(FCN):
    """The coarse scores, refined once by pool4, then upsampled by 16."""

    def add_upsampling(self, num_classes: int, score_init: str) -> None:
        self.upscore2 = self.upscore(num_classes, 2)
        self.score_pool4 = score_layer(self.backbone.widths[3], num_classes, score_init)
        self.upscore16 = self.upscore(num_classes, 16)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        _, pool4, fc7 = self.classify(images)
        score = self.score_fr(fc7)  # (B, C, H/32, W/32)
        score_pool4 = self.score_pool4(self.scale_pool4 * pool4)  # (B, C, H/16, W/16)
        score = fuse(self.upscore2(score), score_pool4, 5 if self.paper else 0)  # (B, C, H/16, W/16)
        return crop(self.upscore16(score), images.shape[2:], 27 if self.paper else 0)  # (B, C, H, W)


class FCN8s(FCN):
    """The coarse scores, refined by pool4 and then by pool3, then upsampled by 8."""

    def add_upsampling(self, num_classes: int, score_init: str) -> None:
        self.upscore2 = self.upscore(num_classes, 2)
        self.score_pool4 = score_layer(self.backbone.widths[3], num_classes, score_init)
        self.upscore_pool4 = self.upscore(num_classes, 2)
        self.score_pool3 = score_layer(self.backbone.widths[2], num_classes, score_init)
        self.upscore8 = self.upscore(num_classes, 8)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        pool3, pool4, fc7 = self.classify(images)
        score = self.score_fr(fc7)  # (B, C, H/32, W/32)
        score_pool4 = self.score_pool4(self.scale_pool4 * pool4)  # (B, C, H/16, W/16)
        score = fuse(self.upscore2(score), score_pool4, 5 if self.paper else 0)  # (B, C, H/16, W/16)
        score_pool3 = self.score_pool3(self.scale_pool3 * pool3)  # (B, C, H/8, W/8)
        score = fuse(self.upscore_pool4(score), score_pool3, 9 if self.paper else 0)  # (B, C, H/8, W/8)
        return crop(self.upscore8(score), images.shape[2:], 31 if self.paper else 0)  # (B, C, H, W)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"padding": "paper"},
    "all_at_once": {"padding": "paper", "scaled_skips": True},
    "tiny": {"widths": (16, 24, 32, 48, 48), "hidden": 96, "dropout": 0.1, "score_init": "he"},
}
