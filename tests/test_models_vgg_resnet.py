"""The two backbones against torchvision and timm: the same weights must give the same numbers."""

import pytest
import timm
import torch
import torchvision
from contract import images, perturb_norms, seeded
from torch import nn

from segtutor.models.resnet import PRESETS as RESNETS
from segtutor.models.resnet import ResNet, stage_plan
from segtutor.models.vgg import PRESETS as VGGS
from segtutor.models.vgg import VGG16
from segtutor.weights import transplant

ODD = (1, 3, 75, 98)


def torchvision_resnet(depth, output_stride=32):
    dilate = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}[output_stride]
    network = getattr(torchvision.models, f"resnet{depth}")
    return perturb_norms(network(weights=None, replace_stride_with_dilation=dilate)).double().eval()


def torchvision_maps(network, x):
    x, maps = network.maxpool(network.relu(network.bn1(network.conv1(x)))), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def assert_equal_maps(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert their.std() > 1e-3, "a map without variation compares nothing"
        assert (our - their).abs().max() == 0.0


@pytest.mark.parametrize(
    ("depth", "output_stride"), [(18, 32), (34, 32), (50, 32), (50, 16), (50, 8), (101, 32), (152, 32)]
)
@torch.no_grad()
def test_resnet_is_torchvisions(depth, output_stride):
    theirs = torchvision_resnet(depth, output_stride)
    ours = ResNet(depth, output_stride=output_stride).double().eval()
    report = transplant(theirs, ours)
    assert report.skipped == ("fc.weight", "fc.bias") and report.reinitialized == ()
    x = images(*(ODD if depth < 100 else (1, 3, 43, 66)), dtype=torch.float64)
    assert_equal_maps(ours(x), torchvision_maps(theirs, x))


@pytest.mark.parametrize("output_stride", [16, 8])
@torch.no_grad()
def test_dilated_basic_blocks_are_timms(output_stride):
    """torchvision dilates bottlenecks only."""
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4), output_stride=output_stride)
    theirs = perturb_norms(theirs).double().eval()
    ours = ResNet(18, output_stride=output_stride).double().eval()
    transplant(theirs, ours)
    x = images(*ODD, dtype=torch.float64)
    assert_equal_maps(ours(x), theirs(x))


@pytest.mark.parametrize("output_stride", [16, 8])
@torch.no_grad()
def test_first_block_new_is_the_dilation_of_the_pspnet_code(output_stride):
    theirs = torchvision_resnet(50, output_stride)
    ours = {
        first: ResNet(50, output_stride=output_stride, first_dilation=first).double() for first in ("previous", "new")
    }
    for network in ours.values():
        transplant(theirs, network.eval())
    x = images(*ODD, dtype=torch.float64)
    assert_equal_maps(ours["previous"](x), torchvision_maps(theirs, x))
    # The released code walks over each stage and sets every 3x3 to the stage's own dilation.
    for stage, dilation in ((theirs.layer3, 16 // output_stride), (theirs.layer4, 32 // output_stride)):
        for block in stage:
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
    expected = torchvision_maps(theirs, x)
    assert_equal_maps(ours["new"](x), expected)
    assert (ours["previous"](x)[3] - expected[3]).abs().max() > 1e-3


def test_stage_plan_is_the_table_of_dilations():
    assert stage_plan(32, "previous") == [(1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)]
    assert stage_plan(16, "previous") == [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]
    assert stage_plan(8, "previous") == [(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]
    assert stage_plan(8, "new") == [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4)]


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160), (152, 58_143_808)],
)
def test_resnet_parameters_and_channels(depth, count):
    with torch.device("meta"):
        network = ResNet(**RESNETS[f"resnet{depth}"])
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert network.channels == ((64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048))


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_sides_round_up(depth, output_stride):
    network = ResNet(depth, widths=(2, 3, 4, 5), output_stride=output_stride, in_channels=4).eval()
    maps = network(images(1, 4, 65, 100))
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(-(-65 // s), -(-100 // s)) for s in strides]
    assert tuple(map_.shape[1] for map_ in maps) == network.channels


def test_resnet_trains_on_one_small_image():
    network = seeded(ResNet, **RESNETS["tiny"]).train()
    maps = network(images(1, 3, 32, 32))
    assert maps[3].shape[2:] == (1, 1)
    sum(map_.mean() for map_ in maps).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("batch_norm", [False, True])
@torch.no_grad()
def test_vgg_is_torchvisions(batch_norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=batch_norm)
    theirs = perturb_norms(theirs).double().eval()
    ours = VGG16(batch_norm=batch_norm).double().eval()
    # The classifier's weights are left out whatever they are; a stand-in saves half a gigabyte.
    source = {f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}
    report = transplant({**source, "classifier.0.weight": torch.zeros(1), "classifier.6.bias": torch.zeros(1)}, ours)
    assert len(report.loaded) == (26 + 13 * 5 if batch_norm else 26) and report.reinitialized == ()
    assert report.skipped == ("classifier.0.weight", "classifier.6.bias")
    x, maps = images(1, 3, 64, 96, dtype=torch.float64), []
    out = x
    for layer in theirs:
        out = layer(out)
        if isinstance(layer, nn.MaxPool2d):
            maps.append(out)
    assert_equal_maps(ours(x), maps)


def test_vgg_parameters():
    with torch.device("meta"):
        network = VGG16()
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_714_688


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_vgg_sides_round_up(output_stride):
    network = VGG16(widths=(1, 1, 1, 1, 2), output_stride=output_stride, in_channels=1)
    maps = network(images(1, 1, 65, 100))
    strides = [min(stride, output_stride) for stride in (2, 4, 8, 16, 32)]
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(-(-65 // s), -(-100 // s)) for s in strides]


def test_vgg_dilates_conv5_at_output_stride_8():
    """DeepLab v1: pool4 and pool5 keep the size, and conv5_x takes dilation 2."""
    network = VGG16(widths=(1,) * 5, output_stride=8)
    dilations = {name: layer.dilation[0] for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    assert {name for name, dilation in dilations.items() if dilation == 2} == {f"stage5.conv5_{i}" for i in (1, 2, 3)}
    assert all(dilation in (1, 2) for dilation in dilations.values())
    assert (network.pool3.stride, network.pool4.stride, network.pool5.stride) == (2, 1, 1)


def test_he_initialisation_keeps_the_signal_through_thirteen_layers():
    network = seeded(VGG16, **VGGS["tiny"]).eval()
    with torch.no_grad():
        scale = [map_.square().mean().item() for map_ in network(images(4, 3, 64, 64))]
    assert 0.1 < scale[-1] / scale[0] < 100
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()  # PyTorch's default, for comparison: the signal dies
        scale = [map_.square().mean().item() for map_ in network(images(4, 3, 64, 64))]
    assert scale[-1] / scale[0] < 0.1


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: VGG16(output_stride=4), "output_stride is 4"),
        (lambda: VGG16(widths=(1, 2)), "2 entries"),
        (lambda: ResNet(19), "18, 34, 50"),
        (lambda: ResNet(18, output_stride=64), "output_stride is 64"),
        (lambda: ResNet(18, first_dilation="old"), "previous"),
    ],
)
def test_impossible_options_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
