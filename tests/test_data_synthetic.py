"""The synthetic sets: deterministic, exact to the pixel, and every knob does what it says."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from segtutor.data import CellKnobs, SceneKnobs, SyntheticCells, SyntheticScenes
from segtutor.data.synthetic import cells, scenes
from segtutor.data.synthetic.common import Rng, cue_radius, place_cue, void_borders

SETS = [SyntheticScenes, SyntheticCells]
sets = pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.__name__)
BICYCLIST, POLE = scenes.BICYCLIST, scenes.POLE


def labels(kind, count, **options):
    dataset = kind(length=count, **options)
    return [dataset.draw(index)[1] for index in range(count)]


# ---------------------------------------------------------------- the dataset


@sets
def test_sample_has_the_declared_form(kind):
    dataset = kind(size=(48, 80), length=3, void=1)
    image, mask = dataset[1]
    assert image.shape == (dataset.spec.in_channels, 48, 80) and image.dtype == torch.float32
    assert mask.shape == (48, 80) and mask.dtype == torch.int64
    assert 0 <= image.min() and image.max() <= 1
    assert set(mask.unique().tolist()) <= {*range(dataset.spec.num_classes), 255}
    assert len(dataset) == 3 and len(list(dataset)) == 3


@sets
def test_an_image_depends_on_seed_and_index_only(kind):
    one, other = kind(length=20, seed=4), kind(length=9, seed=4)
    forward = [one[index] for index in range(6)]
    for index in reversed(range(6)):
        image, mask = other[index]
        assert torch.equal(image, forward[index][0]) and torch.equal(mask, forward[index][1])
    assert torch.equal(one[-20][0], one[0][0])


@sets
def test_drawing_leaves_the_global_generators_alone(kind):
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.RandomState(3).rand()
    state = torch.get_rng_state()
    kind()[0]
    assert np.random.rand() == expected and torch.equal(torch.get_rng_state(), state)


@sets
def test_images_and_seeds_differ(kind):
    drawn = [kind(seed=seed)[index][0] for seed in (0, 1) for index in (0, 1, 2)]
    for a, b in itertools.combinations(drawn, 2):
        assert (a - b).abs().mean() > 0.02


@sets
@pytest.mark.parametrize("size", [(32, 32), (33, 71), (97, 45), (131, 127), (270, 301)])
def test_any_size_is_drawn(kind, size):
    for index in range(2):
        image, label = kind(size=size).draw(index)
        assert image.shape[1:] == label.shape == size
        assert np.isfinite(image).all() and label.max() < kind.spec.num_classes
        assert len(np.unique(label)) >= 3


@sets
def test_every_class_occurs(kind):
    seen = set().union(*(np.unique(label).tolist() for label in labels(kind, 30, seed=2)))
    assert seen == set(range(kind.spec.num_classes))


@sets
def test_transform_gets_image_and_mask_as_tv_tensors(kind):
    from torchvision import tv_tensors

    def flip(image, mask):
        assert isinstance(image, tv_tensors.Image) and isinstance(mask, tv_tensors.Mask)
        return image.flip(-1), mask.flip(-1)

    plain, flipped = kind(seed=1)[2], kind(seed=1, transform=flip)[2]
    assert torch.equal(plain[0].flip(-1), flipped[0]) and torch.equal(plain[1].flip(-1), flipped[1])


@sets
def test_statistics_in_the_spec_are_those_of_the_images(kind):
    images = np.stack([kind(seed=11).draw(index)[0] for index in range(60)])
    np.testing.assert_allclose(images.mean((0, 2, 3)), kind.spec.mean, atol=0.03)
    np.testing.assert_allclose(images.std((0, 2, 3)), kind.spec.std, atol=0.03)


# ---------------------------------------------------------------- refusals


@sets
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (31, 64)}, "at least 32"),
        ({"length": 0}, "length >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"thickness": 0}, "thickness=0"),
        ({"thickness": 2.5}, "whole number"),
        ({"scale": 17}, "scale=17"),
        ({"texture": -0.1}, "texture=-0.1"),
        ({"texture": "much"}, "texture='much'"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"rare": 0.2}, "rare=0.2"),
        ({"void": 9}, "void=9"),
        ({"context": 3}, "context=3"),
        ({"context": 120}, "does not fit"),
        ({"wind": 3}, "no knob 'wind'"),
        ({"knobs": "stormy"}, "no preset 'stormy'"),
        ({"knobs": 5}, "knobs must be"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_in_words(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**options)


@sets
def test_an_index_outside_the_set_is_refused(kind):
    for index in (5, -6):
        with pytest.raises(IndexError, match="5 images"):
            kind(length=5)[index]


@sets
def test_knobs_can_be_given_as_object_preset_or_settings(kind):
    whole = kind.KNOBS(thickness=5, noise=0.1)
    assert kind(knobs=whole).knobs == whole
    assert kind(knobs="thin", noise=0.1).knobs == kind.KNOBS(thickness=1, noise=0.1)
    for preset, settings in kind.PRESETS.items():
        assert kind(knobs=preset).knobs == kind.KNOBS(**settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().knobs.noise = 0.5


@pytest.mark.parametrize("kind", [SceneKnobs, CellKnobs])
def test_every_knob_is_documented(kind):
    for field in dataclasses.fields(kind):
        assert f"        {field.name}: " in kind.__doc__


# ---------------------------------------------------------------- exactness


@sets
@pytest.mark.parametrize("options", [{}, {"scale": 16.0, "rare": 0.05}, {"thickness": 7}], ids=str)
def test_labels_are_exact_to_the_pixel(kind, options):
    """Image and label are written by separate statements: without texture, the image must name the label everywhere."""
    flat = {SyntheticScenes: scenes.FLAT, SyntheticCells: cells.FLAT}[kind]
    dataset = kind(size=(97, 130), texture=0.0, noise=0.0, **options)
    for index in range(8):
        image, label = dataset.draw(index)
        np.testing.assert_allclose(image, flat[label].transpose(2, 0, 1), atol=1e-6)


@sets
def test_flat_colours_can_be_told_apart(kind):
    flat = {SyntheticScenes: scenes.FLAT, SyntheticCells: cells.FLAT}[kind]
    for a, b in itertools.combinations(flat, 2):
        assert np.abs(a - b).max() > 0.05


@sets
def test_texture_and_noise_do_not_move_labels(kind):
    plain = labels(kind, 3, seed=8)
    for options in ({"texture": 0.0}, {"noise": 0.4}, {"texture": 0.5, "noise": 0.0}):
        for a, b in zip(plain, labels(kind, 3, seed=8, **options), strict=True):
            np.testing.assert_array_equal(a, b)


def test_tissue_is_the_voronoi_diagram_of_its_discs():
    """Against brute force over all discs: the blocks leave no nearer disc out (distances are kept to 1/256 pixel)."""
    for scale, index in itertools.product((1.0, 4.0, 16.0), range(3)):
        tissue = cells._Tissue((90, 131), CellKnobs(scale=scale), Rng(2, index))
        tissue.place_discs()
        tissue.measure()
        far = np.hypot(tissue.columns[..., None] - tissue.x, tissue.rows[..., None] - tissue.y) - tissue.r
        chosen = np.take_along_axis(far, tissue.cell[..., None].astype(np.intp), 2)[..., 0]
        assert (chosen - far.min(2)).max() < 0.01
        assert (tissue.cell == far.argmin(2)).mean() > 0.999


# ---------------------------------------------------------------- thickness


def widest_square(mask):
    """Side of the largest square of pixels that fits into a mask."""
    side = 0
    while ndimage.binary_erosion(mask, np.ones((side + 1, side + 1))).any():
        side += 1
    return side


@pytest.mark.parametrize("thickness", [1, 2, 3, 5, 8])
def test_poles_are_as_wide_as_the_knob_says(thickness):
    widths = []
    dataset = SyntheticScenes(size=(128, 160), thickness=thickness, objects=0, rare=0.0)
    for index in range(25):
        label = dataset.draw(index)[1]
        components, count = ndimage.label(label == POLE)
        pieces = [components == number for number in range(1, count + 1)]
        widths += [widest_square(piece) for piece in pieces if piece.sum() >= 5 * thickness]
    widths = np.array(widths)
    # Narrower ones are half hidden; wider ones are posts that touch.
    assert np.mean(widths == thickness) > 0.5
    assert np.median(widths) == thickness


@pytest.mark.parametrize("thickness", [2, 4, 7, 11])
def test_membranes_are_as_thick_as_the_knob_says(thickness):
    """Area over length: the membrane's pixels against the length of the cell borders that it covers."""
    area = length = 0.0
    for index in range(6):
        tissue = cells._Tissue((256, 256), CellKnobs(thickness=thickness, scale=1.0), Rng(7, index))
        tissue.place_discs()
        tissue.measure()
        cell = tissue.cell
        area += (tissue.distance <= thickness / 2).sum()
        # Length of a border from its pixel steps: mean over directions of |cos| + |sin| is 4 / pi.
        steps = (cell[1:] != cell[:-1]).sum() + (cell[:, 1:] != cell[:, :-1]).sum()
        length += steps * np.pi / 4
    assert area / length == pytest.approx(thickness, rel=0.15)


