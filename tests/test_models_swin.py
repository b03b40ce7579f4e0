"""Swin: torchvision's numbers, windows that shift and never reach across a border, any size of image."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import images, perturb_norms, seeded
from torch import nn

from segtutor import probe
from segtutor.lab.experiments.swin import backbones
from segtutor.lab.papers import PAPERS
from segtutor.layers import softmax_attention
from segtutor.models import swin
from segtutor.models.swin import PRESETS, Stage, SwinBlock, SwinTransformer, WindowAttention
from segtutor.weights import load_pretrained, transplant

FACTS = PAPERS["swin"].facts
NARROW = {"width": 4, "depths": (1, 1, 3, 1), "heads": (1, 2, 2, 4), "window": 4}


def perturb(model, seed=0):
    """Norms, position biases and biases that matter: those of a fresh network are near 0 and hide a wrong index."""
    perturb_norms(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias_table"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif name.endswith("bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def their_maps(network, x):
    """The map of each stage of a torchvision Swin, channels first."""
    maps = []
    for number, layer in enumerate(network.features):
        x = layer(x)
        if number % 2:
            maps.append(x.permute(0, 3, 1, 2))
    return maps


# ---------------------------------------------------------------------------------------------------- the paper's model
@pytest.fixture(scope="module")
def both():
    """torchvision's Swin-T and ours, with the same weights."""
    theirs = perturb(seeded(torchvision.models.swin_t)).eval()
    ours = SwinTransformer().eval()
    transplant(theirs, ours)
    return theirs, ours


@pytest.mark.parametrize("size", [(224, 224), (100, 100), (68, 260), (37, 50)], ids=str)
@torch.no_grad()
def test_features_are_torchvisions(both, size):
    theirs, ours = both
    x = images(1, 3, *size)
    expected = their_maps(theirs, F.pad(x, (0, -size[1] % 4, 0, -size[0] % 4)))  # they drop what is no whole patch
    for found, wanted in zip(ours(x), expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(64, 64), (100, 60), (44, 132), (32, 32)], ids=str)
@torch.no_grad()
def test_features_are_torchvisions_in_double_precision(size):
    options = {"embed_dim": 4, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 2, 4], "window_size": [4, 4]}
    network = torchvision.models.swin_transformer.SwinTransformer
    theirs = perturb(seeded(network, patch_size=[4, 4], num_classes=2, **options)).double().eval()
    ours = SwinTransformer(**NARROW).double().eval()
    report = transplant(theirs, ours)
    assert {name.split(".")[0] for name in report.skipped if "index" not in name} == {
        "norm",
        "head",
    } and not report.reinitialized
    x = images(2, 3, *size, dtype=torch.float64)
    for found, wanted in zip(ours(x), their_maps(theirs, x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("preset", "size"), [("swin_t", "tiny"), ("swin_s", "small"), ("swin_b", "base")])
def test_parameters_are_the_papers_less_the_classifier(preset, size):
    with torch.device("meta"):
        model = SwinTransformer(**PRESETS[preset])
    last = model.channels[-1]
    classifier = 2 * last + 1000 * last + 1000  # a normalisation and a linear layer
    assert probe.count_parameters(model) + classifier == FACTS[f"parameters_{size}"].value


def test_operations_are_the_papers():
    with torch.device("meta"):
        model = SwinTransformer()
    assert probe.count_flops(model, (224, 224)) / 2e9 == pytest.approx(FACTS["gmac_224_tiny"].value, abs=0.01)


def test_the_default_is_the_papers_model():
    with torch.device("meta"):
        model = SwinTransformer()
    window, shift = FACTS["window"].value, FACTS["shift"].value
    assert all(stage.window == window for stage in model.stages)
    assert model.stages[0].shifted(torch.empty(1, 56, 57, 1))[0] == (shift, shift)
    assert [tuple(x.shape[1:]) for x in model(torch.empty(1, 3, 224, 192, device="meta"))] == [
        (96, 56, 48), (192, 28, 24), (384, 14, 12), (768, 7, 6),
    ]  # fmt: skip
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.2 * number / 11 for number in range(12)])


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            SwinTransformer(**preset)


@pytest.mark.parametrize("preset", ["swin_t", "swin_s", "swin_b"])
def test_rates_of_stochastic_depth_are_torchvisions(preset):
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, preset)(), SwinTransformer(**PRESETS[preset])
    assert ours.stages[-1].blocks[-1].drop_path.rate == pytest.approx(theirs.features[-1][-1].stochastic_depth.p)


def test_linear_layers_and_position_biases_start_small():
    model = seeded(SwinTransformer)
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table") or (name.endswith("weight") and parameter.dim() == 2):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias") and "entry.project" not in name:
            assert not parameter.any(), name


