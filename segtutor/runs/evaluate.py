"""``segtutor evaluate``: score a saved model on a split of its run's data, or of any other data set."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from segtutor import inference, training
from segtutor.data.spec import DatasetSpec
from segtutor.data.splits import part_name
from segtutor.factory import ConfigError, ModelInfo, SegmentationModel
from segtutor.factory.config import read_config
from segtutor.runs.data import is_read_from_files, open_data, parse_data, splits_of
from segtutor.runs.errors import RunError
from segtutor.runs.folder import BEST, CONFIG, LAST, find_model, load_model, recipe_of
from segtutor.runs.recipe import Evaluation, parse_evaluation
from segtutor.runs.scores import add_scores, counted, merged, scores_of

logger = logging.getLogger(__name__)


def evaluate(
    folder: Path | str,
    split: str | None = None,
    *,
    weights: str | None = None,
    data: Any = None,
    interval: bool = False,
) -> dict[str, Any]:
    """Score a saved model, log a table, and enter the scores in ``scores.json``.

    Args:
        folder: a run, its ``best`` or ``last``, or any other folder of a saved model.
        split: "train", "val" (or "valid", "validation") or "test"; None: the last one that the data have.
        weights: "best" or "last" of a run; None: the best ones where they were kept.
        data: a configuration with a section ``data``, or the name of a dataset such as "camvid"; None: the run's own.
        interval: say how far the mIoU would move on other images of the same kind: the 95 % bootstrap interval over
            the images, as ``miou_interval``.

    Returns:
        The scores of the split, by name.

    Raises:
        RunError: the folder holds no model, says of no data, or its classes are not those of the data.
        ConfigError: the data have no such split, or are not there.
    """
    folder = Path(folder)
    scored = opened(folder, split, weights=weights, data=data)
    classes, spec = scored.model.info.classes, scored.data.spec
    around = None
    if interval:
        each = training.evaluate_each(scored.model, scored.data, **scored.rules)
        confusion, around = merged(each), inference.interval(each)
    else:
        confusion = training.evaluate(scored.model, scored.data, batch_size=scored.batch_size, **scored.rules)
    logger.info("%s on %s, %s, %s.", scored.place, spec.title, scored.split, counted(scored.data))
    logger.info("%s", confusion.table(classes))
    on_borders = "" if confusion.boundary_width is None else f", on the borders {confusion.boundary_miou:.4f}"
    others = "" if around is None else f" ({around.low:.4f} to {around.high:.4f} over other images of the kind)"
    logger.info("mIoU %.4f%s%s", confusion.miou, others, on_borders)
    scores = {"weights": scored.place.name, "images": len(scored.data), **scores_of(confusion, classes)}
    if around is not None:
        scores["miou_interval"] = [around.low, around.high]
    add_scores(folder, scored.split if data is None else f"{spec.title}/{scored.split}", scores)
    return scores


class Opened(NamedTuple):
    """A saved model, and data as it is to see them.

    Attributes:
        place: the folder of the model.
        model: in evaluation mode.
        data: the split, normalised as the model knows it.
        split: its name.
        rules: arguments of `segtutor.training.evaluate` that decide the scores.
        batch_size: images at a time.
    """

    place: Path
    model: SegmentationModel
    data: Any
    split: str
    rules: dict[str, Any]
    batch_size: int


def opened(folder: Path, split: str | None = None, *, weights: str | None = None, data: Any = None) -> Opened:
    """Load a saved model and open a split as it is to see it; arguments and errors are those of `evaluate`."""
    place = find_model(folder, weights)
    section, rules, batch_size = _own(folder, place) if data is None else _other(data)
    split = splits_of(section)[-1] if split is None else part_name(split)
    model = load_model(place)
    scored = open_data(section, split, normalization=_agreed(open_data(section, split).spec, model.info))
    scored.spec = dataclasses.replace(scored.spec, value_range=model.info.value_range)
    if model.info.resize is not None and section.get("size") is None and is_read_from_files(section):
        scored.size = model.info.resize
    how = {
        "num_classes": len(model.info.classes),
        "ignore_index": scored.spec.ignore_index,
        "boundary_width": rules.boundary_width,
    }
    return Opened(place, model, scored, split, how, rules.batch_size or batch_size)


def _own(folder: Path, place: Path) -> tuple[Mapping[str, Any], Evaluation, int]:
    """The data, rules and batch size of the run that a model is of."""
    inside = place.name in (BEST, LAST) and (place.parent / CONFIG).is_file()
    if not inside:
        raise RunError(
            f"{folder} is a saved model without the run that it is of: say which data to score it on, as in "
            f"`segtutor evaluate {folder} --data camvid`, or --data FILE with a section data."
        )
    recipe = recipe_of(place.parent)
    return recipe.data, recipe.evaluation, recipe.training.batch_size


def _other(source: Any) -> tuple[Mapping[str, Any], Evaluation, int]:
    """The data and rules that somebody asks for, by the name of a dataset or a configuration."""
    from segtutor.data.registry import list_datasets

    config = {"data": source} if source in list_datasets() else read_config(source)
    if "data" not in config and "type" not in config:
        raise ConfigError(f"data: {source} has no section data; add one, such as data: {{type: camvid}}.")
    return parse_data(config), parse_evaluation(config), Evaluation().batch_size or 8


def _agreed(spec: DatasetSpec, info: ModelInfo) -> ModelInfo:
    """What a model knows of its images, where a data set has its classes and its channels.

    Raises:
        RunError: the classes, or the channels of the images, are others.
    """
    if tuple(spec.classes) != info.classes and not _are_numbers(info.classes, spec.classes):
        raise RunError(_disagreement(info.classes, spec.classes, spec.title))
    if spec.in_channels != len(info.mean):
        raise RunError(
            f"the model takes images of {len(info.mean)} channels, and those of {spec.title} have {spec.in_channels}: "
            f"set data.channels={len(info.mean)} where the data have that key, or take another data set."
        )
    return info


def _are_numbers(*sets: tuple[str, ...]) -> bool:
    """Whether one of two equally long lists of classes has no names of its own, only numbers."""
    nameless = any(tuple(classes) == tuple(f"class {i}" for i in range(len(classes))) for classes in sets)
    return nameless and len(sets[0]) == len(sets[1])


def _disagreement(ours: tuple[str, ...], theirs: tuple[str, ...], title: str) -> str:
    if len(ours) != len(theirs):
        how = f"the model has {len(ours)} classes, and {title} has {len(theirs)}"
    else:
        label = next(i for i, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one != two)
        how = f"label {label} is {ours[label]!r} in the model and {theirs[label]!r} in {title}"
    return f"{how}: score the model on data with its own classes, in its own order ({', '.join(ours)})."
