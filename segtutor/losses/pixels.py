"""Losses that add up pixels: cross-entropy, of all pixels or of the hard ones, and focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segtutor.losses.base import SegmentationLoss
from segtutor.losses.class_weights import checked_weights, weight_per_class
from segtutor.losses.tensors import class_scores, mean


class CrossEntropyLoss(SegmentationLoss):
    r"""The mean surprise of the pixels: how little probability the model gave to the true class of each.

    .. math:: L = \frac{\sum_i w_{y_i} \, (-\log p_i[y_i])}{\sum_i w_{y_i}}

    over the pixels *i* that are not void, with class weights *w* (1 unless given), as in ``torch.nn.CrossEntropyLoss``.
    A class with ten times the pixels has ten times the votes. Long et al. 2015 (FCN, section 4.3) leave it so;
    Badrinarayanan et al. 2017 (SegNet, section 3) weigh each class by median frequency / its frequency.

    Args:
        weight: one weight per class, at least 0. Binary and multilabel: two, for 0 and for 1.
        label_smoothing: share of the truth that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    weight: Tensor | None

    def __init__(
        self,
        task: str = "multiclass",
        *,
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(task, ignore_index=ignore_index)
        self.register_buffer("weight", checked_weights(weight, "weight"))
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it is a share, so choose 0..1")
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = class_scores(logits, self.task)  # (B, K, H, W): K classes compete at each pixel
        weight = weight_per_class(self.weight, scores)  # (K,)
        surprise = F.cross_entropy(  # (B, H, W): w * -log p of the true class
            scores, target, weight, reduction="none", label_smoothing=self.label_smoothing
        )
        return mean(surprise, valid, weight[target] * valid)


class OHEMCrossEntropyLoss(SegmentationLoss):
    r"""Cross-entropy of the hard pixels alone: online hard example mining.

    .. math:: L = \frac{\sum_{i \in H} w_{y_i} \, (-\log p_i[y_i])}{\sum_{i \in H} w_{y_i}}, \qquad
              H = \{i : p_i[y_i] < t\} \cup \{\text{the hardest } s \text{ of all pixels}\}

    Shrivastava et al. 2016 mine regions of objects; networks for streets mine pixels in the same way (Yu et al. 2018,
    BiSeNet, section 4.1). Once most pixels are right, the mean over all of them hides the few that are not.

    Args:
        threshold: t, the probability of the true class from which on a pixel is easy.
        kept: s, the share of the batch's pixels that count however easy they are, so that there always are some.
        weight: one weight per class, at least 0. Binary and multilabel: two, for 0 and for 1.
    """

    weight: Tensor | None

    def __init__(
        self,
        task: str = "multiclass",
        *,
        threshold: float = 0.7,
        kept: float = 0.0625,
        weight: Sequence[float] | Tensor | None = None,
        ignore_index: int | None = 255,
    ):
        super().__init__(task, ignore_index=ignore_index)
        for name, value in (("threshold", threshold), ("kept", kept)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; choose 0..1")
        self.register_buffer("weight", checked_weights(weight, "weight"))
        self.threshold, self.kept = threshold, kept

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = class_scores(logits, self.task)  # (B, K, H, W)
        weight = weight_per_class(self.weight, scores)  # (K,)
        surprise = F.cross_entropy(scores, target, reduction="none")  # (B, H, W): -log p of the true class
        with torch.no_grad():  # which pixels are hard is no part of the gradient
            ranked = surprise.masked_fill(~valid, -1).flatten().sort(descending=True).values
            # How many count follows from a number on the device, and is looked up there: the host need not wait.
            last = (valid.sum() * self.kept).ceil().long().clamp(1, len(ranked)) - 1
            hard = valid & ((torch.exp(-surprise) < self.threshold) | (surprise >= ranked[last]))
        return mean(surprise * weight[target], hard, weight[target] * hard)


class FocalLoss(SegmentationLoss):
    r"""Cross-entropy in which a pixel counts less, the surer the model is of its true class.

    .. math:: L = \operatorname{mean}_i \; \alpha_{y_i} \, (1 - p_i[y_i])^\gamma \, (-\log p_i[y_i])

    At gamma = 2 a pixel with p = 0.9 counts 100 times less than in cross-entropy. Lin et al. 2017 (RetinaNet, section
    3) divide by the number of objects; here it is the mean over the pixels that are not void. ``gamma=0, alpha=None``
    is cross-entropy.

    Args:
        alpha: ``None`` for 1 everywhere. Binary and multilabel: one number in 0..1, alpha for foreground and 1 - alpha
            for background (the paper's 0.25 goes with gamma 2). Multiclass: one number per class.
        gamma: at least 0; the paper's best is 2.
    """

    alpha: Tensor | None

    def __init__(
        self,
        task: str = "multiclass",
        *,
        alpha: float | Sequence[float] | Tensor | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(task, ignore_index=ignore_index)
        if isinstance(alpha, (int, float)):
            if task == "multiclass" or not 0 <= alpha <= 1:
                raise ValueError(f"alpha is {alpha}; 'multiclass' takes one number per class, other tasks one in 0..1")
            alpha = (1 - alpha, alpha)
        self.register_buffer("alpha", checked_weights(alpha, "alpha"))
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; below 0 it would favour the easy pixels, choose at least 0")
        self.gamma = gamma

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = class_scores(logits, self.task)  # (B, K, H, W)
        surprise = F.cross_entropy(scores, target, reduction="none")  # (B, H, W): -log p of the true class
        doubt = -torch.expm1(-surprise)  # 1 - p, exact also where p is nearly 1
        # The floor keeps the slope of doubt**gamma finite at p = 1, where gamma < 1 would make it infinite.
        focal = doubt.clamp_min(1e-12) ** self.gamma * surprise
        return mean(focal * weight_per_class(self.alpha, scores)[target], valid, valid)
