"""Scores by their names, and the file of a run that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtutor.metrics import ConfusionMatrix
from segtutor.runs.errors import RunError
from segtutor.runs.folder import SCORES, write_json


def counted(data: Sequence[Any]) -> str:
    """The number of images of a dataset, in words."""
    return "1 image" if len(data) == 1 else f"{len(data)} images"


def scores_of(confusion: ConfusionMatrix, classes: Sequence[str]) -> dict[str, Any]:
    """Every score of a confusion matrix by its name, those of single classes by the class."""
    scores = {**confusion.summary(), "iou": _by_class(confusion.iou, classes)}
    if confusion.boundary_width is not None:
        scores["boundary_iou"] = _by_class(confusion.boundary_iou, classes)
    return scores


def merged(matrices: Sequence[ConfusionMatrix]) -> ConfusionMatrix:
    """The matrix of all images from the matrices of each, which stay as they are."""
    first = matrices[0]
    total = ConfusionMatrix(first.num_classes, ignore_index=first.ignore_index, boundary_width=first.boundary_width)
    for matrix in matrices:
        total.merge(matrix)
    return total


def _by_class(values: Any, classes: Sequence[str]) -> dict[str, float]:
    return dict(zip(classes, values.tolist(), strict=True))


def add_scores(run: Path, split: str, scores: Mapping[str, Any]) -> None:
    """Enter the scores of a split in the run's ``scores.json``, beside those of the other splits."""
    path = run / SCORES
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RunError(f"{path} cannot be read ({error}): move it away, and score again.") from None
    write_json(path, {**known, split: dict(scores)}, indent=2)
