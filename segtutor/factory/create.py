"""A model from a configuration."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from segtutor.factory.config import ConfigError
from segtutor.factory.parse import parse_config
from segtutor.factory.segmenter import ModelInfo, SegmentationModel


def create_model(config: Any, *, info: ModelInfo | None = None, **settings: Any) -> SegmentationModel:
    """Build a segmentation model.

    Args:
        config: a mapping or dataclass, the path of a YAML file, the name of a shipped configuration, or a backbone and
            a head such as "resnet18-fcn". A section ``model`` in it is taken in its place.
        info: what the model is to know of its images and labels; see `ModelInfo.of`.
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
    checked = parse_config(config, **settings)
    with _seeded(checked.seed):
        model = SegmentationModel(checked, info)
    return model if checked.device is None else model.to(_device(checked.device))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: '{name}' cannot be used here ({reason}); leave it out for the CPU.") from None
    return device


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """The same weights for the same seed, and the caller's random numbers as if nothing had happened."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
