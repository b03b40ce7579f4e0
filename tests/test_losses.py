"""Losses against torch, smp, hand-computed numbers and brute force; and the contract on void, labels and precision."""

import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segtutor.losses import (
    AuxiliaryLoss,
    BorderWeightedLoss,
    CombinedLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    OHEMCrossEntropyLoss,
    SegmentationLoss,
    border_weight_map,
    median_frequency_weights,
)

LOSSES = [CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss, BorderWeightedLoss, OHEMCrossEntropyLoss]
PAIRS = [
    (loss, task)
    for loss in LOSSES
    for task in ("multiclass", "binary", "multilabel")
    if not (loss is BorderWeightedLoss and task == "multilabel")
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch(task, *, size=(2, 7, 5), classes=4, void=0.2, seed=0, dtype=torch.float64, scale=2.0):
    """Random logits and labels, a share of them void (255)."""
    generator = torch.Generator().manual_seed(seed)
    b, h, w = size
    classes = 1 if task == "binary" else classes
    logits = torch.randn(b, classes, h, w, generator=generator, dtype=torch.float64).mul(scale).to(dtype)
    shape = (b, classes, h, w) if task == "multilabel" else (b, h, w)
    target = torch.randint(classes if task == "multiclass" else 2, shape, generator=generator)
    return logits, target.masked_fill(torch.rand(shape, generator=generator) < void, 255)


def scores_of(probabilities):
    """Logits whose softmax is the given tensor of probabilities."""
    return torch.as_tensor(probabilities, dtype=torch.float64).log()


# --- the contract that all losses share -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_all_void_batch_has_loss_zero_and_zero_gradient(loss, task, dtype):
    logits, target = batch(task, dtype=dtype, scale=100.0)
    logits.requires_grad_()
    value = loss(task)(logits, torch.full_like(target, 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad.dtype == dtype
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 6e4])
@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_logits_under_void_change_nothing(loss, task, bad):
    logits, target = batch(task)
    void = target == 255 if task == "multilabel" else (target == 255)[:, None]
    results = []
    for values in (logits, logits.masked_fill(void, bad)):
        values = values.clone().requires_grad_()
        value = loss(task)(values, target)
        value.backward()
        results.append((value.detach(), values.grad))
    assert results[0][0] > 0
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    assert (results[0][1].masked_select(void.expand_as(logits)) == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), pair=st.sampled_from(PAIRS))
def test_void_is_the_same_as_not_there(seed, shift, pair):
    """Property: void columns give the value of the image cut off before them, whatever the logits say there."""
    loss, task = pair
    logits, target = batch(task, seed=seed, void=0.0)
    if loss is BorderWeightedLoss:  # the map looks at neighbours, and cells end at void
        target[..., 2] = 0
    cut = loss(task)(logits[..., :3], target[..., :3])
    target = target.clone()
    target[..., 3:] = 255
    logits[..., 3:] += shift
    torch.testing.assert_close(loss(task)(logits, target), cut, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), pair=st.sampled_from([p for p in PAIRS if p[0] is not BorderWeightedLoss]))
