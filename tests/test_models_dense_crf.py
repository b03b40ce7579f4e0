"""The dense CRF against loops that anyone can read, the fast filter against the exact one, and what it is for."""

import math

import pytest
import torch
import torch.nn.functional as F
from contract import images as normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from segtutor import data
from segtutor.metrics import ConfusionMatrix
from segtutor.models.dense_crf import PRESETS, DenseCRF, ExactKernel, FastKernel, Lattice, SpatialKernel, pixel_features

METHODS = ["exact", "fast"]
PARAMETERS = {  # published search ranges, and pydensecrf's example
    "v1": {},
    "v1 narrow": {"w1": 5.0, "sigma_alpha": 50.0, "sigma_beta": 5.0},
    "v1 strong": {"w1": 10.0, "sigma_alpha": 50.0, "sigma_beta": 10.0},
    "v2": PRESETS["deeplab_v2_resnet101"],
    "wide": {"w1": 10.0, "sigma_alpha": 80.0, "sigma_beta": 13.0},
}


def scene(seed, size=(24, 24)):
    """A crop of a synthetic street, 0 to 255, and its labels: (1, 3, h, w), (1, h, w)."""
    image, mask = data.SyntheticScenes((96, 128), seed + 1, seed=seed)[seed]
    top, left = 40, 30 + 5 * seed
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return 255 * image[None, :, rows, columns], mask[None, rows, columns]


def coarsened(mask, factor, num_classes=11, confidence=4.0):
    """The true labels of every ``factor``-th pixel as logits, enlarged: what a coarse net would say at best."""
    start = factor // 2
    kept = mask[:, start::factor, start::factor]  # (1, h, w)
    onehot = F.one_hot(torch.where(kept == 255, num_classes, kept), num_classes + 1).permute(0, 3, 1, 2).float()
    logits = F.interpolate(onehot, mask.shape[1:], mode="bilinear", align_corners=False)
    return confidence * logits[:, :num_classes]


