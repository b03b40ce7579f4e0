"""Images and label masks: the four panels, overlays, legends and grids of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from segtutor.viz.style import (
    CARD,
    INK,
    VOID,
    WIDTH,
    WRONG,
    bare,
    class_colors,
    class_count,
    class_handles,
    class_name,
    headline,
    ink_on,
    legend_row,
    styled,
    void_label,
)


@styled
def show_panels(
    image: Any,
    truth: Any,
    prediction: Any = None,
    *,
    spec: Any = None,
    title: str | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """The four panels of the book: image, truth, prediction and error map, with a legend of the classes that occur.

    One sample fills two rows of two and has class names written into it. Several samples take one row of four each.

    Args:
        image: (C, H, W) in [0, 1], or several as (B, C, H, W) or a list.
        truth: (H, W) labels, or several. Void pixels are hatched.
        prediction: (H, W) labels or (num_classes, H, W) logits, or several; None leaves the last two panels out. The
            one logit of a binary model is above 0 for foreground.
        spec: class names and void label. None: classes are numbered and 255 is void.
        title: line above the figure.
        names: a name for each row, written at its left.

    Raises:
        ValueError: sizes or numbers of the pictures do not go together, or an image is normalised.
    """
    truths = [_labels(t) for t in _rows(truth, 2)]
    images = [_picture(i) for i in _rows(image, 3)]
    predictions = None if prediction is None else _rows(prediction, 2)
    if predictions is not None:
        if isinstance(prediction, (Tensor, np.ndarray)) and prediction.ndim == 3 and len(truths) == 1:
            floats = torch.as_tensor(prediction).is_floating_point()  # logits of one image, of one channel or more
            predictions = [prediction] if floats or prediction.shape[0] != 1 else [prediction[0]]
        predictions = [_labels(p) for p in predictions]
        images, truths = (x * len(predictions) if len(x) == 1 else x for x in (images, truths))
    groups = [images, truths] + ([predictions] if predictions is not None else [])
    if len({len(group) for group in groups}) != 1:
        raise ValueError(f"the numbers of images, truths and predictions differ: {[len(group) for group in groups]}")
    for row in zip(*groups, strict=True):
        sizes = {item.shape[:2] for item in row}
        if len(sizes) != 1:
            raise ValueError(f"image, truth and prediction of one row differ in size: {sorted(sizes)}")

    per_sample = 2 if predictions is None else 4
    single = len(images) == 1
    columns = 2 if single or predictions is None else 4
    lines = len(images) * per_sample // columns
    height, width = truths[0].shape
    full = WIDTH * min(1.0, 0.75 * width / height) if columns == 2 else WIDTH  # square pictures would fill a screen
    cell = (full - 0.1 * columns) / columns
    titled = lines if columns == 2 else 1
    tall = lines * (cell * height / width + 0.06) + 0.21 * titled + (0.3 if title else 0)
    figure, axes = plt.subplots(lines, columns, figsize=(full, tall), squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    flat = axes.ravel()
    wrong_anywhere = False
    for number, (picture, true) in enumerate(zip(images, truths, strict=True)):
        panel = flat[number * per_sample : (number + 1) * per_sample]
        heads = ("Image", "Truth", "Prediction") if single or number == 0 else (None, None, None)
        panel[0].imshow(picture)
        bare(panel[0], heads[0])
        _show_mask(panel[1], true, spec, heads[1])
        if names is not None:
            panel[0].set_ylabel(names[number], fontsize=8.5, color=INK)
        if predictions is None:
            continue
        _show_mask(panel[2], np.where(true == void_label(spec), void_label(spec), predictions[number]), spec, heads[2])
        share = _show_error(panel[3], picture, true, predictions[number], spec)
        wrong_anywhere |= share > 0
        if columns == 2:
            bare(panel[3], f"Error: {100 * share:.1f} % of pixels")
            continue
        bare(panel[3], "Error" if number == 0 else None)
        panel[3].text(
            0.97, 0.05, f"{100 * share:.1f} %", transform=panel[3].transAxes, ha="right", va="bottom", fontsize=8.5,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1.5, "alpha": 0.9},
        )  # fmt: skip
    present = np.unique(np.concatenate([m.ravel() for group in groups[1:] for m in group]))
    count = class_count(spec, *(m for group in groups[1:] for m in group))
    has_void = bool((present == void_label(spec)).any())
    shown = [int(i) for i in present if 0 <= i < count and i != void_label(spec)]
    legend_row(figure, class_handles(shown, spec, count, has_void, wrong_anywhere))
    if title:
        headline(figure, title)
    if columns == 2:
        figure.draw_without_rendering()  # settles the layout, which the names are fitted to
        for number, mask in enumerate(truths):
            _write_names(flat[number * per_sample + 1], mask, spec)
    return figure


@styled
def overlay(image: Any, mask: Any, spec: Any = None, *, alpha: float = 0.55, title: str | None = None) -> Figure:
    """The mask's colours laid over the grey image, class borders drawn, names in the legend.

    Args:
        image: (C, H, W) in [0, 1].
        mask: (H, W) labels. Void stays uncoloured.
        spec: class names and void label.
        alpha: weight of the colours.
        title: line above the picture.
    """
    labels = _labels(mask)
    mixed = painted_over(image, mask, spec, alpha=alpha)
    height, width = labels.shape
    figure, axes = plt.subplots(figsize=(WIDTH * 0.72, WIDTH * 0.72 * height / width + 0.25))
    axes.imshow(mixed)
    bare(axes, title)
    count, present = class_count(spec, labels), np.unique(labels[labels != void_label(spec)])
    legend_row(figure, class_handles([int(i) for i in present if i < count], spec, count, False))
    return figure


def painted_over(image: Any, mask: Any, spec: Any = None, *, alpha: float = 0.55) -> np.ndarray:
    """What `overlay` shows, pixel for pixel.

    Args:
        image, mask, spec, alpha: as for `overlay`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: image and mask differ in size.
    """
    picture, labels = _picture(image), _labels(mask)
    if picture.shape[:2] != labels.shape:
        raise ValueError(f"image and mask differ in size: {picture.shape[:2]} and {labels.shape}")
    void = labels == void_label(spec)
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, axis=-1)
    mixed = (1 - alpha) * grey + alpha * _painted(labels, spec)
    mixed[void] = grey[void]
    border = np.zeros_like(void)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:, :] |= labels[1:, :] != labels[:-1, :]
    mixed[border] = 1.0
    return (mixed * 255).round().astype(np.uint8)


@styled
def legend(spec: Any, *, void: bool = True) -> Figure:
    """All classes of a data set with their colours and label values."""
    count, columns = len(spec.classes), 4
    entries = [(str(i), class_name(spec, i), class_colors(spec)[i]) for i in range(count)]
    if void:
        entries.append((str(spec.ignore_index), "void", None))
    lines = math.ceil(len(entries) / columns)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.34 * lines + 0.1))
    axes.set(xlim=(0, columns), ylim=(lines, 0))
    axes.axis("off")
    for k, (value, name, color) in enumerate(entries):
        x, y = k // lines, k % lines + 0.5
        axes.add_patch(
            Rectangle(
                (x, y - 0.32),
                0.17,
                0.64,
                facecolor=VOID if color is None else color,
                edgecolor="#7b828a",
                linewidth=0.5,
                hatch="//////" if color is None else None,
            )
        )
        ink = INK if color is None else ink_on(color)
        if color is not None:
            axes.text(x + 0.085, y, value, ha="center", va="center", fontsize=8, color=ink)
            axes.text(x + 0.21, y, name, ha="left", va="center", fontsize=9)
        else:
            axes.text(x + 0.21, y, f"{name} ({value})", ha="left", va="center", fontsize=9)
    return figure


@styled
def show_images(
    images: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    spec: Any = None,
    title: str | None = None,
) -> Figure:
    """A grid of images, masks and maps.

    Args:
        images: a list (or list of lists, one per row) of (C, H, W) images in [0, 1], (H, W) integer masks, or (H, W)
            float maps, each on a grey scale of its own.
        titles: one per picture.
        columns: pictures per row; None: the length of the given rows, or at most 4.
        spec: class names and void label of the masks; a legend is drawn for the classes that occur.
        title: line above the figure.
    """
    images = list(images)
    if images and isinstance(images[0], (list, tuple)):
        columns = columns or len(images[0])
        images = [item for row in images for item in row]
    if not images:
        raise ValueError("there is no image to show")
    titles = list(titles or [])
    if titles and len(titles) != len(images):
        raise ValueError(f"{len(images)} pictures have {len(titles)} titles")
    columns = columns or (len(images) if len(images) <= 4 else next((c for c in (4, 3) if len(images) % c == 0), 4))
    lines = math.ceil(len(images) / columns)
    height, width = images[0].shape[-2:]
    cell = WIDTH / columns
    tall = lines * (cell * height / width + (0.26 if titles else 0.06)) + (0.35 if title else 0.05)
    figure, axes = plt.subplots(lines, columns, figsize=(WIDTH, tall), squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    masks = []
    for k, axis in enumerate(axes.ravel()):
        if k >= len(images):
            axis.axis("off")
            continue
        item = torch.as_tensor(images[k]).detach().cpu()
        if item.dim() == 2 and not item.is_floating_point():
            masks.append(_labels(item))
            _show_mask(axis, masks[-1], spec, None)
        elif item.dim() == 2:
            axis.imshow(item.float().numpy(), cmap="gray")
        else:
            axis.imshow(_picture(item))
        bare(axis)
        if titles:
            axis.set_title(titles[k], fontsize=8.5, fontweight="normal")
    if masks:
        present = np.unique(np.concatenate([m.ravel() for m in masks]))
        count = class_count(spec, *masks)
        shown = [int(i) for i in present if 0 <= i < count and i != void_label(spec)]
        legend_row(figure, class_handles(shown, spec, count, bool((present == void_label(spec)).any())))
    if title:
        headline(figure, title)
    return figure


def _rows(value: Any, dims: int) -> list[Any]:
    """A single item, a batch or a sequence -> list of items of `dims` dimensions."""
    if isinstance(value, (Tensor, np.ndarray)):
        return [value] if value.ndim == dims else list(value)
    return list(value)


def _picture(image: Tensor | np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, 3)."""
    array = torch.as_tensor(image).detach().cpu().float()
    if array.dim() == 2:
        array = array[None]
    if array.dim() != 3 or array.shape[0] not in (1, 3, 4):
        raise ValueError(f"an image is (C, H, W) with 1, 3 or 4 channels, got {tuple(array.shape)}")
    low, high = float(array.min()), float(array.max())
    if low < -0.05 or high > 1.05:
        raise ValueError(
            f"image values go from {low:.2f} to {high:.2f} and should lie in [0, 1]: undo the normalisation first "
            "(segtutor.data.transforms.denormalize)"
        )
    array = array[:3].expand(3, -1, -1) if array.shape[0] == 1 else array[:3]
    return array.clamp(0, 1).permute(1, 2, 0).numpy()