# -------------------------------------------------------------------------------------------------------------- windows
def test_windows_are_neighbours_and_can_be_joined():
    x = torch.arange(2 * 6 * 9).view(2, 6, 9, 1)
    windows = swin.partition(x, 3)
    expected = [x[b, i : i + 3, j : j + 3].reshape(9, 1) for b in range(2) for i in (0, 3) for j in (0, 3, 6)]
    assert windows.equal(torch.stack(expected))
    assert swin.join(windows, 3, 6, 9).equal(x)


@pytest.mark.parametrize("window", [1, 2, 4, 7])
def test_each_offset_has_its_own_bias(window):
    index = swin.relative_index(window)
    places = list(itertools.product(range(window), repeat=2))
    side = 2 * window - 1
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            assert index[i, j] == (y - v + window - 1) * side + (x - u + window - 1)
    assert index.unique().tolist() == list(range(side**2))


def regions(side, window, shift):
    """For each row of a padded map, the rows that may attend to it, once windows have been moved by shift."""
    return [[j for j in range(side) if (j - shift) // window == (i - shift) // window] for i in range(side)]


@pytest.mark.parametrize(
    ("sides", "shift"), [((8, 12), (2, 2)), ((8, 4), (2, 0)), ((4, 12), (0, 1)), ((4, 4), (2, 2))], ids=str
)
def test_mask_allows_what_was_together_before_the_shift(sides, shift):
    mask = swin.shift_mask(*sides, 4, shift, like=torch.zeros(1, dtype=torch.float64))
    assert mask.dtype == torch.float64 and set(mask.unique().tolist()) <= {0, float("-inf")}
    places = torch.arange(sides[0] * sides[1]).view(1, *sides, 1)
    rolled = swin.partition(places.roll((-shift[0], -shift[1]), dims=(1, 2)), 4)[..., 0]
    rows, columns = regions(sides[0], 4, shift[0]), regions(sides[1], 4, shift[1])
    for window, allowed in zip(rolled.tolist(), mask[:, 0] == 0, strict=True):
        for i, j in itertools.product(range(16), repeat=2):
            (y, x), (v, u) = divmod(window[i], sides[1]), divmod(window[j], sides[1])
            assert allowed[i, j] == (v in rows[y] and u in columns[x])


@pytest.mark.parametrize("shift", [0, 2], ids=["still", "shifted"])
@pytest.mark.parametrize("size", [(8, 12), (7, 10), (5, 9)], ids=str)
def test_attention_stays_in_its_window_and_crosses_no_border(size, shift):
    """By gradients, exactly: a position reads its whole window, cut by the border, and nothing else."""
    block = perturb(seeded(SwinBlock, 4, 2, 4)).double()
    sides = [side + -side % 4 for side in size]
    mask = swin.shift_mask(*sides, 4, (shift, shift), like=torch.zeros(1, dtype=torch.float64)) if shift else None
    x = images(1, *size, 4, dtype=torch.float64).requires_grad_()
    out = block(x, (shift, shift), mask)
    rows, columns = regions(sides[0], 4, shift), regions(sides[1], 4, shift)
    for i, j in itertools.product(range(size[0]), range(size[1])):
        (gradient,) = torch.autograd.grad(out[0, i, j].square().sum(), x, retain_graph=True)
        read = gradient[0].abs().sum(-1) > 0
        expected = torch.zeros(size, dtype=torch.bool)
        for v, u in itertools.product(rows[i], columns[j]):
            if v < size[0] and u < size[1]:
                expected[v, u] = True
        assert read.equal(expected), f"position {i}, {j}"


def reads(stage, size, at):
    """Rows and columns of the map (h, w) that one position of the stage's result depends on, as two sets."""
    x = images(1, *size, 4, dtype=torch.float64).requires_grad_()
    y, x_ = at
    stage.entry = nn.Identity()
    (gradient,) = torch.autograd.grad(stage(x)[0, y, x_].square().sum(), x)
    rows, columns = (gradient[0].abs().sum(-1) > 0).nonzero(as_tuple=True)
    return set(rows.tolist()), set(columns.tolist())


def test_the_second_block_of_a_stage_reaches_the_neighbouring_windows():
    still = seeded(Stage, nn.Identity(), [SwinBlock(4, 2, 4)], False).double()
    assert reads(still, (16, 16), (5, 6)) == ({4, 5, 6, 7}, {4, 5, 6, 7})
    pair = seeded(Stage, nn.Identity(), [SwinBlock(4, 2, 4), SwinBlock(4, 2, 4)], False).double()
    # moved by 2, the window of (5, 6) is rows 2..5 and columns 6..9; each of these has read its own window before
    assert reads(pair, (16, 16), (5, 6)) == (set(range(0, 8)), set(range(4, 12)))
    assert reads(pair, (16, 16), (0, 0)) == ({0, 1, 2, 3}, {0, 1, 2, 3})


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 8), (2, 2)), ((4, 8), (0, 2)), ((9, 3), (2, 0)), ((4, 1), (0, 0))], ids=str
)
def test_a_single_window_is_shifted_on_demand_only(size, expected):
    stage = Stage(nn.Identity(), [SwinBlock(4, 2, 4)] * 2, False)
    x = torch.zeros(1, *size, 4)
    shift, mask = stage.shifted(x)
    assert shift == expected and (mask is None) == (expected == (0, 0))
    stage.always_shift = True
    assert stage.shifted(x)[0] == (2, 2) and stage.shifted(x)[1] is not None