@pytest.mark.parametrize(("thin", "thick"), [(1, 3), (3, 6), (6, 12)])
def test_thicker_membranes_survive_more_erosion(thin, thick):
    def depth(thickness):
        drawn = labels(SyntheticCells, 5, thickness=thickness, rare=0.0, seed=3)
        return np.mean([ndimage.distance_transform_edt(label == cells.MEMBRANE).max() for label in drawn])

    assert depth(thick) > depth(thin) * 1.3


# ---------------------------------------------------------------- scale


@pytest.mark.parametrize("scale", [1, 4, 16])
def test_scale_sets_the_range_of_sizes_of_things(scale):
    """Things painted one by one on an empty canvas, so that none hides another, and measured in rows."""
    kinds = {"paint_car": scenes.CAR, "paint_pedestrian": scenes.PEDESTRIAN, "paint_bicyclist": BICYCLIST}
    tall = {name: [] for name in kinds}
    for index in range(40):
        scene = scenes._Scene((256, 256), SceneKnobs(scale=scale, objects=6, rare=0.02), Rng(5, index))
        scene.horizon, scene.ground, scene.per_metre = 100.0, 156.0, 156.0 / scenes.CAMERA_HEIGHT
        for _, draws, painter, arguments in scene.furniture():
            scene.draws = draws
            if painter.__name__ not in kinds:
                continue
            scene.canvas.label[:], scene.canvas.image[:] = scenes.SKY, 0
            painter(*arguments)
            rows = np.nonzero((scene.canvas.label == kinds[painter.__name__]).any(1))[0]
            if len(rows):
                tall[painter.__name__].append(rows[-1] - rows[0] + 1)
    for heights in tall.values():
        low, high = np.quantile(heights, (0.02, 0.98))
        assert 0.6 * scale < high / low < 1.4 * scale + 0.4  # a van is higher than a car


