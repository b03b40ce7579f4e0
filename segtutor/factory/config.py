"""From a YAML file, a dictionary or a dataclass to checked settings: the one room for configuration.

Every error is a `ConfigError` that starts with the path of the offending key, ``backbone.depth``, and names the nearest
valid choices, because the reader of such an error has a YAML file open, not a debugger.

What a section may hold is written down once, where it is used: the arguments of a backbone, a head, a dataset or a
loss, with their annotations and defaults, are the keys of its section. Pydantic checks values against the annotations;
it is imported with the first section that is checked.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from segtutor.factory.messages import explain, shown, suggest

if TYPE_CHECKING:
    from pydantic import BaseModel


class ConfigError(ValueError):
    """A configuration that cannot be built: the message names the key and what it may be."""


Count = Annotated[int, Interval(ge=1, le=8192)]  # channels, rates, classes
Probability = Annotated[float, Interval(ge=0, le=0.99)]  # that dropout takes an activation away


@dataclass(frozen=True)
class ModelConfig:
    """A whole model, every default filled in; plain data, as it stands in a saved model's ``config.json``.

    Attributes:
        backbone: ``type`` and the settings of that backbone.
        head: ``type`` and the settings of that head.
        num_classes: classes to score; 1: one logit, above 0 for the class and below for the background.
        in_channels: channels of the images.
        auxiliary: add a plain head on c3, whose scores ``model(images, auxiliary=True)`` returns too.
        seed: of the random weights; None takes torch's random numbers as they are.
        device: where the model is put, such as "cuda"; None leaves it where torch builds it.
    """

    backbone: Mapping[str, Any]
    head: Mapping[str, Any]
    num_classes: Count
    in_channels: Count = 3
    auxiliary: bool = False
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] | None = None
    device: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary of plain values, which `create_model` accepts."""
        return plain(self)


def plain(value: Any) -> Any:
    """Settings as a YAML file holds them: dataclasses and mappings as dictionaries, tuples as lists, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


# ----------------------------------------------------------------------------------------------------------- YAML files


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the package: name to file."""
    folder = Path(__file__).parent.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file, without executing anything that is in it.

    Raises:
        ConfigError: no such file, not YAML, or no keys and values in it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = suggest(path.stem, shipped_configs())
        raise ConfigError(f"config: {path} could not be read ({error}); of the shipped ones, {known}") from None
    config = parse_yaml(text, f"config: {path}")
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: {path} has no keys and values in it, such as num_classes: 19.")
    return dict(config)


# 1e-3 and 1.5e6 are the numbers that everyone means; YAML 1.1 would read them as text.
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, without executing anything that is in it.

    Args:
        text: of a file, or one value such as "1e-3".
        where: what the message of an error begins with.

    Raises:
        ConfigError: not valid YAML.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as a number."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except RecursionError:
        raise ConfigError(f"{where} is not valid YAML: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2025-13-45
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where} is not valid YAML{line}: {reason}.") from None


def dump_yaml(value: Any) -> str:
    """Plain values as YAML text, which `parse_yaml` reads back as what they were."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes a text that `parse_yaml` would read as a number, and repeats a value in place of naming it."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def represent_str(self, data: str) -> Any:
            style = None if data.isprintable() else '"'  # the other styles lose some line breaks
            return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    Dumper.add_representer(str, Dumper.represent_str)
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def read_config(source: Any) -> dict[str, Any]:
    """A configuration as a dictionary, from a mapping, a dataclass, the path of a YAML file, or a shipped one's name.

    Raises:
        ConfigError: the source is none of these.
    """
    if dataclasses.is_dataclass(source) and not isinstance(source, type):
        return plain(source)
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, Path) or (isinstance(source, str) and source.endswith((".yaml", ".yml"))):
        return read_yaml(source)
    if isinstance(source, str) and source in shipped_configs():
        return read_yaml(shipped_configs()[source])
    raise ConfigError(
        f"config: expected keys and values, a YAML file, or a name such as 'resnet18-fcn', found {source!r}."
    )


# ------------------------------------------------------------------------------------------------------------- sections


def section_of(config: Any, name: str) -> Any:
    """Take the named section of a whole configuration, or the section itself when it was passed alone.

    A section given as a bare name, ``head: fcn``, stands for ``head: {type: fcn}``.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = plain(config)
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
        raise ConfigError(f"{path}.type: {shown(name)} is unknown; {suggest(name, valid)}")
    return name


def parse(
    build: Callable[..., Any], section: Any, path: str, *, known: Iterable[str] = (), skip: Iterable[str] = ()
) -> dict[str, Any]:
    """Check a section against the arguments of what it configures.

    Args:
        build: a class, function or dataclass; see `section_model` for which of its arguments are keys.
        section: the mapping to read.
        path: where the mapping sits in the configuration, for messages ("backbone").
        known: keys that are somebody else's to check, and are left out.
        skip: arguments that are not keys.

    Returns:
        The settings, defaults filled in; lists as tuples, and sections that a dataclass describes as that dataclass.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type or out of range.
    """
    from pydantic import ValidationError

    if not isinstance(section, Mapping):
        raise ConfigError(f"{path or 'config'}: expected keys and values, found {shown(section)}.")
    model, known = section_model(build, tuple(skip)), tuple(known)
    own = {key: value for key, value in section.items() if key not in known}
    try:
        checked = model.model_validate(own)
    except ValidationError as error:
        raise ConfigError(explain(error.errors(include_url=False), model, own, path, known)) from None
    return {key: getattr(checked, key) for key in model.model_fields}


