"""Production backbones: timm networks that all return the same four maps.

The one file of the factory that imports timm. Adding a backbone takes a dataclass of settings and a function:

    @register_backbone("mynet", MyNetConfig)
    def mynet(config, in_channels): return TimmBackbone("mynet", config, in_channels)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from segtutor.factory.config import ConfigError, nearest, parse, section_of
from segtutor.layers import BatchNorm2d

BACKBONES: dict[str, tuple[type, Callable[..., nn.Module]]] = {}


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


def register_backbone(name: str, config: type) -> Callable:
    """Decorate a function ``(config, in_channels) -> module`` to make it a backbone type.

    Args:
        name: the ``type`` by which configurations ask for it.
        config: a frozen dataclass with the settings that it accepts; ``type`` and ``pretrained`` among them.
    """

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in BACKBONES:
            raise ConfigError(f"backbone.type: '{name}' is already registered; choose another name.")
        BACKBONES[name] = (config, build)
        return build

    return register


def list_backbones() -> list[str]:
    """The backbone types that a configuration may name."""
    return sorted(BACKBONES)


def parse_backbone(config) -> object:
    """Validate the backbone section (or a whole configuration) into its dataclass of settings."""
    section = section_of(config, "backbone")
    name = section.get("type") if isinstance(section, Mapping) else section
    if not isinstance(name, str) or name not in BACKBONES:
        raise ConfigError(f"backbone.type: {name!r} is unknown; {nearest(name, list_backbones())}")
    return parse(BACKBONES[name][0], section, "backbone")


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
        in_channels = config.get("in_channels", 3) if isinstance(config, Mapping) else 3
    settings = parse_backbone(config)
    return BACKBONES[settings.type][1](settings, in_channels)


def get_backbone_channels(config) -> list[int]:
    """The channel counts of c1 .. c4, without allocating a single weight.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    settings = parse_backbone(config)
    if settings.pretrained:
        config = {**vars(settings), "pretrained": False}
    with torch.device("meta"):  # shapes without storage
        return list(create_backbone(config).channels)


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
        config: settings with ``pretrained`` (False, True or the path of a file) and ``output_stride``.
        in_channels: channels of the images.
        options: passed on to timm.

    Attributes:
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
    """

    def __init__(self, name: str, config, in_channels: int, **options):
        super().__init__()
        import timm  # costs seconds to import, so only when a backbone is built

        weights = {"pretrained": config.pretrained is True}
        if isinstance(config.pretrained, str):
            tensors = read_weights(config.pretrained)
            check_names(tensors, name, config.pretrained)
            weights = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
        network = {"out_indices": (1, 2, 3, 4), "output_stride": config.output_stride, "in_chans": in_channels}
        try:
            self.network = timm.create_model(name, features_only=True, **network, **weights, **options)
        except Exception as error:
            if config.pretrained is False:
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


@dataclass(frozen=True)
class ResNetConfig:
    """Settings of ``type: resnet`` (He et al. 2016): timm's resnet18 .. resnet152.

    Attributes:
        type: "resnet".
        depth: 18, 34, 50, 101 or 152.
        pretrained: False, True (timm's default ImageNet weights, downloaded once), or the path of a weights file.
        output_stride: 32, or 16 or 8 to dilate instead of striding.
    """

    type: str = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    pretrained: bool | str = False
    output_stride: Literal[32, 16, 8] = 32


@register_backbone("resnet", ResNetConfig)
def resnet(config: ResNetConfig, in_channels: int) -> TimmBackbone:
    """ResNet-18 to ResNet-152, with the batch normalisation that also trains on one 1x1 map."""
    return TimmBackbone(f"resnet{config.depth}", config, in_channels, norm_layer=BatchNorm2d)
