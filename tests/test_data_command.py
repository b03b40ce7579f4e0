"""Data on the command line: ``check-data`` with its options, and what ``train``, ``evaluate`` and ``predict`` do."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import Pools

from segtutor import cli, runs
from segtutor.data.finding import shared_ending
from segtutor.factory import SegmentationModel
from segtutor.factory.backbones import registry
from segtutor.runs import RunError
from segtutor.runs.data import open_data

pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")
rng = np.random.default_rng(0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def mask_of(*values, height=40, width=50):
    return np.resize(np.array(values, np.uint8), (height, width))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", registry.Entry(Pools, None, {"pools": {}}))


@pytest.fixture
def mine(tmp_path):
    """Eight photographs with masks of 0 and 255."""
    for number in range(8):
        save(tmp_path / "mine" / "images" / f"{number}.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
        save(tmp_path / "mine" / "masks" / f"{number}.png", mask_of(0, 0, 255))
    return tmp_path / "mine"


def config_of(path, **data):
    file = path.parent / "mine.yaml"
    content = {
        "model": {"backbone": "pools", "head": "fcn"},
        "data": {"type": "folder", "path": str(path), "classes": 2, "augmentation": {"crop": [32, 32]}, **data},
        "training": {"steps": 1, "batch_size": 2, "precision": "fp32"},
    }
    file.write_text(yaml.safe_dump(content))
    return str(file)


# -------------------------------------------------------------------------------------------------------- check-data
def check(*arguments):
    return cli.main(["check-data", *map(str, arguments)])


COLORS = np.array([(0, 0, 0), (200, 30, 30), (30, 60, 200), (255, 255, 255)], np.uint8)


def indexed(mask, order):
    """A palette file in which the index of each of three colours is its place in ``order``."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
    image.putpalette(COLORS[list(order)].ravel().tolist())
    return image


KEPT_OTHERWISE = {
    "0 and 255": lambda mask, number: Image.fromarray(np.array([0, 255, 255], np.uint8)[mask]),
    "from 1": lambda mask, number: Image.fromarray(mask + np.uint8(1)),
    "equal steps that end in void's number": lambda mask, number: Image.fromarray(
        np.array([0, 127, 255], np.uint8)[mask]
    ),
    "16 bits": lambda mask, number: Image.fromarray(mask.astype(np.uint16) * 1000),
    "void of another number": lambda mask, number: Image.fromarray(np.array([0, 1, 250], np.uint8)[mask]),
    "colours": lambda mask, number: Image.fromarray(COLORS[mask]),
    "palettes that differ": lambda mask, number: indexed(mask, ((0, 1, 2), (0, 2, 1))[number % 2]),
    "names that go on": lambda mask, number: Image.fromarray(mask),
}


@pytest.mark.parametrize("how", KEPT_OTHERWISE)
def test_the_advice_of_check_data_cures(tmp_path, capsys, how):
    """What a message says to write is written, on the command line and in a configuration, and nothing is wrong."""
    suffix = "_mask" if how == "names that go on" else ""
    for number in range(4):
        save(tmp_path / "mine" / "images" / f"{number}.png", rng.integers(0, 256, (40, 50, 3), np.uint8))
        (tmp_path / "mine" / "masks").mkdir(exist_ok=True)
        image = KEPT_OTHERWISE[how](mask_of(0, 1, 2, 0), number)
        image.save(tmp_path / "mine" / "masks" / f"{number}{suffix}.png")
    assert check(tmp_path / "mine") == 1
    [(in_yaml, option, value)] = set(
        re.findall(r"\(in YAML (.*?), on the command line (--\S+) (\S+)\)", capsys.readouterr().out)
    )
    assert check(tmp_path / "mine", option, value) == 0
    assert "No problems found" in capsys.readouterr().out
    setting = yaml.safe_load(in_yaml)
    classes = 2 if how in ("0 and 255", "void of another number") else 3
    assert check("--config", config_of(tmp_path / "mine", **{"classes": classes, **setting})) == 0
    assert "Images of each part: train " in capsys.readouterr().out


