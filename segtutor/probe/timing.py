"""Time, measured so that a reader can trust it: medians with quartiles, and ratios from pairs of runs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from segtutor.probe.running import input_shape, tensors_in, train_mode


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
    images = torch.rand(input_shape(model, size, batch), generator=generator).to(first.device, first.dtype)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(p, p.grad) for p in model.parameters()]

    def step() -> None:
        if not training:
            with torch.inference_mode():
                model(images)
            return
        logits = tensors_in(model(images))[0]
        target = torch.zeros(logits.shape[:1] + logits.shape[2:], dtype=torch.long, device=logits.device)
        for parameter, _ in gradients:
            parameter.grad = None
        F.cross_entropy(logits.float(), target).backward()

    try:
        with train_mode(model, training), torch.random.fork_rng(devices=[first.device] if first.is_cuda else []):
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


def _timing(values: Sequence[float], unit: str) -> Timing:
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    low, median, high = quartiles
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
