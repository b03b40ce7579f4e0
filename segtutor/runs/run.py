"""A run is a folder: what was asked for, the model, its curves, and what it takes to continue.

config.yaml     the configuration, every default filled in
model/          the model as it was last saved: weights, classes, colours, normalisation
best/           the model at its best validation
history.json    loss and learning rate of each step, the scores of each validation
split/          the names of the images of each part, where a list or a draw parted a folder
checkpoint.pt   what it takes to continue
scores.json     what `evaluate` found
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from segtutor import training
from segtutor.data.splits import part_name
from segtutor.factory import ConfigError, ModelInfo, SegmentationModel, create_model
from segtutor.factory.config import read_yaml
from segtutor.files import write_text
from segtutor.runs.recipe import Recipe, name_of, read_recipe
from segtutor.runs.sources import SOURCES, open_data
from segtutor.training import History, load_checkpoint, save_checkpoint

CONFIG, CHECKPOINT, HISTORY, SCORES = "config.yaml", "checkpoint.pt", "history.json", "scores.json"
SPLIT = "split"


class RunError(ValueError):
    """A run's folder, or its data, are not what a command needs."""


def train(config, overrides: Iterable[str] = (), *, out: Path | str | None = None, check_data: bool = True) -> History:
    """Train a model as a configuration says, into a new folder.

    Args:
        config: a YAML file, the name of a shipped configuration, or a model such as "resnet18-fcn".
        overrides: "path.of.key=value" each.
        out: the run's folder; None: ``runs/`` and the configuration's name.
        check_data: look at a sample of the images and masks first, and do not start where something is wrong.

    Returns:
        The curves.

    Raises:
        ConfigError: the configuration is wrong; the message names the key.
        RunError: the folder is in use, or something is wrong with the data.
    """
    run = Path("runs", name_of(config)) if out is None else Path(out)
    if run.is_file() or (run.is_dir() and any(run.iterdir())):
        how = f"continue it with `segtutor train --resume {run}`, or " if (run / CONFIG).is_file() else ""
        raise RunError(f"{run} is in use: {how}name another folder with --out.")
    recipe = read_recipe(config, overrides)
    if check_data:
        _look_at(recipe)
    return _fit(recipe, run, None)


def resume(run: Path | str) -> History:
    """Continue a run from its last checkpoint, as if it had never stopped.

    Raises:
        RunError: the folder holds no run.
        ValueError: it holds no checkpoint.
    """
    run = Path(run)
    recipe = _recipe(run)
    state = load_checkpoint(run / CHECKPOINT)
    done = len(state["history"]["steps"])
    if done >= recipe.schedule.steps and _is_validated(state["history"]):
        print(f"{run} has all of its {done} steps; nothing is left to do.")
        return History(**state["history"])
    print(f"Continues {run} after step {done} of {recipe.schedule.steps}.")
    return _fit(recipe, run, state)


def evaluate(run: Path | str, split: str | None = None, *, weights: str | None = None) -> dict:
    """Score a run's model, print a table, and enter the scores in ``scores.json``.

    Args:
        run: the folder.
        split: "train", "val" (or "valid", "validation") or "test"; None: the last one that the data have.
        weights: "best" or "model"; None: the best ones where there are any.

    Returns:
        The scores of the split, by name.
    """
    run = Path(run)
    recipe = _recipe(run)
    split = _last_split(recipe) if split is None else part_name(split)
    data = open_data(recipe.data, split)
    model, which = _model(run, weights)
    batch_size = recipe.schedule.batch_size
    confusion = training.evaluate(model, data, batch_size=batch_size, ignore_index=model.info.ignore_index)
    print(f"{run / which} on {data.spec.title}, {split}, {_images(data)}.")
    print(confusion.table(model.info.classes))
    print(f"mIoU {confusion.miou:.4f}, on the borders {confusion.boundary_miou:.4f}")
    scores = {
        "weights": which,
        "images": len(data),
        **confusion.summary(),
        "iou": dict(zip(model.info.classes, confusion.iou.tolist(), strict=True)),
        "boundary_iou": dict(zip(model.info.classes, confusion.boundary_iou.tolist(), strict=True)),
    }
    known = json.loads((run / SCORES).read_text(encoding="utf-8")) if (run / SCORES).is_file() else {}
    write_text(run / SCORES, json.dumps({**known, split: _without_nan(scores)}, indent=2) + "\n")
    return scores


def predict(
    run: Path | str, images: Sequence[Path | str], out: Path | str, *, weights: str | None = None
) -> tuple[list[Path], list[str]]:
    """Predict image files: for each a label PNG with the size of the image, and a picture of it with a legend.

    Args:
        run: the run's folder.
        images: files, and folders that are searched for them.
        out: where the pictures go.
        weights: as for `evaluate`.

    Returns:
        The label files, and one sentence for each image that was refused.
    """
    from segtutor import inference
    from segtutor.data.reading import read_image

    run, out = Path(run), Path(out)
    recipe = _recipe(run)
    model, _ = _model(run, weights)
    size = recipe.data.get("size") if recipe.data["type"] not in ("scenes", "cells") else None
    written, refused = [], []
    for path, stem in _named(images):
        try:
            image = torch.from_numpy(read_image(path, model.in_channels, model.info.value_range))
            labels = inference.predict(model, image, size=size)
        except (ValueError, OSError) as error:
            refused.append(f"{path} was left out: {error}")
            continue
        out.mkdir(parents=True, exist_ok=True)
        written.append(inference.save_labels(labels, out / f"{stem}.png", model.info))
        inference.save_overlay(image, labels, out / f"{stem}_overlay.png", model.info)
    return written, refused


