"""Every registered backbone keeps the same promises, and each family is the network that its name says."""

import copy
import dataclasses
import json
import pickle
import time

import pytest
import timm
import torch
from contract import images, perturb_norms, seeded
from safetensors.torch import save_file
from torch import nn

from segtutor import factory, probe
from segtutor.factory import ConfigError, Features, create_backbone, create_model, get_backbone_channels
from segtutor.factory.backbones import STRIDES, checkpointing, list_backbone_names, list_backbone_uses, registry
from segtutor.factory.backbones.vovnet import STAGES, VoVNet
from segtutor.lab.experiments.factory import called_dilated
from segtutor.layers import DropPath
from segtutor.models.segformer import MIT_PRESETS, MixTransformer
from segtutor.weights import read_weights

# Parameters of the backbone, counted by others: timm's features_only networks, transformers' SegformerModel, and for
# VoVNet-27-slim timm's class with the authors' widths. A pre-activation ResNet has four normalisations besides.
PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnetv2_50": 23_496_256 + 2 * (256 + 512 + 1024 + 2048),
    "resnetv2_101": 42_488_384 + 2 * (256 + 512 + 1024 + 2048),
    "mobilenetv2": 1_811_712,
    "efficientnet-lite0": 2_958_848,
    "efficientnet-lite1": 3_723_520,
    "efficientnet-lite2": 4_357_952,
    "ghostnet": 948_388,
    "vovnet27": 3_012_736,
    "vovnet39": 21_575_296,
    "vovnet57": 35_615_296,
    "convnext-tiny": 27_818_592,
    "convnext-small": 49_453_152,
    "convnext-base": 87_564_416,
    "convnext-large": 196_227_264,
    "convnext-xlarge": 348_143_872,
    "mit-b0": 3_319_392,
    "mit-b1": 13_151_424,
    "mit-b2": 24_196_288,
    "mit-b3": 44_072_128,
    "mit-b4": 60_842_688,
    "mit-b5": 81_443_008,
}
NAMES = list_backbone_names()
# The first name of each type is its smallest network; types without names have an example here.
EXAMPLES = {"timm": {"type": "timm", "name": "regnetx_002"}}
SMALL = {
    name: {"type": name, **next(iter(entry.names.values()))} if entry.names else EXAMPLES[name]
    for name, entry in registry.BACKBONES.items()
}
every_name = pytest.mark.parametrize("name", NAMES)
every_type = pytest.mark.parametrize("section", SMALL.values(), ids=list(SMALL))


def on_meta(section, in_channels=3):
    with torch.device("meta"):
        return create_backbone(section, in_channels).eval()


