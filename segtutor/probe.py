"""Measuring instruments: shapes, parameters, FLOPs, receptive fields, memory and time of any model.

Nothing here knows a particular network. Counting functions run the model on PyTorch's *meta* device where they can:
shapes flow through it, numbers do not, so even the largest model is counted in a moment and without memory.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


# ----------------------------------------------------------------------------------------------------------- inputs
def _input_channels(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def _input_shape(model: nn.Module, size: Sequence[int], batch: int = 1) -> tuple[int, int, int, int]:
    """(H, W), (C, H, W) or (B, C, H, W) -> (B, C, H, W), channels those of the model's first convolution."""
    size = tuple(int(n) for n in size)
    if len(size) == 2:
        return (batch, _input_channels(model), *size)
    if len(size) == 3:
        return (batch, *size)
    if len(size) == 4:
        return size
    raise ValueError(f"size must be (H, W), (C, H, W) or (B, C, H, W), got {size}")


def _run_without_numbers(model: nn.Module, shape: Sequence[int]) -> Any:
    """One forward pass on the meta device, or a real one for a model that needs to see numbers.

    The model's own tensors are swapped for meta tensors during the call: nothing is copied, no running statistic moves.
    """
    states = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers(remove_duplicate=False))
    try:
        swaps: dict[str, Tensor] = {}
        twins: dict[int, Tensor] = {}  # tied weights stay tied
        for name, tensor in [*states[0].items(), *states[1].items()]:
            twin = twins.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
            swaps[name] = twin.requires_grad_(tensor.requires_grad)
        dtype = next((t.dtype for t in swaps.values() if t.is_floating_point()), torch.float32)
        return torch.func.functional_call(model, swaps, (torch.empty(*shape, dtype=dtype, device="meta"),))
    except (NotImplementedError, RuntimeError, TypeError):
        first = next(iter(states[0].values()), torch.empty(0))
        images = torch.zeros(*shape, dtype=first.dtype, device=first.device)
        copies = {name: tensor.detach().clone() for name, tensor in states[1].items()}
        with torch.random.fork_rng(devices=[first.device] if first.is_cuda else []):
            return torch.func.functional_call(model, copies, (images,))


class _Mode:
    """`with _Mode(model, training=...)`: sets train/eval for the block and puts every module's own flag back."""

    def __init__(self, model: nn.Module, training: bool):
        self.model, self.training = model, training

    def __enter__(self) -> None:
        self.flags = [(module, module.training) for module in self.model.modules()]
        self.model.train(self.training)

    def __exit__(self, *error) -> None:
        for module, flag in self.flags:
            module.training = flag


# ----------------------------------------------------------------------------------------------------------- counts
def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of parameters, each shared tensor once; buffers such as running statistics do not count."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def count_flops(model: nn.Module, size: Sequence[int], *, batch: int = 1) -> int:
    """Floating-point operations of one forward pass, as `torch.utils.flop_counter.FlopCounterMode` counts them.

    A multiply-add counts as **2** FLOPs; convolutions, matrix products and attention count, element-wise work does not.
    The "GFLOPs" that papers publish are mostly GMAC, multiply-adds, so halve this number before comparing.

    Args:
        model: any module that takes one image batch.
        size: (H, W), (C, H, W) or (B, C, H, W).
        batch: images, where `size` does not say.
    """
    counter = FlopCounterMode(display=False)
    with _Mode(model, training=False), torch.no_grad(), counter:
        _run_without_numbers(model, _input_shape(model, size, batch))
    return counter.get_total_flops()


