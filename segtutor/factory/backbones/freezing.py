"""Take a backbone, or its normalisations alone, out of training, and back."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from segtutor.factory.backbones.subclass import extend, restore
from segtutor.factory.config import ConfigError

Frozen = bool | Literal["norms"]


def freeze(backbone: nn.Module, what: Frozen = True) -> None:
    """Freeze a backbone, or its normalisations alone, or thaw it.

    What is frozen gets no gradients, and stays in evaluation mode whatever ``train()`` says. A thawed backbone learns
    again what it learned before, and follows the next ``train()``.

    Args:
        backbone: changed in place.
        what: True: the whole backbone; "norms": its layers that normalise by running statistics; False: nothing.

    Raises:
        ConfigError: there are no such layers.
    """
    if what == "norms" and not any(running_norms(backbone)):
        raise ConfigError(
            "backbone.frozen: this backbone has no normalisation with running statistics; set it to true or false."
        )
    if isinstance(backbone, KeptFrozen):
        learned = set(backbone.learned)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in learned)
        restore(backbone, KeptFrozen)
    if what is False:
        return
    kept = extend(backbone, KeptFrozen)
    kept.frozen = what
    kept.learned = tuple(name for name, parameter in backbone.named_parameters() if parameter.requires_grad)
    for part in [backbone] if what is True else running_norms(backbone):
        part.requires_grad_(False)
    backbone.train(backbone.training)


def running_norms(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that normalise by running statistics, of whichever class."""
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            yield layer


class KeptFrozen(nn.Module):
    """A mixin: a backbone that, as a whole or in its normalisations, stays in evaluation mode.

    Attributes:
        frozen: True or "norms".
        learned: names of the parameters that learned before.
    """

    frozen: Frozen
    learned: tuple[str, ...]

    def train(self, mode: bool = True) -> Any:
        """Set the mode of what is not frozen; the model's own ``train()`` reaches this like any other part's."""
        super().train(mode and self.frozen == "norms")
        for layer in running_norms(self):
            layer.eval()
        return self
