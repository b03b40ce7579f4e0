"""FCN: the paper's numbers, torchvision's activations, and the behaviour that the chapter explains."""

from functools import partial

import pytest
import torch
import torchvision
from contract import ModelContract, images, seeded
from torch import nn

from segtutor.layers import bilinear_kernel
from segtutor.models.fcn import PRESETS, FCN8s, FCN16s, FCN32s
from segtutor.weights import transplant

NETWORKS = (FCN32s, FCN16s, FCN8s)
NARROW = {"widths": (2, 2, 3, 4, 4), "hidden": 5, "dropout": 0.0, "score_init": "he"}


class TestFCN(ModelContract):
    models = {cls.__name__: partial(cls, **PRESETS["tiny"]) for cls in NETWORKS}


class TestPaperGeometry(ModelContract):
    # 100 pixels of padding make small images large, so narrower still, and the deepest of the three only.
    models = {"FCN8s": partial(FCN8s, padding="paper", widths=(4, 8, 12, 16, 16), hidden=32, score_init="he")}
    overfit = (60, 5e-3)


@pytest.mark.parametrize(("network", "count"), [(FCN32s, 136_152_917), (FCN16s, 134_815_994), (FCN8s, 134_489_759)])
@pytest.mark.parametrize("padding", ["paper", "same"])
def test_parameter_counts_are_the_papers(network, count, padding):
    with torch.device("meta"):
        model = network(21, padding=padding)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