def by_hand(image, logits, *, iterations, w1, alpha, beta, w2, gamma, symmetric):
    """Mean field with one loop for each sum of the formula, in Python's own floats."""
    channels, height, width = image.shape
    pixels = [(r, c) for r in range(height) for c in range(width)]
    colour = {(r, c): image[:, r, c].tolist() for r, c in pixels}

    def distance(p, q):
        return (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2

    def appearance(p, q):
        colours = sum((a - b) ** 2 for a, b in zip(colour[p], colour[q], strict=True))
        return math.exp(-distance(p, q) / (2 * alpha**2) - colours / (2 * beta**2))

    def smoothness(p, q):
        return math.exp(-distance(p, q) / (2 * gamma**2))

    def softmax(values):
        powers = [math.exp(value - max(values)) for value in values]
        return [power / sum(powers) for power in powers]

    unary = {(r, c): logits[:, r, c].tolist() for r, c in pixels}
    belief = {p: softmax(unary[p]) for p in pixels}
    labels = range(logits.shape[0])
    for _ in range(iterations):
        energies = {p: list(unary[p]) for p in pixels}
        for weight, kernel in ((w1, appearance), (w2, smoothness)):
            total = {p: sum(kernel(p, q) for q in pixels) if symmetric else 1.0 for p in pixels}
            for p in pixels:
                for q in pixels:
                    if p != q:
                        for label in labels:
                            strength = kernel(p, q) / math.sqrt(total[p] * total[q])
                            energies[p][label] += weight * strength * belief[q][label]
        belief = {p: softmax(energies[p]) for p in pixels}
    return torch.tensor([belief[p] for p in pixels]).T.reshape(logits.shape)


@pytest.mark.parametrize("normalization", ["symmetric", "none"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_exact_is_the_formula_loop_by_loop(normalization, iterations):
    image, logits = 255 * torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)), normal(3, 5, 4, seed=1)
    options = {"w1": 0.7, "w2": 0.3} if normalization == "none" else {"w1": 4.0, "w2": 2.0}
    options["iterations"] = iterations
    crf = DenseCRF(
        sigma_alpha=3, sigma_beta=60, sigma_gamma=1.5, normalization=normalization, method="exact", **options
    )
    symmetric = normalization == "symmetric"
    expected = by_hand(image, logits, alpha=3, beta=60, gamma=1.5, symmetric=symmetric, **options)
    assert (expected - logits.softmax(0)).abs().max() > 0.05, "the messages must matter"
    torch.testing.assert_close(crf(image[None], logits[None])[0], expected, rtol=0, atol=2e-6)


def test_exact_kernels_leave_the_pixel_itself_out():
    features = normal(6, 5)
    only_first = torch.eye(6)[:, :1]
    assert ExactKernel(features)(only_first)[0] == 0
    assert SpatialKernel((2, 3), 1.5, features.device)(only_first)[0].abs() < 1e-6


@pytest.mark.parametrize("size", [(24, 24), (11, 30)], ids=str)
def test_the_spatial_kernel_is_exact(size):
    features = pixel_features(torch.zeros(3, *size), 3.0, 1.0)
    values = torch.rand(len(features), 4, generator=torch.Generator().manual_seed(0))
    expected = ExactKernel(features)(values)
    torch.testing.assert_close(SpatialKernel(size, 3.0, values.device)(values), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PARAMETERS)
def test_fast_agrees_with_exact(name):
    """Tolerance: 0.01 on average over all pixels and classes, and 5 % of the pixels may change their label."""
    differences, changed = [], []
    for seed in range(4):
        image, mask = scene(seed)
        logits = coarsened(mask, 8) + 0.5 * normal(1, 11, 24, 24, seed=seed)
        exact, fast = (DenseCRF(method=method, **PARAMETERS[name])(image, logits) for method in METHODS)
        assert (exact - logits.softmax(1)).abs().mean() > 0.03, "the messages must matter"
        differences.append((fast - exact).abs().mean().item())
        changed.append((fast.argmax(1) != exact.argmax(1)).float().mean().item())
    assert max(differences) < 0.01 and max(changed) < 0.05, (differences, changed)


@pytest.mark.parametrize(("alpha", "beta"), [(50, 10), (60, 3), (80, 13)])
def test_fast_kernel_sums_agree_with_exact_ones(alpha, beta):
    """Tolerance: an eighth on average, three tenths for nine sums of ten."""
    for seed in range(3):
        features = pixel_features(scene(seed)[0][0], alpha, beta)
        values = torch.rand(len(features), 3, generator=torch.Generator().manual_seed(seed))
        exact = ExactKernel(features)(values) + values
        error = (FastKernel(features).sum(values) / exact - 1).abs()
        assert error.mean() < 0.125 and error.quantile(0.9) < 0.3, (error.mean(), error.max())


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_lattice_weights_are_barycentric(dims):
    lattice = Lattice(20 * normal(200, dims))
    assert lattice.weights.shape == (200, dims + 1)
    assert lattice.weights.min() > -1e-4
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(200), rtol=0, atol=1e-4)
    assert lattice.vertex.unique().numel() == len(lattice.first), "every stored vertex has a pixel beside it"


@pytest.mark.parametrize("dims", [2, 3])
def test_far_pixels_never_meet_in_the_lattice(dims):
    """Vertices are found by one integer each; a step over the edge of one row must not land in the next."""
    axis = torch.arange(0, 14, 0.7 if dims == 2 else 1.4)
    features = torch.cartesian_prod(*[axis] * dims)
    response = Lattice(features)(torch.eye(len(features)))
    assert not response[torch.cdist(features, features) > 8].any()
    assert (response[torch.cdist(features, features) < 0.8] > 0).all()


def test_fast_messages_are_never_negative():
    features = pixel_features(scene(0)[0][0], 60, 3)  # most pixels stand alone
    assert (FastKernel(features)(torch.rand(len(features), 3, generator=torch.Generator().manual_seed(0))) >= 0).all()


