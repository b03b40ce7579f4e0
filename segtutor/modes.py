"""Training and evaluation mode of a model's modules, remembered one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put every module of the model back into the mode that it has now, after the block has set others.

    ``model.train(was_training)`` would set one mode for all modules, and so thaw the normalisation layers that
    somebody had put into evaluation mode.

    Example:
        >>> with kept_modes(model):
        ...     model.eval()
        ...     scores = model(images)
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
