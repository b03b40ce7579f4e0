"""A run is a folder: what was asked for, the model, its curves, and what it takes to continue.

config.yaml     the configuration, every default filled in
last/           the model as it was last saved: weights, classes, colours, normalisation
best/           the model at its best validation
history.json    loss and learning rate of each step, the scores of each validation, what was changed on the way
metrics.jsonl   a line for each logged step and each validation, for other programs to read while the run goes
metrics.csv     the same as a table
split/          the names of the images of each part, where a list or a draw parted a folder
checkpoint.pt   what it takes to continue
scores.json     what `evaluate` found
report.html     curves, scores, the worst and the best images, and how the run was made: one file to look at or send
tensorboard/    the curves, and panels of a few validation images, for TensorBoard, where they were asked for
.lock           keeps a second run out while one works here
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from segtutor.factory import SegmentationModel
from segtutor.factory.config import read_yaml
from segtutor.files import write_text
from segtutor.runs.errors import RunError
from segtutor.runs.lock import LOCK, OWNER
from segtutor.runs.recipe import Recipe, overridden, read_recipe
from segtutor.runs.schema import config_text

CONFIG, CHECKPOINT, HISTORY, SCORES = "config.yaml", "checkpoint.pt", "history.json", "scores.json"
REPORT = "report.html"
METRICS = ("metrics.jsonl", "metrics.csv")
BEST, LAST, SPLIT, TENSORBOARD = "best", "last", "split", "tensorboard"
MODEL = "model.safetensors"


def check_unused(run: Path) -> None:
    """Raise RunError where a folder cannot become a new run: it has files in it, or is itself a file.

    A run that ended before it saved anything is not in the way.
    """
    if run.is_file() or (run.is_dir() and not _is_free(run)):
        how = f"continue it with `segtutor train --resume {run}`, or " if (run / CONFIG).is_file() else ""
        raise RunError(f"{run} is in use: {how}name another folder with --out.")


def _is_free(run: Path) -> bool:
    found = {path.name for path in run.iterdir() if not path.name.endswith(".part")}
    # With its lock it is a folder of ours; without, config.yaml may be what somebody wrote.
    return not found or (LOCK in found and found <= {LOCK, OWNER, CONFIG, SPLIT, TENSORBOARD, *METRICS})


def write_recipe(run: Path, recipe: Recipe, data: Any) -> None:
    """Write down what is asked of a new run, and which images are in which split.

    Args:
        run: the folder, which is this process's own.
        recipe: the checked configuration.
        data: the opened training data.
    """
    for name in (SPLIT, TENSORBOARD):  # of a run that ended before it saved anything
        shutil.rmtree(run / name, ignore_errors=True)
    parts = getattr(data, "parts", None)
    if parts is not None and parts.how != "folders":
        parts.write_lists(run / SPLIT)
    write_config(run, recipe.to_dict())


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write what is asked of a run."""
    write_text(run / CONFIG, config_text(config))


def check_run(run: Path) -> None:
    """Raise RunError unless the folder is a run."""
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} is not a run: {CONFIG} is missing; give a folder that `segtutor train` made.")


def config_of(run: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The configuration in a run's folder as it stands there, with changes on top.

    Raises:
        RunError: the folder is not a run.
        ConfigError: the file, or a change, cannot be read.
    """
    check_run(run)
    return overridden(read_yaml(run / CONFIG), overrides)


def recipe_of(run: Path, config: dict[str, Any] | None = None) -> Recipe:
    """What is asked of a run, with the split that it began with.

    Args:
        run: the folder.
        config: its configuration; None: as `config_of` reads it.

    Raises:
        RunError: the folder is not a run.
    """
    config = config_of(run) if config is None else config
    if (run / SPLIT).is_dir():  # images that came later do not change what this run was trained on
        config = {**config, "data": {**config["data"], "lists": str((run / SPLIT).absolute())}}
    return read_recipe(config)


def find_model(folder: Path, weights: str | None) -> Path:
    """The folder of a saved model: a run's "best" or "last", or the folder itself.

    Args:
        folder: a run, its ``best`` or ``last``, or any other folder that ``save_pretrained`` wrote.
        weights: "best" or "last" of a run; None: the best one where it was kept.

    Raises:
        RunError: no such model is there.
    """
    if (folder / MODEL).is_file():
        if weights is not None:
            raise RunError(f"{folder} is one saved model, of which there is no {weights}: leave --weights out.")
        return folder
    found = [name for name in (BEST, LAST) if (folder / name / MODEL).is_file()]
    if not found and not (folder / CONFIG).is_file():
        what = "holds no saved model" if folder.is_dir() else "is not a folder"
        raise RunError(f"{folder} {what}: give a folder that `segtutor train` made, or its {BEST}/ or {LAST}/.")
    if not found or (weights is not None and weights not in found):
        raise RunError(
            f"{folder} has no {f'{weights} model' if weights else 'model'} yet: continue it with "
            f"`segtutor train --resume {folder}`."
        )
    return folder / (found[0] if weights is None else weights)


def load_model(folder: Path) -> SegmentationModel:
    """A saved model in evaluation mode, on the GPU where there is one."""
    return SegmentationModel.from_pretrained(folder, device="cuda" if torch.cuda.is_available() else None)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write a JSON file, in which a score that does not exist is null, since JSON has no NaN."""
    write_text(path, json.dumps(_without_nan(value), indent=indent) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