def test_in_one_dimension_the_lattice_is_a_line_of_equal_steps():
    """Dense samples of a line fill the lattice: its kernel is then the Gaussian, up to the shape of a small blur."""
    positions = torch.linspace(0, 40, 2001)[:, None]
    point = torch.zeros(2001, 1)
    point[1000] = 1
    response = Lattice(positions)(point)[:, 0]
    response /= response.sum()
    mean = (response * positions[:, 0]).sum()
    variance = (response * (positions[:, 0] - mean) ** 2).sum()
    assert mean == pytest.approx(20, abs=1e-2) and variance == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_without_messages_it_is_the_softmax(method):
    image, mask = scene(0)
    logits = normal(1, 4, 24, 24)
    assert DenseCRF(w1=0, w2=0, method=method)(image, logits).equal(logits.softmax(1))
    assert DenseCRF(iterations=0, method=method)(image, logits).equal(logits.softmax(1))
    assert not DenseCRF(w1=1, w2=0, method=method)(image, logits).equal(logits.softmax(1))


@pytest.mark.parametrize("normalization", ["symmetric", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_uniform_stays_uniform(method, normalization):
    weights = {"w1": 5.0, "w2": 3.0} if normalization == "symmetric" else {"w1": 0.01, "w2": 0.01}
    crf = DenseCRF(method=method, normalization=normalization, **weights)
    q = crf(scene(1)[0], torch.full((1, 5, 24, 24), 0.3))
    torch.testing.assert_close(q, torch.full_like(q, 0.2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("normalization", ["symmetric", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_probabilities_sum_to_one(method, normalization):
    q = DenseCRF(method=method, normalization=normalization)(scene(2)[0], 10 * normal(1, 7, 24, 24))
    assert (q >= 0).all() and (q.sum(1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_a_pixel_unlike_all_others_is_left_alone(method):
    image, logits = torch.full((1, 3, 16, 16), 200.0), torch.zeros(1, 2, 16, 16)
    image[..., 8, 8], logits[:, 0] = 0.0, 2.0
    logits[..., 8, 8] = torch.tensor([0.0, 1.0])
    q = DenseCRF(w2=0, method=method)(image, logits)
    torch.testing.assert_close(q[..., 8, 8], logits[..., 8, 8].softmax(1), rtol=0, atol=0.04)
    assert (q[0, 0, :8] > 0.99).all()


def test_fast_is_deterministic_and_images_do_not_meet():
    (first, mask), (second, other) = scene(0), scene(3)
    pair, logits = torch.cat([first, second]), torch.cat([coarsened(mask, 8), coarsened(other, 8)])
    crf = DenseCRF()
    together = crf(pair, logits)
    assert together.equal(crf(pair, logits))
    assert together.equal(torch.cat([crf(pair[i : i + 1], logits[i : i + 1]) for i in range(2)]))


def test_bytes_and_floats_of_0_to_255_are_the_same_image():
    image, logits = scene(0)[0].round(), normal(1, 3, 24, 24)
    assert DenseCRF()(image.to(torch.uint8), logits).equal(DenseCRF()(image, logits))


def test_steps_end_in_what_forward_returns():
    (image, _), logits = scene(1), normal(1, 3, 24, 24)
    crf = DenseCRF(iterations=4)
    steps = list(crf.steps(image[0], logits[0]))
    assert len(steps) == 5 and steps[0].equal(logits[0].softmax(0)) and steps[4].equal(crf(image, logits)[0])
    assert not steps[1].equal(steps[2])


def test_no_gradient_passes():
    logits = normal(1, 3, 24, 24).requires_grad_()
    assert not DenseCRF()(scene(0)[0], logits).requires_grad
    assert list(DenseCRF().parameters()) == []


class Largest(TorchDispatchMode):
    """Remembers the size in bytes of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.nbytes)
        return result


def test_memory_grows_with_the_pixels_and_not_with_their_square():
    sizes = []
    for height in (32, 128):
        image = data.SyntheticScenes((height, 80), 1, seed=0)[0][0]
        with Largest() as seen:
            DenseCRF(iterations=1)(255 * image[None], torch.zeros(1, 5, height, 80))
        sizes.append(seen.size / (80 * height))
    assert sizes[1] < 1.1 * sizes[0] and sizes[1] < 400, "bytes per pixel"


def boundary(crf, pairs, factor, num_classes=11):
    before, after = (ConfusionMatrix(num_classes, boundary_width=3) for _ in range(2))
    for image, mask in pairs:
        logits = coarsened(mask, factor, num_classes)
        before.update(logits, mask)
        after.update(crf(image, logits), mask)
    return before.boundary_miou, after.boundary_miou


def test_improves_the_borders_of_a_coarsened_truth_on_scenes():
    scenes = data.SyntheticScenes((96, 128), 6, seed=3)
    pairs = [(255 * image[None], mask[None]) for image, mask in (scenes[i] for i in range(6))]
    before, after = boundary(DenseCRF(w1=4, sigma_alpha=10, sigma_beta=10, w2=1, sigma_gamma=1), pairs, 8)
    assert after > before + 0.02, (before, after)


@pytest.mark.skipif(not data.available("CamVid"), reason="CamVid is not on this machine")
def test_improves_the_borders_of_a_coarsened_truth_on_camvid():
    camvid = data.CamVid("test", size=(180, 240))
    pairs = [(255 * image[None], mask[None]) for image, mask in (camvid[i] for i in (10, 80, 150, 220))]
    pairs = [(image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)) for image, mask in pairs]
    before, after = boundary(DenseCRF(w1=4, sigma_alpha=10, sigma_beta=8, w2=1, sigma_gamma=1), pairs, 8)
    assert after > before + 0.01, (before, after)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    assert DenseCRF(**PRESETS[name]).iterations == 10


@pytest.mark.parametrize(
    ("image", "logits", "says"),
    [
        (torch.rand(1, 3, 8, 8), torch.zeros(1, 2, 8, 8), "grey levels of 0 .. 255"),
        (torch.randn(1, 3, 8, 8) * 9, torch.zeros(1, 2, 8, 8), "undo the normalisation"),
        (torch.ones(1, 3, 8, 8).byte(), torch.zeros(1, 2, 4, 4), "resize the logits"),
        (torch.ones(3, 8, 8).byte(), torch.zeros(1, 2, 8, 8), "of one size"),
        (torch.ones(1, 3, 8, 8).byte(), torch.zeros(1, 1, 8, 8), "1 class.*stack zeros"),
    ],
    ids=["0..1", "normalised", "small logits", "no batch", "one class"],
)
def test_inputs_that_cannot_be_meant_are_refused(image, logits, says):
    with pytest.raises(ValueError, match=says):
        DenseCRF()(image, logits)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.floats(0.01, 30), st.sampled_from([torch.float32, torch.bfloat16]))
def test_probabilities_are_refused_and_their_logarithms_are_not(seed, classes, scale, dtype):
    image, crf = scene(0, (8, 8))[0], DenseCRF(iterations=1)
    logits = normal(1, classes, 8, 8, seed=seed) * scale
    with pytest.raises(ValueError, match="they are probabilities: pass their logarithms"):
        crf(image, logits.softmax(1).to(dtype))
    by_logarithms = crf(image, logits.softmax(1).clamp(min=1e-38).log())
    torch.testing.assert_close(by_logarithms, crf(image, logits), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "slow"}, '"fast" or "exact"'),
        ({"normalization": "before"}, '"symmetric" or "none"'),
        ({"sigma_beta": 0}, "above 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        DenseCRF(**options)


def test_exact_refuses_a_photograph_and_fast_a_kernel_without_width():
    with pytest.raises(ValueError, match='choose method="fast"'):
        DenseCRF(method="exact")(torch.ones(1, 3, 130, 130).byte(), torch.zeros(1, 2, 130, 130))
    noise = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    with pytest.raises(ValueError, match="too narrow"):
        DenseCRF(sigma_beta=1e-4)(noise, torch.zeros(1, 2, 8, 8))


@pytest.mark.gpu
def test_runs_on_a_gpu_as_on_a_cpu():
    image, mask = scene(0)
    logits = coarsened(mask, 8)
    torch.testing.assert_close(
        DenseCRF()(image.cuda(), logits.cuda()).cpu(), DenseCRF()(image, logits), rtol=0, atol=2e-3
    )
