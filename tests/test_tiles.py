"""Images in tiles and in several views: no seams, the same answers where a network sees no further, little memory."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import SPEC, Threshold, picture
from torch import nn
from torch.nn import functional as F

from segtutor.inference import predict, predict_tiled, probabilities, strips
from segtutor.inference.predictor import _fading, _starts, reflected

IMAGE = picture(130, 301)


class Strided(nn.Module):
    """Down by 8 in three steps and up again: each pixel's answer rests on pixels up to 22 away."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 8, 8, 8)
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths)))
        self.score = nn.Conv2d(8, classes, 1)
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        x = images
        for layer in self.layers:
            x = layer(x).tanh()
        return F.interpolate(8 * self.score(x), size=images.shape[2:], mode="bilinear", align_corners=False)


class Constant(nn.Module):
    """The same logits everywhere, whatever the image."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, 1.0, -0.7]))

    def forward(self, images):
        return self.logits[:, None, None].expand(len(images), -1, *images.shape[2:])


def tiled(model, image=IMAGE, **settings):
    return torch.cat([part for _, part, _ in strips(model, image, spec=SPEC, **settings)], dim=1)


@given(side=st.integers(1, 900), tile=st.integers(2, 10), data=st.data())
@settings(max_examples=200, deadline=None)
def test_tiles_cover_an_image_once(side, tile, data):
    """At every pixel the weights of all tiles sum to one, and every tile starts where strides fall as on the whole."""
    tile, overlap = 32 * tile, 32 * data.draw(st.integers(1, tile // 2))
    starts, weight = _starts(side, tile, overlap), torch.zeros(side)
    for start in starts:
        end = min(start + tile, side)
        weight[start:end] += _fading(end - start, overlap, first=start == 0, last=end == side)
    assert all(start % 32 == 0 for start in starts) and starts[-1] < side <= starts[-1] + tile
    assert len(starts) == 1 or side - starts[-1] > overlap
    torch.testing.assert_close(weight, torch.ones(side), rtol=0, atol=1e-6)


def test_a_model_that_answers_alike_everywhere_shows_no_seams():
    found = tiled(Constant(), tile=96, overlap=32)
    expected = torch.tensor([0.3, 1.0, -0.7]).softmax(0)[:, None, None].expand(3, 130, 301)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("tile", "overlap"), [(192, 96), (256, 96), (320, 128), (512, 128)])
def test_tiles_equal_the_whole_image_where_the_field_fits(tile, overlap):
    """The network reaches 22 pixels, less than a quarter of the overlap: then no tile size makes a difference."""
    model, whole = Strided(), probabilities(Strided(), picture(400, 704), spec=SPEC)
    found = tiled(model, picture(400, 704), tile=tile, overlap=overlap)
    assert len(model.sizes) == len(_starts(400, tile, overlap)) * len(_starts(704, tile, overlap)) > 1
    torch.testing.assert_close(found, whole, rtol=0, atol=2e-6)
    assert whole.std() > 0.02, "it answers differently here and there"
    labels = predict_tiled(model, picture(400, 704), tile=tile, overlap=overlap, spec=SPEC)
    assert labels.dtype == torch.uint8 and labels.equal(found.argmax(0).to(torch.uint8))


def test_a_smaller_overlap_than_the_field_needs_is_seen():
    """So the test above would notice a tile that is used up to its rim."""
    whole = probabilities(Strided(), IMAGE, spec=SPEC)
    assert (tiled(Strided(), tile=64, overlap=32) - whole).abs().max() > 1e-3


def test_tiles_have_one_size_but_the_last_of_a_row():
    model = Strided()
    predict_tiled(model, IMAGE, tile=128, overlap=32, spec=SPEC)
    assert model.sizes == [(128, 128), (128, 128), (128, 109), (34, 128), (34, 128), (34, 109)]


def test_a_model_with_one_logit_is_tiled_too():
    class Logit(Threshold):
        def forward(self, images):
            return super().forward(images)[:, 1:]

    labels = predict_tiled(Logit(), IMAGE, tile=64, overlap=32, spec=SPEC)
    assert labels.equal(predict(Logit(), IMAGE, spec=SPEC).to(torch.uint8)) and labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tile": 500}, "multiples of 32"),
        ({"tile": 32, "overlap": 32}, "at least 64"),
        ({"tile": 128, "overlap": 96}, "at most half a tile"),
        ({"tile": 128, "overlap": 0}, "at least 32"),
        ({"scales": ()}, "give factors"),
        ({"scales": (1.0, 0.0)}, "give factors"),
    ],
    ids=str,
)
def test_views_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        predict_tiled(Threshold(), IMAGE, spec=SPEC, **settings)


# ------------------------------------------------------------------------------------------------------- several views
def test_views_are_averaged_by_their_probabilities():
    model, whole = Strided(), []
    for scale, mirrored in itertools.product((0.5, 1.0), (False, True)):
        image = IMAGE.flip(2) if mirrored else IMAGE
        size = (round(130 * scale), round(301 * scale))
        found = probabilities(Strided(), image, size=size, spec=SPEC)
        whole.append(found.flip(2) if mirrored else found)
    found = probabilities(model, IMAGE, spec=SPEC, scales=(0.5, 1.0), flip=True)
    torch.testing.assert_close(found, torch.stack(whole).mean(0), rtol=0, atol=1e-6)
    assert model.sizes == [(65, 150), (65, 150), (130, 301), (130, 301)]
    assert predict(model, IMAGE, spec=SPEC, scales=(0.5, 1.0), flip=True).equal(found.argmax(0))
    assert not found.equal(probabilities(Strided(), IMAGE, spec=SPEC)), "one view would have said something else"


def test_a_mirrored_image_gets_mirrored_answers():
    """With both views averaged, left and right are the same to any model."""
    model = Strided()
    here = probabilities(model, IMAGE, spec=SPEC, flip=True)
    there = probabilities(model, IMAGE.flip(2), spec=SPEC, flip=True)
    torch.testing.assert_close(there.flip(2), here, rtol=0, atol=1e-6)
    assert (probabilities(model, IMAGE.flip(2), spec=SPEC).flip(2) - here).abs().max() > 1e-3


def test_one_view_is_the_plain_answer():
    model = Strided()
    assert predict(model, IMAGE, spec=SPEC, scales=(1.0,), flip=False).equal(predict(model, IMAGE, spec=SPEC))
    views = tiled(copy.deepcopy(model), tile=512, overlap=128, scales=(0.5, 1.0), flip=True)
    torch.testing.assert_close(
        views, probabilities(model, IMAGE, spec=SPEC, scales=(0.5, 1.0), flip=True), rtol=0, atol=1e-6
    )


# -------------------------------------------------------------------------------------------------------- small images
@pytest.mark.parametrize("size", [(1, 1), (2, 40), (31, 5), (8, 8), (33, 40)])
def test_images_smaller_than_a_stride_are_filled_up_by_their_reflection(size):
    image = torch.rand(1, 2, *size)
    filled = reflected(image)
    assert filled.shape[2:] == tuple(max(side, 32) for side in size)
    expected = np.pad(
        image.numpy(), [(0, 0), (0, 0), *((0, max(0, 32 - side)) for side in size)], mode="reflect"
    )  # fmt: skip
    assert np.array_equal(filled.numpy(), expected)


def test_small_images_get_labels_of_their_size():
    model, image = Threshold(), picture(9, 12)
    labels = predict(model, image, spec=SPEC)
    assert labels.shape == (9, 12) and model.sizes == [(1, 3, 32, 32)]
    assert labels.equal((image.mean(0) > 0.5).long()), "each pixel by itself, so the filling changes nothing"