def check_maps(backbone, height, width, in_channels=3, batch=1):
    device = next(backbone.parameters()).device
    features = backbone(torch.zeros(batch, in_channels, height, width, device=device))
    assert isinstance(features, Features)
    for map_, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert map_.shape[:2] == (batch, channels)
        for side, got in zip((height, width), map_.shape[2:], strict=True):
            assert got in (side // stride, -(-side // stride))
    return features


def loss_of(backbone, x):
    return sum(map_.square().mean() for map_ in backbone(x).maps)


# ------------------------------------------------------------------------------------------------------- every name
def test_the_names_are_the_rows_of_the_table():
    assert NAMES.keys() == PARAMETERS.keys()


@every_name
@torch.no_grad()
def test_every_name_is_its_network(name):
    backbone = on_meta(name)
    assert probe.count_parameters(backbone) == PARAMETERS[name]
    assert list(backbone.channels) == get_backbone_channels(name) and backbone.strides == STRIDES
    for size in [(32, 32), (65, 97)]:
        check_maps(backbone, *size)


@every_name
@pytest.mark.parametrize("pretrained", [False, True])
def test_channels_are_known_at_once_and_without_building_anything(monkeypatch, name, pretrained):
    def build(*_, **__):
        raise AssertionError("nothing may be built to know the channels")

    monkeypatch.setattr(timm, "create_model", build)
    monkeypatch.setattr(nn, "Conv2d", build)
    config = {"backbone": {**NAMES[name], "pretrained": pretrained}, "head": {"type": "fcn"}}
    times = []
    for _ in range(5):
        begun = time.process_time()
        assert len(get_backbone_channels(config)) == 4 and registry.backbone_strides(config) == STRIDES
        times.append(time.process_time() - begun)
    assert min(times) < 0.010


@every_name
def test_every_name_says_when_to_use_it_in_one_sentence(name):
    use = list_backbone_uses()[name]
    assert use.endswith(".") and use[:-1].count(".") == 0 and use[0].isupper()


def test_a_name_goes_before_the_last_dash():
    with torch.device("meta"):
        for name in ("mit-b0", "convnext-tiny", "resnetv2_50", "vovnet27"):
            model = create_model(f"{name}-fcn", num_classes=2)
            assert model.backbone.channels == tuple(get_backbone_channels(name))


# ------------------------------------------------------------------------------------------------------- every type
@every_type
@pytest.mark.parametrize("in_channels", [1, 2, 4, 12])
@torch.no_grad()
def test_takes_any_number_of_channels(section, in_channels):
    check_maps(on_meta(section, in_channels), 64, 33, in_channels)


@every_type
@torch.no_grad()
def test_takes_odd_sizes_and_gives_numbers(section):
    features = check_maps(create_backbone(section).eval(), 33, 47, batch=2)
    assert all(map_.isfinite().all() for map_ in features.maps)


@every_type
@pytest.mark.parametrize("stride", [16, 8])
@torch.no_grad()
def test_dilates_or_says_who_can(section, stride):
    section = {**section, "output_stride": stride}
    if section["type"] in ("ghostnet", "vovnet", "segformer"):
        able = "convnext, efficientnet_lite, mobilenetv2, resnet, resnetv2, timm"
        with pytest.raises(ConfigError, match=f"backbone.output_stride: .* cannot be dilated to {stride}.*{able}"):
            create_backbone(section)
        return
    backbone = on_meta(section)
    assert (
        backbone.strides
        == tuple(min(each, stride) for each in STRIDES)
        == registry.backbone_strides({"backbone": section})
    )
    assert probe.count_parameters(backbone) == probe.count_parameters(on_meta({**section, "output_stride": 32}))
    check_maps(backbone, 65, 97)


@every_type
def test_trains_on_one_image_of_32_pixels(section):
    backbone = seeded(create_backbone, section).train()
    before = copy.deepcopy(backbone.state_dict())
    loss = loss_of(backbone, images(1, 3, 32, 32))
    loss.backward()
    assert loss.isfinite()
    coarsest = [layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.training for layer in backbone.modules())
    for name, value in backbone.state_dict().items():
        assert value.isfinite().all(), f"{name} is not finite after one step"
    moved = [not value.equal(before[name]) for name, value in backbone.state_dict().items() if "running_mean" in name]
    assert bool(coarsest) == any(moved), "running statistics of the finer maps move"


@every_type
def test_checkpointing_gives_the_same_gradients_for_less_memory(section):
    plain = perturb_norms(seeded(create_backbone, section)).train()
    saving = perturb_norms(seeded(create_backbone, {**section, "checkpointing": True})).train()
    assert plain.state_dict().keys() == saving.state_dict().keys()
    x = images(2, 3, 64, 64)
    for backbone in (plain, saving):
        with torch.random.fork_rng():
            torch.manual_seed(3)  # stochastic depth drops the same blocks, and drops them again in the second pass
            loss_of(backbone, x).backward()
    for (name, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert ours.grad.equal(theirs.grad), name
    for name, value in saving.state_dict().items():
        assert value.equal(plain.state_dict()[name]), f"{name}: statistics move once, in the first pass"
    # A stage may begin with its only block, so that there is little to save in the smallest networks.
    saved = [probe.count_saved_bytes(backbone, (64, 64), batch=2) for backbone in (plain, saving)]
    assert saved[1] < 0.6 * saved[0]
    peaks = [probe.count_peak_bytes(backbone, (128, 128), batch=8) for backbone in (plain, saving)]
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18", 8), ("resnetv2_50", 16), ("mobilenetv2", 17), ("vovnet39", 6), ("convnext-tiny", 18), ("mit-b2", 16)],
)
def test_what_is_computed_twice_are_the_papers_blocks(name, blocks):
    with torch.device("meta"):
        backbone = create_backbone({**NAMES[name], "checkpointing": True})
    assert sum(isinstance(module, checkpointing.Checkpointed) for module in backbone.modules()) == blocks


class SlowNorm(nn.Module):
    """A normalisation of a class that nobody has heard of, with statistics that it assigns and does not fill."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.level = 0.9 * self.level + 0.1 * x.detach().mean()
        return self.weight * (x - self.level)


def two_blocks(norm):
    def block():
        return nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), norm(3)])

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = block()

        def forward(self, x):
            for part in self.parts:
                x = part(x)
            return x.relu()

    return nn.Sequential(nn.Sequential(Chain(), Chain()))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d,
        nn.SyncBatchNorm,
        lambda channels: nn.BatchNorm2d(channels, momentum=None),
        lambda channels: nn.InstanceNorm2d(channels, affine=True, track_running_stats=True),
        timm.layers.BatchNormAct2d,
        SlowNorm,
    ],
    ids=["batch", "synchronised", "cumulative", "instance", "timm", "unknown"],
)
def test_statistics_move_once_whatever_the_normalisation_is(norm):
    plain = seeded(two_blocks, norm).train()
    saving = copy.deepcopy(plain)
    checkpointing.checkpoint_blocks(saving)
    for network in (plain, saving):
        for _ in range(2):
            loss = network(images(2, 3, 8, 8)).square().mean()
            loss.backward(retain_graph=True)
            loss.backward()
    moved = [name for name, value in saving.named_buffers() if value.any()]
    assert len(moved) >= 2
    for name, value in saving.state_dict().items():
        assert value.equal(plain.state_dict()[name]), name
    for name, parameter in saving.named_parameters():
        assert parameter.grad.equal(plain.get_parameter(name).grad), name


def test_checkpointing_keeps_the_list_that_a_block_has_read():
    """DenseNet's layers are given one list of maps, which grows after each."""
    section = {"type": "timm", "name": "densenet121"}
    plain, saving = (seeded(create_backbone, {**section, "checkpointing": on}).train() for on in (False, True))
    for backbone in (plain, saving):
        loss_of(backbone, images(2, 3, 32, 32)).backward()
    for name, parameter in saving.named_parameters():
        expected = plain.get_parameter(name).grad
        assert (parameter.grad is None and expected is None) or parameter.grad.equal(expected), name


@pytest.mark.parametrize("section", [SMALL["resnet"], SMALL["segformer"]], ids=["resnet", "segformer"])
def test_checkpointing_can_be_compiled(section):
    torch._dynamo.reset()
    plain = seeded(create_backbone, section).train()
    saving = seeded(create_backbone, {**section, "checkpointing": True}).train()
    for part in (*plain.modules(), *saving.modules()):
        if isinstance(part, DropPath):
            part.rate = 0.0
    loss_of(plain, images(2, 3, 32, 32)).backward()
    loss_of(torch.compile(saving, backend="aot_eager"), images(2, 3, 32, 32)).backward()
    for name, parameter in saving.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, rtol=1e-3, atol=1e-5, msg=name)
    for name, value in saving.named_buffers():
        torch.testing.assert_close(value, plain.get_buffer(name), msg=name)


