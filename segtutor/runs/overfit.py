"""``segtutor train --overfit N``: can a few images be learnt by heart? If not, no number of steps will help.

It is the cheapest test of a whole set-up: a network that cannot repeat two masks that it sees in every step has a bug
somewhere between the images and the weights, or cannot draw what the masks show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segtutor import training
from segtutor.runs.before import look_at_data
from segtutor.runs.errors import RunError
from segtutor.runs.faults import explained
from segtutor.runs.recipe import Recipe, read_recipe
from segtutor.runs.train import build_model
from segtutor.training.distributed import joined

logger = logging.getLogger(__name__)

STEPS, PART = 400, 50  # at most, and from one line to the next
NEAR_ZERO = 0.1  # of the first loss
BY_HEART = 0.95  # mIoU on the same images, for losses that have another smallest value than zero
STUCK = 0.9  # of the first loss


@dataclass(frozen=True)
class Overfit:
    """What came of it.

    Attributes:
        learnt: whether the loss fell to near zero.
        steps: how many were made.
        first, last: loss of the first step, and the mean of the last ten.
        miou: on the same images, in the end.
        interrupted: whether Ctrl-C ended it.
    """

    learnt: bool
    steps: int
    first: float
    last: float
    miou: float
    interrupted: bool = False


class Few(list[tuple[Tensor, Tensor]]):
    """Some images and masks of a data set, with its spec."""

    def __init__(self, samples: Iterable[tuple[Tensor, Tensor]], spec: Any) -> None:
        super().__init__(samples)
        self.spec = spec


def overfit(config: Any, overrides: Iterable[str] = (), *, images: int = 2, check_data: bool = True) -> Overfit:
    """Train on a few images and nothing else, log whether they are learnt by heart, and write no file.

    Without augmentation, dropout, warm-up and schedule; loss, optimiser and learning rate are those of the
    configuration.

    Args:
        config, overrides, check_data: as for :func:`~segtutor.runs.train`.
        images: how many, evenly spread over the training data.

    Returns:
        What came of it.

    Raises:
        ConfigError: the configuration is wrong.
        RunError: there are fewer images, or something is wrong with the data.
    """
    if joined().world_size > 1:
        raise RunError("--overfit looks at a few images in one process: start it without torchrun.")
    recipe = read_recipe(config, overrides)
    if check_data:
        look_at_data(recipe)
    recipe = recipe.measured()
    few = _few(recipe, images)
    model = build_model(recipe, few, pretrained=True)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    height, width = few[0][0].shape[1:]
    logger.info(
        "Overfit: %s of %d x %d, without augmentation and dropout, for at most %d steps.",
        _counted(images), height, width, STEPS,
    )  # fmt: skip
    with explained(recipe, lambda: "Nothing was written."):
        found = _trained(recipe, few, model)
    for line in _verdict(found, recipe, images):
        logger.info("%s", line)
    return found


def _few(recipe: Recipe, count: int) -> Few:
    data = recipe.open_data("train")
    if not 1 <= count <= len(data):
        raise RunError(f"--overfit {count}: give a number from 1 to {len(data)}, the number of training images.")
    samples = [data[number * len(data) // count] for number in range(count)]
    crop = recipe.data["augmentation"].crop or samples[0][0].shape[1:]
    height, width = (min(side, *(image.shape[axis + 1] for image, _ in samples)) for axis, side in enumerate(crop))
    return Few([(_centre(image, height, width), _centre(mask, height, width)) for image, mask in samples], data.spec)


def _centre(picture: Tensor, height: int, width: int) -> Tensor:
    top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
    return picture[..., top : top + height, left : left + width].contiguous()


def _trained(recipe: Recipe, few: Few, model: nn.Module) -> Overfit:
    rules = recipe.training
    loss = rules.make_loss(few.spec.ignore_index, recipe.model.auxiliary, recipe.model.num_classes)
    optimizer = rules.make_optimizer(model)
    losses: list[float] = []
    found = Overfit(False, 0, float("nan"), float("nan"), float("nan"))
    while len(losses) < STEPS and not found.learnt and not found.interrupted:
        history = training.fit(
            model,
            few,
            steps=PART,
            loss=loss,
            auxiliary=recipe.model.auxiliary,
            batch_size=min(rules.batch_size, len(few)),
            optimizer=optimizer,
            schedule="constant",
            gradient_clip=rules.gradient_clip,
            seed=rules.seed + len(losses),
            precision=rules.precision,
        )
        losses += history.loss
        if not losses:
            return Overfit(False, 0, found.first, found.last, found.miou, interrupted=True)
        miou = training.evaluate(model, few, **{**recipe.scoring(few.spec), "boundary_width": None}).miou
        recent = losses[-10:]
        last = sum(recent) / len(recent)
        learnt = last <= NEAR_ZERO * losses[0] or miou >= BY_HEART
        found = Overfit(learnt, len(losses), losses[0], last, miou, history.interrupted)
        logger.info("step %d  loss %.4f  mIoU on the same images %.4f", found.steps, last, miou)
    return found


def _verdict(found: Overfit, recipe: Recipe, images: int) -> list[str]:
    """What it means, in plain words."""
    curve = f"the loss went from {found.first:.4f} to {found.last:.4f} in {found.steps} steps"
    rules = recipe.training
    if found.learnt:
        return [
            f"Learnt by heart: {curve}, and the mIoU on the same images is {found.miou:.4f}. Model, loss and optimiser "
            "can learn from these data.",
            "It does not show that masks belong to their images, since a few wrong pairs can be learnt by heart too: "
            "look at them.",
        ]
    if found.interrupted:
        return [f"Stopped: {curve}, which says nothing yet."]
    what = _counted(images)
    if found.last > STUCK * found.first:
        return [
            f"Not learnt: {curve}. {what[0].upper() + what[1:]} seen in every step should be learnt by heart, so that "
            "more steps will not help.",
            f"Look first at training.lr, which is {rules.lr:g}: far too low, nothing moves; far too high, nothing "
            "settles. Then at masks that have nothing to do with their images, at weights that are frozen, and at the "
            "loss.",
        ]
    return [
        f"Learnt in part: {curve}, and the mIoU on the same images is {found.miou:.4f}. {what[0].upper() + what[1:]} "
        "seen in every step should be learnt by heart.",
        "Either the masks do not follow from the images (noise, or masks of other images), or the model is too coarse "
        f"for them (the head {recipe.model.head['type']} on {recipe.model.backbone['type']}; try another head), or "
        f"training.lr={rules.lr:g} is too low or too high: try a third and three times of it.",
    ]


def _counted(images: int) -> str:
    return "1 training image" if images == 1 else f"{images} training images"
