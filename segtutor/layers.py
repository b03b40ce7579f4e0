"""The few bricks that several models share.

Everything here is small on purpose: a reader of a model file should never have to leave it to understand it.
"""

from collections.abc import Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map bilinearly, sampling at pixel centres.

    Args:
        x: maps (B, C, h, w).
        size: the wanted (H, W), in pixels.

    Returns:
        Tensor (B, C, H, W).
    """
    # align_corners=False keeps pixel centres where they are at every scale; True would stretch the grid to its corners.
    # Side by side, and not tuple(size), which torch.fx cannot take apart.
    return F.interpolate(x, size=(size[0], size[1]), mode="bilinear", align_corners=False)


def sizes_are_symbols() -> bool:
    """Whether this is an export, a compilation or a trace: what is decided by a size now would hold for every size."""
    # torch.jit does not list is_tracing among its names
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def crop(x: Tensor, size: Sequence[int], offset: int = 0) -> Tensor:
    """Cut a map (B, C, H, W) of this (H, W) out of a larger one (B, C, H', W'), from row and column ``offset`` on."""
    height, width = size[0], size[1]
    if sizes_are_symbols():
        # A slice keeps the strides of the larger map, and an exporter would hold on to how the two sizes compare.
        right, below = offset + width - x.shape[3], offset + height - x.shape[2]
        return F.pad(x, (-offset, right, -offset, below))
    return x[:, :, offset : offset + height, offset : offset + width]


def lacking(side: int, multiple: int) -> int:
    """How much a side lacks to the next multiple."""
    # Not -side % multiple: no exporter sees that the sum is a multiple, and ONNX rounds negative quotients up.
    return rounded_up(side, multiple) * multiple - side


def rounded_up(side: int, divisor: int) -> int:
    """A side over a divisor, rounded up."""
    return (side + divisor - 1) // divisor


def region_means(x: Tensor, count: int) -> Tensor:
    """The means of a map (B, C, h, w) over count x count regions, (B, C, count, count): `F.adaptive_avg_pool2d`."""
    if count == 1 or not sizes_are_symbols():
        return F.adaptive_avg_pool2d(x, count)
    # An exporter lists the positions of each region one by one, for this size; as two matrices they fit every size.
    rows, columns = averaging(x.shape[2], count, x), averaging(x.shape[3], count, x)
    return rows @ x @ columns.T


def averaging(side: int, count: int, like: Tensor) -> Tensor:
    """The matrix (count, side) that averages an axis over its regions, which overlap where they do not divide it."""
    position = torch.arange(side, device=like.device)
    region = torch.arange(count, device=like.device)[:, None]
    inside = (position >= region * side // count) & (position < ((region + 1) * side + count - 1) // count)
    return inside.to(like.dtype) / inside.sum(dim=1, keepdim=True)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Add zeros right and below until a network that divides the sides by `multiple` can take the images.

    Args:
        images: (B, C, H, W).
        multiple: of pixels.

    Returns:
        Tensor (B, C, H', W'); where nothing is missing, the images themselves and no copy.
    """
    below, right = lacking(images.shape[2], multiple), lacking(images.shape[3], multiple)
    return F.pad(images, (0, right, 0, below)) if sizes_are_symbols() or below or right else images


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also trains on a single value per channel.

    One image on a 1x1 map has no variance to estimate, and PyTorch raises there. This layer then falls back to the
    running statistics and leaves them untouched, so that a batch of one trains. Everywhere else, and in its
    parameters, buffers and state-dict keys, it is `torch.nn.BatchNorm2d` (Ioffe & Szegedy 2015, arXiv 1502.03167).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W) per channel; same shape out."""
        statistics = (self.running_mean, self.running_var, self.num_batches_tracked)
        return batch_norm(x, statistics, self.weight, self.bias, self.training, self.momentum, self.eps)


def batch_norm(
    x: Tensor,
    statistics: tuple[Tensor | None, Tensor | None, Tensor | None],
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """What `BatchNorm2d` computes: a function of its own, so that torch.fx takes it for one step."""
    mean, variance, batches = statistics
    if mean is not None and (not training or x.numel() == x.shape[1]):
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
    if batches is not None:
        batches.add_(1)
        momentum = 1.0 / float(batches) if momentum is None else momentum
    return F.batch_norm(x, mean, variance, weight, bias, True, momentum or 0.0, eps)


torch.fx.wrap("batch_norm")


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU; "same" padding for odd kernels.

    Maps (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        # The normalisation that follows subtracts the mean, so a bias here could not change anything.
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        BatchNorm2d(out_channels),
        nn.ReLU(),  # not in place: whoever looks at the layer before would see its output rectified
    )


def bilinear_kernel(size: int) -> Tensor:
    """The tent-shaped kernel (size, size) with which a transposed convolution interpolates bilinearly.

    With ``size = 2 s`` and stride ``s`` the weight along one axis is ``1 - |i - (s - 0.5)| / s`` (Long et al. 2015,
    Section 3.3, and the released ``surgery.py``).
    """
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    tent = 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / factor
    return tent[:, None] * tent[None, :]


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762, Section 3.2.1), by PyTorch's fused kernel.

    Args:
        query: (..., N, d).
        key: (..., M, d).
        value: (..., M, e).
        bias: added to the scores, broadcastable to (..., N, M); minus infinity forbids a pair.

    Returns:
        Tensor (..., N, e): for each query, the values averaged by how well their keys match it.
    """
    # The fused kernel never writes the N x M weights down; `softmax_attention` is what it computes.
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same as `attention`, but also returns the weights: the result (..., N, e) and the weights (..., N, M)."""
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5  # (..., N, M)
    # Without the root the scores of d random products have variance d, and softmax of such numbers is one-hot.
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)  # (..., N, M), rows sum to 1
    return weights @ value, weights


class DropPath(nn.Module):
    """Stochastic depth: in training, a residual branch is skipped for some images (Huang et al. 2016, 1603.09382).

    Args:
        rate: probability with which an image's branch is dropped; the others are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...) of the same shape; some images are all zero in training."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"rate={self.rate}"