def test_a_copy_of_a_checkpointed_block_runs_its_own_layers():
    backbone = create_backbone({"type": "resnet", "depth": 18, "checkpointing": True}).train()
    block = backbone.network.layer1[0]
    others = {
        "a replica of DataParallel": block._replicate_for_data_parallel(),
        "a deep copy": copy.deepcopy(block),
        "a pickled one": pickle.loads(pickle.dumps(block)),
    }
    for name, other in others.items():
        other.conv1, seen = nn.Conv2d(64, 64, 3, padding=1), []
        other.conv1.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        other(images(1, 64, 8, 8).requires_grad_())
        assert seen and isinstance(other, checkpointing.Checkpointed) and isinstance(other, type(block)), name


@every_type
def test_a_frozen_backbone_learns_nothing_and_keeps_its_statistics(section):
    model = seeded(create_model, {"backbone": {**section, "frozen": True}, "head": {"type": "fcn"}, "num_classes": 2})
    before = copy.deepcopy(model.backbone.state_dict())
    for trained in (model.train(), copy.deepcopy(model).train(), pickle.loads(pickle.dumps(model)).train()):
        assert trained.training and trained.head.training
        assert not any(layer.training for layer in trained.backbone.modules())
        trained(images(2, 3, 64, 64)).square().mean().backward()
        assert all(parameter.grad is None for parameter in trained.backbone.parameters())
        assert all(parameter.grad is not None for parameter in trained.head.parameters())
        assert all(value.equal(before[name]) for name, value in trained.backbone.state_dict().items())


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@every_type
def test_what_was_frozen_can_be_thawed(section):
    plain = create_model({"backbone": section, "head": "fcn", "num_classes": 2})
    model = create_model({"backbone": {**section, "frozen": True}, "head": "fcn", "num_classes": 2}).train()
    assert learning(model) == {name for name in learning(plain) if not name.startswith("backbone.")}
    assert model.freeze_backbone(False) is model and model.config.backbone["frozen"] is False
    assert learning(model) == learning(plain) and type(model.backbone) is type(plain.backbone)
    assert all(layer.training for layer in model.modules())
    model.freeze_backbone().eval()
    assert not model.train().backbone.training and model.config.backbone["frozen"] is True
    model.eval().freeze_backbone(False)
    assert not any(layer.training for layer in model.modules())


