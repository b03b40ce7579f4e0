"""The JSON Schema of a configuration, from which editors complete keys and mark mistakes, and the text of a YAML file.

It is made from the same pydantic models that check a configuration. ``segtutor schema`` prints it; with ``--import`` it
knows parts of your own. The one that comes with the package is ``configs/schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from segtutor.data.registry import datasets
from segtutor.factory.backbones.registry import BACKBONES, list_backbone_names, of_every_backbone
from segtutor.factory.config import Count, ModelConfig, dump_yaml, section_model
from segtutor.factory.heads.base import HEADS
from segtutor.runs.data import OWN_TO_SPLITS, of_every_dataset
from segtutor.runs.optimization import ELSEWHERE, LOSSES, OF_THE_DATA, OPTIMIZERS, SCHEDULES, of_every_loss
from segtutor.runs.recipe import Evaluation, Logging, Training

if TYPE_CHECKING:
    from pydantic import BaseModel

FILE = Path(__file__).parent.parent / "configs" / "schema.json"
URL = "https://github.com/segtutor/segtutor/raw/main/segtutor/configs/schema.json"
EDITOR_LINE = f"# yaml-language-server: $schema={URL}"


def config_text(config: Mapping[str, Any]) -> str:
    """A configuration as the text of a YAML file, with the line that tells editors its schema."""
    return f"{EDITOR_LINE}\n{dump_yaml(config)}"


def schema() -> dict[str, Any]:
    """The JSON Schema of a run's configuration, with everything that is registered now."""
    from pydantic import Field

    backbones = {name: entry.build for name, entry in BACKBONES.items()}
    builds = {name: entry.build for name, entry in datasets().items()}
    short_names = [*backbones, *list_backbone_names()]
    loss = _typed("loss", LOSSES, common=of_every_loss, skip=OF_THE_DATA)
    model = _replaced(
        "model",
        section_model(ModelConfig),
        backbone=(_typed("backbone", backbones, common=of_every_backbone, names=short_names), ...),
        head=(_typed("head", HEADS), ...),
        num_classes=(Count, Field(default_factory=int)),  # those of the data
        in_channels=(Count, Field(default_factory=int)),
    )
    training = _replaced(
        "training",
        section_model(Training),
        loss=(_one_or_more(loss), "CrossEntropyLoss"),
        optimizer=(_typed("optimizer", OPTIMIZERS, skip=ELSEWHERE), "adamw"),
        schedule=(_typed("schedule", SCHEDULES), "poly"),
    )
    run = _replaced(
        "run",
        when=(str, Field(default_factory=str, description="When to use this configuration, in one sentence.")),
        model=(Union[str, model], ...),  # noqa: UP007
        data=(_typed("data", builds, common=of_every_dataset, skip=OWN_TO_SPLITS), "scenes"),
        training=(training, Field(default_factory=dict)),
        evaluation=(section_model(Evaluation), Field(default_factory=dict)),
        logging=(section_model(Logging), Field(default_factory=dict)),
    )
    made = _tidied(run.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A run of segtutor", **made}


def schema_text() -> str:
    """The JSON Schema as the text of a file."""
    return json.dumps(schema(), indent=1) + "\n"


def _typed(
    section: str,
    builds: Mapping[str, Callable[..., Any]],
    *,
    common: Callable[..., Any] | None = None,
    skip: tuple[str, ...] = (),
    names: Iterable[str] | None = None,
) -> Any:
    """A section ``{type: NAME, ...}`` as `parse_typed` reads it: one model for each name, or a bare name."""
    shared = () if common is None else (section_model(common),)
    kinds = [
        _replaced(f"{section} {name}", *shared, section_model(build, skip), type=(Literal[name], ...))
        for name, build in builds.items()
    ]
    return Union[(Literal[tuple(builds if names is None else names)], *kinds)]  # noqa: UP007


def _one_or_more(kind: Any) -> Any:
    return Union[kind, list[kind]]  # noqa: UP007


def _replaced(name: str, *bases: type[BaseModel], **fields: Any) -> type[BaseModel]:
    """A model of its own name, with other fields in the place of some of those of its bases."""
    from pydantic import ConfigDict, Field, create_model

    described = {key: info.description for base in bases for key, info in base.model_fields.items() if info.description}
    for key, (kind, default) in fields.items():
        if key in described:
            fields[key] = (Annotated[kind, Field(description=described[key])], default)
    if bases:
        return create_model(name, __base__=bases, **fields)
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _tidied(value: Any) -> Any:
    """What pydantic says twice, said once, in the same words whatever its version: names of keys, and constants."""
    if isinstance(value, list):
        return [_tidied(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidied(entry) for key, entry in value.items() if not (key == "title" and isinstance(entry, str))}
    if "const" in tidy:
        tidy.pop("enum", None)
    if len(tidy.get("allOf", ())) == 1:
        tidy.update(tidy.pop("allOf")[0])
    return tidy
