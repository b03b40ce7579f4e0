"""The switches of a training recipe, each against a reference that knows nothing of it."""

import copy
import importlib
import json

import numpy as np
import pytest
import torch
import yaml
from contract import seeded
from torch import nn

from segtutor import cli, factory, inference, losses, runs
from segtutor.data import SyntheticScenes
from segtutor.factory import ConfigError, SegmentationModel, create_model, get_backbone_statistics
from segtutor.runs import read_recipe
from segtutor.runs.parameter_groups import parameter_groups
from segtutor.runs.recipe import parse_training
from segtutor.training import fit, load_checkpoint

train_module = importlib.import_module("segtutor.runs.train")  # the package has a function of that name
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")

PRETRAINED = {
    "model": {"backbone": {"type": "efficientnet_lite", "pretrained": True}, "head": "fcn"},
    "data": {"type": "scenes", "size": [32, 48], "length": 2, "augmentation": {"flip": False}},
    "training": {"steps": 1, "batch_size": 2, "precision": "fp32"},
}


# ------------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    "section, timm_name",
    [
        ({"type": "efficientnet_lite"}, "tf_efficientnet_lite0"),
        ({"type": "resnet", "depth": 18}, "resnet18"),
        ({"type": "resnetv2", "depth": 50}, "resnetv2_50"),
        ({"type": "timm", "name": "regnetx_002"}, "regnetx_002"),
    ],
)
def test_a_pretrained_backbone_knows_what_its_images_were_normalised_by(section, timm_name):
    import timm

    published = timm.models.get_pretrained_cfg(timm_name)
    known = get_backbone_statistics({**section, "pretrained": True})
    assert known == (published.mean, published.std)
    assert get_backbone_statistics(section) is None


def test_statistics_follow_the_weights_of_the_first_layer_to_other_channels():
    """A first layer that sees a grey image answers alike, whether it gets it as three channels or as one."""
    section, answers = {"type": "efficientnet_lite", "pretrained": True}, []
    for channels in (3, 1):
        known = get_backbone_statistics({"backbone": section, "head": "fcn", "num_classes": 2, "in_channels": channels})
        image = torch.stack([(torch.full((9, 9), 0.8) - m) / s for m, s in zip(*known, strict=True)])
        with torch.no_grad():
            answers.append(factory.create_backbone(section, channels).eval().network.conv_stem(image[None]))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-4)
    mit = {"backbone": {"type": "segformer", "pretrained": True}, "head": "fcn", "num_classes": 2}
    assert get_backbone_statistics({**mit, "in_channels": 1}).std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    assert get_backbone_statistics({**mit, "in_channels": 4}).mean == (0.485, 0.456, 0.406, 0.485)
    assert get_backbone_statistics({"type": "vovnet", "pretrained": "mine.pth"}) is None


def test_a_model_without_data_knows_its_backbones_statistics():
    model = create_model(PRETRAINED["model"], num_classes=2)
    assert (model.info.mean, model.info.std) == ((0.5,) * 3, (0.5,) * 3)


def test_training_and_the_saved_model_normalise_alike_and_as_the_backbone_was_trained(tmp_path, monkeypatch):
    seen, fit = [], train_module.training.fit

    def watched(model, data, **settings):
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        return fit(model, data, **settings)

    monkeypatch.setattr(train_module.training, "fit", watched)
    path = tmp_path / "street.yaml"
    path.write_text(yaml.safe_dump(PRETRAINED), encoding="utf-8")
    assert cli.main(["train", "--config", str(path), "--out", str(tmp_path / "run")]) == 0
    trained_on, validated_on = seen
    sets = {split: SyntheticScenes((32, 48), 2, split=split) for split in ("train", "val")}
    raw = {split: torch.stack([image for image, _ in images]) for split, images in sets.items()}
    by_hand = {split: (images - 0.5) / 0.5 for split, images in raw.items()}
    order = [0, 1] if torch.allclose(trained_on[0], by_hand["train"][0], atol=1e-6) else [1, 0]
    torch.testing.assert_close(trained_on[order], by_hand["train"])
    torch.testing.assert_close(validated_on, by_hand["val"])

    model = SegmentationModel.from_pretrained(tmp_path / "run" / "last")
    assert (
        (model.info.mean, model.info.std) == ((0.5,) * 3, (0.5,) * 3) != (sets["val"].spec.mean, sets["val"].spec.std)
    )
    with torch.no_grad():
        pipeline = model(validated_on).argmax(1)
    assert torch.stack([inference.predict(model, image) for image in raw["val"]]).equal(pipeline)
    [[_, validated]] = json.loads((tmp_path / "run" / "history.json").read_text())["validation"]
    assert runs.evaluate(tmp_path / "run", "val", weights="last")["miou"] == validated["miou"]


