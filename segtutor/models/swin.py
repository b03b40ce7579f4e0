r"""Swin: attention inside windows of 7 x 7 positions, which shift from block to block, in a pyramid of four maps.

**Paper.** Liu, Lin, Cao, Hu, Wei, Zhang, Lin and Guo, *Swin Transformer: Hierarchical Vision Transformer using Shifted
Windows*, ICCV 2021, arXiv 2103.14030. Read Section 3.1 with Figure 3 (stages, patch merging, two successive blocks),
Section 3.2 with Figures 2 and 4 (why windows are linear, the cyclic shift, its masks) and equation 4 (position bias).

**Departures ledger**

* Pairs of positions that only the cyclic shift brought together are forbidden by minus infinity. The authors' code,
  torchvision and transformers add -100: nearly nothing in place of nothing. And they tell nine regions of the image
  apart; four do, because the others never meet in one window.
* Maps that do not divide into windows are padded right and below with zeros, after the normalisation, and the padded
  positions are attended to, as in every implementation. The paper does not say.
* A map that is a single window has nothing to shift; torchvision and the authors' classification code leave it, axis by
  axis. ``always_shift=True`` shifts and masks it nevertheless, as transformers' backbone and the authors' segmentation
  code do. At a window of 7, only images of at most 224 pixels have such maps.
* Images are padded to whole patches of 4 x 4, as the segmentation code and transformers do; torchvision drops the rest.
* Returned are the four maps of the stages, with a normalisation each under ``norms=True`` (what UPerNet needs). The
  final normalisation and the classifier stay out.
* No dropout inside, as in the released configurations; only stochastic depth, growing linearly with depth.

**Shapes.** images (B, in_channels, H, W) to four maps (B, C_i, ~H/4, ~W/4) .. (B, 8 C_i, ~H/32, ~W/32). Inside, maps
are (B, h, w, C): a linear layer reads the last axis. N is the positions of a window, 49.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import (
    DropPath,
    attention,
    crop,
    init_transformer,
    lacking,
    pad_to_multiple,
    sizes_are_symbols,
)


def partition(x: Tensor, window: int) -> Tensor:
    """Cut a map into windows, row by row: (B, h, w, C) to (B * h/7 * w/7, 49, C); h and w are multiples of window."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)  # (B, h/7, 7, w/7, 7, C)
    return x.transpose(2, 3).reshape(-1, window * window, channels)  # (B * h/7 * w/7, 49, C)


