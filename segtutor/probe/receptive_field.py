"""The pixels that one output position can see, and those that it does see: measured by gradients, or by formula."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segtutor.probe.running import input_shape, tensors_in, train_mode


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The input pixels that one output position can see.

    Attributes:
        height, width: extent in input pixels.
        top, left: first row and column of the field.
        position: (row, column) of the output position.
        clipped: the field reaches a border of the input, so the true one may be larger.
    """

    height: int
    width: int
    top: int
    left: int
    position: tuple[int, int]
    clipped: bool

    def __repr__(self) -> str:
        more = ", reaches the border of the image" if self.clipped else ""
        return f"ReceptiveField({self.height} x {self.width} pixels{more})"


def receptive_field(
    model: nn.Module, size: Sequence[int], *, layer: str | None = None, at: tuple[int, int] | None = None
) -> ReceptiveField:
    """Measure which input pixels can influence one output position: where its gradient is not zero.

    Gradients of a trained network are zero at many pixels by accident (a dead ReLU, the loser of a max-pool). What is
    wanted is the field that the geometry allows, so the measurement uses a float64 copy with positive random weights,
    in which nothing cancels, and averages where the model takes maxima. Choose the image larger than the field, or it
    is clipped.

    Args:
        model: any module that takes images; it is not changed.
        size: (H, W) or (C, H, W) of the image.
        layer: dotted name of the module whose output to probe; None: the model's (first) output.
        at: (row, column) in that output map; None: its centre.

    Raises:
        ValueError: the output is no map, or the position is outside it.
    """
    shape = input_shape(model, size)
    positive = _made_positive(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    with torch.enable_grad(), _AverageInsteadOfMax():
        gradient, position = _probed(positive, images.to(device).requires_grad_(), layer, at)
    seen = (gradient != 0).flatten(0, 1).any(0)  # (H, W)
    rows, columns = seen.any(1).nonzero().flatten().tolist(), seen.any(0).nonzero().flatten().tolist()
    if not rows:
        raise ValueError("no input pixel influences that output position: is it computed from the image at all?")
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    clipped = top == 0 or left == 0 or bottom == shape[-2] - 1 or right == shape[-1] - 1
    return ReceptiveField(bottom - top + 1, right - left + 1, top, left, position, clipped)


@dataclasses.dataclass(frozen=True)
class EffectiveField:
    """Where the influence on one output position really lies.

    Attributes:
        map: (H, W) float32, magnitude of the gradient at each input pixel, sum 1.
        side: side in pixels of the smallest square around the map's centre of mass that holds `share` of it.
        share: that share.
        position: (row, column) of the output position.
    """

    map: Tensor
    side: int
    share: float
    position: tuple[int, int]

    def __repr__(self) -> str:
        return f"EffectiveField({100 * self.share:g} % of the gradient within {self.side} x {self.side} pixels)"


def effective_receptive_field(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | None = None,
    at: tuple[int, int] | None = None,
    share: float = 0.95,
) -> EffectiveField:
    """Measure how strongly each input pixel influences one output position, with the model's own weights.

    The effective receptive field of Luo et al. (arXiv 1701.04128, section 3): roughly Gaussian, and much smaller than
    the field that :func:`receptive_field` measures.

    Args:
        model: any module that takes images; run in evaluation mode and not changed.
        images: (B, C, H, W) float, normalised; the magnitudes are averaged over them.
        layer, at: as in :func:`receptive_field`.
        share: the part of the total magnitude that `side` should hold.
    """
    images = images.detach().clone().requires_grad_()
    with train_mode(model, training=False), torch.enable_grad():
        gradient, position = _probed(model, images, layer, at)
    magnitude = gradient.abs().double().mean(dim=(0, 1)).cpu()  # (H, W)
    if not magnitude.sum() > 0:
        raise ValueError("the gradient is zero everywhere: the units at this position are dead, choose another")
    magnitude /= magnitude.sum()
    height, width = magnitude.shape
    row = round(float((magnitude.sum(1) * torch.arange(height)).sum()))
    column = round(float((magnitude.sum(0) * torch.arange(width)).sum()))
    distance = torch.maximum(
        (torch.arange(height) - row).abs()[:, None], (torch.arange(width) - column).abs()[None, :]
    )  # (H, W) Chebyshev: rings of squares
    held = torch.zeros(int(distance.max()) + 1, dtype=torch.float64)
    held.index_add_(0, distance.flatten(), magnitude.flatten())
    radius = int((held.cumsum(0) < share).sum())
    return EffectiveField(magnitude.float(), 2 * min(radius, len(held) - 1) + 1, share, position)


def receptive_field_formula(layers: nn.Module | Iterable[Sequence[int]]) -> int:
    r"""Receptive field of a chain of layers: :math:`r = 1 + \sum_i (k_i - 1)\, d_i \prod_{j<i} s_j` pixels.

    Each layer adds its kernel's reach, (k - 1) d, measured in steps of its own input; one such step is the product of
    the strides before it in input pixels. Padding moves the field and does not change its size.

    Args:
        layers: (kernel, stride, dilation) of each layer in order, the trailing ones may be left out as 1; or a module
            without branches, whose convolutions and poolings are taken in the order of registration.

    Raises:
        ValueError: a kernel that is not square, or a layer that upsamples.
    """
    if isinstance(layers, nn.Module):
        layers = _chain(layers)
    field, step = 1, 1
    for kernel, *rest in layers:
        stride, dilation = (*rest, 1, 1)[:2]
        field += (kernel - 1) * dilation * step
        step *= stride
    return field


def _probed(
    model: nn.Module, images: Tensor, layer: str | None, at: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int]]:
    """(gradient of one output position with respect to `images`, that position)."""
    caught: list[Tensor] = []
    hook = None
    if layer is not None:
        modules = dict(model.named_modules())
        if layer not in modules:
            raise ValueError(f"the model has no module named {layer!r}; it has {', '.join(filter(None, modules))}")
        # A copy, because a later in-place operation (a ReLU, mostly) would change what the layer returned.
        hook = modules[layer].register_forward_hook(
            lambda module, args, output: caught.extend(tensor.clone() for tensor in tensors_in(output)[:1])
        )
    try:
        output = model(images)
    finally:
        if hook is not None:
            hook.remove()
    found = caught if layer is not None else tensors_in(output)
    if not found or found[0].dim() != 4:
        raise ValueError(f"a receptive field needs a map (B, C, h, w), and {layer or 'the model'} does not return one")
    height, width = found[0].shape[-2:]
    row, column = (height // 2, width // 2) if at is None else at
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"position {(row, column)} is outside the {height} x {width} output map")
    (gradient,) = torch.autograd.grad(found[0][:, :, row, column].sum(), images)
    return gradient, (row, column)


