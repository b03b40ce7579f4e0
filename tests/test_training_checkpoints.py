"""A run that was cut short goes on as if it had not been: the same losses and weights, bit for bit."""

import copy
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from segtutor import training
from segtutor.training import checkpointing, fit, load_checkpoint, save_checkpoint


class Noisy(Dataset):
    """Items that draw from all three generators of random numbers, as augmentation may."""

    def __init__(self, length=7):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        import random

        image = torch.rand(3, 8, 8) + index + float(np.random.rand()) + random.random()
        return image, (image[0] > image[0].mean()).long()


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)
        )


pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")  # noise is all there is to learn
SETTINGS = {"steps": 9, "batch_size": 3, "lr": 0.05, "precision": "fp32", "gradient_clip": 1.0, "seed": 4}


def same_weights(one, two):
    return all(a.equal(b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_continued_run_is_the_uninterrupted_one(tmp_path, stop, workers):
    whole, path, valid = net(), tmp_path / "run" / "checkpoint.pt", Noisy(3)
    expected = fit(whole, Noisy(), validation=valid, validate_every=3, num_workers=workers, **SETTINGS)

    def interrupt(step, loss):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    settings = {**SETTINGS, "validation": valid, "validate_every": 3, "num_workers": workers}
    half = net()
    first = fit(half, Noisy(), on_step=interrupt, save=lambda state: save_checkpoint(state, path), **settings)
    assert first.interrupted and first.steps == list(range(1, stop + 1))
    state = load_checkpoint(path)
    torch.rand(3), np.random.rand()  # whatever the new process has drawn by then
    other = nn.Sequential(*(module for module in net()))
    nn.init.zeros_(other[0].weight)
    history = fit(other, Noisy(), resume=state, **settings)
    assert history.loss == expected.loss and history.lr == expected.lr and history.steps == expected.steps
    assert history.validation == expected.validation and not history.interrupted
    assert len(history.step_seconds) == 9 and history.seconds > first.seconds
    assert same_weights(whole, other)


def test_workers_draw_by_the_place_in_the_run():
    settings = {**SETTINGS, "steps": 4}
    losses = [fit(net(), Noisy(), num_workers=workers, **settings).loss for workers in (1, 2)]
    assert losses[0] == losses[1]


def test_states_come_when_asked_for_and_around_a_validation():
    steps = []
    fit(
        net(), Noisy(), save=lambda state: steps.append(len(state["history"]["steps"])), save_every=4,
        validation=Noisy(2), validate_every=5, **SETTINGS,
    )  # fmt: skip
    assert steps == [4, 5, 5, 8, 9, 9]


class Broken(Noisy):
    """A validation set with a file that cannot be read."""

    def __getitem__(self, index):
        raise OSError("broken.png is truncated")


@pytest.mark.parametrize(("every", "steps"), [(None, 9), (3, 3)])
def test_a_broken_validation_image_costs_no_step(tmp_path, every, steps):
    path, settings = tmp_path / "checkpoint.pt", {**SETTINGS, "validate_every": every}
    whole, half = net(), net()
    expected = fit(whole, Noisy(), validation=Noisy(3), **settings)
    with pytest.raises(OSError, match="truncated"):
        fit(half, Noisy(), validation=Broken(3), save=lambda state: save_checkpoint(state, path), **settings)
    state = load_checkpoint(path)
    assert len(state["history"]["steps"]) == steps
    other = net()
    history = fit(other, Noisy(), validation=Noisy(3), resume=state, **settings)
    assert history.loss == expected.loss and history.validation == expected.validation
    assert same_weights(whole, other)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_is_heard_after_the_step_and_then_obeyed(tmp_path, name):
    path = tmp_path / "checkpoint.pt"
    code = f"""
import os, signal, torch
from segtutor.training import fit, save_checkpoint
signal.signal(signal.{name}, signal.SIG_DFL)
data = [(torch.rand(3, 8, 8), torch.randint(2, (8, 8))) for _ in range(4)]
stop = lambda step, loss: os.kill(os.getpid(), signal.{name}) if step == 2 else None
save = lambda state: save_checkpoint(state, {str(path)!r})
fit(torch.nn.Conv2d(3, 2, 1), data, steps=9, on_step=stop, save=save)
print("went on")
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == -getattr(signal, name) and answer.stdout == answer.stderr == ""
    assert load_checkpoint(path)["history"]["steps"] == [1, 2]


def test_requests_to_end_have_their_own_handlers_kept():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        end = lambda step, loss: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        history = fit(net(), Noisy(), on_step=end, save=lambda state: None, **SETTINGS)
        assert heard == [signal.SIGTERM] * 9 and len(history.steps) == 9
    finally:
        signal.signal(signal.SIGTERM, before)


def test_half_a_step_is_not_saved():
    class Stops(Noisy):
        def __getitem__(self, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    saved = []
    history = fit(net(), Stops(), save=saved.append, **SETTINGS)
    assert history.interrupted and saved == []


@pytest.mark.usefixtures("hears_interrupts")
def test_the_second_interrupt_does_not_wait():
    calls = []

    class Stuck(Noisy):
        def __getitem__(self, index):
            calls.append(index)
            os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    before = signal.getsignal(signal.SIGINT)
    history = fit(net(), Stuck(), **SETTINGS)
    assert history.interrupted and history.steps == [] and len(calls) == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("hears_interrupts")
def test_a_run_that_was_told_to_ignore_interrupts_goes_on():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    history = fit(net(), Noisy(), on_step=lambda step, loss: os.kill(os.getpid(), signal.SIGINT), **SETTINGS)
    assert not history.interrupted and len(history.steps) == SETTINGS["steps"]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_state_of_another_run_is_refused(tmp_path):
    states = []
    fit(net(), Noisy(), save=states.append, **{**SETTINGS, "steps": 2})
    for change, says in [({"seed": 5}, "seed=4, not 5"), ({"batch_size": 2}, "batch_size=3, not 2")]:
        with pytest.raises(ValueError, match=says):
            fit(net(), Noisy(), resume=states[0], **{**SETTINGS, **change})
    with pytest.raises(ValueError, match="images=7, not 8"):
        fit(net(), Noisy(8), resume=states[0], **SETTINGS)
    with pytest.raises(ValueError, match="not of this model"):
        fit(nn.Conv2d(3, 2, 1), Noisy(), resume=states[0], **SETTINGS)


def test_a_broken_checkpoint_is_refused_and_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load_checkpoint(path)
    save_checkpoint({"format": checkpointing.FORMAT, "step": 1}, path)

    def full(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint({"step": 2}, path)
    assert load_checkpoint(path)["step"] == 1 and [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    path.write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    monkeypatch.undo()
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="no state of a training run"):
        load_checkpoint(path)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"format": checkpointing.FORMAT, "model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_warm_up_rises_to_the_schedule():
    factor = training.warmed_up("constant", 3)
    assert [factor(step, 10) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    cold = training.warmed_up("poly", 0)
    assert [cold(step, 10) for step in range(10)] == [training.poly(step, 10) for step in range(10)]
    assert "warmed_up" in training.__all__


def test_evaluate_takes_images_of_several_sizes():
    class Ragged(Noisy):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image[:, index:], mask[index:]

    model = net().eval()
    scores = [training.evaluate(model, Ragged(4), batch_size=size) for size in (1, 3)]
    assert int(scores[0].matrix.sum()) == 8 * (8 + 7 + 6 + 5) and scores[0].matrix.equal(scores[1].matrix)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_run_may_go_on_at_another_rate_and_decay(kind):
    def optimizer(model, lr, weight_decay):
        scoring = {"params": model[4].parameters(), "lr": 3 * lr}
        groups = [{"params": [weight for layer in model[:4] for weight in layer.parameters()]}, scoring]
        return kind(groups, lr=lr, weight_decay=weight_decay)

    settings = {**SETTINGS, "schedule": "constant"}
    states, half, other = [], net(), net()
    fit(half, Noisy(), optimizer=optimizer(half, 0.05, 0.1), save=states.append, **{**settings, "steps": 4})
    state = copy.deepcopy(states[-1])
    changed = optimizer(other, 0.01, 0.2)
    history = fit(other, Noisy(), optimizer=changed, resume=state, **settings)
    assert history.lr == [0.05] * 4 + [0.01] * 5
    assert [(group["lr"], group["weight_decay"]) for group in changed.param_groups] == [(0.01, 0.2), (0.03, 0.2)]


def test_a_state_of_another_precision_or_device_is_continued():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    scalers = [torch.amp.GradScaler("cpu", enabled=enabled) for enabled in (False, True)]
    for saved, continued in (scalers, scalers[::-1]):
        checkpointing.restore(checkpointing.snapshot(model, optimizer, saved), model, optimizer, continued)
