"""The state of a training run as one file, so that a run that was cut short goes on as if it had not been.

What it takes to continue bit for bit: the weights with their running statistics, their mean, the optimiser's moments,
the loss scaler, every process's generators of random numbers, and the step. The learning rate and the order of the
images follow from the step alone. A checkpoint holds tensors and plain values, and is read without executing anything
that is in it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from segtutor.files import whole_file
from segtutor.training.averaging import MeanWeights

FORMAT = 4
RATES = ("lr", "initial_lr", "weight_decay")  # settings of an optimiser, which its state dict holds beside its state


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> Path:
    """Write a state that :func:`~segtutor.training.fit` handed out: the whole file, or nothing.

    A power cut in the middle of it leaves the checkpoint that was there before.

    Args:
        state: tensors and plain values.
        path: the file; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with whole_file(path) as part:
        try:
            with part.open("wb") as file:
                torch.save(dict(state), file)
        except RuntimeError as error:  # torch puts its own in the place of the system's
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    return path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, for ``fit(..., resume=state)``.

    Raises:
        ValueError: there is no such file, or it holds no state of a run.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: nothing was saved before the run ended, so start it anew")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each way of being no checkpoint has a type of its own
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__}): start anew") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} holds no state of a training run that this version can continue: start the run anew")
    return state


def snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    mean: MeanWeights | None = None,
) -> dict[str, Any]:
    """All that the next step depends on but random numbers. The tensors are the live ones: write them before it.

    Beside a mean, the model's are copies, since the model may be given the mean's before they are written.
    """
    weights = model.state_dict()
    return {
        "format": FORMAT,
        "model": weights if mean is None else {name: value.clone() for name, value in weights.items()},
        "mean": None if mean is None else mean.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
    }


def restore(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    mean: MeanWeights | None = None,
) -> None:
    """Put model, optimiser, scaler and mean back to a snapshot; random numbers are :func:`set_random_state`'s.

    Learning rate and weight decay stay those of the given optimiser: who continues a run may choose others.

    Raises:
        ValueError: the snapshot is of another model or optimiser.
    """
    rates = [{key: group[key] for key in RATES if key in group} for group in optimizer.param_groups]
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # of a run in fp16; any other saves none
            scaler.load_state_dict(state["scaler"])
        if (mean is None) != (state["mean"] is None):
            raise ValueError("one of the two keeps a mean of the weights")
        if mean is not None:
            mean.load_state_dict(state["mean"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the saved state is not of this model and optimiser ({reason}): start the run anew") from None
    for group, chosen in zip(optimizer.param_groups, rates, strict=True):
        for key in RATES:
            group.pop(key, None)
        group.update(chosen)


def random_state() -> dict[str, Any]:
    """Where torch, numpy and `random` stand, as tensors and plain values."""
    name, words, *rest = cast(tuple, np.random.get_state(legacy=True))
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [name, torch.from_numpy(words.astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to where torch, numpy and `random` stood in one process."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
    name, words, *rest = state["numpy"]
    np.random.set_state((name, words.numpy().astype(np.uint32), *rest))
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers), spare))