def _fit(recipe: Recipe, run: Path, state: dict | None) -> History:
    schedule = recipe.schedule
    data, validation = open_data(recipe.data, "train", augment=True), open_data(recipe.data, "val")
    config = recipe.model.to_dict()
    if state is not None and "pretrained" in config["backbone"]:
        config["backbone"]["pretrained"] = False  # the checkpoint has better ones
    if config["device"] is None and torch.cuda.is_available():
        config["device"] = "cuda"
    try:
        model = create_model(config, info=ModelInfo.of(data.spec, tuple(data[0][0].shape[1:])))
    except ConfigError as error:
        raise ConfigError(f"model.{error}") from None
    model.config = recipe.model
    if state is None:  # not before all is built, or a run that could not start would be in the way of the next
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / CONFIG, _yaml(recipe.to_dict()))
        parts = getattr(data, "parts", None)
        if parts is not None and parts.how != "folders":
            parts.write_lists(run / SPLIT)
    print(f"Data: {data.spec.title}, {_images(data)} to train on, {len(validation)} to validate, {_classes(data)}.")
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    where = next(model.parameters()).device
    names = f"{recipe.model.backbone['type']} with head {recipe.model.head['type']}"
    print(f"Model: {names}, {million:.1f} million parameters, on {where}.")
    every = max(1, schedule.steps // 10) if schedule.save_every is None else schedule.save_every

    def save(state: dict) -> None:
        history = state["history"]
        if _is_best(history):
            model.save_pretrained(run / "best")
        model.save_pretrained(run / "model")
        write_text(run / HISTORY, json.dumps(_without_nan(history)) + "\n")
        save_checkpoint(state, run / CHECKPOINT)

    history = training.fit(
        model,
        data,
        steps=schedule.steps,
        loss=schedule.make_loss(data.spec.ignore_index, recipe.model.auxiliary),
        auxiliary=recipe.model.auxiliary,
        batch_size=schedule.batch_size,
        lr=schedule.lr,
        weight_decay=schedule.weight_decay,
        schedule=training.warmed_up(schedule.schedule, schedule.warmup),
        gradient_clip=schedule.clip,
        seed=schedule.seed,
        precision=schedule.precision,
        log_every=max(1, schedule.steps // 20) if schedule.log_every is None else schedule.log_every,
        validation=validation,
        validate_every=schedule.valid_every,
        num_workers=schedule.num_workers,
        save=save,
        save_every=every,
        resume=state,
    )
    if history.interrupted:
        at = "before the first step" if not history.steps else f"after step {len(history.steps)} of {schedule.steps}"
        print(f"Stopped {at}. Continue with: segtutor train --resume {run}")
    else:
        print(f"Done: {run}. Next: segtutor evaluate {run}")
    return history


def _is_validated(history: dict) -> bool:
    """Whether the last step was validated."""
    return bool(history["validation"]) and history["validation"][-1][0] == len(history["steps"])


def _is_best(history: dict) -> bool:
    """Whether the last step was validated, and better than all before."""
    if not _is_validated(history):
        return False
    *before, now = (scores["miou"] for _, scores in history["validation"])
    return all(now > score for score in before)


def _recipe(run: Path) -> Recipe:
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} holds no run: {CONFIG} is missing; give a folder that `segtutor train` made.")
    config = read_yaml(run / CONFIG)
    if (run / SPLIT).is_dir():  # images that came later do not change what this run was trained on
        config["data"] = {**config["data"], "lists": str((run / SPLIT).absolute())}
    return read_recipe(config)


def _look_at(recipe: Recipe) -> None:
    """Refuse data of which something is wrong."""
    from segtutor.data.check import before_training

    found = before_training(*(open_data(recipe.data, split) for split in ("train", "val")))
    if found:
        more = f", and {len(found) - 1} more (`segtutor check-data` shows all)" if found[1:] else ""
        raise RunError(f"data: {found[0]}{more}. Correct this, or train all the same with --no-check.")


def _model(run: Path, weights: str | None) -> tuple[SegmentationModel, str]:
    found = [name for name in ("best", "model") if (run / name).is_dir()]
    if not found or (weights is not None and weights not in found):
        raise RunError(f"{run} holds no {weights or 'model'} yet: continue it with `segtutor train --resume {run}`.")
    which = found[0] if weights is None else weights
    device = "cuda" if torch.cuda.is_available() else None
    return SegmentationModel.from_pretrained(run / which, device=device), which


def _last_split(recipe: Recipe) -> str:
    parts = getattr(open_data(recipe.data, "train"), "parts", None)
    return (SOURCES[recipe.data["type"]].splits if parts is None else parts.names)[-1]


def _named(images: Sequence[Path | str]) -> list[tuple[Path, str]]:
    """Each file with a name for its results that no other has."""
    from segtutor.data.finding import list_files

    files: list[Path] = []
    for path in map(Path, images):
        files += list_files(path).values() if path.is_dir() else [path]
    named, taken = [], set()
    for path in files:
        stem, number = path.stem, 2
        while stem in taken:
            stem, number = f"{path.stem}-{number}", number + 1
        taken.add(stem)
        named.append((path, stem))
    return named


def _images(data) -> str:
    return "1 image" if len(data) == 1 else f"{len(data)} images"


def _classes(data) -> str:
    return f"{data.spec.num_classes} classes"


def _yaml(plain: dict) -> str:
    import yaml

    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _without_nan(value):
    """JSON has no NaN; a score that does not exist is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
