"""What the chapters share: run size, data with a stand-in, tables, measured numbers."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from segtutor.lab import chapter, results
from segtutor.lab.papers import PAPERS
from segtutor.lab.protocols import running_table

# What every row holds beside its id, seed and value.
RECORD = {
    "conditions": "CamVid, 120x160",
    "command": "segtutor benchmark table",
    "commit": "abc",
    "config": {},
    "torch": "2.15.0",
    "python": "3.11.7",
    "date": "2026-01-31T12:00:00Z",
    "hardware": "a machine",
    "wall_seconds": 1.0,
    "unit": "x",
}


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """A machine without real data and without a GPU, whatever this one has."""
    from segtutor import data

    monkeypatch.setattr(data, "available", lambda name: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("SEGTUTOR_MODE", raising=False)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """A results folder with two models of the running table."""
    values = {
        "table/fcn8s/miou": (0.40, 0.50),
        "table/fcn8s/parameters": (134_489_759,),
        "table/fcn8s/flops": (2.5e9,),
        "table/cost/fcn8s/ms_per_step": (51.4,),
        "table/unet/miou": (0.6, 0.7),
    }
    rows = [{**RECORD, "id": id, "seed": s, "value": v} for id, both in values.items() for s, v in enumerate(both)]
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "table.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(results, "FOLDER", folder)


class Cells(HTMLParser):
    """Reads a table back; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.tags = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text


# ------------------------------------------------------------------------------------------------------------ settings


