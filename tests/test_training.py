"""The loop: reproducible, polite to its caller, and right about what it scores."""

import builtins
import copy
import math
import os
import random
import re
import signal
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from segtutor.losses import AuxiliaryLoss, CrossEntropyLoss
from segtutor.metrics import ConfusionMatrix
from segtutor.training import History, Observer, autocast_dtype, evaluate, fit, poly, precision, sampling


class Blocks(torch.utils.data.Dataset):
    """Bright pixels are class 1; flipped at random by the global generator, as torchvision's transforms are."""

    def __init__(self, length=9, size=(12, 16), augment=True, void=False):
        self.length, self.size, self.augment, self.void = length, size, augment, void
        self.drawn = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.drawn.append(index)
        image = torch.rand(3, *self.size, generator=torch.Generator().manual_seed(index))
        mask = (image[0] > 0.5).long()
        if self.void:
            mask[:3] = 255
        if self.augment and torch.rand(()) < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return image + (0.01 * np.random.rand() + 0.01 * random.random() if self.augment else 0.0), mask


def small_net(seed=0, classes=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, classes, 1)
        )


def train(seed=0, dataset=None, **settings):
    return fit(
        small_net(),
        Blocks() if dataset is None else dataset,
        **{"steps": 7, "lr": 1e-2, "batch_size": 4, "seed": seed, **settings},
    )


# ---------------------------------------------------------------------------------------------------- reproducibility
def test_same_seed_same_losses_bit_for_bit():
    first = train()
    torch.manual_seed(99), np.random.seed(99), random.seed(99)  # the caller's state must not leak in
    second = train()
    assert first.loss == second.loss
    assert train(seed=1).loss != first.loss


def test_workers_change_nothing_about_reproducibility():
    assert train(num_workers=1).loss == train(num_workers=1).loss


@pytest.mark.parametrize("stop", [None, ValueError, KeyboardInterrupt])
def test_the_callers_random_state_is_put_back(stop):
    def on_step(step, loss):
        if stop is not None and step == 3:
            raise stop("stop here")

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(4), np.random.rand(4), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    if stop is ValueError:
        with pytest.raises(ValueError, match="stop here"):
            train(on_step=on_step, validation=Blocks(3))
    else:
        train(on_step=on_step, validation=Blocks(3))
    assert torch.equal(torch.rand(4), expected[0])
    assert np.array_equal(np.random.rand(4), expected[1])
    assert random.random() == expected[2]


def test_validation_does_not_change_the_training():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few steps may well predict one class
        assert train(validation=Blocks(5), validate_every=2).loss == train().loss


# ------------------------------------------------------------------------------------------------------------ batches
def test_every_pass_sees_each_image_once_in_a_new_order():
    dataset = Blocks(8)
    train(dataset=dataset, steps=6, batch_size=4)
    passes = [dataset.drawn[k : k + 8] for k in (0, 8, 16)]
    assert all(sorted(one) == list(range(8)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(9, 4, [4, 4, 4, 4]), (10, 4, [4, 4, 2, 4]), (1, 4, [1, 1, 1]), (3, 1, [1, 1, 1, 1]), (3, 8, [3, 3])],
)
def test_a_trailing_batch_of_one_is_dropped(count, batch_size, sizes):
    batches = sampling.index_batches(count, batch_size, torch.Generator().manual_seed(0))
    assert [len(next(batches)) for _ in sizes] == sizes


def test_images_of_different_sizes_are_refused_with_advice():
    class Ragged(Blocks):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image[:, index:], mask[index:]

    with pytest.raises(ValueError, match=r"9 x 16, 10 x 16, 11 x 16, 12 x 16.*crop"):
        train(dataset=Ragged(4, augment=False))


