"""Production backbones: networks that all return the same four maps, `Features`."""

from segtutor.factory.backbones import families  # noqa: F401 (registers them)
from segtutor.factory.backbones.registry import (
    BACKBONES,
    STRIDES,
    Features,
    Statistics,
    create_backbone,
    get_backbone_channels,
    get_backbone_statistics,
    list_backbone_names,
    list_backbone_uses,
    list_backbones,
    parse_backbone,
    register_backbone,
)
from segtutor.factory.backbones.timm import TimmBackbone

__all__ = [
    "BACKBONES",
    "STRIDES",
    "Features",
    "Statistics",
    "TimmBackbone",
    "create_backbone",
    "get_backbone_channels",
    "get_backbone_statistics",
    "list_backbone_names",
    "list_backbone_uses",
    "list_backbones",
    "parse_backbone",
    "register_backbone",
]
