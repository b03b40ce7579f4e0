r"""ViT: an image becomes a sequence of patches, and every patch reads every other, from the first layer on.

**Paper.** Dosovitskiy et al., *An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale*, ICLR 2021,
arXiv 2010.11929. Read Section 3.1 with Figure 1 (the whole method: four equations), Section 3.2 (another image size)
and Section 4.5 with Figure 7 (what the positions learn, how far attention looks). The two decoders are those of Strudel
et al., *Segmenter*, arXiv 2105.05633, Section 3.2 (linear), and Zheng et al., *SETR*, arXiv 2012.15840, Section 3.3
(progressive upsampling).

**Departures ledger**

* Sides that are no multiple of the patch are padded with zeros on the right and below; the padded patches attend like
  all others, and the scores are cut back to the image. Paper and torchvision take multiples only, torchvision one size.
* Positions for another grid are interpolated bicubically with ``align_corners=False``, at each call, as transformers
  does. torchvision's ``interpolate_embeddings`` uses True and writes the result back; timm smooths as well.
* The authors' classifier has a hidden layer while it is trained on ImageNet-21k. Here as in torchvision: one linear
  layer. Dropout is left out; torchvision's rate is zero unless asked for.
* The linear decoder reads the encoder's normalised patches; the class token is computed, attended to, and dropped.
* Progressive upsampling scores before its last enlargement and not after it: both are linear, so the scores are the
  same up to rounding, and a quarter of the work is left. Its 3x3 convolutions have no bias before their normalisation.

**Shapes.** images (B, in_channels, H, W), H and W at least 32, to scores (B, num_classes) in `ViT` and to logits
(B, num_classes, H, W) in `ViTSegmenter`. In comments P is the patch's side, D the width, N = 1 + h w the tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.layers import (
    attention,
    check_images,
    check_num_classes,
    conv_norm_relu,
    crop,
    init_transformer,
    pad_to_multiple,
    resize,
    sizes_are_symbols,
    softmax_attention,
)


class SelfAttention(nn.Module):
    """Each token asks all tokens, several questions at once (Section 3.1, equation 2, and Appendix A).

    Args:
        width: channels D of a token.
        heads: questions asked at once; each sees D / heads channels.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) to queries, keys and values, (B, heads, N, D/heads) each."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, D/heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, D)."""
        mixed = attention(*self.split(x))  # (B, heads, N, D/heads)
        return self.project(mixed.transpose(1, 2).flatten(2))  # (B, N, D)

    def forward_with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the explicit softmax: (B, N, D), and who looked at whom, (B, heads, N, N)."""
        mixed, weights = softmax_attention(*self.split(x))  # (B, heads, N, D/heads), (B, heads, N, N)
        return self.project(mixed.transpose(1, 2).flatten(2)), weights


class Block(nn.Module):
    """Read the others, then think for yourself: attention and an MLP, each added to what was there (equations 2, 3)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, D)."""
        # Normalised before, not after: the sum itself is not rescaled, and gradients reach the first block as they are.
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, positions, blocks; one linear layer reads the class token.

    Args:
        num_classes: classes to score.
        in_channels: channels of the images.
        patch: side P of a patch in pixels.
        image_size: side of the square images for whose grid positions are learned; other grids interpolate them.
        width: channels D of a token.
        depth: number of blocks.
        heads: of each attention.

    Raises:
        ValueError: no classes, heads that do not divide the width, or patches that do not divide the image.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        patch: int = 16,
        image_size: int = 224,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__()
        check_num_classes(num_classes)
        if width % heads or image_size % patch:
            raise ValueError(f"heads={heads} must divide width={width}, and patch={patch} image_size={image_size}.")
        self.in_channels, self.patch, self.grid = in_channels, patch, image_size // patch
        # Kernel and stride are the patch: each patch's pixels through one linear layer, and no overlap.
        self.project = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + self.grid**2, width))  # the class token's is the first
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head: nn.Module = nn.Linear(width, num_classes)
        init_transformer(self)

    def positions_for(self, height: int, width: int) -> Tensor:
        """Positions (1, 1 + height * width, D) of the class token and of a grid of this many patches."""
        if not sizes_are_symbols() and (height, width) == (self.grid, self.grid):
            return self.positions
        # The class token stands nowhere in the grid, so its position must not be interpolated with the others.
        first, rest = self.positions[:, :1], self.positions[:, 1:]
        rest = rest.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (1, D, grid, grid)
        rest = F.interpolate(rest, size=(height, width), mode="bicubic", align_corners=False)  # (1, D, h, w)
        return torch.cat([first, rest.flatten(2).transpose(1, 2)], dim=1)  # (1, 1 + h w, D)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """images (B, in_channels, H, W) to tokens (B, 1 + h w, D), the class token first, and the grid (h, w)."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        patches = self.project(pad_to_multiple(images, self.patch))  # (B, D, h, w)
        tokens = patches.flatten(2).transpose(1, 2)  # (B, h w, D), row by row
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), tokens], dim=1)  # (B, 1 + h w, D)
        return tokens + self.positions_for(*patches.shape[2:]), patches.shape[2:]

    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """images (B, in_channels, H, W) to what the last block makes of the tokens (B, 1 + h w, D), and (h, w)."""
        tokens, grid = self.embed(images)  # (B, 1 + h w, D)
        return self.norm(self.blocks(tokens)), grid

    def features(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to the patches as a map (B, D, h, w): h and w are H/P and W/P, rounded up."""
        tokens, grid = self.encode(images)  # (B, 1 + h w, D)
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)  # (B, D, h, w), without the class token

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to class scores (B, num_classes)."""
        return self.head(self.encode(images)[0][:, 0])  # (B, num_classes), read off the class token

    def attention_maps(self, images: Tensor) -> list[Tensor]:
        """Who looks at whom: for each block the weights (B, heads, N, N), a row for each token that asks."""
        tokens, _ = self.embed(images)  # (B, N, D)
        maps = []
        block: Any  # a `Block`, of which nn.Sequential says no more than that it is a module
        for block in self.blocks:
            maps.append(block.attention.forward_with_weights(block.norm1(tokens))[1])  # (B, heads, N, N)
            tokens = block(tokens)
        return maps


def progressive_upsampling(width: int, num_classes: int, patch: int, channels: int = 256) -> nn.Sequential:
    """Convolutions with a doubling between them: (B, width, h, w) to scores (B, num_classes, P/2 h, P/2 w)."""
    layers: list[nn.Module] = [conv_norm_relu(width, channels)]  # (B, 256, h, w)
    for _ in range((patch - 1).bit_length() - 1):  # 16 = 2 ** 4: three here, the fourth doubling is the last resize
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))  # (B, 256, 2h, 2w) and so on
        layers.append(conv_norm_relu(channels, channels))
    return nn.Sequential(*layers, nn.Conv2d(channels, num_classes, 1))