@every_type
def test_normalisations_alone_can_be_frozen(section):
    config = {"backbone": {**section, "frozen": "norms"}, "head": "fcn", "num_classes": 2}
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in on_meta(section).modules()):
        with pytest.raises(ConfigError, match=r"backbone.frozen: .*no normalisation with running statistics.*\.$"):
            create_model(config)
        return
    model = seeded(create_model, config).train()
    norms = {name for name, layer in model.backbone.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    frozen = {name for name, layer in model.backbone.named_modules() if not layer.training}
    assert norms <= frozen and all(name.rpartition(".")[0] in norms for name in frozen - norms)
    before = copy.deepcopy(model.backbone.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    same = {name.rpartition(".")[0] for name, value in model.backbone.state_dict().items() if value.equal(before[name])}
    assert norms <= same
    changed = {name for name, value in model.backbone.state_dict().items() if not value.equal(before[name])}
    assert changed and not {name.rpartition(".")[0] for name in changed} & norms


def test_frozen_and_checkpointing_are_switches():
    for key in ("frozen", "checkpointing"):
        assert registry.parse_backbone("resnet18")[key] is False
    with pytest.raises(ConfigError, match="backbone.checkpointing: 1 is an int, expected bool"):
        create_backbone({"type": "resnet", "checkpointing": 1})
    with pytest.raises(ConfigError, match="backbone.frozen: 5 is .*4"):
        create_backbone({"type": "resnet", "frozen": 5})
    with pytest.raises(ConfigError, match="backbone.frozn: unknown key; did you mean 'frozen'"):
        create_backbone({"type": "resnet", "frozn": True})
    with pytest.raises(ConfigError, match="backbone.frozen: 'norm' is .*'norms'"):
        create_backbone({"type": "resnet", "frozen": "norm"})


def test_checkpointing_needs_blocks():
    with pytest.raises(ConfigError, match="backbone.checkpointing"):
        checkpointing.checkpoint_blocks(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))


# ------------------------------------------------------------------------------------------ synchronised normalisation
@every_type
@torch.no_grad()
def test_synchronised_normalisation_leaves_a_backbone_what_it_is(section):
    backbone = perturb_norms(seeded(create_backbone, section)).eval()
    x = images(2, 3, 64, 64)
    expected = backbone(x)
    of = {name: (layer.eps, layer.momentum) for name, layer in backbone.named_modules() if hasattr(layer, "momentum")}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(backbone))
    assert {name for name, layer in converted.named_modules() if isinstance(layer, nn.SyncBatchNorm)} == of.keys()
    for name, (eps, momentum) in of.items():
        layer = converted.get_submodule(name)
        assert (layer.eps, layer.momentum) == (eps, momentum)
    assert converted.state_dict().keys() == backbone.state_dict().keys()
    for ours, theirs in zip(converted(x), expected, strict=True):
        assert ours.equal(theirs)
    with torch.random.fork_rng():
        trained = [torch.manual_seed(1) and network.train()(x) for network in (converted, backbone)]
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_what_is_synchronised_deep_inside_is_put_right_by_train():
    backbone = perturb_norms(seeded(create_backbone, "resnetv2_50")).eval()
    x = images(1, 3, 64, 64)
    expected = backbone(x).c4
    nn.SyncBatchNorm.convert_sync_batchnorm(backbone.network)
    assert backbone.eval()(x).c4.equal(expected)
    again = pickle.loads(pickle.dumps(backbone))
    assert again(x).c4.equal(expected)


def test_frozen_normalisations_stay_frozen_when_they_are_synchronised():
    backbone = create_backbone({"type": "resnet", "depth": 18, "frozen": "norms"})
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(backbone).train()
    norms = [layer for layer in converted.modules() if isinstance(layer, nn.SyncBatchNorm)]
    assert len(norms) == 20 and not any(layer.training for layer in norms)
    assert not any(parameter.requires_grad for layer in norms for parameter in layer.parameters())


# -------------------------------------------------------------------------------------------------- pretrained weights
@pytest.mark.parametrize("in_channels", [3, 1, 4])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, suffix, in_channels):
    saved = perturb_norms(timm.create_model("resnet18"))
    path = tmp_path / f"weights{suffix}"
    save_file(saved.state_dict(), path) if suffix == ".safetensors" else torch.save(saved.state_dict(), path)
    section = {"type": "resnet", "depth": 18, "pretrained": str(path)}
    backbone = create_backbone(section, in_channels).network
    assert backbone.layer4[1].bn2.running_var.equal(saved.layer4[1].bn2.running_var)
    torch.testing.assert_close(backbone.conv1.weight, adapted(saved.conv1.weight, in_channels))


