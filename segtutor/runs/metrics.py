"""The curves of a run as files that other programs read: ``metrics.jsonl`` and ``metrics.csv``, written as it goes.

Each line follows from the history, so that a run that is continued writes them anew up to where it goes on: no line is
there twice, and none is lost.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from segtutor.files import write_text
from segtutor.metrics import ConfusionMatrix
from segtutor.runs.folder import METRICS
from segtutor.training import History, Observer

JSON_LINES, TABLE = METRICS
OF_STEPS = ("loss", "lr", "images_per_second")


class MetricFiles(Observer):
    """Writes a line for each logged step and each validation.

    A line of a step has the mean loss of the steps since the line before, the learning rate, and images per second by
    the time of those steps. A line of a validation has its scores. Both have ``step`` and ``kind``, "training" or
    "validation".

    Args:
        run: the folder.
        every: steps from one line to the next.
        steps: of the whole run; the last one has a line, too.
        images: of one step.
        history: what the run has had so far, which is written at once.
        boundary_width: of the validations, which have one score more with it.
    """

    def __init__(
        self, run: Path, *, every: int, steps: int, images: int, history: History, boundary_width: int | None
    ) -> None:
        self.run, self.every, self.steps, self.images = run, every, steps, images
        names = dict.fromkeys(ConfusionMatrix(2, boundary_width=boundary_width).summary())
        for _, scores in history.validation:  # which may have had others, before a resume
            names.update(dict.fromkeys(scores))
        self.columns = ("step", "kind", *OF_STEPS, *names)
        self._entered, self._validated = len(history.steps), len(history.validation)
        lines = list(self._of_steps(history, 0)) + [_of_validation(*entry) for entry in history.validation]
        lines.sort(key=lambda line: line["step"])  # of one step, the training first
        write_text(run / JSON_LINES, "".join(map(_json, lines)))
        write_text(run / TABLE, ",".join(self.columns) + "\n" + "".join(map(self._row, lines)))

    def entered(self, history: History) -> None:
        """Write the lines of the new steps."""
        for line in self._of_steps(history, self._entered):
            self._append(line)
        self._entered = len(history.steps)

    def validated(self, history: History, confusion: ConfusionMatrix, model: nn.Module) -> None:
        """Write the line of a validation."""
        for entry in history.validation[self._validated :]:
            self._append(_of_validation(*entry))
        self._validated = len(history.validation)

    def _of_steps(self, history: History, start: int) -> Iterator[dict[str, Any]]:
        for number in range(start, len(history.steps)):
            step = history.steps[number]
            if step % self.every == 0 or step == self.steps:
                first = (step - 1) // self.every * self.every  # where the line before ends
                losses, seconds = (values[first : number + 1] for values in (history.loss, history.step_seconds))
                yield {
                    "step": step,
                    "kind": "training",
                    "loss": sum(losses) / len(losses),
                    "lr": history.lr[number],
                    "images_per_second": self.images * len(seconds) / max(sum(seconds), 1e-9),
                }

    def _append(self, line: dict[str, Any]) -> None:
        for name, text in ((JSON_LINES, _json(line)), (TABLE, self._row(line))):
            with (self.run / name).open("a", encoding="utf-8") as file:
                file.write(text)

    def _row(self, line: Mapping[str, Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(["" if _is_nan(v := line.get(c)) else v for c in self.columns])
        return text.getvalue()


def _of_validation(step: int, scores: Mapping[str, float]) -> dict[str, Any]:
    return {"step": step, "kind": "validation", **scores}


def _json(line: Mapping[str, Any]) -> str:
    return json.dumps({key: None if _is_nan(value) else value for key, value in line.items()}) + "\n"


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