def parse_typed(
    section: Any,
    path: str,
    builds: Mapping[str, Callable[..., Any]],
    *,
    common: Callable[..., Any] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, Any]:
    """Check a section ``{type: NAME, key: value, ...}`` against what is registered by that name.

    Args:
        section: the mapping, or a bare NAME.
        path: where it sits in the configuration.
        builds: names and what they stand for; see `parse`.
        common: a function whose arguments are further keys, whatever the type.
        skip: arguments that are not keys.

    Returns:
        ``type`` and the settings, defaults filled in.

    Raises:
        ConfigError: an unknown name, an unknown or missing key, or an impossible value.
    """
    section = {"type": section} if isinstance(section, str) else section
    name = type_of(section, path, builds)
    shared = () if common is None else section_model(common).model_fields
    own = parse(builds[name], section, path, known=("type", *shared), skip=skip)
    return {"type": name, **own, **(parse(common, section, path, known=("type", *own)) if common else {})}


@cache
def section_model(build: Callable[..., Any], skip: tuple[str, ...] = ()) -> type[BaseModel]:
    """The pydantic model of the section that configures a class, function or dataclass.

    Its fields are the arguments that are keyword-only or have a default. Left out are names with a leading underscore
    and arguments of a type that no YAML file holds, such as a function or a tensor.
    """
    from pydantic import ConfigDict, Field, create_model

    kind: Any = build
    hints, described = _hints(build), argument_docs(build)
    fields: dict[str, Any] = {}
    made = {field.name: field.default_factory for field in dataclasses.fields(kind)} if _is_dataclass(kind) else {}
    for name, argument in inspect.signature(build).parameters.items():
        required = argument.default is argument.empty
        keyed = argument.kind is argument.KEYWORD_ONLY or (
            argument.kind is argument.POSITIONAL_OR_KEYWORD and (not required or _is_dataclass(build))
        )
        hint = _readable(hints.get(name, Any))
        if keyed and hint is not None and name not in skip and not name.startswith("_"):
            about: dict[str, Any] = {"description": described.get(name)}
            if made.get(name, dataclasses.MISSING) is not dataclasses.MISSING:
                about["default_factory"] = made[name]
            elif _is_dataclass(type(argument.default)):  # which a JSON Schema could not show
                about["default_factory"] = partial(copy.copy, argument.default)
            elif not required:
                about["default"] = argument.default
            fields[name] = (hint, Field(**about))
    rules = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(str(getattr(build, "__name__", "Section")), __config__=rules, **fields)


def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the arguments."""
    function = typing.cast(Any, build).__init__ if isinstance(build, type) else build
    return typing.get_type_hints(function, include_extras=True)


def argument_docs(build: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a class or function says about each argument, without the markup."""
    owner = getattr(build, "__self__", build)  # of a class method, the class
    texts = [kind.__dict__.get("__doc__") for kind in reversed(owner.__mro__)] if isinstance(owner, type) else []
    found = {}
    for text in [*texts, build.__doc__]:
        for name, about in re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", inspect.cleandoc(text or ""), re.M):
            found[name] = re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join(about.split())).replace("`", "")
    return found


def _readable(hint: Any) -> Any:
    """The part of an annotation that a YAML file can hold, as pydantic is to read it; None where there is no such part.

    Sequences become tuples, which also read lists; paths become text; a dataclass becomes a section of its own.
    """
    from pydantic import AfterValidator, BeforeValidator

    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, bool, int, float, str, dict):
        return hint
    if hint in (os.PathLike, Path) or origin is os.PathLike:
        return Annotated[str, BeforeValidator(_path_as_text)]
    if _is_dataclass(hint):
        as_section = BeforeValidator(lambda value: plain(value) if isinstance(value, hint) else value)
        return Annotated[section_model(hint), as_section, AfterValidator(partial(_made, hint))]
    if origin is Annotated:
        inner = _readable(parts[0])
        return None if inner is None else Annotated[(inner, *parts[1:])]
    if origin is Literal:
        return Annotated[hint, BeforeValidator(partial(_choice, parts))]
    if len(_union(hint)) > 1:
        kinds = [kind for part in parts if part is not types.NoneType and (kind := _readable(part)) is not None]
        return typing.Union[tuple(kinds + [None] * (types.NoneType in parts))] if kinds else None  # noqa: UP007
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys = [part for part in _union(parts[0]) if typing.get_origin(part) is None]  # YAML has no lists as keys
        key, value = _readable(typing.Union[tuple(keys)]) if keys else None, _readable(parts[1])  # noqa: UP007
        generic: Any = dict
        return None if key is None or value is None else generic[key, value]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        kinds = [_readable(part) for part in parts if part is not ...]
        generic = tuple
        kinds += [...] if ... in parts or origin is not tuple else []
        return None if None in kinds else Annotated[generic[tuple(kinds)], BeforeValidator(_list_as_tuple)]
    return None


def _union(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, that."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_dataclass(build: Any) -> bool:
    return isinstance(build, type) and dataclasses.is_dataclass(build)


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    """Compare the type too: pydantic takes 18.0 for the 18 of a Literal."""
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    raise ValueError


def _made(build: type, checked: BaseModel) -> Any:
    return build(**{key: getattr(checked, key) for key in type(checked).model_fields})


def _list_as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def path_keys(build: Callable[..., Any]) -> set[str]:
    """The arguments of a class or function that take the path of a file or folder."""
    paths = (os.PathLike, Path)
    return {
        name for name, hint in _hints(build).items() if any(part in paths for part in (hint, *typing.get_args(hint)))
    }
