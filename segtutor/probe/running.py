"""Running a model once, without changing it: the ground that every instrument stands on.

Counting runs the model on PyTorch's *meta* device where it can: shapes flow through it, numbers do not, so even the
largest model is counted in a moment and without memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.modes import kept_modes


def _input_channels(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


def input_shape(model: nn.Module, size: Sequence[int], batch: int = 1) -> tuple[int, int, int, int]:
    """(H, W), (C, H, W) or (B, C, H, W) -> (B, C, H, W), channels those of the model's first convolution."""
    size = tuple(int(n) for n in size)
    if len(size) == 2:
        return (batch, _input_channels(model), *size)
    if len(size) == 3:
        return (batch, *size)
    if len(size) == 4:
        return size
    raise ValueError(f"size must be (H, W), (C, H, W) or (B, C, H, W), got {size}")


def run_without_numbers(model: nn.Module, shape: Sequence[int]) -> Any:
    """One forward pass on the meta device; a real one for a model whose code depends on the numbers in its tensors.

    The model's own tensors are swapped for meta tensors during the call: nothing is copied, and the running statistics
    stay what they were.
    """
    states = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers(remove_duplicate=False))
    try:
        swaps: dict[str, Tensor] = {}
        stand_ins: dict[int, Tensor] = {}  # by the tensor's identity, so that tied weights stay tied
        for name, tensor in [*states[0].items(), *states[1].items()]:
            stand_in = stand_ins.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))
            swaps[name] = stand_in.requires_grad_(tensor.requires_grad)
        dtype = next((t.dtype for t in swaps.values() if t.is_floating_point()), torch.float32)
        return torch.func.functional_call(model, swaps, (torch.empty(*shape, dtype=dtype, device="meta"),))
    except (NotImplementedError, RuntimeError, TypeError):
        first = next(iter(states[0].values()), torch.empty(0))
        images = torch.zeros(*shape, dtype=first.dtype, device=first.device)
        copies = {name: tensor.detach().clone() for name, tensor in states[1].items()}
        with torch.random.fork_rng(devices=[first.device] if first.is_cuda else []):
            return torch.func.functional_call(model, copies, (images,))


@contextlib.contextmanager
def train_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for the whole model in the block; after it each module has its own mode back."""
    with kept_modes(model):
        model.train(training)
        yield


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    return [t for item in value for t in tensors_in(item)] if isinstance(value, (list, tuple)) else []