# --------------------------------------------------------------------------------------------------- the loop itself
def test_fit_equals_a_loop_written_by_hand():
    dataset = Blocks(8, augment=False)
    model, reference = small_net(), small_net()
    for net in (model, reference):
        net[3].p = 0.0
    history = fit(
        model, dataset, steps=5, lr=0.02, weight_decay=0.1, batch_size=4, precision="fp32", gradient_clip=0.05, seed=3
    )

    reference.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.02, weight_decay=0.1)
    order = torch.Generator().manual_seed(3)
    indices = torch.cat([torch.randperm(8, generator=order) for _ in range(3)]).split(4)
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 5) ** 0.9
        images, masks = (torch.stack(parts) for parts in zip(*[dataset[int(i)] for i in indices[step]], strict=True))
        value = nn.functional.cross_entropy(reference(images.to(memory_format=torch.channels_last)), masks)
        assert history.loss[step] == pytest.approx(value.item(), rel=1e-4)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        optimizer.step()
    for mine, theirs in zip(model.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


class TwoHeads(nn.Module):
    """A model with an auxiliary output for training, as PSPNet has."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 1)

    def forward(self, images, auxiliary=False):
        features = self.body(images).relu()
        return (self.head(features), self.auxiliary(features)) if auxiliary else self.head(features)


def test_the_auxiliary_output_is_trained():
    """Two steps with an auxiliary output, written by hand; unless asked for, the second head learns nothing."""
    torch.manual_seed(0)
    model, dataset = TwoHeads(), Blocks(4, augment=False)
    reference, alone = copy.deepcopy(model), copy.deepcopy(model)
    history = fit(
        model, dataset, steps=2, lr=0.05, batch_size=4, schedule="constant", precision="fp32", weight_decay=0.0,
        loss=AuxiliaryLoss(0.4), auxiliary=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.05, weight_decay=0.0)
    images, masks = (torch.stack(parts) for parts in zip(*[dataset[i] for i in range(4)], strict=True))
    for step in range(2):
        features = reference.body(images).relu()
        value = nn.functional.cross_entropy(reference.head(features), masks)
        value = value + 0.4 * nn.functional.cross_entropy(reference.auxiliary(features), masks)
        assert history.loss[step] == pytest.approx(value.item(), rel=1e-4)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for mine, theirs in zip(model.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    before = alone.auxiliary.weight.detach().clone()
    fit(alone, dataset, steps=2, batch_size=4)
    assert alone.auxiliary.weight.equal(before)


def test_every_output_reaches_the_loss_in_fp32():
    model, seen = TwoHeads(), []

    def loss(outputs, masks):
        seen.extend(output.dtype for output in outputs)
        return sum(nn.functional.cross_entropy(output, masks) for output in outputs)

    fit(model, Blocks(4), steps=1, loss=loss, auxiliary=True, precision="bf16")
    assert seen == [torch.float32, torch.float32]


def test_the_auxiliary_output_is_asked_for_through_the_call_so_that_hooks_fire():
    calls, model = [], TwoHeads()
    model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    fit(model, Blocks(4), steps=2, batch_size=4, loss=AuxiliaryLoss(), auxiliary=True)
    assert calls == [{"auxiliary": True}] * 2


def test_validation_wants_one_output():
    torch.manual_seed(1)
    history = fit(TwoHeads(), Blocks(4), steps=1, loss=AuxiliaryLoss(), auxiliary=True, validation=Blocks(2))
    assert len(history.validation) == 1


# ------------------------------------------------------------------------------------------------ what the user froze
def frozen_net():
    """A network in training mode whose normalisation its user has put into evaluation mode."""
    model = small_net().train()
    model[1].eval()
    return model


def modes(model):
    return [module.training for module in model]


def test_frozen_norms_stay_frozen_in_training():
    model, seen = frozen_net(), []
    before = {name: value.clone() for name, value in model[1].named_buffers()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not learnt anything yet
        fit(model, Blocks(), steps=3, batch_size=4, validation=Blocks(2), validate_every=1, lr=0.0,
            on_step=lambda step, loss: seen.append(modes(model)))  # fmt: skip
    assert seen == [[True, False, True, True, True]] * 3
    assert all(value.equal(before[name]) for name, value in model[1].named_buffers())
    assert modes(model) == [False] * 5 and not model.training


def test_a_model_in_evaluation_mode_is_trained_whole():
    model, seen = small_net().eval(), []
    fit(model, Blocks(), steps=1, batch_size=4, on_step=lambda step, loss: seen.append(modes(model)))
    assert seen == [[True] * 5]


def test_evaluate_gives_each_module_its_own_mode_back():
    model = frozen_net()
    evaluate(model, Blocks(2))
    assert model.training and modes(model) == [True, False, True, True, True]

    class Broken(Blocks):
        def __getitem__(self, index):
            raise OSError("the file is broken")

    with pytest.raises(OSError, match="broken"):
        evaluate(model, Broken(2))
    assert model.training and modes(model) == [True, False, True, True, True]


# ------------------------------------------------------------------------------------------- what is no data set
IMAGE, MASK = torch.full((3, 8, 8), 0.5), torch.zeros(8, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ({"image": IMAGE, "mask": MASK}, "not a dictionary \\('image', 'mask'\\)"),
        ((IMAGE, MASK, "name.png"), "not 3 values"),
        (IMAGE, "not a Tensor"),
        (("image.png", "mask.png"), "not str and str"),
        ((IMAGE.mul(255).byte(), MASK), "uint8: convert it by image.float\\(\\) / 255"),
        ((IMAGE.double(), MASK), "float64: convert it by image.float"),
        ((IMAGE.double().numpy(), MASK.numpy()), "float64: convert it by image.float"),
        ((IMAGE.permute(1, 2, 0), MASK), "channels last: use image.permute"),
        ((IMAGE[0], MASK), "three dimensions"),
        ((IMAGE, MASK.float()), "float32: convert it by mask.long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_samples_that_are_no_pairs_are_named_in_one_sentence(sample, says):
    for call in (lambda data: fit(small_net(), data, steps=1), lambda data: evaluate(small_net(), data)):
        with pytest.raises(ValueError, match=says) as caught:
            call([sample] * 4)
        assert "\n" not in str(caught.value)


def test_numpy_pairs_and_masks_of_other_integers_train():
    sample = (IMAGE.numpy(), MASK.numpy().astype(np.uint8))
    assert len(fit(small_net(), [sample] * 4, steps=1).loss) == 1
    assert evaluate(small_net(), [sample] * 4).matrix.sum() == 4 * 64


@pytest.mark.parametrize("role", ["dataset", "validation"])
def test_what_is_no_data_set_is_named_in_one_sentence(role):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield IMAGE, MASK

    loader = torch.utils.data.DataLoader(Blocks(), batch_size=2)
    for wrong, says in [(loader, "is a DataLoader.*loader.dataset"), (Stream(), "Stream, which has no length")]:
        given = {"dataset": Blocks(), "validation": None, role: wrong}
        with pytest.raises(ValueError, match=f"{role} {says}" if says.startswith("is") else f"{role} is a {says}"):
            fit(small_net(), given["dataset"], steps=1, validation=given["validation"])
    with pytest.raises(ValueError, match="dataset is a DataLoader"):
        evaluate(small_net(), loader)


def test_a_model_that_returns_no_logits_is_named():
    class Dictionary(nn.Conv2d):
        def forward(self, images):
            return {"out": super().forward(images)}

    for call in (lambda model: fit(model, Blocks(), steps=1), lambda model: evaluate(model, Blocks())):
        with pytest.raises(ValueError, match="returned a dict.*wrap the model"):
            call(Dictionary(3, 2, 1))
    with pytest.raises(ValueError, match="returned several tensors"):
        evaluate(Halves(), Blocks())


class Halves(nn.Module):
    def forward(self, images):
        return images[:, :1], images[:, 1:]


def test_a_network_of_nans_gets_no_score():
    model = small_net()
    nn.init.constant_(model[4].weight, float("nan"))

    class Background(Blocks):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], torch.zeros(12, 16, dtype=torch.int64)

    for net in (model, nn.Sequential(model, nn.Conv2d(2, 1, 1))):
        with pytest.raises(ValueError, match="not a number"):
            evaluate(net, Background(3))


def test_it_learns():
    model, data = small_net(), Blocks(augment=False)
    history = fit(model, data, steps=60, lr=3e-2, batch_size=4)
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert evaluate(model, data).miou > 0.9


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (50, 0.5**0.9), (99, 0.01**0.9), (100, 0.0)])
def test_poly(step, expected):
    assert poly(step, 100) == pytest.approx(expected)


def test_schedules_set_the_learning_rate_of_every_group():
    assert train(steps=4).lr == pytest.approx([1e-2 * (1 - k / 4) ** 0.9 for k in range(4)])
    assert train(steps=3, schedule="constant").lr == [1e-2] * 3
    assert train(steps=3, schedule=lambda step, steps: (step + 1) / steps).lr == pytest.approx(
        [1e-2 / 3, 2e-2 / 3, 1e-2]
    )
    model = small_net()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[4].parameters(), "lr": 1.0}], lr=0.1, momentum=0.9
    )
    for _ in range(2):  # a second run starts again from the full rate
        history = fit(model, Blocks(), steps=2, optimizer=optimizer, batch_size=4)
        assert history.lr == pytest.approx([0.1, 0.1 * 0.5**0.9])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5**0.9)
    with pytest.raises(ValueError, match="unknown schedule 'linear'"):
        train(schedule="linear")


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="steps"):
        train(steps=0)
    with pytest.raises(ValueError, match="0 images"):
        train(dataset=Blocks(0))


def test_clipping_bounds_the_step():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, Blocks(), steps=1, optimizer=optimizer, gradient_clip=1e-3, batch_size=4)
    moved = math.sqrt(
        sum(float(((p.detach() - b) ** 2).sum()) for p, b in zip(model.parameters(), before, strict=True))
    )
    assert 0 < moved <= 1.01e-3


def test_an_interrupt_returns_what_there_is():
    def on_step(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    history = train(on_step=on_step)
    assert history.interrupted and history.steps == [1, 2, 3] and len(history.loss) == 3
    assert "interrupted" in repr(history)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step(value):
    calls = []

    def loss(logits, masks):
        calls.append(1)
        return nn.functional.cross_entropy(logits, masks) * (value if len(calls) == 4 else 1.0)

    model = small_net()
    with pytest.raises(FloatingPointError, match=f"{value} at step 4") as caught:
        fit(model, Blocks(), steps=9, loss=loss, batch_size=4)
    assert "\n" not in str(caught.value)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_batch_transform_sees_every_training_batch_and_no_other():
    seen = []

    def mirrored(images, masks):
        seen.append(len(images))
        return images.flip(-1), masks.flip(-1)

    plain = Blocks(augment=False)
    by_hand = train(dataset=[mirrored(*plain[i]) for i in range(len(plain))], validation=plain, steps=3)
    seen.clear()
    transformed = train(dataset=plain, batch_transform=mirrored, validation=plain, steps=3)
    assert transformed.loss == by_hand.loss and transformed.validation == by_hand.validation and seen == [4, 4, 4]


def test_void_pixels_do_not_train():
    data = Blocks(8, augment=False, void=True)
    history = train(dataset=data, steps=1, batch_size=8)
    model = small_net()
    model[3].p = 0.0
    images, masks = (torch.stack(parts) for parts in zip(*[data[i] for i in range(8)], strict=True))
    logits = model.train()(images).detach()
    expected = float(nn.functional.cross_entropy(logits, masks, ignore_index=255))
    assert history.loss[0] == pytest.approx(expected, rel=0.2)  # dropout differs
    assert float(CrossEntropyLoss()(logits, masks)) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- reporting
def test_log_lines(caplog):
    caplog.set_level("INFO", "segtutor")
    train(steps=5, log_every=2, validation=Blocks(3))
    lines = caplog.messages
    assert [line.split("  ")[0] for line in lines] == ["step 2/5", "step 4/5", "step 5/5", "step 5/5"]
    assert all(word in lines[0] for word in ("loss", "lr", "ms/step", "left"))
    assert "mIoU" in lines[-1]


def test_silent_unless_asked(capsys, caplog):
    caplog.set_level("INFO", "segtutor")
    train(validation=Blocks(3))
    assert capsys.readouterr().out == "" and caplog.messages == []


def test_observers_hear_of_each_step_and_validation_and_are_left_before_a_signal_is_raised(caplog, monkeypatch):
    heard = []

    class Ear(Observer):
        def __enter__(self):
            heard.append("in")

        def __exit__(self, *error):
            heard.append("out")

        def stepped(self, step, lr):
            heard.append(step)

        def entered(self, history):
            heard.append(("loss of", len(history.loss)))

        def validated(self, history, confusion, model):
            heard.append((history.validation[-1] == (4, confusion.summary()), isinstance(model, nn.Module)))

    class Bar(Ear):
        shows_steps = True

    caplog.set_level("INFO", "segtutor")
    train(steps=4, log_every=2, validation=Blocks(3), observers=[Ear()])
    assert heard == ["in", 1, 2, ("loss of", 2), 3, 4, ("loss of", 4), (True, True), "out"]
    assert len(caplog.messages) == 3
    train(steps=4, log_every=2, observers=[Bar()])
    assert len(caplog.messages) == 3, "lines beside a bar"

    told = []
    monkeypatch.setattr(signal, "raise_signal", lambda number: told.append((number, heard[-1])))
    train(
        steps=4,
        observers=[Ear()],
        on_step=lambda step, loss: os.kill(os.getpid(), signal.SIGTERM),
        save=lambda state: None,
    )
    assert told == [(signal.SIGTERM, "out")]


def test_validation_scores_are_recorded():
    history = train(steps=7, validation=Blocks(4), validate_every=3)
    assert [step for step, _ in history.validation] == [3, 6, 7]
    assert 0 <= history.validation[0][1]["miou"] <= 1


def test_a_collapsed_model_is_pointed_out():
    model = small_net()
    nn.init.zeros_(model[4].weight)
    model[4].bias.data = torch.tensor([-50.0, 50.0])
    with pytest.warns(UserWarning, match="class 1 for 100.0 %"):
        fit(model, Blocks(), steps=1, lr=1e-6, batch_size=4, validation=Blocks(4))

    class AllOfOneClass(Blocks):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image, torch.ones_like(mask)

    with pytest.warns(UserWarning) as caught:  # no collapse: the model is right
        fit(model, AllOfOneClass(), steps=1, lr=1e-6, batch_size=4, validation=AllOfOneClass(4))
    assert not any("collapsed" in str(warning.message) for warning in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(small_net(), Blocks(augment=False), steps=60, lr=3e-2, batch_size=4, validation=Blocks(4, augment=False))


@pytest.mark.parametrize(
    ("values", "says"),
    [((0, 255), "hold class 0 and no other"), ((1,), "hold class 1 and no other"), ((255,), "are void everywhere")],
)
def test_masks_that_teach_nothing_are_pointed_out(values, says):
    """Masks of 0 and 255 above all: 255 is void, and a network that always answers 0 scores 1."""

    class Masks(Blocks):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image, torch.tensor(values).repeat(mask.numel())[: mask.numel()].reshape(mask.shape)

    with pytest.warns(UserWarning) as caught:
        fit(small_net(), Masks(8), steps=2, batch_size=4, validation=Blocks(4))
    assert f"the training masks {says}, so that scores on them mean nothing" in str(caught[-1].message)
    with pytest.warns(UserWarning, match=f"the validation masks {says}"):
        fit(small_net(), Blocks(8), steps=1, batch_size=4, validation=Masks(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(small_net(), Masks(8), steps=1, batch_size=4)  # half of the set: the other half may hold more


def test_tensorboard_is_optional(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert train(steps=1).steps == [1]
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(log_dir=tmp_path)


def test_history_of_nothing():
    assert repr(History()) == "History(no steps)"
    assert math.isnan(History().seconds_per_step)


def test_history_times_are_sane():
    history = train(steps=5)
    assert len(history.step_seconds) == 5
    assert 0 < history.seconds_per_step * 5 < 3 * history.seconds


# ---------------------------------------------------------------------------------------------------------- precision
def test_auto_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    assert autocast_dtype("cpu") is None
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    assert autocast_dtype("cpu") is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # T4
    assert autocast_dtype("cuda") is torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert autocast_dtype("cuda") is torch.bfloat16
    assert autocast_dtype("mps") is None


def test_emulated_bf16_does_not_count(monkeypatch):
    def no_such_file(self):
        raise FileNotFoundError

    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    for answer in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda answer=answer: answer, raising=False)
        assert precision._cpu_has_bf16() is answer
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.setattr(precision.Path, "read_text", lambda self: "flags: avx512f avx512_bf16")
    assert not precision._cpu_has_bf16()
    monkeypatch.setattr(precision.Path, "read_text", lambda self: "flags: avx512f avx512_bf16 amx_bf16 amx_tile")
    assert precision._cpu_has_bf16()
    monkeypatch.setattr(precision.Path, "read_text", no_such_file)
    assert not precision._cpu_has_bf16()


@pytest.mark.parametrize("channels", [16, 20, 48, 72])
@pytest.mark.parametrize("dilation", [1, 2, 8])
def test_auto_precision_gives_right_gradients_on_this_cpu(channels, dilation):
    # The layout and the widths that oneDNN's bfloat16 kernel without AMX gets wrong.
    torch.manual_seed(0)
    body = [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    body += [nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)]
    model = nn.Sequential(*body).to(memory_format=torch.channels_last)
    x = torch.randn(8, channels, 32, 32).contiguous(memory_format=torch.channels_last)
    gradients = []
    for dtype in (None, autocast_dtype("cpu")):
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            out = model(x)
        out.float().square().mean().backward()
        gradients.append(model[2].weight.grad.clone())
    exact, chosen = gradients
    assert (chosen - exact).abs().max() < 0.03 * exact.abs().max()


def test_precision_by_name():
    assert autocast_dtype("cpu", "fp32") is None
    assert autocast_dtype("cpu", "bf16") is torch.bfloat16
    with pytest.raises(ValueError, match="fp16.*CUDA"):
        autocast_dtype("cpu", "fp16")
    with pytest.raises(ValueError, match="half"):
        autocast_dtype("cpu", "half")


def test_bf16_computes_in_bf16_and_the_loss_in_fp32():
    seen = {}
    model = small_net()
    model[4].register_forward_hook(lambda module, args, output: seen.update(logits=output.dtype))

    def loss(logits, masks):
        seen.update(loss=logits.dtype)
        return nn.functional.cross_entropy(logits, masks)

    history = fit(model, Blocks(), steps=2, loss=loss, precision="bf16", batch_size=4)
    assert seen == {"logits": torch.bfloat16, "loss": torch.float32}
    assert history.precision == "bf16"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16", "fp32"])
def test_trains_on_cuda(precision):
    data = Blocks(augment=False)
    model = small_net()
    torch.cuda.manual_seed(11)
    before = torch.cuda.get_rng_state()
    history = fit(model, data, steps=60, lr=3e-2, batch_size=4, device="cuda", precision=precision, gradient_clip=1.0)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert next(model.parameters()).is_cuda
    assert evaluate(model, data).miou == pytest.approx(evaluate(model, data, device="cpu").miou, abs=0.01)


# ----------------------------------------------------------------------------------------------------------- evaluate
@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_evaluate_equals_a_hand_loop(batch_size):
    model, data = small_net(classes=3).eval(), Blocks(7, augment=False, void=True)
    expected = torch.zeros(3, 3, dtype=torch.long)
    for i in range(7):
        image, mask = data[i]
        predicted = model(image[None])[0].argmax(0)
        for t, p in zip(mask.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            if t != 255:
                expected[t, p] += 1
    confusion = evaluate(model, data, batch_size=batch_size)
    assert isinstance(confusion, ConfusionMatrix)
    assert torch.equal(confusion.matrix.cpu(), expected)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_model_as_it_was(training):
    model = small_net().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, Blocks(3))
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not parameter.is_inference() for parameter in model.parameters())


def test_evaluate_scores_some_images_spread_over_the_set():
    data = Blocks(10, augment=False)
    evaluate(small_net(), data, limit=4)
    assert data.drawn == [0, 2, 5, 7]
    data.drawn.clear()
    evaluate(small_net(), data, limit=99)
    assert data.drawn == list(range(10))


def test_evaluate_one_logit_is_foreground_against_background():
    class OneLogit(nn.Module):
        def forward(self, images):
            return images[:, :1] - 0.5

    assert evaluate(OneLogit(), Blocks(3, augment=False)).miou == 1.0


def test_evaluate_of_nothing():
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate(small_net(), Blocks(0))


# ------------------------------------------------------------------------------------------------------ where time goes
def test_a_profile_says_where_time_went_and_changes_no_number(caplog):
    expected = train(steps=6)
    with caplog.at_level("INFO", logger="segtutor"):
        history = train(steps=6, profile=3)
    assert history.loss == expected.loss
    (line,) = [record.message for record in caplog.records if record.message.startswith("Profile of")]
    assert line.startswith("Profile of 3 steps of ")
    shares = [int(number) for number in re.findall(r"(\d+) %", line)]
    assert len(shares) == 5 and 97 <= sum(shares) <= 103 and shares[2] > 0


def test_a_profile_blames_what_is_slow(caplog):
    import time

    class Slow(Blocks):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    with caplog.at_level("INFO", logger="segtutor"):
        train(dataset=Slow(8), steps=4, batch_size=4, profile=2)
    assert "Loading is the brake: set num_workers to 1 or more, from 0" in caplog.text
