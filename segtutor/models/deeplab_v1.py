r"""DeepLab v1: VGG-16 that stops shrinking at 1/8, because its later kernels are spread by holes instead.

**Paper.** Chen, Papandreou, Kokkinos, Murphy and Yuille, *Semantic Image Segmentation with Deep Convolutional Nets and
Fully Connected CRFs*, ICLR 2015, arXiv 1412.7062. Read Section 3.1 (the "hole algorithm": strides of the last two pools
are left out and the kernels after them dilated), Section 3.2 (fc6 made small in taps and channels, its field of view
set by the rate alone) and Section 4 (the CRF, here in ``dense_crf.py``).

**Departures ledger**

* Logits are resized bilinearly to the images and trained at full size. The paper trains on scores at 1/8 against labels
  subsampled by 8, and enlarges only to predict; ``score`` returns those scores.
* Pools 1 to 3 are 2x2 and round up; the released network's are 3x3 with a padding of 1. The sides of the maps agree.
* The backbone starts at He's initialisation. The paper starts from ImageNet weights: `segtutor.weights.load_pretrained`
  copies fc6 and fc7 too, decimated where the kernel or the channels are fewer than VGG-16's 7x7 and 4096.
* fc6 pads by half its reach, ``rate * (kernel - 1) / 2``, so that the map keeps its size. A 4x4 kernel manages that at
  an even rate, without a tap at its centre; an odd one would shift the map by half a position and is refused.
* The multi-scale branches of the paper's "MSc" rows are left out.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import check_images, check_num_classes, resize
from segtutor.models.vgg import VGG16, he_init


def atrous_conv(in_channels: int, out_channels: int, kernel: int, rate: int) -> nn.Conv2d:
    """A convolution whose taps stand ``rate`` positions apart: (B, in, h, w) to (B, out, h, w), the same size.

    Raises:
        ValueError: kernel and rate whose reach cannot be centred (an even kernel at an odd rate).
    """
    reach = rate * (kernel - 1)
    if reach % 2:
        raise ValueError(f"a {kernel}x{kernel} kernel at rate {rate} has no centre: choose an odd kernel or even rate.")
    return nn.Conv2d(in_channels, out_channels, kernel, padding=reach // 2, dilation=rate)


class DeepLabV1(nn.Module):
    """VGG-16 at output stride 8, then fc6 as one atrous convolution, fc7 and the scores.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        widths: channels of the five VGG stages.
        kernel: side of fc6's kernel, in taps.
        rate: distance between fc6's taps, in positions of the 1/8 map.
        hidden: channels of fc6 and fc7.
        dropout: share of fc6's and fc7's activations dropped in training.

    Raises:
        ValueError: no classes, or an even kernel at an odd rate.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        kernel: int = 3,
        rate: int = 12,
        hidden: int = 1024,
        dropout: float = 0.5,
    ):
        super().__init__()
        check_num_classes(num_classes)
        self.in_channels = in_channels
        self.backbone = VGG16(in_channels=in_channels, widths=widths, output_stride=8)
        self.fc6 = atrous_conv(widths[4], hidden, kernel, rate)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.fc8 = nn.Conv2d(hidden, num_classes, 1)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.fc6, self.fc7, self.fc8):
            he_init(layer)

    def score(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to scores (B, num_classes, H/8, W/8), before they are enlarged."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        pool5 = self.backbone(images)[-1]  # (B, 512, H/8, W/8)
        fc6 = self.dropout(F.relu(self.fc6(pool5)))  # (B, 1024, H/8, W/8)
        fc7 = self.dropout(F.relu(self.fc7(fc6)))
        return self.fc8(fc7)  # (B, C, H/8, W/8)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        return resize(self.score(images), images.shape[2:])  # (B, C, H, W)


PRESETS: dict[str, dict[str, Any]] = {
    "largefov": {},
    "7x7": {"kernel": 7, "rate": 4, "hidden": 4096},
    "4x4": {"kernel": 4, "rate": 8, "hidden": 4096},
    "deeplab": {"kernel": 4, "rate": 4, "hidden": 4096},
    # On a map of 12x16, rate 12 would leave eight of the nine taps outside; 4 reaches as far, in shares of the map.
    "tiny": {"widths": (16, 24, 32, 48, 48), "hidden": 96, "rate": 4, "dropout": 0.1},
}
