"""Configurations: what is refused is refused in one sentence, and what is accepted builds."""

import inspect
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Interval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segtutor.factory import ConfigError, ModelConfig, create_head, create_model, heads
from segtutor.factory.backbones import BACKBONES
from segtutor.factory.config import Count, parse, read_config, read_yaml, shipped_configs
from segtutor.factory.create import parse_config
from segtutor.factory.messages import suggest

GOOD = {"backbone": {"type": "resnet", "depth": 18}, "head": {"type": "fcn"}, "num_classes": 4}


def taker(
    *,
    depth: Literal[18, 34] = 18,
    rates: tuple[Count, ...] | None = None,
    share: Annotated[float, Interval(ge=0, le=1)] = 0.5,
    name: str | bool = False,
    wide: Count,
):
    """Something to configure."""


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ({"wide": 3}, {"depth": 18, "rates": None, "share": 0.5, "name": False, "wide": 3}),
        ({"wide": 8192, "rates": [1, 2], "share": 1}, {"rates": (1, 2), "share": 1.0}),
        ({"wide": 1, "name": "x", "depth": 34}, {"name": "x", "depth": 34}),
        ({"wide": 1, "name": True, "rates": ()}, {"name": True, "rates": ()}),
    ],
    ids=str,
)
def test_sections_are_read_by_the_annotations(section, settings):
    parsed = parse(taker, section, "part")
    assert parsed.items() >= settings.items() and list(parsed) == ["depth", "rates", "share", "name", "wide"]
    assert all(type(parsed[key]) is type(value) for key, value in settings.items())


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({}, "part.wide: missing; add it."),
        ({"wide": 0}, "part.wide: 0 is too small, it must be at least 1."),
        ({"wide": 8193}, "part.wide: 8193 is too large, it must be at most 8192."),
        ({"wide": True}, "part.wide: True is a bool, expected int."),
        ({"wide": 2.0}, "part.wide: 2.0 is a float, expected int."),
        ({"wide": None}, "part.wide: None is a NoneType, expected int."),
        ({"wide": 1, "share": float("nan")}, "part.share: nan is not a finite number."),
        ({"wide": 1, "share": float("inf")}, "part.share: inf is not a finite number."),
        ({"wide": 1, "share": 10**400}, f"part.share: 1{76 * '0'}... is too large for a float."),
        ({"wide": 1, "rates": 6}, "part.rates: 6 is an int, expected a list or none."),
        ({"wide": 1, "rates": [6, "12"]}, "part.rates[1]: '12' is a str, expected int."),
        ({"wide": 1, "rates": [6, 0]}, "part.rates[1]: 0 is too small"),
        ({"wide": 1, "name": 1}, "part.name: 1 is an int, expected str or bool."),
        ({"wide": 1, "depth": 19}, "part.depth: 19 is not possible; did you mean 18 or 34?"),
        ({"wide": 1, "depth": True}, "part.depth: True is not possible; did you mean"),
        ({"wide": 1, "depth": 18.0}, "part.depth: 18.0 is not possible; did you mean 18 or 34?"),
        ({"wide": 1, "dpth": 18}, "part.dpth: unknown key; did you mean 'depth', "),
        ({"wid": 1}, "part.wid: unknown key; did you mean 'wide', "),  # and not that 'wide' is missing
        ({"wide": 1, 7: 18}, "part.7: unknown key; did you mean"),
        ({"wide": 1, "a\nb": 18}, r"part.'a\nb': unknown key; did you mean"),
        ({"wide": 1, "a\n": 18}, "part.'a\\n': unknown key; did you mean"),
        ([], "part: expected keys and values, found []."),
        (None, "part: expected keys and values, found None."),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(section, says):
    with pytest.raises(ConfigError) as caught:
        parse(taker, section, "part")
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_the_three_nearest_choices_are_named():
    names = ["fpn", "fcn", "jpu", "psp", "segformer"]
    assert suggest("fcm", names) == "did you mean 'fcn', 'segformer' or 'fpn'?"
    assert suggest(40, [18, 34, 50, 101, 152]) == "did you mean 34, 50 or 18?"
    assert suggest("x", ["a"]) == "did you mean 'a'?" and suggest("x", []) == "nothing is possible here."


def test_the_forms_of_a_configuration_mean_the_same(tmp_path):
    @dataclass
    class Mine:
        num_classes: int = 4
        backbone: dict = field(default_factory=lambda: {"type": "resnet", "depth": 18})
        head: str = "fcn"

    file = tmp_path / "mine.yaml"
    file.write_text("backbone: {type: resnet, depth: 18}\nhead: fcn\nnum_classes: 4\n")
    whole = tmp_path / "whole.yml"
    whole.write_text("data: {name: scenes}\nmodel:\n  backbone: resnet18\n  head: {type: fcn}\n")
    checked = parse_config(GOOD)
    assert isinstance(checked, ModelConfig) and checked.backbone["output_stride"] == 32
    for form in (Mine(), file, str(file), checked, checked.to_dict()):
        assert parse_config(form) == checked, form
    assert parse_config(whole, num_classes=4) == checked == parse_config("resnet18-fcn", num_classes=4)
    assert json.loads(json.dumps(checked.to_dict())) == checked.to_dict()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("num_classes: [1, 2", "is not valid YAML in line"),
        ("- 1\n- 2\n", "has no keys and values"),
        ("", "has no keys and values"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
    ],
    ids=repr,
)
def test_files_that_are_no_configuration(tmp_path, text, says):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        create_model(path)


