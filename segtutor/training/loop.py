"""One loop to train with and one to score with, short enough to read.

Read :func:`fit` from top to bottom: batches, forward, loss, backward, step. The helpers above it are what keeps the
loop honest: every random number comes from `seed` and the caller's random state is put back, and half precision is
used only where the hardware computes in it natively.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import random
import signal
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from segtutor.losses import CrossEntropyLoss
from segtutor.metrics import ConfusionMatrix
from segtutor.training.checkpointing import restore, set_random_state, snapshot


@dataclass
class History:
    """What a run of :func:`fit` recorded, one entry per step unless said otherwise.

    Attributes:
        steps: step numbers, from 1.
        loss: training loss of each step's batch.
        lr: learning rate used in each step (of the first parameter group).
        step_seconds: wall time of each step, loading the batch included, validation excluded.
        valid: (step, scores) for each validation; the scores are ``ConfusionMatrix.summary()``.
        seconds: wall time of the whole run, validation included.
        precision: "fp32", "bf16" or "fp16".
        interrupted: True when Ctrl-C (or Jupyter's stop button) ended the run early.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    valid: list[tuple[int, dict[str, float]]] = field(default_factory=list)
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


def poly(step: int, steps: int, power: float = 0.9) -> float:
    """Factor on the learning rate before step `step` (0, 1, ...) of `steps`: (1 - step/steps)^power.

    The schedule of DeepLab (arXiv 1606.00915, section 4.1, power 0.9), used by nearly every segmentation paper since.
    """
    return (1 - step / steps) ** power


def warmed_up(schedule: str | Callable[[int, int], float], warmup: int) -> Callable[[int, int], float]:
    """A schedule whose first `warmup` steps rise in a straight line, for networks that a full first step would upset.

    Args:
        schedule: "poly", "constant" or a function (step, steps) -> factor on the learning rate.
        warmup: steps until the factor is the schedule's own; 0 changes nothing.
    """
    factor = _schedule(schedule)
    return lambda step, steps: factor(step, steps) * min(1.0, (step + 1) / (warmup + 1))


def fit(
    model: nn.Module,
    dataset: Dataset,
    *,
    steps: int,
    loss: Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor] | None = None,
    forward: Callable[[Tensor], Tensor | tuple[Tensor, ...]] | None = None,
    batch_size: int = 8,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: str | Callable[[int, int], float] = "poly",
    clip: float | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    log_every: int | None = None,
    valid: Dataset | None = None,
    valid_every: int | None = None,
    on_step: Callable[[int, float], None] | None = None,
    log_dir: str | Path | None = None,
    num_workers: int = 0,
    save: Callable[[dict[str, Any]], None] | None = None,
    save_every: int | None = None,
    resume: Mapping[str, Any] | None = None,
) -> History:
    """Train `model` on `dataset` for a number of steps, reshuffling whenever the set has been seen once.

    Two calls with the same model weights and the same `seed` give the same losses, bit for bit on a CPU, and the
    caller's own random numbers go on as if nothing had happened. The model is left in evaluation mode. A run that is
    continued from a saved state has the losses of one that was never interrupted.

    Args:
        model: maps images (B, C, H, W) to logits (B, num_classes, H, W). Changed in place.
        dataset: `dataset[i]` is (image (C, H, W) float32, mask (H, W) int64), normalised and of one size.
        steps: number of optimiser steps.
        loss: `loss(logits, masks)`, a scalar. None: `CrossEntropyLoss()`.
        forward: what to call on the images instead of `model`, such as `model.forward_with_auxiliary`; the tensor or
            the tuple of tensors that it returns goes to `loss`, in float32. Validation calls `model` all the same.
        batch_size: images per step. The last batch of a pass may be smaller; a last batch of one image is dropped,
            because batch normalisation learns nothing from it.
        lr: learning rate before the schedule; with `optimizer` given, its own is used.
        weight_decay: decoupled weight decay of the default optimiser, AdamW.
        optimizer: one that holds the model's parameters already. None: `AdamW(lr, weight_decay)`.
        schedule: "poly" (:func:`poly`), "constant", or a function (step, steps) -> factor on the learning rate.
        clip: largest allowed norm of the gradient; None: no clipping.
        seed: seeds shuffling, augmentation and dropout.
        device: where to train; the model is moved there. None: where the model is.
        precision: "auto" (see :func:`autocast_dtype`), "fp32", "bf16" or "fp16" (CUDA only).
        log_every: print a line every so many steps; None prints nothing.
        valid: a dataset to score with :func:`evaluate` after the last step.
        valid_every: score it also every so many steps.
        on_step: called as `on_step(step, loss)` after each step.
        log_dir: write loss, learning rate and scores there for TensorBoard.
        num_workers: processes that load data; 0 loads in this one.
        save: called as `save(state)` after each validation, after the last step and after Ctrl-C, with what it takes to
            continue; see :func:`save_checkpoint`. The tensors are the live ones: write them before returning.
        save_every: call it also every so many steps.
        resume: a state to continue from, with the model, data and settings of the run that it was saved in.

    Returns:
        The curves. After Ctrl-C, which waits for the end of the step, the curves so far.

    Raises:
        FloatingPointError: the loss became infinite or not a number; names the step.
        ValueError: a setting or a batch that cannot be trained on, or a state of another run.
    """
    device, dtype = _prepare(model, device, precision)
    factor = _schedule(schedule)
    loss = CrossEntropyLoss() if loss is None else loss
    if isinstance(loss, nn.Module):
        loss.to(device)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    history, reporter = History(precision=_NAMES[dtype]), _Reporter(steps, log_every, log_dir)
    run = {"seed": seed, "batch_size": batch_size, "images": len(dataset)}  # what the order of the images hangs on
    if resume is not None:
        history = _continued(resume, run, model, optimizer, scaler)
    base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    start, seconds, whole = len(history.steps), history.seconds, True

    def hand_out() -> None:
        history.seconds = seconds + reporter.seconds
        save({**snapshot(model, optimizer, scaler), "run": run, "history": asdict(history)})

    with reporter, _seeded(seed, device), _interrupts_between_steps() as interrupted:
        try:
            model.train()
            batches = iter(_loader(dataset, batch_size, seed, num_workers, start))
            if resume is not None:
                set_random_state(resume["random"])
            for step in range(start + 1, steps + 1):
                tick, whole = time.perf_counter(), False
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * factor(step - 1, steps)
                images, masks = next(batches)
                images = images.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    outputs = (model if forward is None else forward)(images)
                value = loss(_float(outputs), masks.to(device))
                number = _finite(value.item(), step, optimizer)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(value).backward()
                if clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                scaler.step(optimizer)
                scaler.update()
                reporter.record(history, step, number, optimizer.param_groups[0]["lr"], time.perf_counter() - tick)
                whole = True
                if on_step is not None:
                    on_step(step, number)
                validate = valid is not None and (step == steps or bool(valid_every and step % valid_every == 0))
                if validate:
                    scores = evaluate(model, valid, batch_size=batch_size, precision=precision)
                    reporter.validated(history, step, scores)
                if interrupted:
                    raise KeyboardInterrupt
                if save is not None and (validate or step == steps or (save_every and step % save_every == 0)):
                    hand_out()
        except KeyboardInterrupt:
            history.interrupted = True
            if save is not None and whole:  # half a step could not be continued
                hand_out()
    history.seconds = seconds + reporter.seconds
    model.eval()
    return history


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 8,
    num_classes: int | None = None,
    ignore_index: int = 255,
    boundary_width: int | None = 3,
    device: str | torch.device | None = None,
    limit: int | None = None,
    precision: str = "fp32",
) -> ConfusionMatrix:
    """Score `model` on `dataset`: one confusion matrix over every pixel of the whole set.

    Args:
        model: maps images (B, C, H, W) to logits (B, num_classes, H, W); one logit per pixel means background (below
            zero) against foreground. Its train/eval mode is put back afterwards.
        dataset: as for :func:`fit`, but the images may differ in size.
        batch_size: images at a time, where their sizes agree; has no influence on the scores.
        num_classes: None: as many as the model has logits.
        ignore_index: label of pixels that do not count.
        boundary_width: pixels on either side of a true border that the boundary score looks at; None: no such score.
        device: None: where the model is.
        limit: score only so many images, spread evenly over the set.
        precision: as for :func:`fit`, but fp32 unless asked.

    Returns:
        The filled matrix: ``.miou``, ``.iou``, ``.summary()``, ...
    """
    device, dtype = _prepare(model, device, precision)  # not in inference mode, or what it moves could train no more
    if limit is not None and limit < len(dataset):
        dataset = Subset(dataset, [i * len(dataset) // limit for i in range(limit)])
    was_training, confusion = model.training, None
    try:
        model.eval()
        # Seeded, so that a dataset that draws random numbers is scored alike each time.
        with torch.inference_mode(), _seeded(0, device):
            batches = DataLoader(dataset, batch_size, collate_fn=_collate_by_size)
            for images, masks in itertools.chain.from_iterable(batches):
                images = images.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    logits = model(images)
                if confusion is None:
                    num_classes = num_classes or max(2, logits.shape[1])
                    confusion = ConfusionMatrix(num_classes, ignore_index=ignore_index, boundary_width=boundary_width)
                labels = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()  # (B, H, W)
                confusion.update(labels, masks.to(device))
    finally:
        model.train(was_training)
    if confusion is None:
        raise ValueError("there is nothing to score: the dataset (or limit) has no images")
    return confusion


# ------------------------------------------------------------------------------------------------------- precision
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively and right (AMX or the Arm extension).

    Emulated bfloat16 is several times slower than float32, so "torch accepts it" is the wrong question. AVX512-BF16
    without AMX does not count either: there, oneDNN 3.13 returns NaN for the weight gradient of a dilated convolution
    on channels-last maps whose channels are no multiple of 16.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(probe is not None and probe())
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if probe is not None:
        return bool(probe())
    try:  # older torch has no such probe; Linux tells
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def autocast_dtype(device: str | torch.device, precision: str = "auto") -> torch.dtype | None:
    """The half-precision type to compute in on `device`, or None for float32.

    "auto" takes bfloat16 where the hardware multiplies it natively, float16 on older CUDA devices (its narrow range
    then needs the gradient scaler), and float32 everywhere else.

    Raises:
        ValueError: an unknown precision, or "fp16" off CUDA.
    """
    device = torch.device(device)
    if precision == "auto":
        if device.type == "cuda":
            # is_bf16_supported() also answers yes where CUDA only emulates it; Ampere (8.0) is the first that does not.
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else None
    if precision not in _DTYPES:
        raise ValueError(f'unknown precision {precision!r}: choose "auto", "fp32", "bf16" or "fp16"')
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f'precision "fp16" needs a CUDA device, not {device.type!r}: use "bf16" or "auto"')
    return _DTYPES[precision]


def _prepare(model: nn.Module, device: str | torch.device | None, precision: str):
    """Moves the model; returns (device, autocast dtype). Channels last is the fastest layout for convolutions."""
    if device is None:
        first = next(model.parameters(), None)
        device = first.device if first is not None else "cpu"
    device = torch.device(device)
    dtype = autocast_dtype(device, precision)
    model.to(device, memory_format=torch.channels_last)
    return device, dtype


# ------------------------------------------------------------------------------------------------------- randomness
@contextlib.contextmanager
def _seeded(seed: int, device: torch.device):
    """Seed torch, numpy and `random` inside the block; put the caller's states back after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def _interrupts_between_steps():
    """Yield a list that Ctrl-C fills, so that no step is cut in two; the second Ctrl-C does not wait."""
    asked: list[int] = []

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield asked  # only the main thread hears signals, and a process told to ignore them goes on doing so
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Indices of one shuffled batch after the other, pass after pass over the set, without end."""
    while True:
        for batch in torch.randperm(count, generator=generator).split(batch_size):
            if len(batch) > 1 or count == 1 or batch_size == 1:
                yield batch.tolist()


class _Placed(Dataset):
    """Seeds the n-th image of a run by n, so that it looks the same whichever worker loads it and after any break."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place_and_index: tuple[int, int]):
        place, index = place_and_index
        number = int(np.random.SeedSequence((self.seed % 2**32, place)).generate_state(1)[0])
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        return self.dataset[index]


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that trains hears Ctrl-C, and decides


def _loader(dataset: Dataset, batch_size: int, seed: int, num_workers: int, start: int = 0) -> DataLoader:
    if len(dataset) == 0 or batch_size < 1:
        raise ValueError(f"cannot train on {len(dataset)} images in batches of {batch_size}: both must be at least 1")
    # Two generators: the order of the images must not depend on how many numbers the loader draws to seed its workers.
    order, workers = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    batches = itertools.islice(_batches(len(dataset), batch_size, order), start, None)
    if num_workers:
        dataset, numbered = _Placed(dataset, seed), enumerate(batches, start)
        batches = ([(number * batch_size + i, index) for i, index in enumerate(batch)] for number, batch in numbered)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        generator=workers,
        worker_init_fn=_ignore_interrupts,
        collate_fn=_collate,
    )


def _collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    sizes = {tuple(image.shape[-2:]) for image, _ in samples}
    if len(sizes) > 1:
        raise ValueError(
            f"images of one batch differ in size ({', '.join(f'{h}x{w}' for h, w in sorted(sizes))}): give the dataset "
            "a size= or a transform that crops, or use batch_size=1"
        )
    images, masks = default_collate([(image, mask) for image, mask in samples])
    return images, masks


def _collate_by_size(samples: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    groups: dict[tuple[int, ...], list] = {}
    for image, mask in samples:
        groups.setdefault(tuple(image.shape), []).append((image, mask))
    return [_collate(group) for group in groups.values()]


# ---------------------------------------------------------------------------------------------------------- helpers
def _continued(resume: Mapping[str, Any], run: dict[str, int], model, optimizer, scaler) -> History:
    """Put everything back to where the saved run stood; returns its curves."""
    for name, value in run.items():
        if resume["run"][name] != value:
            raise ValueError(
                f"the saved run had {name}={resume['run'][name]}, not {value}: a run continues with the settings and "
                "data that it began with"
            )
    restore(resume, model, optimizer, scaler)
    return History(**{**resume["history"], "interrupted": False})


def _schedule(schedule: str | Callable[[int, int], float]) -> Callable[[int, int], float]:
    known = {"poly": poly, "constant": lambda step, steps: 1.0}
    if callable(schedule):
        return schedule
    if schedule not in known:
        raise ValueError(f'unknown schedule {schedule!r}: choose "poly", "constant" or a function (step, steps)')
    return known[schedule]


def _float(outputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Half-precision outputs in float32, in which a loss can add up a million pixels."""
    return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)