def init_transformer(module: nn.Module) -> None:
    """Start each linear layer from a truncated normal of deviation 0.02 with zero bias, as ViT, Swin and MiT do."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_num_classes(num_classes: int) -> None:
    """Raise ValueError unless there is at least one class to score."""
    if num_classes < 1:
        raise ValueError(
            f"num_classes is {num_classes}, but a model needs at least 1: pass your data set's class count."
        )


def check_auxiliary(wanted: bool, head: nn.Module | None) -> None:
    """Raise ValueError, saying what to do, where auxiliary logits are wanted of a model without an auxiliary head."""
    if wanted and head is None:
        raise ValueError(
            "auxiliary=True asks for auxiliary logits, but this model has no auxiliary head: build it with "
            "auxiliary=True, or call model(images) alone."
        )


def check_images(images: Tensor, in_channels: int, weights: Tensor | None = None, smallest: int = 32) -> None:
    """Raise ValueError, saying what to do, unless images are (B, in_channels, H, W) with H, W >= smallest.

    They must have the type of `weights`, the model's first, where autocast does not see to that. While torch.fx traces
    a model there are no images to look at.
    """
    if isinstance(images, torch.fx.Proxy):
        return
    if images.dim() != 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, but the model takes (B, {in_channels}, H, W): "
            "add the batch axis with images[None]."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, but the model takes floating-point numbers: scale them to [0, 1], with "
            "images.float() / 255 where they have 8 bits, and normalise them as in training."
        )
    if weights is not None and images.dtype != weights.dtype and weights.is_floating_point():
        # Autocast turns 32 bits into 16, and leaves 64 alone.
        if torch.float64 in (images.dtype, weights.dtype) or not torch.is_autocast_enabled(images.device.type):
            name = str(weights.dtype).removeprefix("torch.")
            raise ValueError(
                f"images are {images.dtype}, but the model's weights are {weights.dtype}: convert the images with "
                f"images.to(torch.{name})."
            )
    _, channels, height, width = images.shape
    if channels != in_channels and width == in_channels:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, with the channels last, but the model takes "
            f"(B, {in_channels}, H, W): put them first with images.permute(0, 3, 1, 2)."
        )
    if channels != in_channels:
        raise ValueError(
            f"images have {channels} channels, but the model was built with in_channels={in_channels}: "
            f"pass in_channels={channels} when building it, or convert the images."
        )
    if height < smallest or width < smallest:  # one by one, which an exporter reads as a range of each
        raise ValueError(
            f"images are {height}x{width} pixels, but the smallest side the model can score is {smallest}: "
            "resize or pad them."
        )
