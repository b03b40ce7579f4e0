"""What a configuration may choose: ``training.loss``, ``training.optimizer`` and ``training.schedule``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import nn

from segtutor import losses
from segtutor.factory.config import ConfigError, parse_typed
from segtutor.training import schedule

Decay = Annotated[float, Interval(ge=0, lt=1)]
Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


def adamw(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: Annotated[float, Interval(ge=0, le=1)] = 1e-8,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay.

    Args:
        betas: how much of the mean gradient, and of its mean square, is kept from one step to the next.
        eps: added below the line.
    """
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)


def sgd(
    parameters: Parameters,
    *,
    lr: float,
    weight_decay: float,
    momentum: Decay = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Gradient descent with momentum, by which the papers up to DeepLab v3+ train.

    Args:
        momentum: how much of the last step is kept in the next.
        nesterov: look at the gradient after that part of the step.
    """
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)


def poly(*, power: Annotated[float, Interval(gt=0, le=10)] = 0.9) -> schedule.Schedule:
    """Falls to 0 as (1 - step/steps)^power, by which DeepLab and most papers after it train.

    Args:
        power: 1 is a straight line; below it the rate stays high for longer and falls late.
    """
    return partial(schedule.poly, power=power)


def cosine(*, floor: Annotated[float, Interval(ge=0, le=1)] = 0.0) -> schedule.Schedule:
    """Falls along half a wave of the cosine: slowly, fast, slowly.

    Args:
        floor: the share of the learning rate at which it ends.
    """
    return partial(schedule.cosine, floor=floor)


def constant() -> schedule.Schedule:
    """Stays what it is."""
    return schedule.constant


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd}
SCHEDULES: dict[str, Callable[..., schedule.Schedule]] = {"poly": poly, "cosine": cosine, "constant": constant}
# The losses of one output and one mask: all that segtutor.losses has, but for the base class and the sums
LOSSES: dict[str, type[losses.SegmentationLoss]] = {
    name: kind
    for name in losses.__all__
    if isinstance(kind := getattr(losses, name), type)
    and issubclass(kind, losses.SegmentationLoss)
    and kind is not losses.SegmentationLoss
}
ELSEWHERE = ("lr", "weight_decay")  # keys of the section ``training``
OF_THE_DATA = ("task", "ignore_index")


def of_every_loss(*, loss_weight: Annotated[float, Interval(ge=0, le=1e6)] = 1.0) -> None:
    """The keys that every loss has.

    Args:
        loss_weight: factor of this loss in the sum.
    """


def parse_optimizer(section: Any, path: str) -> dict[str, Any]:
    """Check an optimiser, a name or keys and values: ``type`` and its settings, defaults filled in."""
    return parse_typed(section, path, OPTIMIZERS, skip=ELSEWHERE)


def parse_schedule(section: Any, path: str) -> dict[str, Any]:
    """Check a schedule, a name or keys and values: ``type`` and its settings, defaults filled in."""
    return parse_typed(section, path, SCHEDULES)


def parse_loss(section: Any, path: str) -> tuple[dict[str, Any], ...]:
    """Check a loss or a list of losses, each a name or keys and values, defaults filled in.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path; an empty list.
    """
    many = isinstance(section, Sequence) and not isinstance(section, str)
    if many and not section:
        raise ConfigError(f"{path}: an empty list; name at least one loss, such as CrossEntropyLoss.")
    terms = [(term, f"{path}[{number}]") for number, term in enumerate(section)] if many else [(section, path)]
    return tuple(parse_typed(term, where, LOSSES, common=of_every_loss, skip=OF_THE_DATA) for term, where in terms)


def weights_key(term: Mapping[str, Any]) -> str | None:
    """The key of a loss that takes one weight per class; None where there is none."""
    return next((key for key in ("weight", "alpha") if key in term), None)


def make_optimizer(
    section: Mapping[str, Any], groups: Parameters, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build the optimiser of parameters, or of groups of them, from checked settings."""
    settings = {key: value for key, value in section.items() if key != "type"}
    return OPTIMIZERS[section["type"]](groups, lr=lr, weight_decay=weight_decay, **settings)


def make_schedule(section: Mapping[str, Any]) -> schedule.Schedule:
    """Build a schedule from checked settings."""
    return SCHEDULES[section["type"]](**{key: value for key, value in section.items() if key != "type"})


def make_loss(
    terms: Sequence[Mapping[str, Any]],
    ignore_index: int,
    task: str = "multiclass",
    class_weights: Sequence[float] | None = None,
) -> nn.Module:
    """Build a loss from checked settings; the sum, where they are several or have a factor.

    Args:
        terms: the settings.
        ignore_index: the label of void pixels.
        task: what the model's channels mean, as for the losses.
        class_weights: for each loss that weighs classes; None: as the settings say.
    """
    made = []
    for term in terms:
        settings = {key: value for key, value in term.items() if key not in ("type", "loss_weight")}
        key = weights_key(term)
        if class_weights is not None and key is not None:
            settings[key] = class_weights
        made.append((term["loss_weight"], LOSSES[term["type"]](task, ignore_index=ignore_index, **settings)))
    return made[0][1] if len(made) == 1 and made[0][0] == 1 else losses.CombinedLoss(made)
