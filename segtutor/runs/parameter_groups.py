"""Which parameters learn how fast, and which are pulled towards 0: the groups that an optimiser gets."""

from __future__ import annotations

from typing import Any

from torch import nn

from segtutor.factory.backbones.checkpointing import find_blocks


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    head_lr: float = 1.0,
    layer_decay: float = 1.0,
    decay_norms: bool = True,
) -> list[dict[str, Any]]:
    """The parameters of a model in groups of one learning rate and one weight decay each.

    Args:
        model: what it calls ``backbone`` is the backbone, all else the head.
        lr: of the backbone's last block.
        weight_decay: of what is decayed.
        head_lr: factor on the learning rate of all that is not the backbone.
        layer_decay: factor on the learning rate from each block of the backbone to the block before it; the last block
            has it once, as in BEiT (arXiv 2106.08254).
        decay_norms: decay parameters of one dimension too: biases, and scales and shifts of normalisations.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``; those of the plain learning rate come first.
    """
    backbone = getattr(model, "backbone", None)
    depths = block_depths(backbone) if layer_decay < 1 and isinstance(backbone, nn.Module) else {}
    last = max(depths.values(), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part, _, inside = name.partition(".")
        factor = head_lr if backbone is None or part != "backbone" else 1.0
        if inside in depths and part == "backbone":
            factor = layer_decay ** (last + 1 - depths[inside])
        decay = weight_decay if decay_norms or parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    order = sorted(groups.items(), key=lambda entry: entry[0][0] != 1)  # stable: the others stay as the data meet them
    return [{"params": held, "lr": lr * factor, "weight_decay": decay} for (factor, decay), held in order]


def block_depths(backbone: nn.Module) -> dict[str, int]:
    """For each parameter of a backbone, in which of its blocks it lies: 0 before the first, then 1, 2, ...

    What lies between two blocks, such as a smaller map's embedding, counts with the later one.
    """
    owner = {
        id(parameter): depth
        for depth, block in enumerate(find_blocks(backbone), start=1)
        for parameter in block.parameters()
    }
    names, depths = list(backbone.named_parameters()), {}
    depth = max(owner.values(), default=0)
    for name, parameter in reversed(names):
        depth = depths[name] = owner.get(id(parameter), depth)
    for name, parameter in names:
        if id(parameter) in owner:
            break
        depths[name] = 0
    return depths
