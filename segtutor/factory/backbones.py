"""Production backbones: networks that all return the same four maps.

The one file of the factory that imports timm. Adding a backbone takes one function or class:

    @register_backbone("mynet")
    def mynet(in_channels, *, depth: Literal[18, 34] = 18): return TimmBackbone("mynet", in_channels)

Its keyword-only arguments are the keys of the configuration's section ``backbone``; ``checkpointing`` and ``frozen``
are keys of every backbone, and nothing has to be done for them.
"""

import contextlib
import copy
import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segtutor.factory.config import ConfigError, parse, section_of, suggest, type_of
from segtutor.factory.switches import checkpoint_blocks, freeze, train_on_one_value
from segtutor.factory.vovnet import STAGES, VoVNet
from segtutor.layers import pad_to_multiple
from segtutor.models.segformer import TRUNKS, MixTransformer
from segtutor.weights import WeightsError, load_pretrained, read_weights

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Entry:
    """A registered backbone type.

    Attributes:
        build: ``build(in_channels, **settings)``, a module with ``channels`` and ``strides`` whose forward returns
            `Features`.
        channels: ``channels(**settings)``, the channel counts of c1 .. c4, or None to ask a built module.
        names: short names, each with the settings that it stands for.
        uses: for a short name, in one sentence, when to use it.
    """

    build: Callable[..., nn.Module]
    channels: Callable[..., tuple[int, ...]] | None
    names: Mapping[str, Mapping[str, Any]]
    uses: Mapping[str, str] = field(default_factory=dict)


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
    uses: Mapping[str, str] | None = None,
) -> Callable[[Callable], Callable]:
    """Decorate a class or function ``(in_channels, *, settings...) -> module`` to make it a backbone type.

    Args:
        name: the ``type`` by which configurations ask for it.
        channels: tells the channel counts of c1 .. c4 from the settings, so that nothing need be built to know them.
        names: short names such as "resnet50", each with the settings that it stands for; by default the name itself.
        uses: for each short name, in one sentence, when to use it.

    Raises:
        ConfigError: the name or a short name is taken.
    """

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        short = {name: {}} if names is None else names
        for taken in {name} & BACKBONES.keys() | short.keys() & list_backbone_names().keys():
            raise ConfigError(f"backbone.type: '{taken}' is already registered; choose another name.")
        BACKBONES[name] = Entry(build, channels, short, uses or {})
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


def _of_every_backbone(*, checkpointing: bool = False, frozen: bool = False) -> None:
    """The keys that every backbone has.

    Args:
        checkpointing: keep only what enters each block, and compute the rest again in the backward pass: less memory,
            more time, the same gradients.
        frozen: no gradients, and evaluation mode even while the model trains.
    """


def _output_strides(name: str) -> tuple[int, ...]:
    """The values of ``output_stride`` that a backbone type allows."""
    build = BACKBONES[name].build
    hints = typing.get_type_hints(build.__init__ if isinstance(build, type) else build)
    return typing.get_args(hints.get("output_stride")) or (32,)


def parse_backbone(config) -> dict[str, Any]:
    """Check the backbone section (or a whole configuration's): ``type`` and its settings, defaults filled in."""
    section = section_of(config, "backbone")
    short = section.get("type") if isinstance(section, Mapping) and len(section) == 1 else None
    if isinstance(short, str) and short not in BACKBONES:
        section = list_backbone_names().get(short, section)
    name = type_of(section, "backbone", BACKBONES)
    stride = section.get("output_stride")
    if stride in (16, 8) and stride not in _output_strides(name):
        able = ", ".join(other for other in list_backbones() if stride in _output_strides(other))
        raise ConfigError(f"backbone.output_stride: {name} cannot be dilated to {stride}; these types can: {able}.")
    own = parse(BACKBONES[name].build, section, "backbone", known=("type", *_COMMON))
    shared = {key: section[key] for key in _COMMON if key in section}
    return {"type": name, **own, **parse(_of_every_backbone, shared, "backbone")}


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are the type's own."""
    return {key: value for key, value in settings.items() if key not in ("type", *_COMMON)}


