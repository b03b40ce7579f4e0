"""A whole run in one YAML file, checked before anything starts: model, data, training, evaluation and logging.

Only ``model`` must be there. The model's classes and channels are the data's, so nobody types them twice. Any key can
be overridden from the command line by its path, ``model.backbone.depth=18``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import nn

from segtutor import losses
from segtutor.data.spec import DatasetSpec
from segtutor.factory.backbones import get_backbone_statistics
from segtutor.factory.config import (
    ConfigError,
    Count,
    ModelConfig,
    parse,
    parse_yaml,
    plain,
    read_config,
    shipped_configs,
)
from segtutor.factory.messages import shown, suggest
from segtutor.factory.parse import expand, parse_config
from segtutor.runs.data import is_read_from_files, open_data, parse_data
from segtutor.runs.optimization import (
    Decay,
    make_loss,
    make_optimizer,
    make_schedule,
    parse_loss,
    parse_optimizer,
    parse_schedule,
    weights_key,
)
from segtutor.runs.parameter_groups import parameter_groups
from segtutor.training.distributed import local_processes
from segtutor.training.schedule import Schedule, warmed_up

SECTIONS = ("model", "data", "training", "evaluation", "logging")
FEW = 64  # images, which are read in the time that loading processes take to start where they are not forked
Steps = Annotated[int, Interval(ge=1, le=10_000_000)]
Rate = Annotated[float, Interval(ge=0, le=100)]
Weight = Annotated[float, Interval(ge=0, le=1e6)]


@dataclass(frozen=True)
class Training:
    """How a model is trained; the keys of the section ``training``.

    Attributes:
        steps: optimiser steps.
        batch_size: images per step, those of all processes together.
        optimizer: "adamw", "sgd", or keys and values such as {type: sgd, momentum: 0.9}.
        lr: learning rate before the schedule.
        weight_decay: decoupled weight decay of adamw, L2 penalty of sgd.
        decay_norms: decay biases, and scales and shifts of normalisations, like other weights; false: spare them.
        head_lr: factor on the learning rate of all that is not the backbone, such as 10 beside a pretrained one.
        layer_decay: factor on the learning rate from each block of the backbone to the block before it, so that the
            first blocks of a pretrained one, a transformer above all, keep what they know; 1: all learn alike.
        loss: the name of a loss of `segtutor.losses`, keys and values such as {type: FocalLoss, gamma: 2}, or a list of
            them, which are added up, each times its ``loss_weight``.
        class_weights: one weight per class for each loss that takes them; "measured": median frequency / frequency in
            the training masks, counted before the first step and written down; None: as the losses say.
        schedule: "poly", "cosine" or "constant", or keys and values such as {type: poly, power: 1}.
        warmup: steps in which the learning rate rises to the schedule's.
        gradient_clip: largest norm of the gradient; None: not clipped.
        precision: "auto", "fp32", "bf16" or "fp16".
        auxiliary_weight: of the auxiliary head's loss, where the model has that head (deep supervision).
        accumulate: batches whose gradients are averaged before each step, for a batch that does not fit in memory;
            normalisations still see ``batch_size`` images at a time.
        ema: share of the mean weights that each step keeps, such as 0.999; the mean is validated and saved in the
            place of the last weights; None: no mean.
        validate_every: steps from one validation to the next; None: after the last step only.
        save_every: steps from one checkpoint to the next; None: ten in a run.
        num_workers: processes that load images; 0: none beside the one that trains; None: as many as the processors
            let do some good, see `workers_for`, chosen before the first step and written down.
        sync_batchnorm: of several processes on GPUs: batch normalisations take their statistics over the whole batch,
            not over each process's share of it.
        seed: of the order of the images, augmentation, dropout and, unless ``model.seed`` is given, the weights.
    """

    steps: Steps = 400
    batch_size: Count = 8
    optimizer: Mapping[str, Any] = field(default_factory=lambda: parse_optimizer("adamw", "optimizer"))
    lr: Rate = 1e-3
    weight_decay: Rate = 1e-4
    decay_norms: bool = True
    head_lr: Rate = 1.0
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    loss: Sequence[Mapping[str, Any]] = field(default_factory=lambda: parse_loss("CrossEntropyLoss", "loss"))
    class_weights: Literal["measured"] | Sequence[Weight] | None = None
    schedule: Mapping[str, Any] = field(default_factory=lambda: parse_schedule("poly", "schedule"))
    warmup: Annotated[int, Interval(ge=0, le=10_000_000)] = 0
    gradient_clip: Annotated[float, Interval(ge=1e-6, le=1e6)] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    auxiliary_weight: Rate = 0.4
    accumulate: Annotated[int, Interval(ge=1, le=4096)] = 1
    ema: Decay | None = None
    validate_every: Steps | None = None
    save_every: Steps | None = None
    num_workers: Annotated[int, Interval(ge=0, le=256)] | None = None
    sync_batchnorm: bool = False
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0

    def make_loss(self, ignore_index: int, auxiliary: bool, num_classes: int = 2) -> nn.Module:
        """The loss that the settings name, of one output or of the pair with the auxiliary one."""
        weights = None if isinstance(self.class_weights, str) else self.class_weights
        loss = make_loss(self.loss, ignore_index, "binary" if num_classes == 1 else "multiclass", weights)
        return losses.AuxiliaryLoss(self.auxiliary_weight, loss) if auxiliary else loss

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser that the settings name, of all parameters of a model."""
        groups = parameter_groups(
            model,
            lr=self.lr,
            weight_decay=self.weight_decay,
            head_lr=self.head_lr,
            layer_decay=self.layer_decay,
            decay_norms=self.decay_norms,
        )
        return make_optimizer(self.optimizer, groups, lr=self.lr, weight_decay=self.weight_decay)

    def make_schedule(self) -> Schedule:
        """The schedule that the settings name, warm-up included."""
        return warmed_up(make_schedule(self.schedule), self.warmup)


