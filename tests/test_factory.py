"""The factory: the reference libraries' numbers, and errors that a reader of a YAML file can act on."""

from dataclasses import is_dataclass

import pytest
import torch
import torchvision
from contract import ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor import factory
from segtutor.factory import (
    ConfigError,
    Features,
    HeadOutput,
    backbones,
    create_backbone,
    create_head,
    create_model,
    heads,
    parse,
)

RESNET18 = {"type": "resnet", "depth": 18}


def build(num_classes, in_channels=3):
    return create_model("resnet18-fcn", num_classes=num_classes, in_channels=in_channels)


class TestFactory(ModelContract):
    models = {"resnet18-fcn": build}
    overfit = (15, 1e-3)

    @staticmethod
    def written_here(model):
        return model.head  # timm's blocks add their shortcuts in place


@torch.no_grad()
def test_dilated_resnet_with_this_head_is_torchvisions_fcn_resnet50():
    theirs = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=5)
    theirs = perturb_norms(theirs).double().eval()
    ours = create_model({"backbone": {"type": "resnet", "output_stride": 8}, "head": "fcn", "num_classes": 5})
    ours = ours.double().eval()
    names = {"backbone.": "backbone.network.", "classifier.0.": "head.project.0.", "classifier.1.": "head.project.1."}
    names["classifier.4."] = "head.classifier."
    state = {}
    for name, tensor in theirs.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix)] = tensor
    ours.load_state_dict(state)
    x = images(1, 3, 65, 72, dtype=torch.float64)
    assert (ours(x) - theirs(x)["out"]).abs().max() == 0.0


def test_the_head_returns_logits_and_what_they_are_read_from():
    model = seeded(create_model, "resnet18-fcn", num_classes=7).eval()
    features, output = model.forward_features(images(2, 3, 64, 96))
    assert isinstance(features, Features) and isinstance(output, HeadOutput)
    assert output.embedding.shape == (2, 128, 2, 3) and output.logits.shape == (2, 7, 2, 3)
    assert model.head.classifier(output.embedding).equal(output.logits)
    wide = create_head({"type": "fcn", "proj_dim": 32, "dropout": 0}, [8, 8, 8, 16], 2)
    maps = [images(2, c, 4, 4) for c in (8, 8, 8, 16)]
    assert wide(Features(*maps)).embedding.shape[1] == 32


def test_tools_that_look_into_models_find_tuples_of_tensors():
    """torchinfo, captum and Lightning's summary walk through tuples, lists and mappings, and stop at anything else."""
    model, seen = seeded(create_model, "resnet18-fcn", num_classes=2).eval(), {}
    for name, part in (("backbone", model.backbone), ("head", model.head)):
        part.register_forward_hook(lambda _, given, output, name=name: seen.update({name: output}))
    model(images(1, 3, 64, 64))
    assert isinstance(seen["backbone"], tuple) and seen["backbone"]._fields == ("c1", "c2", "c3", "c4")
    assert isinstance(seen["head"], tuple) and seen["head"]._fields == ("logits", "embedding")
    assert all(isinstance(leaf, torch.Tensor) for output in seen.values() for leaf in output)


@pytest.mark.parametrize("name", ["resnet18-ultrafast_segformer", "resnetv2_50-aspp", "convnext-tiny-fcn"])
@torch.no_grad()
def test_torch_fx_takes_a_model_apart(name):
    from torchvision.models.feature_extraction import create_feature_extractor

    model = perturb_norms(seeded(create_model, name, num_classes=3)).eval()
    traced, x = torch.fx.symbolic_trace(model), images(1, 3, 65, 97)
    assert traced(x).equal(model(x))
    cut = create_feature_extractor(model, {"head.classifier": "logits"})
    assert cut(x)["logits"].equal(model.forward_features(x)[1].logits)
    with pytest.raises(ValueError, match="smallest side"):
        traced(images(1, 3, 16, 97))


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("head", [name for name in heads.list_heads() if ":" not in name])
def test_whatever_learns_gets_a_gradient(head, auxiliary):
    """DistributedDataParallel stops at parameters that have none."""
    config = {"backbone": "resnetv2_50", "head": head, "num_classes": 2, "auxiliary": auxiliary, "device": "meta"}
    model = create_model(config)
    outputs = model(torch.empty(2, 3, 64, 64, device="meta"), auxiliary=auxiliary)
    sum(map(torch.sum, outputs)).backward() if auxiliary else outputs.sum().backward()
    without = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    }
    assert not without


def test_short_names_are_configurations():
    short = create_model("resnet34-fcn", num_classes=11)
    long = create_model({"backbone": {"type": "resnet", "depth": 34}, "head": {"type": "fcn"}, "num_classes": 11})
    assert {name: value.shape for name, value in short.state_dict().items()} == {
        name: value.shape for name, value in long.state_dict().items()
    }
    assert create_model("resnet-fcn", num_classes=2).backbone.channels == (256, 512, 1024, 2048), "the default depth"