def build_backbone(settings: Mapping[str, Any], in_channels: int) -> nn.Module:
    """Build a backbone from checked settings."""
    backbone = BACKBONES[settings["type"]].build(in_channels, **_own(settings))
    if settings.get("checkpointing"):
        checkpoint_blocks(backbone)
    if settings.get("frozen"):
        freeze(backbone)
    return backbone


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
    if known is not None:
        return list(known(**_own(settings)))
    if "pretrained" in settings:
        settings["pretrained"] = False
    with torch.device("meta"):  # shapes without storage
        return list(build_backbone(settings, 3).channels)


# ------------------------------------------------------------------------------------------------ pretrained weights


def local_weights(path: str) -> dict[str, Tensor]:
    """Read a local file of weights."""
    try:
        return read_weights(path)
    except WeightsError as error:
        raise ConfigError(f"backbone.pretrained: {error}") from error


def check_names(tensors: Mapping[str, Tensor], names: Iterable[str], path: str, what: str, spare: tuple = ()) -> None:
    """Refuse a file of another network; names that begin with one of ``spare`` do not matter."""
    other = [name for name in tensors.keys() ^ set(names) if not name.startswith(spare)]
    if other:
        raise ConfigError(
            f"backbone.pretrained: {path} is not of {what}: {len(other)} tensors differ by name, such as {min(other)}."
        )


@cache
def _say_licence(name: str, licence: str | None) -> None:
    terms = f"licence {licence}" if licence else "no licence stated: ask their authors before you publish or sell"
    print(f"{name}: pretrained weights by way of timm, {terms}.")


def timm_network(name: str, in_channels: int, pretrained: bool | str = False, **options) -> nn.Module:
    """Build a timm network, with random, published or local weights, and never one for another.

    Args:
        name: timm's name of the network.
        in_channels: channels of the images; weights of the first layer are adapted.
        pretrained: False, True (timm's default weights, downloaded once) or the path of a weights file.
        options: passed on to timm.

    Raises:
        ConfigError: weights that cannot be had or do not fit.
    """
    import timm  # costs seconds to import, so only when a backbone is built

    published = timm.models.get_pretrained_cfg(name)
    weights = {"pretrained": pretrained is True}
    if isinstance(pretrained, str):
        tensors = local_weights(pretrained)
        with torch.device("meta"):
            names = timm.create_model(name).state_dict()
        classifier = published.classifier or ()
        spare = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        check_names(tensors, names, pretrained, name, spare)
        weights = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
    elif pretrained and not published.has_weights:
        raise ConfigError(f"backbone.pretrained: nobody published weights of {name}; use false, or the path of a file.")
    try:
        network = timm.create_model(name, in_chans=in_channels, **weights, **options)
    except Exception as error:
        if pretrained is False:
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"backbone.pretrained: the weights of {name} could not be fetched or do not fit ({reason}): connect to "
            "the internet once, give the path of a local file, or use false."
        ) from error
    if pretrained is True:
        _say_licence(name, published.license)
    return train_on_one_value(network)


def load_with_channels(network: nn.Module, tensors: Mapping[str, Tensor], first: str, what: str) -> None:
    """Fill a network of this package; the first convolution's weights are adapted to its channels as timm does it."""
    own, weight = network.state_dict()[first], tensors[first]
    if weight.dim() != 4:
        pass  # refused below
    elif weight.shape[1] == 3 and own.shape[1] == 1:
        weight = weight.sum(dim=1, keepdim=True)
    elif weight.shape[1] == 3 and own.shape[1] != 3:
        channels = own.shape[1]
        # Red, green, blue, red ...: scaled, so that what is summed up keeps its size.
        weight = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    try:
        network.load_state_dict({**tensors, first: weight})
    except RuntimeError as error:  # a shape, which names do not show
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"backbone.pretrained: {what} does not fit: {reason}") from None


# ------------------------------------------------------------------------------------------------------ the adapters


