r"""Losses for semantic segmentation: logits in, one number out.

All of them share one contract, kept by :class:`SegmentationLoss`, so that a loss itself is only its formula:

- ``loss(logits, target)``: logits are raw scores, ``(B, C, H, W)``; softmax or sigmoid happens in here.
- ``task`` says what the channels mean.
  ``"multiclass"``: each pixel has one class; the target ``(B, H, W)`` holds 0..C-1.
  ``"binary"``: one channel, foreground or not; the target ``(B, H, W)`` holds 0 or 1.
  ``"multilabel"``: C independent yes/no questions per pixel; the target ``(B, C, H, W)`` holds 0 or 1.
- Pixels labelled ``ignore_index`` (void) count in no sum and get no gradient. A batch that is all void has loss 0.
- Half-precision logits are worked on in float32: a sum over a million pixels does not fit into float16.

Read :class:`CrossEntropyLoss`, then :class:`DiceLoss`: the first adds up pixels, the second compares regions.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AuxiliaryLoss",
    "BorderWeightedLoss",
    "CombinedLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "LovaszLoss",
    "SegmentationLoss",
    "border_weight_map",
    "median_frequency_weights",
]

TASKS = ("multiclass", "binary", "multilabel")


class SegmentationLoss(nn.Module):
    """What all losses share: check the input, cut the void out, compute in float32.

    A loss of your own is a subclass with one method, ``compute(logits, target, valid)``. It gets float32 (or
    float64) logits whose void entries are 0 and cut off from the gradient, int64 targets whose void entries are 0,
    and the mask of the entries that count.

    Args:
        task: "multiclass", "binary" or "multilabel".
        ignore_index: the label of void pixels; ``None`` if every pixel counts.

    Raises:
        ValueError: for shapes or labels that do not fit. On a CUDA device labels are checked without making the host
            wait: a batch with a wrong label has loss NaN (and gradient 0), and a later call of the loss raises.
    """

    def __init__(self, task: str = "multiclass", *, ignore_index: int | None = 255):
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"{type(self).__name__}: task is {task!r}; choose one of {', '.join(map(repr, TASKS))}")
        self.task = task
        self.ignore_index = ignore_index
        self._labels = _LabelCheck()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        _check_shapes(self, logits, target)
        target = target.long()
        valid = torch.ones_like(target, dtype=torch.bool) if self.ignore_index is None else target != self.ignore_index
        wrong = self._labels.check(self, target, valid, classes=logits.shape[1] if self.task == "multiclass" else 2)
        target = target.masked_fill(~valid | wrong, 0)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        # Filled, not multiplied by 0: an infinite logit on a void pixel must not turn into NaN.
        logits = logits.masked_fill(~valid if self.task == "multilabel" else ~valid[:, None], 0)
        return self.compute(logits, target, valid).masked_fill(wrong.any(), float("nan"))

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} needs a compute(logits, target, valid) method")

    def extra_repr(self) -> str:
        return f"{self.task!r}, ignore_index={self.ignore_index}"


class CrossEntropyLoss(SegmentationLoss):
    r"""Every pixel asks: how surprised was the model by my true class? The loss is the mean surprise.

    .. math:: L = \frac{\sum_i w_{y_i} \, (-\log p_i[y_i])}{\sum_i w_{y_i}}

    over the pixels *i* that are not void, with class weights *w* (1 unless given), as in ``torch.nn.CrossEntropyLoss``.
    A class with ten times the pixels has ten times the votes. Long et al. 2015 (FCN, section 4.3) leave it so;
    Badrinarayanan et al. 2017 (SegNet, section 3) weigh each class by median frequency / its frequency.

    Args:
        weight: one weight per class, at least 0. Binary and multilabel: two, for 0 and for 1.
        label_smoothing: share of the truth that is spread evenly over all classes (Szegedy et al. 2016, section 7).
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        weight: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(task, ignore_index=ignore_index)
        self.register_buffer("weight", _class_weights(weight, "weight"))
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it is a share, so choose 0..1")
        self.label_smoothing = label_smoothing

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = _class_scores(logits, self.task)  # (B, K, H, W): K classes compete at each pixel
        weight = _fit(self.weight, scores)  # (K,)
        surprise = F.cross_entropy(  # (B, H, W): w * -log p of the true class
            scores, target, weight, reduction="none", label_smoothing=self.label_smoothing
        )
        return _mean(surprise, valid, weight[target] * valid)


