"""One loop to train with, short enough to read.

Read :func:`fit` from top to bottom: batches, forward, loss, backward, step. What keeps the loop honest stands beside
it: every random number comes from `seed` and the caller's random state is put back (``sampling``), half precision is
used only where the hardware computes in it natively (``precision``), no signal cuts a step in two (``interrupts``), and
several processes share the work as one would do it (``distributed``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.logs import shown_unless_handled
from segtutor.losses import CrossEntropyLoss
from segtutor.training.averaging import MeanWeights
from segtutor.training.checkpointing import random_state, restore, set_random_state, snapshot
from segtutor.training.distributed import check_all_read, check_synchronised_norms, joined
from segtutor.training.evaluate import evaluate
from segtutor.training.interrupts import between_steps
from segtutor.training.precision import NAMES, in_float32, prepare
from segtutor.training.profiling import StepClock
from segtutor.training.reporting import ClassWatch, History, Observer, Reporter
from segtutor.training.sampling import Samples, batch_sizes, check_dataset, loader, seed_of, seeded
from segtutor.training.schedule import Schedule, schedule_of

ECHO = 20.0  # seconds in which torchrun passes a signal on a second time; it kills after 30


def fit(
    model: nn.Module,
    dataset: Samples,
    *,
    steps: int,
    loss: Callable[[Tensor | tuple[Tensor, ...], Tensor], Tensor] | None = None,
    auxiliary: bool = False,
    batch_size: int = 8,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: str | Schedule = "poly",
    gradient_clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    batch_transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    log_every: int | None = None,
    validation: Samples | None = None,
    validate_every: int | None = None,
    evaluation: Mapping[str, Any] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    log_dir: str | Path | None = None,
    observers: Sequence[Observer] = (),
    num_workers: int = 0,
    sync_batchnorm: bool = False,
    profile: int | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    save_every: int | None = None,
    resume: Mapping[str, Any] | None = None,
) -> History:
    """Train `model` on `dataset` for a number of steps, reshuffling whenever the set has been seen once.

    Two calls with the same model weights and the same `seed` give the same losses, bit for bit on a CPU, and the
    caller's own random numbers go on as if nothing had happened. A run that is continued from a saved state has the
    losses of one that was never interrupted.

    Several processes that torchrun or ``accelerate launch`` started, each of which makes this call, train one model:
    each has its share of every batch and of the validation, the first one alone logs and saves, all return the same
    model. Numbers differ from those of one process only where normalisations see a share of the batch, where masks
    have void pixels, since each process takes the mean over its own, and by rounding.

    A model in evaluation mode, as `fit` and `from_pretrained` leave it, is put into training mode. In a model that is
    in training mode, the modules that are in evaluation mode stay in it: normalisation layers that you froze by
    `.eval()` keep their statistics. Afterwards the whole model is in evaluation mode.

    Args:
        model: maps images (B, C, H, W) to logits (B, num_classes, H, W). Changed in place.
        dataset: `dataset[i]` is (image (C, H, W) float32, mask (H, W) int64), normalised and of one size.
        steps: number of optimiser steps.
        loss: `loss(logits, masks)`, a scalar. None: `CrossEntropyLoss()`.
        auxiliary: call `model(images, auxiliary=True)`; the pair (logits, auxiliary logits) that it returns goes to the
            loss, such as `AuxiliaryLoss()`. Validation calls `model(images)` all the same.
        batch_size: images per step, those of all processes together. The last batch of a pass may be smaller; a last
            batch of one image (for each process) is dropped, because batch normalisation learns nothing from it.
        lr: learning rate before the schedule; with `optimizer` given, its own is used.
        weight_decay: decoupled weight decay of the default optimiser, AdamW.
        optimizer: one that holds the model's parameters already. None: `AdamW(lr, weight_decay)`.
        schedule: "poly" (:func:`poly`), "cosine" (:func:`cosine`), "constant", or a function (step, steps) -> factor on
            the learning rate.
        gradient_clip: largest allowed norm of the gradient; None: no clipping.
        accumulate: batches whose losses are averaged in each step, one after the other, for a batch that is too large
            to be held at once.
        ema: share of the mean of the weights that a step keeps, such as 0.999; the mean is what is validated, what the
            model holds while `save` is called, and what it holds in the end. None: no mean is kept.
        batch_transform: called on the images and masks of each training batch on the device, such as
            `segtutor.data.batch_transforms.RandomView`; images of the dataset then need no normalisation of their own.
        seed: seeds shuffling, augmentation and dropout.
        device: where to train; the model is moved there. None: where the model is.
        precision: "auto" (see :func:`autocast_dtype`), "fp32", "bf16" or "fp16" (CUDA only).
        log_every: log a line every so many steps, at level INFO of the logger "segtutor"; printed where no logging is
            set up. The losses are read from the device then, and no step waits for its own. None: no lines, and each
            loss is read at once.
        validation: a dataset to score with :func:`evaluate` after the last step.
        validate_every: score it also every so many steps.
        evaluation: further arguments of :func:`evaluate` in place of its own, such as ``{"boundary_width": 5}``.
        on_step: called as `on_step(step, loss)` after each step, whose loss is read at once for it.
        log_dir: write loss, learning rate and scores there for TensorBoard.
        observers: are told of each step and validation, such as what draws a bar of progress.
        num_workers: processes that load data; 0 loads in this one.
        sync_batchnorm: of several processes on GPUs: take the statistics of batch normalisations over the whole batch.
        profile: after so many steps log which share of their time went into waiting for data, forward pass, backward
            pass and optimiser, and what to change. The numbers of the run stay what they are.
        save: called as `save(state)` before and after each validation, after the last step and after an interrupt, with
            what it takes to continue; see :func:`save_checkpoint`. The tensors are the live ones: write them before
            returning. With it, SIGTERM and SIGHUP are heard like Ctrl-C, and take their course once the state is saved.
        save_every: call it also every so many steps.
        resume: a state to continue from, with the model, data and settings of the run that it was saved in; steps,
            learning rate and weight decay may be others.

    Returns:
        The curves. After Ctrl-C, which waits for the end of the step, the curves so far.

    Raises:
        FloatingPointError: the loss became infinite or not a number; names the step. It is found where losses are read,
            and no state is saved after it.
        ValueError: a setting, data or a batch that cannot be trained on, or a state of another run.
        PeerError: another of several processes has ended, and says why.
    """
    processes = joined()
    check_dataset(dataset, "dataset")
    if validation is not None:
        check_dataset(validation, "validation")
    device, dtype = prepare(model, device, precision, processes.place)
    factor = schedule_of(schedule)
    loss = CrossEntropyLoss() if loss is None else loss
    if isinstance(loss, nn.Module):
        loss.to(device)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    history = History(precision=NAMES[dtype])
    told = (log_every, log_dir, observers) if processes.first else (None, None, ())
    reporter = Reporter(steps, *told, processes.mean)
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}; it counts the batches of a step, so choose at least 1")
    if sync_batchnorm and processes.world_size > 1:
        processes.once(lambda: check_synchronised_norms(device))
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    mean = None if ema is None else MeanWeights(model, ema)
    sizes = processes.once(lambda: batch_sizes(len(dataset), batch_size, processes.world_size))
    # What decides the order of the images
    run = {"seed": seed, "batch_size": batch_size, "images": len(dataset), "accumulate": accumulate}
    run["batches_of_a_pass"] = len(sizes)
    if resume is not None:
        processes.once(lambda: _check_same(resume["run"], run))
        restore(resume, model, optimizer, scaler, mean)
        history = History(**{**resume["history"], "interrupted": False})
    watch = ClassWatch(getattr(loss, "ignore_index", 255))
    base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    # A device that is asked for a loss is waited for; who wants each loss at once waits at each step.
    read_every = 1 if on_step is not None else log_every or 1
    clock = StepClock(profile if processes.first else None, device, num_workers)
    start, seconds, whole, agreed = len(history.steps), history.seconds, True, processes.world_size == 1

    def hand_out() -> None:
        if save is not None:
            reporter.settle(history)  # a state after a loss that is no number is not worth saving
            _check_weights(model, len(history.steps))
            history.seconds = seconds + reporter.seconds
            state = {**snapshot(model, optimizer, scaler, mean), "run": run, "history": asdict(history)}
            state["random"] = processes.gather(random_state())
            with contextlib.nullcontext() if mean is None else mean.inside(model):
                processes.once(lambda: save(state))

    def due(every: int | None, step: int) -> bool:
        return step == steps or bool(every and step % every == 0)

    def validate(step: int) -> None:
        if validation is not None:
            reporter.settle(history)
            rules: dict[str, Any] = {"batch_size": batch_size, "precision": precision, **(evaluation or {})}
            answers = mean.model if mean else model
            processes.share_buffers(answers)
            scores = evaluate(answers, validation, **rules, processes=processes)
            if processes.first:
                reporter.validated(history, step, scores, answers)
            else:
                history.validation.append((step, scores.summary()))
            hand_out()

    lines = shown_unless_handled() if told[0] else contextlib.nullcontext()
    signals = between_steps(termination=save is not None, echo=0 if agreed else ECHO)
    numbers = seeded(seed_of(seed, processes.rank, start), device)
    with signals as asked, lines, reporter, numbers, processes.faults():
        try:
            if not model.training:
                model.train()
            wrapped = processes.wrap(model, device)
            batches = iter(
                loader(
                    dataset, batch_size, seed, num_workers, start * accumulate,
                    pin=device.type == "cuda", rank=processes.rank, world_size=processes.world_size,
                )
            )  # fmt: skip
            if resume is not None:
                if processes.rank < len(resume["random"]):
                    set_random_state(resume["random"][processes.rank])
                if validation is not None and start and due(validate_every, start) and not _validated(history):
                    validate(start)  # the run had ended in the middle of it
            for step in range(start + 1, steps + 1):
                tick, whole = time.perf_counter(), False
                clock.begin()
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * factor(step - 1, steps)
                optimizer.zero_grad(set_to_none=True)
                total = torch.zeros((), device=device)
                for part in range(accumulate):
                    images, masks = (batch.to(device, non_blocking=True) for batch in next(batches))
                    # The mean over the processes is that over the images where their shares are unequal, too
                    share = len(images) * processes.world_size / sizes[((step - 1) * accumulate + part) % len(sizes)]
                    if batch_transform is not None:
                        images, masks = batch_transform(images, masks)
                    images = images.contiguous(memory_format=torch.channels_last)
                    clock.lap("data")
                    with processes.step_part(wrapped, last=part == accumulate - 1):
                        with torch.autocast(device.type, dtype, enabled=dtype is not None):
                            outputs = wrapped(images, auxiliary=True) if auxiliary else wrapped(images)
                        watch.look(masks)
                        value = loss(in_float32(outputs), masks) * share / accumulate
                        total = total + value.detach()
                        clock.lap("forward")
                        scaler.scale(value).backward()
                    clock.lap("backward")
                if step == start + 1 and processes.world_size > 1:
                    processes.once(lambda: check_all_read(model))
                reporter.note(step, total, optimizer.param_groups[0]["lr"])
                if due(read_every, step):
                    reporter.read()  # before a weight is moved
                clock.lap("rest")
                if gradient_clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
                scaler.step(optimizer)
                scaler.update()
                if mean is not None:
                    mean.update(model)
                clock.lap("optimiser")
                reporter.record(history, time.perf_counter() - tick)
                whole = True
                clock.end()
                if on_step is not None:
                    on_step(step, history.loss[-1])
                if processes.any(bool(asked)):
                    agreed = True
                    raise KeyboardInterrupt
                scored = validation is not None and due(validate_every, step)
                if scored or due(save_every, step):
                    hand_out()  # before the validation, so that a broken image in it costs no work
                if scored:
                    validate(step)
                    if processes.any(bool(asked)):
                        agreed = True
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            if not agreed:  # the others are in the middle of a step
                raise
            history.interrupted = True
            reporter.settle(history)
            if whole:  # half a step could not be continued
                hand_out()
        if mean is not None and history.steps:
            mean.copy_into(model)
        processes.share_buffers(model)
        watch.seen.update(*processes.gather(watch.seen))  # the last word to the others: a signal may take its course
    if processes.first and (len(history.steps) - start) * batch_size * accumulate >= len(dataset):
        watch.conclude()  # every mask was seen
    history.seconds = seconds + reporter.seconds
    model.eval()
    return history


def _check_same(saved: Mapping[str, int], run: Mapping[str, int]) -> None:
    """Refuse to continue a run with other numbers than those by which the order of its images follows."""
    for name, value in run.items():
        if saved[name] == value:
            continue
        if name == "batches_of_a_pass":
            raise ValueError(
                f"the saved run had {saved[name]} batches in each pass over the images, and has {value} in this number "
                "of processes, whose shares of the last batch are another number: continue it in as many processes as "
                "it had"
            )
        raise ValueError(
            f"the saved run had {name}={saved[name]}, not {value}: a run continues with the settings and data that it "
            "began with"
        )


def _validated(history: History) -> bool:
    """Whether the last step has been validated."""
    return bool(history.validation) and history.validation[-1][0] == len(history.steps)


def _check_weights(model: nn.Module, step: int) -> None:
    """Refuse to save weights that are not numbers, which a finite loss may have had infinite gradients for."""
    finite = [parameter.detach().isfinite().all() for parameter in model.parameters()]
    if finite and not bool(torch.stack(finite).all()):
        raise FloatingPointError(
            f"the weights are not finite after step {step}: lower the learning rate, or clip the gradient "
            "(gradient_clip=1.0)"
        )
