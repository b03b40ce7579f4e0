"""Production heads: one file each, all `Features` to `HeadOutput`.

Adding a head takes a dataclass of settings and a module, in a file that is imported at the end of this one:

    @register_head("myhead", MyHeadConfig)
    class MyHead(nn.Module): ...    # __init__(config, channels, num_classes), forward(features) -> HeadOutput
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from segtutor.factory.config import ConfigError, nearest, parse, section_of

HEADS: dict[str, tuple[type, type]] = {}


@dataclass(frozen=True)
class HeadOutput:
    """What a head returns, at its own stride.

    Attributes:
        logits: class scores (B, num_classes, h, w).
        embedding: the map (B, E, h, w) that the head's classifier reads.
    """

    logits: Tensor
    embedding: Tensor


def register_head(name: str, config: type) -> Callable:
    """Decorate a head class to make it a head type.

    Args:
        name: the ``type`` by which configurations ask for it.
        config: a frozen dataclass with the settings that it accepts; ``type`` among them.
    """

    def register(head: type) -> type:
        if name in HEADS:
            raise ConfigError(f"head.type: '{name}' is already registered; choose another name.")
        HEADS[name] = (config, head)
        return head

    return register


def list_heads() -> list[str]:
    """The head types that a configuration may name."""
    return sorted(HEADS)


def parse_head(config) -> object:
    """Validate the head section (or a whole configuration) into its dataclass of settings."""
    section = section_of(config, "head")
    name = section.get("type") if isinstance(section, Mapping) else section
    if not isinstance(name, str) or name not in HEADS:
        raise ConfigError(f"head.type: {name!r} is unknown; {nearest(name, list_heads())}")
    return parse(HEADS[name][0], section, "head")


def create_head(config, channels: Sequence[int], num_classes: int) -> nn.Module:
    """Build a head: `Features` to `HeadOutput`.

    Args:
        config: a whole configuration, or its head section.
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
    return HEADS[settings.type][1](settings, tuple(channels), num_classes)


from segtutor.factory.heads import fcn  # noqa: E402, F401  (each file registers its head)