def adapted(weight, channels):
    """Weights of a first layer that add up to the same on grey images."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels if channels != 3 else 1)


@pytest.mark.parametrize("in_channels", [3, 1, 4])
def test_weights_of_our_own_networks_from_a_file(tmp_path, capsys, in_channels):
    cases = {
        "vovnet": (VoVNet(**dataclasses.asdict(STAGES[27])), {"depth": 27}, "stem.0.0.weight"),
        "segformer": (MixTransformer(**MIT_PRESETS["b0"]), {"variant": "mit-b0"}, "stages.0.embed.weight"),
    }
    for type_, (saved, settings, first) in cases.items():
        perturb_norms(saved)
        path = tmp_path / f"{type_}.safetensors"
        save_file(saved.state_dict(), path)
        loaded = create_backbone({"type": type_, **settings, "pretrained": str(path)}, in_channels).network.state_dict()
        for name, value in saved.state_dict().items():
            torch.testing.assert_close(loaded[name], adapted(value, in_channels) if name == first else value)
    assert capsys.readouterr().out == ""


@every_type
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, section):
    with pytest.raises(ConfigError, match="backbone.pretrained: .*missing.pth is not a file"):
        create_backbone({**section, "pretrained": str(tmp_path / "missing.pth")})
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="backbone.pretrained: .* could not be read"):
        create_backbone({**section, "pretrained": str(tmp_path / "broken.pth")})
    torch.save({"layer9.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="backbone.pretrained: "):
        create_backbone({**section, "pretrained": str(tmp_path / "other.pth")})


def test_a_file_of_a_deeper_network_is_refused(tmp_path):
    with torch.device("meta"):
        names = timm.create_model("resnet34").state_dict()
    torch.save(dict.fromkeys(names, torch.zeros(1)), tmp_path / "deeper.pth")
    with pytest.raises(ConfigError, match="backbone.pretrained: .* is not of resnet18"):
        create_backbone({"type": "resnet", "depth": 18, "pretrained": str(tmp_path / "deeper.pth")})
    tiny = {name: torch.zeros(1) for name in VoVNet(**dataclasses.asdict(STAGES[27])).state_dict()}
    torch.save(tiny, tmp_path / "vovnet27.pth")
    with pytest.raises(ConfigError, match="backbone.pretrained: .*vovnet27.pth is not of vovnet39"):
        create_backbone({"type": "vovnet", "depth": 39, "pretrained": str(tmp_path / "vovnet27.pth")})
    with pytest.raises(ConfigError, match="backbone.pretrained: .*vovnet27.pth does not fit"):
        create_backbone({"type": "vovnet", "depth": 27, "pretrained": str(tmp_path / "vovnet27.pth")})


@every_type
def test_a_failed_download_is_never_silent(monkeypatch, section):
    if section["type"] == "vovnet":
        with pytest.raises(ConfigError, match="backbone.pretrained: .*VoVNet.*file"):
            create_backbone({**section, "pretrained": True})
        return

    def offline(*_, **options):
        assert options.get("pretrained", True) is True
        raise OSError("Name or service not known")

    if section["type"] == "timm":
        create_backbone(section)  # which maps it has is known by now
    monkeypatch.setattr("segtutor.factory.backbones.packaged.Package.path", lambda package: None)
    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("segtutor.factory.backbones.timm.check_connection", lambda *_: None)
    with pytest.raises(ConfigError, match="backbone.pretrained: .*Name or service not known"):
        create_backbone({**section, "pretrained": True})


def test_a_network_without_published_weights_says_so():
    with pytest.raises(ConfigError, match="backbone.pretrained: nobody published weights of vovnet39a"):
        create_backbone({"type": "timm", "name": "vovnet39a", "pretrained": True})


def test_the_licence_of_weights_is_said_once(monkeypatch, notices):
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: real(name, **{**options, "pretrained": False}))
    monkeypatch.setattr("segtutor.factory.backbones.timm.check_connection", lambda *_: None)
    for _ in range(2):
        create_backbone({"type": "mobilenetv2", "pretrained": True})
    (said,) = notices.messages
    assert "mobilenetv2_100" in said and "apache-2.0" in said


def test_mit_reads_transformers_weights_and_says_their_licence(monkeypatch, notices, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegformerModel(transformers.SegformerConfig())
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    asked = []
    monkeypatch.setattr(
        "segtutor.weights.published.fetch_from_hub",
        lambda name: asked.append(name) or read_weights(tmp_path / "pytorch_model.bin"),
    )
    backbone = create_backbone({"type": "segformer", "variant": "mit-b0", "pretrained": True}).eval()
    assert asked == ["nvidia/mit-b0"] and "non-commercial" in notices.text
    x = images(1, 3, 64, 65)
    with torch.no_grad():
        maps = theirs.eval()(x, output_hidden_states=True).hidden_states
    for ours, their in zip(backbone(x).maps, maps[-4:], strict=True):
        torch.testing.assert_close(ours, their, rtol=0, atol=1e-4)  # its normalisations have another eps


# ------------------------------------------------------------------------------------------------ is it the network?
PLAIN = [
    ("resnet18", {}, "resnet18", {}),
    ("resnet18", {"output_stride": 8}, "resnet18", {"output_stride": 8}),
    ("mobilenetv2", {}, "mobilenetv2_100", {}),
    ("mobilenetv2", {"output_stride": 16}, "mobilenetv2_100", {"output_stride": 16}),
    ("ghostnet", {}, "ghostnet_100", {}),
    ("convnext-tiny", {"output_stride": 8}, "convnext_tiny", {"output_stride": 8, "out_indices": (0, 1, 2, 3)}),
]


@pytest.mark.parametrize(("name", "settings", "theirs", "options"), PLAIN, ids=[f"{p[0]}{p[1] or ''}" for p in PLAIN])
@torch.no_grad()
def test_it_is_timms_network(name, settings, theirs, options):
    in_channels = 1 if settings else 3
    options = {"out_indices": (1, 2, 3, 4), "in_chans": in_channels, **options}
    theirs = perturb_norms(timm.create_model(theirs, features_only=True, **options)).eval()
    ours = create_backbone({**NAMES[name], **settings}, in_channels).eval()
    ours.network.load_state_dict(theirs.state_dict())  # strict: the same names
    x = images(2, in_channels, 65, 97)
    for our, their in zip(ours(x).maps, theirs(x), strict=True):
        assert our.equal(their)


@torch.no_grad()
def test_resnetv2_is_timms_with_each_map_normalised_and_activated():
    ours = perturb_norms(seeded(create_backbone, "resnetv2_50")).eval()
    theirs = timm.create_model("resnetv2_50", num_classes=0).eval()
    theirs.load_state_dict(ours.network.state_dict())
    x = images(1, 3, 65, 97)
    features = ours(x)
    assert features.c4.equal(theirs.forward_features(x))
    raw = theirs.forward_intermediates(x, indices=(1, 2, 3), intermediates_only=True)
    for norm, sum_, map_ in zip(ours.norms, raw, features.maps[:3], strict=True):
        expected = nn.functional.batch_norm(sum_, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        torch.testing.assert_close(map_, expected.relu())
        assert sum_.min() < 0 <= map_.min()


def test_resnetv2_starts_with_what_the_next_stage_reads():
    ours = create_backbone({"type": "resnetv2", "depth": 50})
    saved = perturb_norms(timm.create_model("resnetv2_50"))
    with torch.no_grad():
        ours.network.load_state_dict({k: v for k, v in saved.state_dict().items() if not k.startswith("head")})
    for i, norm in enumerate(ours.norms):
        next_ = ours.network.stages[i + 1].blocks[0].norm1
        assert norm is not next_ and norm.weight.shape == next_.weight.shape and norm.weight is not next_.weight


def vovnet_beside_timms(depth):
    """Ours with timm's tensors: the same order, other names."""
    theirs = perturb_norms(timm.create_model(f"vovnet{depth}a", features_only=True, out_indices=(1, 2, 3, 4))).eval()
    ours = VoVNet(**dataclasses.asdict(STAGES[depth])).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    return ours, theirs


