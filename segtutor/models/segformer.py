r"""SegFormer: attention over a pyramid of maps that needs no position code, and a decoder made of linear layers.

**Paper.** Xie, Wang, Yu, Anandkumar, Alvarez and Luo, *SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers*, NeurIPS 2021, arXiv 2105.15203. Read Section 3.1 with Figure 2 (the encoder: overlapped patch
merging, efficient self-attention, Mix-FFN), Section 3.2 with Figure 3 (why so light a decoder can do).

**Departures ledger**

* Logits come at the size of the images; the authors' code and transformers stop at 1/4.
* Nothing stands between the decoder's projection, its enlargement and its fusion but more linear maps. So the matrix
  that fuses the four concatenated maps is kept as four, one for each level, and a level is fused at its own size and
  only then enlarged: the same sum in another order, equal to rounding, with a third of the multiplications.
  ``MLPDecoder(upsample_first=True)`` does it as Section 3.2 says; `MLPDecoder.merge` makes one matrix of a level's two,
  for use after training.
* Normalisations of blocks and stages have eps 1e-6, those of patches and of reduced keys 1e-5, as in the authors'
  code; transformers has 1e-5 everywhere.
* In the backbone convolutions start from He's normal, linear layers from a truncated normal of deviation 0.02; the
  decoder starts from PyTorch's own. The authors count what leaves a convolution, He and this file what enters it.
* Dropout before the classifier takes whole channels; transformers drops single values.
* Where a map is no multiple of a stage's reduction, its last rows and columns are no keys, here as there.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to logits (B, num_classes, H, W). A backbone alone gives
four maps at strides 4, 8, 16 and 32. Inside a stage a map is (B, h, w, C): each position is a token, and a convolution
reads the same memory as (B, C, h, w).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import BatchNorm2d, DropPath, attention, check_images, check_num_classes, init_transformer, resize


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to tokens that kept their places: (B, h, w, C) to (B, h', w', C')."""
    # Permuted, not copied: (B, h, w, C) is how a map (B, C, h, w) in channels-last memory lies anyway.
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize such tokens bilinearly: (B, h, w, C) to (B, *size, C)."""
    return resize(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


class EfficientAttention(nn.Module):
    """Every position asks, a shrunken copy of the map answers (Section 3.1, Equation 2).

    Args:
        channels: channels of a token.
        heads: attention heads.
        reduction: R, how many times smaller each side of the map of keys and values is; N^2 becomes N^2 / R^2.
    """

    def __init__(self, channels: int, heads: int, reduction: int):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not split into {heads} heads: choose a multiple of the heads.")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, stride=reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(channels) if reduction > 1 else nn.Identity()

    def split(self, x: Tensor) -> Tensor:
        """x (B, h, w, C) to (B, heads, h w, C / heads)."""
        return x.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, h, w, C) to queries (B, heads, N, d), keys and values (B, heads, N / R^2, d), N = h w."""
        small = x if self.reduce is None else self.reduce_norm(convolve(self.reduce, x))  # (B, h/R, w/R, C)
        return self.split(self.query(x)), self.split(self.key(small)), self.split(self.value(small))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, C) to the same shape."""
        gathered = attention(*self.queries_keys_values(x))  # (B, heads, N, d)
        return self.out(gathered.transpose(1, 2).reshape(x.shape))  # (B, h, w, C)


class MixFFN(nn.Module):
    """The MLP with a 3x3 depthwise convolution inside, which tells a token where it stands (Equation 3).

    Args:
        channels: channels of a token.
        ratio: how many times wider the hidden layer is.
    """

    def __init__(self, channels: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.depthwise = nn.Conv2d(ratio * channels, ratio * channels, 3, padding=1, groups=ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, C) to the same shape."""
        # Its zero padding tells a token at the border so, and step by step all others: no table has to be resized.
        hidden = convolve(self.depthwise, self.fc1(x))  # (B, h, w, 4 C)
        return self.fc2(F.gelu(hidden))  # (B, h, w, C)


class Block(nn.Module):
    """Attention, then Mix-FFN, each normalised before and added after."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(channels, eps=1e-6) for _ in range(2))
        self.attention = EfficientAttention(channels, heads, reduction)
        self.mlp = MixFFN(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, C) to the same shape."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patches that overlap, then blocks at their resolution (Figure 2).

    Args:
        in_channels: channels of the incoming map.
        channels: channels of a token.
        heads: attention heads.
        reduction: of keys and values.
        rates: rate of stochastic depth of each block; their number is the stage's depth.
        kernel: side of a patch.
        stride: distance of patches, below ``kernel`` so that they overlap.
    """

    def __init__(
        self, in_channels: int, channels: int, heads: int, reduction: int, rates: list[float], kernel: int, stride: int
    ):
        super().__init__()
        # ViT's patches share no pixel: an edge that falls between two of them is seen by neither.
        self.embed = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(Block(channels, heads, reduction, rate) for rate in rates)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C_in, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        x = self.embed_norm(self.embed(maps).permute(0, 2, 3, 1))  # (B, h, w, C)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).permute(0, 3, 1, 2)  # (B, C, h, w)