def _made_positive(model: nn.Module) -> nn.Module:
    """A float64 copy in which nothing can cancel or die: positive weights, zero biases, neutral normalisation."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            values = torch.rand(weight.shape, generator=generator, dtype=torch.float64) + 0.5
            weight.copy_(values / values[0].numel())  # about a mean, so that activations keep their size through depth
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
        elif name.endswith("running_var"):
            buffer.fill_(1.0)
    return model


_MAX_POOL = inspect.signature(
    lambda input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: None
)


class _AverageInsteadOfMax(TorchFunctionMode):
    """Max-pooling passes gradient to one pixel of a window although it looked at all; averaging passes it to all."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in ("max_pool2d", "_max_pool2d", "max_pool2d_with_indices", "_max_pool2d_with_indices"):
            bound = _MAX_POOL.bind(*args, **kwargs)
            bound.apply_defaults()
            a = bound.arguments
            if a["dilation"] in (1, (1, 1), [1, 1]):
                stride = a["stride"] if a["stride"] else a["kernel_size"]  # None and () both mean the kernel size
                average = F.avg_pool2d(a["input"], a["kernel_size"], stride, a["padding"], a["ceil_mode"])
                if "indices" not in name and not a["return_indices"]:
                    return average
                with torch.no_grad():
                    indices = F.max_pool2d(
                        a["input"], a["kernel_size"], stride, a["padding"], 1, a["ceil_mode"], return_indices=True
                    )[1]
                return average, indices
        if name == "adaptive_max_pool2d":
            return F.adaptive_avg_pool2d(args[0], args[1] if len(args) > 1 else kwargs["output_size"])
        return function(*args, **kwargs)


def _chain(module: nn.Module) -> list[tuple[int, int, int]]:
    def single(value: int | tuple[int, ...], what: str) -> int:
        values = {value} if isinstance(value, int) else set(value)
        if len(values) != 1:
            raise ValueError(f"{what} {value} is not square: give (kernel, stride, dilation) for one direction")
        return values.pop()

    found: list[tuple[int, int, int]] = []
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.ConvTranspose2d, nn.Upsample)):
            raise ValueError(f"{name} upsamples: the formula is for chains that keep or lower the resolution")
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            values = layer.kernel_size, layer.stride, getattr(layer, "dilation", 1)
            kernel, stride, dilation = (single(value, f"{name}'s geometry") for value in values)
            found.append((kernel, stride, dilation))
    return found
