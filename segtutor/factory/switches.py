"""What every backbone can do, whatever network is in it: freeze, recompute, and train on one value per channel."""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segtutor.factory.config import ConfigError
from segtutor.layers import BatchNorm2d


def freeze(backbone: nn.Module) -> None:
    """Take a backbone out of training: no gradients, and batch normalisation stays with its running statistics."""
    backbone.requires_grad_(False)
    backbone.train = partial(_train_in_vain, backbone)  # the model's own train() reaches it like any other part
    backbone.train()


def _train_in_vain(backbone: nn.Module, mode: bool = True) -> nn.Module:
    return type(backbone).train(backbone, False)


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Let each block of a backbone keep its input alone for the backward pass, and compute the rest a second time."""
    blocks = list(_blocks(backbone))
    if not blocks:
        raise ConfigError("backbone.checkpointing: this backbone has no blocks of layers; set it to false.")
    for block in blocks:
        block.forward = partial(_checkpointed, block)


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The innermost members of lists of modules that have more than one layer: residual blocks and their like."""
    for child in module.children():
        inner = list(_blocks(child))
        layers = sum(1 for part in child.modules() if next(part.parameters(recurse=False), None) is not None)
        if inner or not isinstance(module, _CONTAINERS) or isinstance(child, _CONTAINERS) or layers < 2:
            yield from inner
        else:
            yield child


def _checkpointed(block: nn.Module, *inputs, **options):
    run = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return run(*inputs, **options)
    contexts = partial(_first_and_second, block)
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _first_and_second(block: nn.Module):
    return contextlib.nullcontext(), _keeping_statistics(block)


@contextlib.contextmanager
def _keeping_statistics(block: nn.Module):
    """Run a block in training without moving the running statistics: the first pass over the batch moved them."""
    norms = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    for layer in norms:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(norms, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches


def train_on_one_value(network: nn.Module) -> nn.Module:
    """Give every batch normalisation of a network the behaviour of `segtutor.layers.BatchNorm2d` on a 1x1 map."""
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d
        elif isinstance(layer, nn.BatchNorm2d) and not isinstance(layer, BatchNorm2d):  # timm's, with its activation
            layer.register_forward_pre_hook(_take_running_statistics)
            layer.register_forward_hook(_give_back_training, always_call=True)
    return network


def _take_running_statistics(layer: nn.Module, inputs: tuple[Tensor]) -> None:
    if layer.training and inputs[0].numel() == inputs[0].shape[1]:
        layer.training, layer.had_one_value = False, True


def _give_back_training(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    if layer.__dict__.pop("had_one_value", False):
        layer.training = True
