"""Rotation and elastic deformation: image and mask move together, by the angles and distances that were asked for."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from segtutor.data.batch_transforms import RandomView
from segtutor.data.spec import DatasetSpec
from segtutor.data.transforms import denormalize, train_transform
from segtutor.data.warp import NODES, RandomWarp, pixel_places, sample, warped

VOID = 255
SPEC = DatasetSpec(
    name="toy",
    title="Toy",
    classes=("a", "b"),
    palette=((0, 0, 0), (255, 0, 0)),
    ignore_index=VOID,
    mean=(0.3, 0.5),
    std=(0.2, 0.25),
    in_channels=2,
)


def told(height, width, seed):
    """An image that shows each pixel's label in one channel and in the other 1 where a label next to it differs."""
    random = torch.Generator().manual_seed(seed)
    cells = torch.tensor([0, 7, 200, VOID])[torch.randint(4, (1, 1, 4, 5), generator=random)]
    mask = F.interpolate(cells.float(), size=(height, width), mode="nearest-exact")
    near = [pool(F.pad(mask, (1, 1, 1, 1), mode="replicate")) for pool in (highest, lowest)]
    return torch.cat([mask / 255, (near[0] != near[1]).float()], dim=1)[0], mask[0, 0].long()


def highest(x):
    return F.max_pool2d(x, 3, stride=1)


def lowest(x):
    return -F.max_pool2d(-x, 3, stride=1)


def check_labels(image, mask, before):
    """Where no border and no edge has a part in a pixel of the image, it shows the label that the mask has."""
    shown, border = denormalize(image, SPEC)
    inside = border < 1e-5  # beyond the image it is the mean, 0.5
    assert torch.equal((shown[inside] * 255).round().long(), mask[inside])
    assert set(mask.unique().tolist()) <= {*before.unique().tolist(), VOID} and mask.dtype == torch.int64
    return inside.float().mean()


sides = st.integers(24, 60)
warps = {"rotation": st.sampled_from([0, 10, 45, 180]), "elastic": st.sampled_from([0.0, 0.5, 2.0, 6.0])}
mirrors = {"flip": st.booleans(), "flip_vertically": st.booleans()}


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 10**6), cut=st.booleans(), **warps, **mirrors)
def test_an_image_stays_with_its_mask(height, width, seed, cut, **options):
    image, mask = told(height, width, seed)
    torch.manual_seed(seed)
    transform = train_transform(SPEC, (32, 40) if cut else None, scale=None, **options)
    view, labels = transform(image, mask)
    assert labels.shape == ((32, 40) if cut else mask.shape)
    check_labels(view, labels, mask)


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 10**6), rotation=warps["rotation"], **mirrors)
def test_an_image_stays_with_its_mask_when_it_is_scaled_too(height, width, seed, **options):
    image, mask = told(height, width, seed)
    torch.manual_seed(seed)
    view, labels = train_transform(SPEC, (32, 40), scale=(0.5, 2.0), **options)(image, mask)
    check_labels(view, labels, mask)


@settings(max_examples=60, deadline=None)
@given(
    height=sides,
    width=sides,
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([None, (0.5, 0.9), (0.75, 1.5), (2.0, 3.0)]),
    **warps,
    **mirrors,
)
def test_images_of_a_batch_stay_with_their_masks(height, width, seed, **options):
    images, masks = map(torch.stack, zip(*(told(height, width, seed + i) for i in range(3)), strict=True))
    torch.manual_seed(seed)
    for view, labels in zip(*RandomView(SPEC, (32, 40), **options)(images, masks), strict=True):
        check_labels(view, labels, masks)


@pytest.mark.parametrize("options", [{"rotation": 30}, {"elastic": 3}, {"rotation": 30, "elastic": 3}])
def test_much_of_an_image_is_told_apart_and_moved(options):
    """The comparison above would hold as well where there is nothing to compare, or nothing moves."""
    image, mask = told(60, 60, 1)
    torch.manual_seed(1)
    view, labels = train_transform(SPEC, None, flip=False, scale=None, **options)(image, mask)
    assert check_labels(view, labels, mask) > 0.4
    assert (labels != mask).float().mean() > 0.05