# ------------------------------------------------------------------------------------------- schedules and optimisers


def rates(schedule, steps=20, **training):
    factor = parse_training({"schedule": schedule, "steps": steps, **training}).make_schedule()
    return [0.3 * factor(step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ({"type": "poly", "power": 2.0}, lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 20, power=2.0)),
        ("poly", lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 20, power=0.9)),
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)),
        ({"type": "cosine", "floor": 0.1}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, eta_min=0.03)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1)),
    ],
)
def test_schedules_are_torchs(schedule, reference):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, expected = reference(optimizer), []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(schedule) == pytest.approx(expected)


def test_warm_up_rises_to_a_schedule_of_its_own_settings():
    assert rates({"type": "cosine", "floor": 1.0}, warmup=4) == pytest.approx([0.06, 0.12, 0.18, 0.24] + [0.3] * 16)


def test_nesterov_reaches_the_optimizer():
    optimizer = {"type": "sgd", "momentum": 0.8, "nesterov": True}
    made = parse_training({"optimizer": optimizer}).make_optimizer(nn.Linear(1, 1))
    assert made.defaults["nesterov"] is True and made.defaults["momentum"] == 0.8


# ------------------------------------------------------------------------------------------------------------- groups


def small_model(backbone="resnet18", **section):
    section = {"type": backbone, **section} if section else backbone
    return seeded(create_model, {"backbone": section, "head": "fcn", "num_classes": 2})


def by_name(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(held)]: (group["lr"], group["weight_decay"]) for group in groups for held in group["params"]}
    assert found.keys() == dict(model.named_parameters()).keys()  # each is in one group
    assert sum(len(group["params"]) for group in groups) == len(found)
    return found


def test_without_switches_there_is_one_group_in_the_models_order():
    model = small_model()
    [group] = parameter_groups(model, lr=0.1, weight_decay=0.2)
    assert [id(held) for held in group["params"]] == [id(held) for held in model.parameters()]


def test_norms_and_biases_are_spared_as_timm_spares_them():
    from timm.optim import param_groups_weight_decay

    model = small_model()
    ours = by_name(model, parameter_groups(model, lr=0.1, weight_decay=0.2, decay_norms=False))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = {
        names[id(held)]: group["weight_decay"]
        for group in param_groups_weight_decay(model, weight_decay=0.2)
        for held in group["params"]
    }
    assert {name: decay for name, (_, decay) in ours.items()} == theirs
    assert set(theirs.values()) == {0.0, 0.2}


def test_layer_decay_is_timms():
    import timm
    from timm.optim import param_groups_layer_decay

    network = timm.create_model("resnet18")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    theirs = {
        names[id(held)]: group["lr_scale"]
        for group in param_groups_layer_decay(network, weight_decay=0.2, layer_decay=0.7)
        for held in group["params"]
    }
    model = small_model()
    groups = parameter_groups(model, lr=1.0, weight_decay=0.2, layer_decay=0.7, head_lr=10.0)
    ours = {name: lr for name, (lr, _) in by_name(model, groups).items()}
    for name, factor in theirs.items():
        if not name.startswith("fc."):
            assert ours[f"backbone.network.{name}"] == pytest.approx(factor), name
    assert {lr for name, lr in ours.items() if name.startswith("head.")} == {10.0}


