"""How the names of a reference network become those of a model, registered by the class of the model.

Three registries, each filled by the files of `segtutor.weights.maps`:

* `register_source`: which library and family a state dict comes from, told by its names;
* `register_map`: for such a source and a class of ours, which tensor goes where;
* `register_model`: of a class of ours, which layers score classes and which reads the image's channels.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
Rename = Callable[[str], str | None]
NOTHING = r"(?!)"  # a pattern that matches no name


@dataclass(frozen=True)
class KeyMap:
    """How the names of a source become the names of a target. Patterns are matched from the beginning of a name.

    Attributes:
        rename: source name to target name, or None where the source's tensor is left out.
        reinitialized: pattern of the target's names that have no source and keep their own initialisation.
        reshape: pattern of the target's names whose tensor is a reshaped one of the source (a fully connected layer
            that became a convolution).
        optional: pattern of names that a target may lack; the source's tensors are then left out (an auxiliary head).
        prepare: what happens to the source's tensors first, such as joining or splitting them.
        subsample: layer of the target to the kernel's side in the source, where the target may have fewer filters,
            channels and taps: evenly spaced ones of the source are copied as they are (DeepLab v1, Section 3.2).
    """

    rename: Rename
    reinitialized: str = NOTHING
    reshape: str = NOTHING
    optional: str = NOTHING
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors
    subsample: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """What is special in a class of models.

    Attributes:
        scores: pattern of the layers whose size is the number of classes.
        optional: pattern of the layers that a model may be built without (an auxiliary head).
        stem: name of the weight that reads the image's channels.
    """

    scores: str = NOTHING
    optional: str = NOTHING
    stem: str = ""


_SOURCES: list[Callable[[Tensors], str | None]] = []
_MAPS: dict[tuple[str, type[nn.Module]], KeyMap] = {}
_PARTS: dict[type[nn.Module], Parts] = {}


def register_source(recognise: Callable[[Tensors], str | None]) -> Callable[[Tensors], str | None]:
    """Add a function that names the library and family of a state dict, such as "torchvision resnet", or says None."""
    _SOURCES.append(recognise)
    return recognise


def register_map(kind: str, model: type[nn.Module], key_map: KeyMap) -> None:
    """Add the map from a kind of source into a class of models and its subclasses."""
    _MAPS[kind, model] = key_map


def register_model(model: type[nn.Module], *, scores: str = NOTHING, optional: str = NOTHING, stem: str = "") -> None:
    """Say of a class of models and its subclasses what `Parts` holds."""
    _PARTS[model] = Parts(scores, optional, stem)


def kind_of(tensors: Tensors) -> str:
    """The library and family that a state dict comes from, or "unknown"."""
    return next((kind for recognise in _SOURCES if (kind := recognise(tensors))), "unknown")


def parts_of(model: nn.Module) -> Parts:
    """The parts registered for a model's class, or for the nearest class that it derives from."""
    return next((_PARTS[cls] for cls in type(model).__mro__ if cls in _PARTS), Parts())


def find_map(kind: str, target: nn.Module) -> KeyMap:
    """The map from a kind of source into a model.

    Raises:
        ValueError: there is none.
    """
    for cls in type(target).__mro__:
        if (kind, cls) in _MAPS:
            return _MAPS[kind, cls]
    known = "; ".join(f"{source} into {cls.__name__}" for source, cls in _MAPS)
    raise ValueError(f"No key map from a source of kind '{kind}' into {type(target).__name__}. Known: {known}.")


def by_prefix(parts: Mapping[str, str | None], within: Mapping[str, Rename] | None = None) -> Rename:
    """Rename by the longest known beginning of a name.

    Args:
        parts: beginning, up to a dot, to what replaces it; None leaves such names out.
        within: for a new beginning, how the rest of the name is renamed.
    """

    def rename(name: str) -> str | None:
        known = [part for part in parts if name.startswith(part + ".")]
        if not known:
            return name
        source = max(known, key=len)
        target, rest = parts[source], name[len(source) + 1 :]
        if target is None:
            return None
        renamed = within[target](rest) if within and target in within else rest
        return None if renamed is None else f"{target}.{renamed}"

    return rename


def substituted(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """Apply regular expressions to a name, one after the other."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
