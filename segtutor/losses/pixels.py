"""Losses that add up pixels: cross-entropy and focal loss."""

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
