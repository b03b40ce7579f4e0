"""Other people's tools on one model of the factory: tables of layers, attribution, adapters, cut-out features."""

import pytest
import torch
from contract import images, perturb_norms, seeded
from torch import nn

from segtutor.factory import create_model
from segtutor.probe import count_flops


@pytest.fixture(scope="module")
def model():
    return perturb_norms(seeded(create_model, "resnet18-segformer", num_classes=3)).eval()


def test_torchinfo_shows_every_layer_that_has_weights(model):
    from torchinfo import summary

    table = summary(model, input_data=images(1, 3, 64, 64), depth=10, verbose=0)
    assert table.total_params == sum(parameter.numel() for parameter in model.parameters())
    rows = {id(row.module): row for row in table.summary_list}
    assert rows[id(model)].output_size == [1, 3, 64, 64] and rows[id(model.backbone)].is_recursive is False
    for name, layer in model.named_modules():
        if next(layer.parameters(recurse=False), None) is not None:
            assert rows[id(layer)].output_size, f"{name} was never called"


@pytest.mark.parametrize("layer", ["backbone", "head", "backbone.network.layer4", "head.classifier"])
def test_captum_attributes_a_class_to_a_layer(model, layer):
    """Gradient times activation says what a first-order step would change, so its sum is a directional derivative."""
    from captum.attr import LayerGradientXActivation

    x = images(2, 3, 64, 64)
    attribution = LayerGradientXActivation(lambda image: model(image)[:, 1].sum((1, 2)), model.get_submodule(layer))
    found = attribution.attribute(x)
    maps = found if isinstance(found, tuple) else (found,)
    assert len(maps) == {"backbone": 4, "head": 2}.get(layer, 1)
    assert all(map_.isfinite().all() for map_ in maps) and maps[0].any()
    if layer == "head.classifier":  # what follows is linear, so the sum is the score itself
        with torch.no_grad():
            torch.testing.assert_close(maps[0].sum((1, 2, 3)), model(x)[:, 1].sum((1, 2)), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("part", ["head", "backbone"])
def test_adapters_of_low_rank_change_the_output_and_learn(part):
    from peft import LoraConfig, get_peft_model

    model, x = seeded(create_model, "mit-b0-segformer", num_classes=3).eval(), images(1, 3, 64, 64)
    kinds = (nn.Linear, nn.Conv2d)
    names = [n for n, m in model.named_modules() if n.startswith(part) and isinstance(m, kinds) and hooked(m)]
    assert len(names) >= 5
    with torch.no_grad():
        before = model(x)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=names, lora_alpha=4)).eval()
    with torch.no_grad():
        assert adapted(x).equal(before), "an adapter starts at zero"
    adapted(x).square().mean().backward()
    learning = {name: parameter for name, parameter in adapted.named_parameters() if "lora_B" in name}
    assert len(learning) == len(names)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learning.values())
    for parameter in learning.values():  # one at a time: none may be passed by
        with torch.no_grad():
            parameter.fill_(0.1)
            assert not adapted(x).equal(before)
            parameter.zero_()


def hooked(layer):
    """Convolutions in groups are left to others: not every version of the adapters knows them."""
    return getattr(layer, "groups", 1) == 1


@pytest.mark.parametrize("name", ["resnet18-aspp", "mit-b0-segformer"])
def test_another_counter_of_operations_agrees(name):
    """It counts multiplications with their additions, of layers that are called."""
    from fvcore.nn import FlopCountAnalysis

    model = seeded(create_model, name, num_classes=3).eval()
    count = FlopCountAnalysis(model, images(1, 3, 65, 97))
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    kinds = count.by_operator()
    assert 2 * (kinds["conv"] + kinds["linear"]) + attention_flops(name) == count_flops(model, (65, 97))
    for layer in count.uncalled_modules():
        assert not list(model.get_submodule(layer).parameters()), f"{layer} has weights and is passed by"


def attention_flops(name):
    """Of the two products of attention, which the other counter takes for no layer, where the backbone has any."""
    if name != "mit-b0-segformer":
        return 0
    total = 0
    for width, depth, reduction, stride in ((32, 2, 8, 4), (64, 2, 4, 8), (160, 2, 2, 16), (256, 2, 1, 32)):
        height, columns = (-(-side // stride) for side in (65, 97))
        keys = (height // reduction) * (columns // reduction)
        total += depth * 2 * 2 * height * columns * keys * width
    return total


def test_features_are_cut_out_by_name(model):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    x = images(1, 3, 64, 64)
    assert "head.classifier" in get_graph_node_names(model)[1]
    cut = create_feature_extractor(model, {"backbone.network.layer3": "c3", "head.classifier": "logits"})
    with torch.no_grad():
        features, output = model.forward_features(x)
        found = cut(x)
    assert found["logits"].equal(output.logits)
    assert found["c3"].equal(features.c3)