class ViTSegmenter(ViT):
    """The same network, with a head that reads every patch in place of the class token.

    Args:
        num_classes: classes to score.
        decoder: "linear" (one linear layer, the same for each patch) or "progressive" (convolutions and doublings).
        **vit: the arguments of `ViT`.

    Raises:
        ValueError: an unknown decoder, or what `ViT` refuses.
    """

    def __init__(self, num_classes: int, *, decoder: str = "linear", **vit: int):
        super().__init__(num_classes, **vit)
        if decoder not in ("linear", "progressive"):
            raise ValueError(f'decoder is "{decoder}"; choose "linear" or "progressive".')
        width = self.positions.shape[2]
        if decoder == "linear":
            self.head = nn.Conv2d(width, num_classes, 1)  # 1x1: a linear layer at each patch
        else:
            self.head = progressive_upsampling(width, num_classes, self.patch, min(256, width))

    def forward(self, images: Tensor) -> Tensor:
        """images (B, in_channels, H, W) to logits (B, num_classes, H, W)."""
        patches = self.features(images)  # (B, D, h, w)
        scores = resize(self.head(patches), [self.patch * side for side in patches.shape[2:]])  # (B, C, P h, P w)
        # Cut, not squeezed: the grid covers the padded image, and each patch must stay where its pixels are.
        return crop(scores, images.shape[2:])  # (B, C, H, W)


PRESETS: dict[str, dict[str, Any]] = {
    "b16": {},
    "b32": {"patch": 32},
    "l16": {"width": 1024, "depth": 24, "heads": 16},
    "tiny": {"patch": 8, "image_size": 128, "width": 96, "depth": 4, "heads": 3},
}
