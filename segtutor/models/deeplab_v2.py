r"""DeepLab v2: four atrous convolutions at different rates read the same map, and their scores are added.

**Paper.** Chen, Papandreou, Kokkinos, Murphy and Yuille, *DeepLab: Semantic Image Segmentation with Deep Convolutional
Nets, Atrous Convolution, and Fully Connected CRFs*, PAMI 2018, arXiv 1606.00915. Read Section 3.1 (atrous convolution
in place of pooling), Section 3.2 with Figure 4 (atrous spatial pyramid pooling, "ASPP") and Section 4.1.2 (the
ResNet-101 network).

**Departures ledger**

* The paper's first networks grow ASPP on VGG-16, four times fc6-fc7-fc8 ("ASPP-L", 37.9 million parameters). They are
  left out; this is the ResNet-101 network, whose branches go from 2048 channels to scores in one step.
* The dense CRF of the paper comes after the network and is not a part of it.
* The backbone is torchvision's: the stride of a stage sits on its first 3x3 and the pool rounds down. The released
  one in Caffe strides on the first 1x1 and rounds up; parameters are the same.
* The backbone dilates every 3x3 of conv4_x by 2 and of conv5_x by 4, as the released network does.
* ``multi_scale`` takes the maximum at the output only. The released code also puts a loss on each scale of its own.
* Scores are enlarged to the image's size and compared with all labels. The paper shrinks the labels by 8 in training.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from typing import Any

import torch
from torch import Tensor, nn

from segtutor.layers import check_images, check_num_classes, resize
from segtutor.models.resnet import PRESETS as RESNETS
from segtutor.models.resnet import ResNet

SMALLER = (0.5, 0.75)  # the two scales that Section 4.1.2 adds to the image's own


class DeepLabV2(nn.Module):
    """A ResNet dilated to 1/8, four summed atrous branches, one enlargement by 8.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        backbone: a preset of `segtutor.models.resnet`: "resnet101", "resnet50", ..., "tiny".
        rates: dilation of each branch.
        multi_scale: score the image at half and three quarters of its size too, and take the maximum at each position.
        first_dilation: dilation where a stage's stride was, "new" or "previous" (see the ResNet's ledger).

    Raises:
        ValueError: no classes, no rates, an unknown backbone or first_dilation.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        backbone: str = "resnet101",
        rates: tuple[int, ...] = (6, 12, 18, 24),
        multi_scale: bool = False,
        first_dilation: str = "new",
    ):
        super().__init__()
        check_num_classes(num_classes)
        if backbone not in RESNETS:
            raise ValueError(f'backbone is "{backbone}"; choose one of {", ".join(RESNETS)}.')
        if not rates:
            raise ValueError("rates is empty; ASPP needs at least one rate, the paper takes (6, 12, 18, 24).")
        self.in_channels = in_channels
        self.smaller = SMALLER if multi_scale else ()
        self.backbone = ResNet(
            **RESNETS[backbone], in_channels=in_channels, output_stride=8, first_dilation=first_dilation
        )
        # Straight from 2048 channels to scores, with a bias and without normalisation.
        self.aspp = nn.ModuleList(
            nn.Conv2d(self.backbone.channels[3], num_classes, 3, padding=rate, dilation=rate) for rate in rates
        )

    def score(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to scores (B, num_classes, H/8, W/8)."""
        *_, conv5_x = self.backbone(images)  # (B, 2048, H/8, W/8)
        return sum(branch(conv5_x) for branch in self.aspp)  # (B, C, H/8, W/8)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        height, width = images.shape[2:]
        score = self.score(images)  # (B, C, H/8, W/8)
        for scale in self.smaller:
            small = resize(images, (round(scale * height), round(scale * width)))  # (B, 3, H s, W s)
            # A large object fits the kernels best where it is small: the scale that is surest wins.
            score = torch.maximum(score, resize(self.score(small), score.shape[2:]))  # (B, C, H/8, W/8)
        return resize(score, (height, width))  # (B, C, H, W)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "multi_scale": {"multi_scale": True},
    "large_fov": {"rates": (12,)},
    "tiny": {"backbone": "narrow", "rates": (1, 2, 3, 4)},
}
