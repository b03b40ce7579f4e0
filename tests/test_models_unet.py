"""U-Net: the paper's counts and sides, its tiles, and what the unpadded net may see."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor import probe
from segtutor.models.unet import PRESETS, UNet, center_crop, check_valid_sides, mirror, overlap_tile
from segtutor.weights import transplant


class TestUNet(ModelContract):
    models = {"tiny": partial(UNet, **PRESETS["tiny"]), "plain": partial(UNet, base=6, dropout=0.1)}


def valid_net(base=2, num_classes=3, in_channels=1, **options):
    options = {"padding": "valid", "dropout": 0.0, **options}
    return seeded(UNet, num_classes, in_channels=in_channels, base=base, **options).double().eval()


def double(*shape, seed=0):
    return images(*shape, seed=seed, dtype=torch.float64)


# ---- The paper's network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"num_classes": 2, "in_channels": 1, **PRESETS["paper"]}, 31_030_658),
        ({"num_classes": 2, "in_channels": 1}, 31_030_658),
        ({"num_classes": 21}, 31_033_045),
        ({"num_classes": 2, "in_channels": 1, "batch_norm": True}, 31_036_546),
    ],
)
def test_parameter_counts(options, count):
    with torch.device("meta"):
        model = UNet(**options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_the_paper_has_23_convolutions():
    with torch.device("meta"):
        model = UNet(2, **PRESETS["paper"])
    kinds = [
        (type(layer), layer.kernel_size) for layer in model.modules() if isinstance(layer, nn.modules.conv._ConvNd)
    ]
    assert len(kinds) == 23
    assert kinds.count((nn.Conv2d, (3, 3))) == 18 and kinds.count((nn.ConvTranspose2d, (2, 2))) == 4
    assert kinds.count((nn.Conv2d, (1, 1))) == 1
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert sum(isinstance(layer, nn.ReLU) for layer in model.modules()) == 18


def test_sides_at_572_are_those_of_figure_1():
    trace = {row.name: row for row in probe.shape_trace(UNet(2, in_channels=1, base=2, **PRESETS["paper"]), (572, 572))}
    stages = [f"contract{level}" for level in (1, 2, 3, 4)] + ["bottom"] + [f"expand{level}" for level in (4, 3, 2, 1)]
    assert [trace[name].out_shape[-1] for name in stages] == [568, 280, 136, 64, 28, 52, 100, 196, 388]
    assert [trace[name].out_shape[-1] for name in ("up4", "up3", "up2", "up1")] == [56, 104, 200, 392]
    assert trace["score"].out_shape == (1, 2, 388, 388)
    widths = [trace[name].out_shape[1] for name in stages]
    assert widths == [2, 4, 8, 16, 32, 16, 8, 4, 2]
    # The concatenation: twice the channels of the map that the up-convolution returns.
    assert [trace[f"expand{level}"].in_shape[1] for level in (4, 3, 2, 1)] == [32, 16, 8, 4]


@pytest.mark.parametrize("size", [(188, 188), (204, 252), (300, 188)], ids=str)
def test_valid_loses_184_pixels(size):
    with torch.no_grad():
        assert valid_net()(double(2, 1, *size)).shape == (2, 3, size[0] - 184, size[1] - 184)


def test_valid_takes_what_is_12_modulo_16_and_nothing_else():
    model = valid_net(base=1)
    for side in range(180, 240):
        if side in (188, 204, 220, 236):
            assert model(double(1, 1, 188, side)).shape[2:] == (4, side - 184)
        else:
            with pytest.raises(ValueError, match=f"188x{side} pixels.*12 modulo 16"):
                model(double(1, 1, 188, side))


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((570, 572), "height 556 or 572 and the width 572,"),
        ((572, 573), "height 572 and the width 572 or 588,"),
        ((500, 100), "height 492 or 508 and the width 188 or 204,"),
        ((188, 172), "height 188 and the width 188 or 204,"),
        ((172, 571), "height 188 or 204 and the width 556 or 572,"),
    ],
)
def test_sides_that_do_not_fit_are_answered_with_the_nearest(size, says):
    with pytest.raises(ValueError, match=says) as caught:
        UNet(2, base=1, **PRESETS["paper"])(images(1, 3, *size))
    for side in map(int, re.findall(r"\b\d{3}\b", says)):
        check_valid_sides(side, side)
    assert "overlap_tile" in str(caught.value)


# ---- The bridges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (49, 83), (33, 34)], ids=str)
@torch.no_grad()
def test_the_skip_comes_first_and_whole(size):
    """What enters an expanding stage: the contracting stage's output before its pool, then the up-convolution's."""
    model, caught = seeded(UNet, 2, base=2).eval(), {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda m, args, out, name=name: caught.update({name: (args[0].clone(), out.clone())})
        )
    model(images(1, 3, *size))
    for level in (1, 2, 3, 4):
        entered, skip, up = caught[f"expand{level}"][0], caught[f"contract{level}"][1], caught[f"up{level}"][1]
        assert entered[:, : skip.shape[1]].equal(skip)
        assert entered[:, skip.shape[1] :].equal(up[:, :, : skip.shape[2], : skip.shape[3]])
        assert caught[f"pool{level}"][0].equal(skip)


@torch.no_grad()
def test_valid_crops_the_middle_of_the_skip():
    model, caught = valid_net(), {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda m, args, out, name=name: caught.update({name: (args[0].clone(), out.clone())})
        )
    model(double(1, 1, 220, 204))
    for level, margin in ((4, 4), (3, 16), (2, 40), (1, 88)):
        skip = caught[f"contract{level}"][1]
        entered = caught[f"expand{level}"][0][:, : skip.shape[1]]
        assert entered.equal(skip[:, :, margin:-margin, margin:-margin])


def test_center_crop_by_hand():
    grid = torch.arange(30).view(1, 1, 5, 6)
    assert center_crop(grid, (3, 2)).flatten().tolist() == [8, 9, 14, 15, 20, 21]


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_each_bridge_carries_gradients_past_the_level_below(padding):
    """With an up-convolution closed, the stages below it learn nothing, and those above it do."""
    for closed in (1, 2, 3, 4):
        model = valid_net(padding=padding)
        up = getattr(model, f"up{closed}")
        with torch.no_grad():
            up.weight.zero_()
        model(double(1, 1, 188, 188)).square().sum().backward()
        assert not model.bottom.conv1.weight.grad.any()
        for level in (1, 2, 3, 4):
            reached = getattr(model, f"contract{level}").conv1.weight.grad.any().item()
            assert reached == (level <= closed), (closed, level)


def test_every_size_from_32_comes_back():
    model = seeded(UNet, 2, base=1).eval()
    with torch.no_grad():
        for height in range(32, 98):
            assert model(images(1, 3, height, 130 - height)).shape[2:] == (height, 130 - height)


@pytest.mark.parametrize(("padding", "size"), [("same", (96, 64)), ("valid", (220, 188))])
def test_scores_align_with_the_pixels(padding, size):
    """With mirror-symmetric kernels a mirrored image has mirrored scores; a crop off by one pixel breaks that."""
    model = valid_net(padding=padding)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.add_(parameter.flip(2)).add_(parameter.flip(3)).mul_(0.25)
        x = double(1, 1, *size)
        logits = model(x)
        assert logits.std() > 1e-3
        torch.testing.assert_close(model(x.flip(2, 3)).flip(2, 3), logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_padding_changes_only_what_a_border_reaches():
    padded, valid = valid_net(padding="same"), valid_net()
    valid.load_state_dict(padded.state_dict())
    x = double(1, 1, 512, 540)
    # Its pools cut the same windows as the padded net's where the crop starts at 2 modulo 16: the unpadded convolutions
    # before them have by then moved the grid by 2, 4, 8 and 16 pixels.
    theirs = valid(x[:, :, 98:398, 114:414])
    ours = padded(x)[:, :, 190:306, 206:322]
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# ---- What one output pixel may see -----------------------------------------------------------------------------------


def interval(position):
    """The input pixels that output ``position`` of the unpadded net depends on, first and last, by arithmetic."""
    first, last, needed = position, position, {}
    for level in (1, 2, 3, 4):
        last += 4  # two unpadded 3x3 convolutions
        needed[level] = first, last
        first, last = first // 2, last // 2  # an up-convolution writes each position twice
    last += 4
    for level, margin in ((4, 4), (3, 16), (2, 40), (1, 88)):
        first, last = 2 * first, 2 * last + 1  # the pool
        first, last = min(first, needed[level][0] + margin), max(last, needed[level][1] + margin)  # the bridge
        last += 4
    return first, last


@pytest.mark.parametrize("position", [(48, 51), (52, 63), (50, 56), (0, 115)], ids=str)
def test_receptive_field_of_the_unpadded_net(position):
    field = probe.receptive_field(UNet(1, in_channels=1, base=1, **PRESETS["paper"]), (300, 300), at=position)
    (top, bottom), (left, right) = interval(position[0]), interval(position[1])
    assert (field.top, field.height) == (top, bottom - top + 1)
    assert (field.left, field.width) == (left, right - left + 1)
    assert {interval(i)[1] - interval(i)[0] + 1 for i in range(4)} == {188}
    assert {interval(i)[1] - interval(i)[0] + 1 for i in range(4, 16)} == {204}


@torch.no_grad()
def test_what_lies_outside_the_window_does_not_matter():
    model, x = valid_net(), double(1, 1, 300, 300)
    before = model(x)
    for row, column in ((48, 51), (55, 60)):
        (top, bottom), (left, right) = interval(row), interval(column)
        changed = double(1, 1, 300, 300, seed=1)
        changed[:, :, top : bottom + 1, left : right + 1] = x[:, :, top : bottom + 1, left : right + 1]
        after = model(changed)
        assert after[:, :, row, column].equal(before[:, :, row, column])
        assert (after != before).float().mean() > 0.5


@torch.no_grad()
def test_shifting_by_16_shifts_the_scores_and_by_4_does_not():
    model, x = valid_net(), double(1, 1, 300, 300)
    whole = model(x)
    torch.testing.assert_close(model(x[:, :, 16:, 16:-16]), whole[:, :, 16:, 16:-16], rtol=0, atol=1e-12)
    assert (model(x[:, :, 4:208, 4:208]) - whole[:, :, 4:24, 4:24]).abs().max() > 1e-3


# ---- Overlap-tile ----------------------------------------------------------------------------------------------------


def one_pass(model, x):
    """The whole mirrored image at once, by torch's own reflection."""
    height, width = x.shape[2:]
    rest = [(4 - side) % 16 for side in (height, width)]
    return model(F.pad(x, (92, 92 + rest[1], 92, 92 + rest[0]), mode="reflect"))[:, :, :height, :width]


