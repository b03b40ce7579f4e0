"""A run is a folder: what was asked for, the model, its curves, and what it takes to continue.

config.yaml     the configuration, every default filled in
last/           the model as it was last saved: weights, classes, colours, normalisation
best/           the model at its best validation
history.json    loss and learning rate of each step, the scores of each validation
split/          the names of the images of each part, where a list or a draw parted a folder
checkpoint.pt   what it takes to continue
scores.json     what `evaluate` found
tensorboard/    the curves for TensorBoard, where they were asked for
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from segtutor.factory import SegmentationModel
from segtutor.factory.config import read_yaml
from segtutor.files import write_text
from segtutor.runs.recipe import Recipe, read_recipe
from segtutor.runs.schema import config_text

CONFIG, CHECKPOINT, HISTORY, SCORES = "config.yaml", "checkpoint.pt", "history.json", "scores.json"
BEST, LAST, SPLIT, TENSORBOARD = "best", "last", "split", "tensorboard"


class RunError(ValueError):
    """A run's folder, or its data, are not what a command needs."""


def check_unused(run: Path) -> None:
    """Raise RunError where a folder cannot become a new run: it has files in it, or is itself a file."""
    if run.is_file() or (run.is_dir() and any(run.iterdir())):
        how = f"continue it with `segtutor train --resume {run}`, or " if (run / CONFIG).is_file() else ""
        raise RunError(f"{run} is in use: {how}name another folder with --out.")


def write_recipe(run: Path, recipe: Recipe, data: Any) -> None:
    """Make the folder of a new run, and write down what was asked for and which images are in which split.

    Args:
        run: the folder.
        recipe: the checked configuration.
        data: the opened training data.
    """
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / CONFIG, config_text(recipe.to_dict()))
    parts = getattr(data, "parts", None)
    if parts is not None and parts.how != "folders":
        parts.write_lists(run / SPLIT)


def recipe_of(run: Path) -> Recipe:
    """What a run was asked for.

    Raises:
        RunError: the folder is not a run.
    """
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} is not a run: {CONFIG} is missing; give a folder that `segtutor train` made.")
    config = read_yaml(run / CONFIG)
    if (run / SPLIT).is_dir():  # images that came later do not change what this run was trained on
        config["data"] = {**config["data"], "lists": str((run / SPLIT).absolute())}
    return read_recipe(config)


def load_model(run: Path, weights: str | None) -> tuple[SegmentationModel, str]:
    """A run's model in evaluation mode, on the GPU where there is one, and which it is, "best" or "last".

    Args:
        run: the folder.
        weights: "best" or "last"; None: the best one where it was kept.

    Raises:
        RunError: no such model has been saved.
    """
    found = [name for name in (BEST, LAST) if (run / name).is_dir()]
    if not found or (weights is not None and weights not in found):
        raise RunError(
            f"{run} has no {f'{weights} model' if weights else 'model'} yet: continue it with "
            f"`segtutor train --resume {run}`."
        )
    which = found[0] if weights is None else weights
    device = "cuda" if torch.cuda.is_available() else None
    return SegmentationModel.from_pretrained(run / which, device=device), which


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write a JSON file, in which a score that does not exist is null, since JSON has no NaN."""
    write_text(path, json.dumps(_without_nan(value), indent=indent) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