def test_scale_sets_the_range_of_sizes_of_cells():
    ratio = {}
    for scale in (1, 4, 16):
        radii = []
        for index in range(12):
            tissue = cells._Tissue((256, 256), CellKnobs(scale=scale), Rng(1, index))
            tissue.place_discs()
            tissue.measure()
            areas = np.bincount(tissue.cell.ravel(), minlength=len(tissue.x))
            inside = np.ones(len(areas), bool)  # whole cells only
            for edge in (tissue.cell[0], tissue.cell[-1], tissue.cell[:, 0], tissue.cell[:, -1]):
                inside[edge] = False
            radii += np.sqrt(areas[inside & (areas > 0)] / np.pi).tolist()
        ratio[scale] = np.divide(*np.quantile(radii, (0.98, 0.02)))
    assert ratio[1] < ratio[4] < ratio[16]
    assert ratio[1] < 2.5 and ratio[16] > 4.5


# ---------------------------------------------------------------- texture, noise, imbalance, objects, void


@sets
def test_noise_has_the_stated_deviation(kind):
    clean = kind(noise=0.0, texture=0.0, seed=2)
    for sigma in (0.02, 0.08):
        noisy = kind(noise=sigma, texture=0.0, seed=2)
        difference = np.concatenate([(noisy.draw(i)[0] - clean.draw(i)[0]).ravel() for i in range(4)])
        away = np.concatenate([clean.draw(i)[0].ravel() for i in range(4)])
        difference = difference[np.abs(away - 0.5) < 0.25]  # where [0, 1] cuts nothing off
        assert difference.std() == pytest.approx(sigma, rel=0.05)
        assert abs(difference.mean()) < 0.1 * sigma


