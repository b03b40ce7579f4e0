"""Calibration and intervals: what they say of models whose honesty is known, beside other people's code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segtutor.inference import Calibration, compare, entropy, fit_temperature, interval
from segtutor.metrics import ConfusionMatrix
from segtutor.training import evaluate, evaluate_each

SIZE = (40, 50)


def drawn(sharpness=1.0, images=4, classes=3, seed=0, size=SIZE):
    """Logits, and labels that are drawn by their probabilities: at sharpness 1 the model is honest."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(images, classes, *size, generator=generator)
    chances = logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, classes)
    labels = torch.multinomial(chances, 1, generator=generator).view(images, *size)
    return sharpness * logits, labels


def calibration(logits, labels, **settings):
    return Calibration(logits.shape[1], **settings).update(logits.softmax(1), labels)


# --------------------------------------------------------------------------------------------------------- calibration
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_torchmetrics(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = drawn(sharpness=2.5)
    labels[:, :5] = 255
    found = calibration(logits, labels, bins=bins)
    expected = multiclass_calibration_error(
        logits.softmax(1), labels, num_classes=3, n_bins=bins, norm="l1", ignore_index=255
    )
    assert found.error == pytest.approx(float(expected), abs=1e-5) and found.pixels == 4 * 35 * 50
    assert found.error > 0.1 if bins > 1 else found.error >= 0


def test_the_error_of_each_class_is_that_of_a_class_against_the_rest():
    logits, labels = drawn(sharpness=0.4)
    found, sure = calibration(logits, labels, bins=10), logits.softmax(1)
    for label in range(3):
        said, true, error = sure[:, label].flatten(), (labels == label).flatten().double(), 0.0
        for low in range(10):
            inside = ((said * 10).long().clamp(max=9)) == low
            if inside.any():
                error += float((said[inside].double().mean() - true[inside].mean()).abs() * inside.double().mean())
        assert float(found.class_errors[label]) == pytest.approx(error, abs=1e-6)


def test_an_honest_model_has_nearly_no_error_and_a_boastful_one_has():
    honest, boastful = (calibration(*drawn(sharpness, images=8)) for sharpness in (1, 3))
    assert honest.error < 0.02 < 0.15 < boastful.error
    found = boastful.reliability
    assert (found.confidence[-1] > found.accuracy[-1] + 0.1).item() and float(found.share.sum()) == pytest.approx(1)
    assert honest.surprise < boastful.surprise
    logits, labels = drawn()
    assert calibration(logits, labels).surprise == pytest.approx(
        float(nn.functional.cross_entropy(logits.double(), labels)), abs=1e-6
    )


def test_batches_add_up_and_void_does_not_count():
    logits, labels = drawn()
    labels[0, :20] = 255
    whole, parts = calibration(logits, labels), Calibration(3)
    for image, mask in zip(logits, labels, strict=True):
        parts.update(image[None].softmax(0 + 1), mask[None])
    assert parts.error == pytest.approx(whole.error, abs=1e-12) and parts.pixels == whole.pixels == 4 * 2000 - 1000
    assert parts.surprise == pytest.approx(whole.surprise)
    only_void = Calibration(3).update(logits.softmax(1), torch.full_like(labels, 255))
    assert only_void.pixels == 0 and math.isnan(only_void.surprise)


def test_a_model_that_may_be_silent_is_better_where_it_speaks():
    logits, labels = drawn(images=8)
    found = calibration(logits, labels).abstention
    assert found.answered[0] == 1 and (found.answered.diff() <= 0).all()
    matrix = ConfusionMatrix(3).update(logits, labels)
    assert calibration(logits, labels).counts.sum(0).equal(matrix.matrix), "rows are true classes"
    assert float(found.miou[0]) == pytest.approx(matrix.miou) and float(found.accuracy[0]) == matrix.pixel_accuracy
    sure = logits.softmax(1)
    confident = sure.amax(1) >= 9 / 15
    kept = ConfusionMatrix(3).update(logits, labels.where(confident, torch.tensor(255)))
    assert float(found.miou[9]) == pytest.approx(kept.miou) and float(found.threshold[9]) == pytest.approx(9 / 15)
    assert float(found.answered[9]) == pytest.approx(float(confident.double().mean()))
    spoken = found.accuracy[found.answered > 0.02]
    assert (spoken.diff() > -0.01).all() and spoken[-1] > spoken[0] + 0.1


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        (torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long(), "give softmax"),
        (torch.full((1, 3, 2, 2), 5.0), torch.zeros(1, 2, 2).long(), "give softmax"),
        (torch.full((1, 3, 2, 2), 1 / 3), torch.full((1, 2, 2), 3), "labels go from 3 to 3 with 3 classes"),
        (torch.full((1, 2, 2, 2), 1 / 2), torch.zeros(1, 2, 2).long(), "must be"),
        (torch.full((1, 3, 2, 2), 1 / 3), torch.zeros(1, 2, 3).long(), "must be"),
    ],
    ids=str,
)
def test_what_cannot_be_counted_is_refused(probabilities, labels, says):
    with pytest.raises(ValueError, match=says):
        Calibration(3).update(probabilities, labels)


