"""Labels that are no class, found without making a GPU wait."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn


class LabelCheck:
    """Finds labels that are no class: at once on the CPU; on CUDA as soon as the device has answered, without waiting.

    Without it a wrong label stops a CUDA program with "device-side assert triggered", far from its cause.

    Attributes:
        pending: (event, smallest and largest label, number of classes) of the CUDA batches that are not checked yet.
    """

    def __init__(self) -> None:
        self.pending: deque[tuple[torch.cuda.Event, Tensor, int]] = deque()

    def check(self, loss: nn.Module, target: Tensor, valid: Tensor, classes: int) -> Tensor:
        """Look for labels that are no class.

        Args:
            loss: whose target it is; its name, task and ignore_index stand in the error.
            target: integer labels.
            valid: which of them count, same shape.
            classes: how many classes there are.

        Returns:
            The mask of the valid entries that hold no class, same shape.

        Raises:
            ValueError: this batch holds such labels (CPU), or an earlier one did (CUDA).
        """
        while self.pending and self.pending[0][0].query():
            _, extremes, allowed = self.pending.popleft()
            _refuse_labels(loss, [label for label in extremes.tolist() if not 0 <= label < allowed], allowed)
        wrong = valid & ((target < 0) | (target >= classes))
        if target.device.type != "cuda":
            if wrong.any():
                _refuse_labels(loss, target[wrong].unique().tolist(), classes)
        elif target.numel() and not torch.cuda.is_current_stream_capturing():
            labels = target.masked_fill(~valid, 0)
            extremes = torch.stack([labels.min(), labels.max()]).to("cpu", non_blocking=True)
            answered = torch.cuda.Event()
            answered.record()
            self.pending.append((answered, extremes, classes))
        return wrong

    def __reduce__(self) -> tuple[type[LabelCheck], tuple[()]]:
        return LabelCheck, ()  # a CUDA event can be neither copied nor pickled


def _refuse_labels(loss: nn.Module, found: list[int], classes: int) -> None:
    if found:
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        void = "" if loss.ignore_index is None else f" and ignore_index {loss.ignore_index}"
        raise ValueError(
            f"{type(loss).__name__}: the target holds {shown}, but task {loss.task!r} with {classes} classes allows "
            f"0..{classes - 1}{void}; remap the masks (segtutor.data.check_dataset names the files)"
        )