GOOD = {"backbone": RESNET18, "head": {"type": "fcn"}, "num_classes": 4}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"backbone": {"type": "resnt"}}, "backbone.type: 'resnt' is unknown; did you mean 'resnet'"),
        ({"backbone": {"type": ["resnet"]}}, "backbone.type"),
        ({"backbone": {"depth": 18}}, "backbone"),
        ({"backbone": {**RESNET18, "dept": 18}}, "backbone.dept: unknown key; did you mean 'depth'"),
        ({"backbone": {**RESNET18, "depth": 19}}, "backbone.depth: 19 is not possible; did you mean 18, 34 or 50"),
        ({"backbone": {**RESNET18, "depth": "18"}}, "backbone.depth: '18' is not possible; did you mean 18"),
        ({"backbone": {**RESNET18, "output_stride": 4}}, "backbone.output_stride: 4 .*did you mean 8, 16 or 32"),
        ({"backbone": {**RESNET18, "pretrained": 1}}, "backbone.pretrained: 1 is an int, expected bool or str"),
        ({"backbone": 18}, "backbone"),
        ({"head": {"type": "fnc"}}, "head.type: 'fnc' is unknown; did you mean .*'fcn'"),
        ({"head": {"type": "fcn", "dropout": "much"}}, "head.dropout: 'much' is a str, expected float"),
        ({"head": None}, "head"),
        ({"num_classes": 0}, "num_classes: 0 is too small"),
        ({"num_classes": True}, "num_classes: True is a bool"),
        ({"in_channels": 0}, "in_channels: 0"),
        ({"num_clases": 4}, "num_clases: unknown key; did you mean 'num_classes'"),
    ],
    ids=str,
)
def test_errors_name_the_key_and_the_nearest_choice(change, says):
    with pytest.raises(ConfigError, match=says):
        create_model({**GOOD, **change})


@pytest.mark.parametrize("missing", GOOD)
def test_missing_keys_are_named(missing):
    with pytest.raises(ConfigError, match=f"{missing}: missing"):
        create_model({key: value for key, value in GOOD.items() if key != missing})


@pytest.mark.parametrize("name", ["resnet18", "", "-fcn", "18-fcn", 7])
def test_short_names_that_are_none(name):
    with pytest.raises(ConfigError, match="config: .*resnet18"):
        create_model(name, num_classes=2)


def test_configuration_is_not_changed():
    config = {"backbone": dict(RESNET18), "head": {"type": "fcn"}}
    create_model(config, num_classes=3)
    assert config == {"backbone": RESNET18, "head": {"type": "fcn"}}
    settings = parse.parse_config(GOOD)
    assert is_dataclass(settings) and settings.backbone["output_stride"] == 32
    with pytest.raises(AttributeError):
        settings.num_classes = 50


@pytest.fixture
def registries(monkeypatch):
    """Registries that forget at the end of the test what it registered."""
    for registry in (backbones.BACKBONES, heads.HEADS):
        for name in registry:
            monkeypatch.setitem(registry, name, registry[name])
    before = set(backbones.BACKBONES), set(heads.HEADS)
    yield
    for registry, names in zip((backbones.BACKBONES, heads.HEADS), before, strict=True):
        for name in registry.keys() - names:
            del registry[name]


def test_one_class_makes_a_backbone_or_a_head(registries):
    @factory.register_backbone("pools")
    class Pools(nn.Module):
        channels, strides = (3, 3, 3, 3), (4, 8, 16, 32)

        def __init__(self, in_channels, *, pretrained: bool = False):
            super().__init__()

        def forward(self, x):
            maps = [nn.functional.avg_pool2d(x, stride) for stride in self.strides]
            return Features(*maps)

    @factory.register_head("finest")
    class Finest(nn.Module):
        in_strides, out_stride = (4,), 4

        def __init__(self, channels, strides, num_classes, *, proj_dim: int):
            super().__init__()
            assert strides == (4, 8, 16, 32) and proj_dim == 7
            self.score = nn.Conv2d(channels[0], num_classes, 1)

        def forward(self, features):
            return HeadOutput(self.score(features.c1), features.c1)

    assert "pools" in factory.list_backbones() and "finest" in factory.list_heads()
    model = create_model({"backbone": "pools", "head": {"type": "finest", "proj_dim": 7}, "num_classes": 2})
    assert model(images(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    assert factory.get_backbone_channels("pools") == [3, 3, 3, 3]
    with pytest.raises(ConfigError, match="head.proj_dim: missing"):
        create_model("pools-finest", num_classes=2)
    with pytest.raises(ConfigError, match="backbone.depth: unknown key; did you mean 'pretrained'"):
        create_backbone({"type": "pools", "depth": 3})
    with pytest.raises(ConfigError, match="already registered"):
        factory.register_head("finest")(Finest)
    with pytest.raises(ConfigError, match="already registered"):
        factory.register_backbone("pools")(Pools)
    with pytest.raises(ConfigError, match="'resnet18' is already registered"):
        factory.register_backbone("mine", names={"resnet18": {}})(Pools)