def test_the_advice_may_stand_in_braces(mine):
    assert check(mine, "--label-map", "{0: 0, 255: 1}") == 0  # as it is written in YAML


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (["a_mask", "b_mask"], "_mask"),
        (["a1_gt", "a10_gt", "b_gt"], ""),  # a1 has a mask that is none of the others'
        (["a_mask", "b_label"], ""),
        (["mask_a", "mask_b"], ""),
        (["a", "b"], ""),
    ],
)
def test_an_ending_is_one_that_all_masks_share(names, ending):
    images = {name: Path(f"{name}.jpg") for name in ("a", "a10", "b")}
    assert shared_ending(images, {name: Path(f"{name}.png") for name in names}) == ending


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--palette", "000000,ffffff"], 0, "2 classes"),
        (["--palette", "#000000:0, #ffffff:255"], 1, "one class only"),
        (["--palette", "000000,fffffe"], 1, "one class only"),
        (["--ignore-index", "200", "--num-classes", "2"], 1, "looks like a 0/255 binary mask"),
        (["--mask-suffix", "_mask", "--num-classes", "2"], 1, "hold only 0 and 255"),
        (["--label-map", "0:0,255:1", "--value-range", "0,200"], 0, "value_range=(0, 200)"),
        (["--label-map", "0:0,255:1", "--value-range", "uint12"], 1, "but the images of this set go from 0 to 4095"),
        (["--label-map", "0:0"], 1, "nothing says which label 255 is"),
    ],
)
def test_options(mine, capsys, arguments, code, words):
    assert check(mine, *arguments) == code
    assert words in capsys.readouterr().out