# The side table of the released networks: facts worked out from their prototxt files.
SIDES = {
    224: {"pool3": 53, "pool4": 27, "pool5": 14, "score": 8, "fuse4": 18, "fuse3": 38, "last": (288, 304, 312)},
    500: {"pool3": 88, "pool4": 44, "pool5": 22, "score": 16, "fuse4": 34, "fuse3": 70, "last": (544, 560, 568)},
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("which", range(3), ids=[network.__name__ for network in NETWORKS])
def test_sides_are_the_released_networks(side, which):
    model = NETWORKS[which](2, padding="paper", **NARROW).eval()
    last = ("upscore32", "upscore16", "upscore8")[which]
    layers = {
        "pool3": model.backbone.pool3,
        "pool4": model.backbone.pool4,
        "pool5": model.backbone.pool5,
        "score": model.score_fr,
        "fuse4": getattr(model, "upscore2", None),
        "fuse3": getattr(model, "upscore_pool4", None),
        "last": getattr(model, last),
    }
    seen = {}
    for name, layer in layers.items():
        if layer is not None:
            layer.register_forward_hook(lambda layer, args, out, name=name: seen.update({name: out.shape[2:]}))
    with torch.no_grad():
        assert model(images(1, 3, side, side)).shape[2:] == (side, side)
    expected = {**SIDES[side], "last": SIDES[side]["last"][which]}
    assert seen == {name: (expected[name], expected[name]) for name in seen}
    assert len(seen) == 5 + which


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_size_from_32_comes_back(network, padding):
    model = network(2, padding=padding, **NARROW).eval()
    with torch.no_grad():
        for height in range(32, 98):
            assert model(images(1, 3, height, 130 - height)).shape[2:] == (height, 130 - height)


@pytest.fixture(scope="module")
def vgg16():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Without its slow initialisation: any random weights will do.
        return torchvision.models.vgg16(weights=None, init_weights=False).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_fc7_is_the_classifier_of_torchvisions_vgg16(vgg16, dtype, tolerance):
    vgg16 = vgg16.to(dtype)
    with torch.device("meta"):
        model = FCN32s(2)
    model = model.to(dtype).to_empty(device="cpu").eval()
    report = transplant(vgg16, model)
    assert len(report.loaded) == 30
    x = images(1, 3, 224, 224, dtype=dtype)
    with torch.no_grad():
        expected = vgg16.classifier[:5](vgg16.avgpool(vgg16.features(x)).flatten(1))[0]
        _, _, padded = model.classify(x)
        model.fc6.padding = (0, 0)
        _, _, valid = model.classify(x)
    assert expected.abs().max() > 1e-2, "activations too small to compare"
    assert padded.shape == (1, 4096, 7, 7) and valid.shape == (1, 4096, 1, 1)
    torch.testing.assert_close(padded[0, :, 3, 3], expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(valid[0, :, 0, 0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("network", NETWORKS)
def test_upsampling_starts_bilinear_from_each_class_to_itself(network):
    model = network(3, **NARROW)
    upscores = [layer for layer in model.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert len(upscores) == NETWORKS.index(network) + 1
    for layer in upscores:
        assert layer.bias is None and layer.weight.shape[:2] == (3, 3), "dense kernels: every class to every class"
        kernel = bilinear_kernel(2 * layer.stride[0])
        for i in range(3):
            for j in range(3):
                assert layer.weight[i, j].equal(kernel if i == j else torch.zeros_like(kernel))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_papers_score_layers_start_at_zero(network):
    model = seeded(network, 3, **{**NARROW, "score_init": "zeros"})
    assert not model(images(1, 3, 32, 32)).any()
    with torch.no_grad():
        model.score_fr.bias.fill_(1)
    assert model(images(1, 3, 32, 32)).any()


def test_scaled_skips_scales_the_skips():
    plain, scaled = (seeded(FCN8s, 3, scaled_skips=scaled_skips, **NARROW).eval() for scaled_skips in (False, True))
    with torch.no_grad():
        plain.score_pool4.weight.mul_(0.01)
        plain.score_pool3.weight.mul_(0.0001)
        x = images(1, 3, 64, 64)
        torch.testing.assert_close(plain(x), scaled(x))


# Mirroring also mirrors the pooling grid where the padded sides divide by 32: H, or H + 198 in the paper's geometry.
@pytest.mark.parametrize(("padding", "size"), [("same", (96, 64)), ("paper", (90, 58))])
@pytest.mark.parametrize("network", NETWORKS)
def test_scores_align_with_the_pixels(network, padding, size):
    """With mirror-symmetric kernels a mirrored image has mirrored scores; a crop off by one pixel breaks that."""
    model = seeded(network, 3, padding=padding, **NARROW).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.add_(parameter.flip(2)).add_(parameter.flip(3)).mul_(0.25)
        x = images(1, 3, *size, dtype=torch.float64)
        logits = model(x)
        torch.testing.assert_close(
            model(x.flip(2, 3)).flip(2, 3), logits, rtol=0, atol=1e-9 * logits.abs().max().item()
        )


@pytest.mark.parametrize("network", NETWORKS)
def test_shifting_by_32_shifts_the_scores(network):
    model = seeded(network, 3, **NARROW).double().eval()
    world = images(1, 3, 736, 736, dtype=torch.float64)
    inside = 256  # half the receptive field of fc7 (202), and what the upsampling mixes in
    with torch.no_grad():
        here, there, half = (model(world[:, :, by : by + 704, by : by + 704]) for by in (0, 32, 16))
    here, there = here[:, :, inside + 32 : 704 - inside], there[:, :, inside : 704 - inside - 32]
    here, there = here[..., inside + 32 : 704 - inside], there[..., inside : 704 - inside - 32]
    torch.testing.assert_close(there, here, rtol=0, atol=1e-9 * here.abs().max().item())
    half = half[:, :, inside + 16 : 704 - inside - 16, inside + 16 : 704 - inside - 16]
    assert (half - here).abs().max() > 1e-3 * here.abs().max(), "a shift by half the stride gives other scores"


def averaging(model):
    """Positive, equal weights and average pools: no path from a pixel to a score can vanish or cancel."""
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.fill_(0.1)
        model.fc6.weight.fill_(0.1)
    for stage in range(1, 6):
        setattr(model.backbone, f"pool{stage}", nn.AvgPool2d(2, ceil_mode=True))
    return model.double().eval()


def formula(layers):
    """Receptive field of a chain of (kernel, stride)."""
    field, step = 1, 1
    for kernel, stride in layers:
        field, step = field + (kernel - 1) * step, step * stride
    return field


VGG16_CHAIN = [layer for depth in (2, 2, 3, 3, 3) for layer in [(3, 1)] * depth + [(2, 2)]]


@pytest.mark.parametrize(
    ("layer", "field"),
    [("pool5", formula(VGG16_CHAIN)), ("fc6", formula([*VGG16_CHAIN, (7, 1)]))],
    ids=["pool5", "fc7"],
)
def test_receptive_field_is_the_formulas(layer, field):
    assert field == {"pool5": 212, "fc6": 404}[layer]
    model = averaging(FCN32s(1, in_channels=1, widths=(1,) * 5, hidden=1, dropout=0.0))
    x = torch.ones(1, 1, 480, 480, dtype=torch.float64, requires_grad=True)
    maps = model.backbone(x)[-1]
    maps = model.fc6(maps) if layer == "fc6" else maps
    (gradient,) = torch.autograd.grad(maps[0, 0, 7, 7], x)
    rows, columns = gradient[0, 0].abs().sum(1).nonzero(), gradient[0, 0].abs().sum(0).nonzero()
    assert rows.max() - rows.min() + 1 == field and columns.max() - columns.min() + 1 == field


@pytest.mark.parametrize(
    ("network", "alive"), [(FCN32s, set()), (FCN16s, {1, 2, 3, 4}), (FCN8s, {1, 2, 3, 4})], ids=lambda value: str(value)
)
def test_skips_carry_gradients_past_the_coarse_path(network, alive):
    model = seeded(network, 3, **NARROW)
    nn.init.zeros_(model.score_fr.weight)  # closes the path through conv5, fc6 and fc7
    model(images(1, 3, 64, 64)).square().sum().backward()
    reached = {
        stage
        for stage in range(1, 6)
        if any(p.grad.any() for p in model.backbone.get_submodule(f"stage{stage}").parameters())
    }
    assert reached == alive


def test_pool3_alone_reaches_the_first_three_stages():
    model = seeded(FCN8s, 3, **NARROW)
    nn.init.zeros_(model.score_fr.weight)
    nn.init.zeros_(model.score_pool4.weight)
    model(images(1, 3, 64, 64)).square().sum().backward()
    for stage in range(1, 6):
        for name, parameter in model.backbone.get_submodule(f"stage{stage}").named_parameters():
            assert parameter.grad.any() == (stage <= 3), name


def test_dropout_acts_in_training_only():
    model = seeded(FCN8s, 3, **{**NARROW, "dropout": 0.5})
    x = images(1, 3, 64, 64)
    assert not model.train()(x).equal(model(x))
    assert model.eval()(x).equal(model(x))


@pytest.mark.parametrize("option", [{"padding": "valid"}, {"score_init": "random"}, {"widths": (1, 2, 3)}])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match="choose|needs"):
        FCN8s(3, **option)


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            FCN8s(3, **preset)