def _finite(number: float, step: int, optimizer: torch.optim.Optimizer) -> float:
    lr = optimizer.param_groups[0]["lr"]
    if number != number or number in (float("inf"), float("-inf")):
        raise FloatingPointError(
            f"the loss became {number} at step {step}: lower the learning rate (it was {lr:.1e}), clip the gradient "
            '(clip=1.0), or look for invalid values in that batch; precision="fp32" rules out overflow'
        )
    return number


class _Reporter:
    """Fills the history; prints a line per `log_every` steps (also off a terminal); writes TensorBoard files."""

    def __init__(self, steps: int, log_every: int | None, log_dir: str | Path | None):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.total, self.log_every, self.board = steps, log_every, None
        if log_dir is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "log_dir writes TensorBoard files and TensorBoard is not installed: pip install tensorboard, or "
                    "leave log_dir out"
                ) from error
            self.board = SummaryWriter(log_dir)

    def __enter__(self) -> _Reporter:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error) -> None:
        if self.board is not None:
            self.board.close()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def record(self, history: History, step: int, loss: float, lr: float, seconds: float) -> None:
        history.steps.append(step)
        history.loss.append(loss)
        history.lr.append(lr)
        history.step_seconds.append(seconds)
        if self.board is not None:
            self.board.add_scalar("train/loss", loss, step)
            self.board.add_scalar("train/lr", lr, step)
        if self.log_every and (step % self.log_every == 0 or step == self.total):
            recent = history.loss[-self.log_every :]
            left = history.seconds_per_step * (self.total - step)
            width = len(str(self.total))
            print(
                f"step {step:>{width}}/{self.total}  loss {sum(recent) / len(recent):.4f}  lr {lr:.2e}  "
                f"{1000 * history.seconds_per_step:.0f} ms/step  {_clock(left)} left",
                flush=True,
            )

    def validated(self, history: History, step: int, confusion: ConfusionMatrix) -> None:
        scores = confusion.summary()
        history.valid.append((step, scores))
        if self.board is not None:
            for name, value in scores.items():
                self.board.add_scalar(f"valid/{name}", value, step)
        if self.log_every:
            print(f"step {step}/{self.total}  validation mIoU {float(confusion.miou):.4f}", flush=True)
        matrix = confusion.matrix.double()  # (C, C) [true, predicted]
        predicted, true = (matrix.sum(dim) / matrix.sum().clamp(min=1) for dim in (0, 1))
        top = int(predicted.argmax())
        if predicted[top] > 0.99 and true[top] < 0.99:
            warnings.warn(
                f"at step {step} the model answers class {top} for {100 * float(predicted[top]):.1f} % of the pixels, "
                f"which have that class in {100 * float(true[top]):.1f} %: it has collapsed, or not learnt yet",
                stacklevel=3,
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