def count_saved_bytes(model: nn.Module, size: Sequence[int], *, batch: int = 1) -> int:
    """Bytes that one training step keeps from the forward for the backward pass: its activation memory, counted.

    Every storage that autograd saves counts once, weights excluded. That is the part of a training step's memory that
    grows with image and batch; allocator overhead, workspaces and gradients are not in it, so it is the same on every
    machine. Attention through `torch.nn.functional.scaled_dot_product_attention` counts as its fused kernel.

    Args:
        model: any module that takes one image batch. It is run in training mode; its statistics do not change.
        size: (H, W), (C, H, W) or (B, C, H, W).
        batch: images, where `size` does not say.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    weights: set[int] = set()

    def forget_weights(module: nn.Module, _: Any) -> None:  # inside the call, where the stand-ins are in place
        weights.update(t.untyped_storage()._cdata for t in [*module.parameters(), *module.buffers()])

    hook = model.register_forward_pre_hook(forget_weights)
    try:
        with (
            _Mode(model, training=True),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            _fused_attention(),
        ):
            output = _run_without_numbers(model, _input_shape(model, size, batch))
            total = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
            del output
    finally:
        hook.remove()
    return total


@contextlib.contextmanager
def _fused_attention():
    """The meta device takes attention apart into products and a softmax; a CPU or a GPU runs one kernel, and so here.

    The difference is the N x M weights, which that kernel never writes down.
    """
    apart = F.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, **more):
        # As the CPU chooses: rows that lie together, and a bias that does not learn (its gradient needs the weights).
        fits = query.is_meta and query.dim() == 4 and query.shape[-1] == value.shape[-1] and not dropout_p and not more
        fits = fits and all(tensor.stride(-1) == 1 for tensor in (query, key, value))
        if attn_mask is not None:
            fits = fits and attn_mask.is_floating_point() and attn_mask.dim() in (2, 4) and not attn_mask.requires_grad
        if not fits:
            return apart(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]

    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = apart


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations return, from the moment each is returned until its last owner lets go.

    It stands below autograd, so it sees the backward pass as well. Views and in-place results are storages that are
    known already: they cost nothing, as in memory.
    """

    def __init__(self):
        super().__init__()
        self.start()

    def start(self, *tensors: Tensor, ignore: Iterable[Tensor] = ()) -> None:
        """Forget what was seen; `tensors` are alive now, and what `ignore` holds never counts."""
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0
        self.kept = [tensor.untyped_storage() for tensor in ignore]  # held, so that no new storage takes their places
        self.ignored = {storage._cdata for storage in self.kept}
        for tensor in tensors:
            self.see(tensor)

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, alive = storage._cdata, self.alive
        if key in alive or key in self.ignored:
            return
        alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, alive, key).atexit = False

    def gone(self, alive: dict[int, int], key: int) -> None:
        size = alive.pop(key)
        if alive is self.alive:  # and not what an abandoned attempt left behind
            self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self.see(tensor)
        return result