@pytest.mark.parametrize("depth", [39, 57])
@torch.no_grad()
def test_vovnet_is_timms_but_for_the_identity_path(depth):
    ours, theirs = vovnet_beside_timms(depth)
    x = images(1, 3, 65, 97)
    our, their = ours(x), theirs(x)
    assert our[0].equal(their[0]) and our[1].equal(their[1]), "stages of one block"
    assert not our[2].equal(their[2]) and not our[3].equal(their[3])
    blocks = [block for stage in ours.stages for block in stage]
    assert [block.identity for block in blocks] == [i > 0 for count in STAGES[depth].blocks for i in range(count)]
    # The identity path by hand: timm's stage of blocks, each plus what went into it, but for the first.
    x = theirs.stages_2.pool(their[1])
    for i, block in enumerate(theirs.stages_2.blocks):
        x = block(x) + x if i else block(x)
    torch.testing.assert_close(our[2], x)
    for block in blocks:
        block.identity = False
    for without, their_map in zip(ours(images(1, 3, 65, 97)), their, strict=True):
        assert without.equal(their_map)


@torch.no_grad()
def test_vovnet27_is_timms_class_with_the_authors_widths():
    cfg = {"stage_conv_chs": [64, 80, 96, 112], "stage_out_chs": [128, 256, 384, 512], "block_per_stage": [1] * 4}
    options = {"features_only": True, "out_indices": (1, 2, 3, 4)}
    theirs = perturb_norms(timm.create_model("vovnet39a", **options, **cfg)).eval()
    ours = VoVNet(**dataclasses.asdict(STAGES[27])).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for our, their in zip(ours(images(2, 3, 47, 64)), theirs(images(2, 3, 47, 64)), strict=True):
        assert our.equal(their)