def test_files_that_are_missing_or_unreadable(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml could not be read"):
        create_model(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="could not be read"):
        read_yaml(tmp_path / "latin.yaml")
    for nonsense in (7, None, [GOOD], Mine := type("Mine", (), {})):
        with pytest.raises(ConfigError, match="^config: expected keys and values"):
            read_config(nonsense)
    assert Mine


@pytest.mark.parametrize("empty", [{}, {"model": {}}, {"backbone": {}}, {"backbone": {}, "head": {}}], ids=str)
def test_an_empty_configuration_says_what_is_missing(empty):
    with pytest.raises(ConfigError, match="missing"):
        create_model(empty)


def test_names_of_no_kind_name_the_nearest():
    with pytest.raises(ConfigError, match="'resnet19' in 'resnet19-fcn' is no backbone; did you mean 'resnet1"):
        create_model("resnet19-fcn", num_classes=2)
    with pytest.raises(ConfigError, match="head.type: 'fcm' is unknown; did you mean 'fcn'"):
        create_model("resnet18-fcm", num_classes=2)


def test_a_head_alone_counts_on_an_undilated_backbone():
    seen = []

    class Spy(heads.HEADS["fcn"]):
        def __init__(self, channels, strides, num_classes, **settings):
            seen.append((channels, strides))
            super().__init__(channels, strides, num_classes, **settings)

    plain, heads.HEADS["fcn"] = heads.HEADS["fcn"], Spy
    try:
        create_head("fcn", [4, 4, 4, 8], 2)
        create_head({**GOOD, "backbone": {"type": "resnet", "output_stride": 8}}, [4, 4, 4, 8], 2)
    finally:
        heads.HEADS["fcn"] = plain
    assert seen == [((4, 4, 4, 8), (4, 8, 16, 32)), ((4, 4, 4, 8), (4, 8, 8, 8))]


# ---------------------------------------------------------------------------------------------------------------- fuzz

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.integers(-2, 200),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["resnet", "fcn", "aspp", "mit-b0", "tiny", "segformer", "sum", "cpu", 8, 16, 18, 32, 50, 64, 0.1]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | SCALARS, inner, max_size=3),
)


def _plausible(hint):
    """Values that an annotation allows."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        low, high = parts[1].ge, parts[1].le
        return st.integers(low, min(high, 64)) if parts[0] is int else st.floats(low, high)
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        return st.lists(_plausible(parts[0]), min_size=1, max_size=3)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(_plausible(part) for part in parts))
    return {bool: st.booleans(), types.NoneType: st.none()}.get(hint, SCALARS)


def _sections(registry, build_of):
    """Sections with a registered type, and for a key or two a value that is allowed, or any value."""

    def section(name):
        build = build_of(name)
        hints = typing.get_type_hints(build.__init__ if isinstance(build, type) else build, include_extras=True)
        rules = inspect.signature(build).parameters.values()
        keys = [p.name for p in rules if p.kind is p.KEYWORD_ONLY and p.name not in ("pretrained", "name")]
        one = [st.tuples(st.just(key), _plausible(hints[key])) for key in keys]
        absurd = [st.tuples(st.sampled_from(keys), SCALARS | st.lists(SCALARS, max_size=3))] if keys else []
        pairs = st.lists(st.one_of(*one, *absurd), max_size=3) if keys else st.just([])
        return pairs.map(lambda settings: {"type": name, **dict(settings)})

    return st.sampled_from(sorted(registry)).flatmap(section)


PLAUSIBLE = st.fixed_dictionaries(
    {
        "backbone": _sections([n for n in BACKBONES if n != "timm"], lambda name: BACKBONES[name].build)
        | st.sampled_from(["resnet18", "resnet34"]),
        "head": _sections(heads.HEADS, lambda name: heads.HEADS[name]) | st.sampled_from(["fcn"]),
        "num_classes": st.integers(1, 40) | st.integers(1, 40) | st.integers(1, 40) | SCALARS,
    },
    optional={
        "in_channels": st.integers(1, 5) | st.integers(1, 5) | SCALARS,
        "auxiliary": st.booleans(),
        "seed": st.integers(0, 9) | st.none() | SCALARS,
    },
)


def fuzz(examples: int, real: int) -> dict[str, int]:
    """Try that many configurations, and run ``real`` of the models; how many came to what."""
    built = {"meta": 0, "real": 0, "refused": 0}

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(PLAUSIBLE | PLAUSIBLE | PLAUSIBLE | ANYTHING)
    def builds_or_is_refused(config):
        try:
            checked = parse_config(config)
            with torch.device("meta"):
                model = create_model({**checked.to_dict(), "seed": None})
        except ConfigError as error:
            built["refused"] += 1
            assert str(error) and "\n" not in str(error)
            return
        built["meta"] += 1
        assert parse_config(checked.to_dict()) == checked
        size = sum(parameter.numel() for parameter in model.parameters())
        if built["real"] < real and size < 30e6:
            built["real"] += 1
            with torch.inference_mode():
                logits = create_model(checked.to_dict()).eval()(torch.zeros(1, checked.in_channels, 33, 40))
            assert logits.shape == (1, checked.num_classes, 33, 40)

    builds_or_is_refused()
    return built


@pytest.mark.parametrize(("examples", "real"), [(200, 5), pytest.param(2000, 50, marks=pytest.mark.weekly)])
def test_any_configuration_builds_or_is_refused_in_one_sentence(examples, real):
    built = fuzz(examples, real)
    assert built["real"] == real and built["meta"] > examples / 10 and built["refused"] > examples / 4, built


def test_shipped_configurations_are_complete():
    for name, path in shipped_configs().items():
        assert parse_config(name, num_classes=19) == parse_config(path, num_classes=19)
