"""Joint transforms: labels stay labels, image and mask stay together, sizes are exact, one seed gives one result."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from segtutor.data.pairs import resize_image, resize_mask
from segtutor.data.spec import DatasetSpec
from segtutor.data.transforms import (
    JointTransform,
    RandomScale,
    denormalize,
    eval_transform,
    normalize,
    train_transform,
)

COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0))


def make_spec(channels=1, ignore_index=255):
    return DatasetSpec(
        name="toy",
        title="Toy",
        classes=("a", "b", "c"),
        palette=COLORS,
        ignore_index=ignore_index,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
        in_channels=channels,
    )


def blobs(height, width, seed, labels=(0, 7, 200)):
    """A mask of random rectangles, and an image that shows each label as its own grey."""
    rng = np.random.default_rng(seed)
    mask = np.full((height, width), labels[0])
    for label in labels[1:]:
        top, left = rng.integers(0, height), rng.integers(0, width)
        mask[top : top + 1 + rng.integers(height), left : left + 1 + rng.integers(width)] = label
    mask = torch.from_numpy(mask).long()
    return (mask.float() / 255)[None], mask


sides = st.integers(1, 70)


@settings(max_examples=80, deadline=None)
@given(
    height=sides,
    width=sides,
    crop=st.tuples(sides, sides),
    seed=st.integers(0, 10**6),
    flip=st.booleans(),
    scale=st.sampled_from([None, (0.3, 0.9), (0.75, 1.5), (1.0, 3.0)]),
    ignore=st.sampled_from([255, -1, 100]),
)
def test_no_label_appears_that_was_not_there(height, width, crop, seed, flip, scale, ignore):
    image, mask = blobs(height, width, seed)
    torch.manual_seed(seed)
    out_image, out_mask = train_transform(make_spec(ignore_index=ignore), crop, flip=flip, scale=scale)(image, mask)
    assert out_image.shape == (1, *crop) and out_mask.shape == crop and out_mask.dtype == torch.int64
    before, after = set(mask.unique().tolist()), set(out_mask.unique().tolist())
    assert after <= before | {ignore}
    if scale is None and crop[0] <= height and crop[1] <= width:
        assert after <= before  # nothing was padded


@settings(max_examples=80, deadline=None)
@given(height=sides, width=sides, crop=st.tuples(sides, sides), seed=st.integers(0, 10**6), flip=st.booleans())
def test_unscaled_pixels_keep_their_label_exactly(height, width, crop, seed, flip):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.integers(0, 200, (height, width)))
    torch.manual_seed(seed)
    spec = make_spec()
    image, out = train_transform(spec, crop, flip=flip, scale=None)((mask.float() / 255)[None], mask)
    shown = torch.round(denormalize(image, spec)[0] * 255).long()
    inside = out != 255
    assert torch.equal(shown[inside], out[inside])
    assert torch.allclose(image[0][~inside], torch.zeros(()), atol=1e-6)  # padding is the set's mean
    assert inside.sum() == min(height, crop[0]) * min(width, crop[1])  # nothing is cut away that fits


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 2.0, 3.0])
def test_scaled_image_and_mask_stay_aligned(factor):
    """A straight edge must lie at the same column in both; half a pixel of shift would show at factor 3."""
    mask = torch.zeros(60, 90, dtype=torch.int64)
    mask[:, 30:] = 1
    image, scaled = RandomScale((factor, factor))(mask.float()[None], mask)
    edge_mask = (scaled == 0).sum(1).float()
    edge_image = (1 - image.as_subclass(torch.Tensor)[0]).sum(1)
    assert torch.allclose(edge_mask, edge_image, atol=0.51)
    assert image.shape[-2:] == scaled.shape == (round(60 * factor), round(90 * factor))


@settings(max_examples=60, deadline=None)
@given(source=st.tuples(sides, sides), target=st.tuples(sides, sides), seed=st.integers(0, 10**6))
def test_mask_resize_equals_torch_nearest_exact_and_pillow(source, target, seed):
    mask = torch.from_numpy(np.random.default_rng(seed).integers(0, 250, source))
    ours = resize_mask(mask, target)
    exact = torch.nn.functional.interpolate(mask[None, None].double(), size=target, mode="nearest-exact")[0, 0]
    pillow = Image.fromarray(mask.numpy().astype(np.uint8)).resize(target[::-1], Image.NEAREST)
    # torch and Pillow compute the source pixel in floating point and may fall on the other side of an exact tie.
    row = ((np.arange(target[0]) * 2 + 1) * source[0]) % (2 * target[0]) != 0
    column = ((np.arange(target[1]) * 2 + 1) * source[1]) % (2 * target[1]) != 0
    no_tie = torch.from_numpy(row[:, None] & column[None])
    assert torch.equal(ours[no_tie], exact.long()[no_tie])
    assert torch.equal(ours[no_tie], torch.from_numpy(np.array(pillow)).long()[no_tie])


def test_image_resize_agrees_with_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83), dtype=np.uint8)
    for size in ((30, 41), (90, 200), (61, 20)):
        ours = resize_image(torch.from_numpy(pixels)[None].float() / 255, size)[0]
        pillow = Image.fromarray(pixels.astype(np.float32)).resize(size[::-1], Image.BILINEAR)
        assert np.abs(ours.numpy() * 255 - np.array(pillow)).max() < 1e-2


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_and_its_inverse(channels):
    spec = make_spec(channels)
    image, mask = torch.rand(channels, 9, 14), torch.zeros(9, 14, dtype=torch.int64)
    normal, same = eval_transform(spec)(image, mask)
    for c in range(channels):
        assert torch.allclose(normal[c], (image[c] - spec.mean[c]) / spec.std[c], atol=1e-6)
    assert torch.equal(same, mask)
    assert torch.allclose(normalize(image, spec), normal, atol=1e-6)
    assert torch.allclose(denormalize(normal, spec), image, atol=1e-6)
    batch = torch.rand(2, channels, 5, 6)
    assert torch.allclose(denormalize(normalize(batch, spec), spec), batch, atol=1e-6)
    with pytest.raises(ValueError, match="channels"):
        denormalize(torch.rand(channels + 1, 5, 6), spec)


def test_plain_tensors_are_mirrored_together():
    """torchvision takes the first plain tensor for the image and passes the second through; ours must not."""
    image = torch.arange(6.0).reshape(1, 1, 6) / 10
    mask = torch.arange(6).reshape(1, 6)
    mirrored = 0
    for seed in range(20):
        torch.manual_seed(seed)
        out, labels = train_transform(make_spec(), None, scale=None)(image, mask)
        assert type(out) is torch.Tensor and type(labels) is torch.Tensor
        assert torch.equal(torch.round(denormalize(out, make_spec())[0] * 10).long(), labels)
        mirrored += labels[0, 0] == 5
    assert 3 < mirrored < 17


def test_seed_decides():
    image, mask = blobs(50, 60, 3)
    image = image.repeat(3, 1, 1)
    transform = train_transform(make_spec(3), (32, 40), color=0.4)

    def run(seed):
        torch.manual_seed(seed)
        return transform(image, mask)

    assert all(torch.equal(a, b) for a, b in zip(run(1), run(1), strict=True))
    assert not torch.equal(run(1)[0], run(2)[0])


def test_color_changes_the_image_only():
    image, mask = torch.rand(3, 20, 20), torch.randint(0, 3, (20, 20))
    torch.manual_seed(0)
    out, labels = train_transform(make_spec(3), None, flip=False, scale=None, color=0.5)(image, mask)
    assert torch.equal(labels, mask)
    assert not torch.allclose(denormalize(out, make_spec(3)), image, atol=0.02)
    grey, _ = train_transform(make_spec(1), (20, 20), scale=None, color=0.5)(image[:1], mask)
    assert grey.shape == (1, 20, 20)


class Toy(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(*blobs(40, 30, index))


def test_workers_and_pickle():
    transform = train_transform(make_spec(), (16, 24), color=0.2)
    assert isinstance(pickle.loads(pickle.dumps(transform)), JointTransform)

    def batches():
        generator = torch.Generator().manual_seed(5)
        return list(DataLoader(Toy(transform), 4, num_workers=2, generator=generator))

    first, second = batches(), batches()
    assert first[0][0].shape == (4, 1, 16, 24) and first[0][1].shape == (4, 16, 24)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: train_transform(make_spec(), (0, 5)), "size"),
        (lambda: train_transform(make_spec(), (5, 5), scale=(0, 1)), "scale"),
        (lambda: train_transform(make_spec(), (5, 5), scale=(2, 1)), "scale"),
        (lambda: train_transform(make_spec(), (5, 5), color=3), "color"),
        (lambda: train_transform(make_spec(2), (5, 5), color=0.1), "channels"),
        (lambda: eval_transform(make_spec())(torch.rand(1, 4, 5), torch.zeros(5, 4).long()), "same H and W"),
        (lambda: eval_transform(make_spec())(torch.zeros(1, 4, 5).byte(), torch.zeros(4, 5).long()), "floats"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
