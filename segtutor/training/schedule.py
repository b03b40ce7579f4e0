"""Learning rate schedules: functions (step, steps) -> factor on the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


def poly(step: int, steps: int, power: float = 0.9) -> float:
    """Factor on the learning rate before step `step` (0, 1, ...) of `steps`: (1 - step/steps)^power.

    The schedule of DeepLab (arXiv 1606.00915, section 4.1, power 0.9), used by nearly every segmentation paper since.
    """
    return (1 - step / steps) ** power


def cosine(step: int, steps: int, floor: float = 0.0) -> float:
    """Factor on the learning rate that falls from 1 to `floor` along half a wave of the cosine.

    The schedule of SGDR (arXiv 1608.03983, equation 5), without its restarts.
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2


def constant(step: int, steps: int) -> float:
    """Factor 1: the learning rate stays what it is."""
    return 1.0


def warmed_up(schedule: str | Schedule, warmup: int) -> Schedule:
    """A schedule whose first `warmup` steps rise in a straight line, for networks that a full first step would upset.

    Args:
        schedule: "poly", "cosine", "constant" or a function (step, steps) -> factor on the learning rate.
        warmup: steps until the factor is the schedule's own; 0 changes nothing.
    """
    factor = schedule_of(schedule)
    return lambda step, steps: factor(step, steps) * min(1.0, (step + 1) / (warmup + 1))


def schedule_of(schedule: str | Schedule) -> Schedule:
    """The function behind a schedule's name; a function is returned as it is.

    Raises:
        ValueError: an unknown name.
    """
    known: dict[str, Schedule] = {"poly": poly, "cosine": cosine, "constant": constant}
    if callable(schedule):
        return schedule
    if schedule not in known:
        names = ", ".join(f'"{name}"' for name in known)
        raise ValueError(f"unknown schedule {schedule!r}: choose {names} or a function (step, steps)")
    return known[schedule]