def test_order_of_pixels_and_of_classes_does_not_matter(seed, pair):
    loss, task = pair
    logits, target = batch(task, seed=seed)
    value = loss(task)(logits, target)
    pixels = torch.randperm(logits.shape[-2] * logits.shape[-1], generator=torch.Generator().manual_seed(seed))
    mixed = [x.flatten(-2)[..., pixels].view_as(x) for x in (logits, target)]
    torch.testing.assert_close(loss(task)(*mixed), value, rtol=1e-10, atol=1e-12)
    images = [x.flip(0) for x in (logits, target)]
    torch.testing.assert_close(loss(task)(*images), value, rtol=1e-10, atol=1e-12)
    if task == "multiclass":
        order = torch.tensor([2, 0, 3, 1])  # new channel k shows old class order[k]
        renamed = torch.where(target == 255, 255, order.argsort()[target.clamp(max=3)])
        torch.testing.assert_close(loss(task)(logits[:, order], renamed), value, rtol=1e-10, atol=1e-12)
    if task == "multilabel":
        torch.testing.assert_close(loss(task)(logits.flip(1), target.flip(1)), value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_gradients(loss, task):
    logits, target = batch(task, size=(1, 3, 4), classes=3)
    assert torch.autograd.gradcheck(lambda x: loss(task)(x, target), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_half_precision_computes_in_float32(loss, task, dtype):
    """300 x 300 pixels: more than float16 can count (65504)."""
    logits, target = (x.repeat_interleave(20, -1).repeat_interleave(20, -2) for x in batch(task, size=(1, 15, 15)))
    logits = logits.to(dtype)
    value = loss(task)(logits, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(task)(logits.double(), target).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_autocast_changes_nothing(loss, task):
    logits, target = batch(task, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(task)(logits, target)
    assert torch.equal(value, loss(task)(logits, target))


@pytest.mark.parametrize("loss", [CrossEntropyLoss, FocalLoss, BorderWeightedLoss, OHEMCrossEntropyLoss])
def test_binary_is_a_softmax_against_zero(loss):
    """The others differ by definition: Dice takes the foreground only, binary Lovász is the hinge."""
    logits, target = batch("binary")
    options = {"alpha": 0.3} if loss is FocalLoss else {"weight": [0.5, 3.0]}
    pair = {"alpha": [0.7, 0.3]} if loss is FocalLoss else options
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(loss("binary", **options)(logits, target), loss("multiclass", **pair)(two, target))


@pytest.mark.parametrize("loss", [CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss])
def test_multilabel_is_the_mean_of_binary_tasks(loss):
    logits, target = batch("multilabel", void=0.0)
    alone = [loss("binary")(logits[:, c : c + 1], target[:, c]) for c in range(4)]
    torch.testing.assert_close(loss("multilabel")(logits, target), torch.stack(alone).mean())


@pytest.mark.parametrize("ignore_index", [-100, 0, 3, None])
@pytest.mark.parametrize("loss", LOSSES)
def test_any_ignore_index(loss, ignore_index):
    logits, target = batch("multiclass", void=0.0)
    if ignore_index is None:
        expected = loss()(logits, target)
        assert torch.equal(loss(ignore_index=None)(logits, target), expected)
        return
    void = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    if 0 <= ignore_index < 4:  # a class of its own that is void
        void = target == ignore_index
    same = loss()(logits, target.masked_fill(void, 255))
    torch.testing.assert_close(loss(ignore_index=ignore_index)(logits, target.masked_fill(void, ignore_index)), same)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.bool])
def test_any_integer_type(kind):
    logits, target = batch("binary", void=0.0 if kind == torch.bool else 0.2)
    for ignore_index in (255, -100):
        if ignore_index == -100:
            target = target.clamp(max=1)
        loss = CrossEntropyLoss("binary", ignore_index=ignore_index)
        assert torch.equal(loss(logits, target.to(kind)), loss(logits, target))


WRONG = [
    ("multiclass", (2, 4, 7, 5), (2, 7, 6), r"needs a target of shape \(2, 7, 5\), got \(2, 7, 6\)"),
    ("multiclass", (2, 4, 7, 5), (2, 1, 7, 5), r"needs a target of shape \(2, 7, 5\), got \(2, 1, 7, 5\)"),
    ("multiclass", (2, 4, 7), (2, 7), r"logits must be floats of shape \(B, C, H, W\)"),
    ("multiclass", (2, 1, 7, 5), (2, 7, 5), "use task='binary'"),
    ("binary", (2, 2, 7, 5), (2, 7, 5), "needs one channel"),
    ("multilabel", (2, 4, 7, 5), (2, 7, 5), r"needs a target of shape \(2, 4, 7, 5\)"),
]


@pytest.mark.parametrize(("task", "logits", "target", "message"), WRONG)
def test_wrong_shapes_are_named(task, logits, target, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropyLoss(task)(torch.zeros(logits), torch.zeros(target, dtype=torch.int64))


@pytest.mark.parametrize("label", [-1, 4, 200])
@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_wrong_labels_are_named(loss, task, label):
    logits, target = batch(task)
    target.view(-1)[3] = label
    highest = 3 if task == "multiclass" else 1
    with pytest.raises(ValueError, match=rf"{loss.__name__}.* holds {label}, .*0\.\.{highest} and ignore_index 255"):
        loss(task)(logits, target)


def test_wrong_types_and_options_are_named():
    logits, target = batch("multiclass")
    with pytest.raises(ValueError, match="target must hold integer labels"):
        CrossEntropyLoss()(logits, target.float())
    with pytest.raises(ValueError, match="logits must be floats"):
        CrossEntropyLoss()(logits.long(), target)
    with pytest.raises(ValueError, match="choose one of 'multiclass', 'binary', 'multilabel'"):
        DiceLoss("multi-class")
    with pytest.raises(ValueError, match="3 class weights for 4 classes"):
        CrossEntropyLoss(weight=[1, 2, 3])(logits, target)
    with pytest.raises(ValueError, match="weight must be a list of finite numbers"):
        CrossEntropyLoss(weight=[1, -2, 3, 4])
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropyLoss(label_smoothing=1.5)
    with pytest.raises(ValueError, match="one number per class"):
        FocalLoss(alpha=0.25)
    with pytest.raises(ValueError, match="gamma"):
        FocalLoss(gamma=-1)
    with pytest.raises(ValueError, match="smooth"):
        DiceLoss(smooth=-1)
    with pytest.raises(ValueError, match="sigma"):
        BorderWeightedLoss(sigma=0)
    with pytest.raises(NotImplementedError, match=r"needs a compute\(logits, target, valid\) method"):
        SegmentationLoss()(logits, target)


@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_copies_and_pickles(loss, task):
    logits, target = batch(task)
    original = loss(task)
    value = original(logits, target)
    for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert torch.equal(twin(logits, target), value)
    assert f"'{task}', ignore_index=255" in repr(original)


def test_label_check_of_a_device_that_answers_later():
    """The CUDA path without CUDA: an answer that is not there yet is not waited for, then it is raised."""

    class Event:
        ready = False

        def query(self):
            return self.ready

    logits, target = batch("multiclass")
    loss, event = CrossEntropyLoss(), Event()
    loss._labels.pending.append((event, torch.tensor([0, 40]), 4))
    loss(logits, target)
    event.ready = True
    with pytest.raises(ValueError, match=r"holds 40, but task 'multiclass' with 4 classes allows 0\.\.3"):
        loss(logits, target)
    loss(logits, target)  # reported once


# --- cross-entropy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, [0.2, 1.0, 3.0, 0.0]])
def test_cross_entropy_equals_torch(weight, smoothing):
    logits, target = batch("multiclass")
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    expected = F.cross_entropy(logits, target, tensor, ignore_index=255, label_smoothing=smoothing)
    # The weights are kept in float32.
    actual = CrossEntropyLoss(weight=weight, label_smoothing=smoothing)(logits, target)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_sigmoid_cross_entropy_equals_torch(task):
    logits, target = batch(task)
    valid = target != 255
    flat = logits[:, 0] if task == "binary" else logits
    expected = F.binary_cross_entropy_with_logits(flat[valid], target[valid].double())
    torch.testing.assert_close(CrossEntropyLoss(task)(logits, target), expected, rtol=1e-12, atol=0)
    # pos_weight in torch scales the sum; here the mean divides by the weights too.
    weighted = (
        F.binary_cross_entropy_with_logits(
            flat[valid], target[valid].double(), pos_weight=torch.tensor(3.0, dtype=torch.float64), reduction="sum"
        )
        / (1 + 2 * target[valid]).sum()
    )
    torch.testing.assert_close(CrossEntropyLoss(task, weight=[1, 3])(logits, target), weighted, rtol=1e-12, atol=0)


def test_cross_entropy_by_hand():
    """Three pixels of which one is void, p of the true class 1/2 and 1/8: mean surprise (1 + 3)/2 bits."""
    logits = scores_of([[[[0.5, 0.125, 0.9]], [[0.5, 0.875, 0.1]]]])
    target = torch.tensor([[[0, 0, 255]]])
    assert CrossEntropyLoss()(logits, target).item() == pytest.approx(2 * math.log(2))
    assert CrossEntropyLoss()(logits, torch.tensor([[[1, 0, 255]]])).item() == pytest.approx(2 * math.log(2))
    weighted = CrossEntropyLoss(weight=[1, 3])(logits, torch.tensor([[[1, 0, 255]]]))
    assert weighted.item() == pytest.approx((3 * 1 + 1 * 3) / 4 * math.log(2))


def test_only_pixels_of_a_class_with_weight_zero():
    logits, target = batch("multiclass")
    logits.requires_grad_()
    value = CrossEntropyLoss(weight=[0, 1, 1, 1])(logits, torch.zeros_like(target))
    value.backward()
    assert value.item() == 0 and (logits.grad == 0).all()


def test_weights_move_with_the_module_and_with_the_logits():
    loss = CrossEntropyLoss(weight=[1, 2, 3, 4])
    assert "weight" in loss.state_dict()
    logits, target = batch("multiclass")
    torch.testing.assert_close(loss.double()(logits, target), loss.float()(logits, target))


# --- Dice -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [0.0, 1.0, 7.0])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_dice_equals_smp(task, smooth):
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = batch(task)
    # smp writes (TP + s) / (TP + FP/2 + FN/2 + s): its s is half of ours.
    reference = smp.DiceLoss(task, smooth=smooth / 2, ignore_index=255)
    expected = reference(logits, target)
    torch.testing.assert_close(DiceLoss(task, smooth=smooth)(logits, target), expected, rtol=1e-10, atol=1e-12)


def test_dice_leaves_absent_classes_out():
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = batch("multiclass")
    target[target == 3] = 1
    expected = smp.DiceLoss("multiclass", ignore_index=255)(logits, target) * 4 / 3  # smp counts the absent class as 0
    torch.testing.assert_close(DiceLoss(smooth=0)(logits, target), expected, rtol=1e-10, atol=0)


def test_dice_by_hand():
    """Probabilities 1, 1/2, 0 against the truth 1, 1, 0, and a void pixel: 2 * 1.5 / (1.5 + 2) = 6/7."""
    logits = torch.logit(torch.tensor([[[[1.0, 0.5, 0.0, 1.0]]]], dtype=torch.float64), eps=1e-15)
    target = torch.tensor([[[1, 1, 0, 255]]])
    assert DiceLoss("binary", smooth=0)(logits, target).item() == pytest.approx(1 - 6 / 7)
    assert DiceLoss("binary", smooth=1)(logits, target).item() == pytest.approx(1 - 4 / 4.5)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_dice_is_zero_for_perfect_overlap_and_one_for_none(task):
    _, target = batch(task)
    if task == "multiclass":
        right = F.one_hot(target.clamp(max=3), 4).permute(0, 3, 1, 2)
    else:
        right = target.clamp(max=1).view(2, -1, 7, 5)
    logits = (2.0 * right - 1) * 200
    assert DiceLoss(task, smooth=0)(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert DiceLoss(task, smooth=1)(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert DiceLoss(task, smooth=0)(-logits * (1 if task != "multiclass" else 1e3), target).item() == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(0, 300),
    smooth=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
    task=st.sampled_from(["multiclass", "binary", "multilabel"]),
    void=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_dice_lies_between_zero_and_one(seed, scale, smooth, task, void):
    logits, target = batch(task, seed=seed, scale=scale, void=void, dtype=torch.float32)
    assert -1e-6 <= DiceLoss(task, smooth=smooth)(logits, target).item() <= 1 + 1e-6


def test_dice_charges_for_foreground_where_there_is_none():
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    loud, quiet = (DiceLoss("binary")(torch.full((1, 1, 8, 8), z), target).item() for z in (3.0, -8.0))
    assert loud > 0.9 and quiet < 0.05


# --- focal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_focal_with_gamma_zero_is_cross_entropy(task):
    logits, target = batch(task)
    expected = CrossEntropyLoss(task)(logits, target)
    torch.testing.assert_close(FocalLoss(task, gamma=0)(logits, target), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_focal_equals_smp(task, gamma, alpha):
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    # In a multilabel task smp selects with a (B, C, H, W) mask from (B, H, W) slices, and fails: compare without void.
    logits, target = batch(task, void=0.2 if task == "binary" else 0.0)
    expected = smp.FocalLoss(task, alpha=alpha, gamma=gamma, ignore_index=255 if task == "binary" else None)
    torch.testing.assert_close(
        FocalLoss(task, alpha=alpha, gamma=gamma)(logits, target), expected(logits, target), rtol=1e-6, atol=0
    )


def test_multiclass_focal_equals_smp_softmax_form():
    functional = pytest.importorskip("segmentation_models_pytorch.losses._functional")
    logits, target = batch("multiclass", void=0.0)
    expected = functional.softmax_focal_loss_with_logits(logits, target, gamma=2.0)
    torch.testing.assert_close(FocalLoss()(logits, target), expected, rtol=1e-10, atol=0)


def test_focal_by_hand():
    logits = scores_of([[[[0.9, 0.5]], [[0.1, 0.5]]]])
    expected = (0.1**2 * -math.log(0.9) + 0.25 * math.log(2)) / 2
    assert FocalLoss(gamma=2)(logits, torch.tensor([[[0, 0]]])).item() == pytest.approx(expected)
    expected = (0.1**2 * -math.log(0.9) * 2 + 0.25 * math.log(2) * 5) / 2
    assert FocalLoss(gamma=2, alpha=[2, 5])(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_for_certain_pixels(gamma):
    logits = torch.tensor([[[[200.0, -200.0]]]], requires_grad=True)
    FocalLoss("binary", gamma=gamma)(logits, torch.tensor([[[1, 1]]])).backward()
    assert logits.grad.isfinite().all()
    # Certain and wrong: the slope of cross-entropy, over 2 pixels.
    assert logits.grad[0, 0, 0, 1] == pytest.approx(-0.5)


# --- Lovász -----------------------------------------------------------------------------------------------------------


def jaccard_loss(truth, wrong):
    """1 - IoU of the prediction that is wrong on exactly these pixels; an empty class is right if none is claimed."""
    predicted = truth ^ wrong
    union = (truth | predicted).sum()
    return 1 - (truth & predicted).sum() / union if union else 0.0


def lovasz_brute_force(errors, truth):
    """The Lovász extension from its definition: the integral over t in (0, max] of jaccard_loss(errors >= t)."""
    levels = [0.0, *sorted(set(errors.tolist()))]
    return sum((b - a) * jaccard_loss(truth, errors >= b) for a, b in itertools.pairwise(levels))


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]), st.booleans()), min_size=1, max_size=7),
)
def test_lovasz_equals_brute_force(pixels):
    """Ties, empty classes and full classes included. Hinge errors max(0, 1 - z) make any error >= 0 reachable."""
    errors = np.array([error for error, _ in pixels])
    truth = np.array([inside for _, inside in pixels])
    logits = torch.from_numpy((1 - errors) * np.where(truth, 1, -1)).view(1, 1, 1, -1)
    target = torch.from_numpy(truth.astype(int)).view(1, 1, -1)
    actual = LovaszLoss("binary")(logits, target).item()
    assert actual == pytest.approx(lovasz_brute_force(errors, truth), abs=1e-9)


def test_lovasz_softmax_equals_brute_force():
    logits, target = batch("multiclass", size=(1, 2, 4), classes=3, void=0.0)
    p = logits.softmax(1)[0].flatten(1).numpy()
    truth = target.flatten().numpy()
    present = sorted(set(truth))
    expected = np.mean([lovasz_brute_force(np.abs((truth == c) - p[c]), truth == c) for c in present])
    assert LovaszLoss()(logits, target).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_of_hard_predictions_is_one_minus_iou(seed):
    from segtutor.metrics import ConfusionMatrix

    _, target = batch("multiclass", seed=seed)
    predicted, _ = batch("multiclass", seed=seed + 100)
    predicted = predicted.argmax(1)
    logits = F.one_hot(predicted, 4).permute(0, 3, 1, 2).double() * 1000
    iou = ConfusionMatrix(4).update(predicted, target).iou
    assert LovaszLoss()(logits, target).item() == pytest.approx(1 - iou.mean().item(), abs=1e-9)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_lovasz_equals_smp(task):
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = batch(task, size=(3, 9, 8), dtype=torch.float32)  # smp's works in float32 only
    logits.requires_grad_()
    values, gradients = [], []
    for loss in (LovaszLoss(task), smp.LovaszLoss(task, ignore_index=255)):
        values.append(loss(logits, target))
        gradients += torch.autograd.grad(values[-1], logits)
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_multilabel_lovasz_equals_smp_per_channel():
    smp = pytest.importorskip("segmentation_models_pytorch.losses")
    logits, target = batch("multilabel", dtype=torch.float32)
    reference = smp.LovaszLoss("binary", ignore_index=255)
    channels = [(logits[:, c : c + 1].contiguous(), target[:, c].contiguous()) for c in range(4)]
    expected = torch.stack([reference(*channel) for channel in channels]).mean()
    torch.testing.assert_close(LovaszLoss("multilabel")(logits, target), expected, rtol=1e-5, atol=0)


def test_lovasz_slopes_survive_many_pixels():
    """In float32 the published differences of neighbours lose their digits; these must agree with float64."""
    from segtutor.losses.regions import _jaccard_steps

    truth = (torch.rand(1, 2_000_000, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    union = truth.sum() + (1 - truth).cumsum(1)
    jaccard = 1 - (truth.sum() - truth.cumsum(1)) / union
    expected = torch.diff(jaccard, prepend=torch.zeros(1, 1, dtype=torch.float64))
    steps = _jaccard_steps(truth.float())
    torch.testing.assert_close(steps[:, :1_900_000].double(), expected[:, :1_900_000], rtol=1e-4, atol=1e-15)


# --- combined ---------------------------------------------------------------------------------------------------------


def test_combined_is_the_weighted_sum():
    logits, target = batch("multiclass")
    ce, dice = CrossEntropyLoss(), DiceLoss()
    expected = 0.5 * ce(logits, target) + 2 * dice(logits, target)
    for losses in ({ce: 0.5, dice: 2}, [(0.5, ce), (2, dice)], iter([(0.5, ce), (2, dice)])):
        torch.testing.assert_close(CombinedLoss(losses)(logits, target), expected)
    assert CombinedLoss([(1, ce), (1, dice)])(logits, torch.full_like(target, 255)).item() == 0
    assert len(list(CombinedLoss({ce: 1, dice: 1}).children())) == 1  # registered: .to(device) reaches the parts


@pytest.mark.parametrize("losses", [[], {}, [(CrossEntropyLoss(), 1.0)]])
def test_combined_refuses_what_is_no_list_of_losses(losses):
    with pytest.raises(ValueError, match="CombinedLoss needs"):
        CombinedLoss(losses)


# --- auxiliary --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [None, DiceLoss()], ids=["default", "dice"])
def test_auxiliary_is_the_weighted_sum_of_two_outputs(loss):
    logits, target = batch("multiclass")
    other = logits.flip(0) * 0.7
    inner = loss or CrossEntropyLoss()
    for weight in (0.4, 0.0, 2.0):
        expected = inner(logits, target) + weight * inner(other, target)
        torch.testing.assert_close(AuxiliaryLoss(weight, loss)((logits, other), target), expected)
    assert AuxiliaryLoss().weight == 0.4
    assert len(list(AuxiliaryLoss().children())) == 1  # registered: .to(device) reaches it


def test_auxiliary_says_how_to_call_it():
    logits, target = batch("multiclass")
    for outputs in (logits, (logits,), (logits, logits, logits)):
        with pytest.raises(ValueError, match="auxiliary=True"):
            AuxiliaryLoss()(outputs, target)
    with pytest.raises(ValueError, match="-1"):
        AuxiliaryLoss(-1)


# --- border weights ---------------------------------------------------------------------------------------------------


def border_map_brute_force(mask, w0, sigma, border_classes, void):
    """Flood fill for the cells, then every distance from every gap pixel to every pixel of every cell."""
    h, w = mask.shape
    inside = {(y, x) for y in range(h) for x in range(w) if mask[y, x] not in (*border_classes, void)}
    cells = []
    while inside:
        front, cell = [inside.pop()], []
        while front:
            y, x = front.pop()
            cell.append((y, x))
            for step in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if step in inside:
                    inside.remove(step)
                    front.append(step)
        cells.append(cell)
    out = np.zeros(mask.shape)
    for y in range(h):
        for x in range(w):
            if mask[y, x] in border_classes and len(cells) > 1:
                d = sorted(min(math.hypot(y - a, x - b) for a, b in cell) for cell in cells)
                out[y, x] = w0 * math.exp(-((d[0] + d[1]) ** 2) / (2 * sigma**2))
    return out


@pytest.mark.parametrize(("sigma", "border"), [(5.0, (0,)), (1.0, (0,)), (2.0, (0, 2))])
@pytest.mark.parametrize("seed", range(3))
def test_border_map_equals_brute_force(seed, sigma, border):
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 0, 0, 1, 2, 255], size=(14, 19), p=[0.4, 0.2, 0.1, 0.15, 0.1, 0.05])
    actual = border_weight_map(torch.from_numpy(mask), w0=10, sigma=sigma, border_classes=border)
    expected = border_map_brute_force(mask, 10, sigma, border, 255)
    assert (expected > 0.1).any()
    np.testing.assert_allclose(actual.numpy(), expected, atol=10 * math.exp(-18) + 1e-6, rtol=1e-6)


def test_border_map_by_hand():
    """Two cells, three gap pixels between them: d1 + d2 = 1 + 3, 2 + 2, 3 + 1, all 4."""
    mask = torch.tensor([[1, 0, 0, 0, 2, 255]])
    term = 10 * math.exp(-(4**2) / (2 * 5**2))
    np.testing.assert_allclose(border_weight_map(mask).numpy(), [[0, term, term, term, 0, 0]], rtol=1e-6)
    assert (border_weight_map(torch.tensor([[1, 0, 0]])) == 0).all()  # one cell has no gap
    assert (border_weight_map(torch.tensor([[1, 2, 0]])) == 0).all()  # two classes that touch are one cell
    assert (border_weight_map(torch.zeros(3, 3, dtype=torch.int64)) == 0).all()
    assert (border_weight_map(mask, ignore_index=0) == 0).all()  # where the border class is void, there is no gap
    diagonal = torch.tensor([[1, 0], [0, 1]])
    assert (border_weight_map(diagonal) > 0).sum() == 2  # corners do not connect


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_border_weighted_loss_is_the_weighted_mean(task):
    logits, target = batch(task, size=(2, 9, 11))
    surprise = (
        F.cross_entropy(logits, target, ignore_index=255, reduction="none")
        if task == "multiclass"
        else F.binary_cross_entropy_with_logits(logits[:, 0], target.clamp(max=1).double(), reduction="none")
    )
    valid = target != 255
    border = torch.stack([border_weight_map(mask, w0=4, sigma=2) for mask in target]).double()
    expected = (surprise * (1 + border))[valid].mean()
    torch.testing.assert_close(BorderWeightedLoss(task, w0=4, sigma=2)(logits, target), expected, rtol=1e-6, atol=0)
    plain = CrossEntropyLoss(task)(logits, target)
    torch.testing.assert_close(BorderWeightedLoss(task, w0=0)(logits, target), plain, rtol=1e-12, atol=0)


def test_border_maps_are_kept_but_not_for_ever(monkeypatch):
    from segtutor.losses import borders as module

    calls = []
    real = module.border_weight_map
    monkeypatch.setattr(module, "border_weight_map", lambda *a, **k: calls.append(1) or real(*a, **k))
    loss = BorderWeightedLoss(cache_size=2)
    logits, target = batch("multiclass", size=(2, 9, 11))
    first = loss(logits, target)
    assert torch.equal(loss(logits, target), first) and len(calls) == 2
    other, masks = batch("multiclass", size=(2, 9, 11), seed=1)
    loss(other, masks)
    assert len(calls) == 4 and len(loss._maps) == 2
    assert torch.equal(loss(logits, target), first) and len(calls) == 6
    # The same bytes in another shape are another mask.
    wide = border_weight_map(target[0].reshape(11, 9))
    assert torch.equal(loss._map(target[0].reshape(11, 9), target[0].reshape(11, 9) != 255), wide)
    none = BorderWeightedLoss(cache_size=0)
    assert torch.equal(none(logits, target), first) and not none._maps
    with pytest.raises(ValueError, match="cache_size is -1; choose 0"):
        BorderWeightedLoss(cache_size=-1)


# ------------------------------------------------------------------------------------------ median frequency balancing
def test_median_frequency_weights_by_hand():
    wide = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    small = torch.tensor([[0, 2], [2, 2]])
    # f0 = (4 + 1) / (8 + 4), f1 = 4 / 8: only the first image contains it, f2 = 3 / 4. The median is 1 / 2.
    weights = median_frequency_weights([wide, small], 3)
    assert weights.dtype == torch.float32
    assert weights[1] == 1.0, "the median class weighs exactly 1"
    torch.testing.assert_close(weights, torch.tensor([0.5 / (5 / 12), 1.0, 0.5 / (3 / 4)]))


def test_median_frequency_weights_leave_void_and_absent_classes_out():
    mask = torch.tensor([[0, 0, 255, 255], [2, 255, 255, 255]])
    # Of three labelled pixels class 0 has two; class 1 is absent. Two frequencies: the lower middle one is 1 / 3.
    torch.testing.assert_close(median_frequency_weights([mask], 3), torch.tensor([0.5, 0.0, 1.0]))
    other = median_frequency_weights([torch.where(mask == 255, 7, mask)], 3, ignore_index=7)
    torch.testing.assert_close(other, torch.tensor([0.5, 0.0, 1.0]))
    void = torch.full((2, 4), 255)
    torch.testing.assert_close(median_frequency_weights([void, mask, void], 3), torch.tensor([0.5, 0.0, 1.0]))
    assert not median_frequency_weights([void], 3).any()


def test_median_frequency_weights_are_the_formula():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 5, (7, 6, 9), generator=generator).masked_fill_(
        torch.rand(7, 6, 9, generator=generator) < 0.1, 255
    )
    masks[:3] = masks[:3].masked_fill(masks[:3] == 4, 0)
    frequency = []
    for c in range(5):
        there = [mask for mask in masks if (mask == c).any()]
        frequency.append(sum(int((m == c).sum()) for m in there) / sum(int((m != 255).sum()) for m in there))
    expected = torch.tensor([sorted(frequency)[2] / f for f in frequency])
    torch.testing.assert_close(median_frequency_weights(masks, 5), expected)
    torch.testing.assert_close(median_frequency_weights(iter(masks.numpy()), 5), expected)
    logits = torch.randn(2, 5, 6, 9, generator=generator)
    assert CrossEntropyLoss(weight=expected)(logits, masks[:2]).isfinite()


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ([], "no masks"),
        (torch.zeros(4, 4, dtype=torch.long), r"\(H, W\).*\(4,\)"),
        ([torch.tensor([[0, 1], [2, 3]])], "number 0 has label 3.*0..2"),
        ([torch.tensor([[0]]), torch.tensor([[-1]])], "number 1 has label -1"),
    ],
)
def test_median_frequency_weights_refuse_with_a_sentence(masks, says):
    with pytest.raises(ValueError, match=says):
        median_frequency_weights(masks, 3)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_cuda_autocast(loss, task, dtype):
    logits, target = batch(task, dtype=torch.float32)
    expected = loss(task)(logits.to(dtype), target)
    for mask in (target, torch.full_like(target, 255)):
        x = logits.to("cuda", dtype).requires_grad_()
        with torch.autocast("cuda", dtype=dtype):
            value = loss(task).cuda()(x, mask.cuda())
        value.backward()
        assert value.dtype == torch.float32 and x.grad.isfinite().all()
        torch.testing.assert_close(value.cpu(), expected if mask is target else torch.zeros(()), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("loss", "task"), [pair for pair in PAIRS if pair[0] is not BorderWeightedLoss])