@torch.no_grad()
def test_segformer_is_the_backbone_of_chapter_12():
    ours = seeded(create_backbone, "mit-b0").eval()
    backbone = MixTransformer(**MIT_PRESETS["b0"]).eval()
    backbone.load_state_dict(ours.network.state_dict())
    for our, their in zip(ours(images(1, 3, 64, 97)).maps, backbone(images(1, 3, 64, 97)), strict=True):
        assert our.equal(their)


# --------------------------------------------------------------------------------------------- any other timm network
SWIN = {"type": "timm", "name": "swin_tiny_patch4_window7_224"}


@torch.no_grad()
def test_swin_is_timms_at_its_own_size_and_takes_any_other():
    ours = perturb_norms(create_backbone(SWIN)).eval()
    theirs = timm.create_model(SWIN["name"], features_only=True).eval()
    theirs.load_state_dict(ours.network.state_dict(), strict=False)
    x = images(1, 3, 224, 224)
    for our, their in zip(ours(x).maps, theirs(x), strict=True):
        torch.testing.assert_close(our, their.permute(0, 3, 1, 2), rtol=0, atol=1e-5)
    assert [tuple(map_.shape[2:]) for map_ in ours(torch.zeros(1, 3, 33, 100)).maps] == [
        (9, 25),
        (5, 13),
        (3, 7),
        (2, 4),
    ]
    # An image is padded with zeros below and to the right, and nothing else happens to it.
    x = images(1, 3, 64, 96)
    x[:, :, 50:], x[:, :, :, 70:] = 0, 0
    for cut, whole in zip(ours(x[:, :, :50, :70]).maps, ours(x).maps, strict=True):
        assert cut.equal(whole[:, :, : cut.shape[2], : cut.shape[3]])


@pytest.mark.parametrize(
    ("name", "channels", "multiple"),
    [
        ("swinv2_tiny_window8_256", (96, 192, 384, 768), 32),
        ("maxxvitv2_nano_rw_256", (96, 192, 384, 768), 256),
        ("mobilenetv3_small_050", (8, 16, 24, 288), 1),
        ("hrnet_w18_small", (128, 256, 512, 1024), 32),
    ],
)
@torch.no_grad()
def test_other_networks_are_wired_by_their_strides(name, channels, multiple):
    section = {"type": "timm", "name": name}
    backbone = on_meta(section, 2)
    assert backbone.multiple == multiple and get_backbone_channels(section) == list(backbone.channels)
    check_maps(backbone, 65, 97, 2)
    assert backbone.channels == channels


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_small_patch16_224", "backbone.name: vit_small_patch16_224 has maps at strides 16, and"),
        ("levit_128s", "backbone.name: levit_128s .*strides 16, 32, 64"),
        ("mvitv2_tiny", "backbone.name: mvitv2_tiny fails at images of more than 224 pixels"),
        ("hiera_tiny_224", "backbone.name: hiera_tiny_224 gives no four maps of images of every size"),
        ("inception_v3", "backbone.name: inception_v3 gives no four maps"),
        ("volo_d1_224", "backbone.name: volo_d1_224"),
        ("resnet5O", "backbone.name: timm has no 'resnet5O'; did you mean 'resnet50'"),
        ("", "backbone.name: timm has no ''"),
    ],
)
def test_a_network_without_four_maps_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        create_backbone({"type": "timm", "name": name})