def test_cpu_means_quick_and_gpu_means_full(monkeypatch, capsys):
    s = chapter.settings()
    assert (s.mode, s.device, s.pick(1, 2), s.pick(quick=1, full=2)) == ("quick", "cpu", 1, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    s = chapter.settings()
    assert (s.mode, s.device, s.pick(1, 2)) == ("full", "cuda", 2)
    assert capsys.readouterr().out.splitlines() == [
        "Quick run on the CPU. No real data found: synthetic images stand in.",
        "Full run on the GPU. No real data found: synthetic images stand in.",
    ]


def test_environment_decides_the_mode(monkeypatch):
    monkeypatch.setenv("SEGTUTOR_MODE", "full")
    assert chapter.settings().mode == "full"
    monkeypatch.setenv("SEGTUTOR_MODE", "fast")
    with pytest.raises(ValueError, match="SEGTUTOR_MODE is 'fast'; set it to 'quick' or 'full'"):
        chapter.settings()


def test_settings_name_the_data_and_leave_torch_alone(monkeypatch, capsys):
    from segtutor import data

    monkeypatch.setattr(data, "available", lambda name: name == "camvid")
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    chapter.settings()
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out == "Quick run on the CPU. Real data: CamVid found.\n"


# ---------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(("name", "kind"), [("camvid", "SyntheticScenes"), ("vnc", "SyntheticCells")])
def test_synthetic_stands_in_and_says_so(name, kind, capsys):
    chosen = chapter.dataset(name, "val", size=(48, 64))
    assert type(chosen).__name__ == kind and len(chosen) == 100
    image, mask = chosen[0]
    assert image.shape[1:] == mask.shape == (48, 64)
    (line,) = capsys.readouterr().out.splitlines()
    assert re.match(r"Data: synthetic \w+ in place of \w+, which is not on this machine, val, 100 images, \d+ cl", line)


def test_splits_of_a_synthetic_set_share_no_image(capsys):
    first = [chapter.dataset("scenes", split, size=(32, 32))[0][0] for split in ("train", "val", "test")]
    assert not any(torch.equal(first[a], first[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    again = chapter.dataset("scenes", size=(32, 32), length=3, seed=0)
    assert len(again) == 3 and torch.equal(again[0][0], first[0])
    assert "in place of" not in capsys.readouterr().out


def test_real_data_is_used_when_it_is_there(monkeypatch, capsys):
    from segtutor import data
    from segtutor.data import registry

    asked, kept = [], []

    class Real:
        def __init__(self, split, **options):
            asked.append((split, options))
            self.spec = type("Spec", (), {"num_classes": 11})

        def __len__(self):
            return 367

        def keep_in_memory(self):
            kept.append(asked[-1][0])

    monkeypatch.setattr(data, "available", lambda name: name in ("camvid", "vnc"))
    for name in ("camvid", "vnc"):
        monkeypatch.setitem(registry._ENTRIES, name, dataclasses.replace(registry.find_dataset(name), build=Real))
    chapter.dataset("camvid", size=(96, 128), texture=0.5)
    chapter.dataset("vnc", "test", tile=256)
    assert asked == [
        ("train", {"size": (96, 128), "transform": None}),
        ("test", {"size": None, "transform": None, "tile": 256}),
    ]
    assert kept == ["train"], "small images stay in memory, tiles of large slices do not"
    assert capsys.readouterr().out.splitlines()[0] == "Data: CamVid, train, 367 images, 11 classes."


def test_tiles_of_the_stand_in_have_their_size(capsys):
    assert chapter.dataset("vnc", tile=40, length=1)[0][1].shape == (40, 40)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("camvit",), {}, "no data set 'camvit'; use one of camvid"),
        (("scenes", "valid"), {}, "no split 'valid'; use train"),
        (("camvid",), {"tile": 64}, "not cut into tiles"),
    ],
)
def test_unknown_data_is_named(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        chapter.dataset(*arguments, **options)


# -------------------------------------------------------------------------------------------------------------- tables


def test_table_shows_the_same_cells_as_text_and_html():
    shown = chapter.table([["a < b", 12345, 0.12345], ["c", 2, float("nan")]], ["Name", "N", "IoU"], "of `x`")
    cells = [["Name", "N", "IoU"], ["a < b", "12,345", "0.123"], ["c", "2", "absent"]]
    page = shown._repr_html_()
    assert Cells(page).rows == cells
    lines = repr(shown).splitlines()
    assert [re.split(r"\s{2,}", line) for line in (lines[0], *lines[2:4])] == cells and lines[-1] == "of `x`"
    assert lines[2].index("12,345") + 6 == lines[3].index(" 2") + 2, "numbers stand right"
    assert "<figcaption>of <code>x</code></figcaption>" in page


def test_table_is_readable_in_both_themes_and_by_keyboard():
    page = chapter.table([["a", 1]], ["Name", "N"])._repr_html_()
    tags = Cells(page).tags
    assert "color" not in page and "background" not in page
    assert ("table", {"class": "dataframe segtutor-table"}) in tags, "the theme's dark mode spares this class only"
    assert ("div", {"class": "pst-scrollable-table-container", "tabindex": "0"}) in tags
    assert [a["scope"] for tag, a in tags if tag == "th"] == ["col", "col", "row"]


def test_sentences_keep_room_on_a_telephone():
    long = "A sentence that would stand on a narrow screen as one word below the other."
    page = chapter.table([["a", "b", long]], "NKS")._repr_html_()
    styles = [a.get("style", "") for tag, a in Cells(page).tags if tag == "td"]
    assert [("min-width" in style) for style in styles] == [False, True]


def test_table_from_mappings():
    shown = chapter.table([{"a": 1, "b": "x"}, {"a": 2}])
    assert (shown.columns, shown.rows) == (["a", "b"], [["1", "x"], ["2", ""]])
    assert chapter.table([{"a": 1, "b": 2}], ["b"]).rows == [["2"]]


def test_table_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        chapter.table([[1, 2, 3]], ["a", "b"])
    with pytest.raises(ValueError, match="needs columns"):
        chapter.table([[1, 2]])


# ---------------------------------------------------------------------------------------------------- measured numbers


def test_running_table_reads_rows_and_invents_nothing(rows):
    shown = chapter.running_table(upto="03")
    found = {row[0]: dict(zip(shown.columns[1:], row[1:], strict=True)) for row in shown.rows}
    assert list(found) == ["FCN-32s", "FCN-16s", "FCN-8s"]
    assert set(found["FCN-32s"].values()) == {"not measured"}
    assert found["FCN-8s"] == {
        "mIoU": "0.450",
        "Boundary mIoU": "not measured",
        "Parameters (M)": "134.49",
        "FLOPs (G)": "2.50",
        "Receptive field (px)": "not measured",
        "ms per step": "51",
        "Peak memory (MiB)": "not measured",
    }
    assert shown.caption == (
        "CamVid, 120x160. Scores are means over 2 seeds. Timed on a machine. Measured again by "
        "`segtutor benchmark table`."
    )


def test_compatibility_matrix_shows_costs_failures_and_gaps(monkeypatch):
    from types import SimpleNamespace

    values = {"resnet18/fcn": 21.04, "resnet18/works": 1, "table/x/fcn": 9}
    found = [
        SimpleNamespace(
            id=f"FAC-1/{key}" if not key.startswith("table") else key, value=value, conditions="random weights"
        )
        for key, value in values.items()
    ]
    monkeypatch.setattr(results, "read_rows", lambda: found)
    shown = chapter.compatibility_matrix(["resnet18", "mit-b0"], ["fcn", "aspp"])
    assert shown.columns == ["backbone", "fcn", "aspp"]
    assert shown.rows == [["resnet18", "21.0", "fails"], ["mit-b0", "not measured", "not measured"]]
    assert shown.caption == "GFLOPs: random weights. Measured again by `segtutor benchmark FAC-1`."
    monkeypatch.setattr(results, "read_rows", list)
    assert chapter.compatibility_matrix(["resnet18"], ["fcn"]).caption == ""


def test_speed_table_shows_every_size_in_order(tmp_path, monkeypatch):
    ratios = {"forward": 0.5, "step": 0.75, "forward_memory": 0.25, "step_memory": 1.0}
    found = [
        RECORD
        | {"id": f"speed/{key}/{side}/{metric}", "seed": 0, "value": value, "conditions": f"{key}; in turns"}
        | ({"spread": [0.4, 0.6]} if metric == "forward" else {})
        for key, side in (("vit", 1024), ("vit", 256), ("vit_b16", 64), ("swin", 8))
        for metric, value in ratios.items()
    ]
    found.append(RECORD | {"id": "speed/fcn/ratio", "seed": 0, "value": 1.0})  # at no size
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (tmp_path / "speed.json").write_text(json.dumps({"rows": found}))
    shown = chapter.speed_table({"vit": "ViT"})
    assert shown.rows == [
        ["ViT", side, "0.5 (0.4 to 0.6)", "0.75", "0.25", "1"] for side in ("256 x 256", "1024 x 1024")
    ]
    assert shown.columns[1:4] == ["Image", "Time, forward", "Time, step"]
    assert shown.caption == (
        "Ratios: vit; in turns. Timed on a machine. Measured again by `segtutor benchmark speed/vit`."
    )
    assert chapter.speed_table({"vit": "ViT", "swin": "Swin"}).caption.startswith("Ratios: vit; swin; in turns. ")
    with pytest.raises(results.MissingResult, match="speed/fcn"):
        chapter.speed_table({"vit": "ViT", "fcn": "FCN"})


@pytest.mark.parametrize(
    ("side", "cell"),
    [(running_table.FIELD, "whole image"), (running_table.FIELD - 1, f"{running_table.FIELD - 1}")],
    ids=str,
)
def test_running_table_says_where_a_network_sees_everything(rows, monkeypatch, side, cell):
    measured = dataclasses.replace(chapter.result("table/fcn8s/flops"), value=side)
    monkeypatch.setattr(results, "result", lambda id: measured)
    assert chapter.running_table("03", metrics=["receptive_field"]).rows[0][1] == cell


def test_a_network_that_sees_everything_leaves_the_numbers_on_the_right():
    shown = repr(chapter.table([["a", "whole image"], ["b", "12"]], ["n", "px"]))
    assert shown.splitlines()[3].endswith("         12")


def test_running_table_grows_with_the_chapters(rows):
    assert [row[0] for row in chapter.running_table("04_unet", metrics=["miou"]).rows][-1] == "U-Net"
    assert len(chapter.running_table().rows) == 13
    with pytest.raises(ValueError, match="no 'iou'; it has miou"):
        chapter.running_table("03", metrics=["iou"])


def test_result_and_table_cell(rows):
    measured = chapter.result("table/fcn8s/miou")
    assert measured.value == pytest.approx(0.45) and measured.n == 2
    assert chapter.table([["FCN-8s", measured]], ["m", "v"]).rows == [["FCN-8s", "0.45 (0.4 to 0.5)"]]
    with pytest.raises(results.MissingResult, match="segtutor benchmark table"):
        chapter.result("table/fcn8s/iou")


def test_shared_text_does_not_depend_on_the_mode(rows, monkeypatch):
    texts = set()
    for mode in ("quick", "full"):
        monkeypatch.setenv("SEGTUTOR_MODE", mode)
        texts.add(chapter.running_table("03")._repr_html_() + repr(chapter.claims("FCN-1")))
    assert len(texts) == 1


def test_claims_show_verdicts(rows):
    shown = chapter.claims("BB-3", "DL-6")
    assert [row[0] for row in shown.rows] == ["BB-3", "DL-6"]
    assert shown.rows[0][2] == "waits for a GPU"


def test_paper_returns_the_value():
    assert chapter.paper("fcn", "parameters_fcn8s") == PAPERS["fcn"].facts["parameters_fcn8s"].value == 134_489_759
    with pytest.raises(ValueError, match="no paper 'fnc'; there are fcn"):
        chapter.paper("fnc", "parameters_fcn8s")
    with pytest.raises(ValueError, match="no fact 'parameters'; it has .*parameters_fcn8s"):
        chapter.paper("fcn", "parameters")


def test_no_output_holds_a_path(rows, capsys):
    chapter.settings()
    chapter.dataset("camvid")
    text = capsys.readouterr().out + repr(chapter.running_table()) + repr(chapter.claims("INTRO-1", "FCN-1"))
    assert not re.search(r"(^|\s)/\w+/|[A-Z]:\\", text)
