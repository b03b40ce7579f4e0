"""A model from a configuration: backbone, head, and logits at the size of the images."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from segtutor.factory.backbones import BACKBONES, Features, parse_backbone
from segtutor.factory.config import ConfigError, ModelConfig, parse
from segtutor.factory.heads import HEADS, HeadOutput, parse_head
from segtutor.layers import check_images, resize


class SegmentationModel(nn.Module):
    """A backbone and a head: images (B, C, H, W), sides of 32 pixels or more, to logits (B, num_classes, H, W).

    Args:
        backbone: a module that returns `Features`.
        head: a module that turns them into a `HeadOutput`.
        in_channels: channels of the images.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, in_channels: int = 3):
        super().__init__()
        self.backbone, self.head, self.in_channels = backbone, head, in_channels

    def forward_head(self, images: Tensor) -> tuple[Features, HeadOutput]:
        """Everything before the final resize: the four maps, and logits and embedding at the head's stride."""
        check_images(images, self.in_channels)
        features = self.backbone(images)
        return features, self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) to logits (B, num_classes, H, W)."""
        _, output = self.forward_head(images)
        return resize(output.logits, images.shape[2:])  # (B, num_classes, H, W)


def parse_config(config: Mapping | str, **settings) -> ModelConfig:
    """Validate a configuration into frozen settings; see `create_model` for its two forms."""
    if isinstance(config, str):
        config = _expand(config)
    if not isinstance(config, Mapping):
        raise ConfigError(f"config: expected a mapping or a string such as 'resnet18-fcn', found {config!r}.")
    model = parse(ModelConfig, {**config, **settings}, "")
    return ModelConfig(
        parse_backbone({"backbone": model.backbone}),
        parse_head({"head": model.head}),
        model.num_classes,
        model.in_channels,
    )


def _expand(name: str) -> dict:
    """Read "resnet18-fcn" as backbone type, depth and head type."""
    backbone, dash, head = name.rpartition("-")
    match = re.fullmatch(r"([a-z_]+?)(\d*)", backbone)
    if not dash or not match:
        raise ConfigError(f"config: '{name}' is not of the form 'backbone-head', for example 'resnet18-fcn'.")
    depth = {"depth": int(match[2])} if match[2] else {}
    return {"backbone": {"type": match[1], **depth}, "head": {"type": head}}


def create_model(config: Mapping | str, **settings) -> SegmentationModel:
    """Build a segmentation model.

    Args:
        config: a mapping (what a YAML file holds), or a short name such as "resnet18-fcn".
        settings: top-level keys that replace the configuration's, such as ``num_classes=11``.

    Returns:
        A model from images (B, in_channels, H, W) to logits (B, num_classes, H, W).

    Raises:
        ConfigError: an unknown, missing or impossible setting, with its key path.

    Example:
        >>> model = create_model({
        ...     "backbone": {"type": "resnet", "depth": 18},
        ...     "head": {"type": "fcn"},
        ...     "num_classes": 11,
        ... })
        >>> model = create_model("resnet18-fcn", num_classes=11)
    """
    model = parse_config(config, **settings)
    backbone = BACKBONES[model.backbone.type][1](model.backbone, model.in_channels)
    head = HEADS[model.head.type][1](model.head, backbone.channels, model.num_classes)
    return SegmentationModel(backbone, head, model.in_channels)