@sets
def test_texture_sets_the_variation_within_classes(kind):
    def variation(texture):
        total = []
        for index in range(6):
            image, label = kind(texture=texture, noise=0.0, seed=4).draw(index)
            total += [image[:, label == value].std(1).mean() for value in np.unique(label)]
        return np.mean(total)

    plain, half, full = variation(0.0), variation(0.5), variation(1.0)
    assert plain < 1e-4 and full > 0.04
    assert half == pytest.approx(full / 2, rel=0.15)


@pytest.mark.parametrize(
    ("kind", "label", "share", "count"),
    [
        (SyntheticScenes, BICYCLIST, 0.005, 240),
        (SyntheticScenes, BICYCLIST, 0.02, 120),
        (SyntheticCells, cells.SYNAPSE, 0.002, 120),
        (SyntheticCells, cells.SYNAPSE, 0.03, 60),
    ],
)
def test_the_rare_class_covers_its_share(kind, label, share, count):
    covered = np.mean([(drawn == label).mean() for drawn in labels(kind, count, rare=share, seed=9)])
    assert covered == pytest.approx(share, rel=0.25)


@pytest.mark.parametrize(("kind", "label"), [(SyntheticScenes, BICYCLIST), (SyntheticCells, cells.SYNAPSE)])
def test_the_rare_class_can_be_left_out(kind, label):
    assert not any((drawn == label).any() for drawn in labels(kind, 12, rare=0.0))


def test_objects_sets_how_much_stands_on_the_street():
    things = (scenes.CAR, scenes.PEDESTRIAN)
    share = [np.isin(labels(SyntheticScenes, 25, objects=number), things).mean() for number in (0, 4, 20)]
    assert share[0] == 0 < share[1] < share[2]


@pytest.mark.parametrize(
    ("kind", "one", "other", "touched"),
    [
        (SyntheticScenes, {"thickness": 1}, {"thickness": 6}, (POLE, scenes.SIGN)),
        (SyntheticScenes, {"objects": 0}, {"objects": 9}, (scenes.CAR, scenes.PEDESTRIAN)),
        (SyntheticScenes, {"rare": 0.0}, {"rare": 0.03}, (BICYCLIST,)),
        (SyntheticScenes, {"scale": 1}, {"scale": 16}, (scenes.CAR, scenes.PEDESTRIAN, BICYCLIST)),
        (SyntheticCells, {"rare": 0.0}, {"rare": 0.03}, (cells.SYNAPSE,)),
        (SyntheticCells, {"thickness": 1}, {"thickness": 6}, (cells.MEMBRANE, cells.MITOCHONDRIA, cells.SYNAPSE)),
    ],
    ids=str,
)
def test_turning_one_knob_leaves_the_rest_where_it_was(kind, one, other, touched):
    changed = 0
    for a, b in zip(labels(kind, 8, seed=6, **one), labels(kind, 8, seed=6, **other), strict=True):
        differs = a != b
        assert (np.isin(a, touched) | np.isin(b, touched))[differs].all()
        changed += differs.sum()
    assert changed > 100
    images = [kind(seed=6, noise=0.0, **knobs).draw(3) for knobs in (one, other)]
    same = np.logical_and(*[~ndimage.binary_dilation(np.isin(label, touched), iterations=9) for _, label in images])
    assert (np.abs(images[0][0] - images[1][0])[:, same] < 0.1).mean() > 0.97  # shadows and haloes may move


def test_palettes_are_those_of_the_real_counterparts():
    from segtutor.data import camvid, drosophila_vnc

    for made, real in ((SyntheticScenes.spec, camvid.SPEC), (SyntheticCells.spec, drosophila_vnc.SPEC)):
        assert made.palette == real.palette and made.classes == real.classes


def test_void_marks_exactly_the_pixels_near_a_border():
    for kind, width in itertools.product(SETS, (1, 3)):
        plain = kind(seed=6).draw(0)[1]
        marked = kind(seed=6, void=width).draw(0)[1]
        near = np.zeros_like(plain, bool)
        reach = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), width)
        for value in np.unique(plain):
            near |= (plain == value) & ndimage.binary_dilation(plain != value, reach)
        np.testing.assert_array_equal(marked, np.where(near, 255, plain))
    assert void_borders(plain, 0) is plain


# ---------------------------------------------------------------- context