class DiceLoss(SegmentationLoss):
    r"""How much do the predicted and the true region of each class overlap, whatever their size?

    .. math:: L = \operatorname{mean}_{c \in K} \left( 1 -
              \frac{2 \sum_i p_i[c]\, g_i[c] + s}{\sum_i p_i[c] + \sum_i g_i[c] + s} \right)

    with probabilities *p*, truth *g* (0 or 1) and sums over all pixels of the batch. 0 is perfect overlap, 1 is none,
    and a lamp post counts as much as the sky. Milletari et al. 2016 (V-Net, section 3) square the terms below the
    line; this is the plain form.

    K is, in multiclass, the classes that occur in the batch: probability spent on another class is missing where it
    belongs, and is charged there. In binary and multilabel it is every channel, since nothing else would charge for
    foreground where there is none.

    Args:
        smooth: *s*, in pixels; keeps quotient and gradient calm for regions of a few pixels. 0 is the plain quotient.
    """

    def __init__(self, task: str = "multiclass", *, smooth: float = 1.0, ignore_index: int | None = 255):
        super().__init__(task, ignore_index=ignore_index)
        if smooth < 0:
            raise ValueError(f"smooth is {smooth}; it is added to pixel counts, so choose at least 0")
        self.smooth = smooth

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        p, g = _regions(logits, target, valid, self.task)  # (C, N) each, N = B*H*W, 0 where void
        overlap = (p * g).sum(1)  # (C,)
        size = p.sum(1) + g.sum(1)  # (C,)
        dice = (2 * overlap + self.smooth) / (size + self.smooth).clamp_min(1e-12)
        counts = g.any(1) if self.task == "multiclass" else size > 0
        return _mean(1 - dice, counts, counts)