def _labels(mask: Tensor | np.ndarray) -> np.ndarray:
    """(H, W) labels, or (num_classes, H, W) logits, or (1, H, W) of a binary model -> (H, W) int."""
    tensor = torch.as_tensor(mask).detach().cpu()
    if tensor.dim() == 3 and tensor.is_floating_point():
        if tensor.isnan().any():
            raise ValueError("the logits are not numbers (NaN), so they name no classes: the model has diverged")
        tensor = tensor.argmax(0) if len(tensor) > 1 else tensor[0] > 0
    if tensor.dim() != 2:
        raise ValueError(f"a mask is (H, W), got {tuple(tensor.shape)}")
    return tensor.long().numpy()


def _painted(mask: np.ndarray, spec: Any) -> np.ndarray:
    """(H, W) labels -> (H, W, 3) colours; void and labels without a class become the void colour."""
    colors = class_colors(spec, class_count(spec, mask))
    out = np.empty((*mask.shape, 3))
    out[:] = mcolors.to_rgb(VOID)
    known = (mask >= 0) & (mask < len(colors)) & (mask != void_label(spec))
    out[known] = colors[mask[known]]
    return out


def _show_mask(axes: Axes, mask: np.ndarray, spec: Any, title: str | None) -> None:
    axes.imshow(_painted(mask, spec))
    _hatch(axes, mask, spec)
    bare(axes, title)


