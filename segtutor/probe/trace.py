"""The shapes that go into and out of a model's parts, in the order in which data meets them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from segtutor.probe.cost import count_parameters
from segtutor.probe.running import input_shape, run_without_numbers, tensors_in, train_mode

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TraceRow:
    """One call of one module.

    Attributes:
        name: dotted name inside the model.
        kind: class name.
        in_shape: shape of the first tensor argument.
        out_shape: shape of the (first) tensor that came out.
        params: parameters of the module and its children; 0 when the module is called again.
        out_shapes: the shapes of all tensors that came out.
    """

    name: str
    kind: str
    in_shape: Shape
    out_shape: Shape
    params: int
    out_shapes: tuple[Shape, ...] = ()


class Trace(list):
    """List of :class:`TraceRow` in data-flow order that prints as a table."""

    def __repr__(self) -> str:
        def text(shape: Shape) -> str:
            return " x ".join(map(str, shape))

        def texts(row: TraceRow) -> str:
            more = len(row.out_shapes) - 1
            return text(row.out_shape) + (f" (+{more} more)" if more > 0 else "")

        head = ("module", "kind", "input", "output", "parameters")
        cells = [head, *((r.name, r.kind, text(r.in_shape), texts(r), f"{r.params:,}") for r in self)]
        widths = [max(len(row[i]) for row in cells) for i in range(5)]
        lines = [
            "  ".join(row[i].rjust(widths[i]) if i == 4 else row[i].ljust(widths[i]) for i in range(5)) for row in cells
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    __str__ = __repr__


def shape_trace(
    model: nn.Module, size: Sequence[int], *, depth: int = 1, names: Sequence[str] | None = None, batch: int = 1
) -> Trace:
    """Run the model once and write down what goes into and out of its parts, in the order in which data meets them.

    Args:
        model: any module that takes one image batch; what it returns may be a tensor or any nest of tensors.
        size: (H, W), (C, H, W) or (B, C, H, W).
        depth: 1 lists the direct children, 2 their children, ...
        names: list exactly these modules (dotted names) instead.
        batch: images, where `size` does not say.

    Raises:
        ValueError: a name that the model does not have.
    """
    if names is None:
        chosen = list(_at_depth(model, depth)) or [("", model)]
    else:
        known = dict(model.named_modules())
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"the model has no module named {missing[0]!r}; it has {', '.join(filter(None, known))}")
        chosen = [(name, known[name]) for name in names]
    rows, seen = Trace(), set()

    def note(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            inputs = tensors_in((args, kwargs))
            shapes = tuple(tuple(t.shape) for t in tensors_in(output))
            rows.append(
                TraceRow(
                    name=name or type(module).__name__.lower(),
                    kind=type(module).__name__,
                    in_shape=tuple(inputs[0].shape) if inputs else (),
                    out_shape=shapes[0] if shapes else (),
                    params=0 if id(module) in seen else count_parameters(module),
                    out_shapes=shapes,
                )
            )
            seen.add(id(module))

        return hook

    hooks = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in chosen]
    try:
        with train_mode(model, training=False), torch.no_grad():
            run_without_numbers(model, input_shape(model, size, batch))
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def _at_depth(model: nn.Module, depth: int, prefix: str = "") -> Iterable[tuple[str, nn.Module]]:
    """Modules `depth` levels down, and childless ones above; module lists are no level, for they are never called."""
    for name, child in model.named_children():
        full = f"{prefix}{name}"
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _at_depth(child, depth, full + ".")
        elif depth > 1 and any(True for _ in child.children()):
            yield from _at_depth(child, depth - 1, full + ".")
        else:
            yield full, child
