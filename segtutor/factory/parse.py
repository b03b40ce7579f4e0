"""From what a user writes, a name, a file or a mapping, to the checked configuration of a model."""

from collections.abc import Mapping
from typing import Any

from segtutor.factory.backbones.registry import list_backbone_names, list_backbones, parse_backbone
from segtutor.factory.config import ConfigError, ModelConfig, parse, read_config, shipped_configs
from segtutor.factory.heads.base import parse_head
from segtutor.factory.messages import suggest


def parse_config(config: Any, **settings: Any) -> ModelConfig:
    """Check a configuration and fill in its defaults; see `create_model` for its forms."""
    if isinstance(config, str) and not config.endswith((".yaml", ".yml")) and config not in shipped_configs():
        config = expand(config)
    config = read_config(config)
    config = {**config.get("model", config), **settings} if isinstance(config.get("model", {}), Mapping) else config
    for name, check in (("backbone", parse_backbone), ("head", parse_head)):
        if name in config:
            config = {**config, name: check({name: config[name]})}
    return ModelConfig(**parse(ModelConfig, config, ""))


def expand(name: str) -> dict:
    """Read "resnet18-fcn" as the short name of a backbone and a head: the two sections that it stands for."""
    backbone, dash, head = name.rpartition("-")
    names = {**{name: {"type": name} for name in list_backbones()}, **list_backbone_names()}
    if not dash or not backbone or not head:
        raise ConfigError(
            f"config: '{name}' is not of the form 'backbone-head', such as 'resnet18-fcn', and no shipped "
            f"configuration; {suggest(name, [*shipped_configs(), *names])}"
        )
    if backbone not in names:
        raise ConfigError(f"config: '{backbone}' in '{name}' is no backbone; {suggest(backbone, names)}")
    return {"backbone": names[backbone], "head": {"type": head}}