def test_the_mask_is_made_once_for_a_stage(monkeypatch):
    calls, make = [], swin.shift_mask
    monkeypatch.setattr(swin, "shift_mask", lambda *args, **options: calls.append(1) or make(*args, **options))
    seeded(SwinTransformer, **NARROW)(images(1, 3, 256, 256))
    assert len(calls) == 4


# ------------------------------------------------------------------------------------------------------------ attention
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_softmax_in_the_open(masked):
    layer = perturb(seeded(WindowAttention, 12, 3, 4)).double()
    qkv = images(2, 8, 12, 36, dtype=torch.float64).roll((-2, -2), dims=(1, 2))  # (B, h, w, 3 C): six windows each
    windows = swin.partition(qkv, 4)
    mask = swin.shift_mask(8, 12, 4, (2, 2), like=qkv) if masked else None
    found = layer.within(windows, mask)
    query, key, value = windows.chunk(3, dim=-1)
    index = swin.relative_index(4)
    for number, head in itertools.product(range(len(windows)), range(3)):
        own = slice(4 * head, 4 * head + 4)
        bias = layer.bias_table[index][..., head]
        if masked:
            bias = bias + mask[number % 6, 0]
        expected, weights = softmax_attention(query[number, :, own], key[number, :, own], value[number, :, own], bias)
        assert not masked or (weights[mask[number % 6, 0] < 0] == 0).all()
        torch.testing.assert_close(found[number, :, own], expected, rtol=0, atol=1e-12)


def test_padded_positions_are_the_bias_of_zeros():
    layer = perturb(seeded(WindowAttention, 6, 2, 4)).double()
    x = images(2, 5, 9, 6, dtype=torch.float64)
    expected = layer.qkv(F.pad(x, (0, 0, 0, 3, 0, 3)))
    torch.testing.assert_close(layer.padded(layer.qkv(x)), expected, rtol=0, atol=1e-12)
    whole = layer.qkv(images(1, 8, 4, 6, dtype=torch.float64))
    assert layer.padded(whole) is whole


def test_the_bias_depends_on_the_offset_alone():
    layer = perturb(seeded(WindowAttention, 4, 2, 3))
    bias = layer.bias()
    assert bias.shape == (2, 9, 9)
    assert bias[0, 0, 4].equal(bias[0, 4, 8]) and not bias[0, 0, 4].equal(bias[0, 4, 0])
    assert bias[:, 0, 0].equal(bias[:, 5, 5]) and not bias[0].equal(bias[1])


