"""Gradient checkpointing: keep what enters each block of a backbone, and compute the rest again for the gradients."""

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from segtutor.factory.config import ConfigError


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
