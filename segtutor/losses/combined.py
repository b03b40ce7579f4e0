"""Sums of losses: several on one output, or one on the output and on an auxiliary one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from segtutor.losses.pixels import CrossEntropyLoss


class CombinedLoss(nn.Module):
    """A weighted sum of losses, such as cross-entropy for the pixels plus Dice for the rare classes.

    Args:
        losses: ``{loss: weight}`` or a list of ``(weight, loss)``.

    Example:
        >>> loss = CombinedLoss([(1.0, CrossEntropyLoss()), (0.5, DiceLoss())])
    """

    def __init__(self, losses: Mapping[nn.Module, float] | Iterable[tuple[float, nn.Module]]):
        super().__init__()
        pairs = [(w, loss) for loss, w in losses.items()] if isinstance(losses, Mapping) else list(losses)
        if not pairs or not all(isinstance(loss, nn.Module) and isinstance(w, (int, float)) for w, loss in pairs):
            raise ValueError("CombinedLoss needs {loss: weight} or [(weight, loss), ...] with at least one loss")
        self.weights = [float(w) for w, _ in pairs]
        self.losses = nn.ModuleList(loss for _, loss in pairs)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return sum(w * loss(logits, target) for w, loss in zip(self.weights, self.losses, strict=True))

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


class AuxiliaryLoss(nn.Module):
    r"""The loss, and with less weight the same loss on logits from the middle of the network.

    .. math:: L = \ell(z, y) + \alpha \, \ell(z_{\text{aux}}, y)

    The auxiliary logits come from a head in the middle of the backbone, so its gradient reaches the early layers by a
    shorter way. The head is for training alone. Zhao et al. 2017 (PSPNet, section 3.3) with alpha = 0.4.

    Args:
        weight: alpha, at least 0.
        loss: the loss of either output; ``None`` for `CrossEntropyLoss`.

    Raises:
        ValueError: a negative weight; in the call, anything but a pair of logits.

    Example:
        >>> fit(model, dataset, steps=400, loss=AuxiliaryLoss(), auxiliary=True)
    """

    def __init__(self, weight: float = 0.4, loss: nn.Module | None = None):
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight is {weight}; below 0 it would reward mistakes, choose at least 0")
        self.weight = float(weight)
        self.loss = CrossEntropyLoss() if loss is None else loss

    def forward(self, outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        if isinstance(outputs, Tensor) or len(outputs) != 2:
            raise ValueError(
                "AuxiliaryLoss takes the pair (logits, auxiliary logits): train with fit(..., auxiliary=True)"
            )
        logits, auxiliary_logits = outputs
        return self.loss(logits, target) + self.weight * self.loss(auxiliary_logits, target)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
