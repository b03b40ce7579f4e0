"""DeepLab v3+: an independent network's logits, smp's modules, and what the decoder and its convolutions are for."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.models.deeplab_v3 import DeepLabV3
from segtutor.models.deeplab_v3plus import PRESETS, DeepLabV3Plus, separable_conv_norm_relu
from segtutor.models.resnet import ResNet
from segtutor.weights import transplant

FACTS = PAPERS["deeplab_v3plus"].facts
NARROW = {"backbone": "tiny", "multi_grid": (1, 2), "rates": (1, 2), "low_level_channels": 8}


class TestDeepLabV3Plus(ModelContract):
    models = {
        "tiny": partial(DeepLabV3Plus, **PRESETS["tiny"]),
        "stride 8": partial(DeepLabV3Plus, output_stride=8, **NARROW),
        "separable": partial(DeepLabV3Plus, separable=True, **NARROW),
    }
    overfit = (60, 5e-3)


# ---------------------------------------------------------------------------------------------------- the paper's model
def test_the_default_is_the_papers_model():
    with torch.device("meta"):
        model = DeepLabV3Plus(21)
    assert model.backbone.depth == 50
    assert [branch[0].dilation[0] for branch in model.aspp.branches] == [1, 6, 12, 18]
    assert [block.conv2.dilation[0] for block in model.backbone.conv5_x] == [2, 4, 8]
    low = FACTS["low_level_channels"].value
    assert model.decoder.project[0].weight.shape == (low, 256, 1, 1)
    assert [conv[0].weight.shape for conv in model.decoder.refine] == [(256, 256 + low, 3, 3), (256, 256, 3, 3)]
    shapes = {row.name: row.out_shape[1:] for row in probe.shape_trace(model, (513, 500))}
    assert shapes["aspp"] == (256, 33, 32) and shapes["decoder"] == (256, 129, 125)
    assert shapes["classifier"] == (21, 129, 125)


def test_parameters_are_v3s_and_the_decoders():
    with torch.device("meta"):
        v3, v3plus = DeepLabV3(21), DeepLabV3Plus(21)
    decoder = 256 * 48 + 2 * 48 + 9 * 304 * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256
    assert probe.count_parameters(v3plus) == probe.count_parameters(v3) + decoder


@pytest.mark.parametrize("output_stride", [16, 8])
def test_rates_follow_the_stride(output_stride):
    with torch.device("meta"):
        model = DeepLabV3Plus(3, output_stride=output_stride)
    factor = 16 // output_stride
    assert [branch[0].dilation[0] for branch in model.aspp.branches[1:]] == [6 * factor, 12 * factor, 18 * factor]
    assert [block.conv2.dilation[0] for block in model.backbone.conv5_x] == [2 * factor, 4 * factor, 8 * factor]


@pytest.mark.parametrize("size", [(75, 98), (64, 41)], ids=str)
@torch.no_grad()
def test_logits_are_those_of_an_independent_network(size):
    """torchvision's backbone and ASPP, and a decoder from a state dict by torch's functions alone."""
    from torchvision.models.segmentation.deeplabv3 import ASPP as TheirASPP

    backbone = (
        perturb_norms(torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True])).double().eval()
    )
    model = perturb_norms(seeded(DeepLabV3Plus, 5), seed=1).double().eval()
    transplant(backbone, model)
    for block, rate in zip(backbone.layer4, (2, 4, 8), strict=True):
        block.conv2.dilation = block.conv2.padding = (rate, rate)
    weights = model.state_dict()
    aspp = TheirASPP(2048, [6, 12, 18], 256).double().eval()
    own = {name[5:]: value for name, value in weights.items() if name.startswith("aspp.")}
    aspp.load_state_dict(
        {
            (
                name.replace("branches", "convs")
                .replace("image_pooling.0", "convs.4.1")
                .replace("image_pooling.1", "convs.4.2")
            ): value
            for name, value in own.items()
        }
    )

    def conv_bn_relu(x, prefix, padding=0):
        x = F.conv2d(x, weights[f"{prefix}.0.weight"], padding=padding)
        norm = [weights[f"{prefix}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *norm))

    enlarge = partial(F.interpolate, mode="bilinear", align_corners=False)
    x = images(1, 3, *size, dtype=torch.float64)
    layer1 = backbone.layer1(backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x)))))
    context = aspp(backbone.layer4(backbone.layer3(backbone.layer2(layer1))))
    low_level = conv_bn_relu(layer1, "decoder.project")
    joined = torch.cat([enlarge(context, size=layer1.shape[2:]), low_level], dim=1)
    refined = conv_bn_relu(conv_bn_relu(joined, "decoder.refine.0", 1), "decoder.refine.1", 1)
    score = F.conv2d(refined, weights["classifier.weight"], weights["classifier.bias"])
    expected = enlarge(score, size=size)
    assert expected.std() > 1e-3, "logits without variation compare nothing"
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------------ smp
def smp_and_ours(backbone="resnet18", multi_grid=(1, 1), classes=5):
    """smp's network with the paper's rates, and ours with its weights; the parts that differ keep their own."""
    import segmentation_models_pytorch as smp

    theirs = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=classes, decoder_atrous_rates=(6, 12, 18))
    theirs = perturb_norms(theirs).double().eval()
    ours = DeepLabV3Plus(classes, backbone=backbone, multi_grid=multi_grid, separable=True).double().eval()
    return theirs, ours, transplant(theirs, ours)


def test_smps_weights_go_where_the_two_agree():
    theirs, ours, report = smp_and_ours()
    assert {name.split(".")[2] for name in report.skipped} == {"1", "2"}
    assert all(name.startswith("decoder.aspp.") for name in report.skipped)
    assert report.reinitialized and all(name.startswith("decoder.refine.1.") for name in report.reinitialized)
    assert len(report.loaded) + len(report.skipped) == len(theirs.state_dict())
    assert ours.classifier.bias.equal(theirs.segmentation_head[0].bias)


@pytest.mark.parametrize("depth", [50, 101])
def test_separable_parameters_are_as_many_as_smps(depth):
    """smp has one separable convolution before the upsampling and one after; the paper has two after."""
    with torch.device("meta"):
        model = DeepLabV3Plus(21, backbone=f"resnet{depth}", separable=True)
    assert probe.count_parameters(model) == {50: 26_682_725, 101: 45_674_853}[depth]


@pytest.mark.parametrize("size", [(97, 130), (75, 64)], ids=str)
@torch.no_grad()
def test_each_module_is_smps(size):
    theirs, ours, _ = smp_and_ours("resnet50", (1, 1, 1))
    x = images(1, 3, *size, dtype=torch.float64)
    features, (conv2_x, _, _, conv5_x) = theirs.encoder(x), ours.backbone(x)
    decoder = theirs.decoder
    aspp, low_level = ours.aspp(conv5_x), ours.decoder.project(conv2_x)
    joined = torch.cat([aspp.new_zeros(1, 256, *low_level.shape[2:]).normal_(), low_level], dim=1)
    for found, expected in (
        (conv2_x, features[2]),
        (conv5_x, features[-1]),
        (aspp, decoder.aspp[0](features[-1])),
        (low_level, decoder.block1(features[2])),
        (ours.decoder.refine[0](joined), decoder.block2(joined)),
        (ours.classifier(aspp), theirs.segmentation_head[0](aspp)),
    ):
        assert expected.std() > 1e-3
        assert (found - expected).abs().max() == 0.0


@torch.no_grad()
def test_wired_as_ours_smp_is_ours():
    """Without smp's extra convolution and our second one, and with one way to enlarge, the two are one function."""
    theirs, ours, _ = smp_and_ours()
    theirs.decoder.aspp = theirs.decoder.aspp[0]
    theirs.decoder.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    theirs.segmentation_head[1] = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    ours.decoder.refine[1] = nn.Identity()
    x = images(2, 3, 64, 96, dtype=torch.float64)
    expected = theirs(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- what it is for
@pytest.mark.parametrize("dilation", [1, 3])
@torch.no_grad()
def test_a_separable_convolution_is_a_product_of_two(dilation):
    """Depthwise then pointwise is a dense 3x3 whose kernel is their outer product."""
    separable = perturb_norms(seeded(separable_conv_norm_relu, 6, 4, dilation=dilation)).double().eval()
    depthwise, pointwise, norm, _ = separable
    x = images(2, 6, 9, 7, dtype=torch.float64)
    kernel = pointwise.weight * depthwise.weight[:, 0]  # (4, 6, 1, 1) x (6, 3, 3)
    expected = F.relu(norm(F.conv2d(x, kernel, padding=dilation, dilation=dilation)))
    torch.testing.assert_close(separable(x), expected, rtol=0, atol=1e-12)
    assert depthwise.weight.numel() + pointwise.weight.numel() == 9 * 6 + 6 * 4


@pytest.mark.parametrize(("separable", "grouped"), [(False, 0), (True, 5)])
def test_separable_means_aspp_and_decoder_and_not_the_backbone(separable, grouped):
    with torch.device("meta"):
        model = DeepLabV3Plus(21, separable=separable)
    found = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert len(found) == grouped and not any(name.startswith("backbone") for name in found)


def test_the_decoder_reads_conv2_x():
    model = seeded(DeepLabV3Plus, 3, **NARROW).eval()
    with torch.no_grad():
        x = images(1, 3, 64, 64)
        before = model(x)
        model.classifier.weight.zero_()
        assert not model(x).equal(before)
    model = seeded(DeepLabV3Plus, 3, **NARROW)
    for parameter in model.aspp.parameters():
        nn.init.zeros_(parameter)  # closes the path through conv5_x
    model(images(2, 3, 64, 64)).square().mean().backward()
    alive = {name.split(".")[1] for name, p in model.backbone.named_parameters(prefix="backbone") if p.grad.any()}
    assert alive == {"conv1", "bn1", "conv2_x"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "xception"}, "resnet101"),
        ({"output_stride": 32}, "keep 16 or 8"),
        ({"multi_grid": (1, 2, 4)}, "conv5_x of tiny has 2 units"),
    ],
)
def test_unknown_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        DeepLabV3Plus(3, **{**NARROW, **options})


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            DeepLabV3Plus(3, **preset)


def test_imagenet_weights_go_into_the_backbone_alone():
    source = perturb_norms(torchvision.models.resnet18(weights=None, num_classes=4))
    model = seeded(DeepLabV3Plus, 3, backbone="resnet18", multi_grid=(1, 2))
    before, backbone = {name: value.clone() for name, value in model.state_dict().items()}, ResNet(18)
    report = transplant(source, model)
    transplant(source, backbone)
    assert {name.split(".")[0] for name in report.reinitialized} == {"aspp", "decoder", "classifier"}
    for name, value in model.state_dict().items():
        expected = (
            backbone.state_dict()[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        )
        assert value.equal(expected), name
