"""The mean of the weights over the last steps, which answers more steadily than the weights of any one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MeanWeights:
    """An exponential moving average of a model's weights and buffers, by ``torch.optim.swa_utils.AveragedModel``.

    After step n the mean keeps min(decay, (1 + n) / (10 + n)) of itself, so that a short run forgets its random start.

    Args:
        model: whose weights are averaged; it is copied, not changed.
        decay: share of the mean that a step keeps, from 0 to below 1.

    Raises:
        ValueError: a decay out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema is {decay}; it is the share of the mean that a step keeps, so choose 0 to below 1")
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)

    def _average(self, mean: Any, now: Any, _: Any) -> None:
        step = int(self._averaged.n_averaged)  # on the CPU, so that no device is waited for
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(mean, now, step)

    @property
    def model(self) -> nn.Module:
        """A copy of the model with the mean weights."""
        module: nn.Module = self._averaged.module
        return module

    def update(self, model: nn.Module) -> None:
        """Take the weights in after a step."""
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """The mean, and how many steps are in it."""
        return dict(self._averaged.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved mean."""
        self._averaged.load_state_dict(state)

    @contextlib.contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the mean weights; after it, its own."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            self.copy_into(model)
            yield
        finally:
            model.load_state_dict(own)

    @torch.no_grad()
    def copy_into(self, model: nn.Module) -> None:
        """Give the model the mean weights for good."""
        model.load_state_dict(self.model.state_dict())
