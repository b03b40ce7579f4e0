"""What `segtutor train` looks at before the first step, so that no run of hours ends in its third, or teaches nothing.

The data are looked at as `segtutor check-data` does, one step is made and undone, and settings that mostly do not work
are pointed out, each with its cure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from segtutor import training
from segtutor.data.report import DatasetReport
from segtutor.runs.data import is_read_from_files, open_data
from segtutor.runs.errors import RunError
from segtutor.runs.faults import explained, sentence
from segtutor.runs.recipe import Recipe
from segtutor.training.distributed import joined

logger = logging.getLogger(__name__)

RARE = 0.001  # share of the pixels below which a class is seldom learnt without weights
ENOUGH = 20  # masks; in fewer of a larger set, a class may be missing by chance
NAMED = 12  # classes that the line of frequencies names
# Learning rates that mostly do not work: below, above, and above with a pretrained backbone
RATES = {"adamw": (1e-6, 2e-2, 3e-3), "sgd": (1e-5, 0.5, 0.1)}
USUAL = {"adamw": "1e-4 and 1e-3", "sgd": "0.005 and 0.05"}


def look_at_data(recipe: Recipe) -> DatasetReport:
    """Look at a sample of the images and masks; log how often each class occurs in those of training.

    Returns:
        The report on the training data.

    Raises:
        RunError: something is wrong with them.
    """
    from segtutor.data.check import before_training

    report = before_training(*(open_data(recipe.data, split) for split in ("train", "val")))
    if report.problems:
        others = len(report.problems) - 1
        more = f", and {others} more (`segtutor check-data` shows all)" if others else ""
        raise RunError(f"data: {report.problems[0]}{more}. Correct this, or train all the same with --no-check.")
    found = report.parts["training"]
    if fault := size_fault(recipe, found):
        raise RunError(f"{fault} Or train all the same with --no-check.")
    logger.info("%s", frequencies(found))
    return found


def size_fault(recipe: Recipe, report: DatasetReport) -> str:
    """One sentence where the training images make no batch, because they differ in size; else nothing."""
    augmentation = recipe.data["augmentation"]
    resized = recipe.data.get("size") is not None and is_read_from_files(recipe.data)
    cropped = augmentation.crop is not None and not augmentation.on_device
    if resized or cropped or recipe.training.batch_size == 1 or len(report.sizes) < 2:
        return ""
    (one, _), (two, _) = report.sizes.most_common(2)
    height, width = (min(sides) for sides in zip(*report.sizes, strict=True))
    crop = "" if augmentation.crop else f"data.augmentation.crop=[{height},{width}], or "
    others = len(report.sizes) - 2
    more = f" and {others} more" if others else ""
    when = " before it is cropped on the device" if augmentation.crop else ""
    return (
        f"data: the training images have several sizes, such as {one[0]} x {one[1]} and {two[0]} x {two[1]}{more}, and "
        f"a batch needs one{when}: set {crop}data.size=[{one[0]},{one[1]}], or training.batch_size=1."
    )


def try_out(recipe: Recipe, data: Any, validation: Any, model: nn.Module, report: DatasetReport) -> None:
    """Log what is doubtful, make one step and undo it, and log the memory that it took.

    Args:
        recipe: the checked configuration.
        data, validation, model: as the run is to have them.
        report: what `look_at_data` found.

    Raises:
        RunError: the step failed; one sentence that says why.
    """
    for doubt in doubts(recipe, data, model, report):
        logger.warning("Warning: %s", doubt)
    rules = recipe.training
    batch_size = max(1, rules.batch_size // joined().world_size)
    try:
        with explained(recipe, lambda: "Nothing was started."):
            found = training.rehearse(
                model,
                data,
                loss=rules.make_loss(data.spec.ignore_index, recipe.model.auxiliary, recipe.model.num_classes),
                optimizer=rules.make_optimizer(model),
                auxiliary=recipe.model.auxiliary,
                batch_size=batch_size,
                batch_transform=recipe.data["augmentation"].batch_transform(data.spec),
                seed=rules.seed,
                precision=rules.precision,
                validation=validation,
                evaluation=recipe.scoring(validation.spec),
            )
    except RunError:
        raise
    except Exception as error:  # of a part of somebody's own, or a shape that no check knows
        raise RunError(
            f"the first step would fail with {type(error).__name__}: {sentence(error).rstrip('.')}. Nothing was "
            "started; --no-check starts all the same, and shows where it fails."
        ) from error
    how = "allocated on the GPU" if found.measured else "weights, gradients, moments, activations"
    logger.info("Memory: about %d MiB for a batch of %d (%s).", found.memory / 2**20, batch_size, how)


def frequencies(report: DatasetReport) -> str:
    """One line: how often each class occurs in the masks that were read."""
    shares = report.class_frequencies
    whole = report.checked >= report.images
    which = f"all {report.images}" if whole else f"a sample of {report.checked} of {report.images}"
    known = sorted(shares, key=shares.__getitem__, reverse=True)
    left = len(known) - NAMED
    named = known if left <= 0 else [*known[: NAMED // 2], *known[-(NAMED // 2) :]]
    more = f"; {left} more between" if left > 0 else ""
    listed = ", ".join(f"{name} {100 * shares[name]:.2g} %" for name in named)
    return f"Pixels of each class in {which} training masks: {listed}{more}."


def doubts(recipe: Recipe, data: Any, model: nn.Module, report: DatasetReport) -> Iterator[str]:
    """What mostly goes wrong with such settings and data, one sentence with its cure each.

    Args:
        recipe: the checked configuration.
        data: the training data.
        model: the model, before the first step.
        report: what `look_at_data` found.
    """
    yield from _about_rates(recipe)
    yield from _about_steps(recipe, len(data))
    yield from _about_batches(recipe, model)
    yield from _about_mixing(recipe)
    yield from _about_crops(recipe, report)
    yield from _about_classes(recipe, report)


def _about_rates(recipe: Recipe) -> Iterator[str]:
    rules, kind = recipe.training, recipe.training.optimizer["type"]
    if kind not in RATES:
        return
    low, high, tamed = RATES[kind]
    pretrained = bool(recipe.model.backbone.get("pretrained"))
    advice = f"{kind} mostly learns between {USUAL[kind]}: set training.lr there"
    if rules.lr < low:
        yield f"a learning rate of {rules.lr:g} hardly moves the weights; {advice}."
    elif rules.lr > high:
        yield f"a learning rate of {rules.lr:g} is mostly too high; {advice}."
    elif pretrained and rules.lr > tamed:
        yield (
            f"a learning rate of {rules.lr:g} mostly makes a pretrained backbone forget what it knows; {advice}, with "
            "training.head_lr=10 for the rest of the model."
        )


def _about_steps(recipe: Recipe, images: int) -> Iterator[str]:
    rules = recipe.training
    seen = rules.steps * rules.batch_size * rules.accumulate
    if seen < images:
        enough = -(-images // (rules.batch_size * rules.accumulate))
        yield f"the run sees {seen} of {images} images: set training.steps to {enough} or more, one pass over them."
    if rules.warmup >= rules.steps:
        yield (
            f"training.warmup={rules.warmup} is not over when the run ends after {rules.steps} steps, so that the "
            f"learning rate never gets to {rules.lr:g}: set it to {max(1, rules.steps // 10)} or less."
        )


def _about_batches(recipe: Recipe, model: nn.Module) -> Iterator[str]:
    size = recipe.training.batch_size
    learns = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not model.training)
        for module in model.modules()
    )
    if learns and size <= 2:
        images = "one image" if size == 1 else "two images"
        yield (
            f"batch normalisation takes its statistics from {images} at a time, which are noisy: set "
            "training.batch_size to 4 or more, with smaller crops where memory is short (training.accumulate does not "
            "change this)."
        )


def _about_mixing(recipe: Recipe) -> Iterator[str]:
    mix, size = recipe.data["augmentation"].mix, recipe.training.batch_size // joined().world_size
    if mix is not None and size <= 1:
        yield (
            f"{mix} takes its parts from another image of the batch, and there is none in batches of one: set "
            "training.batch_size to 2 or more for each process."
        )


def _about_crops(recipe: Recipe, report: DatasetReport) -> Iterator[str]:
    augmentation = recipe.data["augmentation"]
    size = recipe.data.get("size") or (report.sizes.most_common(1)[0][0] if report.sizes else None)
    if augmentation.crop is None or size is None:
        return
    largest = 1.0 if augmentation.scale is None else max(augmentation.scale)
    if any(crop > largest * side for crop, side in zip(augmentation.crop, size, strict=True)):
        fits = [min(crop, side) for crop, side in zip(augmentation.crop, size, strict=True)]
        yield (
            f"crops of {augmentation.crop[0]} x {augmentation.crop[1]} are larger than the images, {size[0]} x "
            f"{size[1]}, and are filled up with void pixels: set data.augmentation.crop=[{fits[0]},{fits[1]}]."
        )


def _about_classes(recipe: Recipe, report: DatasetReport) -> Iterator[str]:
    if report.checked < min(ENOUGH, report.images):
        return
    where = f"{report.checked} training masks" if report.checked < report.images else "training masks"
    shares = report.class_frequencies
    never = [name for name, share in shares.items() if share == 0]
    rare = [name for name, share in shares.items() if 0 < share < RARE]
    if never:
        yield (
            f"{_listed(never)} never {_verb(never, 'occur')} in the {where}, so that the model cannot learn "
            f"{'it' if len(never) == 1 else 'them'}: look at the label map and the list of classes, or add images."
        )
    kinds = {term["type"] for term in recipe.training.loss}
    if (
        rare
        and recipe.training.class_weights is None
        and not kinds & {"DiceLoss", "LovaszLoss", "OHEMCrossEntropyLoss"}
    ):
        yield (
            f"{_listed(rare)} {_verb(rare, 'have')} less than {100 * RARE:g} % of the pixels, and mostly "
            f"{_verb(rare, 'stay')} unlearnt: set training.class_weights=measured, or "
            "training.loss=[CrossEntropyLoss,DiceLoss], or training.loss=OHEMCrossEntropyLoss."
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more classes"


def _verb(names: list[str], verb: str) -> str:
    if len(names) > 1:
        return verb
    return "has" if verb == "have" else f"{verb}s"
