r"""UPerNet: the pyramid pooling of PSPNet on top of a feature pyramid, and one fused map at 1/4.

**Papers.** Xiao, Liu, Zhou, Jiang and Sun, *Unified Perceptual Parsing for Scene Understanding*, ECCV 2018, arXiv
1807.10221. Read Section 3.2 with Figure 4 (the network; only its scene-object branch is the decoder of this file).

**Departures ledger**

* ``align_corners=False`` wherever a map is enlarged, as transformers and OpenMMLab have it.
* The paper predicts materials, parts, objects, scenes and textures from different levels. What the field calls UPerNet
  is the object branch alone: all levels fused into one map, one classifier.
* The 3x3 that smooths a level works on the three finer ones. The coarsest has just left a 3x3, the one that fuses the
  pyramid of averages, and gets no second, as in transformers and OpenMMLab.

**Shapes.** maps c1 .. c4, (B, C_i, h_i, w_i) each, usually at 1/4, 1/8, 1/16 and 1/32, to (B, width, h_1, w_1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segtutor.layers import conv_norm_relu, resize
from segtutor.models.pspnet import PyramidPooling


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
        *finer, coarsest = self.top_down(maps)
        # Adding an enlarged map leaves its blocks in the sum; a 3x3 smooths them away.
        levels = [smooth(x) for smooth, x in zip(self.smooth, finer, strict=True)] + [coarsest]
        size = maps[0].shape[2:]
        return self.fuse(torch.cat([resize(x, size) for x in levels], dim=1))  # (B, 2048, H/4, W/4) to (B, 512, ...)


PRESETS = {"paper": {"width": 512}, "tiny": {"width": 32}}
