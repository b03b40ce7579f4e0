"""From a YAML file to a trained model, its scores and its predictions, through the command line."""

import importlib
import inspect
import json

import numpy as np
import pytest
import tiny_runs
import torch
import yaml
from PIL import Image
from tiny_runs import CONFIG
from torch import nn

from segtutor import cli, data, factory, runs
from segtutor.factory import ConfigError, SegmentationModel
from segtutor.factory.backbones import registry
from segtutor.runs import optimization, read_recipe
from segtutor.runs.data import open_data, parse_data
from segtutor.runs.recipe import Training, parse_training
from segtutor.training import load_checkpoint

train_module = importlib.import_module("segtutor.runs.train")  # the package has a function of that name
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "street.yaml"
    path.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """A folder of images and masks as a student has one: sizes differ, one mask per image."""
    base, generator = tmp_path / "mine", np.random.default_rng(0)
    for name in ("images", "masks"):
        (base / name).mkdir(parents=True)
    for i in range(6):
        size = (40 + 2 * i, 50)
        Image.fromarray(generator.integers(0, 255, (*size, 3), np.uint8)).save(base / "images" / f"{i}.jpg")
        Image.fromarray(generator.integers(0, 3, size, np.uint8)).save(base / "masks" / f"{i}.png")
    return base


