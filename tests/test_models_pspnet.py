"""PSPNet: the paper's numbers, torchvision's backbone, transformers' pyramid, and what the chapter explains."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import AuxiliaryContract, ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.models.pspnet import PRESETS, PSPNet, PyramidPooling
from segtutor.models.resnet import ResNet
from segtutor.weights import transplant

NARROW = {"depth": 18, "widths": (4, 6, 8, 12)}
BOTTLENECK = {"depth": 50, "widths": (4, 6, 8, 12), "dropout": 0.0}


class TestPSPNet(ModelContract):
    models = {"tiny": partial(PSPNet, **PRESETS["tiny"]), "bottleneck": partial(PSPNet, **BOTTLENECK)}
    overfit = (60, 5e-3)


class TestWithAuxiliaryHead(ModelContract):
    """A plain forward is the same contract; no gradient reaches the auxiliary head in it."""

    models = {"auxiliary": partial(PSPNet, auxiliary=True, **PRESETS["tiny"])}
    unused = ("auxiliary.",)
    overfit = (60, 5e-3)


class Both(nn.Module):
    """The sum of the two outputs, so that the contract covers ``model(images, auxiliary=True)`` as well."""

    def __init__(self, num_classes, **options):
        super().__init__()
        self.model = PSPNet(num_classes, auxiliary=True, **PRESETS["tiny"], **options)

    def forward(self, x):
        logits, auxiliary_logits = self.model(x, auxiliary=True)
        return logits + auxiliary_logits


class TestBothOutputs(ModelContract):
    models = {"both": Both}
    overfit = (60, 5e-3)


# ---------------------------------------------------------------------------------------------------- the paper's model
@pytest.mark.parametrize(
    ("options", "fact"),
    [({}, "parameters_resnet50"), ({"auxiliary": True}, "parameters_resnet50_auxiliary")],
    ids=["plain", "auxiliary"],
)
@pytest.mark.parametrize("first_dilation", ["new", "previous"])
def test_parameter_counts_are_the_papers(options, fact, first_dilation):
    with torch.device("meta"):
        model = PSPNet(21, first_dilation=first_dilation, **options)
    assert probe.count_parameters(model) == PAPERS["pspnet"].facts[fact].value
    assert probe.count_parameters(model.pyramid) == PAPERS["pspnet"].facts["parameters_pyramid_pooling"].value


def test_the_default_is_the_papers_model():
    with torch.device("meta"):
        model = PSPNet(21)
    facts = PAPERS["pspnet"].facts
    assert model.pyramid.bins == facts["bins"].value and model.auxiliary is None and model.backbone.depth == 50
    shapes = {row.name: row.out_shape[1:] for row in probe.shape_trace(model, (473, 473))}
    assert shapes == {"backbone": (256, 119, 119), "pyramid": (4096, 60, 60), "head": (21, 60, 60)}
    assert [dropped.p for dropped in model.modules() if isinstance(dropped, nn.Dropout2d)] == [0.1]


@pytest.mark.parametrize(
    ("first_dilation", "conv4_x", "conv5_x"), [("new", [2] * 6, [4] * 3), ("previous", [1] + [2] * 5, [2, 4, 4])]
)
def test_dilations(first_dilation, conv4_x, conv5_x):
    model = PSPNet(2, first_dilation=first_dilation, **BOTTLENECK)
    for stage, dilations in ((model.backbone.conv4_x, conv4_x), (model.backbone.conv5_x, conv5_x)):
        assert [block.conv2.dilation[0] for block in stage] == dilations
        assert all(block.conv2.stride == (1, 1) for block in stage)


def bin_means(x, side):
    """Average over the regions of a side x side grid, written out: they overlap where the map does not divide."""
    height, width = x.shape[2:]
    pooled = x.new_empty(*x.shape[:2], side, side)
    for i in range(side):
        for j in range(side):
            top, bottom = math.floor(i * height / side), math.ceil((i + 1) * height / side)
            left, right = math.floor(j * width / side), math.ceil((j + 1) * width / side)
            pooled[:, :, i, j] = x[:, :, top:bottom, left:right].mean(dim=(2, 3))
    return pooled


def conv_bn_relu(x, weights, prefix, padding=0):
    """Convolution, normalisation and ReLU from a state dict, by torch's functions alone."""
    x = F.conv2d(x, weights[f"{prefix}.0.weight"], padding=padding)
    norm = [weights[f"{prefix}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *norm))


@pytest.mark.parametrize("first_dilation", ["new", "previous"])
@torch.no_grad()
def test_logits_are_those_of_an_independent_network(first_dilation):
    """torchvision's backbone, regions averaged one by one, and the rest from a state dict."""
    backbone = (
        perturb_norms(torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])).double().eval()
    )
    model = perturb_norms(seeded(PSPNet, 5, auxiliary=True, first_dilation=first_dilation), seed=1).double().eval()
    transplant(backbone, model)
    if first_dilation == "new":  # as the authors' code: every 3x3 of a stage has the stage's dilation
        for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
            for block in stage:
                block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    x = images(1, 3, 67, 90, dtype=torch.float64)
    out = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
    conv4_x = backbone.layer3(backbone.layer2(backbone.layer1(out)))
    conv5_x = backbone.layer4(conv4_x)

    weights, enlarge = model.state_dict(), partial(F.interpolate, mode="bilinear", align_corners=False)
    maps = [conv5_x]
    for number, side in enumerate((1, 2, 3, 6)):
        summary = conv_bn_relu(bin_means(conv5_x, side), weights, f"pyramid.levels.{number}")
        maps.append(enlarge(summary, size=conv5_x.shape[2:]))

    def head(x, name):
        x = conv_bn_relu(x, weights, f"{name}.0", padding=1)
        return enlarge(F.conv2d(x, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"]), size=(67, 90))

    expected, expected_auxiliary = head(torch.cat(maps, dim=1), "head"), head(conv4_x, "auxiliary")
    logits, auxiliary_logits = model(x, auxiliary=True)
    for found, wanted in ((logits, expected), (auxiliary_logits, expected_auxiliary), (model(x), expected)):
        assert wanted.std() > 1e-3, "logits without variation compare nothing"
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_operations_are_the_backbones_and_the_formulas():
    """Multiply-adds at 473 x 473: torchvision's dilated backbone, then the sums of the module by hand."""
    with torch.device("meta"):
        backbone = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
        model = PSPNet(21)
    classifier = 2 * 2048 * 1000
    side = 60  # 473 = 8 * 59 + 1
    pyramid = 2 * 2048 * 512 * (1 + 4 + 9 + 36)
    head = 2 * side**2 * (9 * 4096 * 512 + 512 * 21)
    expected = probe.count_flops(backbone, (473, 473)) - classifier + pyramid + head
    assert probe.count_flops(model, (473, 473)) == expected
    assert pyramid < 0.001 * expected < head, "the pyramid is nearly free; the convolution that fuses it is not"


# --------------------------------------------------------------------------------------------------- the pyramid module
@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (6, 1), (1,), (2, 5)], ids=str)
@pytest.mark.parametrize("size", [(13, 18), (7, 5), (6, 12)], ids=str)
@torch.no_grad()
def test_pyramid_is_transformers(bins, size):
    from transformers.models.upernet.modeling_upernet import UperNetPyramidPoolingModule

    theirs = UperNetPyramidPoolingModule(bins, in_channels=8, channels=3, align_corners=False)
    theirs = perturb_norms(theirs).double().eval()
    ours = PyramidPooling(8, 3, bins).double().eval()
    names = {"1.conv": "0", "1.batch_norm": "1"}
    state = theirs.state_dict()
    renamed = {
        f"levels.{number}.{place}.{tensor}": state.pop(f"{number}.{layer}.{tensor}")
        for number in range(len(bins))
        for layer, place in names.items()
        for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"{number}.{layer}.{tensor}" in state
    }
    assert not state, "a tensor of theirs that ours does not know"
    ours.load_state_dict(renamed)
    x = images(2, 8, *size, dtype=torch.float64)
    expected = theirs(x)
    assert len(expected) == len(bins)
    for mine, other in zip(ours.summaries(x), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    assert ours(x).equal(torch.cat([x, *ours.summaries(x)], dim=1))
    assert ours(x).shape[1] == ours.out_channels == 8 + 3 * len(bins)


@pytest.mark.parametrize("size", [(12, 18), (13, 10), (7, 7), (5, 3), (1, 1)], ids=str)
def test_regions_are_averages_that_may_overlap(size):
    pyramid, pooled = PyramidPooling(2, 1).double(), []
    for level in pyramid.levels:
        level.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    x = images(1, 2, *size, dtype=torch.float64)
    pyramid(x)
    assert [map_.shape[-1] for map_ in pooled] == [1, 2, 3, 6]
    for map_, side in zip(pooled, (1, 2, 3, 6), strict=True):
        torch.testing.assert_close(map_, bin_means(x, side), rtol=0, atol=1e-12)


def test_every_region_has_its_own_weights():
    pyramid = seeded(PyramidPooling, 4, 2)
    assert len({id(level[0].weight) for level in pyramid.levels}) == 4
    assert len({tuple(level[0].weight.flatten().tolist()) for level in pyramid.levels}) == 4


def test_no_bins_no_pyramid():
    pyramid = PyramidPooling(4, 2, ())
    x = images(1, 4, 5, 6)
    assert pyramid(x).equal(x) and pyramid.out_channels == 4 and not list(pyramid.parameters())
    with torch.device("meta"):
        model = PSPNet(21, bins=())
    assert model.head[0][0].weight.shape == (512, 2048, 3, 3)


# ------------------------------------------------------------------------------------------------------ what it can see
def test_every_pixel_reaches_every_pixel():
    whole = PSPNet(2, **NARROW)
    for at in (None, (0, 0), (575, 300)):
        found = probe.receptive_field(whole, (576, 576), at=at)
        assert (found.height, found.width, found.top, found.left, found.clipped) == (576, 576, 0, 0, True)
    found = probe.receptive_field(PSPNet(2, bins=(), **NARROW), (576, 576))
    # 7x7 and pool: 11, 16 convolutions of the four stages: 483, the 3x3 of the head: 499, and bilinear enlargement by 8
    assert not found.clipped and found.height == found.width == 499 + 8


def test_a_field_that_is_the_whole_image_is_the_same_at_every_size():
    pooled = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=5))
    for size in ((5, 9), (33, 17)):
        found = probe.receptive_field(pooled, size)
        assert (found.height, found.width, found.clipped) == (*size, True)
    halves = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Upsample(scale_factor=4), nn.Conv2d(3, 1, 1))
    found = probe.receptive_field(halves, (16, 8), at=(0, 0))
    assert (found.height, found.width, found.clipped) == (8, 4, True)
    maxima = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Conv2d(3, 1, 1))
    assert probe.receptive_field(maxima, (9, 7)).height == 9, "every pixel takes part in a maximum"


