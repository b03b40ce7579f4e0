"""`segtutor train` with augmentation of whole batches: what the network is fed, what is refused, runs that go on."""

import importlib
import inspect

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image
from tiny_runs import CONFIG

from segtutor import cli, runs
from segtutor.data.batch_transforms import RandomView
from segtutor.data.check import check_dataset
from segtutor.data.mixing import ClassMix, CutMix
from segtutor.data.transforms import train_transform
from segtutor.factory import ConfigError
from segtutor.factory.backbones import registry
from segtutor.runs import RunError, read_recipe
from segtutor.runs.data import Augmentation, open_data, parse_data
from segtutor.training import load_checkpoint

train_module = importlib.import_module("segtutor.runs.train")  # the package has a function of that name
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")
DEVICE = "data.augmentation={on_device: true, crop: [32,40], scale: [0.8,1.2], rotation: 10, color: 0.3}"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


@pytest.fixture
def mixed_sizes(tmp_path):
    """A folder of 12 images, of which all but the last have one size."""
    for name in ("images", "masks"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    for i in range(12):
        size = (40, 56) if i < 11 else (48, 64)
        pixels = np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / "images" / f"{i:02}.png")
        Image.fromarray(np.indices(size)[0].astype(np.uint8) // 24).save(tmp_path / "mine" / "masks" / f"{i:02}.png")
    for part, names in (("train", range(2, 12)), ("val", range(2))):
        (tmp_path / "mine" / f"{part}.txt").write_text("".join(f"{i:02}\n" for i in names))
    return {**CONFIG, "data": {"type": "folder", "path": str(tmp_path / "mine"), "classes": 2}}


def fed(monkeypatch, tmp_path, *overrides):
    """The data and rules with which training would begin."""
    asked = []
    monkeypatch.setattr(train_module.training, "fit", lambda model, data, **rules: asked.append((model, data, rules)))
    with pytest.raises(AttributeError):
        runs.train(CONFIG, overrides, out=tmp_path / "run")
    return asked[0]


def test_on_the_device_batches_of_plain_images_become_views(tmp_path, monkeypatch):
    model, data, rules = fed(monkeypatch, tmp_path, DEVICE)
    image, mask = data[0]
    assert image.shape == (3, 32, 48) and 0 <= image.min() and image.max() <= 1
    assert model.info.input_size == (32, 40)
    view, labels = rules["batch_transform"](torch.stack([image] * 2), torch.stack([mask] * 2))
    assert view.shape == (2, 3, 32, 40) and labels.shape == (2, 32, 40) and view.min() < -0.5
    (step,) = rules["batch_transform"].steps
    assert isinstance(step, RandomView) and (step.rotation, step.color, step.scale) == (10, 0.3, (0.8, 1.2))


@pytest.mark.parametrize(("mix", "kind"), [("cutmix", CutMix), ("classmix", ClassMix)])
def test_mixing_comes_after_the_views(tmp_path, monkeypatch, mix, kind):
    extra = [f"data.augmentation.mix={mix}", "data.augmentation.mix_probability=0.25"]
    _, _, rules = fed(monkeypatch, tmp_path, DEVICE, *extra)
    view, step = rules["batch_transform"].steps
    assert isinstance(view, RandomView) and isinstance(step, kind) and step.probability == 0.25
    _, data, rules = fed(monkeypatch, tmp_path / "other", *extra)
    assert data[0][0].min() < -0.5 and [type(step) for step in rules["batch_transform"].steps] == [kind]


def test_without_both_no_batch_is_touched(tmp_path, monkeypatch):
    assert fed(monkeypatch, tmp_path)[2]["batch_transform"] is None


def test_one_image_and_a_batch_take_the_same_settings():
    keys = Augmentation().of_an_image
    for kind in (train_transform, RandomView):
        arguments = {*inspect.signature(kind).parameters} - {"spec"}
        assert arguments == {*keys}


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize(
    "extra",
    [[DEVICE, "data.augmentation.mix=cutmix"], ["data.augmentation.mix=classmix", "training.num_workers=2"]],
    ids=["on the device", "with workers"],
)
def test_a_continued_run_equals_the_uninterrupted_one(tmp_path, monkeypatch, extra):
    whole = runs.train(CONFIG, extra, out=tmp_path / "whole")
    tiny_runs.interrupt_at_the_first_history(monkeypatch, train_module)
    assert runs.train(CONFIG, [*extra, "training.save_every=3"], out=tmp_path / "cut").interrupted
    assert 0 < len(load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["history"]["steps"]) < 6
    assert runs.resume(tmp_path / "cut").loss == whole.loss
    with pytest.raises(RunError, match="data.augmentation.mix_probability: the run has had 0.5, .* other images"):
        runs.resume(tmp_path / "cut", ["data.augmentation.mix_probability=0.1"])


REFUSED = [
    (
        ["data.augmentation.on_device=true"],
        "data.augmentation: views that are made on the device need a size; set crop",
    ),
    (["data.augmentation={on_device: true, crop: [32,32], scale: [2,0.5]}"], r"data: scale=\(2.0, 0.5\) is not valid"),
    (
        ["data.augmentation.mix=mixup"],
        "data.augmentation.mix: 'mixup' is not possible; did you mean 'cutmix' or 'classmix'",
    ),
    (["data.augmentation={mix: cutmix, mix_probability: 2}"], "data.augmentation.mix_probability: "),
    (["data.augmentation.rotation=-3"], "data.augmentation.rotation: "),
    (["data.augmentation.elastic=true"], "data.augmentation.elastic: "),
]


@pytest.mark.parametrize(("overrides", "says"), REFUSED)
def test_impossible_settings_are_refused(overrides, says):
    with pytest.raises(ConfigError, match=says):
        read_recipe(CONFIG, overrides)


def test_images_of_several_sizes_are_refused_in_one_sentence(tmp_path, mixed_sizes, capsys):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mixed_sizes), encoding="utf-8")
    start = ["train", "--config", str(path), "--out", str(tmp_path / "run")]
    assert cli.main(start) == 2
    says = capsys.readouterr().err
    assert "the training images have several sizes, such as 40 x 56 and 48 x 64, and a batch needs one: set " in says
    assert "data.augmentation.crop=[40,56], or data.size=[40,56], or training.batch_size=1." in says
    assert len(says.strip().splitlines()) == 1 and not (tmp_path / "run").exists()
    assert cli.main([*start, "data.augmentation={crop: [32,32], on_device: true}"]) == 2
    says = capsys.readouterr().err
    assert "a batch needs one before it is cropped on the device: set data.size=[40,56], or" in says
    for number, cure in enumerate(("data.augmentation.crop=[40,56]", "data.size=[40,56]", "training.batch_size=1")):
        assert cli.main([*start[:-1], str(tmp_path / f"run{number}"), "training.steps=1", cure]) == 0


def test_images_of_several_sizes_that_no_check_saw_end_the_run_in_one_sentence(tmp_path, mixed_sizes, capsys):
    with pytest.raises(RunError) as told:
        runs.train(mixed_sizes, out=tmp_path / "run", check_data=False)
    assert "images of one batch differ in size (40 x 56, 48 x 64): crop or resize all to one (data.aug" in str(
        told.value
    )
    assert "\n" not in str(told.value)


def test_sizes_are_those_of_the_files_too_that_are_not_read(mixed_sizes):
    data = open_data(parse_data(mixed_sizes), "train")
    report = check_dataset(data, limit=2)
    assert report.checked == 2 and dict(report.sizes) == {(40, 56): 9, (48, 64): 1}
