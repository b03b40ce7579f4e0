"""Thin membranes: synthetic cells, and networks that are trained and scored alike on them or on real tissue."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from segtutor.lab.harness import Log
from segtutor.lab.protocols.real_data import Split

UNITS = {"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border", "membrane_iou": "IoU"}


def synthetic_cells(seed: int, quick: bool) -> tuple[Split, Split]:
    """800 training images and 100 test images of 96x96 with membranes 2 pixels thick; 8 to test in a quick run."""
    from segtutor.data import SyntheticCells
    from segtutor.data.transforms import eval_transform

    knobs: dict[str, Any] = {"size": (96, 96), "thickness": 2, "transform": eval_transform(SyntheticCells.spec)}
    train = SyntheticCells(length=800, seed=4000 + seed, **knobs)
    return train, SyntheticCells(length=8 if quick else 100, seed=7, **knobs)


def compare(
    builds: Mapping[str, Callable[[], nn.Module]],
    data: tuple[Split, Split],
    seed: int,
    quick: bool,
    log: Log,
) -> dict[str, float]:
    """Train each network for 300 steps of batch 8 with AdamW at 2e-3, and score it.

    Args:
        builds: Name to a function that makes the network; it is called after torch is seeded.
        data: Training and test set; one of the classes is "membrane".
        seed: Seeds weights and order.
        quick: 5 steps.
        log: Prints a progress line.

    Returns:
        For each name the metrics of ``UNITS``.
    """
    from segtutor.training import evaluate, fit

    train, test = data
    membrane = train.spec.classes.index("membrane")
    values: dict[str, float] = {}
    for name, build in builds.items():
        torch.manual_seed(seed)
        model, steps = build(), 5 if quick else 300
        log(f"{name}: {fit(model, train, steps=steps, batch_size=8, lr=2e-3, seed=seed, precision='fp32')}")
        scores = evaluate(model, test)
        values[f"{name}/miou"], values[f"{name}/boundary_miou"] = scores.miou, scores.boundary_miou
        values[f"{name}/membrane_iou"] = scores.iou[membrane].item()
    return values
