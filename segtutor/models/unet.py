r"""U-Net: a contracting path, an expanding path of the same depth, and bridges that carry whole feature maps across.

**Paper.** Ronneberger, Fischer and Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, MICCAI
2015, arXiv 1505.04597. Read Figure 1 (every side and every width of this file), Section 2 (the layers, and why a tile's
side matters) and Figure 2 (overlap-tile).

**Departures ledger**

* ``padding="same"`` (the default) pads every 3x3 convolution by one pixel, so that the logits have the images' size;
  pools round up, and what an odd side gains on the way down is cut off on the way up. The paper, and
  ``padding="valid"``, pad nothing: 572 pixels in, 388 out. The parameters are the same.
* ``batch_norm`` puts a batch normalisation after each 3x3 convolution, which then needs no bias. The paper has none.
* The paper has dropout "at the end of the contracting path" (Section 3.1) and says neither where exactly nor how much.
  Here it acts once, on the bottom map, with ``dropout=0.5``.
* The paper's "up-convolution" is an upsampling followed by a 2x2 convolution. Here it is one transposed convolution of
  stride 2, which has the same weights and keeps the sides of Figure 1; the paper does not say how it upsamples.
* The skip stands before the upsampled map in the concatenation, as in Figure 1; the text gives no order, and another
  one would permute the next kernel's channels and change nothing else.
* `overlap_tile` mirrors without repeating the border pixel, and its tiles share four rows and columns (see there).

**Shapes.** images (B, in_channels, H, W) to logits (B, num_classes, H, W), H and W at least 32; with
``padding="valid"`` to (B, num_classes, H-184, W-184), H and W 12 modulo 16 and at least 188.
"""

from collections import OrderedDict
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.layers import BatchNorm2d, check_images, check_num_classes, crop
from segtutor.models.vgg import he_init

LOST = 184  # what the unpadded convolutions cut off a side: 572 - 388


def double_conv(in_channels: int, out_channels: int, *, padding: int, batch_norm: bool) -> nn.Sequential:
    """Twice a 3x3 convolution and a ReLU: (B, in_channels, h, w) to (B, out_channels, h, w), unpadded h-4, w-4."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in (1, 2):
        layers[f"conv{i}"] = nn.Conv2d(in_channels, out_channels, 3, padding=padding, bias=not batch_norm)
        if batch_norm:
            layers[f"bn{i}"] = BatchNorm2d(out_channels)
        layers[f"relu{i}"] = nn.ReLU()
        in_channels = out_channels
    return nn.Sequential(layers)


def up_conv(in_channels: int) -> nn.ConvTranspose2d:
    """The paper's 2x2 "up-convolution": (B, in_channels, h, w) to (B, in_channels/2, 2h, 2w)."""
    up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
    # Its windows do not overlap: an output sees one position, so in_channels numbers, and He's variance follows.
    nn.init.normal_(up.weight, std=(2 / in_channels) ** 0.5)
    if up.bias is not None:
        nn.init.zeros_(up.bias)
    return up


def center_crop(skip: Tensor, size: tuple[int, ...]) -> Tensor:
    """Cut the middle (h, w) out of a larger map, so that it lies over the map that lost its border in the bottom."""
    top, left = (skip.shape[2] - size[0]) // 2, (skip.shape[3] - size[1]) // 2
    return skip[:, :, top : top + size[0], left : left + size[1]]


def check_valid_sides(height: int, width: int) -> None:
    """Raise ValueError, naming the nearest sides that fit, unless every pool of the unpadded net meets even sides."""
    if all(side % 16 == 12 and side > LOST for side in (height, width)):
        return
    lower = [max(LOST + 4, side - (side - 12) % 16) for side in (height, width)]
    near = [str(n) if n == side else f"{n} or {n + 16}" for n, side in zip(lower, (height, width), strict=True)]
    raise ValueError(
        f"images are {height}x{width} pixels, but without padding both sides must be 12 modulo 16, from {LOST + 4} on: "
        f"make the height {near[0]} and the width {near[1]}, or give the image to segtutor.models.unet.overlap_tile."
    )


