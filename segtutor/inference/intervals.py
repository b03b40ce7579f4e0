"""How sure a score is: intervals over images, and whether two models differ on the same ones.

A test set is a sample of the images that a model will meet. Drawn again, it would give another score. The bootstrap
(Efron and Tibshirani 1993) imitates that: it draws as many images again from those that are there, with repetition.
Pixels of one image are not independent, so images are drawn and never pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segtutor.metrics import ConfusionMatrix


class Interval(NamedTuple):
    """A score, and where it would lie on other images of the same kind.

    Attributes:
        value: of all images.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two models on the same images.

    Attributes:
        difference: the first one's score less the second one's, with its interval.
        p: how often a difference at least as large appears where the two models are exchanged at random, image by
            image. Small where chance does not explain it.
    """

    difference: Interval
    p: float


def interval(
    matrices: Tensor | Sequence[ConfusionMatrix], *, level: float = 0.95, repeats: int = 2000, seed: int = 0
) -> Interval:
    """The mIoU of a set of images, with its bootstrap interval over them.

    Args:
        matrices: of each image, as `segtutor.training.evaluate_each` returns them, or (N, K, K), rows are true classes.
        level: share of redrawn sets whose score lies inside.
        repeats: how many sets are redrawn.
        seed: of the draws.

    Raises:
        ValueError: fewer than two images, or a level that is no share.
    """
    counts = _checked(matrices, level)
    scores = _miou(_redrawn(len(counts), repeats, seed), counts)
    return Interval(float(_miou(torch.ones(1, len(counts)), counts)), *_ends(scores, level))


def compare(
    first: Tensor | Sequence[ConfusionMatrix],
    second: Tensor | Sequence[ConfusionMatrix],
    *,
    level: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether one model has a higher mIoU than another on the same images: a paired bootstrap and a permutation test.

    Both models find the same images hard, so the difference of their scores is surer than either score. It holds for
    these two sets of weights; another seed of training is another model.

    Args:
        first, second: matrices of each image, in the same order.
        level, repeats, seed: as for `interval`; ``repeats`` also counts the exchanges.

    Raises:
        ValueError: as for `interval`, or two models that were not scored on the same images.
    """
    a, b = _checked(first, level), _checked(second, level)
    if a.shape != b.shape or not a.sum(2).equal(b.sum(2)):
        raise ValueError("the two models were not scored on the same images: their true pixels differ")
    drawn = _redrawn(len(a), repeats, seed)
    differences = _miou(drawn, a) - _miou(drawn, b)
    all_images = torch.ones(1, len(a))
    value = float(_miou(all_images, a) - _miou(all_images, b))
    generator = torch.Generator().manual_seed(seed)
    swapped = torch.randint(0, 2, (repeats, len(a)), generator=generator).float()
    exchanged = _miou_of(_sums(1 - swapped, a) + _sums(swapped, b)) - _miou_of(
        _sums(swapped, a) + _sums(1 - swapped, b)
    )
    extreme = int((exchanged.abs() >= abs(value) - 1e-12).sum())
    # The models as they are count as one of the exchanges, so that no p is 0
    return Comparison(Interval(value, *_ends(differences, level)), (extreme + 1) / (repeats + 1))


def _checked(matrices: Tensor | Sequence[ConfusionMatrix], level: float) -> Tensor:
    if not isinstance(matrices, Tensor):
        matrices = torch.stack([matrix.matrix for matrix in matrices])
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; choose a share between 0 and 1, such as 0.95")
    if matrices.dim() != 3 or len(matrices) < 2:
        raise ValueError(
            f"matrices have shape {tuple(matrices.shape)}; give (N, num_classes, num_classes) of at least two images"
        )
    return matrices.double()


def _redrawn(images: int, repeats: int, seed: int) -> Tensor:
    """How often each image is in each redrawn set: (repeats, images)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, images, (repeats, images), generator=generator)
    return torch.zeros(repeats, images).scatter_add_(1, drawn, torch.ones(repeats, images))


def _sums(times: Tensor, counts: Tensor) -> Tensor:
    return (times.double() @ counts.flatten(1)).view(len(times), *counts.shape[1:])  # (repeats, K, K)


def _miou(times: Tensor, counts: Tensor) -> Tensor:
    return _miou_of(_sums(times, counts))


def _miou_of(matrices: Tensor) -> Tensor:
    """(repeats, K, K) to (repeats,): the mean over the classes that occur or are predicted."""
    hits = matrices.diagonal(dim1=1, dim2=2)
    union = matrices.sum(1) + matrices.sum(2) - hits
    return torch.where(union > 0, hits / union, torch.nan).nanmean(1)


def _ends(scores: Tensor, level: float) -> tuple[float, float]:
    low, high = scores.nanquantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=scores.dtype)).tolist()
    return low, high