def test_layer_decay_of_a_transformer_counts_its_blocks():
    model = small_model("mit-b0")
    groups = parameter_groups(model, lr=1.0, weight_decay=0.0, layer_decay=0.5)
    ours = {name: lr for name, (lr, _) in by_name(model, groups).items()}
    assert groups[0]["lr"] == 1.0  # what the log shows is the plain rate
    stages = [(stage, block) for stage in range(4) for block in range(2)]
    for depth, (stage, block) in enumerate(stages, start=1):  # MiT-B0 has two blocks in each of its four stages
        of_block = {lr for name, lr in ours.items() if f"stages.{stage}.blocks.{block}." in name}
        assert of_block == {0.5 ** (9 - depth)}
    embeddings = [{lr for name, lr in ours.items() if f"stages.{stage}.embed." in name} for stage in range(4)]
    assert embeddings == [{0.5**9}, {0.5**6}, {0.5**4}, {0.5**2}]


# ------------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet-lite0", "mit-b0", "convnext-tiny"])
def test_the_first_stages_can_be_frozen(backbone):
    model = small_model(backbone)
    every, frozen = {name for name, _ in model.backbone.named_parameters()}, []
    for stage in (1, 2, 3, 4):
        model.freeze_backbone(stage)
        frozen.append({name for name, held in model.backbone.named_parameters() if not held.requires_grad})
    assert frozen[0] < frozen[1] < frozen[2] < frozen[3] <= every
    if backbone == "resnet18":
        stems = ("network.conv1", "network.bn1", "network.layer1", "network.layer2")
        assert frozen[1] == {name for name in every if name.startswith(stems)}
    model.freeze_backbone(2).train()
    before = copy.deepcopy(model.backbone.state_dict())
    model(torch.rand(2, 3, 64, 64)).square().mean().backward()
    learned = {name for name, held in model.backbone.named_parameters() if held.grad is not None}
    assert learned and not learned & frozen[1] and learned == every - frozen[1]
    for name, value in model.backbone.state_dict().items():
        if name.endswith("running_mean"):
            is_frozen = name.removesuffix("running_mean") + "weight" in frozen[1]
            assert value.equal(before[name]) == is_frozen, name
    model.freeze_backbone(False).train()
    assert all(held.requires_grad for held in model.backbone.parameters())
    assert all(part.training for part in model.modules())


# ------------------------------------------------------------------------- the mean of the weights, and accumulation


def net(norm=True):
    def build():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.ReLU(), nn.Conv2d(4, 3, 1)
        )

    return seeded(build)


def samples(count=8):
    generator = torch.Generator().manual_seed(0)
    shapes = [(torch.randn(3, 8, 8, generator=generator), torch.randint(3, (8, 8), generator=generator))]
    return shapes + [(torch.randn(3, 8, 8, generator=generator), shapes[0][1].roll(i)) for i in range(1, count)]


PLAIN = {"batch_size": 4, "lr": 0.05, "precision": "fp32"}


def test_the_mean_of_the_weights_is_the_recursion_buffers_included():
    states = []
    live = net()
    fit(live, samples(), steps=12, on_step=lambda *_: states.append(copy.deepcopy(live.state_dict())), **PLAIN)
    expected = states[0]
    for n, state in enumerate(states[1:], start=1):
        keep = min(0.6, (1 + n) / (10 + n))
        for name, value in state.items():
            if value.is_floating_point():
                expected[name] = keep * expected[name] + (1 - keep) * value
    averaged = net()
    fit(averaged, samples(), steps=12, ema=0.6, **PLAIN)
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], msg=name)
            assert not value.equal(states[-1][name])