class FocalLoss(SegmentationLoss):
    r"""Cross-entropy that loses interest in pixels it already gets right.

    .. math:: L = \operatorname{mean}_i \; \alpha_{y_i} \, (1 - p_i[y_i])^\gamma \, (-\log p_i[y_i])

    At gamma = 2 a pixel with p = 0.9 counts 100 times less than in cross-entropy. Lin et al. 2017 (RetinaNet, section
    3) divide by the number of objects; here it is the mean over the pixels that are not void. ``gamma=0, alpha=None``
    is cross-entropy.

    Args:
        alpha: ``None`` for 1 everywhere. Binary and multilabel: one number in 0..1, alpha for foreground and 1 - alpha
            for background (the paper's 0.25 goes with gamma 2). Multiclass: one number per class.
        gamma: at least 0; the paper's best is 2.
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        alpha: float | Sequence[float] | Tensor | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = 255,
    ):
        super().__init__(task, ignore_index=ignore_index)
        if isinstance(alpha, (int, float)):
            if task == "multiclass" or not 0 <= alpha <= 1:
                raise ValueError(f"alpha is {alpha}; 'multiclass' takes one number per class, other tasks one in 0..1")
            alpha = (1 - alpha, alpha)
        self.register_buffer("alpha", _class_weights(alpha, "alpha"))
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; below 0 it would favour the easy pixels, choose at least 0")
        self.gamma = gamma

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = _class_scores(logits, self.task)  # (B, K, H, W)
        surprise = F.cross_entropy(scores, target, reduction="none")  # (B, H, W): -log p of the true class
        doubt = -torch.expm1(-surprise)  # 1 - p, exact also where p is nearly 1
        # The floor keeps the slope of doubt**gamma finite at p = 1, where gamma < 1 would make it infinite.
        focal = doubt.clamp_min(1e-12) ** self.gamma * surprise
        return _mean(focal * _fit(self.alpha, scores)[target], valid, valid)


class LovaszLoss(SegmentationLoss):
    r"""IoU itself, made differentiable: the Lovász extension of the Jaccard loss, 1 - IoU.

    IoU counts hard decisions, and those have no gradient. Take an error *m* per pixel instead (0 right, 1 wrong), sort
    the pixels from worst to best, and let them go wrong one after the other. Each step raises the Jaccard loss J:

    .. math:: L_c = \sum_k m_{(k)} \, (J_k - J_{k-1}), \qquad m_{(1)} \ge m_{(2)} \ge \dots

    For errors of exactly 0 and 1 the sum telescopes to 1 - IoU; in between it is convex in the errors. Berman et al.
    2018 (section 3): multiclass is the Lovász-softmax, m = abs(g - p), mean over the classes that occur; binary and
    multilabel are the Lovász hinge, m = max(0, 1 - logit) on foreground and max(0, 1 + logit) elsewhere, mean over the
    channels. All pixels of the batch form one set.
    """

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        p, g = _regions(logits, target, valid, self.task)  # (C, N) each, 0 where void
        if self.task == "multiclass":
            errors = (g - p).abs()
            counts = g.any(1)
        else:
            inside = _flat_valid(valid, self.task)
            errors = F.relu(1 - _flat(logits) * (2 * g - 1)) * inside
            counts = inside.any(1)
        errors, order = errors.sort(dim=1, descending=True)  # a void pixel has error 0: last, and of no effect
        return _mean((errors * _jaccard_steps(g.gather(1, order))).sum(1), counts, counts)


class CombinedLoss(nn.Module):
    """A weighted sum of losses, such as cross-entropy for the pixels plus Dice for the rare classes.

    Args:
        losses: ``{loss: weight}`` or a list of ``(weight, loss)``.

    Example:
        >>> loss = CombinedLoss([(1.0, CrossEntropyLoss()), (0.5, DiceLoss())])
    """

    def __init__(self, losses: Mapping[nn.Module, float] | Iterable[tuple[float, nn.Module]]):
        super().__init__()
        pairs = [(w, loss) for loss, w in losses.items()] if isinstance(losses, Mapping) else list(losses)
        if not pairs or not all(isinstance(loss, nn.Module) and isinstance(w, (int, float)) for w, loss in pairs):
            raise ValueError("CombinedLoss needs {loss: weight} or [(weight, loss), ...] with at least one loss")
        self.weights = [float(w) for w, _ in pairs]
        self.losses = nn.ModuleList(loss for _, loss in pairs)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return sum(w * loss(logits, target) for w, loss in zip(self.weights, self.losses, strict=True))

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


class AuxiliaryLoss(nn.Module):
    r"""A second, smaller vote on how the middle of the network is doing.

    .. math:: L = \ell(z, y) + \alpha \, \ell(z_{\text{aux}}, y)

    The auxiliary logits come from a head in the middle of the trunk, so its gradient reaches the early layers by a
    shorter way. The head is for training alone. Zhao et al. 2017 (PSPNet, section 3.3) with alpha = 0.4.

    Args:
        weight: alpha, at least 0.
        loss: the loss of either output; ``None`` for `CrossEntropyLoss`.

    Raises:
        ValueError: a negative weight; in the call, anything but a pair of logits.

    Example:
        >>> fit(model, dataset, steps=400, loss=AuxiliaryLoss(), forward=model.forward_with_auxiliary)
    """

    def __init__(self, weight: float = 0.4, loss: nn.Module | None = None):
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight is {weight}; below 0 it would reward mistakes, choose at least 0")
        self.weight = float(weight)
        self.loss = CrossEntropyLoss() if loss is None else loss

    def forward(self, outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        if isinstance(outputs, Tensor) or len(outputs) != 2:
            raise ValueError(
                "AuxiliaryLoss takes the pair (logits, auxiliary logits): "
                "train with fit(..., forward=model.forward_with_auxiliary)"
            )
        logits, auxiliary_logits = outputs
        return self.loss(logits, target) + self.weight * self.loss(auxiliary_logits, target)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class BorderWeightedLoss(SegmentationLoss):
    r"""Cross-entropy in which the narrow gaps between two touching cells count most.

    .. math:: L = \operatorname{mean}_i \; w_i \, (-\log p_i[y_i]), \qquad
              w_i = w_{y_i} + w_0 \exp\!\left(-\frac{(d_{1,i} + d_{2,i})^2}{2 \sigma^2}\right)

    d1 and d2 are the distances in pixels to the nearest and to the second nearest cell. Ronneberger et al. 2015
    (U-Net, section 3, equation 2); here it is the mean over the pixels that are not void where the paper has the sum.
    :func:`border_weight_map` says what a cell is in a class mask. The map is made on the CPU and kept for masks that
    come again, so on CUDA this loss makes the host wait.

    Args:
        w0: extra weight of a pixel in a gap of width 0.
        sigma: width of the gaps that matter, in pixels.
        weight: w of each class, 1 unless given (binary: for 0 and for 1).
        border_classes: the classes that lie between cells: background, membrane.
        cache_size: how many maps to keep.
    """

    def __init__(
        self,
        task: str = "multiclass",
        *,
        w0: float = 10.0,
        sigma: float = 5.0,
        weight: Sequence[float] | Tensor | None = None,
        border_classes: Sequence[int] = (0,),
        ignore_index: int | None = 255,
        cache_size: int = 256,
    ):
        super().__init__(task, ignore_index=ignore_index)
        if task == "multilabel" or w0 < 0 or sigma <= 0:
            raise ValueError(
                "BorderWeightedLoss needs task 'multiclass' or 'binary', w0 of at least 0 and sigma above 0; "
                f"got task={task!r}, w0={w0}, sigma={sigma}"
            )
        self.register_buffer("weight", _class_weights(weight, "weight"))
        self.w0, self.sigma, self.border_classes = w0, sigma, tuple(border_classes)
        self.cache_size = cache_size
        self._maps: OrderedDict[bytes, Tensor] = OrderedDict()

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = _class_scores(logits, self.task)  # (B, K, H, W)
        surprise = F.cross_entropy(scores, target, reduction="none")  # (B, H, W)
        masks = zip(target.cpu(), valid.cpu(), strict=True)
        border = torch.stack([self._map(mask, known) for mask, known in masks]).to(surprise)  # (B, H, W)
        return _mean(surprise * (_fit(self.weight, scores)[target] + border), valid, valid)

    def _map(self, mask: Tensor, known: Tensor) -> Tensor:
        """The map of one mask (H, W), from the cache if this mask was seen before."""
        mask = mask.masked_fill(~known, -1)
        key = hashlib.blake2b(mask.numpy().tobytes() + repr(mask.shape).encode()).digest()
        if key not in self._maps:
            self._maps[key] = border_weight_map(
                mask, w0=self.w0, sigma=self.sigma, border_classes=self.border_classes, ignore_index=-1
            )
        self._maps.move_to_end(key)
        found = self._maps[key]
        while len(self._maps) > self.cache_size:
            self._maps.popitem(last=False)
        return found


def border_weight_map(
    mask: Tensor,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    border_classes: Sequence[int] = (0,),
    ignore_index: int | None = 255,
) -> Tensor:
    """U-Net's border term for one class mask (Ronneberger et al. 2015, section 3, equation 2, without w_c).

    The paper has a list of cells; a class mask has none. Here a cell is a connected component of everything that is
    neither a border class nor void, so a mitochondrion belongs to the cell around it. Components connect through pixel
    sides, not corners, so a diagonal membrane one pixel wide separates. The term goes to pixels of the border classes
    only, since those are the gaps. Distances are Euclidean, to the nearest pixel *of* the cell: 1 for its neighbour.
    With fewer than two cells there is no gap, and the map is 0.

    Args:
        mask: integer labels, (H, W).
        w0: weight for d1 + d2 = 0.
        sigma: in pixels.
        border_classes: labels of what lies between cells.
        ignore_index: label of void pixels; they are no cell and no gap, and get 0.

    Returns:
        float32 (H, W) on the CPU, between 0 and w0. Terms below w0 * exp(-18), from d1 + d2 > 6 sigma, are left at 0.
    """
    import numpy as np
    from scipy import ndimage

    labels = mask.cpu().numpy()
    gap = np.isin(labels, border_classes)  # (H, W)
    void = np.zeros_like(gap) if ignore_index is None else labels == ignore_index
    gap &= ~void
    cells, _ = ndimage.label(~gap & ~void)  # (H, W): 0 for no cell, else the number of the cell
    reach = int(np.ceil(6 * sigma))  # beyond it the term is nothing, so each cell needs a look at its surroundings only
    d1, d2 = (np.full(labels.shape, np.inf) for _ in range(2))
    for number, box in enumerate(ndimage.find_objects(cells), start=1):
        around = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        d = ndimage.distance_transform_edt(cells[around] != number)
        d2[around] = np.minimum(d2[around], np.maximum(d, d1[around]))
        d1[around] = np.minimum(d1[around], d)
    reached = gap & (d1 + d2 <= 6 * sigma)
    term = np.zeros(labels.shape, dtype=np.float32)
    term[reached] = w0 * np.exp(-((d1[reached] + d2[reached]) ** 2) / (2 * sigma**2))
    return torch.from_numpy(term)


# ----------------------------------------------------------------------------------------------------------------------
# The small tools of the formulas above
# ----------------------------------------------------------------------------------------------------------------------


def median_frequency_weights(masks: Iterable[Tensor], num_classes: int, *, ignore_index: int | None = 255) -> Tensor:
    r"""Class weights by median frequency balancing: the rarer a class where it occurs, the heavier its pixels.

    .. math:: w_c = \frac{\operatorname{median}(f)}{f_c}, \qquad
              f_c = \frac{\text{pixels of class } c}{\text{pixels of the images that contain } c}

    Void pixels count nowhere. The frequency is taken over the images that contain the class, so a class is not called
    rare because few images show it (proposed by Eigen and Fergus 2015, taken up by SegNet). Of an even number of
    frequencies the median is the lower middle one, so that some class weighs exactly 1. A class that no mask contains
    has no frequency: it stays out of the median and weighs 0.

    Args:
        masks: training masks (H, W), one after the other or stacked as (B, H, W); sizes may differ.
        num_classes: how many classes there are.
        ignore_index: the label of void pixels; ``None`` if every pixel counts.

    Returns:
        Tensor (num_classes,), float32, for ``CrossEntropyLoss(weight=...)``.

    Raises:
        ValueError: no masks, a mask that is not (H, W), or a label that is no class.
    """
    pixels, area = torch.zeros(2, num_classes, dtype=torch.float64)
    images = 0
    for images, mask in enumerate(masks, start=1):
        mask = torch.as_tensor(mask)
        if mask.dim() != 2:
            raise ValueError(f"masks must be (H, W) each, but number {images - 1} is {tuple(mask.shape)}")
        labels = mask.long().flatten().cpu()
        labels = labels if ignore_index is None else labels[labels != ignore_index]
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong):
            raise ValueError(
                f"mask number {images - 1} has label {int(wrong[0])}, but classes are 0..{num_classes - 1}: "
                "name the void label as ignore_index, or correct num_classes"
            )
        count = labels.bincount(minlength=num_classes)
        pixels += count
        area += (count > 0) * len(labels)
    if not images:
        raise ValueError("there are no masks to count: pass the masks of the training set")
    present = pixels > 0
    frequency = pixels[present] / area[present]
    weights = torch.zeros(num_classes)
    if len(frequency):
        weights[present] = (frequency.median() / frequency).float()
    return weights


def _class_scores(logits: Tensor, task: str) -> Tensor:
    """Logits with the competing classes in dimension 1: (B, C, H, W), binary (B, 2, H, W), multilabel (B, 2, C, H, W).

    A sigmoid is a softmax over two classes of which the first has logit 0, so every pixel-wise formula is written once.
    """
    if task == "multiclass":
        return logits
    logits = logits[:, 0] if task == "binary" else logits
    return torch.stack([torch.zeros_like(logits), logits], dim=1)


def _regions(logits: Tensor, target: Tensor, valid: Tensor, task: str) -> tuple[Tensor, Tensor]:
    """Probabilities and truth, one row per class: p (C, N), g (C, N) with N = B*H*W, both 0 on void pixels."""
    if task == "multiclass":
        p = logits.softmax(dim=1)  # (B, C, H, W)
        g = torch.zeros_like(p).scatter_(1, target[:, None], 1)  # (B, C, H, W)
    else:
        p = logits.sigmoid()
        g = target.view_as(p).to(p.dtype)
    inside = _flat_valid(valid, task)  # (C, N), or (1, N) for all classes alike
    return _flat(p) * inside, _flat(g) * inside


def _flat(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C, B*H*W)."""
    return x.transpose(0, 1).flatten(1)