@pytest.mark.parametrize("tile", [20, 36, 68, 116, 388])
@pytest.mark.parametrize("size", [(116, 116), (160, 131), (117, 243), (130, 196)], ids=str)
@torch.no_grad()
def test_tiles_are_one_pass_over_the_mirrored_image(size, tile):
    model = valid_net()
    x = double(2, 1, *size)
    expected = one_pass(model, x)
    assert expected.std() > 1e-2 and expected.shape[2:] == size
    torch.testing.assert_close(overlap_tile(model, x, tile), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_tiles_of_the_default_side():
    model = valid_net(base=1)
    x = double(1, 1, 400, 120)
    torch.testing.assert_close(overlap_tile(model, x), one_pass(model, x), rtol=0, atol=1e-12)


def test_no_tile_is_larger_than_asked_for():
    model, sides = valid_net(), set()
    model.register_forward_pre_hook(lambda m, args: sides.add(tuple(args[0].shape[2:])))
    overlap_tile(model, double(1, 1, 100, 50), tile=36)
    assert sides == {(220, 220)}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (40, 7)], ids=str)
def test_images_smaller_than_the_mirrored_border(size):
    logits = overlap_tile(valid_net(), double(1, 1, *size), 20)
    assert logits.shape == (1, 3, *size) and logits.isfinite().all() and not logits.requires_grad