class Given(nn.Module):
    """Answers with the logits that were drawn; an image is its own number."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.scale = logits, nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()] * self.scale


def numbered(labels):
    return [(torch.full((1, *labels.shape[1:]), float(i)), labels[i]) for i in range(len(labels))]


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(sharpness):
    logits, labels = drawn(sharpness, images=8)
    labels[0, :10] = 255
    model = Given(logits).train()
    found = fit_temperature(model, numbered(labels))
    assert found == pytest.approx(sharpness, rel=0.05) and model.training
    cured = calibration(logits / found, labels)
    assert cured.error < 0.025 and (sharpness == 1 or cured.error < calibration(logits, labels).error / 3)
    assert (logits / found).argmax(1).equal(logits.argmax(1)), "no label changes"
    assert fit_temperature(model, numbered(labels), pixels=300, seed=1) == pytest.approx(sharpness, rel=0.2)


def test_the_temperature_of_one_logit_is_found_too():
    logits, labels = drawn(2.0, images=8, classes=2)
    one = Given(logits[:, 1:] - logits[:, :1])
    assert fit_temperature(one, numbered(labels)) == pytest.approx(2, rel=0.05)


def test_without_pixels_there_is_no_temperature():
    logits, labels = drawn()
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_temperature(Given(logits), numbered(torch.full_like(labels, 255)))


def test_entropy_goes_from_sure_to_undecided():
    even, sure = torch.full((4, 2, 3), 0.25), torch.zeros(4, 2, 3)
    sure[2] = 1
    assert torch.allclose(entropy(even), torch.ones(2, 3)) and entropy(sure).eq(0).all()
    batch = torch.stack([even, sure])
    assert torch.allclose(entropy(batch)[0], torch.ones(2, 3)) and entropy(batch).shape == (2, 2, 3)


# ----------------------------------------------------------------------------------------------------------- intervals
def matrices(images=30, seed=0, accuracy=0.8, classes=3):
    """Images of different difficulty."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        share = np.clip(accuracy + 0.1 * generator.standard_normal(), 0.05, 0.99)
        off = (1 - share) / (classes - 1)
        rows = [generator.multinomial(500, [share if i == j else off for j in range(classes)]) for i in range(classes)]
        found.append(torch.tensor(np.array(rows)))
    return torch.stack(found)


def plain_miou(matrix):
    return ConfusionMatrix(len(matrix)).merge(filled(matrix)).miou


def filled(matrix):
    confusion = ConfusionMatrix(len(matrix))
    confusion.matrix = matrix.long()
    return confusion


def test_the_interval_is_that_of_a_plain_loop():
    counts, generator = matrices(), np.random.default_rng(5)
    found = interval(counts, repeats=10_000)
    assert found.value == pytest.approx(plain_miou(counts.sum(0)))
    scores = [plain_miou(counts[generator.integers(0, 30, 30)].sum(0)) for _ in range(10_000)]
    low, high = np.quantile(scores, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.04 * (high - low)) and found.high == pytest.approx(
        high, abs=0.04 * (high - low)
    )
    found = interval(counts)
    assert found.low < found.value < found.high and found == interval(counts) != interval(counts, seed=1)
    absent = nn.functional.pad(counts, (0, 1, 0, 1))  # a class that neither occurs nor is predicted
    assert interval(absent) == found
    narrow = interval(counts, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    assert interval([filled(matrix) for matrix in counts]) == found


@pytest.mark.parametrize("images", [40])
def test_intervals_hold_the_truth_as_often_as_they_say(images):
    """Of many test sets of one kind, some nineteen in twenty have the long run's score in their interval."""
    truth = plain_miou(matrices(4000, seed=99).sum(0))
    held = [low <= truth <= high for _, low, high in (interval(matrices(images, s), repeats=300) for s in range(150))]
    assert 0.87 < np.mean(held) <= 0.99


def test_two_models_are_compared_image_by_image():
    a = matrices(seed=0)
    moved = torch.minimum(a.diagonal(dim1=1, dim2=2), torch.tensor(6))  # a little worse on every image
    worse = a.clone()
    for label in range(3):
        worse[:, label, label] -= moved[:, label]
        worse[:, label, (label + 1) % 3] += moved[:, label]
    found = compare(a, worse)
    assert found.difference.value == pytest.approx(plain_miou(a.sum(0)) - plain_miou(worse.sum(0)))
    assert 0 < found.difference.low < found.difference.high and found.p == 1 / 2001, (
        "the models as they are count as one of the exchanges"
    )
    apart = interval(a), interval(worse)
    assert apart[1].high > apart[0].low, "seen one by one, the models could not be told apart"
    other = compare(worse, a)
    assert other.difference.value == -found.difference.value and other.p == found.p
    same = compare(a, a)
    assert same.difference == (0, 0, 0) and same.p == 1


def test_equal_models_are_told_apart_as_seldom_as_they_should():
    """Both models make their mistakes at random on the same images: p is below 0.1 in about a tenth of the cases."""
    small = [compare(matrices(20, s), matrices(20, 1000 + s), repeats=200).p < 0.1 for s in range(150)]
    assert 0.03 < np.mean(small) < 0.19


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_intervals_lie_in_order(images, classes, seed):
    found = interval(matrices(images, seed, classes=classes), repeats=50)
    assert 0 <= found.low <= found.high <= 1 and 0 <= found.value <= 1


def test_what_cannot_be_compared_is_refused():
    a = matrices()
    for wrong, says in ((a[:1], "at least two"), (a[0], "at least two")):
        with pytest.raises(ValueError, match=says):
            interval(wrong)
    with pytest.raises(ValueError, match="share between 0 and 1"):
        interval(a, level=95)
    with pytest.raises(ValueError, match="same images"):
        compare(a, a + torch.eye(3).long())
    with pytest.raises(ValueError, match="same images"):
        compare(a, a[:20])


def test_images_scored_one_by_one_add_up_to_the_set():
    logits, labels = drawn(images=5)
    model, dataset = Given(logits), numbered(labels)
    each = evaluate_each(model, dataset)
    whole = evaluate(model, dataset)
    assert len(each) == 5 and torch.stack([one.matrix for one in each]).sum(0).equal(whole.matrix)
    assert torch.stack([one.boundary_matrix for one in each]).sum(0).equal(whole.boundary_matrix)
    assert interval(each).value == pytest.approx(whole.miou)
