"""From a YAML file, a dictionary or a dataclass to checked settings.

Every error is a `ConfigError` that starts with the path of the offending key, ``backbone.depth``, and names the nearest
valid choices, because the reader of such an error has a YAML file open, not a debugger.

What a section may hold is written down once, where it is used: the keyword-only arguments of a backbone or a head, with
their annotations and defaults, are the keys of its section.
"""

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal


class ConfigError(ValueError):
    """A configuration that cannot be built: the message names the key and what it may be."""


@dataclass(frozen=True)
class Bounds:
    """The range of a number, both ends allowed, as the second part of an ``Annotated`` type."""

    least: float
    most: float


Count = Annotated[int, Bounds(1, 8192)]  # channels, rates, classes
Probability = Annotated[float, Bounds(0, 0.99)]  # of activations that dropout takes away


@dataclass(frozen=True)
class ModelConfig:
    """A whole model, every default filled in; plain data, as it stands in a saved model's ``config.json``.

    Attributes:
        backbone: ``type`` and the settings of that backbone.
        head: ``type`` and the settings of that head.
        num_classes: classes to score.
        in_channels: channels of the images.
        auxiliary: add a plain head on c3, read by ``forward_with_auxiliary`` alone.
        seed: of the random weights; None takes torch's random numbers as they are.
        device: where the model is put, such as "cuda"; None leaves it where torch builds it.
    """

    backbone: Mapping[str, Any]
    head: Mapping[str, Any]
    num_classes: Count
    in_channels: Count = 3
    auxiliary: bool = False
    seed: Annotated[int, Bounds(0, 2**63 - 1)] | None = None
    device: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary of plain values, which `create_model` accepts."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package: name to file."""
    folder = Path(__file__).parent.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file, without executing anything that is in it.

    Raises:
        ConfigError: no such file, no YAML, or no keys and values in it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = suggest(path.stem, shipped_configs())
        raise ConfigError(f"config: {path} could not be read ({error}); of the shipped ones, {known}") from None
    config = parse_yaml(text, f"config: {path}")
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: {path} holds no keys and values, such as num_classes: 19.")
    return dict(config)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, without executing anything that is in it.

    Args:
        text: of a file, or one value such as "1e-3", which plain YAML 1.1 would leave a string.
        where: what the message of an error begins with.

    Raises:
        ConfigError: no YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 and 1.5e6 as the numbers that everyone means."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
    )
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where} is no YAML{line}: {getattr(error, 'problem', None) or error}.") from None


def read_config(source: Any) -> dict[str, Any]:
    """A configuration as a dictionary, from a mapping, a dataclass, the path of a YAML file, or a shipped one's name.

    Raises:
        ConfigError: the source is none of these.
    """
    if dataclasses.is_dataclass(source) and not isinstance(source, type):
        return _plain(dataclasses.asdict(source))
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith((".yaml", ".yml"))):
        return read_yaml(source)
    if isinstance(source, str) and source in shipped_configs():
        return read_yaml(shipped_configs()[source])
    raise ConfigError(
        f"config: expected keys and values, a YAML file, or a name such as 'resnet18-fcn', found {source!r}."
    )


def suggest(name: Any, valid: Iterable[Any]) -> str:
    """Ask whether one of the three valid choices that are nearest to ``name`` was meant."""
    valid = list(valid)
    if isinstance(name, Real) and all(isinstance(choice, Real) for choice in valid):
        close = sorted(valid, key=lambda choice: abs(choice - name))[:3] if math.isfinite(name) else valid[:3]
    else:
        close = difflib.get_close_matches(str(name), [str(choice) for choice in valid], n=3, cutoff=0)
        close = [next(choice for choice in valid if str(choice) == text) for text in close]
    shown = [repr(choice) for choice in close]
    if not shown:
        return "nothing is possible here."
    return f"did you mean {' or '.join(filter(None, [', '.join(shown[:-1]), shown[-1]]))}?"