@pytest.mark.parametrize("options", [{"rotation": 45}, {"elastic": 8}])
def test_beyond_the_image_lie_mean_and_void(options):
    image, mask = torch.ones(2, 40, 40), torch.zeros(40, 40, dtype=torch.int64)
    torch.manual_seed(1)
    one = train_transform(SPEC, None, flip=False, scale=None, **options)(image, mask)
    many = RandomView(SPEC, (40, 40), scale=None, flip=False, **options)(image[None], mask[None])
    for view, labels in (one, (many[0][0], many[1][0])):
        beyond = labels == VOID
        assert 0.01 < beyond.float().mean() < 0.5
        far = highest(F.pad((~beyond).float()[None, None], (1, 1, 1, 1)))[0, 0] == 0
        assert far.any() and view[:, far].abs().max() < 1e-5  # normalised, the mean is 0


def test_void_stays_void():
    image, mask = torch.rand(2, 40, 40), torch.full((40, 40), VOID)
    _, labels = train_transform(SPEC, (24, 24), rotation=90, elastic=4)(image, mask)
    _, batch = RandomView(SPEC, (24, 24), rotation=90, elastic=4)(image[None], mask[None])
    assert (labels == VOID).all() and (batch == VOID).all()


def test_without_angle_and_distance_nothing_is_changed_or_drawn():
    places, image, mask = torch.rand(2, 5, 6, 2), torch.rand(2, 8, 9), torch.zeros(8, 9, dtype=torch.int64)
    state = torch.get_rng_state()
    assert torch.equal(warped(places, (10, 12)), places)
    same, labels = RandomWarp(SPEC)(image, mask)
    assert torch.equal(same, image) and torch.equal(labels, mask)
    assert torch.equal(torch.get_rng_state(), state)
    steps = [type(step).__name__ for step in train_transform(SPEC, None, scale=None, flip=False).steps]
    assert steps == ["Normalize"]


@pytest.mark.parametrize("seed", range(4))
def test_rotation_is_that_of_torchvision(seed):
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    images, masks = torch.rand(1, 3, 40, 60), torch.randint(0, 200, (1, 40, 60))
    torch.manual_seed(seed)
    places = warped(pixel_places(40, 60), (40, 60), rotation=70)
    view, labels = sample(images, masks, places, VOID)
    torch.manual_seed(seed)
    degrees = math.degrees(torch.empty(1).uniform_(-math.radians(70), math.radians(70)))
    assert_close(view, tv.rotate(images, degrees, InterpolationMode.BILINEAR), rtol=0, atol=2e-4)
    picked = tv.rotate(masks[:, None].float(), degrees, InterpolationMode.NEAREST, fill=VOID)[:, 0]
    assert (picked == labels).float().mean() > 0.999  # but where a place is as near to two pixels


def test_deformation_is_bicubic_between_the_vectors_of_a_coarse_grid():
    height, width = 45, 60
    torch.manual_seed(3)
    moved = warped(pixel_places(height, width), (height, width), elastic=4)
    torch.manual_seed(3)
    vectors = 4 * torch.randn(1, 2, NODES, NODES)
    smooth = F.interpolate(vectors, size=(height, width), mode="bicubic", align_corners=False)
    pixels = (moved - pixel_places(height, width)) * torch.tensor((width / 2, height / 2))
    assert_close(pixels.permute(0, 3, 1, 2), smooth, rtol=0, atol=1e-3)


def test_deformation_is_that_of_torchvision_for_the_same_displacements():
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    image, mask = torch.rand(3, 48, 64), torch.randint(0, 200, (48, 64))
    places = warped(pixel_places(48, 64), (48, 64), elastic=3)
    view, labels = sample(image[None], mask[None], places, VOID)
    displacement = places - pixel_places(48, 64)
    assert_close(view[0], tv.elastic_image(image, displacement, InterpolationMode.BILINEAR), rtol=0, atol=1e-4)
    assert (tv.elastic_mask(mask, displacement, fill=VOID) == labels[0]).float().mean() > 0.999


