"""Every configuration survives being written to YAML and read again, and the JSON Schema says what the checker says."""

import json
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import yaml
from annotated_types import Interval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segtutor import cli, runs
from segtutor.data.registry import datasets
from segtutor.factory import ConfigError
from segtutor.factory.backbones.registry import BACKBONES
from segtutor.factory.config import dump_yaml, parse, parse_yaml, plain, read_yaml, section_model, shipped_configs
from segtutor.factory.heads import HEADS
from segtutor.factory.parse import parse_config
from segtutor.runs import read_recipe, schema
from segtutor.runs.data import OWN_TO_SPLITS, of_every_dataset, parse_data
from segtutor.runs.optimization import ELSEWHERE, LOSSES, OF_THE_DATA, OPTIMIZERS, of_every_loss
from segtutor.runs.recipe import Evaluation, Logging, Training, parse_training

ALL = {
    **{f"backbone {name}": (entry.build, ()) for name, entry in BACKBONES.items()},
    **{f"head {name}": (head, ()) for name, head in HEADS.items()},
    **{f"data {name}": (entry.build, OWN_TO_SPLITS) for name, entry in datasets().items()},
    **{f"loss {name}": (loss, OF_THE_DATA) for name, loss in LOSSES.items()},
    **{f"optimizer {name}": (build, ELSEWHERE) for name, build in OPTIMIZERS.items()},
    **{part.__name__: (part, ("loss", "optimizer")) for part in (Training, Evaluation, Logging)},
    "every dataset": (of_every_dataset, ()),
    "every loss": (of_every_loss, ()),
}
# Text that plain YAML would read as something else, or break on
TRICKY = [
    "1e-3",
    "1.5E+6",
    "null",
    "~",
    "yes",
    "0x1F",
    "1_000",
    "12:30",
    "2020-01-01",
    "a: b",
    "- x",
    " x ",
    "é\n",
    "\x85",
]
TEXT = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LENIENT = {"max_examples": 60, "deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


def values(hint):
    """Values that an annotation of a section's model allows."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        [bounds] = [part for part in parts[1:] if isinstance(part, Interval)] or [None]
        return values(parts[0]) if bounds is None else numbers(parts[0], bounds)
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, parts))
    if origin is tuple and ... in parts:
        return st.lists(values(parts[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values, parts)).map(list)
    if origin is dict:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=3)
    if hasattr(hint, "model_fields"):
        return sections(hint)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    plain_values = {bool: st.booleans(), int: st.integers(), float: floats, str: TEXT, types.NoneType: st.none()}
    return st.one_of(*plain_values.values()) if hint is Any else plain_values[hint]


def numbers(kind, bounds):
    low = bounds.ge if bounds.ge is not None else bounds.gt
    high = bounds.le if bounds.le is not None else bounds.lt
    if kind is int:
        return st.integers(low, high)
    excluded = {"exclude_min": bounds.gt is not None, "exclude_max": bounds.lt is not None}
    return st.floats(low, high, **excluded)


def sections(model):
    """Mappings that a section's model allows, or would but for what its keys say about each other."""
    fields = {
        name: values(Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation)
        for name, info in model.model_fields.items()
    }
    required = {name: fields.pop(name) for name, info in model.model_fields.items() if info.is_required()}
    return st.fixed_dictionaries(required, optional=fields)


@pytest.mark.parametrize("name", ALL)
def test_every_section_survives_being_written_and_read(name):
    build, skip = ALL[name]

    @settings(**LENIENT)
    @given(sections(section_model(build, skip)))
    def check(section):
        try:
            parsed = parse(build, section, "part", skip=skip)
        except ConfigError as error:  # keys that contradict each other
            assert "part" in str(error)
            return
        text = dump_yaml(plain(parsed))
        assert parse(build, parse_yaml(text, "text"), "part", skip=skip) == parsed, text
        assert yaml.safe_dump(plain(parsed)), "plain values only"

    check()


def typed(builds, skip, common=None):
    models = {name: section_model(build, skip) for name, build in builds.items()}
    shared = st.just({}) if common is None else sections(section_model(common))
    return st.sampled_from(sorted(models)).flatmap(
        lambda name: st.builds(lambda own, more: {"type": name, **own, **more}, sections(models[name]), shared)
    )


DRAWN = {name: entry.build for name, entry in datasets().items() if name in ("scenes", "cells")}
LOSS = st.sampled_from(sorted(LOSSES)) | typed(LOSSES, OF_THE_DATA, of_every_loss)
RUNS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(
            [
                "mobilenetv2-fcn",
                {"backbone": "resnet18", "head": {"type": "aspp", "rates": [3, 6]}},
                {"backbone": {"type": "timm", "name": "1e5"}, "head": "smp:unet", "auxiliary": True, "seed": None},
            ]
        )
    },
    optional={
        "data": st.sampled_from(sorted(DRAWN)) | typed(DRAWN, OWN_TO_SPLITS, of_every_dataset),
        "training": st.builds(
            lambda rest, more: {**rest, **more},
            sections(section_model(Training, ("loss", "optimizer"))),
            st.fixed_dictionaries(
                {},
                optional={
                    "loss": LOSS | st.lists(LOSS, min_size=1, max_size=2),
                    "optimizer": st.sampled_from(sorted(OPTIMIZERS)) | typed(OPTIMIZERS, ELSEWHERE),
                },
            ),
        ),
        "evaluation": sections(section_model(Evaluation)),
        "logging": sections(section_model(Logging)),
        "when": TEXT,
    },
)
READ = {"kept": 0}
VALIDATOR = jsonschema.Draft202012Validator(schema.schema())


