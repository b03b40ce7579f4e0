"""SegNet: the paper's numbers, torchvision's encoder, a second SegNet from plain torch layers, and unpooling itself."""

from functools import partial

import pytest
import torch
import torchvision
from contract import ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor.lab.papers import PAPERS
from segtutor.models.segnet import PRESETS, SegNet, pool, unpool
from segtutor.probe import count_flops, count_parameters
from segtutor.weights import transplant

NARROW = {"widths": (2, 3, 4, 5, 6)}
DEPTHS = (2, 2, 3, 3, 3)


def fact(name):
    return PAPERS["segnet"].facts[name].value


class TestSegNet(ModelContract):
    models = {"SegNet": partial(SegNet, **PRESETS["tiny"])}


# -------------------------------------------------------------------------------------------------- the paper's numbers
def test_size_and_cost_are_the_papers():
    with torch.device("meta"):
        model, other = SegNet(11, **PRESETS["paper"]), SegNet(21)
    assert count_parameters(model) == fact("parameters") == 29_449_355
    assert count_parameters(other) == fact("parameters_21_classes") == 29_455_125
    assert count_parameters(model.encoder) == fact("parameters_encoder") == 14_723_136
    assert count_flops(model, (360, 480)) / 2e9 == pytest.approx(fact("gmac_360x480"), abs=0.005)
    # The pooling of stage 4 leaves 23 rows of 45; rounding down it would leave 22, and six convolutions a row less
    row = 6 * 512 * 512 * 9 * 30 / 1e9
    assert fact("gmac_360x480") - row == pytest.approx(fact("gmac_360x480_rounding_down"), abs=0.01)
    layers = list(model.modules())
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == fact("convolutions")
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == fact("batch_norms")


def test_sides_are_the_released_networks():
    model, seen = SegNet(11, **NARROW).eval(), []
    for stage in [*model.encoder.children(), *model.decoder]:
        stage.register_forward_hook(lambda layer, args, out: seen.append(tuple(out.shape[2:])))
    with torch.no_grad():
        assert model(images(1, 3, 360, 480)).shape == (1, 11, 360, 480)
    down = [(360, 480), (180, 240), (90, 120), (45, 60), (23, 30)]  # the last two are written down in the prototxt
    assert seen == down + down[::-1]


def test_every_size_from_32_comes_back():
    model = SegNet(2, **NARROW).eval()
    with torch.no_grad():
        for height in range(32, 98):
            assert model(images(1, 3, height, 130 - height)).shape[2:] == (height, 130 - height)


def test_the_last_convolution_of_a_stage_changes_the_channels():
    model = SegNet(11, **NARROW)
    channels = [[c.out_channels for c in stage if isinstance(c, nn.Conv2d)] for stage in model.decoder]
    assert channels == [[6, 6, 5], [5, 5, 4], [4, 4, 3], [3, 2], [2, 11]]
    assert isinstance(model.decoder[-1][-1], nn.Conv2d), "scores are neither normalised nor rectified"


def test_five_widths_are_needed():
    with pytest.raises(ValueError, match="4 entries.*5 stages"):
        SegNet(2, widths=(2, 2, 2, 2))


