"""Production models from a configuration: timm backbones and interchangeable heads."""

from segtutor.factory.backbones import (
    Features,
    create_backbone,
    get_backbone_channels,
    get_backbone_statistics,
    list_backbones,
    register_backbone,
)
from segtutor.factory.config import ConfigError, ModelConfig
from segtutor.factory.create import create_model
from segtutor.factory.heads import HeadOutput, create_head, list_heads, register_head
from segtutor.factory.segmenter import ModelInfo, SegmentationModel

__all__ = [
    "ConfigError",
    "Features",
    "HeadOutput",
    "ModelConfig",
    "ModelInfo",
    "SegmentationModel",
    "create_backbone",
    "create_head",
    "create_model",
    "get_backbone_channels",
    "get_backbone_statistics",
    "list_backbones",
    "list_heads",
    "register_backbone",
    "register_head",
]
