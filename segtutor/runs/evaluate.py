"""``segtutor evaluate``: score a run's model on a split of its data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from segtutor import training
from segtutor.data.splits import part_name
from segtutor.runs.data import open_data, splits_of
from segtutor.runs.folder import load_model, recipe_of
from segtutor.runs.report import add_scores, counted, scores_of

logger = logging.getLogger(__name__)


def evaluate(run: Path | str, split: str | None = None, *, weights: str | None = None) -> dict[str, Any]:
    """Score a run's model, log a table, and enter the scores in ``scores.json``.

    Args:
        run: the folder.
        split: "train", "val" (or "valid", "validation") or "test"; None: the last one that the data have.
        weights: "best" or "last"; None: the best ones where they were kept.

    Returns:
        The scores of the split, by name.

    Raises:
        RunError: the folder is not a run, or has no such model yet.
        ConfigError: the data have no such split, or are not there.
    """
    run = Path(run)
    recipe = recipe_of(run)
    split = splits_of(recipe.data)[-1] if split is None else part_name(split)
    model, which = load_model(run, weights)
    data = open_data(recipe.data, split, normalization=model.info)
    confusion = training.evaluate(
        model,
        data,
        batch_size=recipe.evaluation.batch_size or recipe.training.batch_size,
        ignore_index=model.info.ignore_index,
        boundary_width=recipe.evaluation.boundary_width,
    )
    logger.info("%s on %s, %s, %s.", run / which, data.spec.title, split, counted(data))
    logger.info("%s", confusion.table(model.info.classes))
    on_borders = "" if confusion.boundary_width is None else f", on the borders {confusion.boundary_miou:.4f}"
    logger.info("mIoU %.4f%s", confusion.miou, on_borders)
    scores = {"weights": which, "images": len(data), **scores_of(confusion, model.info.classes)}
    add_scores(run, split, scores)
    return scores
