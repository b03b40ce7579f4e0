"""Chapter 16: what each ingredient of a training run does, switched alone on a pretrained backbone."""

from typing import Any

from segtutor.lab.harness import experiment
from segtutor.lab.protocols.ingredients import INGREDIENTS, SMALL, Ingredient, run

UNITS = {
    "miou": "mIoU",
    "validation_miou": "mIoU",
    "pixel_accuracy": "share of pixels",
    "training_loss": "mean loss of the last 20 steps",
} | {f"iou/{name}": "IoU" for name in SMALL}


def register(ingredient: Ingredient) -> None:
    """Enter the run with one ingredient changed."""
    shared: dict[str, Any] = {"config": ingredient.config, "conditions": ingredient.conditions}

    def measure(seed, quick, log):
        return run(ingredient, seed, quick, log)

    measure.__doc__ = f"Pretrained on CamVid, changed: {ingredient.title}."
    experiment(f"training/{ingredient.id}", unit=UNITS, device="auto", **shared)(measure)


for _ingredient in INGREDIENTS:
    register(_ingredient)