# ----------------------------------------------------------------------------------------------------------- unpooling
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (5, 8), (1, 3)], ids=str)
def test_unpooling_puts_each_maximum_back_and_zeros_elsewhere(size):
    x = images(2, 3, *size, dtype=torch.float64)
    pooled, indices = pool(x)
    back = unpool(10 * pooled, indices, size)
    expected = torch.zeros_like(x)
    for b in range(2):
        for c in range(3):
            for i in range(0, size[0], 2):
                for j in range(0, size[1], 2):
                    window = [(r, s) for r in (i, i + 1) for s in (j, j + 1) if r < size[0] and s < size[1]]
                    best = max(window, key=lambda place: x[b, c, place[0], place[1]])
                    expected[(b, c, *best)] = 10 * x[(b, c, *best)]
                    assert indices[b, c, i // 2, j // 2] == best[0] * size[1] + best[1]
    assert back.equal(expected)
    assert pooled.shape[2:] == (-(-size[0] // 2), -(-size[1] // 2))


def test_each_unpooling_uses_its_own_stages_indices():
    """What enters a decoder stage is zero wherever the mirrored encoder stage had no maximum."""
    model = perturb_norms(seeded(SegNet, 3, **NARROW)).eval()
    left, entered = [], []
    for stage in model.encoder.children():
        stage.register_forward_hook(lambda layer, args, out: left.append(out.clone()))
    for stage in model.decoder:
        stage.register_forward_pre_hook(lambda layer, args: entered.append(args[0].clone()))
    with torch.no_grad():
        model(images(1, 3, 75, 53))
    for before, after in zip(left, reversed(entered), strict=True):
        pooled, indices = pool(before)
        places = unpool(torch.ones_like(pooled), indices, before.shape[2:]).bool()
        assert not after[~places].any()
        assert after.any()


def test_places_cross_and_no_gradient_comes_back():
    """With the coarsest map blanked, the images still differ by where their maxima stood, and cannot learn from it."""
    model = perturb_norms(seeded(SegNet, 3, **NARROW)).eval()
    x = images(2, 3, 64, 96).requires_grad_()
    model.encoder.stage5.register_forward_hook(lambda layer, args, out: out * 0)
    logits = model(x)
    assert not logits[0].isclose(logits[1]).all()
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert not gradient.any()


# -------------------------------------------------------------------------------------------------- other people's nets
@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (160, 32)], ids=str)
def test_encoder_is_torchvisions_vgg16_bn(size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = perturb_norms(torchvision.models.vgg16_bn(weights=None, init_weights=False)).double().eval()
    with torch.device("meta"):
        model = SegNet(2)
    model = model.double().to_empty(device="cpu").eval()
    report = transplant(source, model)
    assert len(report.loaded) == 13 * 7 and all(name.startswith("classifier.") for name in report.skipped)
    assert {name.split(".")[0] for name in report.reinitialized} == {"decoder"}
    assert {target.split(".")[0] for _, target in report.loaded} == {"encoder"}
    x = images(2, 3, *size, dtype=torch.float64)
    found, indices, sizes = model.encoder(x)
    expected = x
    for layer in source.features:
        if isinstance(layer, nn.MaxPool2d):
            assert tuple(sizes.pop(0)) == tuple(expected.shape[2:])
            expected, places = nn.functional.max_pool2d(expected, 2, 2, return_indices=True)
            assert indices.pop(0).equal(places)
        else:
            expected = layer(expected)
    assert expected.std() > 1e-2, "activations too small to compare"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(found, source.features(x), rtol=0, atol=1e-10)


class Prototxt(nn.Module):
    """The released network, layer by layer, with torch's own modules and the sizes written at each upsampling."""

    def __init__(self, num_classes, widths, sizes):
        super().__init__()
        self.sizes, self.blocks, previous = sizes, nn.ModuleList(), 3
        plan = [[width] * depth for width, depth in zip(widths, DEPTHS, strict=True)]
        for depth, width, narrower in zip(DEPTHS[::-1], widths[::-1], [*widths[-2::-1], num_classes], strict=True):
            plan.append([width] * (depth - 1) + [narrower])
        for stage in plan:
            block = []
            for width in stage:
                block += [nn.Conv2d(previous, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                previous = width
            self.blocks.append(nn.Sequential(*block))
        self.blocks[-1] = self.blocks[-1][:-2]
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True, ceil_mode=True), nn.MaxUnpool2d(2)

    def forward(self, x):
        masks = []
        for block in self.blocks[:5]:
            x, mask = self.pool(block(x))
            masks.append(mask)
        for number, block in enumerate(self.blocks[5:]):
            x = block(self.unpool(x, masks[4 - number], output_size=self.sizes[4 - number]))
        return x


@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_are_those_of_a_second_segnet(training):
    sizes = [(75, 53), (38, 27), (19, 14), (10, 7), (5, 4)]
    model = perturb_norms(seeded(SegNet, 4, **NARROW)).double().train(training)
    other = Prototxt(4, NARROW["widths"], sizes).double().train(training)
    other.load_state_dict(dict(zip(other.state_dict(), model.state_dict().values(), strict=True)))
    x = images(2, 3, 75, 53, dtype=torch.float64)
    found, expected = model(x), other(x)
    assert expected.std() > 1e-2 and (expected < 0).any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    found.square().mean().backward()
    expected.square().mean().backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_starts_at_hes_initialisation():
    model = seeded(SegNet, 3)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            wanted = (2 / (9 * layer.in_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.1), name
            assert not layer.bias.any()
