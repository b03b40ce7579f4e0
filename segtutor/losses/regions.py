"""Losses that compare whole regions, whatever their size: Dice and Lovász."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segtutor.losses.base import SegmentationLoss
from segtutor.losses.tensors import flat, flat_valid, mean, regions


class DiceLoss(SegmentationLoss):
    r"""How much do the predicted and the true region of each class overlap, whatever their size?

    .. math:: L = \operatorname{mean}_{c \in K} \left( 1 -
              \frac{2 \sum_i p_i[c]\, g_i[c] + s}{\sum_i p_i[c] + \sum_i g_i[c] + s} \right)

    with probabilities *p*, truth *g* (0 or 1) and sums over all pixels of the batch. 0 is perfect overlap, 1 is none,
    and a lamp post counts as much as the sky. Milletari et al. 2016 (V-Net, section 3) square the terms below the
    line; this is the plain form.

    K is, in multiclass, the classes that occur in the batch: probability spent on another class is missing where it
    belongs, and is charged there. In binary and multilabel it is every channel, since nothing else would charge for
    foreground where there is none.

    Args:
        smooth: *s*, in pixels; keeps quotient and gradient calm for regions of a few pixels. 0 is the plain quotient.
    """

    def __init__(self, task: str = "multiclass", *, smooth: float = 1.0, ignore_index: int | None = 255):
        super().__init__(task, ignore_index=ignore_index)
        if smooth < 0:
            raise ValueError(f"smooth is {smooth}; it is added to pixel counts, so choose at least 0")
        self.smooth = smooth

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        p, g = regions(logits, target, valid, self.task)  # (C, N) each, N = B*H*W, 0 where void
        overlap = (p * g).sum(1)  # (C,)
        size = p.sum(1) + g.sum(1)  # (C,)
        dice = (2 * overlap + self.smooth) / (size + self.smooth).clamp_min(1e-12)
        counts = g.any(1) if self.task == "multiclass" else size > 0
        return mean(1 - dice, counts, counts)


class LovaszLoss(SegmentationLoss):
    r"""IoU itself, made differentiable: the Lovász extension of the Jaccard loss, 1 - IoU.

    IoU counts hard decisions, and those have no gradient. Take an error *m* per pixel instead (0 right, 1 wrong), sort
    the pixels from worst to best, and let them go wrong one after the other. Each step raises the Jaccard loss J:

    .. math:: L_c = \sum_k m_{(k)} \, (J_k - J_{k-1}), \qquad m_{(1)} \ge m_{(2)} \ge \dots

    For errors of exactly 0 and 1 the sum telescopes to 1 - IoU; in between it is convex in the errors. Berman et al.
    2018 (section 3): multiclass is the Lovász-softmax, m = abs(g - p), mean over the classes that occur; binary and
    multilabel are the Lovász hinge, m = max(0, 1 - logit) on foreground and max(0, 1 + logit) elsewhere, mean over the
    channels. All pixels of the batch form one set.
    """

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        p, g = regions(logits, target, valid, self.task)  # (C, N) each, 0 where void
        if self.task == "multiclass":
            errors = (g - p).abs()
            counts = g.any(1)
        else:
            inside = flat_valid(valid, self.task)
            errors = F.relu(1 - flat(logits) * (2 * g - 1)) * inside
            counts = inside.any(1)
        errors, order = errors.sort(dim=1, descending=True)  # a void pixel has error 0: last, and of no effect
        return mean((errors * _jaccard_steps(g.gather(1, order))).sum(1), counts, counts)


def _jaccard_steps(truth: Tensor) -> Tensor:
    """By how much the Jaccard loss grows as pixels go wrong in this order (Berman et al. 2018, algorithm 1).

    The paper subtracts neighbours of the sequence J; these are the differences in closed form, since the float32
    difference of two numbers near 1 has no correct digit left when there are ten million pixels.

    Args:
        truth: (C, N), 1 where the pixel belongs to the class, in order of decreasing error.
    """
    inside = truth.bool()
    total = inside.sum(1, keepdim=True)  # (C, 1)
    union = (total + (~inside).cumsum(1)).to(truth.dtype)  # (C, N): true pixels and all false alarms so far
    kept = (total - inside.cumsum(1)).to(truth.dtype)  # (C, N): true pixels not lost so far
    lost_one = 1 / union.clamp_min(1)
    false_alarm = kept / (union * (union - 1)).clamp_min(1)
    steps = torch.where(inside, lost_one, false_alarm)
    # A class without a pixel: its first false alarm takes IoU from 1 to 0, the others change nothing.
    first = torch.arange(truth.shape[1], device=truth.device) == 0
    return torch.where((total == 0) & first, 1.0, steps)
