r"""Losses for semantic segmentation: logits in, one number out.

All of them share one contract, kept by :class:`SegmentationLoss`, so that a loss itself is only its formula:

- ``loss(logits, target)``: logits are raw scores, ``(B, C, H, W)``; softmax or sigmoid happens in here.
- ``task`` says what the channels mean.
  ``"multiclass"``: each pixel has one class; the target ``(B, H, W)`` holds 0..C-1.
  ``"binary"``: one channel, foreground or not; the target ``(B, H, W)`` holds 0 or 1.
  ``"multilabel"``: C independent yes/no questions per pixel; the target ``(B, C, H, W)`` holds 0 or 1.
- Pixels labelled ``ignore_index`` (void) count in no sum and get no gradient. A batch that is all void has loss 0.
- Half-precision logits are worked on in float32: a sum over a million pixels does not fit into float16.

Read :class:`CrossEntropyLoss`, then :class:`DiceLoss`: the first adds up pixels, the second compares regions.
"""

from segtutor.losses.base import SegmentationLoss
from segtutor.losses.borders import BorderWeightedLoss, border_weight_map
from segtutor.losses.class_weights import median_frequency_weights
from segtutor.losses.combined import AuxiliaryLoss, CombinedLoss
from segtutor.losses.pixels import CrossEntropyLoss, FocalLoss, OHEMCrossEntropyLoss
from segtutor.losses.regions import DiceLoss, LovaszLoss

__all__ = [
    "AuxiliaryLoss",
    "BorderWeightedLoss",
    "CombinedLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "LovaszLoss",
    "OHEMCrossEntropyLoss",
    "SegmentationLoss",
    "border_weight_map",
    "median_frequency_weights",
]
