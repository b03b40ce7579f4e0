"""From a plain dictionary (a YAML file) to validated, frozen settings.

Every error is a `ConfigError` that starts with the path of the offending key, ``backbone.depth``, and names the nearest
valid choices, because the reader of such an error has a YAML file open, not a debugger.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration that cannot be built: the message names the key and what it may be."""


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: which backbone, which head, how many classes.

    Attributes:
        backbone: the settings of a registered backbone.
        head: the settings of a registered head.
        num_classes: classes to score.
        in_channels: channels of the images.
    """

    backbone: Any
    head: Any
    num_classes: int
    in_channels: int = 3

    def __post_init__(self):
        for key in ("num_classes", "in_channels"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: {getattr(self, key)} is too small, it must be at least 1.")


def nearest(name: Any, valid: typing.Iterable[Any]) -> str:
    """Say which names are valid, the most similar one first."""
    valid = [str(choice) for choice in valid]
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid: {', '.join(valid) or 'none'}."


def parse(cls: type, section: Any, path: str):
    """Build the frozen dataclass ``cls`` from a mapping, checking names and types.

    Args:
        cls: a dataclass of settings; its defaults and type annotations are the rules.
        section: the mapping to read.
        path: where the mapping sits in the configuration, for messages ("backbone").

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path or 'config'}: expected keys and values, found {section!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    prefix = f"{path}." if path else ""
    for key in section:
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: unknown key; {nearest(key, fields)}")
    hints = typing.get_type_hints(cls)
    for name, field in fields.items():
        if name not in section and field.default is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name}: missing; add it.")
    values = {key: _check(value, hints[key], prefix + key) for key, value in section.items()}
    return cls(**values)


def _check(value: Any, hint: Any, path: str) -> Any:
    """Return the value if the annotation allows it; True is no integer here, and 3 is a float."""
    if hint is Any:
        return value
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if type(value) is not type(choices[0]):
            raise ConfigError(f"{path}: {value!r} is a {type(value).__name__}; {nearest('', choices)}")
        if value in choices:
            return value
        raise ConfigError(f"{path}: {value!r} is not possible; {nearest(value, choices)}")
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    allowed = typing.get_args(hint) if union else (hint,)
    if type(value) in allowed:
        return value
    if float in allowed and type(value) is int:
        return float(value)
    names = " or ".join("none" if kind is type(None) else kind.__name__ for kind in allowed)
    raise ConfigError(f"{path}: {value!r} is a {type(value).__name__}, expected {names}.")


def section_of(config: Any, name: str) -> Any:
    """Take the named section of a whole configuration, or the section itself when it was passed alone.

    A section given as a bare name, ``head: fcn``, stands for ``head: {type: fcn}``.
    """
    if isinstance(config, Mapping) and name in config:
        config = config[name]
    elif isinstance(config, Mapping) and "type" not in config:
        raise ConfigError(f"{name}: missing; add a section such as {name}: {{type: ...}}.")
    return {"type": config} if isinstance(config, str) else config
