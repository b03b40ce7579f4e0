"""Production backbones: timm networks that all return the same four maps.

The one file of the factory that imports timm. Adding a backbone takes one function or class:

    @register_backbone("mynet")
    def mynet(in_channels, *, depth: Literal[18, 34] = 18): return TimmBackbone("mynet", in_channels)

Its keyword-only arguments are the keys of the configuration's section ``backbone``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segtutor.factory.config import ConfigError, parse, section_of, type_of
from segtutor.layers import BatchNorm2d

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Entry:
    """A registered backbone type.

    Attributes:
        build: ``build(in_channels, **settings)``, a module with ``channels`` and ``strides`` whose forward returns
            `Features`.
        channels: ``channels(**settings)``, the channel counts of c1 .. c4, or None to ask a built module.
        names: short names, each with the settings that it stands for.
    """

    build: Callable[..., nn.Module]
    channels: Callable[..., tuple[int, ...]] | None
    names: Mapping[str, Mapping[str, Any]]


BACKBONES: dict[str, Entry] = {}


@dataclass(frozen=True)
class Features:
    """The four maps of a backbone, from fine to coarse, with what a head must know about them.

    Attributes:
        c1, c2, c3, c4: maps (B, channels[i], ~H / strides[i], ~W / strides[i]).
        channels: the four channel counts.
        strides: the four output strides.
    """

    c1: Tensor
    c2: Tensor
    c3: Tensor
    c4: Tensor
    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four maps as a tuple."""
        return self.c1, self.c2, self.c3, self.c4


def register_backbone(
    name: str,
    *,
    channels: Callable[..., tuple[int, ...]] | None = None,
    names: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable], Callable]:
    """Decorate a class or function ``(in_channels, *, settings...) -> module`` to make it a backbone type.

    Args:
        name: the ``type`` by which configurations ask for it.
        channels: tells the channel counts of c1 .. c4 from the settings, so that nothing need be built to know them.
        names: short names such as "resnet50", each with the settings that it stands for; by default the name itself.

    Raises:
        ConfigError: the name or a short name is taken.
    """

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        short = {name: {}} if names is None else names
        for taken in {name} & BACKBONES.keys() | short.keys() & list_backbone_names().keys():
            raise ConfigError(f"backbone.type: '{taken}' is already registered; choose another name.")
        BACKBONES[name] = Entry(build, channels, short)
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


def parse_backbone(config) -> dict[str, Any]:
    """Check the backbone section (or a whole configuration's): ``type`` and its settings, defaults filled in."""
    section = section_of(config, "backbone")
    short = section.get("type") if isinstance(section, Mapping) and len(section) == 1 else None
    if isinstance(short, str) and short not in BACKBONES:
        section = list_backbone_names().get(short, section)
    name = type_of(section, "backbone", BACKBONES)
    return {"type": name, **parse(BACKBONES[name].build, section, "backbone", known=("type",))}


def build_backbone(settings: Mapping[str, Any], in_channels: int) -> nn.Module:
    """Build a backbone from checked settings."""
    options = {key: value for key, value in settings.items() if key != "type"}
    return BACKBONES[settings["type"]].build(in_channels, **options)


def backbone_strides(config) -> tuple[int, ...]:
    """The output strides of c1 .. c4 that a whole configuration asks for; without a backbone in it, 4 to 32."""
    if dataclasses.is_dataclass(config):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping) or "backbone" not in config:
        return STRIDES
    settings = parse_backbone(config)
    return tuple(min(stride, settings.get("output_stride", 32)) for stride in STRIDES)


def create_backbone(config, in_channels: int | None = None) -> nn.Module:
    """Build a backbone: images (B, in_channels, H, W) to `Features`.

    Args:
        config: a whole configuration, or its backbone section.
        in_channels: channels of the images; by default the configuration's, else 3.

    Returns:
        A module with ``.channels`` and ``.strides``, whose forward returns `Features`.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    if in_channels is None:
        in_channels = config.get("in_channels", 3) if isinstance(config, Mapping) else getattr(config, "in_channels", 3)
    return build_backbone(parse_backbone(config), in_channels)


def get_backbone_channels(config) -> list[int]:
    """The channel counts of c1 .. c4, without allocating a single weight.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    settings = parse_backbone(config)
    known = BACKBONES[settings["type"]].channels
    options = {key: value for key, value in settings.items() if key != "type"}
    if known is not None:
        return list(known(**options))
    with torch.device("meta"):  # shapes without storage
        return list(
            build_backbone({**settings, **({"pretrained": False} if "pretrained" in settings else {})}, 3).channels
        )


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a weights file without executing anything that is in it."""
    if not Path(path).is_file():
        raise ConfigError(f"backbone.pretrained: there is no file {path}.")
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each way of being no weights file has its own type
        raise ConfigError(f"backbone.pretrained: {path} could not be read as a state dict.") from error


def check_names(tensors: dict[str, Tensor], name: str, path: str) -> None:
    """Refuse a file of another network: timm itself would fill what happens to match and warn."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(name)
    classifier = network.pretrained_cfg["classifier"]
    other = [key for key in tensors.keys() ^ network.state_dict().keys() if not key.startswith(classifier)]
    if other:
        raise ConfigError(
            f"backbone.pretrained: {path} is not of {name}: {len(other)} tensors differ by name, such as {min(other)}."
        )


class TimmBackbone(nn.Module):
    """A timm network behind the interface of this package.

    Args:
        name: timm's name of the network.
        in_channels: channels of the images.
        pretrained: False, True (timm's default weights, downloaded once) or the path of a weights file.
        output_stride: 32, or 16 or 8 to dilate instead of striding.
        options: passed on to timm.

    Attributes:
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
    """

    def __init__(
        self, name: str, in_channels: int, *, pretrained: bool | str = False, output_stride: int = 32, **options
    ):
        super().__init__()
        import timm  # costs seconds to import, so only when a backbone is built

        weights = {"pretrained": pretrained is True}
        if isinstance(pretrained, str):
            tensors = read_weights(pretrained)
            check_names(tensors, name, pretrained)
            weights = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
        network = {"out_indices": (1, 2, 3, 4), "output_stride": output_stride, "in_chans": in_channels}
        try:
            self.network = timm.create_model(name, features_only=True, **network, **weights, **options)
        except Exception as error:
            if pretrained is False:
                raise
            raise ConfigError(
                f"backbone.pretrained: the weights of {name} could not be fetched or do not fit ({error}): connect to "
                "the internet once, give the path of a local file, or use false."
            ) from error
        self.channels = tuple(self.network.feature_info.channels())
        self.strides = tuple(self.network.feature_info.reduction())

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        return Features(*self.network(images), channels=self.channels, strides=self.strides)


def _resnet_channels(depth: int, **_) -> tuple[int, ...]:
    return (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)


@register_backbone(
    "resnet",
    channels=_resnet_channels,
    names={f"resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101, 152)},
)
def resnet(
    in_channels: int,
    *,
    depth: Literal[18, 34, 50, 101, 152] = 50,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """ResNet-18 to ResNet-152 (He et al. 2016), with the batch normalisation that also trains on one 1x1 map."""
    weights = {"pretrained": pretrained, "output_stride": output_stride}
    return TimmBackbone(f"resnet{depth}", in_channels, **weights, norm_layer=BatchNorm2d)
