r"""SegNet: a decoder that knows where each maximum stood, and nothing else about the way down.

**Paper.** Badrinarayanan, Kendall and Cipolla, *SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation*, PAMI 2017, arXiv 1511.00561. Read Section 3 with Figures 2 and 3 (pooling indices and the decoder), and
Section 3.2 (what other decoders pass across, and what that costs at inference).

**Departures ledger**

* The encoder starts at He's initialisation, like the decoder. The paper starts it from VGG-16's ImageNet weights:
  `segtutor.weights.load_pretrained` takes those of VGG-16 with batch normalisation.
* Indices are 64-bit integers, one for each pooled value, as PyTorch stores them. Two bits would do (one of four places
  in a window), and the paper counts two.
* Unpooling asks for the encoder's own size at every depth, so that any image size comes back. The released network
  writes down the sizes of its two odd depths, for images of 360x480 only.
* A 3x3 convolution keeps its bias although a normalisation follows, as in the released network.
* SegNet-Basic, the four-stage network of the paper's comparisons, and the dropout of Bayesian SegNet are left out.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W).
"""

from collections import OrderedDict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import BatchNorm2d, check_images, check_num_classes
from segtutor.models.vgg import DEPTHS, he_init, vgg_stage


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Halve the map, rounding up as Caffe does, and say where in it each maximum stood.

    Args:
        x: maps (B, C, h, w).

    Returns:
        The maxima (B, C, ceil(h / 2), ceil(w / 2)), and the position of each in its map, row * w + column.
    """
    return F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)


def unpool(x: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Put each value where the encoder's maximum stood; every other place is zero.

    Args:
        x: maps (B, C, h, w).
        indices: positions (B, C, h, w) from `pool`.
        size: (H, W) of the map that was pooled; without it an odd side would come back even.

    Returns:
        Tensor (B, C, H, W).
    """
    return F.max_unpool2d(x, indices, (2, 2), (2, 2), output_size=size)


def decoder_stage(stage: int, in_channels: int, out_channels: int) -> nn.Sequential:
    """The encoder's stage in mirror image: conv3_3, conv3_2, conv3_1, of which the last changes the channels.

    Args:
        stage: 5 to 1; decides how many convolutions there are.
        in_channels: channels of the unpooled map (B, in_channels, h, w).
        out_channels: channels of the outgoing map (B, out_channels, h, w).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(DEPTHS[stage - 1], 0, -1):
        # The indices fit the encoder's channels one to one, so the number may change only after unpooling.
        width = out_channels if i == 1 else in_channels
        layers[f"conv{stage}_{i}"] = nn.Conv2d(in_channels, width, 3, padding=1)
        layers[f"bn{stage}_{i}"] = BatchNorm2d(width)
        layers[f"relu{stage}_{i}"] = nn.ReLU()
    return nn.Sequential(layers)


class Encoder(nn.Module):
    """VGG-16 without its dense layers; each pooling hands out its indices.

    Args:
        in_channels: channels of the images.
        widths: channels of the five stages.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...]):
        super().__init__()
        for stage, width in enumerate(widths, start=1):
            self.add_module(f"stage{stage}", vgg_stage(stage, in_channels, width, batch_norm=True))
            in_channels = width

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
        """images (B, in_channels, H, W) to the coarsest map, the indices of the five poolings and the sizes before."""
        x, indices, sizes = images, [], []
        for stage in self.children():
            x = stage(x)  # (B, width, h, w)
            sizes.append(x.shape[2:])
            x, where = pool(x)  # (B, width, h/2, w/2)
            indices.append(where)
        return x, indices, sizes


class SegNet(nn.Module):
    """The network of the paper.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        widths: channels of the five stages of the encoder, and in reverse of the decoder.

    Raises:
        ValueError: no classes, or not five widths.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, widths: tuple[int, ...] = (64, 128, 256, 512, 512)):
        super().__init__()
        check_num_classes(num_classes)
        if len(widths) != 5:
            raise ValueError(f"widths has {len(widths)} entries; SegNet has 5 stages and needs one width for each.")
        self.in_channels = in_channels
        self.encoder = Encoder(in_channels, widths)
        self.decoder = nn.Sequential()
        for stage in (5, 4, 3, 2):
            self.decoder.add_module(f"stage{stage}", decoder_stage(stage, widths[stage - 1], widths[stage - 2]))
        # The last convolution's output are the scores: neither normalised nor rectified.
        self.decoder.add_module("stage1", decoder_stage(1, widths[0], num_classes)[:-2])
        he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        x, indices, sizes = self.encoder(images)  # (B, 512, H/32, W/32)
        for stage in self.decoder:
            x = unpool(x, indices.pop(), sizes.pop())  # (B, 512, H/16, W/16) first, (B, 64, H, W) last
            x = stage(x)  # the channels of the stage above, in the end (B, C, H, W)
        return x


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "tiny": {"widths": (8, 16, 32, 64, 64)},
}
