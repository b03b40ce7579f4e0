"""Take a backbone, its first stages or its normalisations alone, out of training, and back."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from segtutor.factory.backbones.subclass import extend, restore
from segtutor.factory.config import ConfigError

Frozen = bool | Literal["norms", 1, 2, 3, 4]


def freeze(backbone: nn.Module, what: Frozen = True) -> None:
    """Freeze a backbone, its first stages or its normalisations alone, or thaw it.

    What is frozen gets no gradients, and stays in evaluation mode whatever ``train()`` says. A thawed backbone learns
    again what it learned before, and follows the next ``train()``.

    Args:
        backbone: changed in place.
        what: True: the whole backbone; 1 to 4: all that its map c1 .. c4 depends on, which is the stem and so many
            stages; "norms": its layers that normalise by running statistics; False: nothing.

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
    if type(what) is int:
        for parameter in _read_by(backbone, what):
            parameter.requires_grad_(False)
    else:
        for part in [backbone] if what is True else running_norms(backbone):
            part.requires_grad_(False)
    backbone.train(backbone.training)


def _read_by(backbone: nn.Module, stage: int) -> list[nn.Parameter]:
    """The parameters that learn and that the map c1 .. c4 of a stage depends on, found by asking for its gradients."""
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    modes = [(part, part.training) for part in backbone.modules()]
    weight = next((parameter for parameter in parameters if parameter.ndim == 4), None)
    channels = 3 if weight is None else weight.shape[1]
    place = parameters[0] if parameters else torch.empty(0)
    with torch.enable_grad():
        map_ = backbone.eval()(torch.zeros(1, channels, 64, 64, device=place.device, dtype=place.dtype))[stage - 1]
        found = torch.autograd.grad(map_.sum(), parameters, allow_unused=True)
    for part, mode in modes:
        part.training = mode
    return [parameter for parameter, gradient in zip(parameters, found, strict=True) if gradient is not None]


def running_norms(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that normalise by running statistics, of whichever class."""
    for layer in module.modules():
        if getattr(layer, "running_mean", None) is not None:
            yield layer


class KeptFrozen(nn.Module):
    """A mixin: a backbone that, as a whole, in its first stages or in its normalisations, stays in evaluation mode.

    Attributes:
        frozen: what `freeze` was told.
        learned: names of the parameters that learned before.
    """

    frozen: Frozen
    learned: tuple[str, ...]

    def train(self, mode: bool = True) -> Any:
        """Set the mode of what is not frozen; the model's own ``train()`` reaches this like any other part's."""
        super().train(mode and self.frozen is not True)
        if type(self.frozen) is int:
            for part in self.modules():
                parameters = list(part.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    for layer in part.modules():  # not part.eval(), which comes back here where all is frozen
                        layer.training = False
        else:
            for layer in running_norms(self):
                layer.eval()
        return self
