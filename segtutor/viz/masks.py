"""Probabilities that were given for logits, found in the first batches without being looked for in every one."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

PIXELS = 16  # the scores of fewer may sum to 1 by chance


class ProbabilityCheck:
    """Refuses probabilities where a loss takes logits: it would put them through a softmax or sigmoid again.

    The loss still falls then, but to a floor far above 0, and the gradients are small: such a model trains badly
    without a word. Scores that sum to 1 at each pixel are a softmax's. Of independent scores in [0, 1] nobody can be
    sure, so these only make a warning, once both ends of that range have been seen.

    Attributes:
        settled: a batch has shown that the scores are logits (or the warning was given), so none is looked at again,
            and a GPU need not be waited for.
    """

    def __init__(self) -> None:
        self.settled = False

    def check(self, loss: nn.Module, logits: Tensor, task: str) -> None:
        """Look at a batch.

        Args:
            loss: whose input it is; its name stands in the message.
            logits: (B, C, H, W).
            task: "multiclass", "binary" or "multilabel".

        Raises:
            ValueError: a softmax has been here.
        """
        if self.settled or logits.numel() == 0 or _cannot_look(logits):
            return
        scores = logits.detach().float()
        low, high = scores.aminmax()
        name = type(loss).__name__
        if not (low >= 0 and high <= 1):
            self.settled = True
        elif task == "multiclass":
            if scores[:, 0].numel() >= PIXELS and (scores.sum(1) - 1).abs().amax() < 0.01:
                raise ValueError(
                    f"{name}: the logits lie in [0, 1] and sum to 1 over the classes, so they are probabilities: leave "
                    "the softmax out of the model, or pass their logarithm, probabilities.clamp(min=1e-8).log()"
                )
            self.settled = True
        elif low < 0.01 and high > 0.99:
            self.settled = True
            warnings.warn(
                f"{name}: all logits lie in [0, 1], as probabilities do: if they are, leave the sigmoid out of the "
                "model, or pass torch.logit(probabilities, eps=1e-6)",
                stacklevel=3,
            )


def _cannot_look(logits: Tensor) -> bool:
    """Where values do not exist, or may not be asked for."""
    return logits.is_meta or torch.compiler.is_compiling() or (
        logits.is_cuda and torch.cuda.is_current_stream_capturing()
    )  # fmt: skip
