"""Scores of a segmentation: one confusion matrix over the whole set, and every score read off it.

A score that is computed per batch and then averaged depends on the batch size, and is not what papers report. So
:class:`ConfusionMatrix` only adds up pixel counts; IoU and its relatives are ratios, taken once, at the end.
:func:`batch_averaged_miou` is the other number, kept so that a reader can see the two side by side.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ConfusionMatrix", "batch_averaged_miou", "boundary_band", "foreground", "per_image_miou"]


class ConfusionMatrix:
    """Counts of (true class, predicted class) pairs over a whole data set, and the scores that follow from them.

    Pixels whose true label is ``ignore_index`` (void) are dropped, whatever was predicted there. A class that neither
    occurs nor is predicted has no score: NaN, and left out of every mean. So has a class that is ``ignore_index``
    itself, as in torchmetrics' IoU. A class that is predicted but never occurs has IoU 0. Pixel accuracy, mean
    accuracy, mIoU and fwIoU are those of Long et al. 2015 (FCN, section 5).

    Args:
        num_classes: C, at least 2 (a binary task has two: background and foreground; a multilabel task has one
            confusion matrix of two classes per label).
        ignore_index: label of void pixels; ``None`` if every pixel counts.
        boundary_width: if given, also score the band of so many pixels around the true class borders, see
            :func:`boundary_band`. This book uses 3.

    Attributes:
        matrix: int64 (C, C) on the CPU, ``matrix[true, predicted]``, in pixels.
        boundary_matrix: the same for the pixels of the band; ``None`` without ``boundary_width``.

    Example:
        >>> scores = ConfusionMatrix(11, boundary_width=3)
        >>> for images, masks in batches:
        ...     scores.update(model(images), masks)
        >>> scores.miou, scores.boundary_miou
    """

    def __init__(self, num_classes: int, *, ignore_index: int | None = 255, boundary_width: int | None = None):
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a binary task has 2, background and foreground")
        if boundary_width is not None and boundary_width < 1:
            raise ValueError(f"boundary_width is {boundary_width}; choose at least 1 pixel, or None for no band")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.boundary_width = boundary_width
        self.reset()

    def reset(self) -> ConfusionMatrix:
        """Forgets everything counted so far."""
        self.matrix = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64)
        self.boundary_matrix = None if self.boundary_width is None else torch.zeros_like(self.matrix)
        self._synchronized = False
        return self

    def update(self, prediction: Tensor, target: Tensor) -> ConfusionMatrix:
        """Counts a batch, or one image.

        Args:
            prediction: integer labels in the shape of the target, or logits (B, C, H, W) of any float type, of which
                the largest wins. With two classes, logits (B, 1, H, W) of a binary model: foreground where above 0.
            target: integer labels, (B, H, W) or (H, W).

        Raises:
            ValueError: for shapes that do not fit, and, on pixels that are not void, for labels outside 0..C-1 and for
                logits that are not a number.
        """
        if self._synchronized:
            raise ValueError("this confusion matrix already holds the counts of all processes; call reset() first")
        self._check_shapes(prediction, target)
        target = target.long()
        valid = torch.ones_like(target, dtype=torch.bool) if self.ignore_index is None else target != self.ignore_index
        prediction = self._labels(prediction, valid)
        self.matrix += self._count(prediction[valid], target[valid])
        if self.boundary_width is not None and self.boundary_matrix is not None:
            band = boundary_band(target, self.boundary_width, self.ignore_index)
            self.boundary_matrix += self._count(prediction[band], target[band])
        return self

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Adds the counts of another confusion matrix with the same settings."""
        for name in ("num_classes", "ignore_index", "boundary_width"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"cannot merge a matrix with {name}={getattr(other, name)} into one with "
                    f"{name}={getattr(self, name)}: make both with the same settings"
                )
        # Not in place: a matrix that `evaluate` filled belongs to inference mode
        self.matrix = self.matrix + other.matrix
        if self.boundary_matrix is not None and other.boundary_matrix is not None:
            self.boundary_matrix = self.boundary_matrix + other.boundary_matrix
        return self

    def synchronize(self) -> ConfusionMatrix:
        """Adds up the counts of all processes of ``torch.distributed``; does nothing in a single process.

        Every process must call it. Afterwards each holds the counts of the whole set. A second call changes nothing,
        and ``update`` is refused until ``reset``, since a second sum would count the first one once per process.
        """
        import torch.distributed as dist

        if self._synchronized or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self
        # NCCL moves CUDA tensors only.
        device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
        for name in ("matrix", "boundary_matrix"):
            if getattr(self, name) is not None:
                counts = getattr(self, name).to(device)
                dist.all_reduce(counts)
                setattr(self, name, counts.cpu())
        self._synchronized = True
        return self

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right. Large classes decide it."""
        return _ratio(self.matrix.diagonal().sum(), self.matrix.sum()).item()

    @property
    def class_accuracy(self) -> Tensor:
        """Share of each class's pixels that were found (recall), float64 (C,); NaN where a class does not occur."""
        return self._scored(_ratio(self.matrix.diagonal(), self.matrix.sum(1)))

    @property
    def mean_accuracy(self) -> float:
        """Mean of :attr:`class_accuracy` over the classes that occur."""
        return self.class_accuracy.nanmean().item()

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class, float64 (C,): right / (true + predicted - right)."""
        return self._scored(_iou(self.matrix))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur or are predicted: the number papers report."""
        return self.iou.nanmean().item()

    @property
    def fwiou(self) -> float:
        """IoU of the classes weighted by their share of the true pixels."""
        share = _ratio(self.matrix.sum(1), self.matrix.sum())
        return (share * self.iou.nan_to_num()).sum().item()

    @property
    def dice(self) -> Tensor:
        """Dice coefficient (F1 score) of each class, float64 (C,): 2 right / (true + predicted) = 2 IoU / (1 + IoU)."""
        return self._scored(_ratio(2 * self.matrix.diagonal(), self.matrix.sum(0) + self.matrix.sum(1)))

    @property
    def boundary_iou(self) -> Tensor:
        """IoU of each class over the pixels of the boundary band only, float64 (C,)."""
        if self.boundary_matrix is None:
            raise ValueError("no boundary was counted; make it ConfusionMatrix(..., boundary_width=3)")
        return self._scored(_iou(self.boundary_matrix))

    @property
    def boundary_miou(self) -> float:
        """Mean of :attr:`boundary_iou` over the classes that occur or are predicted in the band."""
        return self.boundary_iou.nanmean().item()

    def summary(self) -> dict[str, float]:
        """The scores that are one number, by name."""
        scores = {
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "miou": self.miou,
            "fwiou": self.fwiou,
            "mean_dice": self.dice.nanmean().item(),
        }
        return scores if self.boundary_matrix is None else {**scores, "boundary_miou": self.boundary_miou}

    def table(self, class_names: Sequence[str] | None = None) -> str:
        """The scores of every class as text, the means below; "-" where a class has no score.

        Args:
            class_names: C names; numbers if not given.
        """
        names = [str(c) for c in range(self.num_classes)] if class_names is None else list(class_names)
        if len(names) != self.num_classes:
            raise ValueError(f"there are {len(names)} class names for {self.num_classes} classes; give one per class")
        columns = {
            "share": _ratio(self.matrix.sum(1), self.matrix.sum()),
            "accuracy": self.class_accuracy,
            "IoU": self.iou,
            "Dice": self.dice,
        }
        if self.boundary_matrix is not None:
            columns["boundary IoU"] = self.boundary_iou
        rows = [[name, *(f"{column[c]:.3f}" for column in columns.values())] for c, name in enumerate(names)]
        means = [f"{column.nanmean():.3f}" for column in list(columns.values())[1:]]
        rows = [["class", *columns], *rows, ["mean", "", *means]]
        rows = [["-" if cell == "nan" else cell for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return "\n".join(lines)

    def __repr__(self) -> str:
        pixels = int(self.matrix.sum())
        if pixels == 0:
            return f"ConfusionMatrix({self.num_classes} classes, nothing counted yet)"
        scores = ", ".join(f"{name} {value:.3f}" for name, value in self.summary().items())
        return f"ConfusionMatrix({self.num_classes} classes, {pixels:,} pixels: {scores})"

    def _check_shapes(self, prediction: Tensor, target: Tensor) -> None:
        got, wanted = tuple(prediction.shape), tuple(target.shape)
        if target.is_floating_point() or target.dim() not in (2, 3):
            raise ValueError(f"target must be integer labels (B, H, W) or (H, W), got {target.dtype} {wanted}")
        if prediction.device != target.device:
            raise ValueError(f"prediction is on {prediction.device}, target is on {target.device}; use .to(device)")
        if not prediction.is_floating_point():
            if got != wanted:
                raise ValueError(f"predicted labels {got} and target {wanted} must have the same shape")
            return
        if prediction.dim() != target.dim() + 1 or (*got[:-3], *got[-2:]) != wanted:
            raise ValueError(
                f"logits {got} do not fit target {wanted}: they need one dimension more, the classes, before the same "
                "height and width; resize logits that are smaller, and give predicted labels as integers"
            )
        if got[-3] != self.num_classes and (self.num_classes, got[-3]) != (2, 1):
            raise ValueError(f"logits {got} have {got[-3]} channels for {self.num_classes} classes")

    def _labels(self, prediction: Tensor, valid: Tensor) -> Tensor:
        """Predicted labels (B, H, W) or (H, W) out of labels or logits."""
        if not prediction.is_floating_point():
            return prediction.long()
        undecided = int((prediction.isnan().any(-3) & valid).sum())
        if undecided:  # the largest of them would be class 0
            raise ValueError(
                f"the logits are not a number (NaN) at {undecided} of {int(valid.sum())} pixels that count: the model "
                "has diverged, so there is nothing to score"
            )
        return prediction.argmax(-3) if prediction.shape[-3] > 1 else foreground(prediction.squeeze(-3))

    def _scored(self, scores: Tensor) -> Tensor:
        """The scores of the classes, NaN for one that is ignored: none of its pixels counts, so it would be 0."""
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            scores[self.ignore_index] = math.nan
        return scores

    def _count(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(C, C) counts of label pairs, two flat int64 tensors of the same length."""
        for name, labels in (("target", target), ("prediction", prediction)):
            wrong = labels[(labels < 0) | (labels >= self.num_classes)].unique().tolist()
            if wrong:
                shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
                void = f" (void is {self.ignore_index})" if name == "target" else ""
                raise ValueError(f"the {name} holds {shown}; allowed are 0..{self.num_classes - 1}{void}")
        pairs = self.num_classes * target + prediction
        return pairs.bincount(minlength=self.num_classes**2).view_as(self.matrix).cpu()


def foreground(logits: Tensor) -> Tensor:
    """Labels out of the one logit per pixel of a binary model: 1 where it is above 0, which is a probability of 0.5.

    Probabilities are above 0 nearly everywhere, so all would be foreground: scores that reach from one end of [0, 1]
    to the other and nowhere beyond are answered with a warning.

    Args:
        logits: of any shape and float type.

    Returns:
        int64, the same shape.
    """
    if logits.numel():
        low, high = (float(end) for end in logits.aminmax())
        if 0 <= low < 0.01 and 0.99 < high <= 1:
            warnings.warn(
                "all logits lie in [0, 1], as probabilities do, and every one above 0 is taken for foreground: if they "
                "are probabilities p, give the labels (p > 0.5).long()",
                stacklevel=2,
            )
    return (logits > 0).long()


def boundary_band(target: Tensor, width: int = 3, ignore_index: int | None = 255) -> Tensor:
    """The pixels near a border between two true classes: those with another class at most ``width`` pixels away.

    Distance is Chebyshev's, the larger of the vertical and the horizontal step, so "within 3 pixels" is a 7 x 7
    window: max-pooling does it on any device, and eroding three times with a 3 x 3 square, as the code of Boundary IoU
    does (Cheng et al. 2021), cuts the same band. With ``width=1`` it is one pixel on either side of each border. A
    Euclidean band would only be rounder at the corners, at the price of a distance transform on the CPU.

    Void pixels are no class: they are never in the band, and an object next to nothing but void has no border there.
    Nor does the image's edge make one.

    Args:
        target: integer labels, (..., H, W), on any device.
        width: in pixels of the target, at least 1.
        ignore_index: label of void pixels; ``None`` if there are none.

    Returns:
        bool, the shape of the target.
    """
    if width < 1:
        raise ValueError(f"width is {width}; a band has at least 1 pixel on each side of a border")
    labels = target.reshape(-1, 1, *target.shape[-2:]).float()  # (N, 1, H, W)
    void = torch.zeros_like(labels, dtype=torch.bool) if ignore_index is None else labels == ignore_index
    # A window holds two classes exactly if the largest and the smallest label in it differ.
    largest = _window_max(labels.masked_fill(void, -math.inf), width)  # (N, 1, H, W)
    smallest = -_window_max((-labels).masked_fill(void, -math.inf), width)  # (N, 1, H, W)
    return ((largest != smallest) & ~void).view(target.shape)


def per_image_miou(
    predictions: Iterable[Tensor], targets: Iterable[Tensor], num_classes: int, *, ignore_index: int | None = 255
) -> float:
    """Mean over the images of each image's own mIoU: "how good is a typical picture?"

    A fair question, but not the benchmark's: here a class counts in an image by being there, however few its pixels,
    and a small object missed in one picture weighs as much as all the road in another. Report it under this name.

    Args:
        predictions: one entry per image, labels (H, W) or logits (C, H, W); a batched tensor will do.
        targets: one entry per image, (H, W).
        num_classes: C.
        ignore_index: label of void pixels.
    """
    return batch_averaged_miou(predictions, targets, num_classes, batch_size=1, ignore_index=ignore_index)


def batch_averaged_miou(
    predictions: Iterable[Tensor],
    targets: Iterable[Tensor],
    num_classes: int,
    *,
    batch_size: int,
    ignore_index: int | None = 255,
) -> float:
    """The mIoU of each batch, averaged over the batches: a common mistake, here to be compared with the right number.

    It changes with the batch size and with the order of the images, so it says little about a model. Use
    :attr:`ConfusionMatrix.miou` for anything that is compared with another number.

    Args:
        predictions: one entry per image, labels (H, W) or logits (C, H, W); a batched tensor will do.
        targets: one entry per image, (H, W).
        num_classes: C.
        batch_size: images per batch; the last batch may be smaller.
        ignore_index: label of void pixels. A batch that is all void has no mIoU and is left out.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; choose at least 1")
    batches = []
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        if i % batch_size == 0:
            batches.append(ConfusionMatrix(num_classes, ignore_index=ignore_index))
        batches[-1].update(prediction, target)
    if not batches:
        raise ValueError("there are no images to score")
    return torch.tensor([batch.miou for batch in batches], dtype=torch.float64).nanmean().item()


def _iou(matrix: Tensor) -> Tensor:
    right = matrix.diagonal()
    return _ratio(right, matrix.sum(0) + matrix.sum(1) - right)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """In float64, which holds every count exactly; 0 / 0 is NaN."""
    return part.double() / whole.double()


def _window_max(x: Tensor, width: int) -> Tensor:
    """Largest value of the square window of ``width`` pixels to each side, (N, 1, H, W); rows first, then columns."""
    x = F.max_pool2d(x, (2 * width + 1, 1), stride=1, padding=(width, 0))
    return F.max_pool2d(x, (1, 2 * width + 1), stride=1, padding=(0, width))
