"""One weight per class: checked, brought to the scores, or counted from masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def median_frequency_weights(masks: Iterable[Tensor], num_classes: int, *, ignore_index: int | None = 255) -> Tensor:
    r"""Class weights by median frequency balancing: the rarer a class where it occurs, the heavier its pixels.

    .. math:: w_c = \frac{\operatorname{median}(f)}{f_c}, \qquad
              f_c = \frac{\text{pixels of class } c}{\text{pixels of the images that contain } c}

    Void pixels count nowhere. The frequency is taken over the images that contain the class, so a class is not called
    rare because few images show it (proposed by Eigen and Fergus 2015, taken up by SegNet). Of an even number of
    frequencies the median is the lower middle one, so that some class weighs exactly 1. A class that no mask contains
    has no frequency: it stays out of the median and weighs 0.

    Args:
        masks: training masks (H, W), one after the other or stacked as (B, H, W); sizes may differ.
        num_classes: how many classes there are.
        ignore_index: the label of void pixels; ``None`` if every pixel counts.

    Returns:
        Tensor (num_classes,), float32, for ``CrossEntropyLoss(weight=...)``.

    Raises:
        ValueError: no masks, a mask that is not (H, W), or a label that is no class.
    """
    pixels, area = torch.zeros(2, num_classes, dtype=torch.float64)
    images = 0
    for images, mask in enumerate(masks, start=1):
        mask = torch.as_tensor(mask)
        if mask.dim() != 2:
            raise ValueError(f"masks must be (H, W) each, but number {images - 1} is {tuple(mask.shape)}")
        labels = mask.long().flatten().cpu()
        labels = labels if ignore_index is None else labels[labels != ignore_index]
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(
                f"mask number {images - 1} has label {int(wrong[0])}, but classes are 0..{num_classes - 1}: "
                "name the void label as ignore_index, or correct num_classes"
            )
        count = labels.bincount(minlength=num_classes)
        pixels += count
        area += (count > 0) * len(labels)
    if not images:
        raise ValueError("there are no masks to count: pass the masks of the training set")
    present = pixels > 0
    frequency = pixels[present] / area[present]
    weights = torch.zeros(num_classes)
    if len(frequency):
        weights[present] = (frequency.median() / frequency).float()
    return weights


def checked_weights(weight: Sequence[float] | Tensor | None, name: str) -> Tensor | None:
    """The weights (C,) as float32, or None.

    Raises:
        ValueError: the argument called ``name`` is no list of finite numbers of at least 0.
    """
    if weight is None:
        return None
    weight = torch.as_tensor(weight, dtype=torch.float32)
    if weight.dim() != 1 or not bool((weight >= 0).all() & weight.isfinite().all()):
        raise ValueError(f"{name} must be a list of finite numbers >= 0, one per class; got {weight.tolist()}")
    return weight


def weight_per_class(weight: Tensor | None, scores: Tensor) -> Tensor:
    """The class weights (C,) for scores (B, C, ...), on their device and of their type; ones if there are none.

    Raises:
        ValueError: the number of weights is not that of the classes.
    """
    classes = scores.shape[1]
    if weight is None:
        return scores.new_ones(classes)
    if len(weight) != classes:
        raise ValueError(f"there are {len(weight)} class weights for {classes} classes; give one per class")
    return weight.to(scores)
