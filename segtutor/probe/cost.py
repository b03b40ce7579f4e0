"""What a model costs, counted: parameters, operations, and the bytes that a step keeps and holds at most."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from segtutor.probe.running import input_shape, run_without_numbers, tensors_in, train_mode


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
    with train_mode(model, training=False), torch.no_grad(), counter:
        run_without_numbers(model, input_shape(model, size, batch))
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
            train_mode(model, training=True),
            torch.enable_grad(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            _fused_attention(),
        ):
            output = run_without_numbers(model, input_shape(model, size, batch))
            total = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
            del output
    finally:
        hook.remove()
    return total


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
    with train_mode(model, training), torch.set_grad_enabled(training), _fused_attention(), step.watch:
        return run_without_numbers(step, input_shape(model, size, batch))


class _Step(nn.Module):
    """Images in, the most bytes held at once out: the whole step is one call, so that a backward pass which computes
    maps again (gradient checkpointing) meets the same stand-ins as the forward pass."""

    def __init__(self, model: nn.Module, training: bool):
        super().__init__()
        self.model, self.backward, self.watch = model, training, _Alive()

    def forward(self, images: Tensor) -> int:
        weights = list(self.model.parameters())
        self.watch.start(images, ignore=[*weights, *self.model.buffers()])
        ends = [tensor for tensor in tensors_in(self.model(images)) if tensor.requires_grad]
        if self.backward and ends:  # autograd.grad and not backward: no weight's .grad is touched
            wanted = [weight for weight in weights if weight.requires_grad]
            torch.autograd.grad(_AnyLoss.apply(*ends), wanted, allow_unused=True)
        return self.watch.peak


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations return, from the moment each is returned until its last owner lets go.

    It stands below autograd, so it sees the backward pass as well. Views and in-place results are storages that are
    known already: they cost nothing, as in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.start()

    def start(self, *tensors: Tensor, ignore: Iterable[Tensor] = ()) -> None:
        """Forget what was seen; `tensors` are alive now, and what `ignore` holds never counts."""
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0
        self.kept = [tensor.untyped_storage() for tensor in ignore]  # so that no new storage gets their addresses
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

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self.see(tensor)
        return result


class _AnyLoss(torch.autograd.Function):
    """A scalar whose backward pass gives every tensor a gradient of its own size, to which nothing else refers."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.likes = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.ones(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.likes)


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention by one kernel, as a CPU or a GPU computes it; the meta device would use products and a softmax.

    The difference is the N x M weights, which the kernel does not keep in memory.
    """
    apart = F.scaled_dot_product_attention

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        **more: Any,
    ) -> Tensor:
        # What the CPU's kernel takes: contiguous rows, and a bias that is not trained (its gradient needs the weights).
        fits = query.is_meta and query.dim() == 4 and query.shape[-1] == value.shape[-1] and not dropout_p and not more
        fits = fits and all(tensor.stride(-1) == 1 for tensor in (query, key, value))
        if attn_mask is not None:
            fits = fits and attn_mask.is_floating_point() and attn_mask.dim() in (2, 4) and not attn_mask.requires_grad
        if not fits:
            return apart(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]

    patched: Any = attend
    F.scaled_dot_product_attention = patched
    try:
        yield
    finally:
        F.scaled_dot_product_attention = apart
