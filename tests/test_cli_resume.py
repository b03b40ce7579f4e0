"""`segtutor train --resume`: what a run may change on its way, that the change takes effect, and that it is written."""

import json
from pathlib import Path

import pytest
import tiny_runs
import yaml
from tiny_runs import CONFIG

from segtutor import cli, runs
from segtutor.factory.backbones import registry
from segtutor.runs import RunError
from segtutor.runs.folder import config_of, recipe_of, write_config
from segtutor.runs.resume import RULES, _flat, check_changes, rule_of
from segtutor.training import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")
BASE = ["training.steps=4", "training.schedule=constant", "evaluation.boundary_width=null"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


@pytest.fixture
def run(tmp_path):
    runs.train(CONFIG, BASE, out=tmp_path / "run")
    return tmp_path / "run"


def of(run):
    return load_checkpoint(run / "checkpoint.pt")


def test_what_may_change_takes_effect_and_is_written_down(run, capsys):
    changes = ["training.lr=0.001", "training.weight_decay=0.5", "logging.every=1", "training.num_workers=1"]
    assert cli.main(["train", "--resume", str(run), "training.steps=6", *changes]) == 0
    printed = capsys.readouterr().out
    assert "training.lr: 0.001 in place of 0.01 from step 5 on" in printed and "step 5/6" in printed
    state, written = of(run), config_of(run)
    assert state["history"]["lr"] == [0.01] * 4 + [0.001] * 2
    assert [group["weight_decay"] for group in state["optimizer"]["param_groups"]] == [0.5]
    assert written == state["config"] and (written["training"]["lr"], written["training"]["steps"]) == (0.001, 6)
    noted = json.loads((run / "history.json").read_text())["changes"]
    assert {(entry["step"], entry["key"], entry["old"], entry["new"]) for entry in noted} == {
        (5, "training.steps", 4, 6),
        (5, "training.lr", 0.01, 0.001),
        (5, "training.weight_decay", 1e-4, 0.5),
        (5, "training.num_workers", 0, 1),
        (5, "logging.every", None, 1),
    }
    assert cli.main(["train", "--resume", str(run), "training.steps=7"]) == 0
    assert [entry["key"] for entry in of(run)["changes"][5:]] == ["training.steps"], "earlier changes are kept"


def test_a_file_that_was_edited_counts_like_an_option(run):
    config = config_of(run)
    config["training"].update(lr=0.002, steps=5)
    write_config(run, config)
    assert runs.resume(run).lr == [0.01] * 4 + [0.002]


def test_extending_a_run_is_training_longer(tmp_path, run, capsys):
    whole = runs.train(CONFIG, [*BASE, "training.steps=6"], out=tmp_path / "whole")
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "Train on with --extend STEPS" in capsys.readouterr().out
    assert cli.main(["train", "--resume", str(run), "--extend", "2"]) == 0
    state = of(run)
    assert state["history"]["loss"] == whole.loss and state["config"]["training"]["steps"] == 6
    for arguments, says in [
        (["--config", "pools-fcn", "--extend", "2"], "name it with --resume"),
        (["--resume", str(run), "--extend", "0"], "give the number of steps to train on"),
    ]:
        assert cli.main(["train", *arguments]) == 2
        assert says in capsys.readouterr().err


REFUSED = [
    (
        "training.batch_size=4",
        "training.batch_size: the run has had 2, and is now asked for 4; the order of the images",
    ),
    ("training.seed=1", "training.seed: the run has had 0, and is now asked for 1"),
    ("training.optimizer=sgd", "training.optimizer.type: the run has had 'adamw', and is now asked for 'sgd'"),
    ("training.loss=DiceLoss", "training.loss: the run has had .*CrossEntropyLoss.* asked for .*DiceLoss"),
    ("data.augmentation.crop=[32,32]", "data.augmentation.crop: the run has had None, .* other images than so far"),
    ("data.length=9", "data.length: the run has had 8, and is now asked for 9; .*other data"),
    ("data.type=cells", "data.type: the run has had 'scenes', and is now asked for 'cells'"),
    ("model.backbone.width=8", "model.backbone.width: the run has had 4, and is now asked for 8; the saved weights"),
    ("model.seed=3", "model.seed: the run has had 0, and is now asked for 3"),
    ("training.steps=3", "training.steps: the run has 4 steps already, of 4, and cannot end after 3"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
        runs.train(CONFIG, BASE, out=folder)
    return folder


@pytest.mark.parametrize(("change", "says"), REFUSED, ids=[change for change, _ in REFUSED])
def test_what_must_not_change_is_refused_in_one_sentence(done, change, says):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=says) as caught:
        runs.resume(done, [change])
    assert "\n" not in str(caught.value)
    assert "train anew with `segtutor train --config" in str(caught.value) or change.startswith("training.steps")
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before


def test_the_table_has_a_rule_for_every_key_and_uses_each(done):
    keys = {**_flat(recipe_of(done).to_dict()), "data.path": "", "data.root": "", "data.classes": "", "x": ""}
    used = {rule_of(key) for key in [*keys, "training.new", "data.keep_in_memory", "model.backbone.checkpointing"]}
    assert set(RULES) - used <= {rule for rule in RULES if rule.key in ("training.optimizer*",)}
    assert all(rule.because for rule in RULES)


def test_the_page_names_what_may_change():
    page = (Path(__file__).parents[1] / "book" / "api" / "command_line.md").read_text(encoding="utf-8")
    named = page[page.index("## Continuing a run") :]
    for rule in RULES:
        last = rule.key.rstrip(".*").rpartition(".")[2]
        assert not rule.free or f"{last}`" in named, rule.key


def test_other_images_are_noticed_and_moved_ones_are_not_others(tmp_path):
    import numpy as np
    from PIL import Image

    base, generator = tmp_path / "mine", np.random.default_rng(0)
    top = {"images": 255, "masks": 3}
    for name in top:
        (base / name).mkdir(parents=True)
        for i in range(8):
            shape = (32, 32, 3) if name == "images" else (32, 32)
            Image.fromarray(generator.integers(0, top[name], shape, np.uint8)).save(base / name / f"{i}.png")
    data = {"type": "folder", "path": str(base), "classes": ["a", "b", "c"]}
    run = tmp_path / "run"
    runs.train({**CONFIG, "data": data}, BASE, out=run)
    for classes, says in [("[b,a,c]", "'b', 'a', 'c'"), ("[a,b,c,d]", "'a', 'b', 'c', 'd'")]:
        with pytest.raises(
            RunError, match=f"data.classes: the run has had .*'a', 'b', 'c'.* is now asked for .*{says}"
        ):
            runs.resume(run, [f"data.classes={classes}", "training.steps=5"])
    moved = base.rename(tmp_path / "moved")
    runs.resume(run, [f"data.path={moved}", "training.steps=5"])
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["data"]["path"] == str(moved) and written["data"]["lists"] is None
    train = (run / "split" / "train.txt").read_text().splitlines()
    for name in top:
        (moved / name / f"{train[0]}.png").rename(moved / name / "other.png")
    (run / "split" / "train.txt").write_text("\n".join(["other", *train[1:]]) + "\n")
    with pytest.raises(RunError, match="the training images are not those that the run began with"):
        runs.resume(run, ["training.steps=6"])


def test_a_run_that_saved_nothing_is_in_nobodys_way(tmp_path, run, capsys, monkeypatch):
    whole = of(run)["history"]["loss"]
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("segtutor.training.fit", lambda *_, **__: 1 / 0)
        for _again in range(2):  # the second time into the same folder
            with pytest.raises(RunError, match="Nothing was saved yet, so that the same command starts anew"):
                runs.train(CONFIG, BASE, out=cut)
    assert cli.main(["train", "--resume", str(cut), "--extend", "3"]) == 2
    assert "has no steps yet" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(cut)]) == 0
    assert "No step of" in capsys.readouterr().out and of(cut)["history"]["loss"] == whole
    (tmp_path / "own").mkdir()
    write_config(tmp_path / "own", config_of(run))  # somebody's configuration, not a run's
    with pytest.raises(RunError, match="is in use"):
        runs.train(CONFIG, BASE, out=tmp_path / "own")


def test_a_checkpoint_of_another_program_is_refused(tmp_path, run):
    state = of(run)
    del state["config"]
    from segtutor.training import save_checkpoint

    save_checkpoint(state, run / "checkpoint.pt")
    with pytest.raises(RunError, match="was not written by `segtutor train`"):
        runs.resume(run)


def test_keys_that_are_newer_than_a_run_are_no_changes():
    from segtutor.runs.resume import changed

    before, now = {"training": {"lr": 1}}, {"training": {"lr": 1, "ema": 0.9}}
    assert changed(before, now, said=before) == [], "0.9 is what the program fills in"
    assert [change.key for change in changed(before, now, said=now)] == ["training.ema"]
    with pytest.raises(RunError, match="training.ema: the run has had None, and is now asked for 0.9"):
        check_changes(Path("run"), changed(before, now, said=now), 0)
    assert [change.key for change in changed({"a": {"map": {0: 1}}}, {"a": {"map": {0: 2}}}, said={})] == ["a.map"]