def test_timms_own_arguments_pass():
    section = {"type": "timm", "name": "convnext_atto", "options": {"drop_path_rate": 0.3}}
    rates = [layer.drop_prob for layer in create_backbone(section).modules() if isinstance(layer, timm.layers.DropPath)]
    assert max(rates) == pytest.approx(0.3)
    narrow = {"type": "timm", "name": "regnetx_002", "options": {"stem_width": 16}}
    assert on_meta(narrow).network.stem.conv.out_channels == 16
    assert create_model({"backbone": section, "head": "fcn", "num_classes": 2}).config.to_dict()["backbone"] == {
        **section, "pretrained": False, "output_stride": 32, "checkpointing": False, "frozen": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"drop_path": 0.3},
            "backbone.options: timm's convnext_atto refuses .*unexpected .* 'drop_path'",
        ),
        ({"drop_path_rate": "much"}, "backbone.options: timm's convnext_atto refuses {'drop_path_rate': 'much'}"),
        ({"in_chans": 1}, "backbone.options.in_chans: the other keys of the configuration decide it; leave it out"),
        ({"pretrained_cfg": {}}, "backbone.options.pretrained_cfg: the other keys"),
        (
            {"act_layer": nn.GELU},
            "backbone.options: Object of type type is not JSON serializable; a configuration holds",
        ),
        (3, "backbone.options: 3 is an int, expected keys and values"),
    ],
    ids=str,
)
def test_arguments_that_timm_refuses(options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        create_backbone({"type": "timm", "name": "convnext_atto", "options": options})
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_network_of_the_hub(monkeypatch, tmp_path):
    facts = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    saved = perturb_norms(timm.create_model("resnet10t", num_classes=3)).eval()
    save_file(saved.state_dict(), tmp_path / "model.safetensors")

    def download(repo_id, filename, **_):
        if repo_id != "someone/small" or not (tmp_path / filename).is_file():
            raise OSError("Name or service not known\nand a long story")
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    for room in ("timm", "pretrained"):
        monkeypatch.setattr(f"segtutor.factory.backbones.{room}.unreachable", lambda repository, files: None)
    section = {"type": "timm", "name": "hf-hub:someone/small"}
    assert get_backbone_channels(section) == [64, 128, 256, 512]
    backbone = create_backbone({**section, "pretrained": True}).eval()
    x = images(1, 3, 64, 65)
    assert backbone(x).c4.equal(saved.forward_features(x))
    with pytest.raises(
        ConfigError, match=r"^backbone.name: hf-hub:someone/other could not be .*\(Name or service.*\): .*"
    ):
        create_backbone({"type": "timm", "name": "hf-hub:someone/other"})


def test_the_name_must_be_there():
    with pytest.raises(ConfigError, match="backbone.name: missing"):
        create_backbone("timm")


def test_another_timm_network_dilates_if_timm_can():
    assert on_meta({"type": "timm", "name": "resnet10t", "output_stride": 8}).strides == (4, 8, 8, 8)
    with pytest.raises(ConfigError, match="backbone.output_stride: swin.* cannot be dilated to 16; resnet"):
        create_backbone({**SWIN, "output_stride": 16})


def test_a_registered_class_gets_the_common_keys(monkeypatch):
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))

    @factory.register_backbone("pairs")
    class Pairs(nn.Module):
        channels, strides = (4, 4, 4, 4), STRIDES

        def __init__(self, in_channels, *, width: int = 4):
            super().__init__()
            pair = nn.Sequential
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True) for _ in range(2))
            self.stem = pair(nn.Conv2d(in_channels, width, 4, 4), nn.BatchNorm2d(width))

        def forward(self, x):
            x = self.stem(x)
            tokens = x.flatten(2).transpose(1, 2)
            for block in self.blocks:
                tokens = block(tokens)
            x = tokens.transpose(1, 2).reshape(x.shape)
            maps = [nn.functional.adaptive_avg_pool2d(x, x.shape[2] * 4 // stride) for stride in self.strides]
            return Features(*maps)

    assert get_backbone_channels("pairs") == [4] * 4
    backbone = create_backbone({"type": "pairs", "checkpointing": True}).train()
    loss_of(backbone, images(1, 3, 64, 64)).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    with pytest.raises(ConfigError, match="backbone.output_stride: pairs cannot be dilated to 8"):
        create_backbone({"type": "pairs", "output_stride": 8})


@torch.no_grad()
def test_a_single_tap_has_nothing_to_spread():
    """What the benchmark of the factory calls dilated computes the same, in every 1x1 of the last stage."""
    model = seeded(
        create_model, {"backbone": {"type": "resnet", "depth": 50}, "head": {"type": "fcn"}, "num_classes": 2}
    )
    x = images(1, 3, 64, 96)
    expected = model.eval()(x)
    called = [m for m in called_dilated(model).modules() if getattr(m, "dilation", None) == (2, 2)]
    assert len(called) == 7 and {m.kernel_size for m in called} == {(1, 1)}
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
