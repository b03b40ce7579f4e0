"""`segtutor predict` and `segtutor evaluate`: a saved model is enough, and nothing is written over anything."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs
import yaml
from PIL import Image
from tiny_runs import CONFIG

from segtutor import cli, runs
from segtutor.factory import ModelInfo, SegmentationModel, create_model
from segtutor.factory.backbones import registry
from segtutor.runs import RunError
from segtutor.runs.naming import plan

pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of 16-bit images and masks, a run on it at another size, and its best model alone, elsewhere."""
    base, generator = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (base / "data" / name).mkdir(parents=True)
        for i in range(6):
            deep = name == "images"
            values = generator.integers(0, 4000 if deep else 2, (40, 60), np.uint16 if deep else np.uint8)
            picture = Image.fromarray(values)
            if not deep:
                picture.putpalette([255, 255, 255, 0, 0, 128])
            picture.save(base / "data" / name / f"{i}.png")
    data = {
        "type": "folder", "path": str(base / "data"), "classes": ["paper", "ink"], "palette": ["ffffff", "000080"],
        "channels": 1, "size": [36, 52],
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
        runs.train({**CONFIG, "data": data}, ["training.steps=2"], out=base / "run")
    shutil.copytree(base / "run" / "best", base / "model")
    (base / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    return base


@pytest.fixture
def photos(tmp_path):
    """Images whose results would have the same names, in two folders."""
    for name in ("a.png", "a.jpg", "a_overlay.png", "sub/a.png", "sub/B.png", "sub/b.bmp"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((33, 40), 90, np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A saved model for 8-bit grey images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
        info = ModelInfo(("a", "b"), mean=(0.5,), std=(0.5,))
        model = create_model({**CONFIG["model"], "num_classes": 2, "in_channels": 1, "seed": 0}, info=info)
        return model.save_pretrained(tmp_path_factory.mktemp("grey"))


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_saved_model_carries_all_that_prediction_needs(world, tmp_path, monkeypatch):
    image = world / "data" / "images" / "0.png"
    runs.predict(world / "run", [image], tmp_path / "run")
    info = SegmentationModel.from_pretrained(world / "model").info
    assert info.resize == (36, 52) and info.value_range == (0, 4095) and info.palette == ((255, 255, 255), (0, 0, 128))
    assert info.classes == ("paper", "ink")
    monkeypatch.setattr("segtutor.runs.folder.read_recipe", lambda *_: 1 / 0)  # the configuration is not looked at
    folders = {"model": world / "model", "best": world / "run" / "best", "run": world / "run"}
    for name, folder in folders.items():
        runs.predict(folder, [image], tmp_path / name, overwrite=name == "run")
    first, *others = [(tmp_path / name / "0.png").read_bytes() for name in folders]
    assert all(other == first for other in others)
    seen = []
    forward = SegmentationModel.forward
    monkeypatch.setattr(SegmentationModel, "forward", lambda self, x: seen.append(x.shape[2:]) or forward(self, x))
    runs.predict(world / "model", [image], tmp_path / "again")
    assert seen == [(36, 52)] and Image.open(tmp_path / "again" / "0.png").size == (60, 40)


def test_no_two_results_have_one_name_and_folders_are_kept(grey, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["predict", str(grey), str(photos), "--out", str(out)]) == 0
    assert "Wrote 6 label files" in capsys.readouterr().out
    stems = ["a.jpg", "a", "a_overlay.png", "sub/B", "sub/a", "sub/b.bmp"]
    planned = plan([photos], tmp_path / "elsewhere")
    names = {result.labels.relative_to(tmp_path / "elsewhere").as_posix() for result in planned}
    assert len(names) == 6 and len({name.casefold() for name in written(out)}) == 13
    results = [result.relative_to(tmp_path / "elsewhere").as_posix() for pair in planned for result in pair[1:3]]
    assert written(out) == sorted([*results, "legend.png"])
    assert {"sub/B.png", "sub/a.png", "a.png"} <= names and len(stems) == 6
    for pair in planned:
        with Image.open(out / pair.labels.relative_to(tmp_path / "elsewhere")) as labels:
            assert labels.mode == "P" and labels.size == (40, 33), "an overlay has taken its place"


def test_nothing_is_replaced_unless_asked(grey, photos, tmp_path, capsys):
    out, command = tmp_path / "out", ["predict", str(grey), str(photos / "sub"), "--out"]
    assert cli.main([*command, str(out)]) == 0
    before = {name: (out / name).stat().st_mtime_ns for name in written(out)}
    assert cli.main([*command, str(out)]) == 2
    assert "and 5 more would be replaced: give another folder with --out, or add --overwrite" in capsys.readouterr().err
    assert {name: (out / name).stat().st_mtime_ns for name in written(out)} == before
    assert cli.main([*command, str(out), "--overwrite"]) == 0
    legend = before.pop("legend.png")
    assert all((out / name).stat().st_mtime_ns > time for name, time in before.items())
    assert (out / "legend.png").stat().st_mtime_ns == legend, "it is the same model's"


def test_each_model_has_its_legend(grey, world, photos, tmp_path):
    """Images may be called legend, and results of two models lie in one folder."""
    out = tmp_path / "out"
    (photos / "sub" / "a.png").rename(photos / "sub" / "legend.png")
    runs.predict(grey, [photos / "sub" / "legend.png"], out)
    assert written(out) == ["legend.png", "legend.png.png", "legend.png_overlay.png"]
    with Image.open(out / "legend.png.png") as labels:
        assert labels.mode == "P" and labels.size == (40, 33)
    first = (out / "legend.png").read_bytes()
    for name in ("0", "1"):
        runs.predict(world / "model", [world / "data" / "images" / f"{name}.png"], out)
    assert {"legend-2.png", "0.png", "1.png"} <= set(written(out)) and "legend-3.png" not in written(out)
    assert (out / "legend.png").read_bytes() == first != (out / "legend-2.png").read_bytes()


def test_probabilities_are_written_where_they_are_asked_for(grey, photos, tmp_path, capsys):
    out, command = tmp_path / "out", ["predict", str(grey), str(photos / "a.png"), "--probabilities", "--out"]
    assert cli.main([*command, str(out)]) == 0
    assert written(out) == ["a.png", "a_overlay.png", "a_probabilities.npz", "legend.png"]
    with np.load(out / "a_probabilities.npz") as read, Image.open(out / "a.png") as labels:
        sure = read["probabilities"]
        assert sure.shape == (2, 33, 40) and sure.dtype == np.float16 and read["classes"].tolist() == ["a", "b"]
        assert np.abs(sure.astype(float).sum(0) - 1).max() < 2e-3 and (np.asarray(labels) == sure.argmax(0)).all()
    for name in ("a.png", "a_overlay.png"):
        (out / name).unlink()
    assert cli.main([*command, str(out)]) == 2
    assert "a_probabilities.npz would be replaced" in capsys.readouterr().err


def test_large_images_are_looked_at_in_tiles_and_in_several_views(grey, photos, tmp_path, monkeypatch, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 150), np.uint8)).save(photos / "a.png")
    seen = []
    forward = SegmentationModel.forward
    monkeypatch.setattr(SegmentationModel, "forward", lambda self, x: seen.append(x.shape[2:]) or forward(self, x))
    command = ["predict", str(grey), str(photos / "a.png"), "--tile", "64", "--overlap", "32", "--out"]
    assert cli.main([*command, str(tmp_path / "tiles")]) == 0
    assert len(seen) == 2 * 4 and seen[0] == (64, 64) and seen[-1] == (38, 54)
    assert cli.main([*command, str(tmp_path / "views"), "--scales", "1", "0.5", "--flip", "--probabilities"]) == 0
    assert len(seen) == 8 + 8 * 4 and (32, 32) in seen
    with (
        np.load(tmp_path / "views" / "a_probabilities.npz") as read,
        Image.open(tmp_path / "views" / "a.png") as labels,
    ):
        assert read["probabilities"].shape == (2, 70, 150) and labels.size == (150, 70)
        agree = (np.asarray(labels) == read["probabilities"].argmax(0)).mean()
        assert agree > 0.99, "but where rounding makes them equal"
    capsys.readouterr()
    assert cli.main([*command[:3], "--tile", "100", "--out", str(tmp_path / "none")]) == 2
    assert "multiples of 32" in (line := capsys.readouterr().err) and len(line.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_images_are_never_replaced(grey, photos, capsys):
    before = {name: (photos / name).read_bytes() for name in written(photos)}
    for images, out, says in [
        (photos, photos, "would stand among the images"),
        (photos, photos / "sub", "would stand among the images"),
        (photos / "sub" / "a.png", photos / "sub", "a.png is one of the images and would be replaced"),
        (photos / "sub" / "*.png", photos / "sub", "is one of the images and would be replaced"),
    ]:
        assert cli.main(["predict", str(grey), str(images), "--out", str(out), "--overwrite"]) == 2
        assert says in (line := capsys.readouterr().err) and len(line.splitlines()) == 1
    assert {name: (photos / name).read_bytes() for name in written(photos)} == before


def test_files_folders_and_patterns_are_taken_each_image_once(photos, tmp_path):
    out = tmp_path / "out"

    def names(*arguments):
        return [result.labels.relative_to(out).as_posix() for result in plan(arguments, out)]

    assert names(photos / "sub", photos / "sub" / "B.png") == ["B.png", "a.png", "b.bmp.png"]
    assert names(photos / "a.jpg", photos / "a.png") == ["a.png", "a.png.png"]
    assert names(photos / "**" / "*.png") == ["a.png", "a_overlay.png.png", "sub/B.png", "sub/a.png"]
    assert names(f"{photos}/*/[aB].png") == ["sub/B.png", "sub/a.png"]
    (tmp_path / "p[1].png").write_bytes(b"a name that looks like a pattern")
    assert names(tmp_path / "p[1].png") == ["p[1].png"]
    (tmp_path / "none").mkdir()
    for nothing, says in [
        (tmp_path / "none", "holds no image files"),
        (tmp_path / "*.gif", "no file fits the pattern"),
    ]:
        with pytest.raises(RunError, match=says):
            plan([photos, nothing], out)


def test_a_bad_image_costs_one_sentence(grey, photos, tmp_path, capsys, monkeypatch):
    (photos / "sub" / "a.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photos / "sub" / "small.png")  # is filled up
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(photos / "sub" / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    out = tmp_path / "out"
    assert cli.main(["predict", str(grey), str(photos / "sub"), str(tmp_path / "gone.png"), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 4 and lines[-1] == "segtutor: 3 of 6 images were left out."
    for line, says in zip(lines, ["damaged, or no", "cut it into tiles", "is not there"], strict=False):
        assert "was left out" in line and says in line
    names = ["B.png", "B_overlay.png", "b.bmp.png", "b.bmp_overlay.png", "legend.png", "small.png", "small_overlay.png"]
    assert "Wrote 3 label files" in captured.out and written(out) == sorted(names)


def test_memory_that_is_not_enough_for_one_image_costs_that_image(grey, photos, tmp_path, monkeypatch):
    forward = SegmentationModel.forward

    def tight(self, images):
        if images.shape[3] > 40:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, images)

    monkeypatch.setattr(SegmentationModel, "forward", tight)
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(photos / "sub" / "a.png")
    done, refused = runs.predict(grey, [photos / "sub"], tmp_path / "out")
    assert len(done) == 2 and len(refused) == 1 and "not enough memory for an image of its size" in refused[0]


def test_a_saved_model_is_scored_on_any_data_with_its_classes(world, tmp_path, capsys):
    own = runs.evaluate(world / "run", "val")
    assert runs.evaluate(world / "run" / "best", "val") == own
    model = tmp_path / "model"
    shutil.copytree(world / "model", model)
    (model / "scores.json").unlink(missing_ok=True)
    assert cli.main(["evaluate", str(model), "--data", str(world / "data.yaml"), "--split", "val"]) == 0
    scores = json.loads((model / "scores.json").read_text())["data/val"]
    assert scores["iou"] == pytest.approx(own["iou"]) and scores["images"] == own["images"]
    # Nothing said of size and range: the model knows at which size and in which range it was trained.
    section = yaml.safe_load((world / "data.yaml").read_text())["data"]
    del section["size"]
    other = runs.evaluate(model, "val", data={"data": {**section, "value_range": [0, 9]}})
    assert other["iou"] == pytest.approx(own["iou"])
    capsys.readouterr()
    for arguments, says in [
        ([], "is a saved model without the run that it is of: say which data to score it on"),
        (
            ["--data", "cells"],
            "the model has 2 classes, and SyntheticCells has 5: score the model on data",
        ),
        (["--data", "cels"], "expected keys and values, a YAML file, or a name"),
        (["--weights", "best", "--data", "cells"], "is one saved model, of which there is no best"),
    ]:
        assert cli.main(["evaluate", str(model), *arguments]) == 2
        assert says in (line := capsys.readouterr().err) and len(line.splitlines()) == 1
    with pytest.raises(RunError, match="label 0 is 'paper' in the model and 'ink' in data: .*paper, ink"):
        runs.evaluate(model, data={"data": {**section, "classes": ["ink", "paper"]}})
    with pytest.raises(RunError, match="takes images of 1 channels, and those of data have 3: set data.channels=1"):
        runs.evaluate(model, data={"data": {**section, "channels": 3}})
    assert runs.evaluate(model, "val", data={"data": {**section, "classes": 2}})["miou"] == pytest.approx(own["miou"])


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_without_a_model_is_named(tmp_path, capsys, command):
    more = ["x.png", "--out", str(tmp_path / "out")] if command == "predict" else []
    for folder, says in [(tmp_path, "holds no saved model: give a folder that"), (tmp_path / "no", "is not a folder")]:
        assert cli.main([command, str(folder), *more]) == 2
        assert says in capsys.readouterr().err
