"""DeepLab v2: the paper's numbers, torchvision's backbone with four convolutions added up, and what large rates do."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import ModelContract, images, perturb_norms, seeded

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.models.deeplab_v2 import PRESETS, DeepLabV2
from segtutor.models.resnet import ResNet
from segtutor.weights import transplant

FACTS = PAPERS["deeplab_v2"].facts
NARROW = {"backbone": "tiny", "rates": (1, 3)}


class TestDeepLabV2(ModelContract):
    models = {
        "tiny": partial(DeepLabV2, **PRESETS["tiny"]),
        "multi_scale": partial(DeepLabV2, multi_scale=True, **NARROW),
    }
    overfit = (60, 5e-3)
    untraced = ("multi_scale",)


def test_parameter_counts_are_the_papers():
    with torch.device("meta"):
        model = DeepLabV2(21)
    assert probe.count_parameters(model) == FACTS["parameters_resnet101"].value
    assert probe.count_parameters(model.aspp) == FACTS["parameters_resnet101_head"].value


def test_the_default_is_the_papers_model():
    with torch.device("meta"):
        model = DeepLabV2(21)
    assert model.backbone.depth == 101
    assert tuple(branch.dilation[0] for branch in model.aspp) == FACTS["rates_aspp_l"].value
    assert all(branch.kernel_size == (3, 3) and branch.bias is not None for branch in model.aspp)
    for stage, dilation in ((model.backbone.conv4_x, 2), (model.backbone.conv5_x, 4)):
        assert {block.conv2.dilation for block in stage} == {(dilation, dilation)}
        assert all(block.conv2.stride == (1, 1) for block in stage)
    assert model.smaller == ()
    scaled = DeepLabV2(2, multi_scale=True, **NARROW)
    assert (*scaled.smaller, 1.0) == FACTS["multi_scale_inputs"].value


@pytest.mark.parametrize(("depth", "first_dilation"), [(101, "new"), (50, "previous")])
@torch.no_grad()
def test_logits_are_torchvisions_backbone_and_four_convolutions(depth, first_dilation):
    network = getattr(torchvision.models, f"resnet{depth}")(replace_stride_with_dilation=[False, True, True])
    backbone = perturb_norms(network).double().eval()
    model = seeded(DeepLabV2, 5, backbone=f"resnet{depth}", first_dilation=first_dilation).double().eval()
    report = transplant(backbone, model)
    assert report.skipped == ("fc.weight", "fc.bias")
    assert {name.split(".")[0] for name in report.reinitialized} == {"aspp"}
    if first_dilation == "new":
        for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
            for block in stage:
                block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    x = images(1, 3, 75, 98, dtype=torch.float64)
    conv5_x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        conv5_x = stage(conv5_x)
    weights = model.state_dict()
    score = 0
    for number, rate in enumerate((6, 12, 18, 24)):
        kernel, bias = weights[f"aspp.{number}.weight"], weights[f"aspp.{number}.bias"]
        score = score + F.conv2d(conv5_x, kernel, bias, padding=rate, dilation=rate)
    expected = F.interpolate(score, size=(75, 98), mode="bilinear", align_corners=False)
    assert expected.std() > 1e-3, "logits without variation compare nothing"
    assert (model(x) - expected).abs().max() == 0.0


@pytest.mark.parametrize("size", [(64, 96), (75, 50)], ids=str)
@torch.no_grad()
def test_multi_scale_is_the_maximum_over_three_sizes_of_the_image(size):
    model = perturb_norms(seeded(DeepLabV2, 4, multi_scale=True, **NARROW)).double().eval()
    x = images(1, 3, *size, dtype=torch.float64)
    enlarge = partial(F.interpolate, mode="bilinear", align_corners=False)
    scores = [model.score(x)]
    for scale in (0.75, 0.5):
        small = enlarge(x, size=[round(side * scale) for side in size])
        scores.append(enlarge(model.score(small), size=scores[0].shape[2:]))
    expected = torch.stack(scores).amax(0)
    torch.testing.assert_close(model(x), enlarge(expected, size=size), rtol=0, atol=1e-12)
    for score in scores:
        assert (score == expected).any(), "a scale that wins nowhere is not tested"


@torch.no_grad()
def test_a_rate_as_large_as_the_map_leaves_one_tap():
    """Figure 4 of the v3 paper: with every outer tap on padding, a 3x3 is a 1x1."""
    model = seeded(DeepLabV2, 3, backbone="tiny", rates=(8, 12)).double().eval()
    conv5_x = images(2, model.backbone.channels[3], 8, 8, dtype=torch.float64)
    for branch in model.aspp:
        centre = F.conv2d(conv5_x, branch.weight[:, :, 1:2, 1:2], branch.bias)
        torch.testing.assert_close(branch(conv5_x), centre, rtol=0, atol=1e-12)
    wider = images(2, model.backbone.channels[3], 8, 9, dtype=torch.float64)
    branch = model.aspp[0]
    assert (branch(wider) - F.conv2d(wider, branch.weight[:, :, 1:2, 1:2], branch.bias)).abs().max() > 1e-3


def test_imagenet_weights_go_into_the_backbone_alone():
    source = perturb_norms(torchvision.models.resnet18(weights=None, num_classes=4))
    model = seeded(DeepLabV2, 3, backbone="resnet18")
    before, backbone = {name: value.clone() for name, value in model.state_dict().items()}, ResNet(18)
    transplant(source, model)
    transplant(source, backbone)
    for name, value in model.state_dict().items():
        expected = (
            backbone.state_dict()[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        )
        assert value.equal(expected), name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "vgg16"}, "resnet101"),
        ({"rates": ()}, "at least one rate"),
        ({"first_dilation": "old"}, "previous"),
    ],
)
def test_unknown_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        DeepLabV2(3, **{**NARROW, **options})


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            DeepLabV2(3, **preset)