@dataclass(frozen=True)
class Evaluation:
    """How a model is scored, in training and after it; the keys of the section ``evaluation``.

    Attributes:
        boundary_width: pixels on either side of a true border that the boundary score looks at; None: no such score.
        batch_size: images at a time; None: as in training.
    """

    boundary_width: Annotated[int, Interval(ge=1, le=100)] | None = 3
    batch_size: Count | None = None


@dataclass(frozen=True)
class Logging:
    """What is written down while a model trains; the keys of the section ``logging``.

    Attributes:
        every: steps from one line to the next; None: twenty in a run.
        tensorboard: write loss, learning rate, scores and a few images for TensorBoard, into ``tensorboard/`` in the
            run's folder.
        report: write ``report.html`` into the run's folder when it ends.
    """

    every: Steps | None = None
    tensorboard: bool = False
    report: bool = True


@dataclass(frozen=True)
class Recipe:
    """A checked configuration of a whole run, every default filled in.

    Attributes:
        model: what to build.
        data: the section ``data``, as `segtutor.runs.data.parse_data` returns it.
        training: how to train it.
        evaluation: how to score it.
        logging: what to write down meanwhile.
    """

    model: ModelConfig
    data: Mapping[str, Any]
    training: Training
    evaluation: Evaluation
    logging: Logging

    def open_data(self, split: str, *, augment: bool = False) -> Any:
        """Open a split as this model is to see it: a pretrained backbone is fed what it was trained on.

        Args:
            split, augment: as for `segtutor.runs.data.open_data`.

        Returns:
            The dataset; its ``spec`` has the mean and std that its images are normalised by.
        """
        return open_data(self.data, split, augment=augment, normalization=get_backbone_statistics(self.model))

    def measured(self) -> Recipe:
        """The recipe with class weights in numbers, which are counted in the training masks where it says so.

        Raises:
            ConfigError: the masks cannot be counted.
        """
        if self.training.class_weights != "measured":
            return self
        data = open_data(self.data, "train")
        try:
            weights = losses.median_frequency_weights(
                (mask for _, mask in data), data.spec.num_classes, ignore_index=data.spec.ignore_index
            )
        except (ValueError, OSError) as error:
            raise ConfigError(f"training.class_weights: {error}") from None
        numbers = tuple(round(weight, 6) for weight in weights.tolist())
        return replace(self, training=replace(self.training, class_weights=numbers))

    def scoring(self, spec: DatasetSpec) -> dict[str, Any]:
        """How `segtutor.training.evaluate` is to score images of a data set, as its arguments."""
        return {
            "boundary_width": self.evaluation.boundary_width,
            "batch_size": self.evaluation.batch_size or self.training.batch_size,
            "ignore_index": spec.ignore_index,
        }

    def staffed(self) -> Recipe:
        """The recipe with a number of loading processes, which is chosen for this computer where it says none."""
        if self.training.num_workers is not None:
            return self
        number = workers_for(available_cores() // local_processes())
        if self.data["keep_in_memory"] or not is_read_from_files(self.data):
            number = 0
        elif number and len(open_data(self.data, "train")) < FEW:
            number = 0
        return replace(self, training=replace(self.training, num_workers=number))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in a run's ``config.yaml``; `read_recipe` accepts them."""
        return plain(self)


def read_recipe(source: Any, overrides: Iterable[str] = ()) -> Recipe:
    """Check a configuration of a whole run.

    Args:
        source: a YAML file, the name of a shipped configuration, a model such as "resnet18-fcn", or a mapping.
        overrides: "path.of.key=value" each, the value as YAML would read it.

    Raises:
        ConfigError: an unknown, missing or impossible setting, with its key path; model and data that contradict each
            other; data that are not there.
    """
    config = _read(source)
    config["data"] = config.get("data") or "scenes"  # so that a run starts at once, wherever it is
    config = overridden(config, overrides)
    for key in config:
        if key not in (*SECTIONS, "when"):
            raise ConfigError(f"{key if isinstance(key, str) else repr(key)}: unknown key; {suggest(key, SECTIONS)}")
    if "model" not in config:
        raise ConfigError("model: missing; add a section such as model: {backbone: resnet18, head: fcn}.")
    training = parse_training(_given(config, "training"))
    evaluation = parse_evaluation(config)
    logging = Logging(**parse(Logging, _given(config, "logging"), "logging"))
    data = parse_data(config)
    spec = open_data(data, "train", augment=True).spec
    if data.get("value_range", spec) is None:  # what was measured is said, so that it holds for whoever reads this
        data["value_range"] = spec.value_range
    model = _parse_model(config["model"], data, spec, training)
    return Recipe(model, data, training, evaluation, logging)


def workers_for(cores: int) -> int:
    """How many processes should load image files for one that trains, of so many processors.

    With one or two of them loading would take from the training what it gives; beyond eight a disk has no more to give.
    """
    return 0 if cores <= 2 else min(cores - 1, 8)


def available_cores() -> int:
    """Processors that this process may use, of which a batch system may have lent it only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def overridden(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A configuration with other values for some keys, "path.of.key=value" each.

    Raises:
        ConfigError: an override that is none, or of no section.
    """
    changed = copy.deepcopy(dict(config))
    for override in overrides:
        _override(changed, override)
    return changed


def name_of(source: Any) -> str:
    """What a run of this configuration is called unless somebody names it."""
    if isinstance(source, (str, Path)):
        return Path(source).stem if str(source).endswith((".yaml", ".yml")) else str(source)
    return "run"


def parse_training(section: Any) -> Training:
    """Check the section ``training`` and fill in its defaults.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    if isinstance(section, Mapping):
        section = dict(section)
        for key, check in (("optimizer", parse_optimizer), ("loss", parse_loss), ("schedule", parse_schedule)):
            if key in section:
                section[key] = check(section[key], f"training.{key}")
    training = Training(**parse(Training, section, "training"))
    if training.class_weights is not None and not any(map(weights_key, training.loss)):
        raise ConfigError("training.class_weights: none of the losses takes class weights; leave the key out.")
    for number, term in enumerate(training.loss):
        own = weights_key(term)
        if training.class_weights is not None and own is not None and term[own] is not None:
            raise ConfigError(f"training.class_weights: loss {number} has a {own} of its own; leave one of them out.")
    return training


def parse_evaluation(config: Mapping[str, Any]) -> Evaluation:
    """Check the section ``evaluation`` of a configuration and fill in its defaults.

    Raises:
        ConfigError: an unknown or impossible setting, with its key path.
    """
    return Evaluation(**parse(Evaluation, _given(config, "evaluation"), "evaluation"))


def _given(config: Mapping[str, Any], name: str) -> Any:
    """A section that may be left out, or left empty."""
    return {} if config.get(name) is None else config[name]


def _read(source: Any) -> dict[str, Any]:
    if isinstance(source, str) and not source.endswith((".yaml", ".yml")) and source not in shipped_configs():
        return {"model": expand(source)}
    return copy.deepcopy(read_config(source))


def _override(config: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{override}: an override has the form key=value, such as training.steps=50.")
    if keys[0] not in SECTIONS:
        raise ConfigError(f"{path}: unknown key; {suggest(keys[0], SECTIONS)}")
    section = config
    for key in keys[:-1]:
        inner = section.get(key)
        if isinstance(inner, str):  # a bare name becomes the section that it stands for
            inner = expand(inner) if key == "model" else {"type": inner}
        if inner is not None and not isinstance(inner, Mapping):
            raise ConfigError(f"{path}: {key} is {shown(inner)}, which has no keys to override.")
        section[key] = dict(inner or {})
        section = section[key]
    section[keys[-1]] = parse_yaml(text, path)


def _parse_model(section: Any, data: Mapping[str, Any], spec: DatasetSpec, training: Training) -> ModelConfig:
    if not isinstance(section, (str, Mapping)):
        raise ConfigError(f"model: expected keys and values, found {shown(section)}.")
    known = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    try:
        section = expand(section) if isinstance(section, str) else section
        model = parse_config({"seed": training.seed, **known, **section})
    except ConfigError as error:
        raise ConfigError(f"model.{error}".replace("model.config: ", "model: ", 1)) from None
    one_logit = model.num_classes == 1 and spec.num_classes == 2
    for key, value in known.items():
        if getattr(model, key) != value and not (one_logit and key == "num_classes"):
            what = "classes" if key == "num_classes" else "channels"
            raise ConfigError(
                f"model.{key}: {getattr(model, key)}, but the images of data '{data['type']}' have {value} {what}; "
                "leave the key out."
            )
    _check_loss(training, model, spec.ignore_index)
    return model


def _check_loss(training: Training, model: ModelConfig, ignore_index: int) -> None:
    """Try the loss on one pixel, so that a wrong number of class weights is found now and not in the first step."""
    logits, mask = torch.zeros(1, model.num_classes, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)
    try:
        training.make_loss(ignore_index, False, model.num_classes)(logits, mask)
        training.make_optimizer(nn.Linear(1, 1))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"training: {' '.join(str(error).split())}") from None