# ------------------------------------------------------------------------------------------------- the auxiliary output
class TestAuxiliary(AuxiliaryContract):
    build = staticmethod(partial(PSPNet, **NARROW))


def test_dropout_takes_whole_channels_in_training_only():
    model = seeded(PSPNet, 3, auxiliary=True, depth=18, widths=(4, 6, 64, 128), dropout=0.5)
    kept = {}
    for name, head in (("head", model.head), ("auxiliary", model.auxiliary)):
        head[0].register_forward_hook(lambda module, args, out: out.add_(1))  # no zeros but those of dropout
        head[2].register_forward_pre_hook(lambda module, args, name=name: kept.update({name: args[0]}))
    for training in (True, False):
        model.train(training)(images(2, 3, 32, 40), auxiliary=True)
        for map_ in kept.values():
            alive = (map_ != 0).flatten(2)
            assert alive.all(2).equal(alive.any(2)), "a channel is dropped as a whole"
            assert alive.all() != training


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="previous"):
        PSPNet(3, first_dilation="old")
    with pytest.raises(ValueError, match="18, 34, 50"):
        PSPNet(3, depth=20)


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            PSPNet(3, **preset)


def test_imagenet_weights_go_into_the_backbone_alone():
    source = perturb_norms(torchvision.models.resnet18(weights=None, num_classes=4))
    model = seeded(PSPNet, 3, depth=18, auxiliary=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = transplant(source, model)
    backbone = ResNet(18)
    transplant(source, backbone)
    assert report.skipped == ("fc.weight", "fc.bias")
    assert {name.split(".")[0] for name in report.reinitialized} == {"pyramid", "head", "auxiliary"}
    for name, value in model.state_dict().items():
        expected = (
            backbone.state_dict()[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        )
        assert value.equal(expected), name
