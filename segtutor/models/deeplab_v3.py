r"""DeepLab v3: atrous pyramid pooling with normalised branches and a summary of the whole image, and no CRF.

**Paper.** Chen, Papandreou, Schroff and Adam, *Rethinking Atrous Convolution for Semantic Image Segmentation*, 2017,
arXiv 1706.05587. Read Section 3.2 with Figure 3 (going deeper: blocks 5 to 7, and multi-grid), Section 3.3 with
Figures 4 and 5 (why large rates fail, and image-level features) and Section 4.1 (training at output stride 16,
evaluating at 8).

**Departures ledger**

* ``align_corners=False`` wherever a map is enlarged. The authors' code uses True, for which its inputs are 16k + 1
  pixels wide.
* A single training image is normalised on the 1x1 map of image pooling by running statistics
  (`segtutor.layers.BatchNorm2d`); PyTorch raises there, and so does torchvision's network.
* The backbone is torchvision's: a stage strides in its first unit, and so the first 3x3 of conv4_x keeps rate 1 at
  output stride 8. In the authors' code a stage strides in its last unit, and all of the next one dilates.
* ``multi_grid=None`` leaves conv5_x as torchvision dilates it (2, 4, 4 at output stride 8); ``(1, 1, 1)`` is the
  paper's network without multi-grid (4, 4, 4).
* ``head="torchvision"`` puts one more 3x3 convolution between ASPP and the classifier, as torchvision does.
* Features of ASPP have 256 channels, or as many as the backbone where that is narrower. 10 % of them are dropped in
  training, as in the authors' code; torchvision drops half.
* ``auxiliary`` is torchvision's second classifier on conv4_x. The paper has none.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import check_auxiliary, check_images, check_num_classes, conv_norm_relu, resize
from segtutor.models.resnet import DEPTHS, ResNet, he_init, residual_stage
from segtutor.models.resnet import PRESETS as RESNETS


class ASPP(nn.Module):
    """Read one map at several rates at once, and once as a whole (Figure 5): (B, in_channels, h, w) to 256 channels.

    Args:
        in_channels: channels of the incoming map.
        channels: channels of each branch and of the result.
        rates: dilations of the 3x3 branches; a 1x1 branch stands beside them.
        image_pooling: add the branch that sees the mean of the whole map.
        convolution: makes a 3x3 branch, called as ``convolution(in_channels, channels, dilation=rate)``.
        dropout: share of the result dropped in training.

    Attributes:
        out_channels: channels that come out.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        *,
        image_pooling: bool = True,
        convolution: Callable[..., nn.Module] = conv_norm_relu,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.out_channels = channels
        atrous = [convolution(in_channels, channels, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, channels, kernel=1), *atrous])
        self.image_pooling = conv_norm_relu(in_channels, channels, kernel=1) if image_pooling else None
        self.project = conv_norm_relu((len(rates) + 1 + image_pooling) * channels, channels, kernel=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, h, w) to (B, channels, h, w)."""
        maps = [branch(x) for branch in self.branches]  # (B, 256, h, w) each
        if self.image_pooling is not None:
            summary = self.image_pooling(F.adaptive_avg_pool2d(x, 1))  # (B, 256, 1, 1)
            maps.append(resize(summary, x.shape[2:]))  # (B, 256, h, w)
        return self.dropout(self.project(torch.cat(maps, dim=1)))  # (B, 1280, h, w) to (B, 256, h, w)


def dilate(stage: nn.Sequential, rates: list[int]) -> None:
    """Give the 3x3 convolutions of each unit of a residual stage their rate; the weights stay as they are."""
    for unit, rate in zip(stage, rates, strict=True):
        for layer in unit.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                # "Same" padding for a kernel of 3 is its rate.
                layer.dilation = layer.padding = (rate, rate)


def atrous_backbone(name: str, in_channels: int, output_stride: int, multi_grid: tuple[int, ...] | None) -> ResNet:
    """A ResNet at output stride 16 or 8, the units of its last stage at the stage's rate times ``multi_grid``.

    Raises:
        ValueError: an unknown backbone, another output stride, or a multi-grid of another length than the stage.
    """
    if name not in RESNETS:
        raise ValueError(f'backbone is "{name}"; choose one of {", ".join(RESNETS)}.')
    if output_stride not in (16, 8):
        raise ValueError(f"output_stride is {output_stride}; the paper's networks keep 16 or 8.")
    # The convolution that lost its stride still reads the stage before, so it keeps that stage's rate ("previous"):
    # only then do weights trained at output stride 16 see the same pixels at 8.
    backbone = ResNet(**RESNETS[name], in_channels=in_channels, output_stride=output_stride)
    if multi_grid is not None:
        units = len(backbone.conv5_x)
        if len(multi_grid) != units:
            raise ValueError(
                f"multi_grid is {tuple(multi_grid)}; conv5_x of {name} has {units} units, a factor for each."
            )
        dilate(backbone.conv5_x, [32 // output_stride * factor for factor in multi_grid])
    return backbone


def cascade(backbone: ResNet, output_stride: int, multi_grid: tuple[int, ...] | None) -> nn.Sequential:
    """Blocks 5, 6 and 7: copies of block 4, conv5_x, each at twice the rate of the one before (Figure 3 b)."""
    block, units = DEPTHS[backbone.depth]
    blocks, channels = nn.Sequential(), backbone.channels[3]
    for number in (5, 6, 7):
        rate = 32 // output_stride * 2 ** (number - 4)
        stage = residual_stage(block, channels, channels // block.expansion, units[3], 1, rate, rate)
        dilate(stage, [rate * factor for factor in multi_grid or units[3] * (1,)])
        blocks.add_module(f"block{number}", stage)
    he_init(blocks)
    return blocks


def scoring_head(context: nn.Module, in_channels: int, num_classes: int, *, refine: bool = False) -> nn.Sequential:
    """What reads conv5_x, torchvision's 3x3 where asked for, and the classifier: to scores (B, num_classes, h, w)."""
    head = nn.Sequential()
    head.add_module("context", context)
    if refine:
        head.add_module("refine", conv_norm_relu(in_channels, in_channels))
    head.add_module("classifier", nn.Conv2d(in_channels, num_classes, 1))
    return head


