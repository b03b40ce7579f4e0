"""The page that helps to choose says what the registries and the shipped configurations say."""

import typing
from pathlib import Path

from test_factory_backbones import PARAMETERS

from segtutor.factory.backbones import BACKBONES, list_backbone_names, list_backbone_uses
from segtutor.factory.config import read_yaml, shipped_configs
from segtutor.factory.heads import HEADS

ROOT = Path(__file__).resolve().parents[1]
RECOMMENDED = ("max_accuracy", "balanced", "max_speed", "budget_gpu")


def markdown(head, rows):
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def native():
    return {name: head for name, head in HEADS.items() if ":" not in name}


def recommended_table():
    rows = []
    for name in RECOMMENDED:
        config = read_yaml(shipped_configs()[name])
        backbone, head = config["model"]["backbone"], config["model"]["head"]
        names = list_backbone_names().items()
        short = next(short for short, section in names if section.items() <= backbone.items())
        rows.append([f"`{name}`", f"`{short}`", f"`{head['type']}`", config["when"]])
    return markdown(["configuration", "backbone", "head", "when"], rows)


def backbone_table():
    rows = []
    for name, when in list_backbone_uses().items():
        build = BACKBONES[list_backbone_names()[name]["type"]].build
        strides = typing.get_args(typing.get_type_hints(build)["output_stride"])
        dilates = ", ".join(str(stride) for stride in strides if stride != 32) or "no"
        rows.append([f"`{name}`", f"{PARAMETERS[name] / 1e6:.1f} M", dilates, when])
    return markdown(["backbone", "parameters", "dilates", "when"], rows)


def head_table():
    rows = [
        [f"`{name}`", ", ".join(map(str, head.in_strides)), str(head.out_stride), head.when]
        for name, head in sorted(native().items())
    ]
    return markdown(["head", "reads", "answers", "when"], rows)


def test_the_tables_are_what_the_registries_say():
    page = (ROOT / "book" / "choosing.md").read_text(encoding="utf-8")
    for table in (recommended_table(), backbone_table(), head_table()):
        assert table in page, f"book/choosing.md should have:\n{table}"
    assert f"Twenty-six backbones and twelve heads make {len(list_backbone_names()) * len(native())} models" in page
    assert (len(list_backbone_names()), len(native())) == (26, 12)


def test_what_the_page_types_is_possible():
    from segtutor.factory import create_backbone
    from segtutor.runs.data import parse_data

    data = read_yaml(shipped_configs()["balanced"])["data"]
    parse_data({**data, "type": "folder", "path": "photos", "classes": ["road", "crack"], "size": None})
    assert "mobilenetv2" in list_backbone_names() and callable(create_backbone)