def test_cuda_does_not_make_the_host_wait(loss, task):
    logits, target = (x.cuda() for x in batch(task, dtype=torch.float32))
    loss = loss(task).cuda()
    loss(logits, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(logits, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("loss", "task"), PAIRS)
def test_cuda_reports_wrong_labels_without_an_assert(loss, task):
    logits, target = (x.cuda() for x in batch(task, dtype=torch.float32))
    logits.requires_grad_()
    wrong = target.clone()
    wrong.view(-1)[3] = 40
    loss = loss(task).cuda()
    value = loss(logits, wrong)
    value.backward()
    assert value.isnan() and (logits.grad == 0).all()
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="holds 40"):
        loss(logits, target)
    assert loss(logits, target).isfinite()  # the device is still alive
    assert copy.deepcopy(loss)(logits, target).isfinite()


# --- probabilities in place of logits ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 30), st.floats(0.01, 100), st.sampled_from(LOSSES),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)  # fmt: skip
def test_a_softmax_before_a_loss_is_refused_and_its_logarithm_is_not(seed, classes, scale, loss, dtype):
    logits, target = batch("multiclass", classes=classes, seed=seed, scale=scale)
    probabilities = logits.softmax(1)
    with pytest.raises(ValueError, match=f"^{loss.__name__}: .*probabilities.*softmax out of the model"):
        loss()(probabilities.to(dtype), target)
    logarithms = probabilities.clamp(min=1e-300).log()
    torch.testing.assert_close(loss()(logarithms, target), loss()(logits, target), rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 100), st.sampled_from(PAIRS))
def test_logits_are_taken_for_logits(seed, scale, pair):
    loss, task = pair
    logits, target = batch(task, seed=seed, scale=scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scores in (logits, logits.clamp(min=0), torch.zeros_like(logits), torch.ones_like(logits)):
            assert loss(task)(scores, target).isfinite()


@pytest.mark.parametrize(("loss", "task"), [pair for pair in PAIRS if pair[1] != "multiclass"])
def test_a_sigmoid_before_a_loss_is_answered_once_with_a_warning(loss, task):
    logits, target = batch(task, scale=9.0)
    loss = loss(task)
    with pytest.warns(UserWarning, match=f"^{type(loss).__name__}: .*torch.logit"):
        loss(logits.sigmoid(), target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(logits.sigmoid(), target)


def test_a_loss_looks_for_probabilities_until_it_knows():
    """The range is read by the host, which on a GPU would have to wait for each batch."""
    loss, (logits, target) = CrossEntropyLoss(), batch("multiclass")
    loss(logits, target)
    assert loss._probabilities.settled
    loss(logits.softmax(1), target)  # so far nobody does both
    assert pickle.loads(pickle.dumps(loss))(logits, target).isfinite()
