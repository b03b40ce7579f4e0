"""The report of a run: one file, nothing from elsewhere, everything escaped, the right images, no path of a machine."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image
from tiny_runs import CONFIG

from segtutor import cli, runs
from segtutor.factory.backbones import registry
from segtutor.metrics import ConfusionMatrix
from segtutor.runs import RunError
from segtutor.runs.curves import binned
from segtutor.runs.page import matrix
from segtutor.training import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")
CLASSES = ["earth <b>", "leaf & stem", '"beetle"']


class Parsed(HTMLParser):
    """Tags, attributes, ids and text of a page; whether every tag that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on ten images of three classes with names that a page must escape, changed and extended on its way."""
    folder, generator = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 8)):
        for name in ("images", "masks"):
            (folder / "mine" / part / name).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((32, 48), np.uint8)
            mask[:, : 6 * (i + 1)] = 1
            mask[:8, :8] = 2
            mask[-2:] = 255
            image = 60 * mask[..., None].clip(0, 2) + generator.integers(0, 50, (32, 48, 3))
            Image.fromarray(mask).save(folder / "mine" / part / "masks" / f"{part}{i}.png")
            Image.fromarray(image.astype(np.uint8)).save(folder / "mine" / part / "images" / f"{part}{i}.png")
    data = {"type": "folder", "path": str(folder / "mine"), "classes": CLASSES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
        given = {**CONFIG, "data": data, "logging": {}}
        runs.train(given, ["training.validate_every=3"], out=folder / "a <i>run")
        (folder / "a <i>run" / "report.html").unlink()
        runs.resume(folder / "a <i>run", ["training.lr=0.002"], extend=2)
        yield folder / "a <i>run"


@pytest.fixture
def text(run):
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_page_is_one_file_that_asks_for_nothing(run, text):
    found = Parsed(text)
    assert found.open == [] and "script" not in found.tags and "link" not in found.tags
    for name, value in found.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/", "#")), value
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    assert "@import" not in text and "url(http" not in text and len(text) < 400_000
    assert {"prefers-color-scheme: dark", "width=device-width"} <= set(re.findall("prefers[^)]*|width=dev[^,]*", text))


def test_everything_is_escaped(text):
    found = Parsed(text)
    assert not {"b>", "i>run"} & set(found.tags) and found.tags.count("h1") == 1
    for name in [*CLASSES, "a <i>run: report"]:
        assert name in found.text and (name == CLASSES[2] or name not in text)


def test_no_path_tells_of_the_machine(run, text):
    assert str(run.parent) not in text and not re.search(r"(?<![\w./])/(tmp|home|work|var|root|Users)\b", text)
    assert re.search("path: '?[.]{3}/mine", Parsed(text).text)


def test_the_numbers_are_those_of_evaluate(run, text, tiny):
    scores, words = runs.evaluate(run, "val"), Parsed(text).text
    assert f"mIoU {100 * scores['miou']:.1f} % mIoU on the borders {100 * scores['boundary_miou']:.1f} %" in words
    for name in CLASSES:
        assert re.search(rf"{re.escape(name)} {100 * scores['iou'][name]:.1f}\b", words)
    assert "training.lr 0.01 0.002" in words and "training.steps 6 8" in words and "steps 8" in words
    assert f"torch {torch.__version__.split('+')[0]}" in words and "Validation mIoU (%)" in words


def test_the_worst_and_the_best_images_are_shown(run, text, tiny):
    from segtutor.runs.evaluate import opened

    found = opened(run, "val")
    alone = {f"val{i}.png": evaluate(found.model, [found.data[i]], **found.rules).miou for i in range(8)}
    shown = re.findall(r"<figcaption><b>(val\d\.png)</b>: mIoU ([\d.]+) %", text)
    order = sorted(alone, key=alone.__getitem__)
    assert [name for name, _ in shown] == [*order[:3], *order[:-4:-1]]
    assert all(score == f"{100 * alone[name]:.1f}" for name, score in shown)
    assert text.count("data:image/png") == 12 and text.count("data:image/jpeg") == 12
    assert "void" in Parsed(text).text


def test_the_command_writes_it_again_and_needs_a_run(run, tiny, tmp_path, capsys):
    assert cli.main(["report", str(run), "--split", "train", "--weights", "last"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert "Scores of the last weights on 4 images" in Parsed((run / "report.html").read_text()).text
    assert cli.main(["report", str(run)]) == 0
    assert cli.main(["report", str(tmp_path)]) == 2 and "is not a run" in capsys.readouterr().err
    with pytest.raises(RunError, match="history.json cannot be read"):
        (tmp_path / "config.yaml").write_text("{}")
        runs.report(tmp_path)


def test_a_report_that_fails_does_not_cost_the_run(tiny, tmp_path, monkeypatch, caplog):
    import sys

    def fails(run):
        raise ValueError("no ink")

    caplog.set_level("INFO", "segtutor")
    monkeypatch.setattr(sys.modules["segtutor.runs.report"], "report", fails)
    runs.train({**CONFIG, "logging": {}}, ["training.steps=1"], out=tmp_path / "run")
    assert "the report was not written (ValueError: no ink)" in caplog.messages[-2] and "Done" in caplog.messages[-1]
    assert json.loads((tmp_path / "run" / "history.json").read_text())["steps"] == [1]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


def test_a_confusion_matrix_says_what_rows_mean():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 0, 1]]))
    counts = confusion.matrix.double().numpy()
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(1, keepdims=True)
    shown = matrix(shares, ["a", "b", "c"], numbers=True)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown)
    assert cells == ["33", "67", "", "", "100", "", "", "", ""] and 'title="a taken for b: 66.7 %"' in shown


def test_long_curves_are_thinned_out():
    steps, values = binned(range(1, 10_001), [float(i) for i in range(10_000)])
    assert len(steps) == len(values) == 500 and values[0] == 9.5 and steps[-1] == 9990.5
    assert [list(part) for part in binned([1, 2], [3.0, 4.0])] == [[1, 2], [3, 4]]
