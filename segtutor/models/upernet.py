r"""UPerNet: the pyramid pooling of PSPNet on top of a feature pyramid, and one fused map at 1/4; here on a Swin.

**Papers.** Xiao, Liu, Zhou, Jiang and Sun, *Unified Perceptual Parsing for Scene Understanding*, ECCV 2018, arXiv
1807.10221. Read its description of the network and the figure of its framework: the decoder of this file is the branch
that finds objects. Liu et al., *Swin Transformer*, ICCV 2021, arXiv 2103.14030, use it in Section 4.3.

**Departures ledger**

* ``align_corners=False`` wherever a map is enlarged, as transformers and OpenMMLab have it.
* The paper predicts materials, parts, objects, scenes and textures from different levels. What the field calls UPerNet
  is the object branch alone: all levels fused into one map, one classifier.
* The 3x3 that smooths a level works on the three finer ones. The coarsest has just left a 3x3, the one that fuses the
  pyramid of averages, and gets no second, as in transformers and OpenMMLab.
* Channels are dropped before each classifier in training, as in the Swin authors' configuration; transformers drops
  nothing.
* ``always_shift`` is True, as in the Swin authors' segmentation code and in transformers (see the ledger of
  `segtutor.models.swin`). transformers carries a LayerNorm after the last stage that nothing reads: 2 x 768 parameters
  more on Swin-T.

**Shapes.** The network: images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W). The
decoder: maps c1 .. c4, (B, C_i, h_i, w_i) each, at 1/4, 1/8, 1/16 and 1/32, to (B, width, h_1, w_1).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.layers import check_auxiliary, check_images, check_num_classes, conv_norm_relu, resize
from segtutor.models import swin
from segtutor.models.pspnet import PyramidPooling, scoring_head


class UPerNetDecoder(nn.Module):
    """Four maps in, one out: the coarsest explains the image, each finer one adds where things are (Figure 4).

    Args:
        channels: channels of c1 .. c4, from fine to coarse.
        width: channels of every level inside, and of the result.
        bins: sides of the grids of regions over which c4 is averaged.

    Attributes:
        out_channels: channels that come out, ``width``.
    """

    def __init__(self, channels: Sequence[int], width: int = 512, bins: tuple[int, ...] = (1, 2, 3, 6)):
        super().__init__()
        self.out_channels = width
        *finer, coarsest = channels
        self.pyramid = PyramidPooling(coarsest, width, bins)
        self.bottleneck = conv_norm_relu(self.pyramid.out_channels, width)
        self.laterals = nn.ModuleList(conv_norm_relu(channel, width, kernel=1) for channel in finer)
        self.smooth = nn.ModuleList(conv_norm_relu(width, width) for _ in finer)
        self.fuse = conv_norm_relu(len(channels) * width, width)

    def top_down(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """c1 .. c4 to four levels (B, width, h_i, w_i), each with everything that is coarser added to it."""
        *finer, coarsest = maps
        levels = [self.bottleneck(self.pyramid(coarsest))]  # (B, 512, H/32, W/32)
        for lateral, x in zip(reversed(self.laterals), reversed(finer), strict=True):
            # By real sizes: at odd sides a coarse map is not exactly half as wide as the finer one.
            levels.insert(0, lateral(x) + resize(levels[0], x.shape[2:]))  # (B, 512, h, w)
        return levels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps c1 .. c4, (B, channels[i], h_i, w_i) each, to the embedding (B, width, h_1, w_1)."""
        levels = self.top_down(maps)
        for number, smooth in enumerate(self.smooth):
            # Adding an enlarged map leaves its blocks in the sum; a 3x3 smooths them away.
            levels[number] = smooth(levels[number])
        levels[1:] = [resize(x, levels[0].shape[2:]) for x in levels[1:]]  # (B, 512, H/4, W/4) each
        joined = torch.cat(levels, dim=1)  # (B, 2048, H/4, W/4)
        levels.clear()  # so that the four wide maps are let go before the next is made
        return self.fuse(joined)  # (B, 512, H/4, W/4)


class SwinUPerNet(nn.Module):
    """A Swin reads the image, UPerNet's decoder joins its four maps, one classifier, one enlargement by 4.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        backbone: a preset of `segtutor.models.swin`: "swin_t", "swin_s", "swin_b" or "tiny".
        width: channels of the decoder.
        auxiliary: add the training-time head on stage 3, whose scores ``model(images, auxiliary=True)`` returns too.
        drop_path: of the backbone, in training; its preset's own is for classification.
        dropout: share of the channels dropped before each classifier in training.
        always_shift: of the backbone (see its ledger).

    Raises:
        ValueError: no classes, or an unknown backbone.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        backbone: str = "swin_t",
        width: int = 512,
        auxiliary: bool = False,
        drop_path: float = 0.3,
        dropout: float = 0.1,
        always_shift: bool = True,
    ):
        super().__init__()
        check_num_classes(num_classes)
        if backbone not in swin.PRESETS:
            raise ValueError(f'backbone is "{backbone}"; choose one of {", ".join(swin.PRESETS)}.')
        self.in_channels = in_channels
        options = {**swin.PRESETS[backbone], "drop_path": drop_path, "always_shift": always_shift}
        # Each map is the sum of its stage's residuals, on a scale of its own: normalised, the four can be joined.
        self.backbone = swin.SwinTransformer(in_channels=in_channels, norms=True, **options)
        self.decoder = UPerNetDecoder(self.backbone.channels, width)
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))
        *_, stage3, _ = self.backbone.channels
        self.auxiliary = scoring_head(stage3, width // 2, num_classes, dropout) if auxiliary else None

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
        maps = self.backbone(images)  # (B, 96, H/4, W/4) .. (B, 768, H/32, W/32)
        score = self.classifier(self.decoder(maps))  # (B, C, H/4, W/4)
        logits = resize(score, images.shape[2:])  # (B, C, H, W)
        if self.auxiliary is None or not auxiliary:
            return logits
        return logits, resize(self.auxiliary(maps[2]), images.shape[2:])  # (B, C, H, W) twice


PRESETS: dict[str, dict[str, Any]] = {
    "swin_t": {},
    "swin_s": {"backbone": "swin_s"},
    "swin_b": {"backbone": "swin_b"},
    "tiny": {"backbone": "tiny", "width": 48, "drop_path": 0.0},
}
