"""DeepLab v3: torchvision's numbers to the last bit, the paper's dilations, and the behaviour the chapter explains."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import AuxiliaryContract, ModelContract, images, perturb_norms, seeded
from torch import nn
from torchvision.models import segmentation

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.layers import BatchNorm2d
from segtutor.models.deeplab_v3 import ASPP, PRESETS, DeepLabV3, atrous_backbone
from segtutor.models.resnet import ResNet
from segtutor.weights import transplant

FACTS = PAPERS["deeplab_v3"].facts
NARROW = {"backbone": "tiny", "multi_grid": (1, 2), "rates": (1, 2)}


class TestDeepLabV3(ModelContract):
    models = {
        "tiny": partial(DeepLabV3, **PRESETS["tiny"]),
        "stride 16": partial(DeepLabV3, **NARROW),
        "cascade": partial(DeepLabV3, head="cascade", **NARROW),
        "torchvision": partial(DeepLabV3, **{**NARROW, **PRESETS["torchvision_resnet50"], "backbone": "tiny"}),
    }
    overfit = (60, 5e-3)


class Both(nn.Module):
    """The sum of the two outputs, so that the contract covers ``model(images, auxiliary=True)`` as well."""

    def __init__(self, num_classes, **options):
        super().__init__()
        self.model = DeepLabV3(num_classes, auxiliary=True, **NARROW, **options)

    def forward(self, x):
        logits, auxiliary_logits = self.model(x, auxiliary=True)
        return logits + auxiliary_logits


class TestBothOutputs(ModelContract):
    models = {"both": Both}
    overfit = (60, 5e-3)


class TestWithAuxiliaryHead(ModelContract):
    """A plain forward is the same contract; no gradient reaches the auxiliary head in it."""

    models = {"auxiliary": partial(DeepLabV3, auxiliary=True, **NARROW)}
    unused = ("auxiliary.",)
    overfit = (60, 5e-3)


# ------------------------------------------------------------------------------------------------ torchvision's network
def torchvision_deeplab(depth=50, *, auxiliary=True, num_classes=21):
    network = getattr(segmentation, f"deeplabv3_resnet{depth}")
    network = network(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=auxiliary)
    return perturb_norms(network).double().eval()


@pytest.mark.parametrize(
    ("preset", "auxiliary", "count"),
    [
        ("torchvision_resnet50", False, FACTS["parameters_torchvision_resnet50"].value),
        ("torchvision_resnet50", True, 42_004_074),
        ("torchvision_resnet101", False, FACTS["parameters_torchvision_resnet101"].value),
        ("torchvision_resnet101", True, 60_996_202),
    ],
)
def test_parameter_counts_are_torchvisions(preset, auxiliary, count):
    with torch.device("meta"):
        model = DeepLabV3(21, auxiliary=auxiliary, **PRESETS[preset])
    assert probe.count_parameters(model) == count
    assert probe.count_parameters(model.head.context) == 15_535_104
    assert probe.count_parameters(model.head.context.branches[1:]) == 14_157_312


@pytest.mark.parametrize(
    ("depth", "size", "dtype"),
    [
        (50, (65, 98), torch.float64),
        (50, (97, 64), torch.float64),
        (50, (129, 75), torch.float32),
        (101, (43, 66), torch.float64),
    ],
    ids=str,
)
@torch.no_grad()
def test_outputs_are_torchvisions(depth, size, dtype):
    theirs = torchvision_deeplab(depth).to(dtype)
    ours = DeepLabV3(21, auxiliary=True, **PRESETS[f"torchvision_resnet{depth}"]).to(dtype).eval()
    report = transplant(theirs, ours)
    assert report.skipped == () and report.reinitialized == ()
    x = images(2, 3, *size, dtype=dtype)
    expected, (logits, auxiliary_logits) = theirs(x), ours(x, auxiliary=True)
    for found, wanted in ((logits, expected["out"]), (auxiliary_logits, expected["aux"]), (ours(x), expected["out"])):
        assert wanted.shape == (2, 21, *size) and wanted.std() > 1e-3, "logits without variation compare nothing"
        assert (found - wanted).abs().max() == 0.0


@pytest.mark.parametrize("source", [True, False], ids=["source with", "source without"])
@pytest.mark.parametrize("target", [True, False], ids=["target with", "target without"])
def test_an_auxiliary_head_may_be_on_either_side(source, target):
    theirs = torchvision_deeplab(auxiliary=source)
    ours = DeepLabV3(21, auxiliary=target, **PRESETS["torchvision_resnet50"])
    report = transplant(theirs, ours)
    assert bool(report.skipped) == (source and not target) and bool(report.reinitialized) == (target and not source)
    assert all(name.startswith("aux_classifier.") for name in report.skipped)
    assert all(name.startswith("auxiliary.") for name in report.reinitialized)
    assert ours.head.classifier.weight.equal(theirs.classifier[4].weight.float())


def test_torchvisions_weights_do_not_go_into_the_papers_head():
    with pytest.raises(ValueError, match=r"classifier\.1\.weight.*no place"):
        transplant(torchvision_deeplab(), DeepLabV3(21, output_stride=8, multi_grid=None))


def test_operations_are_torchvisions():
    with torch.device("meta"):
        model = DeepLabV3(21, auxiliary=True, **PRESETS["torchvision_resnet50"])
    published = segmentation.DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["_ops"]
    side = 520 // 8
    auxiliary = side**2 * (9 * 1024 * 256 + 256 * 21)  # multiply-adds
    assert (probe.count_flops(model, (520, 520)) / 2 + auxiliary) / 1e9 == pytest.approx(published, abs=1e-3)


# ---------------------------------------------------------------------------------------------------- the paper's model
def dilations(stage):
    return [block.conv2.dilation[0] for block in stage]


def test_the_default_is_the_papers_model():
    with torch.device("meta"):
        model, paper = DeepLabV3(21), DeepLabV3(21, **PRESETS["paper"])
    assert (model.backbone.depth, paper.backbone.depth) == (50, 101)
    for network in (model, paper):
        assert [branch[0].dilation[0] for branch in network.head.context.branches] == [1, 6, 12, 18]
        assert dilations(network.backbone.conv5_x) == [2, 4, 8]
        assert set(dilations(network.backbone.conv4_x)) == {1}
        assert "refine" not in dict(network.head.named_children()) and network.auxiliary is None
        assert network.head.context.project[0].weight.shape == (256, 1280, 1, 1)
    assert [dropped.p for dropped in model.modules() if isinstance(dropped, nn.Dropout)] == [0.1]
    auxiliary = DeepLabV3(3, auxiliary=True, **NARROW).auxiliary
    assert [dropped.p for dropped in auxiliary.modules() if isinstance(dropped, nn.Dropout)] == [0.1]


@pytest.mark.parametrize(
    ("output_stride", "multi_grid", "conv4_x", "conv5_x"),
    [
        (16, (1, 2, 4), [1] * 6, [2, 4, 8]),
        (8, (1, 2, 4), [1] + [2] * 5, [4, 8, 16]),
        (16, (1, 1, 1), [1] * 6, [2, 2, 2]),
        (8, (1, 1, 1), [1] + [2] * 5, [4, 4, 4]),
        (16, None, [1] * 6, [1, 2, 2]),
        (8, None, [1] + [2] * 5, [2, 4, 4]),
        (16, (4, 2, 1), [1] * 6, [8, 4, 2]),
    ],
)
def test_multi_grid_multiplies_the_rates_of_conv5_x(output_stride, multi_grid, conv4_x, conv5_x):
    with torch.device("meta"):
        backbone = atrous_backbone("resnet50", 3, output_stride, multi_grid)
    assert dilations(backbone.conv4_x) == conv4_x and dilations(backbone.conv5_x) == conv5_x
    assert all(block.conv2.padding == block.conv2.dilation for block in (*backbone.conv4_x, *backbone.conv5_x))


@pytest.mark.parametrize("output_stride", [16, 8])
@torch.no_grad()
def test_multi_grid_backbone_is_torchvisions_with_these_rates(output_stride):
    dilated = [False, output_stride == 8, True]
    theirs = perturb_norms(torchvision.models.resnet50(replace_stride_with_dilation=dilated)).double().eval()
    ours = DeepLabV3(3, output_stride=output_stride).double().eval()
    transplant(theirs, ours)
    rates = {8: ([1] + [2] * 5, [4, 8, 16]), 16: ([1] * 6, [2, 4, 8])}[output_stride]
    for stage, own in zip((theirs.layer3, theirs.layer4), rates, strict=True):
        for block, rate in zip(stage, own, strict=True):
            block.conv2.dilation = block.conv2.padding = (rate, rate)
    x = images(1, 3, 75, 98, dtype=torch.float64)
    expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        expected = stage(expected)
    assert expected.std() > 1e-3
    assert (ours.backbone(x)[3] - expected).abs().max() == 0.0


def test_both_convolutions_of_a_basic_block_take_the_rate():
    backbone = atrous_backbone("resnet18", 3, 16, (1, 2))
    assert [(block.conv1.dilation, block.conv2.dilation) for block in backbone.conv5_x] == [
        ((2, 2),) * 2,
        ((4, 4),) * 2,
    ]
    assert [block.conv1.stride for block in backbone.conv5_x] == [(1, 1), (1, 1)]


@torch.no_grad()
def test_at_stride_16_the_head_is_smps():
    """smp's DeepLabV3 with the paper's rates: the same backbone without multi-grid, and torchvision's head."""
    import segmentation_models_pytorch as smp

    options = {"encoder_output_stride": 16, "decoder_atrous_rates": (6, 12, 18), "decoder_aspp_separable": False}
    theirs = smp.DeepLabV3("resnet18", encoder_weights=None, classes=5, **options)
    theirs = perturb_norms(theirs).double().eval()
    ours = DeepLabV3(5, backbone="resnet18", multi_grid=(1, 1), head="torchvision").double().eval()
    encoder = {f"backbone.{name[8:]}": value for name, value in theirs.state_dict().items() if name[:7] == "encoder"}
    decoder = {name: value for name, value in theirs.state_dict().items() if name[:7] != "encoder"}
    names = {"decoder.aspp.": "classifier.0.", "decoder.conv.": "classifier.1.", "decoder.bn.": "classifier.2."}
    names |= {"segmentation_head.0.": "classifier.4."}
    for old, new in names.items():
        decoder = {new + name[len(old) :] if name.startswith(old) else name: v for name, v in decoder.items()}
    transplant({**encoder, **decoder}, ours)
    x = images(1, 3, 97, 130, dtype=torch.float64)
    expected = theirs.segmentation_head[0](theirs.decoder(theirs.encoder(x)))
    found = ours.head(ours.backbone(x)[3])
    assert expected.shape == (1, 5, 7, 9) and expected.std() > 1e-3
    assert (found - expected).abs().max() == 0.0


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [1, 6, 12, 18]), (8, [1, 12, 24, 36])])
def test_rates_are_doubled_at_stride_8(output_stride, rates):
    with torch.device("meta"):
        model = DeepLabV3(3, output_stride=output_stride)
    assert [branch[0].dilation[0] for branch in model.head.context.branches] == rates
    assert [branch[0].padding[0] for branch in model.head.context.branches] == [0, *rates[1:]]