def _flat_valid(valid: Tensor, task: str) -> Tensor:
    return _flat(valid if task == "multilabel" else valid[:, None])


def _jaccard_steps(truth: Tensor) -> Tensor:
    """By how much the Jaccard loss grows as pixels go wrong in this order (Berman et al. 2018, algorithm 1).

    The paper subtracts neighbours of the sequence J; these are the differences in closed form, since the float32
    difference of two numbers near 1 has no correct digit left when there are ten million pixels.

    Args:
        truth: (C, N), 1 where the pixel belongs to the class, in order of decreasing error.
    """
    inside = truth.bool()
    total = inside.sum(1, keepdim=True)  # (C, 1)
    union = (total + (~inside).cumsum(1)).to(truth.dtype)  # (C, N): true pixels and all false alarms so far
    kept = (total - inside.cumsum(1)).to(truth.dtype)  # (C, N): true pixels not lost so far
    lost_one = 1 / union.clamp_min(1)
    false_alarm = kept / (union * (union - 1)).clamp_min(1)
    steps = torch.where(inside, lost_one, false_alarm)
    # A class without a pixel: its first false alarm takes IoU from 1 to 0, the others change nothing.
    first = torch.arange(truth.shape[1], device=truth.device) == 0
    return torch.where((total == 0) & first, 1.0, steps)