class MixTransformer(nn.Module):
    """MiT, the backbone: ``MixTransformer(**MIT_PRESETS["b0"])`` to ``"b5"``.

    Args:
        in_channels: channels of the images.
        channels: of c1 .. c4.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        reductions: R of each stage; 8, 4, 2, 1 gives all four as many keys, H W / 1024.
        drop_path: rate of stochastic depth of the last block; it grows from 0, block by block.

    Attributes:
        stages: four modules, each from a map (B, C, h, w) to the next.
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        channels: tuple[int, ...] = (32, 64, 160, 256),
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (1, 2, 5, 8),
        reductions: tuple[int, ...] = (8, 4, 2, 1),
        drop_path: float = 0.1,
    ):
        super().__init__()
        self.in_channels, self.channels, self.strides = in_channels, tuple(channels), (4, 8, 16, 32)
        rates = [part.tolist() for part in torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))]
        before = (in_channels, *channels[:-1])
        places = ((7, 4), (3, 2), (3, 2), (3, 2))[: len(channels)]  # kernel and stride of each patch embedding
        stages = zip(before, channels, heads, reductions, rates, places, strict=True)
        self.stages = nn.ModuleList(Stage(*sizes, *place) for *sizes, place in stages)
        init_transformer(self)
        init_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in_channels, H, W) to c1 .. c4, from (B, 32, H/4, W/4) to (B, 256, H/32, W/32)."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def init_convolutions(module: nn.Module) -> None:
    """Start each convolution from He's normal, with zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MLPDecoder(nn.Module):
    """Four maps to one at 1/4, by linear layers alone (Section 3.2, Equation 4).

    Args:
        channels: channels of c1 .. c4.
        proj_dim: E, to which each map is projected.
        dropout: share of the channels dropped in training.
        upsample_first: enlarge each map before it is fused, as Section 3.2 says, and not after (see the ledger).
    """

    def __init__(
        self, channels: Sequence[int], proj_dim: int = 256, dropout: float = 0.1, *, upsample_first: bool = False
    ):
        super().__init__()
        self.upsample_first = upsample_first
        self.project = nn.ModuleList(nn.Linear(c, proj_dim) for c in channels)
        # One matrix over the concatenation of four maps is the sum of four matrices, one over each of them.
        self.fuse = nn.ModuleList(nn.Linear(proj_dim, proj_dim, bias=False) for _ in channels)
        bound = (len(channels) * proj_dim) ** -0.5  # PyTorch's own start of the one matrix
        for weight in self.fuse.parameters():
            nn.init.uniform_(weight, -bound, bound)
        self.norm = BatchNorm2d(proj_dim)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """c1 .. c4, (B, C, h, w) each, to (B, proj_dim, H/4, W/4), at the size of c1."""
        size = maps[0].shape[2:]
        fused: Any = None  # the sum so far
        for c, project, fuse in zip(maps, self.project, self.fuse, strict=True):
            level = project(c.permute(0, 2, 3, 1))  # (B, h, w, E)
            level = fuse(enlarge(level, size) if self.upsample_first else level)
            if fused is not None and not self.upsample_first:
                level = enlarge(level, size)  # (B, H/4, W/4, E)
            fused = level if fused is None else fused + level
        return self.dropout(F.relu(self.norm(fused.permute(0, 3, 1, 2))))  # (B, E, H/4, W/4)

    @torch.no_grad()
    def merge(self) -> None:
        """Make one matrix of each level's two, in place, once training is over: the same sum up to rounding."""
        for level, (project, fuse) in enumerate(zip(self.project, self.fuse, strict=True)):
            if isinstance(project, nn.Linear) and isinstance(fuse, nn.Linear):
                project.weight.copy_(fuse.weight @ project.weight)
                project.bias.copy_(fuse.weight @ project.bias)
                self.fuse[level] = nn.Identity()


class SegFormer(nn.Module):
    """MiT, the MLP decoder, a linear classifier, and one enlargement by 4: ``SegFormer(150, **PRESETS["b0"])``.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        channels: of c1 .. c4.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        proj_dim: E, channels of the decoder.
        drop_path: rate of stochastic depth of the backbone's last block.
        dropout: share of the channels dropped before the classifier in training.

    Raises:
        ValueError: no classes.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        channels: tuple[int, ...] = (32, 64, 160, 256),
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (1, 2, 5, 8),
        proj_dim: int = 256,
        drop_path: float = 0.1,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_num_classes(num_classes)
        backbone: dict[str, Any] = {"channels": channels, "depths": depths, "heads": heads, "drop_path": drop_path}
        self.backbone = MixTransformer(in_channels=in_channels, **backbone)
        self.decoder = MLPDecoder(channels, proj_dim, dropout)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        embedding = self.decoder(self.backbone(images))  # (B, E, H/4, W/4)
        return resize(self.classifier(embedding), images.shape[2:])  # (B, C, H, W)


_WIDE = {"channels": (64, 128, 320, 512)}
MIT_PRESETS: dict[str, dict[str, Any]] = {
    "b0": {},
    "b1": _WIDE,
    "b2": {**_WIDE, "depths": (3, 4, 6, 3)},
    "b3": {**_WIDE, "depths": (3, 4, 18, 3)},
    "b4": {**_WIDE, "depths": (3, 8, 27, 3)},
    "b5": {**_WIDE, "depths": (3, 6, 40, 3)},
    "tiny": {"channels": (16, 32, 64, 96), "heads": (1, 2, 4, 6), "drop_path": 0.0},
}
_PROJ_DIMS = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768, "tiny": 64}
PRESETS: dict[str, dict[str, Any]] = {
    name: {**backbone, "proj_dim": _PROJ_DIMS[name]} for name, backbone in MIT_PRESETS.items()
}