def test_displacements_are_in_pixels_of_the_image():
    """At the nodes, which are the pixels of an image of 3 x 3, they have the deviation asked for along both axes."""
    nodes = pixel_places(NODES, NODES).expand(2000, NODES, NODES, 2)
    torch.manual_seed(0)
    moved = (warped(nodes, (40, 90), elastic=10) - nodes) * torch.tensor((45, 20))
    assert_close(moved.std(dim=(0, 1, 2)), torch.full((2,), 10.0), rtol=0.02, atol=0)
    assert moved.mean(dim=(0, 1, 2)).abs().max() < 0.3
    x, y = moved.flatten(0, 2).T
    assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.03


@pytest.mark.parametrize(("part", "least", "most"), [(50, 0, 0), (10, 0.2, 0.8)])
def test_images_fold_where_displacements_are_large(part, least, most):
    """The page on one's own data says which displacements are too large."""
    places = pixel_places(40, 40).expand(100, 40, 40, 2)
    torch.manual_seed(0)
    moved = warped(places, (40, 40), elastic=40 / part)
    along, down = moved[:, :-1, 1:] - moved[:, :-1, :-1], moved[:, 1:, :-1] - moved[:, :-1, :-1]
    area = along[..., 0] * down[..., 1] - along[..., 1] * down[..., 0]  # negative where the image is turned over
    assert least <= (area < 0).flatten(1).any(1).float().mean() <= most


def test_angles_are_spread_to_either_side():
    torch.manual_seed(0)
    right = torch.tensor([1.0, 0.0]).expand(2000, 1, 1, 2)  # the middle of the right edge
    turned = warped(right, (80, 80), rotation=30)[:, 0, 0]
    degrees = torch.rad2deg(torch.atan2(turned[:, 1], turned[:, 0]))
    assert -30 <= degrees.min() < -28 and 28 < degrees.max() <= 30 and degrees.mean().abs() < 1
    assert_close(turned.norm(dim=1), torch.ones(2000))


def test_each_image_of_a_batch_is_warped_by_its_own_numbers():
    images, masks = torch.rand(1, 2, 32, 32).expand(4, 2, 32, 32), torch.zeros(4, 32, 32, dtype=torch.int64)
    for options in ({"rotation": 20}, {"elastic": 3}):
        view, _ = RandomView(SPEC, (32, 32), scale=None, flip=False, **options)(images, masks)
        assert len(view.flatten(1).unique(dim=0)) == 4


def test_one_seed_one_result():
    image, mask = told(40, 40, 0)
    options = {"rotation": 20, "elastic": 3, "flip_vertically": True}
    one, many = train_transform(SPEC, (32, 32), **options), RandomView(SPEC, (32, 32), **options)

    def run(seed):
        torch.manual_seed(seed)
        return torch.cat([one(image, mask)[0], many(image[None], mask[None])[0][0]])

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_images_are_mirrored_upside_down():
    image, mask = told(20, 30, 0)
    upside_down = 0
    for seed in range(20):
        torch.manual_seed(seed)
        view, labels = train_transform(SPEC, None, flip=False, scale=None, flip_vertically=True)(image, mask)
        flipped = torch.equal(labels, mask.flip(0))
        assert flipped or torch.equal(labels, mask)
        assert_close(denormalize(view, SPEC), image.flip(1) if flipped else image, rtol=0, atol=1e-6)
        upside_down += flipped
    assert 3 < upside_down < 17


@pytest.mark.parametrize(
    ("options", "word"), [({"rotation": -1}, "degrees"), ({"rotation": 200}, "degrees"), ({"elastic": -3}, "pixels")]
)
def test_impossible_settings_are_refused(options, word):
    for make in (train_transform, RandomView):
        with pytest.raises(ValueError, match=word):
            make(SPEC, (8, 8), **options)


@pytest.mark.gpu
def test_the_same_warp_on_a_gpu():
    image, mask = told(40, 60, 0)
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        view = RandomView(SPEC, (32, 32), rotation=20, elastic=3)
        results.append([t.cpu() for t in view(image[None].to(device), mask[None].to(device))])
    assert_close(results[0][0], results[1][0], rtol=1e-3, atol=2e-3)
    assert (results[0][1] == results[1][1]).float().mean() > 0.99