def disc_of(kind, index, distance, **options):
    """A sample, its counterpart, and which pixels belong to the disc."""
    dataset = kind(context=distance, seed=12, **options)
    (image, label), (other_image, other_label) = dataset.draw(index), dataset.draw(index, counterpart=True)
    return image, label, other_image, other_label, label != other_label


@sets
@pytest.mark.parametrize("distance", [4, 16, 40])
def test_nothing_within_the_context_distance_tells_the_classes_apart(kind, distance):
    """The counterpart has the other class and the very same pixels up to the distance that the knob states."""
    module = {SyntheticScenes: scenes, SyntheticCells: cells}[kind]
    for index in range(25):
        image, label, other_image, other_label, disc = disc_of(kind, index, distance)
        assert disc.sum() > 20
        assert {*np.unique(label[disc]), *np.unique(other_label[disc])} == set(module.CUE_CLASSES)
        assert len(np.unique(label[disc])) == 1
        differs = (image != other_image).any(0)
        assert differs.any() and not (differs & disc).any()
        gap = ndimage.distance_transform_edt(~disc)[differs].min()
        assert gap > distance  # a pixel `distance` away from the disc is still the same
        assert gap < distance + 4  # and the light is not much farther than stated


@sets
def test_context_classes_are_a_fair_coin_that_the_scene_does_not_know(kind):
    module = {SyntheticScenes: scenes, SyntheticCells: cells}[kind]
    plain = kind(seed=12, size=(64, 64), noise=0.0)
    first = 0
    for index in range(120):
        image, label, _, _, disc = disc_of(kind, index, 8, size=(64, 64), noise=0.0)
        first += label[disc][0] == module.CUE_CLASSES[0]
        if index < 10:  # but for disc and light, it is the scene that is drawn without them
            painted = (image != plain.draw(index)[0]).any(0)
            assert painted.sum() <= 2 * disc.sum()
    assert 38 < first < 82  # four standard deviations of a fair coin to either side


@sets
def test_a_local_classifier_is_at_chance_and_one_that_sees_the_light_is_not(kind):
    """Nearest neighbour on a window around the disc, against the same on what surrounds it further away."""
    module = {SyntheticScenes: scenes, SyntheticCells: cells}[kind]
    lights = {SyntheticScenes: scenes.CUE_COLOURS, SyntheticCells: cells.CUE_LIGHTS}[kind]
    dataset = kind(size=(64, 64), context=6, noise=0.0, seed=12)
    reach = cue_radius((64, 64)) + 6
    ring = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach
    near, far, truth = [], [], []
    for index in range(160):
        image, label = dataset.draw(index)
        row, column = place_cue_of(dataset, index)
        padded = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
        window = padded[:, row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        near.append(np.sort(window[:, ring], axis=1)[:, ::7].ravel())
        far.append([(np.abs(image - light[:, None, None]).max(0) < 1e-6).sum() for light in lights])
        truth.append(label[row, column] == module.CUE_CLASSES[0])
    truth = np.array(truth)
    assert 0.35 < accuracy(near, truth) < 0.65
    assert accuracy(far, truth) > 0.9


def place_cue_of(dataset, index):
    """Centre of the disc of one image: the middle of what the counterpart labels otherwise."""
    disc = dataset.draw(index)[1] != dataset.draw(index, counterpart=True)[1]
    return tuple(int(round(place)) for place in ndimage.center_of_mass(disc))


def accuracy(features, truth):
    """Leave-one-out accuracy of 5 nearest neighbours."""
    features = np.stack(features).astype(float)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    far = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(far, np.inf)
    votes = truth[np.argsort(far, axis=1)[:, :5]].mean(1) > 0.5
    return (votes == truth).mean()


@pytest.mark.parametrize("size", [(32, 32), (40, 200), (128, 96)])
def test_disc_and_light_fit_at_every_allowed_distance(size):
    radius = cue_radius(size)
    furthest = max(size) - 4 * radius - 2
    for distance in {4, furthest // 2, furthest}:
        for index in range(40):
            ends = place_cue(Rng(index), *size, distance, radius)
            for centre in ends:
                assert all(radius <= place < side - radius for place, side in zip(centre, size, strict=True))
            assert np.hypot(*np.subtract(*ends)) >= distance + 2 * radius + 1