class TimmBackbone(nn.Module):
    """A timm network behind the interface of this package.

    Args:
        name: timm's name of the network.
        in_channels: channels of the images.
        pretrained: False, True (timm's default weights, downloaded once) or the path of a weights file.
        output_stride: 32, or 16 or 8 to dilate instead of striding.
        out_indices: which of timm's maps are c1 .. c4.
        multiple: pad images to sides that are multiples of this, and cut the maps to size again.
        options: passed on to timm.

    Attributes:
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        *,
        pretrained: bool | str = False,
        output_stride: int = 32,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        multiple: int = 1,
        **options,
    ):
        super().__init__()
        if output_stride != 32:  # networks without the option need not be asked for what they do anyway
            options["output_stride"] = output_stride
        self.network = timm_network(
            name, in_channels, pretrained, features_only=True, out_indices=out_indices, **options
        )
        self.multiple = multiple
        self.channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        self.channels = tuple(self.network.feature_info.channels())
        self.strides = tuple(self.network.feature_info.reduction())

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        height, width = images.shape[2:]
        maps = self.network(pad_to_multiple(images, self.multiple))
        if self.channels_last:
            maps = [map_.permute(0, 3, 1, 2) for map_ in maps]  # (B, h, w, C) to (B, C, h, w)
        if height % self.multiple or width % self.multiple:
            sizes = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
            maps = [map_[:, :, :h, :w] for map_, (h, w) in zip(maps, sizes, strict=True)]
        return Features(*maps, channels=self.channels, strides=self.strides)


class ResNetV2Backbone(nn.Module):
    """timm's pre-activation ResNet: what leaves its stages are raw sums, so each is normalised and activated here.

    c4 goes through the network's own last normalisation. c1 .. c3 get copies of the one that the next stage reads
    them through, so that with pretrained weights a head sees what that stage sees.
    """

    def __init__(self, name: str, in_channels: int, *, pretrained: bool | str = False, output_stride: int = 32):
        super().__init__()
        dilation = {} if output_stride == 32 else {"output_stride": output_stride}
        self.network = timm_network(name, in_channels, pretrained, num_classes=0, **dilation)
        self.norms = nn.ModuleList(copy.deepcopy(stage.blocks[0].norm1) for stage in self.network.stages[1:])
        self.channels = tuple(info["num_chs"] for info in self.network.feature_info[1:])
        self.strides = tuple(info["reduction"] for info in self.network.feature_info[1:])

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        x, maps = self.network.stem(images), []
        for stage, norm in zip(self.network.stages, [*self.norms, self.network.norm], strict=True):
            x = stage(x)
            maps.append(norm(x))
        return Features(*maps, channels=self.channels, strides=self.strides)


class PlainBackbone(nn.Module):
    """A network of this package that returns four maps and has ``channels`` and ``strides``."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.channels, self.strides = network, network.channels, network.strides

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        return Features(*self.network(images), channels=self.channels, strides=self.strides)


# -------------------------------------------------------------------------------------------------------- the types


def _resnet_channels(depth: int, **_) -> tuple[int, ...]:
    return (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)


