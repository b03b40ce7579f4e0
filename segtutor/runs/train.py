"""``segtutor train``: from a configuration to a run's folder with a trained model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segtutor import training
from segtutor.data.report import DatasetReport
from segtutor.factory import ConfigError, ModelInfo, SegmentationModel, create_model
from segtutor.runs.before import look_at_data, try_out
from segtutor.runs.data import is_read_from_files
from segtutor.runs.faults import explained, sentence
from segtutor.runs.folder import (
    BEST,
    CHECKPOINT,
    HISTORY,
    LAST,
    TENSORBOARD,
    check_unused,
    write_config,
    write_json,
    write_recipe,
)
from segtutor.runs.lock import check_not_in_use, locked
from segtutor.runs.metrics import MetricFiles
from segtutor.runs.panels import Samples
from segtutor.runs.progress import LOSS_EVERY, Bar, is_drawn
from segtutor.runs.recipe import Recipe, name_of, read_recipe
from segtutor.runs.scores import counted
from segtutor.training import History, Observer, save_checkpoint
from segtutor.training.distributed import joined

SMALLEST_SIDE = 32  # of an image, for every model of the factory
logger = logging.getLogger(__name__)


def train(
    config: Any,
    overrides: Iterable[str] = (),
    *,
    out: Path | str | None = None,
    check_data: bool = True,
    profile: int | None = None,
) -> History:
    """Train a model as a configuration says, into a new folder.

    Each of several processes that torchrun started makes this call. The first one checks, writes and speaks for all.

    Args:
        config: a YAML file, the name of a shipped configuration, or a model such as "resnet18-fcn".
        overrides: "path.of.key=value" each.
        out: the run's folder; None: ``runs/`` and the configuration's name.
        check_data: look at a sample of the images and masks first, make a step and undo it, and do not start where
            something is wrong.

        profile: log after so many steps where their time went, and what to change.

    Returns:
        The curves.

    Raises:
        ConfigError: the configuration is wrong; the message names the key.
        RunError: the folder is in use, or something is wrong with the data.
        PeerError: in all processes but the first one, what it raised.
    """
    run = Path("runs", name_of(config)) if out is None else Path(out)
    processes = joined()

    def checked() -> tuple[Recipe, DatasetReport | None]:
        check_unused(run)
        check_not_in_use(run)
        recipe = read_recipe(config, overrides)
        report = look_at_data(recipe) if check_data else None
        return recipe.measured().staffed(), report

    recipe, report = processes.once(checked)
    parts = build(recipe, pretrained=processes.first)
    if report is not None:
        processes.once(partial(try_out, recipe, *parts, report))
    with contextlib.ExitStack() as stack:

        def claim() -> None:  # not before all is built, or a run that could not start would be in the way of the next
            stack.enter_context(locked(run))
            check_unused(run)  # somebody may have been quicker
            write_recipe(run, recipe, parts[0])

        processes.once(claim)
        return fit_run(run, recipe, recipe.to_dict(), *parts, profile=profile)


def build(recipe: Recipe, *, pretrained: bool) -> tuple[Any, Any, SegmentationModel]:
    """The training data, the validation data and the model of a recipe.

    Args:
        recipe: the checked configuration.
        pretrained: fetch pretrained weights, which a checkpoint would replace, and which several processes get from
            the first one.
    """
    data, validation = recipe.open_data("train", augment=True), recipe.open_data("val")
    return data, validation, build_model(recipe, data, pretrained=pretrained)


def fit_run(
    run: Path,
    recipe: Recipe,
    config: dict[str, Any],
    data: Any,
    validation: Any,
    model: SegmentationModel,
    *,
    state: Mapping[str, Any] | None = None,
    changes: Sequence[Mapping[str, Any]] = (),
    profile: int | None = None,
) -> History:
    """Train as a recipe says.

    Args:
        run: the run's folder, which is this process's own.
        recipe: the checked configuration.
        config: the same as it is written down.
        data, validation, model: as `build` makes them.
        state: a checkpoint to continue from; None: a new run.
        changes: what was changed since the run began, written beside the curves.
        profile: steps whose time is looked into; None: none.

    Returns:
        The curves.

    Raises:
        RunError: what ended the training, and what is kept of it.
    """
    rules, names = recipe.training, images_of(data)
    kept = None if state is None else len(state["history"]["steps"])
    processes = joined()
    if state is not None:
        processes.once(lambda: write_config(run, config))
    if processes.first:
        _announce(recipe, data, validation, model)

    def save(state: dict[str, Any]) -> None:
        nonlocal kept
        state = {**state, "config": config, "names": names, "changes": list(changes)}
        if kept is None:  # a run that is killed between model and checkpoint could not go on, and not begin again
            save_checkpoint(state, run / CHECKPOINT)
            kept = len(state["history"]["steps"])
        if _is_best(state["history"]):
            model.save_pretrained(run / BEST)
        model.save_pretrained(run / LAST)
        write_json(run / HISTORY, {**state["history"], "changes": changes})
        save_checkpoint(state, run / CHECKPOINT)  # the last of all: what it says to be done is done
        kept = len(state["history"]["steps"])

    def go_on() -> str:
        if not processes.first:
            return f"What was saved is kept: continue with `segtutor train --resume {run}`."
        if kept is None:
            return "Nothing was saved yet, so that the same command starts anew."
        return f"The state after step {kept} is kept: continue with `segtutor train --resume {run}`."

    every = max(1, rules.steps // 20) if recipe.logging.every is None else recipe.logging.every
    live = processes.once(is_drawn)
    with explained(recipe, go_on):
        if rules.num_workers and recipe.data["keep_in_memory"]:
            data.load()  # before the loading processes start, or each would keep a copy of its own
        history = training.fit(
            model,
            data,
            steps=rules.steps,
            loss=rules.make_loss(data.spec.ignore_index, recipe.model.auxiliary, recipe.model.num_classes),
            auxiliary=recipe.model.auxiliary,
            batch_size=rules.batch_size,
            optimizer=rules.make_optimizer(model),
            schedule=rules.make_schedule(),
            gradient_clip=rules.gradient_clip,
            accumulate=rules.accumulate,
            ema=rules.ema,
            batch_transform=recipe.data["augmentation"].batch_transform(data.spec),
            seed=rules.seed,
            precision=rules.precision,
            log_every=min(every, LOSS_EVERY) if live else every,  # the bar shows losses more often than lines would
            validation=validation,
            validate_every=rules.validate_every,
            evaluation=recipe.scoring(validation.spec),
            log_dir=run / TENSORBOARD if recipe.logging.tensorboard else None,
            observers=_observers(run, recipe, validation, state, every, live) if processes.first else (),
            num_workers=rules.num_workers or 0,
            sync_batchnorm=rules.sync_batchnorm,
            profile=profile,
            save=save,
            save_every=max(1, rules.steps // 10) if rules.save_every is None else rules.save_every,
            resume=state,
        )
    if not processes.first:
        return history
    if history.interrupted:
        at = "before the first step" if not history.steps else f"after step {len(history.steps)} of {rules.steps}"
        saved = "" if kept is None or kept == len(history.steps) else f" The state after step {kept} is kept."
        logger.info("Stopped %s.%s Continue with: segtutor train --resume %s", at, saved, run)
    else:
        if recipe.logging.report:
            _report(run)
        logger.info("Done: %s. Next: segtutor evaluate %s", run, run)
    return history


def _report(run: Path) -> None:
    """Write the report; a run that is done stays so where that fails."""
    from segtutor.runs.report import report

    try:
        logger.info("Report: %s", report(run))
    except Exception as error:
        logger.warning(
            "Warning: the report was not written (%s: %s): try `segtutor report %s`.",
            type(error).__name__, sentence(error), run,
        )  # fmt: skip


def _observers(
    run: Path, recipe: Recipe, validation: Any, state: Mapping[str, Any] | None, every: int, live: bool
) -> list[Observer]:
    """What shows and writes how the run goes."""
    rules = recipe.training
    history = History() if state is None else History(**state["history"])
    images = rules.batch_size * rules.accumulate
    width = recipe.evaluation.boundary_width
    files = MetricFiles(run, every=every, steps=rules.steps, images=images, history=history, boundary_width=width)
    found: list[Observer] = [files]
    if recipe.logging.tensorboard:
        found.append(Samples(run / TENSORBOARD, validation))
    if live:
        found.append(Bar(rules.steps, images, history))
    return found


def images_of(data: Any) -> str:
    """A number that stands for the names of a dataset's files, in their order; "" where it draws its images."""
    pairs = getattr(data, "pairs", None)
    if pairs is None:
        return ""
    names = [f"{path.parent.name}/{path.name}" for pair in pairs for path in pair]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def build_model(recipe: Recipe, data: Any, *, pretrained: bool) -> SegmentationModel:
    """The model of a recipe, with what it must know of the images.

    Args:
        recipe: the checked configuration.
        data: what it is to be trained on, with its spec.
        pretrained: fetch pretrained weights, which a checkpoint would replace.

    Raises:
        ConfigError: the images are too small, or the model cannot be built.
    """
    augmentation = recipe.data["augmentation"]
    height, width = augmentation.crop if augmentation.on_device else data[0][0].shape[1:]
    if min(height, width) < SMALLEST_SIDE:
        raise ConfigError(
            f"data: the images of training are {height} x {width} pixels, and a model needs sides of "
            f"{SMALLEST_SIDE}: give a larger size or augmentation.crop."
        )
    config = recipe.model.to_dict()
    if not pretrained and "pretrained" in config["backbone"]:
        config["backbone"]["pretrained"] = False
    if config["device"] is None and torch.cuda.is_available():
        config["device"] = "cuda"
    try:
        model = create_model(config, info=ModelInfo.of(data.spec, (height, width), _resize(recipe)))
    except ConfigError as error:
        raise ConfigError(f"model.{error}") from None
    model.config = recipe.model
    return model


