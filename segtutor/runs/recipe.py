"""A whole training run in one YAML file: sections ``model``, ``data`` and ``schedule``, checked before anything starts.

Only ``model`` must be there. The model's classes and channels are the data's, so nobody types them twice. Any key can
be overridden from the command line by its path, ``model.backbone.depth=18``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from segtutor.factory.config import (
    ConfigError,
    Count,
    ModelConfig,
    parse,
    parse_yaml,
    read_config,
    shipped_configs,
    suggest,
)
from segtutor.factory.parse import expand, parse_config
from segtutor.runs.sources import open_data, parse_data

LOSSES = ("CrossEntropyLoss", "DiceLoss", "FocalLoss", "LovaszLoss", "BorderWeightedLoss")
SECTIONS = ("model", "data", "schedule")
Steps = Annotated[int, Interval(ge=1, le=10_000_000)]
Rate = Annotated[float, Interval(ge=0, le=100)]


@dataclass(frozen=True)
class Schedule:
    """How a model is trained; the keys of the section ``schedule``.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step.
        lr: learning rate of AdamW before the schedule.
        weight_decay: decoupled weight decay.
        loss: the name of a loss of `segtutor.losses`, or several names with their weights.
        schedule: "poly" or "constant".
        warmup: steps in which the learning rate rises to the schedule's.
        clip: largest norm of the gradient; None: not clipped.
        precision: "auto", "fp32", "bf16" or "fp16".
        auxiliary_weight: of the auxiliary head's loss, where the model has that head.
        valid_every: steps from one validation to the next; None: after the last step only.
        save_every: steps from one checkpoint to the next; None: ten in a run.
        log_every: steps from one printed line to the next; None: twenty in a run.
        num_workers: processes that load images; 0: none beside the one that trains.
        seed: of the order of the images, augmentation, dropout and, unless ``model.seed`` is given, the weights.
    """

    steps: Steps = 400
    batch_size: Count = 8
    lr: Rate = 1e-3
    weight_decay: Rate = 1e-4
    loss: Literal[LOSSES] | dict = "CrossEntropyLoss"  # type: ignore[valid-type]
    schedule: Literal["poly", "constant"] = "poly"
    warmup: Annotated[int, Interval(ge=0, le=10_000_000)] = 0
    clip: Annotated[float, Interval(ge=1e-6, le=1e6)] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    auxiliary_weight: Rate = 0.4
    valid_every: Steps | None = None
    save_every: Steps | None = None
    log_every: Steps | None = None
    num_workers: Annotated[int, Interval(ge=0, le=256)] = 0
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0

    def make_loss(self, ignore_index: int, auxiliary: bool):
        """The loss that the settings name, on one output or on the pair with the auxiliary one."""
        from segtutor import losses

        parts = {self.loss: 1.0} if isinstance(self.loss, str) else self.loss
        made = [(float(weight), getattr(losses, name)(ignore_index=ignore_index)) for name, weight in parts.items()]
        loss = made[0][1] if len(made) == 1 and made[0][0] == 1 else losses.CombinedLoss(made)
        return losses.AuxiliaryLoss(self.auxiliary_weight, loss) if auxiliary else loss


@dataclass(frozen=True)
class Recipe:
    """A checked configuration of a training run, every default filled in.

    Attributes:
        model: what to build.
        data: the section ``data``.
        schedule: the section ``schedule``.
    """

    model: ModelConfig
    data: Mapping[str, Any]
    schedule: Schedule

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a run's ``config.yaml``; `read_recipe` accepts them."""
        plain = {"model": self.model.to_dict(), "data": self.data, "schedule": dataclasses.asdict(self.schedule)}
        return json.loads(json.dumps(plain))


def read_recipe(source: Any, overrides: Iterable[str] = ()) -> Recipe:
    """Check a configuration of a training run.

    Args:
        source: a YAML file, the name of a shipped configuration, a model such as "resnet18-fcn", or a mapping.
        overrides: "path.of.key=value" each, the value as YAML would read it.

    Raises:
        ConfigError: an unknown, missing or impossible setting, with its key path; model and data that contradict each
            other; data that are not there.
    """
    overrides = list(overrides)
    config = _read(source)
    config["data"] = config.get("data") or "scenes"  # so that a run starts at once, wherever it is
    for override in overrides:
        _override(config, override)
    for key in config:
        if key not in (*SECTIONS, "when"):
            raise ConfigError(f"{key}: unknown key; {suggest(key, SECTIONS)}")
    if "model" not in config:
        raise ConfigError("model: missing; add a section such as model: {backbone: resnet18, head: fcn}.")
    schedule = _parse_schedule(config.get("schedule") or {})
    data = parse_data(config)
    if data["type"] == "folder":
        data = {**data, "path": str(Path(data["path"]).expanduser().absolute())}
    spec = open_data(data, "train", augment=True).spec
    if data["type"] == "folder":  # what was measured is said, so that it holds for whoever reads the configuration
        data = {**data, "value_range": spec.value_range}
    return Recipe(_parse_model(config["model"], data, spec, schedule), data, schedule)


def name_of(source: Any) -> str:
    """What a run of this configuration is called unless somebody names it."""
    if isinstance(source, (str, Path)):
        return Path(source).stem if str(source).endswith((".yaml", ".yml")) else str(source)
    return "run"


def _read(source: Any) -> dict[str, Any]:
    if isinstance(source, str) and not source.endswith((".yaml", ".yml")) and source not in shipped_configs():
        return {"model": expand(source)}
    return copy.deepcopy(read_config(source))


def _override(config: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{override}: an override has the form key=value, such as schedule.steps=50.")
    if keys[0] not in SECTIONS:
        raise ConfigError(f"{path}: unknown key; {suggest(keys[0], SECTIONS)}")
    section = config
    for key in keys[:-1]:
        inner = section.get(key)
        if isinstance(inner, str):  # a bare name becomes the section that it stands for
            inner = expand(inner) if key == "model" else {"type": inner}
        if inner is not None and not isinstance(inner, Mapping):
            raise ConfigError(f"{path}: {key} is {inner!r}, which has no keys to override.")
        section[key] = dict(inner or {})
        section = section[key]
    section[keys[-1]] = parse_yaml(text, path)


def _parse_schedule(section: Any) -> Schedule:
    schedule = Schedule(**parse(Schedule, section, "schedule"))
    if isinstance(schedule.loss, dict):
        if not schedule.loss:
            raise ConfigError(f"schedule.loss: names no loss; {suggest('', LOSSES)}")
        for name, weight in schedule.loss.items():
            if name not in LOSSES:
                raise ConfigError(f"schedule.loss.{name}: unknown key; {suggest(name, LOSSES)}")
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise ConfigError(f"schedule.loss.{name}: {weight!r} is no weight, expected a number from 0 up.")
    return schedule


def _parse_model(section: Any, data: Mapping[str, Any], spec, schedule: Schedule) -> ModelConfig:
    if not isinstance(section, (str, Mapping)):
        raise ConfigError(f"model: expected keys and values, found {section!r}.")
    known = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    try:
        section = expand(section) if isinstance(section, str) else section
        model = parse_config({"seed": schedule.seed, **known, **section})
    except ConfigError as error:
        raise ConfigError(f"model.{error}".replace("model.config: ", "model: ", 1)) from None
    for key, value in known.items():
        if getattr(model, key) != value:
            what = "classes" if key == "num_classes" else "channels"
            raise ConfigError(
                f"model.{key}: {getattr(model, key)}, but the images of data '{data['type']}' have {value} {what}; "
                "leave the key out."
            )
    return model
