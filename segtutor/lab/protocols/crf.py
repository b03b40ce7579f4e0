"""A network's scores on drawn scenes without a dense CRF and with one after it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segtutor.lab.harness import Log

if TYPE_CHECKING:
    from segtutor.metrics import ConfusionMatrix

SIZE = (64, 96)
# (w1, sigma_alpha, sigma_beta, w2, sigma_gamma): the papers choose theirs on validation images too.
GRID = (
    (2, 10, 10, 1, 1),
    (4, 10, 10, 1, 1),
    (4, 10, 20, 1, 1),
    (4, 25, 10, 1, 1),
    (5, 50, 10, 3, 3),
    (8, 10, 20, 1, 1),
)
CONDITIONS = (
    "synthetic scenes at 64x96, 300 steps of batch 8, the tiny preset from random weights; the CRF's five numbers are "
    f"the best of {len(GRID)} choices on 20 validation scenes, 10 iterations, scored on 100 other scenes"
)
UNITS = {
    "boundary_miou": "mIoU within 3 pixels of a border",
    "miou": "mIoU",
    "pixel_accuracy": "share of pixels",
    "chosen": "place in the grid",
}
CONFIG = {"size": list(SIZE), "steps": 300, "grid": [list(entry) for entry in GRID]}


def scored(
    model: nn.Module, scenes: Iterable[tuple[Tensor, Tensor]], crf: nn.Module | None = None
) -> "ConfusionMatrix":
    """Scores of a model on drawn scenes (image in [0, 1], mask), with a CRF after it or without."""
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import normalize
    from segtutor.metrics import ConfusionMatrix

    scores = ConfusionMatrix(11, boundary_width=3)
    with torch.inference_mode():
        for image, mask in scenes:
            logits = model(normalize(image, SyntheticScenes.spec)[None])
            scores.update(logits if crf is None else crf(255 * image[None], logits), mask[None])
    return scores


def with_and_without_crf(build: Callable[[int], nn.Module], seed: int, quick: bool, log: Log) -> dict[str, float]:
    """Train a model on scenes, choose a CRF on validation scenes, score both on others: the rows of DL-2.

    Args:
        build: ``build(num_classes)`` makes the model's tiny preset.
        seed: Seeds weights, scenes and their order.
        quick: A run of seconds that only shows that the code works.
        log: Prints a progress line.
    """
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import eval_transform
    from segtutor.models import DenseCRF
    from segtutor.training import fit

    prepare = eval_transform(SyntheticScenes.spec)
    train = SyntheticScenes(SIZE, 40 if quick else 2400, seed=500 + seed, transform=prepare)
    drawn = [SyntheticScenes(SIZE, 100, seed=place)[i] for place, n in ((8, 20), (7, 100)) for i in range(n)]
    validation, test = (drawn[:2], drawn[20:24]) if quick else (drawn[:20], drawn[20:])
    torch.manual_seed(seed)
    model = build(11)
    log(fit(model, train, steps=5 if quick else 300, lr=2e-3, seed=seed, precision="fp32"))
    model.eval()
    names = ("w1", "sigma_alpha", "sigma_beta", "w2", "sigma_gamma")
    settings: list[dict[str, Any]] = [dict(zip(names, entry, strict=True)) for entry in GRID]
    crfs = [DenseCRF(**each) for each in settings]
    found = [scored(model, validation, crf).boundary_miou for crf in crfs]
    log("validation: " + ", ".join(f"{value:.3f}" for value in found))
    chosen = max(range(len(GRID)), key=found.__getitem__)
    values: dict[str, float] = {"chosen": chosen}
    for name, crf in (("without_crf", None), ("with_crf", crfs[chosen])):
        scores = scored(model, test, crf)
        for metric in ("boundary_miou", "miou", "pixel_accuracy"):
            values[f"{name}/{metric}"] = getattr(scores, metric)
    return values
