"""Before the first step of a run: a step that leaves no trace, its memory, the classes, doubtful settings."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image
from tiny_runs import CONFIG, Pools
from torch import nn

from segtutor import probe, runs, training
from segtutor.data.report import DatasetReport
from segtutor.factory.backbones import registry
from segtutor.factory.config import shipped_configs
from segtutor.losses import CrossEntropyLoss
from segtutor.runs import RunError, before, read_recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


def changed(*overrides):
    return read_recipe(copy.deepcopy(CONFIG), overrides)


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Conv2d(8, 2, 1))


class Noise:
    """Images drawn from the global generator."""

    def __init__(self, size=(16, 24)):
        self.size = size

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.randn(3, *self.size), torch.randint(0, 2, self.size)


def test_a_rehearsal_leaves_no_trace():
    model = small_net()
    before_it, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    found = training.rehearse(
        model, Noise(), loss=CrossEntropyLoss(), optimizer=optimizer, batch_size=2, validation=Noise((20, 20))
    )
    assert 0.3 < found.loss < 3 and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before_it[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and not optimizer.state
    assert all(module.training for module in model.modules())


def test_a_run_with_the_look_before_it_is_the_run_without(tmp_path):
    extra = ["data.augmentation.color=0.5", "training.validate_every=3"]
    one, two = (runs.train(CONFIG, extra, out=tmp_path / str(look), check_data=look) for look in (True, False))
    assert one.loss == two.loss and one.validation == two.validation


def test_the_memory_is_that_of_weights_gradients_moments_and_what_is_saved():
    model, size = small_net(), (16, 24)
    found = {
        batch: training.rehearse(
            model, Noise(size), loss=CrossEntropyLoss(), optimizer=torch.optim.AdamW(model.parameters()),
            batch_size=batch,
        ).memory
        for batch in (2, 4)
    }  # fmt: skip
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    saved, scores = probe.count_saved_bytes(model, size, batch=4), 4 * 4 * 2 * size[0] * size[1]
    assert 4 * weights + saved < found[4] < 4 * weights + saved + 5 * scores  # the loss saves a little too
    assert (found[4] - found[2]) == pytest.approx((found[4] - 4 * weights) / 2, rel=0.05)


FAULTS = {
    "a shape": (RuntimeError("mat1 and mat2 shapes do not fit\nat x"), "would fail with RuntimeError: mat1 and"),
    "a mistake": (KeyError("c5"), "with KeyError: 'c5'. Nothing was started; --no-check starts all the same"),
    "memory": (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out of memory in training: set training.batch_size"),
    "a file": (PermissionError(13, "Permission denied", "x.png"), "Permission denied: 'x.png'. Nothing was started."),
}  # fmt: skip


@pytest.mark.parametrize(("error", "says"), FAULTS.values(), ids=FAULTS)
def test_what_would_stop_the_first_step_is_one_sentence_and_no_folder(tmp_path, monkeypatch, error, says):
    def fails(self, images):
        raise error

    monkeypatch.setattr(Pools, "forward", fails)
    with pytest.raises(RunError) as told:
        runs.train(CONFIG, out=tmp_path / "run")
    assert says in str(told.value) and "\n" not in str(told.value) and not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_and_a_validation_that_fails_are_found_too(tmp_path, monkeypatch):
    forward = Pools.forward
    monkeypatch.setattr(Pools, "forward", lambda self, images: forward(self, images * float("nan")))
    with pytest.raises(RunError, match="loss of the first batch is nan, before any learning"):
        runs.train(CONFIG, out=tmp_path / "run")

    def out_of_memory(self, images):
        if not self.training:
            raise MemoryError
        return forward(self, images)

    monkeypatch.setattr(Pools, "forward", out_of_memory)
    with pytest.raises(RunError, match="out of memory in the validation"):
        runs.train(CONFIG, out=tmp_path / "run")


def test_memory_and_frequencies_are_said(tmp_path, caplog):
    caplog.set_level("INFO", "segtutor")
    runs.train(CONFIG, ["training.steps=1"], out=tmp_path / "run")
    text = "\n".join(caplog.messages)
    assert "Pixels of each class in a sample of 4 of 8 training masks: " in text and "sky " in text
    assert "Memory: about " in text and "MiB for a batch of 2 (weights, gradients" in text
    assert "Warning: batch normalisation takes its statistics from two images" in text


def test_classes_that_never_occur_or_hardly(tmp_path, caplog):
    for name in ("images", "masks"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    for i in range(10):
        mask = np.zeros((48, 64), np.uint8)
        mask[:20] = 1
        mask[0, 0] = 2
        Image.fromarray(mask).save(tmp_path / "mine" / "masks" / f"{i}.png")
        image = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "mine" / "images" / f"{i}.png")
    data = {"type": "folder", "path": str(tmp_path / "mine"), "classes": ["earth", "leaf", "beetle", "moss"]}
    caplog.set_level("INFO", "segtutor")
    given = {**CONFIG, "data": data}
    runs.train(given, ["training.steps=1"], out=tmp_path / "run")
    text = "\n".join(caplog.messages)
    assert "training masks: earth 58 %, leaf 42 %, beetle 0.033 %, moss 0 %." in text
    assert "Warning: moss never occurs in the training masks, so that the model cannot learn it" in text
    assert "Warning: beetle has less than 0.1 % of the pixels, and mostly stays unlearnt: set training.class_w" in text
    caplog.clear()
    runs.train(given, ["training.steps=1", "training.class_weights=measured"], out=tmp_path / "other")
    assert "unlearnt" not in "\n".join(caplog.messages)


def report_of(size=(32, 48)):
    report = DatasetReport("x", 40, 40, ("a", "b"), pixels=(5, 5))
    report.sizes[size] = 40
    return report


NORM = nn.BatchNorm2d(3)
DOUBTS = {
    "adamw too high": (["training.lr=0.05"], NORM, "rate of 0.05 is mostly too high; adamw mostly learns between 1e-4"),
    "adamw too low": (["training.lr=1e-8"], NORM, "rate of 1e-08 hardly moves the weights"),
    "sgd too high": (["training.lr=2", "training.optimizer=sgd"], NORM, "sgd mostly learns between 0.005 and 0.05"),
    "sgd": (["training.lr=0.05", "training.optimizer=sgd"], NORM, ""),
    "pretrained": (["model.backbone.pretrained=true"], NORM, "makes a pretrained backbone forget"),
    "less than a pass": (["training.steps=2"], NORM, r"sees 8 of 12 images: set training.steps to 3 or more"),
    "warm-up": (["training.warmup=6"], NORM, "training.warmup=6 is not over when the run ends after 6 steps"),
    "batches of one": (["training.batch_size=1", "training.steps=12"], NORM, "statistics from one image at a time"),
    "batches of two": (["training.batch_size=2"], NORM, "statistics from two images at a time"),
    "batches of one, no norm": (["training.batch_size=1", "training.steps=12"], nn.GroupNorm(1, 3), ""),
    "large crop": (["data.augmentation.crop=[32,64]"], NORM, r"data.augmentation.crop=\[32,48\]"),
    "large crop of scaled images": (["data.augmentation={crop: [32,64], scale: [0.5,2]}"], NORM, ""),
    "mixed alone": (["training.batch_size=1", "data.augmentation.mix=cutmix", "training.steps=12"], nn.GroupNorm(1, 3),
                    "cutmix takes its parts from another image of the batch, and there is none in batches of one"),
    "mixed": (["data.augmentation.mix=cutmix"], NORM, ""),
    "as it was": ([], NORM, ""),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "model", "says"), DOUBTS.values(), ids=DOUBTS)
def test_doubtful_settings_are_pointed_out(overrides, model, says):
    import re

    recipe = changed("training.batch_size=4", *overrides)
    found = list(before.doubts(recipe, range(12), model, report_of()))
    assert len(found) == bool(says) and all(re.search(says, sentence) for sentence in found), found


def test_frozen_norms_are_not_pointed_out():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).eval())
    assert list(before.doubts(changed(), range(12), model, report_of())) == []


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_no_shipped_configuration_is_doubtful(name, monkeypatch):
    config = runs.recipe._read(name)
    if config["data"] not in ("scenes", "cells") and config["data"]["type"] not in ("scenes", "cells"):
        return  # of data that are not here
    recipe = read_recipe(name)
    data = SimpleNamespace(__len__=lambda: 0)
    assert (
        list(before.doubts(recipe, [data] * 100, NORM, report_of(tuple(recipe.data.get("size") or (256, 256))))) == []
    )