def parse(build: Callable, section: Any, path: str, *, known: Iterable[str] = ()) -> dict[str, Any]:
    """Check a section against the keyword-only arguments of what it configures.

    Args:
        build: a class, function or dataclass; annotations and defaults of its keyword-only arguments (of a dataclass:
            its fields) are the rules.
        section: the mapping to read.
        path: where the mapping sits in the configuration, for messages ("backbone").
        known: keys that are somebody else's to check, and are left out.

    Returns:
        The settings, defaults filled in, lists as tuples.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path or 'config'}: expected keys and values, found {section!r}.")
    hints = typing.get_type_hints(build.__init__ if isinstance(build, type) else build, include_extras=True)
    rules = {
        argument.name: argument
        for argument in inspect.signature(build).parameters.values()
        if argument.kind is argument.KEYWORD_ONLY or dataclasses.is_dataclass(build)
    }
    prefix, known = f"{path}." if path else "", set(known)
    for key in section:
        if not isinstance(key, str) or key not in rules.keys() | known:
            shown = key if isinstance(key, str) and key.isprintable() else repr(key)
            raise ConfigError(f"{prefix}{shown}: unknown key; {suggest(key, [*known, *rules])}")
    settings = {}
    for key, rule in rules.items():
        if key in section:
            settings[key] = _check(section[key], hints.get(key, Any), prefix + key)
        elif rule.default is inspect.Parameter.empty:
            raise ConfigError(f"{prefix}{key}: missing; add it.")
        else:
            settings[key] = rule.default
    return settings


def _check(value: Any, hint: Any, path: str) -> Any:
    """Return the value if the annotation allows it; True is no integer here, and 3 is a float."""
    if hint is Any:
        return value
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bounded(_check(value, parts[0], path), parts[1], path)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in parts):
            return value
        raise ConfigError(f"{path}: {value!r} is not possible; {suggest(value, parts)}")
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, parts, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: {value!r} is a {type(value).__name__}, expected a list.")
        return tuple(_check(entry, parts[0], f"{path}[{i}]") for i, entry in enumerate(value))
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf
    kind = origin or hint
    if type(value) is kind or (kind not in (bool, int, float, str, types.NoneType) and isinstance(value, kind)):
        return value
    raise ConfigError(f"{path}: {value!r} is a {type(value).__name__}, expected {_name(hint)}.")


def _one_of(value: Any, kinds: tuple, path: str) -> Any:
    """The first kind whose outer type fits decides, so that its message is the one that helps."""
    for kind in kinds:
        plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
        origin = typing.get_origin(plain)
        fits = {tuple: (list, tuple), Literal: tuple({type(choice) for choice in typing.get_args(plain)})}
        outer = fits.get(origin, (origin or plain,))
        if type(value) in outer or (float in outer and type(value) is int):
            return _check(value, kind, path)
    raise ConfigError(
        f"{path}: {value!r} is a {type(value).__name__}, expected {' or '.join(_name(kind) for kind in kinds)}."
    )


def _bounded(value: Any, bounds: Bounds, path: str) -> Any:
    if bounds.least <= value <= bounds.most:
        return value
    size = "large, it must be at most" if value > bounds.most else "small, it must be at least"
    raise ConfigError(f"{path}: {value!r} is too {size} {bounds.most if value > bounds.most else bounds.least}.")


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list"
    return "none" if kind is types.NoneType else getattr(typing.get_origin(kind) or kind, "__name__", str(kind))


def section_of(config: Any, name: str) -> Any:
    """Take the named section of a whole configuration, or the section itself when it was passed alone.

    A section given as a bare name, ``head: fcn``, stands for ``head: {type: fcn}``.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = _plain(dataclasses.asdict(config))
    if isinstance(config, Mapping) and name in config:
        config = config[name]
    elif isinstance(config, Mapping) and "type" not in config:
        raise ConfigError(f"{name}: missing; add a section such as {name}: {{type: ...}}.")
    return {"type": config} if isinstance(config, str) else config


def type_of(section: Any, path: str, valid: Iterable[str]) -> str:
    """The registered name in a section's ``type``.

    Raises:
        ConfigError: no such name.
    """
    name = section.get("type") if isinstance(section, Mapping) else section
    if isinstance(section, Mapping) and "type" not in section:
        raise ConfigError(f"{path}.type: missing; {suggest('', valid)}")
    if not isinstance(name, str) or name not in valid:
        raise ConfigError(f"{path}.type: {name!r} is unknown; {suggest(name, valid)}")
    return name