@pytest.mark.parametrize("multi_grid", [(1, 2), (1, 1), None], ids=str)
@torch.no_grad()
def test_stride_8_holds_the_scores_of_stride_16(multi_grid):
    """The same weights, half the stride, twice the rates: every second position is the coarse network's score."""
    coarse, fine = (DeepLabV3(4, **{**NARROW, "multi_grid": multi_grid, "output_stride": s}) for s in (16, 8))
    perturb_norms(coarse)
    for model in (coarse, fine):
        context, channels = model.head.context, model.head.context.out_channels
        rates = [branch[0].dilation[0] for branch in context.branches[1:]]
        model.head.context = ASPP(channels, channels, rates, image_pooling=False)  # its mean is over other positions
    fine.load_state_dict(coarse.state_dict())
    coarse, fine = coarse.double().eval(), fine.double().eval()
    x = images(1, 3, 115, 83, dtype=torch.float64)
    every_second = fine.head(fine.backbone(x)[3])[:, :, ::2, ::2]
    expected = coarse.head(coarse.backbone(x)[3])
    assert expected.shape == (1, 4, 8, 6) and expected.std() > 1e-3
    torch.testing.assert_close(every_second, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- the cascade
@pytest.mark.parametrize("output_stride", [16, 8])
@torch.no_grad()
def test_cascade_is_three_more_stages_of_torchvisions_blocks(output_stride):
    from torchvision.models.resnet import Bottleneck

    model = perturb_norms(seeded(DeepLabV3, 3, output_stride=output_stride, head="cascade")).double().eval()
    base = 32 // output_stride
    assert dilations(model.backbone.conv5_x) == [base, 2 * base, 4 * base]
    state, blocks = model.state_dict(), []
    for number in (5, 6, 7):
        for unit in range(3):
            rate = base * 2 ** (number - 4) * (1, 2, 4)[unit]
            block = Bottleneck(2048, 512, dilation=rate).double().eval()
            prefix = f"head.context.block{number}.{unit}."
            block.load_state_dict({name[len(prefix) :]: v for name, v in state.items() if name.startswith(prefix)})
            blocks.append(block)
    x = images(1, 2048, 9, 11, dtype=torch.float64)
    expected = F.conv2d(nn.Sequential(*blocks)(x), state["head.classifier.weight"], state["head.classifier.bias"])
    assert expected.std() > 1e-3
    assert (model.head(x) - expected).abs().max() == 0.0


def test_cascade_without_multi_grid():
    model = DeepLabV3(3, backbone="tiny", multi_grid=None, head="cascade")
    for number in (5, 6, 7):
        stage = getattr(model.head.context, f"block{number}")
        assert {layer.dilation[0] for unit in stage for layer in (unit.conv1, unit.conv2)} == {2 ** (number - 3)}


def test_cascade_starts_at_he_initialisation():
    model = seeded(DeepLabV3, 3, backbone="tiny", multi_grid=(1, 2), head="cascade")
    for unit in model.head.context.block7:
        fan_out = unit.conv2.out_channels * 9
        assert unit.conv2.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


# -------------------------------------------------------------------------------------------------------- image pooling
@torch.no_grad()
def test_image_pooling_adds_the_mean_of_the_map_to_every_position():
    aspp = perturb_norms(seeded(ASPP, 6, 4, (1, 2))).double().eval()
    x = images(2, 6, 5, 8, dtype=torch.float64)
    summary = aspp.image_pooling[0](x.mean(dim=(2, 3), keepdim=True))
    summary = F.relu(aspp.image_pooling[1](summary)).expand(2, 4, 5, 8)
    expected = aspp.project(torch.cat([*(branch(x) for branch in aspp.branches), summary], dim=1))
    torch.testing.assert_close(aspp(x), expected, rtol=0, atol=1e-12)


def test_image_pooling_alone_sees_everything():
    whole = DeepLabV3(2, **{**NARROW, "rates": (1,)})
    found = probe.receptive_field(whole, (832, 832))
    assert (found.height, found.width, found.clipped) == (832, 832, True)
    whole.head.context = ASPP(48, 48, (1,), image_pooling=False)
    found = probe.receptive_field(whole, (832, 832))
    # 7x7 and pool: 11; 2 x 2 x 2 convolutions at 4, 8, 16 and conv5_x at 16 x (2, 2, 4, 4); 3x3 at 16; upsampling by 16
    strided = sum(2 * step for step in (4, 4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 32, 32, 64, 64, 16))
    assert not found.clipped and found.height == found.width == 11 + strided + 16


def test_image_pooling_trains_on_one_image():
    aspp = seeded(ASPP, 4, 4, (1,)).train()
    assert isinstance(aspp.image_pooling[1], BatchNorm2d)
    aspp(images(1, 4, 3, 3)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in aspp.parameters())


def test_dropout_takes_a_tenth_in_training_only():
    aspp = seeded(ASPP, 4, 32, (1,))
    x = images(4, 4, 8, 8)
    aspp.project[1].bias.data.fill_(9)  # no zeros but those of dropout
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert (aspp.train()(x) == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (aspp.eval()(x) != 0).all()


def test_branches_are_made_by_the_convolution_that_is_asked_for():
    made = []

    def convolution(in_channels, channels, dilation):
        made.append((in_channels, channels, dilation))
        return nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation)

    aspp = ASPP(6, 4, (2, 5), convolution=convolution)
    assert made == [(6, 4, 2), (6, 4, 5)] and aspp.out_channels == 4
    assert [type(branch) for branch in aspp.branches] == [nn.Sequential, nn.Conv2d, nn.Conv2d]


# ------------------------------------------------------------------------------------------------- the auxiliary output
class TestAuxiliary(AuxiliaryContract):
    build = staticmethod(partial(DeepLabV3, **NARROW))


# ------------------------------------------------------------------------------------------------------------- the rest
def test_aspp_is_as_wide_as_a_narrow_backbone():
    assert DeepLabV3(3, **NARROW).head.context.out_channels == 48
    with torch.device("meta"):
        assert DeepLabV3(3, backbone="resnet18", multi_grid=(1, 2)).head.context.out_channels == 256


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "xception"}, "resnet101"),
        ({"output_stride": 32}, "keep 16 or 8"),
        ({"multi_grid": (1, 2, 4)}, "conv5_x of tiny has 2 units"),
        ({"head": "fcn"}, "cascade"),
    ],
)
def test_unknown_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        DeepLabV3(3, **{**NARROW, **options})


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            DeepLabV3(3, **preset)


def test_imagenet_weights_go_into_the_backbone_alone():
    source = perturb_norms(torchvision.models.resnet18(weights=None, num_classes=4))
    model = seeded(DeepLabV3, 3, backbone="resnet18", multi_grid=(1, 2), auxiliary=True)
    before, backbone = {name: value.clone() for name, value in model.state_dict().items()}, ResNet(18)
    report = transplant(source, model)
    transplant(source, backbone)
    assert {name.split(".")[0] for name in report.reinitialized} == {"head", "auxiliary"}
    for name, value in model.state_dict().items():
        expected = (
            backbone.state_dict()[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        )
        assert value.equal(expected), name
