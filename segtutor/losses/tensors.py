"""The tensors that the formulas are written with: class scores, regions as rows, and the mean over what counts."""

from __future__ import annotations

import torch
from torch import Tensor


def class_scores(logits: Tensor, task: str) -> Tensor:
    """Logits with the competing classes in dimension 1: (B, C, H, W), binary (B, 2, H, W), multilabel (B, 2, C, H, W).

    A sigmoid is a softmax over two classes of which the first has logit 0, so every pixel-wise formula is written once.
    """
    if task == "multiclass":
        return logits
    logits = logits[:, 0] if task == "binary" else logits
    return torch.stack([torch.zeros_like(logits), logits], dim=1)


def regions(logits: Tensor, target: Tensor, valid: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Probabilities and truth, one row per class: p (C, N), g (C, N) with N = B*H*W, both 0 on void pixels."""
    if task == "multiclass":
        p = logits.softmax(dim=1)  # (B, C, H, W)
        g = torch.zeros_like(p).scatter_(1, target[:, None], 1)  # (B, C, H, W)
    else:
        p = logits.sigmoid()
        g = target.view_as(p).to(p.dtype)
    inside = flat_valid(valid, task)  # (C, N), or (1, N) for all classes alike
    return flat(p) * inside, flat(g) * inside


def flat(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C, B*H*W)."""
    return x.transpose(0, 1).flatten(1)


def flat_valid(valid: Tensor, task: str) -> Tensor:
    """Which entries count, one row per class (C, N), or one row (1, N) for all classes alike."""
    return flat(valid if task == "multilabel" else valid[:, None])


def mean(values: Tensor, counted: Tensor, weights: Tensor) -> Tensor:
    """Sum of the counted values over the sum of the weights; 0 if nothing counts, as in an all-void batch."""
    total = weights.sum(dtype=values.dtype)
    return values.masked_fill(~counted, 0).sum() / torch.where(total > 0, total, 1)