@pytest.mark.parametrize("side", [1, 2, 5, 93, 120])
def test_mirror_is_numpys_reflection(side):
    import numpy as np

    x = double(1, 2, side, 3)
    full = side + (4 - side) % 16
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (92, 92 + full - side), (0, 0)), mode="reflect")
    assert mirror(x, 2, full).equal(torch.from_numpy(expected))


@pytest.mark.parametrize("tile", [16, 4, 21, 400])
def test_tiles_that_do_not_fit_are_refused(tile):
    with pytest.raises(ValueError, match=f"tile is {tile}.*4 modulo 16") as caught:
        overlap_tile(valid_net(), double(1, 1, 120, 120), tile)
    for good in map(int, re.findall(r"take (\d+) or (\d+)", str(caught.value))[0]):
        assert good % 16 == 4 and good >= 20 and abs(good - tile) <= 32


def test_tiles_of_a_padded_net_are_refused():
    with pytest.raises(ValueError, match='padding="valid"'):
        overlap_tile(UNet(2, base=1), images(1, 3, 120, 120))
    with pytest.raises(ValueError, match="in_channels=1"):
        overlap_tile(valid_net(), double(1, 3, 120, 120))
    with pytest.raises(ValueError, match=r"images\[None\]"):
        overlap_tile(valid_net(), double(1, 120, 120))