@register_backbone(
    "resnet",
    channels=_resnet_channels,
    names={f"resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101, 152)},
    uses={
        "resnet18": "For a first run, a small data set or a CPU: cheap, and what all else is compared with.",
        "resnet34": "When resnet18 is too weak and its narrow maps still suit you.",
        "resnet50": "The default: best known, dilates to any stride, fits a budget GPU.",
        "resnet101": "For accuracy at a fair price, with aspp: the balanced choice.",
        "resnet152": "When resnet101 still learns more with more steps, and time is no matter.",
    },
)
def resnet(
    in_channels: int,
    *,
    depth: Literal[18, 34, 50, 101, 152] = 50,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """ResNet-18 to ResNet-152 (He et al. 2016): blocks that add to what they were given."""
    return TimmBackbone(f"resnet{depth}", in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "resnetv2",
    channels=lambda **_: (256, 512, 1024, 2048),
    names={f"resnetv2_{depth}": {"depth": depth} for depth in (50, 101)},
    uses={
        "resnetv2_50": "In place of resnet50 when a deep head trains unsteadily: the sum runs through unhindered.",
        "resnetv2_101": "In place of resnet101, for the same reason; the gain grows with depth.",
    },
)
def resnetv2(
    in_channels: int,
    *,
    depth: Literal[50, 101] = 50,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> ResNetV2Backbone:
    """ResNet-50 and ResNet-101 with pre-activation (He et al. 2016b): normalise first, then convolve, then add."""
    return ResNetV2Backbone(f"resnetv2_{depth}", in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "mobilenetv2",
    channels=lambda **_: (24, 32, 96, 320),
    uses={"mobilenetv2": "For phones and browsers: depthwise convolutions run everywhere, and it dilates."},
)
def mobilenetv2(
    in_channels: int, *, pretrained: bool | str = False, output_stride: Literal[32, 16, 8] = 32
) -> TimmBackbone:
    """MobileNetV2 (Sandler et al. 2018): narrow in, wide and depthwise inside, narrow out."""
    return TimmBackbone("mobilenetv2_100", in_channels, pretrained=pretrained, output_stride=output_stride)


@register_backbone(
    "ghostnet",
    channels=lambda **_: (24, 40, 80, 160),
    uses={"ghostnet": "When parameters are counted: below a million, for small CPUs."},
)
def ghostnet(in_channels: int, *, pretrained: bool | str = False, output_stride: Literal[32] = 32) -> TimmBackbone:
    """GhostNet (Han et al. 2020): half of the channels are computed, the other half are filtered copies of them."""
    return TimmBackbone("ghostnet_100", in_channels, pretrained=pretrained)


@register_backbone(
    "vovnet",
    channels=lambda depth, **_: STAGES[depth].channels,
    names={f"vovnet{depth}": {"depth": depth} for depth in (27, 39, 57)},
    uses={
        "vovnet27": "For a small network of plain 3x3 convolutions, which any accelerator runs well.",
        "vovnet39": "In place of resnet50 where memory traffic and not arithmetic is the limit.",
        "vovnet57": "In place of resnet101, on the same grounds.",
    },
)
def vovnet(
    in_channels: int,
    *,
    depth: Literal[27, 39, 57] = 39,
    pretrained: bool | str = False,
    output_stride: Literal[32] = 32,
) -> PlainBackbone:
    """VoVNet-27-slim, VoVNet-39 and VoVNet-57 (Lee et al. 2019): each block concatenates all its layers, once."""
    if pretrained is True:
        raise ConfigError("backbone.pretrained: timm has no weights of VoVNet; use false, or the path of a file.")
    network = VoVNet(in_channels=in_channels, **dataclasses.asdict(STAGES[depth]))
    if pretrained:
        tensors = local_weights(pretrained)
        check_names(tensors, network.state_dict(), pretrained, f"vovnet{depth}")
        load_with_channels(network, tensors, "stem.0.0.weight", pretrained)
    return PlainBackbone(network)


_CONVNEXT = {
    "tiny": (96, 192, 384, 768),
    "small": (96, 192, 384, 768),
    "base": (128, 256, 512, 1024),
    "large": (192, 384, 768, 1536),
    "xlarge": (256, 512, 1024, 2048),
}


@register_backbone(
    "convnext",
    channels=lambda variant, **_: _CONVNEXT[variant],
    names={f"convnext-{variant}": {"variant": variant} for variant in _CONVNEXT},
    uses={
        "convnext-tiny": "For a modern convolutional network at resnet50's size, with good weights for fine-tuning.",
        "convnext-small": "When convnext-tiny underfits: the same width, three times as many blocks in stage 3.",
        "convnext-base": "For a large GPU and a large data set.",
        "convnext-large": "For fine-tuning with checkpointing on one large GPU.",
        "convnext-xlarge": "For a frozen backbone, or several large GPUs.",
    },
)
def convnext(
    in_channels: int,
    *,
    variant: Literal["tiny", "small", "base", "large", "xlarge"] = "tiny",
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """ConvNeXt (Liu et al. 2022): a ResNet in the proportions of Swin, 7x7 depthwise in the place of attention."""
    weights = {"pretrained": pretrained, "output_stride": output_stride}
    return TimmBackbone(f"convnext_{variant}", in_channels, out_indices=(0, 1, 2, 3), **weights)


@register_backbone(
    "segformer",
    channels=lambda variant, **_: (32, 64, 160, 256) if variant == "mit-b0" else (64, 128, 320, 512),
    names={f"mit-b{i}": {"variant": f"mit-b{i}"} for i in range(6)},
    uses={
        "mit-b0": "For speed with a view of the whole image, with a light SegFormer head.",
        "mit-b1": "When mit-b0 is too weak: the same depth, twice the channels.",
        "mit-b2": "For accuracy on one GPU: resnet50's size, and every position sees the whole image.",
        "mit-b3": "When mit-b2 underfits.",
        "mit-b4": "When mit-b3 underfits and there is memory for it.",
        "mit-b5": "For the highest accuracy, with the segformer head, on a large GPU.",
    },
)
def segformer(
    in_channels: int,
    *,
    variant: Literal["mit-b0", "mit-b1", "mit-b2", "mit-b3", "mit-b4", "mit-b5"] = "mit-b0",
    pretrained: bool | str = False,
    output_stride: Literal[32] = 32,
) -> PlainBackbone:
    """SegFormer's trunk (Xie et al. 2021), the one of chapter 12; NVIDIA's weights are for non-commercial use.

    It is not dilated: every position sees the whole map already, and at half the stride attention costs 16 times as
    much.
    """
    network = MixTransformer(in_channels=in_channels, **TRUNKS[variant[4:]])
    if pretrained:
        published = MixTransformer(**TRUNKS[variant[4:]])
        where = {"name": f"nvidia/{variant}"} if pretrained is True else {"path": pretrained}
        try:
            load_pretrained(published, **where)
        except (ValueError, WeightsError) as error:
            raise ConfigError(f"backbone.pretrained: {error}") from error
        load_with_channels(network, published.state_dict(), "stages.0.embed.weight", variant)
    return PlainBackbone(network)


@register_backbone("timm", names={})
def any_timm(
    in_channels: int,
    *,
    name: str,
    pretrained: bool | str = False,
    output_stride: Literal[32, 16, 8] = 32,
) -> TimmBackbone:
    """Any other network of timm that has maps at strides 4, 8, 16 and 32, by timm's name."""
    weights = {"pretrained": pretrained, "output_stride": output_stride}
    return TimmBackbone(name, in_channels, **weights, **_timm_options(name, output_stride))


@cache
def _timm_options(name: str, output_stride: int) -> dict[str, Any]:
    """What makes a timm network give four maps of images of any size, found by trying, on the meta device."""
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"backbone.name: timm has no '{name}'; {suggest(name, timm.list_models())}")
    with torch.device("meta"):
        options = {"strict_img_size": False}  # of Swin and its kin; the others do not know it
        try:
            network = timm.create_model(name, features_only=True, **options)
        except Exception:  # networks differ in how they refuse
            options = {}
            network = _maps_or_error(name)
        reductions = [info["reduction"] for info in network.feature_info.info]
        if not set(STRIDES) <= set(reductions):
            has = ", ".join(map(str, sorted(set(reductions))))
            raise ConfigError(f"backbone.name: {name} has maps at strides {has}, and a backbone needs 4, 8, 16 and 32.")
        last = {stride: index for index, stride in enumerate(reductions)}
        options["out_indices"] = tuple(last[stride] for stride in STRIDES)
        if output_stride != 32:
            _check_dilates(name, output_stride, **options)
        return options | {"multiple": _smallest_multiple(TimmBackbone(name, 3, **options), name)}


def _maps_or_error(name: str) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, features_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"backbone.name: {name} cannot give four maps ({reason}); choose another network.") from None


def _check_dilates(name: str, output_stride: int, **options) -> None:
    wanted = tuple(min(stride, output_stride) for stride in STRIDES)
    with contextlib.suppress(Exception):
        if TimmBackbone(name, 3, output_stride=output_stride, **options).strides == wanted:
            return
    raise ConfigError(
        f"backbone.output_stride: {name} cannot be dilated to {output_stride}; resnet, resnetv2, mobilenetv2 and "
        "convnext can."
    )


@torch.no_grad()
def _smallest_multiple(backbone: TimmBackbone, name: str) -> int:
    """The least of a few numbers whose multiples the network takes as sides of images."""
    import timm

    usual = timm.models.get_pretrained_cfg(name).input_size[-1]
    backbone.eval()
    for multiple in (1, 32, 64, usual):
        with contextlib.suppress(Exception):
            if all(_maps_fit(backbone, size, multiple) for size in ((33, 47), (32, 65 + multiple))):
                return multiple
    raise ConfigError(f"backbone.name: {name} gives no four maps of images of every size; choose another network.")


def _maps_fit(backbone: TimmBackbone, size: tuple[int, int], multiple: int) -> bool:
    """Whether an image gives maps of the promised channels and, give or take one, the promised sizes."""
    size = [-(-side // multiple) * multiple for side in size]
    features = backbone(torch.empty(1, 3, *size))
    return all(
        map_.shape[1] == channels
        and all(0 <= -(-side // stride) - got <= 1 for side, got in zip(size, map_.shape[2:], strict=True))
        for map_, channels, stride in zip(features.maps, features.channels, features.strides, strict=True)
    )
