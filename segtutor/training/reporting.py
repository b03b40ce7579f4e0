"""What a run tells: its curves, a line of progress now and then, TensorBoard files, and a warning of collapse."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.metrics import ConfusionMatrix

logger = logging.getLogger(__name__)


@dataclass
class History:
    """What a run of :func:`fit` recorded, one entry per step unless said otherwise.

    Attributes:
        steps: step numbers, from 1.
        loss: training loss of each step's batch.
        lr: learning rate used in each step (of the first parameter group).
        step_seconds: wall time of each step, loading the batch included, validation excluded.
        validation: (step, scores) for each validation; the scores are ``ConfusionMatrix.summary()``.
        seconds: wall time of the whole run, validation included.
        precision: "fp32", "bf16" or "fp16".
        interrupted: True when Ctrl-C (or Jupyter's stop button) ended the run early.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    validation: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0.0
    precision: str = "fp32"
    interrupted: bool = False

    @property
    def seconds_per_step(self) -> float:
        """Median seconds per step: the first steps, which warm caches up, do not count against the rest."""
        return statistics.median(self.step_seconds) if self.step_seconds else float("nan")

    def __repr__(self) -> str:
        if not self.steps:
            return "History(no steps)"
        return (
            f"History({len(self.steps)} steps in {self.precision}, loss {self.loss[0]:.3f} -> {self.loss[-1]:.3f}, "
            f"{1000 * self.seconds_per_step:.0f} ms/step{', interrupted' if self.interrupted else ''})"
        )


class Observer:
    """Hears what a run does while it does it; whoever wants to show or write it overrides these, which do nothing.

    It is a context too, entered before the first step and left after the last, before a signal takes its course.

    Attributes:
        shows_steps: it shows the steps itself, so that no lines are logged for them.
    """

    shows_steps = False

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def stepped(self, step: int, lr: float) -> None:
        """A step has ended; its loss may not have been read yet."""

    def entered(self, history: History) -> None:
        """Steps whose losses have been read stand in the history now."""

    def validated(self, history: History, confusion: ConfusionMatrix, model: nn.Module) -> None:
        """The scores of a validation, of this model, stand at the end of the history now."""


class ClassWatch:
    """Looks at the masks of a run until two classes have turned up, and says so where none or one ever did.

    Masks of 0 and 255 are the usual cause: 255 is void, so that a network which always answers class 0 scores 1.

    Args:
        ignore_index: label of pixels that do not count.
    """

    def __init__(self, ignore_index: int) -> None:
        self.ignore_index = ignore_index
        self.seen: set[int] = set()

    def look(self, masks: Tensor) -> None:
        """Take in the masks (B, H, W) of a batch."""
        if len(self.seen) < 2:
            self.seen |= set(masks.unique().tolist()) - {self.ignore_index}

    def conclude(self) -> None:
        """Warn if the masks that were seen cannot teach anything."""
        if fault := only_class(sorted(self.seen)):
            warnings.warn(f"the training masks {fault}", stacklevel=3)


def only_class(classes: list[int]) -> str:
    """What is wrong with masks in which only these classes occur, as the rest of a sentence; "" with two or more."""
    if len(classes) > 1:
        return ""
    what = f"hold class {classes[0]} and no other" if classes else "are void everywhere"
    return f"{what}, so that scores on them mean nothing: look at them with segtutor.data.check_dataset"


@dataclass
class _Noted:
    """A step whose loss is still on the device, or which is not done yet."""

    step: int
    loss: Tensor
    lr: float
    number: float | None = None
    seconds: float | None = None


class Reporter:
    """Fills the history, logs a line every `log_every` steps, and writes TensorBoard files into `log_dir`.

    Args:
        steps: of the whole run.
        log_every: None: no lines.
        log_dir: None: no TensorBoard files.
        observers: are told of each step and validation.
        mean: takes losses (N,) of this process to those over all processes.

    Raises:
        ValueError: less than one step.
        ImportError: TensorBoard is wanted and not installed.
    """

    def __init__(
        self,
        steps: int,
        log_every: int | None,
        log_dir: str | Path | None,
        observers: Sequence[Observer] = (),
        mean: Callable[[Tensor], Tensor] = lambda losses: losses,
    ):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.total, self.log_every, self.mean, self.observers = steps, log_every, mean, tuple(observers)
        self.lines = bool(log_every) and not any(observer.shows_steps for observer in observers)
        self._open = contextlib.ExitStack()
        self.noted: list[_Noted] = []
        self.board: Any = None
        if log_dir is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "log_dir writes TensorBoard files and TensorBoard is not installed: pip install tensorboard, or "
                    "leave log_dir out"
                ) from error
            self.board = SummaryWriter(log_dir)

    def __enter__(self) -> Reporter:
        for observer in self.observers:
            self._open.enter_context(observer)
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self.board is not None:
            self.board.close()
        self._open.close()

    @property
    def seconds(self) -> float:
        """Since the run, or this part of it, began."""
        return time.perf_counter() - self.start

    def note(self, step: int, loss: Tensor, lr: float) -> None:
        """Keep the loss of a step that goes on, without asking the device for its value."""
        self.noted.append(_Noted(step, loss.detach().reshape(()), lr))

    def read(self) -> None:
        """Ask the device for the losses that were noted, all at once.

        Raises:
            FloatingPointError: one of them is infinite or not a number; names the first such step.
        """
        unread = [entry for entry in self.noted if entry.number is None]
        numbers = self.mean(torch.stack([entry.loss for entry in unread])).tolist() if unread else []
        for entry, number in zip(unread, numbers, strict=True):
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"the loss became {number} at step {entry.step}: lower the learning rate (it was {entry.lr:.1e}), "
                    "clip the gradient (gradient_clip=1.0), or look for invalid values in that batch; "
                    'precision="fp32" rules out overflow'
                )
            entry.number = number

    def record(self, history: History, seconds: float) -> None:
        """End the step that was noted last; enter it and those before it where their losses have been read."""
        self.noted[-1].seconds = seconds
        for observer in self.observers:
            observer.stepped(self.noted[-1].step, self.noted[-1].lr)
        if self.noted[-1].number is not None:
            self._enter(history)

    def settle(self, history: History) -> None:
        """Read and enter every step that has ended.

        Raises:
            FloatingPointError: as for `read`.
        """
        self.noted = [entry for entry in self.noted if entry.seconds is not None]
        self.read()
        if self.noted:
            self._enter(history)

    def _enter(self, history: History) -> None:
        # The host runs ahead of the device until it asks for a loss, so only the time of them all is that of the steps
        seconds = sum(entry.seconds or 0.0 for entry in self.noted) / len(self.noted)
        for entry in self.noted:
            loss = float("nan") if entry.number is None else entry.number
            history.steps.append(entry.step)
            history.loss.append(loss)
            history.lr.append(entry.lr)
            history.step_seconds.append(seconds)
            if self.board is not None:
                self.board.add_scalar("train/loss", loss, entry.step)
                self.board.add_scalar("train/lr", entry.lr, entry.step)
        step, lr = self.noted[-1].step, self.noted[-1].lr
        self.noted = []
        for observer in self.observers:
            observer.entered(history)
        if self.lines and self.log_every and (step % self.log_every == 0 or step == self.total):
            recent = history.loss[-self.log_every :]
            left = history.seconds_per_step * (self.total - step)
            width = len(str(self.total))
            logger.info(
                f"step {step:>{width}}/{self.total}  loss {sum(recent) / len(recent):.4f}  lr {lr:.2e}  "
                f"{1000 * history.seconds_per_step:.0f} ms/step  {_clock(left)} left"
            )

    def validated(self, history: History, step: int, confusion: ConfusionMatrix, model: nn.Module) -> None:
        """Enter the scores of a validation; warn when nearly every pixel gets one class that few have."""
        scores = confusion.summary()
        history.validation.append((step, scores))
        if self.board is not None:
            for name, value in scores.items():
                self.board.add_scalar(f"validation/{name}", value, step)
        if self.log_every:
            logger.info(f"step {step}/{self.total}  validation mIoU {float(confusion.miou):.4f}")
        for observer in self.observers:
            observer.validated(history, confusion, model)
        matrix = confusion.matrix.double()  # (C, C) [true, predicted]
        predicted, true = (matrix.sum(dim) / matrix.sum().clamp(min=1) for dim in (0, 1))
        if step == self.total and (fault := only_class(torch.nonzero(true).flatten().tolist())):
            warnings.warn(f"the validation masks {fault}", stacklevel=3)
        top = int(predicted.argmax())
        if predicted[top] > 0.99 and true[top] < 0.99:
            warnings.warn(
                f"at step {step} the model answers class {top} for {100 * float(predicted[top]):.1f} % of the pixels, "
                f"which have that class in {100 * float(true[top]):.1f} %: it has collapsed, or not learnt yet",
                stacklevel=4,
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