class _AnyLoss(torch.autograd.Function):
    """A scalar whose backward pass hands every tensor a gradient of its own size, which nobody else holds."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.likes = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ones(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)


def count_peak_bytes(model: nn.Module, size: Sequence[int], *, batch: int = 1, training: bool = True) -> int:
    """Most bytes that one step holds at once **on top of the model's own weights and buffers**, counted exactly.

    With `training`, a step is the forward pass in training mode, a gradient as large as the output (whatever the loss
    is), and the backward pass; it holds the images, the activations, their gradients while they are in use, and the
    gradients of the weights, which start out absent. Without, it is the forward pass in evaluation mode under
    `torch.no_grad`, and a map is gone as soon as no name refers to it.

    Tensors count by the storage that they live in, once. An operator's workspace, the allocator's rounding and the
    optimiser's state are not in the count, so every machine agrees on it; on a GPU the step's
    `torch.cuda.max_memory_allocated` lies above it by the workspaces. What of it is kept from the forward pass for the
    backward pass is `count_saved_bytes`.

    Args:
        model: any module that takes one image batch. Its statistics and gradients do not change.
        size: (H, W), (C, H, W) or (B, C, H, W).
        batch: images, where `size` does not say.
        training: count a training step; False counts an inference.
    """
    step = _Step(model, training)
    with _Mode(model, training), torch.set_grad_enabled(training), _fused_attention(), step.watch:
        return _run_without_numbers(step, _input_shape(model, size, batch))


class _Step(nn.Module):
    """Images in, the most bytes held at once out: the whole step is one call, so that a backward pass which computes
    maps again (gradient checkpointing) meets the same stand-ins as the forward pass."""

    def __init__(self, model: nn.Module, training: bool):
        super().__init__()
        self.model, self.backward, self.watch = model, training, _Alive()

    def forward(self, images: Tensor) -> int:
        weights = list(self.model.parameters())
        self.watch.start(images, ignore=[*weights, *self.model.buffers()])
        ends = [tensor for tensor in _tensors(self.model(images)) if tensor.requires_grad]
        if self.backward and ends:  # autograd.grad and not backward: no weight's .grad is touched
            wanted = [weight for weight in weights if weight.requires_grad]
            torch.autograd.grad(_AnyLoss.apply(*ends), wanted, allow_unused=True)
        return self.watch.peak


# ------------------------------------------------------------------------------------------------------ shape trace
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TraceRow:
    """One call of one module.

    Attributes:
        name: dotted name inside the model.
        kind: class name.
        in_shape: shape of the first tensor argument.
        out_shape: shape of the (first) tensor that came out.
        params: parameters of the module and its children; 0 when the module is called again.
        out_shapes: the shapes of all tensors that came out.
    """

    name: str
    kind: str
    in_shape: Shape
    out_shape: Shape
    params: int
    out_shapes: tuple[Shape, ...] = ()


class Trace(list):
    """List of :class:`TraceRow` in data-flow order that prints as a table."""

    def __repr__(self) -> str:
        def text(shape: Shape) -> str:
            return " x ".join(map(str, shape))

        def texts(row: TraceRow) -> str:
            more = len(row.out_shapes) - 1
            return text(row.out_shape) + (f" (+{more} more)" if more > 0 else "")

        head = ("module", "kind", "input", "output", "parameters")
        cells = [head, *((r.name, r.kind, text(r.in_shape), texts(r), f"{r.params:,}") for r in self)]
        widths = [max(len(row[i]) for row in cells) for i in range(5)]
        lines = [
            "  ".join(row[i].rjust(widths[i]) if i == 4 else row[i].ljust(widths[i]) for i in range(5)) for row in cells
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    __str__ = __repr__


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []


def _at_depth(model: nn.Module, depth: int, prefix: str = "") -> Iterable[tuple[str, nn.Module]]:
    """Modules `depth` levels down, and childless ones above; module lists are no level, for they are never called."""
    for name, child in model.named_children():
        full = f"{prefix}{name}"
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _at_depth(child, depth, full + ".")
        elif depth > 1 and any(True for _ in child.children()):
            yield from _at_depth(child, depth - 1, full + ".")
        else:
            yield full, child


def shape_trace(
    model: nn.Module, size: Sequence[int], *, depth: int = 1, names: Sequence[str] | None = None, batch: int = 1
) -> Trace:
    """Run the model once and write down what goes into and out of its parts, in the order in which data meets them.

    Args:
        model: any module that takes one image batch; what it returns may be a tensor or any nest of tensors.
        size: (H, W), (C, H, W) or (B, C, H, W).
        depth: 1 lists the direct children, 2 their children, ...
        names: list exactly these modules (dotted names) instead.
        batch: images, where `size` does not say.

    Raises:
        ValueError: a name that the model does not have.
    """
    if names is None:
        chosen = list(_at_depth(model, depth)) or [("", model)]
    else:
        known = dict(model.named_modules())
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"the model has no module named {missing[0]!r}; it has {', '.join(filter(None, known))}")
        chosen = [(name, known[name]) for name in names]
    rows, seen = Trace(), set()

    def note(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            inputs = _tensors((args, kwargs))
            shapes = tuple(tuple(t.shape) for t in _tensors(output))
            rows.append(
                TraceRow(
                    name=name or type(module).__name__.lower(),
                    kind=type(module).__name__,
                    in_shape=tuple(inputs[0].shape) if inputs else (),
                    out_shape=shapes[0] if shapes else (),
                    params=0 if id(module) in seen else count_parameters(module),
                    out_shapes=shapes,
                )
            )
            seen.add(id(module))

        return hook

    hooks = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in chosen]
    try:
        with _Mode(model, training=False), torch.no_grad():
            _run_without_numbers(model, _input_shape(model, size, batch))
    finally:
        for hook in hooks:
            hook.remove()
    return rows


# -------------------------------------------------------------------------------------------------- receptive field
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


class _AverageInsteadOfMax(TorchFunctionMode):
    """Max-pooling passes gradient to one pixel of a window although it looked at all; averaging passes it to all."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
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


_MAX_POOL = inspect.signature(
    lambda input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False: None
)


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


