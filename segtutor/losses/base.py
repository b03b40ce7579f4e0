"""What all losses share: the check of their input, the treatment of void pixels, and the precision of their sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segtutor.losses.labels import LabelCheck
from segtutor.losses.probabilities import ProbabilityCheck

TASKS = ("multiclass", "binary", "multilabel")


class SegmentationLoss(nn.Module):
    """What all losses share: check the input, cut the void out, compute in float32.

    A loss of your own is a subclass with one method, ``compute(logits, target, valid)``. It gets float32 (or
    float64) logits whose void entries are 0 and cut off from the gradient, int64 targets whose void entries are 0,
    and the mask of the entries that count.

    Args:
        task: "multiclass", "binary" or "multilabel".
        ignore_index: the label of void pixels; ``None`` if every pixel counts.

    Raises:
        ValueError: for shapes or labels that do not fit, and for probabilities in place of logits. On a CUDA device
            labels are checked without making the host wait: a batch with a wrong label has loss NaN (and gradient 0),
            and a later call of the loss raises.
    """

    def __init__(self, task: str = "multiclass", *, ignore_index: int | None = 255):
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"{type(self).__name__}: task is {task!r}; choose one of {', '.join(map(repr, TASKS))}")
        self.task = task
        self.ignore_index = ignore_index
        self._labels = LabelCheck()
        self._probabilities = ProbabilityCheck()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check_shapes(self, logits, target)
        self._probabilities.check(self, logits, self.task)
        target = target.long()
        valid = torch.ones_like(target, dtype=torch.bool) if self.ignore_index is None else target != self.ignore_index
        classes = logits.shape[1] if self.task == "multiclass" else 2
        wrong = self._labels.check(self, target, valid, classes)
        target = target.masked_fill(~valid | wrong, 0)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        # Filled, not multiplied by 0: an infinite logit on a void pixel must not turn into NaN.
        logits = logits.masked_fill(~valid if self.task == "multilabel" else ~valid[:, None], 0)
        return self.compute(logits, target, valid).masked_fill(wrong.any(), float("nan"))

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} needs a compute(logits, target, valid) method")

    def extra_repr(self) -> str:
        return f"{self.task!r}, ignore_index={self.ignore_index}"


def _check_shapes(loss: SegmentationLoss, logits: Tensor, target: Tensor) -> None:
    name, shape, classes = type(loss).__name__, tuple(logits.shape), logits.shape[1] if logits.dim() > 1 else 0
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(f"{name}: logits must be floats of shape (B, C, H, W), got {logits.dtype} of shape {shape}")
    if loss.task == "binary" and classes != 1:
        raise ValueError(f"{name}: task 'binary' needs one channel, got logits {shape}; use one, or another task")
    if loss.task == "multiclass" and classes == 1:
        raise ValueError(f"{name}: softmax over the one channel of logits {shape} is always 1; use task='binary'")
    expected = shape if loss.task == "multilabel" else (shape[0], *shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"{name}: task {loss.task!r} with logits {shape} needs a target of shape {expected}, "
            f"got {tuple(target.shape)}"
        )
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"{name}: target must hold integer labels, got {target.dtype}; convert it with target.long()")
    if target.device != logits.device:
        raise ValueError(f"{name}: logits are on {logits.device}, target is on {target.device}; use .to(device)")
