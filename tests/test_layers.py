"""The shared bricks against torch and against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from contract import images, perturb_norms
from torch import nn

from segtutor.layers import (
    BatchNorm2d,
    DropPath,
    attention,
    bilinear_kernel,
    check_images,
    check_num_classes,
    conv_norm_relu,
    init_transformer,
    pad_to_multiple,
    resize,
    softmax_attention,
)


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (1, 4, 5, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs_wherever_torchs_works(shape, training):
    ours, theirs = perturb_norms(BatchNorm2d(4)).train(training), nn.BatchNorm2d(4).train(training)
    theirs.load_state_dict(ours.state_dict())
    x = images(*shape)
    assert ours(x).equal(theirs(x))
    for name, value in theirs.state_dict().items():
        assert ours.state_dict()[name].equal(value), name


def test_batch_norm_uses_running_statistics_for_one_value_per_channel():
    ours = perturb_norms(BatchNorm2d(4)).train()
    x = images(1, 4, 1, 1).requires_grad_()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(ValueError):
        nn.BatchNorm2d(4).train()(x)
    out = ours(x)
    assert out.equal(ours.eval()(x))
    assert all(value.equal(before[name]) for name, value in ours.state_dict().items())
    out.sum().backward()
    assert x.grad.all() and ours.bias.grad.all()


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 4), (5, 1, 2), (7, 2, 1)]
)
@pytest.mark.parametrize("size", [(17, 20), (8, 9)])
def test_conv_norm_relu_keeps_the_size_up_to_its_stride(kernel, stride, dilation, size):
    block = conv_norm_relu(3, 6, kernel, stride, dilation)
    out = block(images(2, 3, *size))
    assert out.shape == (2, 6, -(-size[0] // stride), -(-size[1] // stride))
    assert out.min() == 0, "ReLU is last"
    assert block[0].bias is None and isinstance(block[1], BatchNorm2d)


def test_resize_samples_at_pixel_centres():
    ramp = torch.arange(4.0).reshape(1, 1, 1, 4)
    # Doubling puts the new centres at -0.25, 0.25, 0.75, ... of the old ones; the border is clamped.
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(resize(ramp, (1, 8)).flatten(), expected)
    assert resize(images(1, 2, 5, 7), torch.Size([9, 4])).shape == (1, 2, 9, 4)


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_bilinear_kernel_is_the_tent_of_the_paper(stride):
    kernel = bilinear_kernel(2 * stride)
    axis = torch.tensor([1 - abs(i - (stride - 0.5)) / stride for i in range(2 * stride)])
    torch.testing.assert_close(kernel, axis[:, None] * axis[None, :])


def test_bilinear_kernel_of_odd_size_peaks_at_its_centre():
    assert bilinear_kernel(3)[1].tolist() == [0.5, 1.0, 0.5]


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_bilinear_transposed_convolution_interpolates_in_the_interior(stride):
    x = images(1, 1, 6, 7, dtype=torch.float64)
    up = F.conv_transpose2d(x, bilinear_kernel(2 * stride).double()[None, None], stride=stride, padding=stride // 2)
    inside = (..., slice(stride, -stride), slice(stride, -stride))
    torch.testing.assert_close(up[inside], resize(x, (6 * stride, 7 * stride))[inside], rtol=0, atol=1e-12)
    assert not torch.allclose(up, resize(x, up.shape[2:])), "the borders differ: zero padding against clamping"


def test_padding_goes_right_and_below_and_only_where_it_is_missing():
    x = torch.rand(2, 3, 7, 9)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (2, 3, 8, 12) and padded[:, :, :7, :9].equal(x)
    assert not padded[:, :, 7:].any() and not padded[:, :, :, 9:].any()
    assert pad_to_multiple(x, 1) is x
    assert pad_to_multiple(x[:, :, :, :8], 7).shape == (2, 3, 7, 14), "one side alone"


def test_checks_say_what_to_do():
    check_images(torch.zeros(1, 3, 32, 32), 3)
    check_images(torch.zeros(1, 3, 8, 8), 3, smallest=8)
    check_images(torch.zeros(1, 3, 32, 32), 3, torch.zeros(1))
    check_images(torch.zeros(1, 3, 32, 32), 3, torch.zeros(1, dtype=torch.int8))  # quantised weights
    with pytest.raises(ValueError, match="images.to.torch.float64"):
        check_images(torch.zeros(1, 3, 32, 32), 3, torch.zeros(1).double())
    check_num_classes(1)
    with pytest.raises(ValueError, match="resize or pad"):
        check_images(torch.zeros(1, 3, 32, 31), 3)
    with pytest.raises(ValueError, match="in_channels=1"):
        check_images(torch.zeros(1, 1, 32, 32), 3)
    with pytest.raises(ValueError, match="class count"):
        check_num_classes(0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_is_the_softmax_in_the_open(with_bias):
    query, key, value = (images(2, 3, n, 8, seed=n, dtype=torch.float64) for n in (5, 7, 7))
    value = value[..., :4]
    bias = images(2, 1, 5, 7, dtype=torch.float64) if with_bias else None
    if with_bias:
        bias[..., 2] = -torch.inf
    together, weights = softmax_attention(query, key, value, bias)
    torch.testing.assert_close(attention(query, key, value, bias), together, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert not with_bias or not weights[..., 2].any(), "a forbidden pair has no weight"
    # One query by hand: the exponentials of its scaled products, normalised.
    scores = torch.tensor([query[1, 2, 4].dot(key[1, 2, j]).item() / 8**0.5 for j in range(7)], dtype=torch.float64)
    if with_bias:
        scores = scores + bias[1, 0, 4]
    expected = (scores.exp() / scores.exp().sum()) @ value[1, 2]
    torch.testing.assert_close(together[1, 2, 4], expected)


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    drop, x = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        out = drop(x)
    assert ((out == 0).all((1, 2)) | (out == 1 / 0.75).all((1, 2))).all()
    assert abs((out == 0).all((1, 2)).float().mean() - 0.25) < 0.03
    assert drop.eval()(x) is x and DropPath(0.0).train()(x) is x
    assert drop.train()(x.bfloat16()).dtype == torch.bfloat16
    assert str(drop) == "DropPath(rate=0.25)"


def test_transformers_start_small():
    module = nn.Sequential(nn.Linear(200, 300), nn.Conv2d(3, 4, 1), nn.Linear(30, 30, bias=False))
    convolution = module[1].weight.clone()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        init_transformer(module)
    assert abs(module[0].weight.std() - 0.02) < 0.001 and not module[0].bias.any()
    assert abs(module[2].weight.std() - 0.02) < 0.002 and module[1].weight.equal(convolution)