def test_a_mask_suffix(mine, capsys):
    for path in list((mine / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert check(mine) == 1 and "without a mask" in capsys.readouterr().out
    assert check(mine, "--mask-suffix", "_mask", "--label-map", "0:0,255:1") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label-map", "0=0"], "--label-map 0=0: give pairs of file value and label, such as 0:0,255:1."),
        (["--palette", "red"], "--palette red: give colours in hexadecimal"),
        (["--value-range", "12 bits"], "--value-range 12 bits: "),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_options_that_cannot_be_read(mine, capsys, arguments, words):
    assert check(mine, *arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed and len(printed.splitlines()) == 1
    assert check() == 2 and "nothing to look at" in capsys.readouterr().err


def test_the_settings_of_a_configuration(mine, capsys):
    config = config_of(mine)
    assert check("--config", config) == 1
    assert "train: all masks together hold only 0 and 255" in capsys.readouterr().out
    assert check("--config", config, "--label-map", "0:0,255:1") == 0
    config = config_of(mine, label_map={0: 0, 255: 1})
    assert check("--config", config) == 0 and "8 of 8 images checked" in capsys.readouterr().out
    save(mine / "masks" / "3.png", mask_of(0, 7))
    assert check("--config", config) == 1 and "3.png: holds the values 0, 7" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- train and the rest
def test_training_on_0_255_masks_is_refused(mine, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "--config", config_of(mine), "--out", str(run)]) == 2
    printed = capsys.readouterr().err
    assert "data: training: all masks together hold only 0 and 255" in printed and "--no-check" in printed
    assert len(printed.splitlines()) == 1 and not run.exists()
    assert cli.main(["train", "--config", config_of(mine), "--out", str(run), "--no-check"]) == 0
    assert cli.main(["train", "--resume", str(run), "--no-check"]) == 2


def test_every_kind_of_finding_stops_training_with_one_sentence(mine, tmp_path):
    config = config_of(mine, label_map={0: 0, 255: 1})
    held_out = runs.read_recipe(config)
    names = [image.name for image, _ in open_data(held_out.data, "val").pairs]
    (mine / "images" / names[0]).write_bytes(b"no image")
    with pytest.raises(RunError, match=rf"^data: .*{names[0]}: cannot be read as an image .* --no-check\.$") as caught:
        runs.train(config, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    save(mine / "masks" / "1.png", mask_of(0, 255, height=20))
    with pytest.raises(RunError, match=r", and 1 more \(`segtutor check-data` shows all\)\. Correct this"):
        runs.train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_split_its_label_map_and_its_range(mine, tmp_path):
    """What came later to the folder does not change what a run was trained on and is scored on."""
    for path in (mine / "images").iterdir():
        save(path, rng.integers(0, 4096, (40, 50), np.uint16))
    config = config_of(mine, label_map={0: 0, 255: 1}, channels=1)
    run = tmp_path / "run"
    runs.train(config, ["training.steps=2", "training.save_every=1"], out=run)
    lists = {part: (run / "split" / f"{part}.txt").read_text().split() for part in ("train", "val")}
    assert sorted(lists["train"] + lists["val"]) == [str(i) for i in range(8)]
    for number in range(20, 60):
        save(mine / "images" / f"{number}.png", rng.integers(60000, 65536, (40, 50), np.uint16))
        save(mine / "masks" / f"{number}.png", mask_of(0, 0, 255))
    assert runs.evaluate(run)["images"] == len(lists["val"])
    assert runs.evaluate(run, "valid")["images"] == len(lists["val"])
    assert runs.evaluate(run, "train")["images"] == len(lists["train"])
    assert set(json.loads((run / "scores.json").read_text())) == {"val", "train"}
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["data"]["value_range"] == [0, 4095]
    model = SegmentationModel.from_pretrained(next(run / name for name in ("best", "last") if (run / name).is_dir()))
    assert model.info.value_range == (0, 4095)
    runs.resume(run)


def test_a_range_goes_with_the_model_to_prediction(mine, tmp_path, monkeypatch):
    from segtutor import inference

    for path in (mine / "images").iterdir():
        save(path, rng.integers(0, 4096, (40, 50), np.uint16))
    run = tmp_path / "run"
    runs.train(config_of(mine, label_map={0: 0, 255: 1}, channels=1), out=run)
    seen = []
    whole = inference.predict
    monkeypatch.setattr(
        inference, "predict", lambda model, image, **rest: seen.append(image) or whole(model, image, **rest)
    )
    save(tmp_path / "new.png", np.full((40, 50), 2048, np.uint16))
    save(tmp_path / "screenshot.png", np.full((40, 50), 200, np.uint8))
    written, refused = runs.predict(run, [tmp_path / "new.png", tmp_path / "screenshot.png"], tmp_path / "out")
    assert len(written) == 1 and torch.allclose(seen[0], torch.tensor(2048 / 4095))
    assert len(refused) == 1 and "go from 0 to 4095" in refused[0]


def test_predictions_lie_as_a_viewer_shows_the_photograph(mine, tmp_path):
    run = tmp_path / "run"
    runs.train(config_of(mine, label_map={0: 0, 255: 1}), out=run)
    upright = rng.integers(0, 256, (40, 64, 3), np.uint8)
    turned = Image.Exif()
    turned[274] = 6
    save(tmp_path / "photos" / "upright.png", upright)
    save(tmp_path / "photos" / "turned.png", np.ascontiguousarray(np.rot90(upright)), exif=turned)
    runs.predict(run, [tmp_path / "photos"], tmp_path / "out")
    one, two = (np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("upright", "turned"))
    assert one.shape == (40, 64) and np.array_equal(one, two)


def test_a_test_part_is_scored_where_there_is_one(mine, tmp_path):
    run = tmp_path / "run"
    for part, inside in (("train", range(4)), ("valid", range(4, 7)), ("test", [7])):
        for number in inside:
            for kind in ("images", "masks"):
                (mine / part / kind).mkdir(parents=True, exist_ok=True)
                (mine / kind / f"{number}.png").rename(mine / part / kind / f"{number}.png")
    runs.train(config_of(mine, label_map={0: 0, 255: 1}), out=run)
    assert runs.evaluate(run)["images"] == 1 and not (run / "split").exists()
    assert set(json.loads((run / "scores.json").read_text())) == {"test"}
    assert runs.evaluate(run, "val")["images"] == 3
