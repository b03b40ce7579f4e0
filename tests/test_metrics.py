"""Scores against torchmetrics, scikit-learn, smp, brute force and a worked example; set mIoU against batch averages."""

import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtutor.metrics import ConfusionMatrix, batch_averaged_miou, boundary_band, foreground, per_image_miou

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def maps(*, images=4, size=(9, 7), classes=5, void=0.2, seed=0, used=None):
    """Labels and predictions that agree on about half of the pixels; ``used`` limits the labels that occur."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(used or classes, (images, *size), generator=generator)
    other = torch.randint(used or classes, target.shape, generator=generator)
    prediction = torch.where(torch.rand(target.shape, generator=generator) < 0.5, target, other)
    return prediction, target.masked_fill(torch.rand(target.shape, generator=generator) < void, 255)


def from_matrix(matrix):
    """Flat predictions and targets (1, 1, N) with this confusion matrix."""
    matrix = torch.tensor(matrix)
    pairs = matrix.nonzero().repeat_interleave(matrix[matrix > 0], dim=0)
    return pairs[:, 1].view(1, 1, -1), pairs[:, 0].view(1, 1, -1)


# --- the scores -------------------------------------------------------------------------------------------------------


def test_worked_example():
    """Three classes, of which the third does not occur: it has no score and is in no mean."""
    scores = ConfusionMatrix(3).update(*from_matrix([[5, 1, 0], [2, 3, 0], [0, 0, 0]]))
    assert scores.matrix.tolist() == [[5, 1, 0], [2, 3, 0], [0, 0, 0]]
    assert scores.matrix.dtype == torch.int64
    assert scores.pixel_accuracy == pytest.approx(0.727273, abs=1e-6)
    assert scores.mean_accuracy == pytest.approx(0.716667, abs=1e-6)
    np.testing.assert_allclose(scores.iou, [0.625, 0.5, np.nan])
    assert scores.miou == pytest.approx(0.5625)
    assert scores.fwiou == pytest.approx(0.568182, abs=1e-6)
    np.testing.assert_allclose(scores.dice, [0.769231, 0.666667, np.nan], atol=1e-6)
    assert scores.summary() == {
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "miou": scores.miou,
        "fwiou": scores.fwiou,
        "mean_dice": pytest.approx(0.717949, abs=1e-6),
    }


def test_a_class_that_is_predicted_but_absent_has_iou_zero():
    scores = ConfusionMatrix(3).update(*from_matrix([[5, 1, 2], [2, 3, 0], [0, 0, 0]]))
    assert scores.iou[2] == 0 and scores.dice[2] == 0
    assert scores.miou == pytest.approx((5 / 10 + 3 / 6 + 0) / 3)
    assert scores.mean_accuracy == pytest.approx((5 / 8 + 3 / 5) / 2)  # it has no pixels to find


def test_nothing_counted_is_nan_and_no_error():
    scores = ConfusionMatrix(3, boundary_width=3)
    assert len(scores.summary()) == 6 and all(np.isnan(value) for value in scores.summary().values())
    scores.update(torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), 255))
    assert scores.matrix.sum() == 0 and np.isnan(scores.miou)


@pytest.mark.parametrize("used", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed, used):
    classification = pytest.importorskip("torchmetrics.classification")
    prediction, target = maps(seed=seed, used=used)
    scores = ConfusionMatrix(5).update(prediction, target)
    reference = classification.MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    assert scores.miou == pytest.approx(reference(prediction, target).item(), abs=1e-6)
    each = classification.MulticlassJaccardIndex(5, average="none", ignore_index=255)(prediction, target)
    np.testing.assert_allclose(scores.iou.nan_to_num(), each, atol=1e-6)
    accuracy = classification.MulticlassAccuracy(5, average="micro", ignore_index=255)(prediction, target)
    assert scores.pixel_accuracy == pytest.approx(accuracy.item(), abs=1e-6)


@pytest.mark.parametrize("used", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn(seed, used):
    sklearn = pytest.importorskip("sklearn.metrics")
    prediction, target = maps(seed=seed, used=used)
    scores = ConfusionMatrix(5).update(prediction, target)
    p, t = prediction[target != 255].numpy(), target[target != 255].numpy()
    present = list(range(used or 5))
    np.testing.assert_array_equal(scores.matrix, sklearn.confusion_matrix(t, p, labels=range(5)))
    np.testing.assert_allclose(scores.iou[present], sklearn.jaccard_score(t, p, labels=present, average=None))
    np.testing.assert_allclose(scores.dice[present], sklearn.f1_score(t, p, labels=present, average=None))
    assert scores.miou == pytest.approx(sklearn.jaccard_score(t, p, labels=present, average="macro"))
    assert scores.fwiou == pytest.approx(sklearn.jaccard_score(t, p, labels=present, average="weighted"))
    assert scores.pixel_accuracy == pytest.approx(sklearn.accuracy_score(t, p))
    assert scores.mean_accuracy == pytest.approx(sklearn.balanced_accuracy_score(t, p))
    assert scores.iou[used or 5 :].isnan().all()


def test_equals_smp_statistics_of_the_set():
    smp = pytest.importorskip("segmentation_models_pytorch.metrics")
    prediction, target = maps(used=5)
    tp, fp, fn, _ = smp.get_stats(
        prediction, torch.where(target == 255, -1, target), "multiclass", ignore_index=-1, num_classes=5
    )
    tp, fp, fn = (x.sum(0).double() for x in (tp, fp, fn))
    torch.testing.assert_close(ConfusionMatrix(5).update(prediction, target).iou, tp / (tp + fp + fn))


def test_counts_beyond_float32_stay_exact():
    scores = ConfusionMatrix(2)
    scores.matrix[0, 0] = 2**40
    scores.update(*from_matrix([[1, 0], [0, 0]]))
    assert scores.matrix[0, 0].item() == 2**40 + 1


# --- over the set, not over batches -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 9), cuts=st.lists(st.integers(0, 9), max_size=4))
def test_scores_do_not_depend_on_the_batches(seed, images, cuts):
    """Property: any split of the set into updates, and any split over matrices that are merged, gives the same."""
    prediction, target = maps(images=images, seed=seed, size=(5, 6))
    whole = ConfusionMatrix(5, boundary_width=2).update(prediction, target)
    edges = [0, *sorted(min(cut, images) for cut in cuts), images]
    pieces = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    updated, merged = ConfusionMatrix(5, boundary_width=2), ConfusionMatrix(5, boundary_width=2)
    for piece in pieces:
        updated.update(prediction[piece], target[piece])
        merged.merge(ConfusionMatrix(5, boundary_width=2).update(prediction[piece], target[piece]))
    for other in (updated, merged):
        assert torch.equal(other.matrix, whole.matrix)
        assert torch.equal(other.boundary_matrix, whole.boundary_matrix)
        assert {k: repr(v) for k, v in other.summary().items()} == {k: repr(v) for k, v in whole.summary().items()}


def test_batch_averages_are_another_number():
    """The first image has no class 1, the second nearly no class 0: every batch size has its own "mIoU"."""
    target = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 0]], [[0, 1, 255, 255]]])
    prediction = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 1, 1]], [[1, 1, 0, 0]]])
    right = ConfusionMatrix(2).update(prediction, target).miou
    assert right == pytest.approx((4 / 6 + 4 / 6) / 2)
    averaged = {size: batch_averaged_miou(prediction, target, 2, batch_size=size) for size in (1, 2, 3, 5)}
    assert averaged[1] == pytest.approx((1 + (0 + 3 / 4) / 2 + (0 + 1 / 2) / 2) / 3)
    assert averaged[2] == pytest.approx(((4 / 5 + 3 / 4) / 2 + (0 + 1 / 2) / 2) / 2)
    assert averaged[3] == averaged[5] == pytest.approx(right)
    assert per_image_miou(prediction, target, 2) == averaged[1]
    assert len({round(value, 6) for value in averaged.values()}) == 3


def test_batch_averages_take_logits_lists_and_void_images():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(3, *size, generator=generator) for size in ((4, 5), (6, 3), (2, 2))]
    targets = [torch.randint(3, x.shape[1:], generator=generator) for x in logits]
    singles = [ConfusionMatrix(3).update(x, t).miou for x, t in zip(logits, targets, strict=True)]
    assert per_image_miou(logits, targets, 3) == pytest.approx(np.mean(singles))
    targets[1] = torch.full_like(targets[1], 255)
    assert per_image_miou(logits, targets, 3) == pytest.approx(np.mean([singles[0], singles[2]]))
    with pytest.raises(ValueError, match="no images"):
        per_image_miou([], [], 3)
    with pytest.raises(ValueError, match="batch_size is 0"):
        batch_averaged_miou(logits, targets, 3, batch_size=0)
    with pytest.raises(ValueError):
        per_image_miou(logits[:2], targets, 3)


# --- what goes in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_of_any_float_type(dtype):
    _, target = maps()
    logits = torch.randn(4, 5, 9, 7, generator=torch.Generator().manual_seed(3)).to(dtype)
    expected = ConfusionMatrix(5).update(logits.argmax(1), target)
    assert torch.equal(ConfusionMatrix(5).update(logits, target).matrix, expected.matrix)
    single = ConfusionMatrix(5)
    for x, t in zip(logits, target, strict=True):
        single.update(x, t)
    assert torch.equal(single.matrix, expected.matrix)


def test_binary_logits_are_foreground_above_zero():
    logits = torch.tensor([[[[-1.0, 0.5, 2.0, -3.0]]]])
    target = torch.tensor([[[0, 1, 0, 1]]])
    assert ConfusionMatrix(2).update(logits, target).matrix.tolist() == [[1, 1], [1, 1]]
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    assert ConfusionMatrix(2).update(two, target).matrix.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_any_integer_type(kind):
    prediction, target = maps()
    expected = ConfusionMatrix(5, boundary_width=3).update(prediction, target)
    target = target.to(kind) if kind != torch.uint8 else target.byte()
    actual = ConfusionMatrix(5, boundary_width=3).update(prediction.to(kind), target)
    assert torch.equal(actual.matrix, expected.matrix)
    assert torch.equal(actual.boundary_matrix, expected.boundary_matrix)


@pytest.mark.parametrize("ignore_index", [-100, 2, None])
def test_any_ignore_index(ignore_index):
    prediction, target = maps(void=0.0)
    scores = ConfusionMatrix(5, ignore_index=ignore_index).update(prediction, target)
    assert scores.matrix.sum() == (target != ignore_index).sum() if ignore_index is not None else target.numel()
    if ignore_index == 2:  # pixels truly 2 are dropped, a predicted 2 is a mistake like any other
        assert scores.matrix[2].sum() == 0 and scores.matrix[:, 2].sum() > 0


def test_void_pixels_take_any_prediction():
    _, target = maps()
    assert ConfusionMatrix(5).update(target, target).miou == 1  # predicts 255 on void pixels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: (p.masked_fill(t == 1, 7), t), r"the prediction holds 7; allowed are 0\.\.4"),
        (lambda p, t: (p.masked_fill(t == 1, -1), t), r"the prediction holds -1; allowed are 0\.\.4"),
        (lambda p, t: (p, t.masked_fill(t == 1, 9)), r"the target holds 9; allowed are 0\.\.4 \(void is 255\)"),
        (lambda p, t: (p[:, 1:], t), r"predicted labels \(4, 8, 7\) and target \(4, 9, 7\)"),
        (lambda p, t: (p.float(), t), "they need one dimension more"),
        (lambda p, t: (torch.zeros(4, 5, 3, 3), t), r"logits \(4, 5, 3, 3\) do not fit target \(4, 9, 7\)"),
        (lambda p, t: (torch.zeros(4, 6, 9, 7), t), "6 channels for 5 classes"),
        (lambda p, t: (torch.zeros(4, 1, 9, 7), t), "1 channels for 5 classes"),
        (lambda p, t: (p, t.float()), "target must be integer labels"),
        (lambda p, t: (p[:, None], t[:, None]), r"target must be integer labels \(B, H, W\) or \(H, W\)"),
    ],
)
def test_wrong_input_is_named(change, message):
    scores = ConfusionMatrix(5)
    with pytest.raises(ValueError, match=message):
        scores.update(*change(*maps()))
    assert scores.matrix.sum() == 0


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_are_no_numbers_get_no_score(classes, dtype):
    """The arg-max of NaN is class 0, so a network that has diverged would be right about all background."""
    scores = ConfusionMatrix(max(2, classes))
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    logits = torch.full((2, classes, 4, 4), float("nan"), dtype=dtype)
    with pytest.raises(ValueError, match=r"NaN\) at 32 of 32 pixels") as caught:
        scores.update(logits, target)
    assert "\n" not in str(caught.value) and scores.matrix.sum() == 0
    logits[:] = 0
    logits[1, -1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN\) at 1 of 32 pixels"):
        scores.update(logits, target)
    target[1, 0, 0] = 255  # what is written on void does not matter, here as elsewhere
    assert scores.update(logits, target).matrix.sum() == 31
    logits[:] = float("inf")
    scores.update(logits, target)


@pytest.mark.parametrize("ignored", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_class_that_is_ignored_is_left_out_as_in_torchmetrics(seed, ignored):
    classification = pytest.importorskip("torchmetrics.classification")
    prediction, target = maps(seed=seed)
    prediction, target = prediction.clamp(0, 4), target.where(target != 255, torch.tensor(1))
    scores = ConfusionMatrix(5, ignore_index=ignored, boundary_width=1).update(prediction, target)
    reference = classification.MulticlassJaccardIndex(5, average="macro", ignore_index=ignored)
    assert scores.miou == pytest.approx(reference(prediction, target).item(), abs=1e-6)
    for each in (scores.iou, scores.dice, scores.class_accuracy, scores.boundary_iou):
        assert each.isnan().nonzero().flatten().tolist() == [ignored]
    assert scores.table().splitlines()[1 + ignored].split()[2:] == ["-"] * 4


def test_a_class_that_is_ignored_by_hand():
    scores = ConfusionMatrix(3, ignore_index=0).update(torch.tensor([[0, 1, 2, 1]]), torch.tensor([[0, 1, 2, 2]]))
    assert scores.iou[1:].tolist() == [0.5, 0.5] and scores.miou == 0.5
    assert per_image_miou(torch.tensor([[[0, 1, 0, 1]]]), torch.tensor([[[0, 1, 2, 1]]]), 3, ignore_index=0) == 0.5


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="num_classes is 1"):
        ConfusionMatrix(1)
    with pytest.raises(ValueError, match="num_classes=4 into one with num_classes=5"):
        ConfusionMatrix(5).merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="boundary_width=None"):
        ConfusionMatrix(5, boundary_width=3).merge(ConfusionMatrix(5))
    with pytest.raises(ValueError, match="ignore_index=0 into one with ignore_index=255"):
        ConfusionMatrix(5).merge(ConfusionMatrix(5, ignore_index=0))
    with pytest.raises(ValueError, match="boundary_width=3"):
        _ = ConfusionMatrix(5).boundary_iou
    with pytest.raises(ValueError, match="width is 0"):
        boundary_band(torch.zeros(1, 3, 3, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match="boundary_width is 0"):
        ConfusionMatrix(5, boundary_width=0)


# --- the boundary -----------------------------------------------------------------------------------------------------


def band_brute_force(target, width, void):
    h, w = target.shape
    out = np.zeros((h, w), dtype=bool)
    for y in range(h):
        for x in range(w):
            window = target[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
            out[y, x] = target[y, x] != void and bool(((window != target[y, x]) & (window != void)).any())
    return out


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 10**6),
    width=st.integers(1, 4),
    void=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_band_equals_brute_force(size, seed, width, void):
    rng = np.random.default_rng(seed)
    target = np.where(rng.random((2, *size)) < 0.03, rng.integers(1, 5, (2, *size)), 0)
    target[rng.random(target.shape) < void] = 255
    expected = np.stack([band_brute_force(image, width, 255) for image in target])
    np.testing.assert_array_equal(boundary_band(torch.from_numpy(target), width), expected)
    np.testing.assert_array_equal(boundary_band(torch.from_numpy(target[0]), width), expected[0])


@pytest.mark.parametrize("width", [1, 3])
def test_band_equals_repeated_erosion(width):
    """The form in which Boundary IoU is published: a mask minus the mask eroded ``width`` times by a 3 x 3 square."""
    from scipy import ndimage

    target = np.zeros((40, 50), dtype=int)
    target[5:25, 8:30] = 1
    target[15:38, 25:45] = 2
    square = np.ones((3, 3), dtype=bool)
    expected = np.zeros(target.shape, dtype=bool)
    for c in range(3):
        inner = ndimage.binary_erosion(target == c, square, iterations=width, border_value=1)
        expected |= (target == c) & ~inner
    np.testing.assert_array_equal(boundary_band(torch.from_numpy(target), width), expected)


def test_band_by_hand():
    row = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]])
    assert boundary_band(row, 3).int().tolist() == [[0, 0, 1, 1, 1, 1, 1, 1, 0, 0]]
    assert boundary_band(row, 1).int().tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 0, 0]]


def test_void_makes_no_border_and_belongs_to_none():
    alone = torch.tensor([[0, 0, 0, 255, 255, 255, 255]])
    assert not boundary_band(alone, 3).any()
    between = torch.tensor([[0, 0, 0, 255, 1, 1, 1]])  # the classes are 2 pixels apart, across the void
    assert boundary_band(between, 3).int().tolist() == [[0, 1, 1, 0, 1, 1, 0]]
    assert not boundary_band(torch.full((1, 7, 7), 255), 3).any()
    assert boundary_band(alone, 3, ignore_index=None).any()


def test_boundary_iou_is_the_iou_of_the_band():
    prediction, target = maps(size=(20, 30), classes=3, void=0.1)
    target = torch.where(target == 255, 255, (torch.arange(30) // 10).expand(4, 20, 30))
    scores = ConfusionMatrix(3, boundary_width=3).update(prediction, target)
    inside = boundary_band(target, 3)
    expected = ConfusionMatrix(3).update(prediction, target.masked_fill(~inside, 255))
    assert 0 < inside.float().mean() < 0.5
    assert torch.equal(scores.boundary_matrix, expected.matrix)
    torch.testing.assert_close(scores.boundary_iou, expected.iou)
    assert scores.boundary_miou == expected.miou == scores.summary()["boundary_miou"]
    assert scores.boundary_miou != scores.miou


def test_boundary_score_sees_a_shift_that_miou_hardly_does():
    target = torch.zeros(1, 100, 100, dtype=torch.int64)
    target[:, 20:80, 20:80] = 1
    scores = ConfusionMatrix(2, boundary_width=3).update(target.roll(2, dims=2), target)
    assert scores.miou > 0.9 and scores.boundary_miou < 0.75


# --- several processes ------------------------------------------------------------------------------------------------


def _worker(rank, world, folder):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    prediction, target = maps(images=5)
    scores = ConfusionMatrix(5, boundary_width=2).update(prediction[rank::world], target[rank::world])
    scores.synchronize().synchronize()
    refused = False
    try:
        scores.update(prediction, target)
    except ValueError:
        refused = True
    answer = (dist.get_world_size(), refused, scores.matrix, scores.boundary_matrix)
    after_reset = scores.reset().update(prediction, target).matrix
    torch.save((*answer, after_reset), os.path.join(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


def test_two_processes_count_the_whole_set(tmp_path):
    torch.multiprocessing.start_processes(_worker, args=(2, str(tmp_path)), nprocs=2, start_method="spawn")
    whole = ConfusionMatrix(5, boundary_width=2).update(*maps(images=5))
    for rank in range(2):
        world, refused, matrix, boundary, after_reset = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert world == 2 and refused
        assert torch.equal(matrix, whole.matrix)
        assert torch.equal(boundary, whole.boundary_matrix)
        assert torch.equal(after_reset, whole.matrix)


def test_synchronize_in_one_process_does_nothing():
    prediction, target = maps()
    scores = ConfusionMatrix(5).update(prediction, target).synchronize()
    once = scores.matrix.clone()
    assert torch.equal(scores.update(prediction, target).matrix, 2 * once)
    assert scores.reset().matrix.sum() == 0


# --- for reading ------------------------------------------------------------------------------------------------------


def test_table_and_repr():
    scores = ConfusionMatrix(3).update(*from_matrix([[5, 1, 0], [2, 3, 0], [0, 0, 0]]))
    assert scores.table(["road", "car", "sky"]).splitlines() == [
        "class  share  accuracy    IoU   Dice",
        "road   0.545     0.833  0.625  0.769",
        "car    0.455     0.600  0.500  0.667",
        "sky    0.000         -      -      -",
        "mean             0.717  0.562  0.718",
    ]
    assert scores.table().splitlines()[1].startswith("0 ")
    assert repr(scores) == (
        "ConfusionMatrix(3 classes, 11 pixels: pixel_accuracy 0.727, mean_accuracy 0.717, miou 0.562, fwiou 0.568, "
        "mean_dice 0.718)"
    )
    assert repr(ConfusionMatrix(3)) == "ConfusionMatrix(3 classes, nothing counted yet)"
    wide = ConfusionMatrix(5, boundary_width=3).update(*maps())
    assert "boundary IoU" in wide.table() and "boundary_miou" in repr(wide)
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        scores.table(["road", "car"])


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_cuda_counts_the_same(dtype):
    _, target = maps(size=(33, 47))
    logits = torch.randn(4, 5, 33, 47, generator=torch.Generator().manual_seed(3)).to(dtype)
    here = ConfusionMatrix(5, boundary_width=3).update(logits.argmax(1), target)
    there = ConfusionMatrix(5, boundary_width=3).update(logits.argmax(1).cuda(), target.cuda())
    assert torch.equal(there.matrix, here.matrix) and torch.equal(there.boundary_matrix, here.boundary_matrix)
    assert ConfusionMatrix(5).update(logits.cuda(), target.cuda()).matrix.sum() == (target != 255).sum()
    assert torch.equal(boundary_band(target.cuda()).cpu(), boundary_band(target))
    with pytest.raises(ValueError, match="the target holds 9"):
        there.update(logits.cuda(), target.masked_fill(target == 1, 9).cuda())
    with pytest.raises(ValueError, match=r"use \.to\(device\)"):
        there.update(logits.cuda(), target)
    assert torch.equal(there.matrix, here.matrix)


# --- the one logit of a binary model ----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_one_logit_is_foreground_above_zero(seed, scale):
    logits = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(seed)) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert foreground(logits).equal((logits.sigmoid() > 0.5).long())
        assert foreground(logits[:0]).shape == (0, 9, 7) and foreground(-logits.abs()).sum() == 0


def test_probabilities_in_place_of_the_one_logit_are_answered_with_a_warning():
    prediction, target = maps(classes=2)
    probabilities = torch.where(prediction == 1, 0.999, 0.001)[:, None]
    with pytest.warns(UserWarning, match=r"\(p > 0.5\).long\(\)"):
        ConfusionMatrix(2).update(probabilities, target)
    by_labels = ConfusionMatrix(2).update((probabilities[:, 0] > 0.5).long(), target)
    assert by_labels.matrix.equal(ConfusionMatrix(2).update(torch.logit(probabilities), target).matrix)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_probabilities_of_several_classes_score_as_their_logits(seed, classes):
    _, target = maps(classes=classes, seed=seed)
    logits = torch.randn(4, classes, 9, 7, generator=torch.Generator().manual_seed(seed))
    by_logits, by_probabilities = (ConfusionMatrix(classes).update(x, target) for x in (logits, logits.softmax(1)))
    assert by_logits.matrix.equal(by_probabilities.matrix)
