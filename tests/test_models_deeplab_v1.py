"""DeepLab v1: the paper's counts, VGG-16's classifier on a denser grid, and what holes do to the field of view."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from contract import ModelContract, images, perturb_norms, seeded
from torch import nn
from torchvision.models.vgg import make_layers

from segtutor.lab.papers import PAPERS
from segtutor.models.deeplab_v1 import PRESETS, DeepLabV1, atrous_conv
from segtutor.probe import receptive_field, receptive_field_formula
from segtutor.weights import load_pretrained, transplant

WIDTHS = (2, 3, 4, 5, 6)
NARROW = {"widths": WIDTHS, "hidden": 7}


class TestDeepLabV1(ModelContract):
    models = {
        "LargeFOV": partial(DeepLabV1, **PRESETS["tiny"]),
        "4x4": partial(DeepLabV1, **{**PRESETS["tiny"], "kernel": 4}),
    }


@pytest.mark.parametrize(
    ("preset", "fact"),
    [("largefov", "largefov"), ("7x7", "7x7"), ("4x4", "4x4"), ("deeplab", "4x4")],
)
def test_parameter_counts_are_the_papers(preset, fact):
    with torch.device("meta"):
        model = DeepLabV1(21, **PRESETS[preset])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PAPERS["deeplab_v1"].facts[f"parameters_{fact}"].value


def test_the_default_is_largefov_as_published():
    facts = {name: fact.value for name, fact in PAPERS["deeplab_v1"].facts.items()}
    with torch.device("meta"):
        model = DeepLabV1(21)
    assert model.fc6.dilation == (facts["dilation_fc6"],) * 2
    assert model.fc6.out_channels == model.fc7.out_channels == facts["channels_fc6_fc7"]
    assert {layer.dilation for layer in model.backbone.stage5 if isinstance(layer, nn.Conv2d)} == {
        (facts["dilation_conv5"],) * 2
    }


def plain_largefov(model, x):
    """The network written out once more, with nothing but functions."""
    weights = dict(model.named_parameters())

    def conv(name, x, **options):
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    size = x.shape[2:]
    for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
        spread = 2 if stage == 5 else 1
        for i in range(1, depth + 1):
            x = conv(f"backbone.stage{stage}.conv{stage}_{i}", x, padding=spread, dilation=spread).relu()
        x = F.max_pool2d(x, 2, 2, ceil_mode=True) if stage < 4 else F.max_pool2d(x, 3, 1, 1)
    reach = model.fc6.dilation[0] * (model.fc6.kernel_size[0] - 1) // 2
    x = conv("fc6", F.pad(x, [reach] * 4), dilation=model.fc6.dilation).relu()
    x = conv("fc8", conv("fc7", x).relu())
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("options", [{"rate": 3}, {"kernel": 4, "rate": 2}, {"kernel": 7, "rate": 1}], ids=str)
@torch.no_grad()
def test_logits_are_those_of_the_network_written_out(options):
    model = seeded(DeepLabV1, 3, **NARROW, **options).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.copy_(images(len(parameter), dtype=torch.float64) * 0.3)
    x = images(2, 3, 97, 130, dtype=torch.float64)
    expected = plain_largefov(model, x)
    assert expected.std() > 1e-2
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (65, 100), (321, 33)], ids=str)
@pytest.mark.parametrize("preset", ["largefov", "7x7", "4x4", "deeplab"])
def test_scores_have_an_eighth_of_the_sides(preset, size):
    model = DeepLabV1(2, **{**PRESETS[preset], "widths": (1,) * 5, "hidden": 2}).eval()
    with torch.no_grad():
        assert model.score(images(1, 3, *size)).shape == (1, 2, *(-(-side // 8) for side in size))


def test_an_even_kernel_at_an_odd_rate_is_refused():
    with pytest.raises(ValueError, match="4x4 kernel at rate 3 has no centre.*even rate"):
        DeepLabV1(2, kernel=4, rate=3)
    assert atrous_conv(1, 1, 4, 2).padding == (3, 3)


def test_atrous_convolution_is_convolution_of_each_subsampled_map():
    """The hole algorithm: subsample at every offset, convolve densely, interleave."""
    conv = seeded(atrous_conv, 2, 3, 3, 3).double()
    x = images(1, 2, 12, 15, dtype=torch.float64)
    expected = torch.empty(1, 3, 12, 15, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            expected[..., i::3, j::3] = F.conv2d(x[..., i::3, j::3], conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("kernel", "rate"), [(3, 12), (3, 4), (7, 4)])
def test_measured_receptive_field_is_the_formulas(kernel, rate):
    model = DeepLabV1(2, widths=(1,) * 5, hidden=1, kernel=kernel, rate=rate)
    layers = []
    for depth, stride, dilation in ((2, 2, 1), (2, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 2)):
        layers += [(3, 1, dilation)] * depth + [(2, 2) if stride == 2 else (3, 1)]
    field = receptive_field_formula([*layers, (kernel, 1, rate)])
    measured = receptive_field(model, (field + 65,) * 2, layer="fc8")
    assert not measured.clipped and (measured.height, measured.width) == (field, field)


def test_dropout_falls_on_fc6_and_fc7():
    model, seen = seeded(DeepLabV1, 2, **NARROW).train(), []
    model.dropout.register_forward_hook(lambda layer, args, out: seen.append(args[0]))
    model(images(1, 3, 32, 32))
    assert [map_.shape[1] for map_ in seen] == [7, 7]
    assert all((map_ >= 0).all() for map_ in seen), "after the ReLU"


# ---- Weights ---------------------------------------------------------------------------------------------------------


def narrow_vgg(hidden=7):
    """torchvision's VGG-16, a few channels wide, with biases of its own."""
    cfg = [width for w, depth in zip(WIDTHS, (2, 2, 3, 3, 3), strict=True) for width in [w] * depth + ["M"]]
    network = nn.Module()
    network.features = make_layers(cfg)
    layers = (nn.Linear(WIDTHS[-1] * 49, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU())
    network.classifier = nn.Sequential(*layers, nn.Dropout(), nn.Linear(hidden, 10))
    return perturb_norms(network).double().eval()


@torch.no_grad()
def test_7x7_reads_every_fourth_position_as_the_classifier_reads_neighbours():
    source = seeded(narrow_vgg)
    model = seeded(DeepLabV1, 3, **{**NARROW, "kernel": 7, "rate": 4}).double().eval()
    report = transplant(source, model)
    assert len(report.loaded) == 30 and set(report.reinitialized) == {"fc8.weight", "fc8.bias"}
    assert report.skipped == ("classifier.6.weight", "classifier.6.bias")
    x = images(1, 3, 224, 232, dtype=torch.float64)
    pool5 = model.backbone(x)[-1]  # (1, 6, 28, 29)
    fc7 = F.relu(model.fc7(F.relu(model.fc6(pool5))))
    for row, column in ((12, 12), (14, 15), (15, 13)):
        window = pool5[..., row - 12 : row + 13 : 4, column - 12 : column + 13 : 4]  # (1, 6, 7, 7)
        expected = source.classifier[:5](window.flatten(1))[0]
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(fc7[0, :, row, column], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_backbone_is_vggs_up_to_pool3():
    source, model = seeded(narrow_vgg), DeepLabV1(3, **NARROW).double().eval()
    transplant(source, model)
    x = images(1, 3, 64, 96, dtype=torch.float64)
    assert model.backbone(x)[2].equal(source.features[:17](x))


@pytest.mark.parametrize(("kernel", "taps"), [(3, [0, 3, 6]), (4, [0, 2, 4, 6])])
def test_largefov_copies_evenly_spaced_filters_and_taps(kernel, taps):
    source, model = seeded(narrow_vgg), DeepLabV1(3, widths=WIDTHS, hidden=4, kernel=kernel)
    transplant(source, model)
    filters = [0, 2, 4, 6]
    fc6 = source.classifier[0].weight.view(7, 6, 7, 7)[filters][:, :, taps][:, :, :, taps].float()
    fc7 = source.classifier[3].weight[filters][:, filters].float()
    assert model.fc6.weight.equal(fc6) and model.fc7.weight.equal(fc7[..., None, None])
    assert model.fc6.bias.equal(source.classifier[0].bias[filters].float())
    assert model.fc7.bias.equal(source.classifier[3].bias[filters].float())


@pytest.mark.parametrize("options", [{"hidden": 8}, {"hidden": 7, "kernel": 9}], ids=str)
def test_weights_are_never_made_up(options):
    model = seeded(DeepLabV1, 3, widths=WIDTHS, **options)
    before = model.backbone.stage1.conv1_1.weight.clone()
    with pytest.raises(ValueError, match="fc6.weight"):
        transplant(narrow_vgg(), model)
    assert model.backbone.stage1.conv1_1.weight.equal(before)


def test_imagenet_weights_are_vgg16s(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, **options: asked.append(url) or narrow_vgg().state_dict()
    )
    assert len(load_pretrained(DeepLabV1(3, **NARROW), progress=False).loaded) == 30
    assert "vgg16-" in asked[0]
