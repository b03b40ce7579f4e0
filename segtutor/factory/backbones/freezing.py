"""Take a backbone out of training."""

from functools import partial

from torch import nn


def freeze(backbone: nn.Module) -> None:
    """Stop training a backbone: no gradients, and batch normalisation stays with its running statistics."""
    backbone.requires_grad_(False)
    backbone.train = partial(_stay_in_evaluation, backbone)  # the model's own train() reaches it like any other part
    backbone.train()


def _stay_in_evaluation(backbone: nn.Module, mode: bool = True) -> nn.Module:
    return type(backbone).train(backbone, False)
