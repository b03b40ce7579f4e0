"""The registry of backbones: networks that all return the same four maps, each under a name.

Adding a backbone takes one function or class:

    @register_backbone("mynet")
    def mynet(in_channels, *, depth: Literal[18, 34] = 18): return TimmBackbone("mynet", in_channels)

Its keyword-only arguments are the keys of the configuration's section ``backbone``; ``checkpointing`` and ``frozen``
are keys of every backbone, and nothing has to be done for them.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from segtutor.factory.backbones.checkpointing import checkpoint_blocks
from segtutor.factory.backbones.freezing import Frozen, freeze
from segtutor.factory.config import ConfigError, parse, section_of, type_of

STRIDES = (4, 8, 16, 32)
Build = TypeVar("Build", bound=Callable[..., nn.Module])


class Statistics(NamedTuple):
    """What the images of a pretrained backbone were normalised by; the backbone's attribute ``statistics``.

    Attributes:
        mean: of each channel of images in [0, 1]; what the network saw is (image - mean) / std.
        std: of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of_channels(self, in_channels: int) -> "Statistics":
        """Those of images of another number of channels, as the first layer's weights are adapted to them.

        Red, green, blue, red ..., since channel i reads the weights of channel i mod 3; for grey their mean, since it
        reads the sum of the weights.
        """
        if in_channels == 1:
            return Statistics(*((sum(values) / len(values),) for values in self))
        return Statistics(*(tuple(values[i % len(values)] for i in range(in_channels)) for values in self))


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Features(NamedTuple):
    """The four maps of a backbone, from fine to coarse; the backbone knows their channels and strides.

    A named tuple, because tools that look into models know what to do with a tuple of tensors.

    Attributes:
        c1, c2, c3, c4: maps (B, channels[i], ~H / strides[i], ~W / strides[i]).
    """

    c1: Tensor
    c2: Tensor
    c3: Tensor
    c4: Tensor

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four maps as a plain tuple."""
        return self.c1, self.c2, self.c3, self.c4


class Backbone(nn.Module):
    """What is common to the backbones of this package; one of your own need not inherit from it, only look like it.

    Attributes:
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
        statistics: what images are normalised by for its published weights; None: nobody knows.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    statistics: Statistics | None = None

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        raise NotImplementedError(f"{type(self).__name__} has no forward.")


@dataclass(frozen=True)
class Entry:
    """A registered backbone type.

    Attributes:
        build: ``build(in_channels, **settings)``, a `Backbone` or what looks like one.
        channels: ``channels(**settings)``, the channel counts of c1 .. c4, or None to ask a built module.
        names: short names, each with the settings that it stands for.
        uses: for a short name, in one sentence, when to use it.
    """

    build: Callable[..., Backbone]
    channels: Callable[..., tuple[int, ...]] | None
    names: Mapping[str, Mapping[str, Any]]
    uses: Mapping[str, str] = field(default_factory=dict)


BACKBONES: dict[str, Entry] = {}


def register_backbone(
    name: str,
    *,
    channels: Callable[..., tuple[int, ...]] | None = None,
    names: Mapping[str, Mapping[str, Any]] | None = None,
    uses: Mapping[str, str] | None = None,
) -> Callable[[Build], Build]:
    """Decorate a class or function ``(in_channels, *, settings...) -> module`` to make it a backbone type.

    Args:
        name: the ``type`` by which configurations ask for it.
        channels: tells the channel counts of c1 .. c4 from the settings, so that nothing need be built to know them.
        names: short names such as "resnet50", each with the settings that it stands for; by default the name itself.
        uses: for each short name, in one sentence, when to use it.

    Raises:
        ConfigError: the name or a short name is taken.
    """

    def register(build: Build) -> Build:
        short: Mapping[str, Mapping[str, Any]] = {name: {}} if names is None else names
        for taken in {name} & BACKBONES.keys() | short.keys() & list_backbone_names().keys():
            raise ConfigError(f"backbone.type: '{taken}' is already registered; choose another name.")
        BACKBONES[name] = Entry(cast(Callable[..., Backbone], build), channels, short, uses or {})
        return build

    return register


def list_backbones() -> list[str]:
    """The backbone types that a configuration may name."""
    return sorted(BACKBONES)


def list_backbone_names() -> dict[str, dict[str, Any]]:
    """The short names, such as "resnet50", each with the section ``backbone`` that it stands for."""
    return {
        short: {"type": name, **settings}
        for name, entry in BACKBONES.items()
        for short, settings in entry.names.items()
    }