def _show_error(axes: Axes, picture: np.ndarray, true: np.ndarray, predicted: np.ndarray, spec: Any) -> float:
    """Wrong pixels in one strong colour on a pale copy of the image; returns their share of the pixels that count."""
    pale = 0.72 + 0.28 * np.repeat(picture.mean(-1, keepdims=True), 3, axis=-1)
    counted = true != void_label(spec)
    wrong = counted & (true != predicted)
    pale[wrong] = mcolors.to_rgb(WRONG)
    pale[~counted] = mcolors.to_rgb(VOID)
    axes.imshow(pale)
    _hatch(axes, true, spec)
    return float(wrong.sum() / max(1, counted.sum()))


def _hatch(axes: Axes, mask: np.ndarray, spec: Any) -> None:
    """Diagonal lines over void pixels, so that they do not look like a class."""
    void = mask == void_label(spec)
    if not void.any():
        return
    height, width = mask.shape
    finer = math.ceil(480 / max(height, width))  # lines stay thin on a mask of few pixels
    void = void.repeat(finer, 0).repeat(finer, 1)
    rows, columns = np.indices(void.shape)
    period = round(max(void.shape) / 60)
    veil = np.zeros((*void.shape, 4))
    veil[void & ((rows + columns) % period < period // 4)] = (*mcolors.to_rgb("#8b929a"), 1)
    axes.imshow(veil, extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _write_names(axes: Axes, mask: np.ndarray, spec: Any, fontsize: float = 7.5) -> None:
    """Write each class into its largest region, where the name fits, at the point farthest from the region's border."""
    from scipy import ndimage

    height, width = mask.shape
    box = axes.get_position()
    inches = box.width * cast(Figure, axes.figure).get_size_inches()[0]
    per_point = width / (inches * 72)  # mask pixels per typographic point
    for label in np.unique(mask[mask != void_label(spec)]):
        regions, count = ndimage.label(mask == label)
        if not count:
            continue
        sizes = ndimage.sum_labels(np.ones_like(mask), regions, np.arange(1, count + 1))
        region = np.pad(regions == 1 + int(sizes.argmax()), 1)
        text = class_name(spec, int(label))
        # The name is wide and low: stretch the rows so that a square in the stretched region is such a box.
        half_width, half_height = 0.32 * fontsize * len(text) * per_point, 0.75 * fontsize * per_point
        depth = ndimage.distance_transform_cdt(
            ndimage.zoom(region, (max(half_width / half_height, 1.0), 1), order=0), metric="chessboard"
        )
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        if depth[row, column] < half_width:
            continue
        color = class_colors(spec, class_count(spec, mask))[label]
        axes.text(
            column - 1,
            row / max(half_width / half_height, 1.0) - 1,
            text,
            ha="center",
            va="center",
            fontsize=fontsize,
            color=ink_on(color),
        )
