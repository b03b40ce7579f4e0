"""Views of whole batches: geometry against known places, labels that stay labels, colours, seeds."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from segtutor.data import SyntheticScenes
from segtutor.data.batch_transforms import RandomView, jitter
from segtutor.data.transforms import normalize

SPEC = SyntheticScenes().spec


def places(height, width, batch=3):
    """Images whose channels are the row, the column and a constant, and masks that hold the row."""
    rows = torch.arange(height).view(1, 1, -1, 1).expand(batch, 1, height, width) / 255
    columns = torch.arange(width).view(1, 1, 1, -1).expand(batch, 1, height, width) / 255
    return torch.cat([rows, columns, torch.full_like(rows, 0.5)], 1), (rows[:, 0] * 255).round().long()


def pixels(view, spec=SPEC):
    """Views back to rows and columns in pixels."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return 255 * (view * std + mean)


def test_without_scale_a_view_is_a_crop():
    images, masks = places(50, 70)
    view, labels = RandomView(SPEC, (32, 48), scale=None, flip=False)(images, masks)
    assert view.shape == (3, 3, 32, 48) and labels.shape == (3, 32, 48) and labels.dtype == torch.int64
    found = pixels(view)
    # Crops start between pixels; inside the image a bilinear view of a ramp is the ramp.
    assert_close(found[:, 0, 1:] - found[:, 0, :-1], torch.ones(3, 31, 48), rtol=0, atol=1e-3)
    assert_close(found[:, 1, :, 1:] - found[:, 1, :, :-1], torch.ones(3, 32, 47), rtol=0, atol=1e-3)
    assert (labels - found[:, 0]).abs().max() <= 0.501
    starts = found[:, :2, 0, 0]
    assert starts.min() >= -0.51 and len(starts.unique(dim=0)) == 3


def test_a_view_of_the_whole_image_is_the_normalised_image():
    images, masks = torch.rand(2, 3, 40, 56), torch.randint(0, SPEC.num_classes, (2, 40, 56))
    view, labels = RandomView(SPEC, (40, 56), scale=None, flip=False)(images, masks)
    assert_close(view, normalize(images, SPEC), rtol=1e-4, atol=1e-4)
    assert torch.equal(labels, masks)


@pytest.mark.parametrize(("option", "axis"), [("flip", -1), ("flip_vertically", -2)])
def test_mirrors(option, axis):
    images, masks = torch.rand(64, 3, 8, 8), torch.randint(0, 5, (64, 8, 8))
    options = {"flip": False, option: True}
    view, labels = RandomView(SPEC, (8, 8), scale=None, **options)(images, masks)
    plain = normalize(images, SPEC)
    mirrored = torch.tensor(
        [bool(torch.allclose(a, b.flip(axis), atol=1e-4)) for a, b in zip(view, plain, strict=True)]
    )
    same = torch.tensor([bool(torch.allclose(a, b, atol=1e-4)) for a, b in zip(view, plain, strict=True)])
    assert (mirrored ^ same).all() and 16 < mirrored.sum() < 48
    assert torch.equal(labels[mirrored], masks[mirrored].flip(axis)) and torch.equal(labels[same], masks[same])


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.5, 2.0])
def test_scale_is_the_step_between_pixels(factor):
    images, masks = places(60, 60)
    view, labels = RandomView(SPEC, (24, 24), scale=(factor, factor), flip=False)(images, masks)
    found = pixels(view)[:, 0]
    assert_close(found[:, 9:15] - found[:, 8:14], torch.full((3, 6, 24), 1 / factor), rtol=0, atol=2e-3)
    assert (labels - found)[:, 8:15].abs().max() <= 0.51


def test_beyond_the_image_lie_mean_and_void():
    spec = replace(SPEC, ignore_index=99)
    images, masks = torch.rand(16, 3, 20, 20), torch.zeros(16, 20, 20, dtype=torch.long)
    view, labels = RandomView(spec, (40, 40), scale=None, flip=False)(images, masks)
    beyond = labels == spec.ignore_index
    assert set(labels.unique().tolist()) == {0, spec.ignore_index}
    assert 0.7 < beyond.float().mean() < 0.78  # 1 - (20 / 40)^2
    assert view.permute(0, 2, 3, 1)[beyond].abs().max() < 3 and (view.abs().sum(1) == 0)[beyond].float().mean() > 0.9


def test_labels_are_never_between_two_classes():
    masks = torch.zeros(8, 64, 64, dtype=torch.long)
    masks[:, ::2] = 200
    _, labels = RandomView(SPEC, (48, 48))(torch.rand(8, 3, 64, 64), masks)
    assert set(labels.unique().tolist()) <= {0, 200, SPEC.ignore_index}


def test_one_seed_one_result():
    images, masks = torch.rand(4, 3, 40, 40), torch.zeros(4, 40, 40, dtype=torch.long)
    view = RandomView(SPEC, (32, 32), color=0.3)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(view(images, masks)[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_colours_move_and_stay_in_range():
    images = torch.rand(32, 3, 8, 8)
    moved = jitter(images, 0.5)
    assert moved.min() >= 0 and moved.max() <= 1 and (moved - images).abs().mean(dim=(1, 2, 3)).min() > 0
    assert torch.equal(jitter(images, 0.0).round(decimals=4), images.round(decimals=4))
    grey = torch.rand(4, 1, 8, 8)
    assert jitter(grey, 0.3).shape == grey.shape


def test_saturation_leaves_grey_alone():
    grey = torch.rand(4, 1, 8, 8).expand(4, 3, 8, 8)
    moved = jitter(grey, 0.9)
    assert_close(moved[:, 0], moved[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"scale": (2, 1)}, "scale"), ({"color": 2}, "color"), ({"crop": (0, 4)}, "0")],
)
def test_impossible_settings_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        RandomView(SPEC, **{"crop": (8, 8), **options})


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same B, H and W"):
        RandomView(SPEC, (8, 8))(torch.rand(2, 3, 16, 16), torch.zeros(2, 16, 15, dtype=torch.long))


@pytest.mark.gpu
def test_the_same_view_on_a_gpu():
    images, masks = torch.rand(4, 3, 40, 60), torch.randint(0, 5, (4, 40, 60))
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        results.append([t.cpu() for t in RandomView(SPEC, (32, 32), color=0.3)(images.to(device), masks.to(device))])
    assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-3)
    assert (results[0][1] == results[1][1]).float().mean() > 0.999
