"""CutMix and ClassMix: each image of a batch gets a part of the one before it, with that part's labels.

A part of another image stands in surroundings that say nothing of it, so that the network has to look at the part
itself. Every pixel's value and label come from the same place of the same image: labels are as exact as they were.

Batches are mixed on the device on which they are. Random numbers come from torch's CPU generator, whatever that device,
and as many in each batch of one size, so that a run that is continued draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .spec import DatasetSpec


class CutMix:
    """Paste a rectangle of half the area, of random shape and at a random place.

    Yun et al. 2019 (CutMix, arXiv 1905.04899) classify images, and mix the two labels by area; where each pixel has a
    label of its own, it keeps that. Half the area is what French et al. 2020 (arXiv 1906.01916) paste for
    segmentation. The rectangle's height is a share of the image's from 1/2 to 1, uniform in the logarithm.

    Args:
        probability: Of each image to be pasted into.

    Raises:
        ValueError: If it is none.
    """

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = _checked(probability)

    def __repr__(self) -> str:
        return f"CutMix(probability={self.probability})"

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and masks (B, H, W) to both mixed."""
        batch, height, width = masks.shape
        inside = []
        share = 0.5 ** torch.rand(batch)
        for side, part in ((height, share), (width, 0.5 / share)):
            length = (part * side).round().clamp(1)  # (B,)
            start = (torch.rand(batch) * (side - length)).round()
            place = torch.arange(side)
            inside.append((place >= start[:, None]) & (place < (start + length)[:, None]))  # (B, side)
        rows, columns = inside
        pasted = rows[:, :, None] & columns[:, None] & _chosen(batch, self.probability)
        return paste(images, masks, pasted.to(images.device))


class ClassMix:
    """Paste half of an image's classes, each with all of its pixels, so that no edge is cut but those of things.

    Olsson et al. 2021 (ClassMix, arXiv 2007.07936) mix images without labels by what the network says of them; here the
    labels are known. Of an odd number of classes the larger half is pasted, as by the authors' code. Void is never
    pasted.

    Args:
        spec: The set's classes.
        probability: Of each image to be pasted into.

    Raises:
        ValueError: If it is none.
    """

    def __init__(self, spec: DatasetSpec, probability: float = 0.5) -> None:
        self.num_classes, self.probability = spec.num_classes, _checked(probability)

    def __repr__(self) -> str:
        return f"ClassMix(num_classes={self.num_classes}, probability={self.probability})"

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and masks (B, H, W) to both mixed."""
        batch, classes = len(masks), self.num_classes
        labels = masks.roll(1, 0).flatten(1)  # (B, H W), of the image that is pasted from
        labels = labels.where((labels >= 0) & (labels < classes), labels.new_full((), classes))  # void comes last
        present = torch.zeros(batch, classes + 1, dtype=torch.bool, device=masks.device).scatter_(1, labels, True)
        present[:, classes] = False
        # A random order in which the classes that are there come first; looked up on the device, for which nobody waits
        order = torch.rand(batch, classes + 1).to(masks.device).where(present, 2.0)
        half = (present.sum(1, keepdim=True) + 1) // 2  # (B, 1)
        taken = present & (order.argsort(1).argsort(1) < half)  # (B, classes + 1)
        pasted = taken.gather(1, labels).view_as(masks) & _chosen(batch, self.probability).to(masks.device)
        return paste(images, masks, pasted)


def paste(images: Tensor, masks: Tensor, pasted: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and masks (B, H, W) with those of the image before, where ``pasted`` (B, H, W) says so.

    The first image gets from the last, and a single one from itself, so that it stays what it is. Batches are shuffled:
    the one before is any other.
    """
    return torch.where(pasted[:, None], images.roll(1, 0), images), torch.where(pasted, masks.roll(1, 0), masks)


class InTurn:
    """Transforms of batches, one after another.

    Args:
        steps: Called as ``step(images, masks)``.
    """

    def __init__(self, *steps: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.steps = steps

    def __repr__(self) -> str:
        return f"InTurn({', '.join(map(repr, self.steps))})"

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and masks (B, H, W) to what the last step makes of them."""
        for step in self.steps:
            images, masks = step(images, masks)
        return images, masks


def _chosen(batch: int, probability: float) -> Tensor:
    """Which images are pasted into: (B, 1, 1)."""
    return (torch.rand(batch) < probability)[:, None, None]


def _checked(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise ValueError(
            f"probability={probability} is not valid: give one from 0 (no image is mixed) to 1 (every one)"
        )
    return float(probability)