@settings(**{**LENIENT, "max_examples": 300})
@given(RUNS)
def test_every_run_survives_being_written_and_read(config):
    try:
        recipe = read_recipe(config)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
        return
    READ["kept"] += 1
    VALIDATOR.validate(config)
    VALIDATOR.validate(recipe.to_dict())
    text = schema.config_text(recipe.to_dict())
    assert read_recipe(parse_yaml(text, "text")) == recipe, text


def test_the_runs_were_not_all_refused():
    assert READ["kept"] > 30


def test_a_map_of_labels_survives_a_run(tmp_path, capsys):
    import numpy as np
    from PIL import Image

    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "mine" / part / kind).mkdir(parents=True)
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            mask = np.where(np.arange(32) % 2, 255, 0).astype(np.uint8)[None].repeat(32, 0)
            Image.fromarray(pixels + (part == "val")).save(tmp_path / "mine" / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(tmp_path / "mine" / part / "masks" / f"{i}.png")
    config = tmp_path / "mine.yaml"
    config.write_text(
        "model: mobilenetv2-fcn\ndata: {type: folder, path: mine, classes: [a, b], label_map: {0: 0, 255: 1}}\n"
        "training: {steps: 2, batch_size: 2, save_every: 1}\n"
    )
    run = tmp_path / "run"
    change = f"data.path={tmp_path / 'mine'}"
    assert cli.main(["train", "--config", str(config), change, "--out", str(run)]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["label_map"] == {0: 0, 255: 1}
    assert cli.main(["evaluate", str(run)]) == 0
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert runs.read_recipe(run / "config.yaml").data["label_map"] == {0: 0, 255: 1}


def test_text_is_no_key_of_numbers():
    with pytest.raises(ConfigError, match="data.label_map.0: '0' is a str, expected int"):
        parse_data({"type": "folder", "path": ".", "classes": 2, "label_map": {"0": 0}})


def test_paths_are_absolute_in_what_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_data({"type": "camvid", "root": "here"})["root"] == str(tmp_path / "here")
    assert parse_data({"type": "folder", "path": tmp_path, "classes": 2})["path"] == str(tmp_path)
    assert parse_data({"type": "folder", "path": ".", "classes": 2, "lists": "lists"})["lists"] == "lists"


# --------------------------------------------------------------------------------------------------------- JSON Schema


def test_the_shipped_schema_is_current():
    printed = subprocess.run(
        [sys.executable, "-m", "segtutor", "schema"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert json.loads(printed) == json.loads(schema.FILE.read_text(encoding="utf-8")), (
        "run `segtutor schema --out segtutor/configs/schema.json`"
    )


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_file_names_the_schema_and_follows_it(name):
    text = shipped_configs()[name].read_text(encoding="utf-8")
    assert text.splitlines()[0] == schema.EDITOR_LINE
    VALIDATOR.validate(read_yaml(shipped_configs()[name]))


def test_the_configuration_on_its_page_is_possible():
    page = (Path(__file__).resolve().parents[1] / "book" / "api" / "runs.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    assert text.startswith(schema.EDITOR_LINE)
    config = parse_yaml(text, "page")
    VALIDATOR.validate(config)
    assert parse_data(config)["label_map"] == {0: 0, 255: 1} and parse_training(config["training"]).steps == 4000
    assert parse_config(config["model"], num_classes=2).backbone["depth"] == 50
    assert {"evaluation", "logging"} <= config.keys()


def test_the_schema_is_one_of_the_repository_that_is_named():
    root = Path(__file__).resolve().parents[1]
    url = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert schema.URL == f"{url}/raw/main/{schema.FILE.relative_to(root).as_posix()}"
    jsonschema.Draft202012Validator.check_schema(schema.schema())


@pytest.mark.parametrize(
    "change",
    [
        {"modle": {}},
        {"model": {"backbone": {"type": "resnet", "dept": 18}, "head": "fcn"}},
        {"model": {"backbone": "resnet18", "head": {"type": "fcm"}}},
        {"data": {"type": "scenes", "sise": [64, 64]}},
        {"data": {"type": "scenes", "size": [64]}},
        {"data": {"type": "scenes", "crop": [64, 64]}},
        {"data": {"type": "folder", "path": "x"}},
        {"training": {"schedule": {"steps": 3}}},
        {"training": {"steps": 0}},
        {"training": {"steps": "3"}},
        {"training": {"steps": True}},
        {"training": {"loss": {"type": "FocalLoss", "ignore_index": 0}}},
        {"training": {"optimizer": {"type": "sgd", "betas": [0.9, 0.99]}}},
        {"evaluation": {"boundary_width": 0}},
        {"logging": {"tensorboard": "yes"}},
    ],
    ids=str,
)
def test_schema_and_checker_refuse_the_same(change):
    config = {"model": "mobilenetv2-fcn", **change}
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(config)
    with pytest.raises(ConfigError):
        read_recipe(config)


def test_the_schema_explains_its_keys():
    made = schema.schema()
    assert made["$defs"]["training"]["properties"]["warmup"]["description"].startswith("steps in which the learning")
    assert "file value" in made["$defs"]["data_folder"]["properties"]["label_map"]["description"].lower()
    assert made["$defs"]["head_fcn"]["properties"]["dropout"]["maximum"] == 0.99
    assert "SceneKnobs" in made["$defs"] and "transform" not in made["$defs"]["data_scenes"]["properties"]


def test_the_command_writes_the_schema(tmp_path, capsys):
    assert cli.main(["schema", "--out", str(tmp_path / "mine.json")]) == 0
    assert "mine.json" in capsys.readouterr().out
    assert "head_fcn" in json.loads((tmp_path / "mine.json").read_text())["$defs"]