def auxiliary_head(in_channels: int, num_classes: int) -> nn.Sequential:
    """torchvision's second classifier: (B, in_channels, h, w) to scores (B, num_classes, h, w)."""
    channels = in_channels // 4
    return nn.Sequential(conv_norm_relu(in_channels, channels), nn.Dropout(0.1), nn.Conv2d(channels, num_classes, 1))


class DeepLabV3(nn.Module):
    """A ResNet dilated to 1/16 or 1/8, ASPP (or three more blocks) on its last map, one enlargement.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        backbone: a preset of `segtutor.models.resnet`: "resnet50", "resnet101", ..., "tiny".
        output_stride: 16 or 8.
        multi_grid: factors on the rate of conv5_x's units; None leaves them as torchvision has them (see the ledger).
        rates: of ASPP at output stride 16; at 8 they are doubled.
        head: "aspp", "cascade" (blocks 5 to 7 in its place) or "torchvision" (ASPP and one more 3x3).
        auxiliary: add the training-time head on conv4_x, whose scores ``model(images, auxiliary=True)`` returns too.

    Raises:
        ValueError: no classes, or an unknown backbone, output stride, multi-grid or head.
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
        head: str = "aspp",
        auxiliary: bool = False,
    ):
        super().__init__()
        check_num_classes(num_classes)
        if head not in ("aspp", "cascade", "torchvision"):
            raise ValueError(f'head is "{head}"; choose "aspp", "cascade" or "torchvision".')
        self.in_channels = in_channels
        self.backbone = atrous_backbone(backbone, in_channels, output_stride, multi_grid)
        *_, conv4, conv5 = self.backbone.channels
        if head == "cascade":
            context: nn.Module = cascade(self.backbone, output_stride, multi_grid)
        else:
            # What loses half its stride must look twice as far to see the same pixels.
            context = ASPP(conv5, min(256, conv5), tuple(16 // output_stride * rate for rate in rates))
        channels = conv5 if head == "cascade" else min(256, conv5)
        self.head = scoring_head(context, channels, num_classes, refine=head == "torchvision")
        self.auxiliary = auxiliary_head(conv4, num_classes) if auxiliary else None

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
        *_, conv4_x, conv5_x = self.backbone(images)  # (B, 1024, H/16, W/16), (B, 2048, H/16, W/16)
        score = self.head(conv5_x)  # (B, C, H/16, W/16)
        logits = resize(score, images.shape[2:])  # (B, C, H, W)
        if self.auxiliary is None or not auxiliary:
            return logits
        return logits, resize(self.auxiliary(conv4_x), images.shape[2:])  # (B, C, H, W) twice


_TORCHVISION: dict[str, Any] = {"output_stride": 8, "multi_grid": None, "head": "torchvision"}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"backbone": "resnet101"},
    "cascade": {"head": "cascade"},
    "torchvision_resnet50": {"backbone": "resnet50", **_TORCHVISION},
    "torchvision_resnet101": {"backbone": "resnet101", **_TORCHVISION},
    "tiny": {"backbone": "narrow", "output_stride": 8, "multi_grid": (1, 2), "rates": (1, 2, 3)},
}
