"""One step of a run that leaves no trace: what would stop the run shows before it begins, and what memory it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.modes import kept_modes
from segtutor.training.evaluate import evaluate
from segtutor.training.precision import in_float32, prepare
from segtutor.training.sampling import Samples, check_dataset, loader, seeded


@dataclass(frozen=True)
class Rehearsal:
    """What a step that left no trace was like.

    Attributes:
        loss: of the first batch, before any learning.
        memory: bytes of weights, gradients, the optimiser's moments, and what the forward pass keeps for the backward
            pass; on a GPU the largest that was allocated, with the moments.
        measured: whether the device told, rather than sums of tensors.
    """

    loss: float
    memory: int
    measured: bool


def rehearse(
    model: nn.Module,
    dataset: Samples,
    *,
    loss: Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    auxiliary: bool = False,
    batch_size: int = 8,
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    validation: Samples | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Rehearsal:
    """Make the first step of a run, score one image, and put everything back: weights, buffers, modes, random numbers.

    A run after it has the losses of one without it, bit for bit.

    Args:
        model, dataset, loss, auxiliary, batch_size, batch_transform, seed, device, precision, validation, evaluation:
            as for :func:`fit`.
        optimizer: one of the run's kind for the model's parameters, and not the run's own.

    Returns:
        The loss, and the memory.

    Raises:
        FloatingPointError: the loss is infinite or not a number.
        Exception: whatever else the step raises.
    """
    check_dataset(dataset, "dataset")
    device, dtype = prepare(model, device, precision)
    if isinstance(loss, nn.Module):
        loss.to(device)
    on_gpu = device.type == "cuda"
    before = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(model)}
    saved = _Saved(model)
    with kept_modes(model), seeded(seed, device):
        try:
            if not model.training:
                model.train()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
            images, masks = (batch.to(device) for batch in next(iter(loader(dataset, batch_size, seed, 0))))
            if batch_transform is not None:
                images, masks = batch_transform(images, masks)
            images = images.contiguous(memory_format=torch.channels_last)
            with saved:
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    outputs = model(images, auxiliary=True) if auxiliary else model(images)
                value = loss(in_float32(outputs), masks)
            number = float(value.detach())
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"the loss of the first batch is {number}, before any learning: look for values in images or "
                    "pretrained weights that are not numbers"
                )
            value.backward()
            peak = torch.cuda.max_memory_allocated(device) if on_gpu else saved.memory + 2 * _size(model.parameters())
            del outputs, value, images, masks
            saved.forget()
            if validation is not None:
                evaluate(model, validation, limit=1, **{"precision": precision, **(evaluation or {})})
            optimizer.step()
            moments = [value for state in optimizer.state.values() for value in state.values()]
            peak += _size(value for value in moments if isinstance(value, Tensor))
        finally:
            optimizer.zero_grad(set_to_none=True)
            model.zero_grad(set_to_none=True)
            optimizer.state.clear()
            with torch.no_grad():
                for name, tensor in _tensors(model):
                    tensor.copy_(before[name])
    return Rehearsal(number, peak, on_gpu)


class _Saved:
    """Counts the bytes that autograd saves inside the block, each storage once, weights excluded."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {tensor.untyped_storage().data_ptr() for _, tensor in _tensors(model)}
        self._kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is used twice
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._kept[storage.data_ptr()] = storage
        return tensor

    @property
    def memory(self) -> int:
        """Bytes so far."""
        return sum(storage.nbytes() for storage in self._kept.values())

    def forget(self) -> None:
        """Let go of what was kept."""
        self._kept.clear()

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, those that are not saved with the model included."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