def _mean(values: Tensor, counted: Tensor, weights: Tensor) -> Tensor:
    """Sum of the counted values over the sum of the weights; 0 if nothing counts, as in an all-void batch."""
    total = weights.sum(dtype=values.dtype)
    return values.masked_fill(~counted, 0).sum() / torch.where(total > 0, total, 1)


def _class_weights(weight: Sequence[float] | Tensor | None, name: str) -> Tensor | None:
    if weight is None:
        return None
    weight = torch.as_tensor(weight, dtype=torch.float32)
    if weight.dim() != 1 or not bool((weight >= 0).all() & weight.isfinite().all()):
        raise ValueError(f"{name} must be a list of finite numbers >= 0, one per class; got {weight.tolist()}")
    return weight


def _fit(weight: Tensor | None, scores: Tensor) -> Tensor:
    """The class weights, checked against the number of classes; ones if there are none."""
    classes = scores.shape[1]
    if weight is None:
        return scores.new_ones(classes)
    if len(weight) != classes:
        raise ValueError(f"there are {len(weight)} class weights for {classes} classes; give one per class")
    return weight.to(scores)


def _check_shapes(loss: SegmentationLoss, logits: Tensor, target: Tensor) -> None:
    name, shape, classes = type(loss).__name__, tuple(logits.shape), logits.shape[1] if logits.dim() > 1 else 0
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(f"{name}: logits must be floats of shape (B, C, H, W), got {logits.dtype} of shape {shape}")
    if loss.task == "binary" and classes != 1:
        raise ValueError(f"{name}: task 'binary' needs one channel, got logits {shape}; use one, or another task")
    if loss.task == "multiclass" and classes == 1:
        raise ValueError(f"{name}: softmax over the one channel of logits {shape} is always 1; use task='binary'")
    expected = shape if loss.task == "multilabel" else (shape[0], *shape[2:])
    if tuple(target.shape) != expected:
        raise ValueError(
            f"{name}: task {loss.task!r} with logits {shape} needs a target of shape {expected}, "
            f"got {tuple(target.shape)}"
        )
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"{name}: target must hold integer labels, got {target.dtype}; convert it with target.long()")
    if target.device != logits.device:
        raise ValueError(f"{name}: logits are on {logits.device}, target is on {target.device}; use .to(device)")


