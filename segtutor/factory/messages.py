"""What pydantic finds wrong with a configuration, as one sentence with the path of the key and what was meant."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from pydantic import BaseModel


def suggest(name: Any, valid: Iterable[Any]) -> str:
    """Ask whether one of the three valid choices that are nearest to ``name`` was meant."""
    valid = list(valid)
    if isinstance(name, Real) and all(isinstance(choice, Real) for choice in valid):
        close = sorted(valid, key=lambda choice: abs(choice - name))[:3] if math.isfinite(name) else valid[:3]
    else:
        close = difflib.get_close_matches(str(name), [str(choice) for choice in valid], n=3, cutoff=0)
        close = [next(choice for choice in valid if str(choice) == text) for text in close]
    quoted = [repr(choice) for choice in close]
    if not quoted:
        return "nothing is possible here."
    return f"did you mean {' or '.join(filter(None, [', '.join(quoted[:-1]), quoted[-1]]))}?"


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True)
class _Fault:
    """One of pydantic's findings, as a reader of the configuration sees it.

    Attributes:
        kind: pydantic's name of the finding.
        path: keys and indices that lead to the place; for an unknown or missing key with that key.
        where: the same, as it is written in a message.
        value: what stands there.
        kinds: what the annotation allows there; for an unknown key, one step before it.
        facts: pydantic's details.
    """

    kind: str
    path: tuple[Any, ...]
    where: str
    value: Any
    kinds: tuple[Any, ...]
    facts: Mapping[str, Any]

    @property
    def is_unknown_key(self) -> bool:
        return self.kind in ("extra_forbidden", "invalid_key")

    @property
    def says_little(self) -> bool:
        """Whether it only says that this is not the member of a union that was meant."""
        choices = {type(choice) for choice in _choices(self.kinds)}
        return self.kind.endswith("_type") or (self.kind == "value_error" and type(self.value) not in choices)


def explain(
    errors: Iterable[Mapping[str, Any]], model: type[BaseModel], section: Any, path: str, known: tuple[str, ...]
) -> str:
    """Of all that pydantic found wrong in a section, say what helps its reader most, in one sentence.

    Args:
        errors: as ``ValidationError.errors()`` gives them.
        model: what the section was checked against.
        section: the mapping that was checked.
        path: where it sits in the configuration.
        known: further keys that the section may have, for suggestions.
    """
    faults = [_fault(error, model, section, path) for error in errors]
    first = next((fault for fault in faults if fault.is_unknown_key), faults[0])  # a misspelt key is also a missing one
    about = [fault for fault in faults if fault.path[: len(first.path)] == first.path]
    fault = min(about, key=lambda fault: (fault.says_little, -len(fault.path)))
    return f"{fault.where or 'config'}: {_reason(fault, known if len(fault.path) == 1 else ())}"


def _fault(error: Mapping[str, Any], model: type[BaseModel], section: Any, where: str) -> _Fault:
    """Follow an error's location through the section; between keys, pydantic names the member of a union it tried."""
    kind, location = error["type"], list(error["loc"])
    path: list[Any] = []
    value, kinds = section, (model,)
    for number, step in enumerate(location, 1):
        last = number == len(location)
        if isinstance(value, Mapping) and step == "[key]" and last:
            break
        if isinstance(value, Mapping) and any(step in (key, str(key)) for key in value):
            step = next(key for key in value if step in (key, str(key)))
            where, inner = _joined(where, step), value[step]
        elif isinstance(value, Mapping) and kind == "missing" and last:
            path, where = [*path, step], _joined(where, step)
            break
        elif isinstance(value, (list, tuple)) and isinstance(step, int) and step < len(value):
            where, inner = f"{where}[{step}]", value[step]
        else:
            continue
        path = [*path, step]
        if location[number:] == ["[key]"]:
            keys = (typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is dict)
            value, kinds = step, tuple(member for key in keys for member in _members(key))
        elif last and kind in ("extra_forbidden", "invalid_key"):
            value = inner
        else:
            value, kinds = inner, tuple(_within(kinds, step))
    return _Fault(kind, tuple(path), where, value, kinds, error.get("ctx", {}))


def _joined(where: str, key: Any) -> str:
    key = key if isinstance(key, str) and key.isprintable() else repr(key)
    return f"{where}.{key}" if where else key


def _within(kinds: Iterable[Any], step: Any) -> Iterator[Any]:
    """What the annotations allow one key or index further in, the members of unions one by one."""
    for kind in kinds:
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if hasattr(kind, "model_fields"):
            if step in kind.model_fields:
                yield from _members(kind.model_fields[step].annotation)
        elif origin is dict:
            yield from _members(parts[1])
        elif origin is tuple and isinstance(step, int):
            yield from _members(parts[0] if ... in parts else parts[min(step, len(parts) - 1)])


def _members(hint: Any) -> Iterator[Any]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield from _members(parts[0])
    elif origin in (typing.Union, types.UnionType):
        for part in parts:
            yield from _members(part)
    else:
        yield hint


def _choices(kinds: Iterable[Any]) -> list[Any]:
    return [choice for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)]


_BOUNDS = {
    "ge": "small, it must be at least",
    "gt": "small, it must be above",
    "le": "large, it must be at most",
    "lt": "large, it must be below",
}


def _reason(fault: _Fault, known: tuple[str, ...]) -> str:
    value, facts = fault.value, fault.facts
    if fault.is_unknown_key:
        fields = [key for kind in fault.kinds for key in getattr(kind, "model_fields", ())]
        return f"unknown key; {suggest(fault.path[-1], [*known, *fields])}"
    if isinstance(value, (list, tuple)) and fault.kind in ("missing", "too_long"):
        wanted = max(len(typing.get_args(kind)) for kind in fault.kinds)
        return f"{shown(list(value))} has {len(value)} {'entry' if len(value) == 1 else 'entries'}, expected {wanted}."
    if fault.kind == "missing":
        return "missing; add it."
    if fault.kind == "value_error" and str(facts["error"]):
        return f"{facts['error']}."
    if fault.kind == "value_error":
        return f"{shown(value)} is not possible; {suggest(value, _choices(fault.kinds))}"
    if fault.kind == "finite_number":
        return f"{value!r} is not a finite number."
    for bound, says in _BOUNDS.items():
        if bound in facts:
            return f"{shown(value)} is too {says} {facts[bound]}."
    if type(value) is int and float in fault.kinds and not {bool, str} & set(fault.kinds):
        return f"{shown(value)} is too large for a float."
    names = list(dict.fromkeys(_name(kind) for kind in fault.kinds))
    kind = type(value).__name__
    return f"{shown(value)} is {'an' if kind[0] in 'aeiou' else 'a'} {kind}, expected {' or '.join(names)}."


def _name(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    if origin is dict or hasattr(kind, "model_fields"):
        return "keys and values"
    names = {tuple: "a list", types.NoneType: "none", None: "none"}
    return names[origin] if origin in names else str(getattr(origin, "__name__", origin))
