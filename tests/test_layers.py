"""The shared bricks against torch and against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from contract import images, perturb_norms
from torch import nn

from segtutor.layers import BatchNorm2d, bilinear_kernel, check_images, check_num_classes, conv_norm_relu, resize


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


def test_checks_say_what_to_do():
    check_images(torch.zeros(1, 3, 32, 32), 3)
    check_images(torch.zeros(1, 3, 8, 8), 3, smallest=8)
    check_num_classes(1)
    with pytest.raises(ValueError, match="resize or pad"):
        check_images(torch.zeros(1, 3, 32, 31), 3)
    with pytest.raises(ValueError, match="in_channels=1"):
        check_images(torch.zeros(1, 1, 32, 32), 3)
    with pytest.raises(ValueError, match="class count"):
        check_num_classes(0)