def test_the_mean_is_what_is_validated_and_saved_while_the_weights_go_on():
    saved, live = [], net()
    settings = {"steps": 6, "validation": samples(2), "validate_every": 3, **PLAIN}
    plain = fit(net(), samples(), **settings)

    def save(state):
        saved.append((state["model"], copy.deepcopy(live.state_dict())))

    history = fit(live, samples(), ema=0.9, save=save, **settings)
    assert history.loss == plain.loss and history.validation != plain.validation
    assert not saved[-1][0]["0.weight"].equal(saved[-1][1]["0.weight"])
    assert live.state_dict()["0.weight"].equal(saved[-1][1]["0.weight"])
    with pytest.raises(ValueError, match="ema is 1"):
        fit(net(), samples(), steps=1, ema=1.0)


def test_a_step_of_two_batches_is_the_step_of_one_twice_as_large():
    whole, parts = net(norm=False), net(norm=False)
    rules = {"lr": 0.05, "precision": "fp32", "steps": 4}
    one = fit(whole, samples(), batch_size=4, **rules)
    two = fit(parts, samples(), batch_size=2, accumulate=2, **rules)
    assert one.loss == pytest.approx(two.loss)
    for expected, found in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="accumulate is 0"):
        fit(net(), samples(), steps=1, accumulate=0)


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("threshold, kept", [(0.7, 0.1), (0.2, 0.3), (0.0, 0.25), (1.0, 0.0)])
def test_hard_pixels_are_those_that_sorting_finds(threshold, kept):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 9, 7, generator=generator).double() * 2
    target = torch.randint(3, (2, 9, 7), generator=generator)
    target[0, :3] = 255
    weight = [1.0, 2.0, 0.5]
    p = np.exp(logits.permute(0, 2, 3, 1).reshape(-1, 3).numpy())
    y, p = target.flatten().numpy(), p / p.sum(1, keepdims=True)
    p, y = p[y != 255], y[y != 255]
    truth = p[np.arange(len(y)), y]
    hardest = np.argsort(truth)[: max(1, int(np.ceil(kept * len(y))))]
    chosen = np.union1d(np.flatnonzero(truth < threshold), hardest)
    w = np.array(weight)[y[chosen]]
    expected = (w * -np.log(truth[chosen])).sum() / w.sum()
    loss = losses.OHEMCrossEntropyLoss(threshold=threshold, kept=kept, weight=weight)
    assert loss(logits, target).item() == pytest.approx(expected)


def test_label_smoothing_is_a_key_of_the_loss():
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    loss = parse_training({"loss": {"type": "CrossEntropyLoss", "label_smoothing": 0.2}}).make_loss(255, False)
    assert loss(logits, target) == pytest.approx(nn.CrossEntropyLoss(label_smoothing=0.2)(logits, target))


def test_class_weights_that_contradict_the_loss_are_refused():
    with pytest.raises(ConfigError, match="training.class_weights: none of the losses takes class weights"):
        parse_training({"loss": "DiceLoss", "class_weights": "measured"})
    with pytest.raises(ConfigError, match="training.class_weights: loss 0 has a weight of its own"):
        parse_training({"loss": {"type": "CrossEntropyLoss", "weight": [1, 2]}, "class_weights": [1, 2]})
    with pytest.raises(ConfigError, match="training: there are 2 class weights for 11 classes"):
        read_recipe({"model": "resnet18-fcn", "training": {"class_weights": [1, 2]}})


# -------------------------------------------------------------------------------------------------- all of it, by YAML

FULL = {
    "model": {"backbone": {"type": "resnet", "depth": 18, "frozen": 1}, "head": "fcn", "auxiliary": True},
    "data": {"type": "scenes", "size": [32, 32], "length": 4},
    "training": {
        "steps": 4, "batch_size": 2, "precision": "fp32", "save_every": 2, "warmup": 1, "gradient_clip": 1.0,
        "optimizer": {"type": "sgd", "nesterov": True}, "schedule": {"type": "cosine", "floor": 0.1},
        "head_lr": 10, "layer_decay": 0.8, "decay_norms": False, "accumulate": 2, "ema": 0.9,
        "loss": ["OHEMCrossEntropyLoss", {"type": "FocalLoss", "loss_weight": 0.5}], "class_weights": "measured",
    },
}  # fmt: skip