def _probed(model: nn.Module, images: Tensor, layer: str | None, at: tuple[int, int] | None):
    """(gradient of one output position with respect to `images`, that position)."""
    caught: list[Tensor] = []
    hook = None
    if layer is not None:
        modules = dict(model.named_modules())
        if layer not in modules:
            raise ValueError(f"the model has no module named {layer!r}; it has {', '.join(filter(None, modules))}")
        hook = modules[layer].register_forward_hook(lambda module, args, output: caught.extend(_tensors(output)[:1]))
    try:
        output = model(images)
    finally:
        if hook is not None:
            hook.remove()
    found = caught if layer is not None else _tensors(output)
    if not found or found[0].dim() != 4:
        raise ValueError(f"a receptive field needs a map (B, C, h, w), and {layer or 'the model'} does not return one")
    height, width = found[0].shape[-2:]
    row, column = (height // 2, width // 2) if at is None else at
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"position {(row, column)} is outside the {height} x {width} output map")
    (gradient,) = torch.autograd.grad(found[0][:, :, row, column].sum(), images)
    return gradient, (row, column)


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
    shape = _input_shape(model, size)
    twin = _made_positive(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    with torch.enable_grad(), _AverageInsteadOfMax():
        gradient, position = _probed(twin, images.to(device).requires_grad_(), layer, at)
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
    with _Mode(model, training=False), torch.enable_grad():
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


def _chain(module: nn.Module) -> list[tuple[int, int, int]]:
    def single(value: int | tuple[int, ...], what: str) -> int:
        values = {value} if isinstance(value, int) else set(value)
        if len(values) != 1:
            raise ValueError(f"{what} {value} is not square: give (kernel, stride, dilation) for one direction")
        return values.pop()

    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.ConvTranspose2d, nn.Upsample)):
            raise ValueError(f"{name} upsamples: the formula is for chains that keep or lower the resolution")
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            values = layer.kernel_size, layer.stride, getattr(layer, "dilation", 1)
            found.append(tuple(single(value, f"{name}'s geometry") for value in values))
    return found


# ------------------------------------------------------------------------------------------------------------- time
@dataclasses.dataclass(frozen=True)
class Timing:
    """Median of repeated measurements with the quartiles around it.

    Attributes:
        median: in `unit`.
        low, high: first and third quartile.
        repeats: number of measurements.
        unit: "ms", or "x" for a ratio.
    """

    median: float
    low: float
    high: float
    repeats: int
    unit: str = "ms"

    def __repr__(self) -> str:
        digits = 3 if self.unit == "x" else 1
        return (
            f"{self.median:.{digits}f} {self.unit} (quartiles {self.low:.{digits}f} to {self.high:.{digits}f}, "
            f"{self.repeats} repeats)"
        )


def _timing(values: Sequence[float], unit: str) -> Timing:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Timing(median, low, high, len(values), unit)


def _milliseconds(function: Callable[[], Any]) -> float:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def time_step(
    model: nn.Module, size: Sequence[int], *, batch: int = 8, repeats: int = 10, training: bool = True, warmup: int = 2
) -> Timing:
    """Time one step on random images: forward, cross-entropy and backward, or the forward pass alone.

    Args:
        model: maps images to logits (B, C, h, w); its gradients and statistics are put back afterwards.
        size: (H, W), (C, H, W) or (B, C, H, W).
        batch: images, where `size` does not say.
        repeats: timed runs; the median and quartiles are reported.
        training: False times a forward pass in evaluation mode.
        warmup: runs that are not timed.

    Returns:
        Milliseconds per step.
    """
    generator = torch.Generator().manual_seed(0)
    first = next(model.parameters())
    images = torch.rand(_input_shape(model, size, batch), generator=generator).to(first.device, first.dtype)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(p, p.grad) for p in model.parameters()]

    def step() -> None:
        if not training:
            with torch.inference_mode():
                model(images)
            return
        logits = _tensors(model(images))[0]
        target = torch.zeros(logits.shape[:1] + logits.shape[2:], dtype=torch.long, device=logits.device)
        for parameter, _ in gradients:
            parameter.grad = None
        F.cross_entropy(logits.float(), target).backward()

    try:
        with _Mode(model, training), torch.random.fork_rng(devices=[first.device] if first.is_cuda else []):
            for _ in range(warmup):
                step()
            return _timing([_milliseconds(step) for _ in range(repeats)], "ms")
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def compare_speed(first: Callable[[], Any], second: Callable[[], Any], repeats: int = 20, *, warmup: int = 2) -> Timing:
    """Median of the ratio time(first) / time(second), from pairs that run one right after the other.

    A busy machine slows both runs of a pair alike, so the ratio is steadier than either time. The order alternates from
    pair to pair, so that neither function always runs on the other's warm cache.

    Returns:
        The ratio with its quartiles; below 1, `first` is faster.
    """
    for _ in range(warmup):
        first(), second()
    ratios = []
    for pair in range(repeats):
        if pair % 2:
            b = _milliseconds(second)
            a = _milliseconds(first)
        else:
            a = _milliseconds(first)
            b = _milliseconds(second)
        ratios.append(a / b)
    return _timing(ratios, "x")