def test_a_run_from_config_to_prediction(tmp_path, config, capsys):
    run = tmp_path / "run"
    assert (
        cli.main(["train", "--config", config, "training.steps=4", "training.validate_every=2", "--out", str(run)]) == 0
    )
    printed = capsys.readouterr().out
    assert "8 images to train on, 8 to validate, 11 classes" in printed and "step 4/4" in printed
    assert f"Next: segtutor evaluate {run}" in printed
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["training"]["steps"] == 4 and written["training"]["weight_decay"] == 1e-4
    assert written["model"]["num_classes"] == 11 and written["data"]["augmentation"]["flip"] is True
    history = json.loads((run / "history.json").read_text())
    assert history["steps"] == [1, 2, 3, 4] and [step for step, _ in history["validation"]] == [2, 4]
    model = SegmentationModel.from_pretrained(run / "last")
    assert model.info.classes[0] == "sky" and model.info.input_size == (32, 48) and model.info.palette[0]

    assert cli.main(["evaluate", str(run), "--split", "val"]) == 0
    assert "bicyclist" in (printed := capsys.readouterr().out) and "SyntheticScenes, val, 8 images" in printed
    scores = json.loads((run / "scores.json").read_text())["val"]
    assert scores["weights"] == "best" and set(scores["iou"]) == set(model.info.classes)
    best = max(history["validation"], key=lambda entry: entry[1]["miou"])
    assert scores["miou"] == best[1]["miou"] and scores["boundary_miou"] == best[1]["boundary_miou"]
    assert cli.main(["evaluate", str(run), "--split", "val", "--interval"]) == 0
    low, high = json.loads((run / "scores.json").read_text())["val"].pop("miou_interval")
    assert low < scores["miou"] < high and f"({low:.4f} to {high:.4f} over other" in capsys.readouterr().out
    assert json.loads((run / "scores.json").read_text())["val"] == {**scores, "miou_interval": [low, high]}

    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.full((61, 90, 3), 90, np.uint8)).save(photo)
    (tmp_path / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert cli.main(["predict", str(run), str(tmp_path / "broken.png"), str(photo), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "broken.png was left out" in printed.err and "1 of 2 images were left out" in printed.err
    assert "Wrote 1 label file and overlay" in printed.out
    assert sorted(path.name for path in out.iterdir()) == ["legend.png", "photo.png", "photo_overlay.png"]
    labels = Image.open(out / "photo.png")
    assert labels.mode == "P" and labels.size == (90, 61) and np.asarray(labels).max() < 11
    assert tuple(labels.getpalette()[:3]) == model.info.palette[0]


def test_a_binary_run_may_have_one_logit(tmp_path, capsys):
    """Two classes, one logit that tells them apart: names and colours stay with the model."""
    base, out = tmp_path / "mine", tmp_path / "out"
    for name in ("images", "masks"):
        (base / name).mkdir(parents=True)
    for i in range(6):
        mask = np.zeros((40, 50), np.uint8)
        mask[5 * i : 5 * i + 20] = 1
        Image.fromarray(mask).save(base / "masks" / f"{i}.png")
        Image.fromarray(np.stack([255 * mask] * 3, -1)).save(base / "images" / f"{i}.png")
    own = {"type": "folder", "path": str(base), "classes": ["tissue", "membrane"], "size": [40, 50]}
    training = {**CONFIG["training"], "steps": 40, "lr": 0.1, "loss": ["CrossEntropyLoss", "DiceLoss"]}
    given = {"model": {**CONFIG["model"], "num_classes": 1}, "data": own, "training": training}
    runs.train(given, out=tmp_path / "run")
    model = SegmentationModel.from_pretrained(tmp_path / "run" / "last")
    assert model.info.classes == ("tissue", "membrane") and model.config.num_classes == 1
    assert cli.main(["evaluate", str(tmp_path / "run"), "--split", "val"]) == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["val"]
    assert set(scores["iou"]) == {"tissue", "membrane"} and scores["miou"] > 0.5
    assert cli.main(["predict", str(tmp_path / "run"), str(base / "images"), "--out", str(out)]) == 0
    pictures = [Image.open(out / f"{i}.png") for i in range(6)]
    assert {int(label) for picture in pictures for label in np.unique(picture)} == {0, 1}
    assert tuple(pictures[0].getpalette()[3:6]) == model.info.palette[1]
    with pytest.raises(ConfigError, match="num_classes: 1, but the images of data 'scenes' have 11 classes"):
        read_recipe({**given, "data": CONFIG["data"]})


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_continued_run_equals_the_uninterrupted_one(tmp_path, config, capsys, monkeypatch, auxiliary):
    extra = [f"model.auxiliary={str(auxiliary).lower()}", "data.augmentation.color=0.5", "training.validate_every=4"]
    whole = runs.train(config, extra, out=tmp_path / "whole")
    tiny_runs.interrupt_at_the_first_history(monkeypatch, train_module)
    run = tmp_path / "cut"
    assert cli.main(["train", "--config", config, *extra, "training.save_every=3", "--out", str(run)]) == 130
    assert "Continue with: segtutor train --resume" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
    done = len(load_checkpoint(run / "checkpoint.pt")["history"]["steps"])
    assert 0 < done < 6
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert f"after step {done} of 6" in capsys.readouterr().out
    history = load_checkpoint(run / "checkpoint.pt")["history"]
    assert history["loss"] == whole.loss and history["validation"] == whole.validation
    for name in ("last", "best"):
        one, two = (SegmentationModel.from_pretrained(tmp_path / kind / name).state_dict() for kind in ("whole", "cut"))
        assert all(one[key].equal(two[key]) for key in one)
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "nothing is left to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("validation", "steps", "best"),
    [
        ([], 4, False),
        ([(2, 0.3)], 2, True),
        ([(2, 0.3)], 3, False),
        ([(2, 0.3), (4, 0.5)], 4, True),
        ([(2, 0.3), (4, 0.3)], 4, False),
        ([(2, 0.5), (4, 0.3), (6, 0.4)], 6, False),
    ],
)
def test_the_best_model_is_the_one_that_scored_best(validation, steps, best):
    history = {
        "steps": list(range(1, steps + 1)),
        "validation": [(step, {"miou": score}) for step, score in validation],
    }
    assert train_module._is_best(history) == best


def test_a_run_is_never_overwritten(tmp_path, config, capsys):
    run = tmp_path / "run"
    runs.train(config, ["training.steps=1"], out=run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main(["train", "--config", config, "--out", str(run)]) == 2
    assert f"--resume {run}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")
    assert cli.main(["train", "--config", config, "--out", str(tmp_path / "photos")]) == 2
    assert "resume" not in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path / "photos")]) == 2
    assert "is not a run: config.yaml is missing" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(run), "--out", str(tmp_path / "other")]) == 2
    assert "in its own folder" in capsys.readouterr().err
    (run / "checkpoint.pt").unlink()
    assert cli.main(["train", "--resume", str(run)]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


def test_training_trains_on_augmented_images(tmp_path, config, monkeypatch):
    asked = []
    monkeypatch.setattr(
        train_module.training, "fit", lambda model, data, **rules: asked.append((data, rules)) or stop()
    )

    def stop():
        raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough"):
        runs.train(
            config,
            ["data.augmentation.crop=[32,32]", "training.gradient_clip=1", "training.warmup=1"],
            out=tmp_path / "run",
        )
    [(data, rules)] = asked
    assert data[0][0].shape == (3, 32, 32) and rules["validation"][0][0].shape == (3, 32, 48)
    assert (rules["gradient_clip"], rules["save_every"], rules["seed"], rules["schedule"](0, 6)) == (1.0, 1, 0, 0.5)


def test_small_images_are_refused_before_a_folder_is_made(tmp_path, config):
    with pytest.raises(ConfigError, match="data: the images of training are 16 x 32 pixels, .* sides of 32: give"):
        runs.train(config, ["data.augmentation.crop=[16,32]"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_sections_evaluation_and_logging_are_followed(tmp_path, config, capsys):
    pytest.importorskip("tensorboard")
    changes = ["evaluation.boundary_width=null", "evaluation.batch_size=3", "logging={every: 3, tensorboard: true}"]
    run = tmp_path / "run"
    assert cli.main(["train", "--config", config, *changes, "--out", str(run)]) == 0
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert lines == ["step 3/6", "step 6/6"]
    [(_, scores)] = json.loads((run / "history.json").read_text())["validation"]
    assert "miou" in scores and "boundary_miou" not in scores
    assert list((run / "tensorboard").glob("events.*"))
    assert cli.main(["evaluate", str(run), "--split", "val"]) == 0
    assert "borders" not in capsys.readouterr().out.splitlines()[-1]
    scored = json.loads((run / "scores.json").read_text())["val"]
    assert "iou" in scored and "boundary_iou" not in scored


def test_the_loss_leaves_out_what_the_data_leave_out(tmp_path, folder, monkeypatch):
    given = {}

    def fit(model, data, **rules):
        given.update(rules)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(train_module.training, "fit", fit)
    data = {"type": "folder", "path": str(folder), "classes": 2, "ignore_index": 2, "augmentation": {"crop": [32, 32]}}
    with pytest.raises(RuntimeError, match="seen enough"):
        runs.train({**CONFIG, "data": data}, out=tmp_path / "run")
    assert given["loss"].ignore_index == 2
    monkeypatch.undo()
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
    history = runs.train({**CONFIG, "data": data}, ["training.steps=1"], out=tmp_path / "run")
    assert 0 <= history.validation[0][1]["miou"] <= 1


def test_a_folder_of_ones_own(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {
        **CONFIG,
        "data": {"type": "folder", "path": "mine", "classes": ["a", "b", "c"], "augmentation": {"crop": [32, 32]}},
    }
    runs.train(config, ["training.steps=2"], out=tmp_path / "run")
    monkeypatch.chdir("/")
    data = read_recipe(tmp_path / "run" / "config.yaml").data
    train, held_out = ([image.name for image, _ in open_data(data, split).pairs] for split in ("train", "val"))
    assert train and held_out and sorted(train + held_out) == [f"{i}.jpg" for i in range(6)]
    with pytest.raises(ConfigError, match="has no part 'test': choose train or val"):
        open_data(data, "test")
    assert runs.evaluate(tmp_path / "run")["images"] == len(held_out)
    assert list(json.loads((tmp_path / "run" / "scores.json").read_text())) == ["val"]
    model = SegmentationModel.from_pretrained(tmp_path / "run" / "best")
    assert model.info.classes == ("a", "b", "c") and model.info.input_size == (32, 32)
    written, refused = runs.predict(tmp_path / "run", [folder / "images", folder / "images" / "0.jpg"], tmp_path / "o")
    assert refused == [] and [path.name for path in written] == [f"{i}.png" for i in range(6)]
    assert Image.open(tmp_path / "o" / "5.png").size == (50, 50)


def test_a_folder_with_its_own_split(tmp_path, folder):
    for part in ("train", "val"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        for name in ("images", "masks"):
            (tmp_path / "parts" / part / name).symlink_to(folder / name)
    data = parse_data({"type": "folder", "path": str(tmp_path / "parts"), "classes": 3})
    assert len(open_data(data, "train")) == len(open_data(data, "val")) == 6
    with pytest.raises(ConfigError, match="has no part 'test': choose train or val"):
        open_data(data, "test")


@pytest.mark.parametrize("name", ["camvid", "vnc"])
def test_real_data(name):
    if not data.available(name):
        pytest.skip("its files are not here")
    section = {"type": name, "tile": 256} if name == "vnc" else name
    made = read_recipe({"model": {"backbone": "pools", "head": "fcn"}, "data": section})
    opened = open_data(made.data, "train", augment=True)
    assert made.model.num_classes == opened.spec.num_classes and made.model.in_channels == opened.spec.in_channels
    image, mask = opened[0]
    assert image.shape == ((1, 256, 256) if name == "vnc" else (3, 360, 480)) and mask.shape == image.shape[1:]


CHANGES = [
    ({"modle": {}}, [], "modle: unknown key; did you mean 'model'"),
    ({"model": None}, [], "model: expected keys and values"),
    ({"model": 5}, [], "model: expected keys and values, found 5"),
    ({"model": "resnet18-fnc"}, [], "model.head.type: 'fnc' is unknown; did you mean .*'fcn'"),
    ({"model": "resnt18-fcn"}, [], "model: 'resnt18' in 'resnt18-fcn' is no backbone"),
    ({}, ["model.backbone.dept=18"], "model.backbone.dept: unknown key"),
    ({}, ["model.num_classes=12"], "model.num_classes: 12, but the images of data 'scenes' have 11 classes"),
    ({}, ["model.in_channels=1"], "model.in_channels: 1, but .* have 3 channels; leave the key out"),
    ({}, ["data.sise=[64,64]"], "data.sise: unknown key; did you mean 'size'"),
    ({}, ["data=senes"], "data.type: 'senes' is unknown; did you mean 'scenes'"),
    ({}, ["data.size=64"], "data.size: 64 is an int, expected"),
    ({}, ["data.size=[64]"], r"data.size: \[64\] has 1 entry, expected 2"),
    ({}, ["data.augmentation.crop=[64,64,64]"], "data.augmentation.crop: .* has 3 entries, expected 2"),
    ({}, ["data.augmentation.scale=[0.5,2]"], "data.augmentation: .*set crop beside scale"),
    ({}, ["data.augmentation.croop=2"], "data.augmentation.croop: unknown key; did you mean 'crop'"),
    ({}, ["data.augmentation={scale: [2,0.5], crop: [32,32]}"], r"data: scale=\(2.0, 0.5\) is not valid"),
    ({}, ["data.augmentation=5"], "data.augmentation: 5 is an int, expected keys and values"),
    ({}, ["data.crop=[32,32]"], "data.crop: unknown key; did you mean"),
    ({}, ["data.knobs={poles: 2}"], "data.knobs.poles: unknown key; did you mean .*'scale'"),
    ({}, ["data.knobs={noise: 2}"], "data.knobs: SyntheticScenes knob noise=2.0 is not valid"),
    ({}, ["data.keep_in_memory=true"], "data.keep_in_memory: SyntheticScenes does not read its images from files"),
    ({"data": {"type": "folder"}}, [], "data.path: missing"),
    ({"data": {"type": "folder", "path": "nowhere", "classes": 2}}, [], "data: there is no folder"),
    ({}, ["training.step=5"], "training.step: unknown key; did you mean 'steps'"),
    ({}, ["training.steps=0"], "training.steps: 0 is too small"),
    ({}, ["training.lr=fast"], "training.lr: 'fast' is a str, expected float"),
    ({}, ["training.schedule.steps=5"], "training.schedule.type: missing; did you mean 'poly', 'cosine' or 'constant'"),
    ({}, ["training.loss=Dice"], "training.loss.type: 'Dice' is unknown; did you mean 'DiceLoss'"),
    ({}, ["training.loss={type: DiceLos}"], "training.loss.type: 'DiceLos' is unknown; did you mean 'DiceLoss'"),
    ({}, ["training.loss={type: DiceLoss, smoth: 1}"], "training.loss.smoth: unknown key; did you mean 'smooth'"),
    (
        {},
        ["training.loss=[DiceLoss, {type: FocalLoss, gama: 1}]"],
        r"training.loss\[1\].gama: unknown key; did .*'gamma'",
    ),
    ({}, ["training.loss={type: DiceLoss, loss_weight: -1}"], "training.loss.loss_weight: -1 is too small"),
    ({}, ["training.loss={type: FocalLoss, gamma: -1}"], "training: gamma is -1.0; below 0"),
    ({}, ["training.loss={type: CrossEntropyLoss, weight: [1, 2]}"], "training: .*2"),
    ({}, ["training.loss={type: CrossEntropyLoss, ignore_index: 0}"], "training.loss.ignore_index: unknown key"),
    ({}, ["training.loss=[]"], "training.loss: an empty list; name at least one loss"),
    ({}, ["training.optimizer=sdg"], "training.optimizer.type: 'sdg' is unknown; did you mean 'sgd'"),
    ({}, ["training.optimizer={type: sgd, momentum: 1}"], "training.optimizer.momentum: 1 is too large, .* below 1"),
    ({}, ["training.optimizer={type: sgd, lr: 1}"], "training.optimizer.lr: unknown key"),
    ({}, ["training.optimizer={type: sgd, momentum: 0, nesterov: true}"], "training: Nesterov momentum requires"),
    ({}, ["evaluation.boundary_width=0"], "evaluation.boundary_width: 0 is too small"),
    ({}, ["evaluation.limit=1"], "evaluation.limit: unknown key; did you mean"),
    ({}, ["logging.tensorboard=1"], "logging.tensorboard: 1 is an int, expected bool"),
    ({}, ["logging.evry=1"], "logging.evry: unknown key; did you mean 'every'"),
    ({"training": [1]}, [], r"training: expected keys and values, found \[1\]"),
    ({}, ["trainning.steps=5"], "trainning.steps: unknown key; did you mean 'training'"),
    ({}, ["training.steps"], "training.steps: an override has the form key=value"),
    ({}, ["training.steps=[1"], "training.steps is not valid YAML"),
    ({}, ["training.steps.more=1"], "training.steps.more: steps is 6, which has no keys"),
]


@pytest.mark.parametrize(("change", "overrides", "says"), CHANGES, ids=[says[:40] for *_, says in CHANGES])
def test_errors_name_the_key_and_the_nearest_choice(change, overrides, says):
    with pytest.raises(ConfigError, match=says) as caught:
        read_recipe({**CONFIG, **change}, overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_model_is_named():
    with pytest.raises(ConfigError, match="model: missing; add a section"):
        read_recipe({"data": "scenes"})


def test_data_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGTUTOR_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="data: CamVid is not on this machine"):
        read_recipe({"model": "resnet18-fcn", "data": "camvid"})
    with pytest.raises(ConfigError, match="voc has no split 'test'; choose train or val"):
        open_data(parse_data("voc"), "test")


def test_overrides_reach_into_names_and_read_numbers_as_people_write_them():
    made = read_recipe(
        "pools-fcn", ["model.head.dropout=0", "training.lr=1e-3", "data=cells", "training.loss=DiceLoss"]
    )
    assert made.model.head["dropout"] == 0.0 and made.training.lr == 1e-3
    assert made.model.num_classes == 5 and made.model.in_channels == 1 and made.data["type"] == "cells"
    assert factory.config.parse_yaml("[1e-3, 2.5E+4, -1e2, 12, 1e, true]", "x") == [1e-3, 2.5e4, -100, 12, "1e", True]
    again = read_recipe(made.to_dict())
    assert again == made and again.to_dict() == made.to_dict()
    assert read_recipe({**made.to_dict(), "when": "for trying"}) == made
    assert read_recipe("pools-fcn").data["type"] == "scenes"


def test_a_mapping_is_not_changed():
    config = {"model": {"backbone": "pools", "head": {"type": "fcn"}}, "data": "scenes"}
    read_recipe(config, ["model.head.dropout=0.5", "training.steps=3"])
    assert config == {"model": {"backbone": "pools", "head": {"type": "fcn"}}, "data": "scenes"}


def loss_of(section, ignore_index=7, auxiliary=False, **more):
    return parse_training({"loss": section, **more}).make_loss(ignore_index, auxiliary)


def test_losses_are_those_named():
    from segtutor import losses
    from segtutor.lab.papers import PAPERS

    assert Training().auxiliary_weight == PAPERS["pspnet"].facts["auxiliary_weight"].value
    assert Training() == parse_training({})
    logits, target = torch.randn(1, 3, 4, 4), torch.tensor([[[0, 1, 2, 7]] * 4])
    parts = losses.CrossEntropyLoss(ignore_index=7), losses.DiceLoss(ignore_index=7)
    both = loss_of(["CrossEntropyLoss", {"type": "DiceLoss", "loss_weight": 0.5}])
    assert both(logits, target) == parts[0](logits, target) + 0.5 * parts[1](logits, target)
    assert type(loss_of("CrossEntropyLoss")) is type(loss_of(["CrossEntropyLoss"])) is losses.CrossEntropyLoss
    doubled = loss_of({"type": "CrossEntropyLoss", "loss_weight": 2})
    assert doubled(logits, target) == 2 * parts[0](logits, target)
    pair = loss_of("CrossEntropyLoss", auxiliary=True, auxiliary_weight=0.1)
    expected = parts[0](logits, target) + 0.1 * parts[0](2 * logits, target)
    assert pair((logits, 2 * logits), target) == expected
    assert set(optimization.LOSSES) == {name for name in losses.__all__ if name.endswith("Loss")} - {
        "AuxiliaryLoss", "CombinedLoss", "SegmentationLoss",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CrossEntropyLoss", {"weight": [1, 2, 0.5], "label_smoothing": 0.1}),
        ("FocalLoss", {"gamma": 3, "alpha": [0.2, 0.5, 1]}),
        ("DiceLoss", {"smooth": 0}),
        ("BorderWeightedLoss", {"w0": 5, "sigma": 2, "weight": [1, 2, 3], "border_classes": [0, 1]}),
        ("LovaszLoss", {}),
        ("OHEMCrossEntropyLoss", {"threshold": 0.5, "kept": 0.3, "weight": [1, 2, 3]}),
    ],
)
def test_every_argument_of_a_loss_is_a_key(name, settings):
    from segtutor import losses

    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    expected = getattr(losses, name)(ignore_index=7, **settings)(logits, target)
    assert loss_of({"type": name, **settings})(logits, target) == expected
    arguments = set(inspect.signature(getattr(losses, name)).parameters) - {"task", "ignore_index", "cache_size"}
    assert arguments == set(settings)


def test_the_optimizer_is_the_one_named():
    layer = nn.Linear(2, 2)
    adamw = parse_training({"lr": 0.1, "weight_decay": 0.2}).make_optimizer(layer)
    assert type(adamw) is torch.optim.AdamW and adamw.defaults["betas"] == (0.9, 0.999)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (0.1, 0.2)
    sgd = parse_training({"optimizer": {"type": "sgd", "momentum": 0.5}, "lr": 2}).make_optimizer(layer)
    assert type(sgd) is torch.optim.SGD and (sgd.defaults["lr"], sgd.defaults["momentum"]) == (2.0, 0.5)
    assert {id(weight) for group in sgd.param_groups for weight in group["params"]} == set(map(id, layer.parameters()))


# ------------------------------------------------------------------------------------------------------------ loading
@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (4, 3), (8, 7), (64, 8)])
def test_workers_are_chosen_for_the_processors(cores, workers):
    from segtutor.runs.recipe import workers_for

    assert workers_for(cores) == workers


def test_the_number_of_workers_is_chosen_once_and_written_down(tmp_path, folder, monkeypatch):
    from segtutor.runs import recipe as recipes

    files = {**CONFIG, "data": {"type": "folder", "path": str(folder), "classes": 3}}
    monkeypatch.setattr(recipes, "available_cores", lambda: 4)
    assert read_recipe(files).staffed().training.num_workers == 0  # six images
    monkeypatch.setattr(recipes, "FEW", 1)
    assert read_recipe(files).staffed().training.num_workers == 3
    kept = read_recipe(files, ["data.keep_in_memory=true"]).staffed()
    assert kept.training.num_workers == read_recipe(CONFIG).staffed().training.num_workers == 0
    assert read_recipe(files, ["training.num_workers=1"]).staffed().training.num_workers == 1
    monkeypatch.setattr(recipes, "local_processes", lambda: 2)
    assert read_recipe(files).staffed().training.num_workers == 0  # two processors for each
    monkeypatch.setattr(recipes, "workers_for", lambda cores: 1)
    rules = ["training.steps=1", "data.augmentation.crop=[32, 32]"]
    runs.train(files, rules, out=tmp_path / "run", check_data=False)
    assert read_recipe(tmp_path / "run" / "config.yaml").training.num_workers == 1


def test_images_that_are_kept_are_read_before_workers_start(tmp_path, folder, monkeypatch):
    from segtutor.data.pairs import PairDataset

    loaded, load = [], PairDataset.load
    monkeypatch.setattr(PairDataset, "load", lambda self: loaded.append(len(self)) or load(self))
    files = {
        **CONFIG,
        "data": {"type": "folder", "path": str(folder), "classes": 3, "augmentation": {"crop": [32, 32]}},
    }
    rules = ["training.steps=1", "data.keep_in_memory=true"]
    runs.train(files, rules, out=tmp_path / "none", check_data=False)
    assert loaded == []
    runs.train(files, [*rules, "training.num_workers=1"], out=tmp_path / "one", check_data=False)
    assert len(loaded) == 1


def test_the_option_profile(tmp_path, config, capsys):
    assert cli.main(["train", "--config", str(config), "--out", str(tmp_path / "run"), "--profile", "2"]) == 0
    assert "Profile of 2 steps of " in capsys.readouterr().out
    assert cli.main(["train", "--config", str(config), "--out", str(tmp_path / "other"), "--profile", "0"]) == 2