def test_every_switch_at_once_by_the_command_line_and_continued_bit_for_bit(tmp_path, monkeypatch):
    path, states = tmp_path / "full.yaml", []
    path.write_text(yaml.safe_dump(FULL), encoding="utf-8")
    write = train_module.save_checkpoint
    monkeypatch.setattr(
        train_module, "save_checkpoint", lambda state, to: states.append(copy.deepcopy(state)) or write(state, to)
    )
    run = tmp_path / "run"
    assert cli.main(["train", "--config", str(path), "--out", str(run)]) == 0
    end = load_checkpoint(run / "checkpoint.pt")
    written = yaml.safe_load((run / "config.yaml").read_text())["training"]

    labels = torch.stack([mask for _, mask in SyntheticScenes((32, 32), 4, split="train")]).numpy()
    frequency = np.full(11, np.nan)
    for label in range(11):
        shown = [(mask == label).mean() for mask in labels if (mask == label).any()]
        frequency[label] = np.mean(shown) if shown else np.nan
    present = ~np.isnan(frequency)
    median = np.sort(frequency[present])[(present.sum() - 1) // 2]
    expected = np.where(present, median / frequency, 0.0)
    assert written["class_weights"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert (written["head_lr"], written["ema"], written["schedule"]["floor"]) == (10, 0.9, 0.1)
    assert len(end["optimizer"]["param_groups"]) > 4

    first = next(state for state in states if len(state["history"]["steps"]) == 2)
    write(first, run / "checkpoint.pt")
    assert cli.main(["train", "--resume", str(run)]) == 0
    again = load_checkpoint(run / "checkpoint.pt")
    assert again["history"]["loss"] == end["history"]["loss"]
    for part in ("model", "mean"):
        assert all(value.equal(again[part][name]) for name, value in end[part].items())
    saved = SegmentationModel.from_pretrained(run / "last").state_dict()
    assert all(value.equal(end["mean"][f"module.{name}"]) for name, value in saved.items())


# ------------------------------------------------------------------------------------------ losses are read when logged


class Spoilt(nn.Module):
    """A loss that is no number from one call on."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, logits, target):
        self.calls += 1
        return nn.functional.cross_entropy(logits, target) * (float("nan") if self.calls == self.at else 1.0)


class Asked(torch.Tensor):
    """Notes who asks for its value, and so waits for the device; what is computed from it notes it too."""

    numbers: list = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        asks = (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__float__)
        if func in asks:
            cls.numbers.append(args[0].numel())
        return super().__torch_function__(func, types, args, kwargs or {})


def test_losses_are_read_where_a_line_is_logged_and_equal_those_read_at_once():
    def loss(logits, target):
        return losses.CrossEntropyLoss()(logits, target).as_subclass(Asked)

    at_once = fit(net(), samples(), steps=7, **PLAIN)
    Asked.numbers.clear()
    deferred = fit(net(), samples(), steps=7, log_every=3, loss=loss, **PLAIN)
    assert Asked.numbers == [3, 3, 1]
    assert (deferred.loss, deferred.lr, deferred.steps) == (at_once.loss, at_once.lr, at_once.steps)
    assert len(deferred.step_seconds) == 7


def test_a_loss_that_is_no_number_is_found_before_the_next_state_is_saved():
    saved = []
    with pytest.raises(FloatingPointError, match="the loss became nan at step 4:"):
        fit(
            net(), samples(), steps=12, loss=Spoilt(4), log_every=5, save_every=3,
            save=lambda state: saved.append((state["history"]["steps"][-1], copy.deepcopy(state["model"]))), **PLAIN,
        )  # fmt: skip
    assert [step for step, _ in saved] == [3]
    assert all(value.isfinite().all() for value in saved[0][1].values())


def test_weights_that_are_no_numbers_are_not_saved():
    model, saved = net(), []
    model[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match="the weights are not finite after step 1:"):
        fit(model, samples(), steps=1, save=saved.append, **PLAIN)
    assert not saved
