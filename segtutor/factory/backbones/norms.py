"""Batch normalisation that trains on one value, and survives becoming synchronised, whatever class a network uses."""

from typing import Any

from torch import Tensor, nn

from segtutor.layers import BatchNorm2d


class BatchNormAct2d(BatchNorm2d):
    """Batch normalisation with dropout and activation behind it, as timm's class of this name has them."""

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W) per channel, drop, activate; same shape out."""
        return self.act(self.drop(super().forward(x)))


class SyncBatchNormAct(nn.SyncBatchNorm):
    """What `BatchNormAct2d` becomes where several processes share their statistics."""

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W) per channel, drop, activate; same shape out."""
        return self.act(self.drop(super().forward(x)))


def adapt_norms(network: nn.Module) -> nn.Module:
    """Give every batch normalisation of a network the behaviour of `segtutor.layers.BatchNorm2d`, in place."""
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d
        elif has_activation(layer) and isinstance(layer, nn.BatchNorm2d):
            layer.__class__ = BatchNormAct2d
    return network


def has_activation(layer: nn.Module) -> bool:
    """Whether a layer holds a dropout and an activation, as timm's fused normalisations do."""
    return isinstance(getattr(layer, "drop", None), nn.Module) and isinstance(getattr(layer, "act", None), nn.Module)


class KeepsActivations(nn.Module):
    """A backbone whose fused normalisations keep their activation under ``SyncBatchNorm.convert_sync_batchnorm``.

    PyTorch makes a plain `torch.nn.SyncBatchNorm` of each, which holds the activation and never calls it; every
    ReLU of a pre-activation ResNet would be gone. It hands each converted part back by ``add_module``: here they are
    put right.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a part, as `torch.nn.Module.add_module` does."""
        super().add_module(name, None if module is None else keep_activations(module))

    def train(self, mode: bool = True) -> Any:
        """Set the mode; puts right what was converted deeper inside."""
        return keep_activations(super().train(mode))


def keep_activations(network: nn.Module) -> Any:
    """Let synchronised normalisations that hold an activation call it, in place."""
    for layer in network.modules():
        if type(layer) is nn.SyncBatchNorm and has_activation(layer):
            layer.__class__ = SyncBatchNormAct
    return network