def _resize(recipe: Recipe) -> tuple[int, int] | None:
    """The size to which image files are resized; None where they are not, or the images are drawn."""
    size = recipe.data.get("size") if is_read_from_files(recipe.data) else None
    return None if size is None else (int(size[0]), int(size[1]))


def _announce(recipe: Recipe, data: Any, validation: Any, model: SegmentationModel) -> None:
    logger.info(
        "Data: %s, %s to train on, %d to validate, %d classes.",
        data.spec.title, counted(data), len(validation), data.spec.num_classes,
    )  # fmt: skip
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    names = f"{recipe.model.backbone['type']} with head {recipe.model.head['type']}"
    where = next(model.parameters()).device
    logger.info("Model: %s, %.1f million parameters, on %s.", names, million, where)
    if recipe.training.num_workers:
        logger.info("Loading processes: %d.", recipe.training.num_workers)
    if (count := joined().world_size) > 1:
        batch = recipe.training.batch_size
        logger.info("Processes: %d, each with %d of the %d images of a batch.", count, batch // count, batch)


def is_validated(history: Mapping[str, Any]) -> bool:
    """Whether the last step was validated."""
    return bool(history["validation"]) and history["validation"][-1][0] == len(history["steps"])


def _is_best(history: Mapping[str, Any]) -> bool:
    """Whether the last step was validated, and better than all before."""
    if not is_validated(history):
        return False
    *before, now = (scores["miou"] for _, scores in history["validation"])
    return all(now > score for score in before)