def join(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `partition`: (B * h/7 * w/7, 49, C) to (B, h, w, C)."""
    x = windows.reshape(-1, height // window, width // window, window, window, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])  # (B, h, w, C)


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of positions of a window, (49, 49): one row for each of 13 x 13 offsets."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()  # (49,)
    # Offsets run from -6 to 6; both are moved to begin at 0, and counted row by row.
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


def shift_mask(height: int, width: int, window: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """What may attend to what once a map is rolled: 0 or minus infinity, (windows, 1, 49, 49) (Figure 4).

    Args:
        height: of the padded map.
        width: of the padded map.
        window: side of a window.
        shift: rows and columns by which the map is rolled up and left.
        like: tensor whose dtype and device the mask takes.
    """
    below = torch.arange(height, device=like.device) >= height - shift[0]  # came from the upper border
    right = torch.arange(width, device=like.device) >= width - shift[1]  # came from the left border
    region = 2 * below[:, None] + right.long()  # (h, w): 0 to 3
    region = partition(region[None, :, :, None], window)  # (windows, 49, 1)
    apart = region != region.transpose(1, 2)  # (windows, 49, 49)
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, float("-inf"))[:, None]


def restore_index(attention: "WindowAttention", _: object) -> None:
    """Compute the index anew after loading: it is in no file, and a model made on the meta device has no numbers."""
    attention.index = relative_index(attention.window).to(attention.bias_table.device)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each offset (Section 3.2, equation 4).

    Args:
        channels: of the map.
        heads: parts into which the channels are split, each attending on its own.
        window: side of a window.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))  # (169, heads)
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("index", relative_index(window), persistent=False)
        self.register_load_state_dict_post_hook(restore_index)

    def bias(self) -> Tensor:
        """What each head adds to the score of each pair of positions, (heads, 49, 49)."""
        return self.bias_table[self.index].permute(2, 0, 1)

    def within(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        """qkv (B * windows, N, 3 C), and a mask as from `shift_mask`, to (B * windows, N, C)."""
        count, positions, channels = qkv.shape
        qkv = qkv.view(count, positions, 3, self.heads, channels // (3 * self.heads))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B * windows, heads, N, C / heads) each
        bias = self.bias()[None]  # (1, heads, N, N)
        if mask is not None:
            bias = (bias + mask).repeat(count // mask.shape[0], 1, 1, 1)  # (B * windows, heads, N, N)
        return attention(query, key, value, bias).transpose(1, 2).flatten(2)  # (B * windows, N, C)

    def padded(self, qkv: Tensor) -> Tensor:
        """qkv (B, h, w, 3 C) to (B, h', w', 3 C), whose sides are multiples of the window."""
        height, width = qkv.shape[1:3]
        below, right = lacking(height, self.window), lacking(width, self.window)
        if not (sizes_are_symbols() or below or right):
            return qkv
        # Padding is zeros, of which the linear layer would make its bias: no need to multiply there.
        beyond = F.pad(qkv.new_zeros(height, width, 1), (0, 0, 0, right, 0, below), value=1.0)  # (h', w', 1)
        whole = F.pad(qkv, (0, 0, 0, right, 0, below))  # (B, h', w', 3 C)
        return torch.addcmul(whole, beyond, self.qkv.bias)

    def forward(self, x: Tensor, shift: tuple[int, int] = (0, 0), mask: Tensor | None = None) -> Tensor:
        """Pad, roll, cut, attend, and all of it back: x (B, h, w, C) to (B, h, w, C)."""
        height, width = x.shape[1:3]
        x = self.padded(self.qkv(x))  # (B, h', w', 3 C)
        sides = x.shape[1:3]
        rolled = mask is not None or any(shift)
        if rolled:
            # Rolled, the map has as many windows as before; shifted windows without it would be cut at the borders.
            x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
        x = partition(x, self.window)  # (B * windows, N, 3 C)
        x = join(self.within(x, mask), self.window, *sides)  # (B, h', w', C)
        if rolled:
            x = x.roll(shift, dims=(1, 2))
        x = crop(x.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)  # (B, h, w, C)
        return self.project(x)


class SwinBlock(nn.Module):
    """Attention inside windows, then a small network on every position; both add to what is there (equation 3).

    Args:
        channels: of the map.
        heads: of the attention.
        window: side of a window.
        drop_path: probability with which an image skips a branch in training.
    """

    def __init__(self, channels: int, heads: int, window: int, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, shift: tuple[int, int] = (0, 0), mask: Tensor | None = None) -> Tensor:
        """x (B, h, w, C) to the same shape; shift and mask come from the stage."""
        x = x + self.drop_path(self.attention(self.norm1(x), shift, mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """Patch partition and linear embedding: images (B, in_channels, H, W) to (B, H/4, W/4, C)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.project = nn.Conv2d(in_channels, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to (B, ceil(H / 4), ceil(W / 4), C)."""
        x = self.project(pad_to_multiple(images, 4))  # (B, C, H/4, W/4)
        return self.norm(x.permute(0, 2, 3, 1))  # (B, H/4, W/4, C)


class PatchMerging(nn.Module):
    """Four neighbours become one position, with twice the channels: (B, h, w, C) to (B, h/2, w/2, 2 C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, C) to (B, ceil(h / 2), ceil(w / 2), 2 C)."""
        height, width = x.shape[1:3]
        below, right = lacking(height, 2), lacking(width, 2)
        if sizes_are_symbols() or below or right:  # F.pad would copy the map even for nothing
            x = F.pad(x, (0, 0, 0, right, 0, below))  # (B, h', w', C), even
        # Down before right: the order in which the released weights expect the four.
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)  # (B, h/2, w/2, 4 C)
        return self.reduction(self.norm(x))  # (B, h/2, w/2, 2 C)


class Stage(nn.Module):
    """One resolution: an entry that makes the map, then blocks whose windows stay and shift in turn (Figure 3).

    Args:
        entry: `PatchEmbedding` or `PatchMerging`.
        blocks: the blocks, all at this resolution.
        always_shift: shift a map that is a single window as well (see the ledger).
    """

    def __init__(self, entry: nn.Module, blocks: list[SwinBlock], always_shift: bool):
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.window, self.always_shift = blocks[0].attention.window, always_shift

    def shifted(self, x: Tensor) -> tuple[tuple[int, int], Tensor | None]:
        """By how much every second block rolls the map x (B, h, w, C), and the mask that goes with it."""
        height, width = (side + lacking(side, self.window) for side in x.shape[1:3])
        half = self.window // 2
        # A padded side is one window or at least two: what is beyond the first is nothing, or more than half a window.
        up, left = (half if self.always_shift else min(half, side - self.window) for side in (height, width))
        rolled = sizes_are_symbols() or up or left
        return (up, left), shift_mask(height, width, self.window, (up, left), like=x) if rolled else None

    def forward(self, x: Tensor) -> Tensor:
        """Images, or the map of the stage before, to this stage's map (B, h, w, C)."""
        x = self.entry(x)  # (B, h, w, C)
        shifted = self.shifted(x)  # once for all blocks
        for number, block in enumerate(self.blocks):
            # Without every second block, no window would ever hear of its neighbours.
            x = block(x, *shifted) if number % 2 else block(x)
        return x


class SwinTransformer(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32, as a convolutional backbone has them.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage, the paper's C; each later stage has twice as many.
        depths: blocks of the stages.
        heads: attention heads of the stages.
        window: side of a window, in positions.
        drop_path: probability with which the last block's branches are skipped in training; earlier ones less.
        norms: normalise each returned map.
        always_shift: see the ledger.

    Attributes:
        depths: blocks of the stages.
        channels: channels of the four maps.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
        drop_path: float = 0.2,
        norms: bool = False,
        always_shift: bool = False,
    ):
        super().__init__()
        self.depths, self.channels = tuple(depths), tuple(width * 2**number for number in range(len(depths)))
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(depths)
        self.stages = nn.ModuleList()
        for number, (channels, head) in enumerate(zip(self.channels, heads, strict=True)):
            entry = PatchMerging(channels // 2) if number else PatchEmbedding(in_channels, width)
            blocks = [SwinBlock(channels, head, window, rate) for rate in rates[number].tolist()]
            self.stages.append(Stage(entry, blocks, always_shift))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) if norms else nn.Identity() for channels in self.channels)
        init_transformer(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in_channels, H, W) to four maps (B, channels[i], h_i, w_i)."""
        x, maps = images, []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)  # (B, h, w, C)
            # Seen with channels first and left in place: this is PyTorch's channels-last format, no copy.
            maps.append(norm(x).permute(0, 3, 1, 2))  # (B, C, h, w)
        return maps


PRESETS: dict[str, dict[str, Any]] = {
    "swin_t": {},
    "swin_s": {"depths": (2, 2, 18, 2), "drop_path": 0.3},
    "swin_b": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5},
    "tiny": {"width": 32, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8), "window": 4, "drop_path": 0.0},
}
