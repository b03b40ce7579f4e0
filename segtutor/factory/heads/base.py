"""What all heads share: the contract, the registry, and what they return.

Adding a head takes one class:

    @register_head("mean")
    class MeanHead(Head):
        in_strides, out_stride = (32,), 32
        when = "To know what the mean of c4 alone is worth."
        def __init__(self, channels, strides, num_classes, *, proj_dim: Count = 256): ...
        def forward(self, features): return HeadOutput(logits, embedding)

Its keyword-only arguments are the keys of the configuration's section ``head``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from segtutor.factory.backbones.registry import Features, backbone_strides
from segtutor.factory.config import ConfigError, parse, section_of, type_of

Registered = TypeVar("Registered", bound=nn.Module)


class HeadOutput(NamedTuple):
    """What a head returns, at its own stride; a named tuple, as `Features` is.

    Args:
        logits: class scores (B, num_classes, h, w).
        embedding: the map (B, E, h, w) that the head's classifier reads.
    """

    logits: Tensor
    embedding: Tensor


class Head(nn.Module):
    """What is common to the heads of this package; a head of your own need not inherit from it, only look like it.

    It is built by ``Head(channels, strides, num_classes, **settings)``: the channel counts and output strides of
    c1 .. c4, and what its own keyword-only arguments ask for.

    Attributes:
        in_strides: nominal strides of the maps that it reads.
        out_stride: nominal stride of its logits.
        when: when to use it, in one line.
    """

    in_strides: tuple[int, ...]
    out_stride: int
    when: str

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at ``out_stride``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward.")


HEADS: dict[str, type[Head]] = {}


def register_head(name: str) -> Callable[[type[Registered]], type[Registered]]:
    """Decorate a head class to make it a head type; see `Head` for what the class has.

    Args:
        name: the ``type`` by which configurations ask for it.

    Raises:
        ConfigError: the name is taken.
    """

    def register(head: type[Registered]) -> type[Registered]:
        if name in HEADS:
            raise ConfigError(f"head.type: '{name}' is already registered; choose another name.")
        HEADS[name] = cast(type[Head], head)
        return head

    return register


def list_heads() -> list[str]:
    """The head types that a configuration may name."""
    return sorted(HEADS)


def parse_head(config: Any) -> dict[str, Any]:
    """Check the head section (or a whole configuration's): ``type`` and its settings, defaults filled in."""
    section = section_of(config, "head")
    name = type_of(section, "head", HEADS)
    return {"type": name, **parse(HEADS[name], section, "head", known=("type",))}


def build_head(settings: Mapping[str, Any], channels: Sequence[int], strides: Sequence[int], num_classes: int) -> Head:
    """Build a head from checked settings."""
    options = {key: value for key, value in settings.items() if key != "type"}
    build: Callable[..., Head] = HEADS[settings["type"]]
    return build(tuple(channels), tuple(strides), num_classes, **options)


def create_head(config: Any, channels: Sequence[int], num_classes: int) -> Head:
    """Build a head: `Features` to `HeadOutput`.

    Args:
        config: a whole configuration, or its head section. From a whole one the head also learns how far the backbone
            is dilated; alone it counts on strides 4, 8, 16 and 32.
        channels: channel counts of c1 .. c4, as `get_backbone_channels` returns them.
        num_classes: classes to score.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    settings = parse_head(config)
    if len(channels) != 4:
        raise ConfigError(f"channels: {len(channels)} counts, but a backbone has four maps, c1 to c4.")
    if num_classes < 1:
        raise ConfigError(f"num_classes: {num_classes} is too small, it must be at least 1.")
    return build_head(settings, channels, backbone_strides(config), num_classes)