# ---------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 65), (1, 5)], ids=str)
def test_maps_halve_and_round_up(size):
    model = seeded(SwinTransformer, **NARROW).eval()
    sides = [-(-side // 4) for side in size]
    with torch.no_grad():
        for x, channels in zip(model(images(2, 3, *size)), (4, 8, 16, 32), strict=True):
            assert x.shape == (2, channels, *sides) and x.isfinite().all()
            sides = [-(-side // 2) for side in sides]
    assert model.channels == (4, 8, 16, 32)


def test_what_needs_no_padding_is_not_padded(monkeypatch):
    """F.pad copies its map even where nothing is added."""
    model = seeded(SwinTransformer, **NARROW)
    model(images(1, 3, 37, 50))
    monkeypatch.setattr(F, "pad", lambda *args, **options: pytest.fail("a map was padded"))
    model(images(1, 3, 128, 256))  # whole windows in every stage


@pytest.mark.parametrize("training", [False, True])
def test_holds_no_more_than_torchvisions(training):
    """At sizes where nothing is to be padded, one needless copy of the images is seen."""
    with torch.device("meta"):
        ours, theirs = backbones(224)
    for size in ((224, 224), (448, 224)):
        held, reference = (probe.count_peak_bytes(m, size, batch=4, training=training) for m in (ours, theirs))
        assert held <= reference


def test_maps_are_handed_over_without_a_copy():
    model = seeded(SwinTransformer, **NARROW, norms=True).eval()
    with torch.no_grad():
        for x in model(images(2, 3, 64, 96)):
            assert x.is_contiguous(memory_format=torch.channels_last)


def test_norms_normalise_the_returned_maps_and_nothing_else():
    plain, normed = (seeded(SwinTransformer, **NARROW, norms=norms).double().eval() for norms in (False, True))
    perturb_norms(normed)
    plain.load_state_dict({name: v for name, v in normed.state_dict().items() if not name.startswith("norms.")})
    x = images(1, 3, 40, 72, dtype=torch.float64)
    for raw, found, norm in zip(plain(x), normed(x), normed.norms, strict=True):
        expected = F.layer_norm(raw.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias)
        torch.testing.assert_close(found, expected.permute(0, 3, 1, 2), rtol=0, atol=1e-12)
        assert not found.allclose(raw)


def test_both_branches_of_a_block_can_be_dropped():
    block, x = seeded(SwinBlock, 4, 2, 4), images(2, 4, 8, 4)
    assert not block(x).equal(x)
    block.drop_path.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    assert block(x).equal(x), "a dropped branch adds nothing"


def test_branches_are_dropped_in_training_only():
    model = seeded(SwinTransformer, **NARROW, drop_path=0.9)
    x = images(2, 3, 32, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not model(x)[-1].equal(model(x)[-1])
        model.eval()
        assert model(x)[-1].equal(model(x)[-1])


# -------------------------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depths": (1, 1, 4, 1)}, r"stages\.2\.blocks\.3.*find no tensor"),
        ({"depths": (1, 1, 2, 1)}, r"features\.5\.2.*no place in the target"),
        ({"window": 5}, r"bias_table is \(49, 1\) in the source, but .* is \(81, 1\)"),
    ],
    ids=["deeper", "shallower", "window"],
)
def test_weights_of_another_network_are_refused(change, says):
    options = {"embed_dim": 4, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 2, 4], "window_size": [4, 4]}
    theirs = torchvision.models.swin_transformer.SwinTransformer([4, 4], num_classes=2, **options)
    with pytest.raises(ValueError, match=says):
        transplant(theirs, SwinTransformer(**{**NARROW, **change}))


@pytest.mark.parametrize("assign", [True, False])
@torch.no_grad()
def test_a_model_made_without_numbers_is_whole_after_loading(assign):
    source, x = seeded(SwinTransformer, **NARROW).eval(), images(1, 3, 64, 48)
    with torch.device("meta"):
        model = SwinTransformer(**NARROW).eval()
    if not assign:
        model.to_empty(device="cpu")
        for layer in model.modules():
            if isinstance(layer, swin.WindowAttention):
                layer.index.zero_()  # as good as what to_empty leaves
    model.load_state_dict(source.state_dict(), assign=assign)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(found.equal(wanted) for found, wanted in zip(copied(x), source(x), strict=True))


@torch.no_grad()
def test_a_model_made_without_numbers_is_whole_after_a_transplant():
    options = {"embed_dim": 4, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 2, 4], "window_size": [4, 4]}
    theirs = torchvision.models.swin_transformer.SwinTransformer([4, 4], num_classes=2, **options)
    theirs = perturb(theirs).eval()
    with torch.device("meta"):
        model = SwinTransformer(**NARROW).eval()
    model.to_empty(device="cpu")
    for layer in model.modules():
        if isinstance(layer, swin.WindowAttention):
            layer.index.zero_()
    transplant(theirs, model)
    x = images(1, 3, 128, 160)
    for found, wanted in zip(model(x), their_maps(theirs, x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("preset", "letter"), [("swin_t", "T"), ("swin_s", "S"), ("swin_b", "B"), ("tiny", None)])
def test_imagenet_weights_are_torchvisions(monkeypatch, preset, letter):
    asked = []
    monkeypatch.setattr("segtutor.weights.published.fetch_url", lambda url, progress: asked.append(url) or {})
    monkeypatch.setattr("segtutor.weights.published.transplant", lambda source, model: "report")
    with torch.device("meta"):
        model = SwinTransformer(**PRESETS[preset])
    if letter is None:
        with pytest.raises(ValueError, match="no ImageNet weights.*swin_t, swin_s, swin_b"):
            load_pretrained(model)
        return
    assert load_pretrained(model) == "report"
    assert asked == [getattr(torchvision.models, f"Swin_{letter}_Weights").IMAGENET1K_V1.url]