def list_backbone_uses() -> dict[str, str]:
    """The short names, each with one sentence that says when to use it."""
    return {short: entry.uses.get(short, "") for entry in BACKBONES.values() for short in entry.names}


_COMMON = ("checkpointing", "frozen")


def of_every_backbone(*, checkpointing: bool = False, frozen: Frozen = False) -> None:
    """The keys that every backbone has.

    Args:
        checkpointing: keep only what enters each block, and compute the rest again in the backward pass: less memory,
            more time, the same gradients.
        frozen: no gradients, and evaluation mode even while the model trains: true for all of it, 1 to 4 for the stem
            and so many stages, "norms" for its normalisations alone.
    """


def output_strides(name: str) -> tuple[int, ...]:
    """The values of ``output_stride`` that a backbone type allows."""
    stride = inspect.signature(BACKBONES[name].build, eval_str=True).parameters.get("output_stride")
    return (stride is not None and typing.get_args(stride.annotation)) or (32,)


def parse_backbone(config: Any) -> dict[str, Any]:
    """Check the backbone section (or a whole configuration's): ``type`` and its settings, defaults filled in."""
    section = section_of(config, "backbone")
    short = section.get("type") if isinstance(section, Mapping) and len(section) == 1 else None
    if isinstance(short, str) and short not in BACKBONES:
        section = list_backbone_names().get(short, section)
    name = type_of(section, "backbone", BACKBONES)
    stride = section.get("output_stride")
    if stride in (16, 8) and stride not in output_strides(name):
        able = ", ".join(other for other in list_backbones() if stride in output_strides(other))
        raise ConfigError(f"backbone.output_stride: {name} cannot be dilated to {stride}; these types can: {able}.")
    own = parse(BACKBONES[name].build, section, "backbone", known=("type", *_COMMON))
    shared = {key: section[key] for key in _COMMON if key in section}
    return {"type": name, **own, **parse(of_every_backbone, shared, "backbone")}


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are the type's own."""
    return {key: value for key, value in settings.items() if key not in ("type", *_COMMON)}


def build_backbone(settings: Mapping[str, Any], in_channels: int) -> Backbone:
    """Build a backbone from checked settings."""
    backbone = BACKBONES[settings["type"]].build(in_channels, **_own(settings))
    if settings.get("checkpointing"):
        checkpoint_blocks(backbone)
    if settings.get("frozen"):
        freeze(backbone, settings["frozen"])
    return backbone


def backbone_strides(config: Any) -> tuple[int, ...]:
    """The output strides of c1 .. c4 that a whole configuration asks for; without a backbone in it, 4 to 32."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping) or "backbone" not in config:
        return STRIDES
    settings = parse_backbone(config)
    return tuple(min(stride, settings.get("output_stride", 32)) for stride in STRIDES)


def create_backbone(config: Any, in_channels: int | None = None) -> Backbone:
    """Build a backbone: images (B, in_channels, H, W) to `Features`.

    Args:
        config: a whole configuration, or its backbone section.
        in_channels: channels of the images; by default the configuration's, else 3.

    Returns:
        A module with ``.channels`` and ``.strides``, whose forward returns `Features`.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    return build_backbone(parse_backbone(config), _channels_of(config) if in_channels is None else in_channels)


def _channels_of(config: Any) -> int:
    """The channels of the images that a configuration asks for, else 3."""
    return config.get("in_channels", 3) if isinstance(config, Mapping) else getattr(config, "in_channels", 3)


def get_backbone_statistics(config: Any) -> Statistics | None:
    """What the images of a pretrained backbone are normalised by, without fetching or allocating a single weight.

    Args:
        config: a whole configuration, whose ``in_channels`` count, or its backbone section.

    Returns:
        None where weights are random, or nobody knows what they were trained on.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    settings = parse_backbone(config)
    if not settings.get("pretrained"):
        return None
    with torch.device("meta"):
        backbone = build_backbone({**settings, "pretrained": False, "frozen": False}, 3)
    known: Statistics | None = getattr(backbone, "statistics", None)
    return None if known is None else known.of_channels(_channels_of(config))


def get_backbone_channels(config: Any) -> list[int]:
    """The channel counts of c1 .. c4, without allocating a single weight.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    settings = parse_backbone(config)
    known = BACKBONES[settings["type"]].channels
    if known is not None:
        return list(known(**_own(settings)))
    settings = {**settings, "frozen": False, **({"pretrained": False} if "pretrained" in settings else {})}
    with torch.device("meta"):  # shapes without storage
        return list(build_backbone(settings, 3).channels)