class UNet(nn.Module):
    """Four levels down, a bottom, four levels up: 23 convolutions.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        base: channels of the first level; each level down has twice as many.
        padding: "same" or "valid" (see the ledger).
        batch_norm: normalise after each 3x3 convolution.
        dropout: share of the bottom's activations dropped in training.

    Raises:
        ValueError: no classes, or an unknown padding; in the forward pass, images of a size that does not fit.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        base: int = 64,
        padding: str = "same",
        batch_norm: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        check_num_classes(num_classes)
        if padding not in ("same", "valid"):
            raise ValueError(f'padding is "{padding}"; choose "same" or "valid".')
        self.in_channels, self.valid = in_channels, padding == "valid"
        options: dict[str, Any] = {"padding": 0 if self.valid else 1, "batch_norm": batch_norm}
        widths = [base * 2**level for level in range(5)]  # 64, 128, 256, 512, 1024
        for level, width in enumerate(widths[:4], start=1):
            self.add_module(f"contract{level}", double_conv(in_channels, width, **options))
            self.add_module(f"pool{level}", nn.MaxPool2d(2, stride=2, ceil_mode=True))
            in_channels = width
        self.bottom = double_conv(widths[3], widths[4], **options)
        self.dropout = nn.Dropout(dropout)
        for level in (4, 3, 2, 1):
            self.add_module(f"up{level}", up_conv(widths[level]))
            self.add_module(f"expand{level}", double_conv(widths[level], widths[level - 1], **options))
        self.score = nn.Conv2d(base, num_classes, 1)
        for module in self.children():
            if not isinstance(module, nn.ConvTranspose2d):
                he_init(module)

    def contract(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, in_channels, H, W) to the four maps that the bridges carry, and the bottom."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        if self.valid:
            check_valid_sides(*images.shape[2:])
        skip1 = self.contract1(images)  # (B, 64, H, W), on "valid" 4 less, and at each level below 4 less again
        skip2 = self.contract2(self.pool1(skip1))  # (B, 128, H/2, W/2)
        skip3 = self.contract3(self.pool2(skip2))  # (B, 256, H/4, W/4)
        skip4 = self.contract4(self.pool3(skip3))  # (B, 512, H/8, W/8)
        bottom = self.dropout(self.bottom(self.pool4(skip4)))  # (B, 1024, H/16, W/16)
        return skip1, skip2, skip3, skip4, bottom

    def bridge(self, skip: Tensor, up: Tensor) -> Tensor:
        """Lay the skip (B, C, h, w) and the upsampled map (B, C, h', w') over each other: (B, 2C, .., ..)."""
        if self.valid:
            skip = center_crop(skip, up.shape[2:])
        else:
            up = crop(up, skip.shape[2:])  # (B, C, h, w); an odd side was rounded up by the pool
        return torch.cat([skip, up], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W), on "valid" (.., H-184, W-184)."""
        *skips, x = self.contract(images)
        # Popped, so that a map without a gradient to wait for is gone before the next convolution needs room.
        x = self.expand4(self.bridge(skips.pop(), self.up4(x)))  # (B, 512, H/8, W/8)
        x = self.expand3(self.bridge(skips.pop(), self.up3(x)))  # (B, 256, H/4, W/4)
        x = self.expand2(self.bridge(skips.pop(), self.up2(x)))  # (B, 128, H/2, W/2)
        x = self.expand1(self.bridge(skips.pop(), self.up1(x)))  # (B, 64, H, W)
        return self.score(x)  # (B, C, H, W)


def mirror(images: Tensor, dim: int, full: int) -> Tensor:
    """Continue an axis as a mirror would: ``LOST / 2`` pixels before it, and behind it up to ``full + LOST`` in all."""
    side = images.shape[dim]
    place = torch.arange(full + LOST, device=images.device) - LOST // 2
    place = place.remainder(max(2 * side - 2, 1))  # there and back again
    return images.index_select(dim, torch.minimum(place, (2 * side - 2 - place).abs()))


@torch.no_grad()
def overlap_tile(model: UNet, images: Tensor, tile: int = 388) -> Tensor:
    """Score images of any size with the unpadded net, tile by tile (Section 2 and Figure 2 of the paper).

    The images are continued by mirroring, and every tile of the output gets its own input, 92 pixels larger on each
    side. Neighbouring tiles share four rows and columns: a tile is four more than a multiple of 16, and only where
    all tiles start at multiples of 16 do their pools cut the image into the same windows. Then the tiles are, to the
    last digit, what one pass over the whole mirrored image gives.

    Args:
        model: a `UNet` with ``padding="valid"``; call ``model.eval()`` first, or dropout acts.
        images: (B, in_channels, H, W).
        tile: side of the output tiles in pixels, 4 modulo 16 and at least 20. Memory grows with its square.

    Returns:
        Tensor (B, num_classes, H, W).

    Raises:
        ValueError: a padded model, or a tile that does not fit.
    """
    if not model.valid:
        raise ValueError('this UNet pads its borders, so tiles would not fit together: build it with padding="valid".')
    if tile % 16 != 4 or tile < 20:
        lower = max(20, tile - (tile - 4) % 16)
        raise ValueError(f"tile is {tile}, but must be 4 modulo 16, from 20 on: take {lower} or {lower + 16}.")
    check_images(images, model.in_channels, next(model.parameters(), None), smallest=1)
    height, width = images.shape[2:]
    full = [side + (4 - side) % 16 for side in (height, width)]
    images = mirror(mirror(images, 2, full[0]), 3, full[1])  # (B, in_channels, H'+184, W'+184), H' 4 modulo 16
    logits = images.new_empty(len(images), model.score.out_channels, *full)  # (B, C, H', W')
    starts = [[*range(0, side - tile, tile - 4), max(side - tile, 0)] for side in full]
    for top, left in product(*starts):
        window = images[:, :, top : top + tile + LOST, left : left + tile + LOST]
        logits[:, :, top : top + tile, left : left + tile] = model(window)
    return logits[:, :, :height, :width]  # (B, C, H, W)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"padding": "valid"},
    "same": {},
    "tiny": {"base": 8, "batch_norm": True, "dropout": 0.0},
}
