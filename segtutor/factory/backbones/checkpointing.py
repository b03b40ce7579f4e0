"""Gradient checkpointing: keep what enters each block of a backbone, and compute the rest again for the gradients."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from segtutor.factory.backbones.subclass import extend
from segtutor.factory.config import ConfigError


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Let each block of a backbone keep its input alone for the backward pass, and compute the rest a second time.

    Raises:
        ConfigError: there are no blocks.
    """
    blocks = list(find_blocks(backbone))
    if not blocks:
        raise ConfigError("backbone.checkpointing: this backbone has no blocks of layers; set it to false.")
    for block in blocks:
        extend(block, Checkpointed)


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The innermost members of lists of modules that have more than one layer: residual blocks and their like."""
    for child in module.children():
        inner = list(find_blocks(child))
        layers = sum(1 for part in child.modules() if next(part.parameters(recurse=False), None) is not None)
        if inner or not isinstance(module, _CONTAINERS) or isinstance(child, _CONTAINERS) or layers < 2:
            yield from inner
        else:
            yield child


class Checkpointed(nn.Module):
    """A mixin: a block whose forward keeps its inputs alone, and runs again when the gradients are wanted."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The block's own forward."""
        run = super().forward
        if not torch.is_grad_enabled():
            return run(*inputs, **options)
        # Lists of maps, such as DenseNet's, grow or change after the block has read them: what it read is kept.
        inputs, options = copy_containers((inputs, options))
        if torch.compiler.is_compiling():  # the compiler computes values twice, and moves statistics once
            return checkpoint(run, *inputs, use_reentrant=False, **options)

        def run_on_a_copy(*inputs: Any, **options: Any) -> Any:
            inputs, options = copy_containers((inputs, options))
            return run(*inputs, **options)

        contexts = (contextlib.nullcontext(), BuffersOfNow(self))  # of the first pass, and of the second
        return checkpoint(run_on_a_copy, *inputs, use_reentrant=False, context_fn=lambda: contexts, **options)


def copy_containers(values: Any) -> Any:
    """The same tensors in new lists, tuples and dictionaries."""
    return tree_map(lambda value: value, values)


class BuffersOfNow:
    """A context in which a block has copies of the buffers that it has now, and none of what it does to them stays.

    The first pass over a batch moves the running statistics; the second, which computes the same values again, begins
    where the first began and moves nothing. That holds for any normalisation, however it keeps its statistics.
    Buffers that are not saved with a model hold no statistics and are left alone: they can be large.
    """

    def __init__(self, block: nn.Module):
        saved = block.state_dict(keep_vars=True)
        self.owners = [(part, name) for part, name, full in buffers_of(block) if full in saved]
        self.before = [getattr(part, name).clone() for part, name in self.owners]

    def __enter__(self) -> None:
        self.after = [getattr(part, name) for part, name in self.owners]
        for (part, name), value in zip(self.owners, self.before, strict=True):
            setattr(part, name, value.clone())  # there is a second pass for each backward pass through one graph

    def __exit__(self, *error: object) -> None:
        for (part, name), value in zip(self.owners, self.after, strict=True):
            setattr(part, name, value)


def buffers_of(block: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Each buffer's owner, its name there, and its name in the block."""
    for prefix, part in block.named_modules():
        for name, _ in part.named_buffers(recurse=False):
            yield part, name, f"{prefix}.{name}" if prefix else name