class _LabelCheck:
    """Finds labels that are no class: at once on the CPU; on CUDA as soon as the device has answered, without waiting.

    Without it a wrong label stops a CUDA program with "device-side assert triggered", far from its cause.
    """

    def __init__(self):
        self.pending = deque()  # (event, smallest and largest label, number of classes) of earlier CUDA batches

    def check(self, loss: SegmentationLoss, target: Tensor, valid: Tensor, classes: int) -> Tensor:
        """The mask of the valid entries that hold no class. Raises ValueError if such labels are known of."""
        while self.pending and self.pending[0][0].query():
            _, extremes, allowed = self.pending.popleft()
            _refuse_labels(loss, [label for label in extremes.tolist() if not 0 <= label < allowed], allowed)
        wrong = valid & ((target < 0) | (target >= classes))
        if target.device.type != "cuda":
            if wrong.any():
                _refuse_labels(loss, target[wrong].unique().tolist(), classes)
        elif target.numel() and not torch.cuda.is_current_stream_capturing():
            labels = target.masked_fill(~valid, 0)
            extremes = torch.stack([labels.min(), labels.max()]).to("cpu", non_blocking=True)
            answered = torch.cuda.Event()
            answered.record()
            self.pending.append((answered, extremes, classes))
        return wrong

    def __reduce__(self):
        return _LabelCheck, ()  # a CUDA event can be neither copied nor pickled


def _refuse_labels(loss: SegmentationLoss, found: list[int], classes: int) -> None:
    if found:
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        void = "" if loss.ignore_index is None else f" and ignore_index {loss.ignore_index}"
        raise ValueError(
            f"{type(loss).__name__}: the target holds {shown}, but task {loss.task!r} with {classes} classes allows "
            f"0..{classes - 1}{void}; remap the masks (segtutor.data.check_dataset names the files)"
        )
