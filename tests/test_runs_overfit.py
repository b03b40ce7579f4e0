"""`segtutor train --overfit N`: a set-up that works learns N images by heart; a broken one does not, and is told so."""

import json

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from segtutor import cli, runs
from segtutor.factory.backbones import registry
from segtutor.runs import RunError

MODEL = {"backbone": {"type": "pools", "width": 8}, "head": {"type": "segformer", "proj_dim": 16}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


def setup(folder, mask_of):
    """A configuration, with images of a bright square and the masks that a function makes of where it is."""
    base, generator = folder / "mine", np.random.default_rng(0)
    for name in ("images", "masks"):
        (base / name).mkdir(parents=True)
    for i in range(6):
        square = np.zeros((32, 48), bool)
        square[4:28, 4 + 4 * i : 24 + 4 * i] = True  # as coarse as the maps of the backbone
        image = np.where(square[..., None], 220, 40) + generator.integers(0, 20, (32, 48, 3))
        Image.fromarray(image.astype(np.uint8)).save(base / "images" / f"{i}.png")
        Image.fromarray(mask_of(square, generator).astype(np.uint8)).save(base / "masks" / f"{i}.png")
    data = {"type": "folder", "path": str(base), "classes": ["dark", "light"]}
    training = {"batch_size": 4, "lr": 0.02, "precision": "fp32", "steps": 10_000, "warmup": 5000}
    path = folder / "c.yaml"
    path.write_text(json.dumps({"model": MODEL, "data": data, "training": training}), encoding="utf-8")
    return path


def true(square, generator):
    return square


def noise(square, generator):
    return generator.integers(0, 2, square.shape)


CASES = {
    "good": (true, [], 0, "Learnt by heart: the loss went from"),
    "labels that are noise": (noise, [], 1, "Learnt in part: |Not learnt: "),
    "no learning rate": (true, ["training.lr=0"], 1, "Not learnt: .*Look first at training.lr, which is 0:"),
}


@pytest.mark.parametrize(("mask_of", "overrides", "expected", "says"), CASES.values(), ids=CASES)
def test_a_set_up_that_works_learns_by_heart_and_a_broken_one_is_told(
    tmp_path, monkeypatch, capsys, mask_of, overrides, expected, says
):
    import re

    path = setup(tmp_path, mask_of)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(runs.overfit.__globals__, "STEPS", 100)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["train", "--config", str(path), "--overfit", "2", *overrides]) == expected
    text = capsys.readouterr().out
    assert re.search(says, text, re.S), text
    assert "Overfit: 2 training images of 32 x 48" in text and "mIoU on the same images" in text
    assert sorted(tmp_path.rglob("*")) == before


def test_what_overfit_needs(tmp_path, capsys):
    path = setup(tmp_path, true)
    assert cli.main(["train", "--config", str(path), "--overfit", "2", "--out", "x"]) == 2
    assert "writes nothing" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path), "--overfit", "2"]) == 2
    assert "give --config" in capsys.readouterr().err
    for count in (0, 99):
        with pytest.raises(RunError, match=f"--overfit {count}: give a number from 1 to"):
            runs.overfit(str(path), images=count)
