"""A live bar of a run on a terminal, drawn by rich. Elsewhere, and without rich, a run logs plain lines."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

from torch import nn

from segtutor.logs import LOGGER, PrintHandler
from segtutor.metrics import ConfusionMatrix
from segtutor.training import History, Observer

if TYPE_CHECKING:
    from rich.progress import Progress

LOSS_EVERY = 10  # steps, at most, from one reading of the losses to the next
WIDE = 100  # columns of a terminal in which a bar has room beside the numbers
REDRAWN = 0.1  # seconds between two drawings


def is_drawn() -> bool:
    """Whether there is a terminal to draw a bar on, and rich to draw it.

    Nothing is drawn where somebody has set up logging of their own: progress goes there, as lines.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return False
    handlers = [*LOGGER.handlers, *logging.getLogger().handlers]
    if handlers and not any(isinstance(handler, PrintHandler) for handler in LOGGER.handlers):
        return False
    return importlib.util.find_spec("rich") is not None


class Bar(Observer):
    """Step, loss, learning rate, images per second, time left and the last score of the validation, on one line.

    It is drawn between steps and by no thread of its own: a process that loads images is a copy of this one, and would
    wait for ever for a lock that the thread held.

    Args:
        steps: of the whole run.
        images: of one step.
        history: what the run has had so far.
    """

    shows_steps = True

    def __init__(self, steps: int, images: int, history: History) -> None:
        self.steps, self.images, self.drawn = steps, images, 0.0
        self.loss = f"{history.loss[-1]:.4f}" if history.loss else "-"
        self.score = f"{history.validation[-1][1]['miou']:.4f}" if history.validation else "-"
        self.done, self.rate, self.seconds = len(history.steps), 0.0, history.seconds_per_step
        self.progress: Progress | None = None

    def __enter__(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(highlight=False)
        drawn = [BarColumn(bar_width=None)] if console.width >= WIDE else []
        self.progress = Progress(
            TextColumn("{task.completed}/{task.total}"),
            *drawn,
            TextColumn("{task.description}"),
            console=console,
            auto_refresh=False,
            expand=True,
            transient=True,
        )
        self.task = self.progress.add_task("", total=self.steps, completed=self.done)
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress is not None:
            self.progress.stop()  # the line goes away, and the cursor is shown again

    def stepped(self, step: int, lr: float) -> None:
        """Go on by a step, and draw now and then."""
        self.done, self.rate = step, lr
        if time.perf_counter() - self.drawn > REDRAWN or step == self.steps:
            self._draw()

    def entered(self, history: History) -> None:
        """Take in losses and times that have been read."""
        recent = history.loss[-LOSS_EVERY:]
        self.loss, self.seconds = f"{sum(recent) / len(recent):.4f}", history.seconds_per_step
        self._draw()

    def validated(self, history: History, confusion: ConfusionMatrix, model: nn.Module) -> None:
        """Take in the score of a validation."""
        self.score = f"{confusion.miou:.4f}"
        self._draw()

    def text(self) -> str:
        """What stands behind the bar."""
        known = self.seconds > 0
        speed = f"{self.images / self.seconds:.1f} images/s" if known else "- images/s"
        left = clock(self.seconds * (self.steps - self.done)) if known else "-:--"
        return f"loss {self.loss}  lr {self.rate:.2e}  {speed}  {left} left  mIoU {self.score}"

    def _draw(self) -> None:
        if self.progress is not None:
            self.drawn = time.perf_counter()
            self.progress.update(self.task, completed=self.done, description=self.text(), refresh=True)


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