# ---- Weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [False, True])
@torch.no_grad()
def test_contracting_path_is_torchvisions_vgg13(batch_norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["B"], batch_norm=batch_norm)
    theirs = perturb_norms(theirs).double().eval()
    with torch.device("meta"):
        model = UNet(2, batch_norm=batch_norm)
    model = model.double().to_empty(device="cpu").eval()
    source = {f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}
    transplant({**source, "classifier.0.weight": torch.zeros(1)}, model)
    x, skips = double(1, 3, 64, 80), []
    out = x
    for layer in theirs:
        if isinstance(layer, nn.MaxPool2d):
            skips.append(out)
        out = layer(out)
    for ours, expected in zip(model.contract(x)[:4], skips[:4], strict=True):
        assert expected.std() > 1e-3, "a map without variation compares nothing"
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_weights_start_with_the_papers_variance():
    """A normal of variance 2/N, where N numbers enter a neuron: 9 C for a 3x3, C for an up-convolution or a 1x1."""
    model = seeded(UNet, 64, base=16)
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            incoming = layer.in_channels * (9 if layer.kernel_size == (3, 3) else 1)
            ratio = layer.weight.var().item() * incoming / 2
            assert abs(ratio - 1) < 6 * (2 / layer.weight.numel()) ** 0.5, (name, ratio)
            assert not layer.bias.any()


def test_dropout_acts_on_the_bottom_in_training_only():
    model = seeded(UNet, 3, base=2, dropout=0.5)
    x = images(1, 3, 64, 64)
    assert model.eval()(x).equal(model(x))
    first, second = model.train().contract(x), model.contract(x)
    assert all(a.equal(b) for a, b in zip(first[:4], second[:4], strict=True))
    assert not first[4].equal(second[4])
    assert ((first[4] == 0) != (second[4] == 0)).any()


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match='"same" or "valid"'):
        UNet(3, padding="reflect")


def test_presets_build():
    for preset in PRESETS.values():
        with torch.device("meta"):
            UNet(3, **preset)
