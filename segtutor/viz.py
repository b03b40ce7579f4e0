"""Every figure of the book in one style: the same palette, the same panels in the same order, on an opaque white card.

Each function returns a matplotlib figure and shows nothing by itself: as the last line of a notebook cell it appears
once, and in a script ``figure.savefig(path)`` writes it. Classes have the colours of their data set, else those of
:data:`PALETTE`; the `spec` argument, anything with ``classes``, ``palette`` and ``ignore_index``, supplies both names
and colours.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colors as mcolors
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle
from torch import Tensor

# Any two differ by 10 CIEDE2000 units or more, also as seen with protanopia, deuteranopia or tritanopia (tested).
# The order suits street scenes: sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, cyclist.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (166, 196, 245),
    (141, 48, 33),
    (238, 243, 196),
    (86, 80, 88),
    (186, 138, 188),
    (26, 134, 112),
    (243, 205, 36),
    (140, 138, 92),
    (34, 62, 204),
    (236, 60, 28),
    (92, 18, 98),
    (112, 232, 216),
    (242, 158, 150),
    (20, 24, 20),
)

WIDTH = 7.0  # inches: one text column
INK, MUTED, HAIRLINE, CARD = "#22262b", "#5a626b", "#d5d9de", "#ffffff"
VOID, WRONG = "#e4e6e9", "#d1006c"
# Lines, bars and arrows, in order: dark enough to be text on white, and as far apart as the palette.
SERIES = ("#0671eb", "#850c00", "#0e6b51", "#7a2371", "#956f01", "#29272b")

STYLE: dict[str, Any] = {
    "figure.facecolor": CARD,
    "figure.edgecolor": CARD,
    "savefig.facecolor": CARD,
    "savefig.transparent": False,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.12,
    "figure.dpi": 130,
    "savefig.dpi": 130,
    "figure.figsize": (WIDTH, 3.6),
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.facecolor": CARD,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 5,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#9aa1a9",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=SERIES),
    "grid.color": HAIRLINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.7,
    "image.interpolation": "nearest",
    "image.cmap": "viridis",
}


def apply_style() -> None:
    """Make the house style the default of all matplotlib figures of this process.

    The functions of this module use it whether or not this was called.
    """
    plt.rcParams.update(STYLE)


def _styled(function):
    """Draw in the house style, then take the figure out of pyplot's hands, or notebooks would show it twice."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*args, **kwargs)
            plt.close(figure)
        return figure

    return wrapper


# ---------------------------------------------------------------------------------------------- colours and pictures
def _count(spec: Any, *masks: np.ndarray) -> int:
    if spec is not None:
        return len(spec.classes)
    return max((int(m[m != 255].max(initial=0)) for m in masks), default=0) + 1


def class_colors(spec: Any = None, count: int | None = None) -> np.ndarray:
    """Colours of the classes, (num_classes, 3) in [0, 1]: the data set's own, or PALETTE where there is none."""
    if spec is None and count is not None and count > len(PALETTE):
        raise ValueError(f"{count} classes exceed the palette's {len(PALETTE)} colours: give a spec with its own")
    return np.asarray(PALETTE[:count] if spec is None else spec.palette, dtype=float) / 255


def _name(spec: Any, label: int) -> str:
    return str(spec.classes[label]).replace("_", " ") if spec is not None else f"class {label}"


def _ink_on(color: Sequence[float]) -> str:
    """Black or white, whichever stands out more on `color` (WCAG contrast ratio)."""
    light = _luminance(color)
    return "#ffffff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000000"


def _luminance(color: Any) -> float:
    rgb = np.asarray(mcolors.to_rgb(tuple(color) if not isinstance(color, str) else color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


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
    """(H, W) labels, or (num_classes, H, W) logits -> (H, W) int."""
    tensor = torch.as_tensor(mask).detach().cpu()
    if tensor.dim() == 3 and tensor.is_floating_point():
        tensor = tensor.argmax(0)
    if tensor.dim() != 2:
        raise ValueError(f"a mask is (H, W), got {tuple(tensor.shape)}")
    return tensor.long().numpy()


def _void(spec: Any) -> int:
    return 255 if spec is None else spec.ignore_index


def _painted(mask: np.ndarray, spec: Any) -> np.ndarray:
    """(H, W) labels -> (H, W, 3) colours; void and labels without a class become the void colour."""
    colors = class_colors(spec, _count(spec, mask))
    out = np.empty((*mask.shape, 3))
    out[:] = mcolors.to_rgb(VOID)
    known = (mask >= 0) & (mask < len(colors)) & (mask != _void(spec))
    out[known] = colors[mask[known]]
    return out


def _hatch(axes, mask: np.ndarray, spec: Any) -> None:
    """Diagonal lines over void pixels, so that nobody takes them for a class."""
    void = mask == _void(spec)
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


def _bare(axes, title: str | None = None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)


def _write_names(axes, mask: np.ndarray, spec: Any, fontsize: float = 7.5) -> None:
    """Write each class into its largest region, where the name fits, at the point farthest from the region's border."""
    from scipy import ndimage

    height, width = mask.shape
    box = axes.get_position()
    inches = box.width * axes.figure.get_size_inches()[0]
    per_point = width / (inches * 72)  # mask pixels per typographic point
    for label in np.unique(mask[mask != _void(spec)]):
        regions, count = ndimage.label(mask == label)
        if not count:
            continue
        sizes = ndimage.sum_labels(np.ones_like(mask), regions, np.arange(1, count + 1))
        region = np.pad(regions == 1 + int(sizes.argmax()), 1)
        text = _name(spec, int(label))
        # The name is wide and low: stretch the rows so that a square in the stretched region is such a box.
        half_width, half_height = 0.32 * fontsize * len(text) * per_point, 0.75 * fontsize * per_point
        depth = ndimage.distance_transform_cdt(
            ndimage.zoom(region, (max(half_width / half_height, 1.0), 1), order=0), metric="chessboard"
        )
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        if depth[row, column] < half_width:
            continue
        color = class_colors(spec, _count(spec, mask))[label]
        axes.text(
            column - 1,
            row / max(half_width / half_height, 1.0) - 1,
            text,
            ha="center",
            va="center",
            fontsize=fontsize,
            color=_ink_on(color),
        )


def _handles(present: Sequence[int], spec: Any, count: int, void: bool, wrong: bool = False) -> list[Patch]:
    colors = class_colors(spec, count)
    handles = [Patch(facecolor=colors[i], edgecolor="#7b828a", linewidth=0.5, label=_name(spec, i)) for i in present]
    if void:
        handles.append(Patch(facecolor=VOID, edgecolor="#8b929a", linewidth=0.5, hatch="//////", label="void"))
    if wrong:
        handles.append(Patch(facecolor=WRONG, edgecolor="#7b828a", linewidth=0.5, label="wrong"))
    return handles


def _legend_columns(handles: list[Patch], width: float) -> int:
    """The most legend columns that fit into `width` inches, filled as matplotlib does, top to bottom."""
    widths = [29 + 5.3 * len(handle.get_label()) for handle in handles]  # points
    for lines in range(1, len(handles)):
        columns = math.ceil(len(handles) / lines)
        if sum(max(part) for part in np.array_split(widths, columns)) <= 72 * width:
            return columns
    return 1


def _legend_row(figure: Figure, handles: list[Patch]) -> None:
    """A legend under the figure; makes the figure as much taller as that needs."""
    if not handles:
        return
    width, height = figure.get_size_inches()
    columns = _legend_columns(handles, width)
    figure.set_size_inches(width, height + 0.12 + 0.17 * math.ceil(len(handles) / columns))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        handlelength=1.2,
        handleheight=1.0,
        columnspacing=1.4,
        handletextpad=0.5,
        borderpad=0.2,
    )


def _rows(value: Any, dims: int) -> list[Any] | None:
    """A single item, a batch or a sequence -> list of items of `dims` dimensions."""
    if value is None:
        return None
    if isinstance(value, (Tensor, np.ndarray)):
        return [value] if value.ndim == dims else list(value)
    return list(value)


# --------------------------------------------------------------------------------------------------- pictures of masks
@_styled
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
        prediction: (H, W) labels or (num_classes, H, W) logits, or several; None leaves the last two panels out.
        spec: class names and void label. None: classes are numbered and 255 is void.
        title: line above the figure.
        names: a name for each row, written at its left.

    Raises:
        ValueError: sizes or numbers of the pictures do not go together, or an image is normalised.
    """
    truths = [_labels(t) for t in _rows(truth, 2)]
    images = [_picture(i) for i in _rows(image, 3)]
    predictions = _rows(prediction, 2)
    if predictions is not None:
        if isinstance(prediction, (Tensor, np.ndarray)) and prediction.ndim == 3 and len(truths) == 1:
            predictions = [prediction] if prediction.shape[0] != 1 else [prediction[0]]  # logits of one image
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
    heads = lines if columns == 2 else 1
    tall = lines * (cell * height / width + 0.06) + 0.21 * heads + (0.3 if title else 0)
    figure, axes = plt.subplots(lines, columns, figsize=(full, tall), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    flat = axes.ravel()
    wrong_anywhere = False
    for number, (picture, true) in enumerate(zip(images, truths, strict=True)):
        panel = flat[number * per_sample : (number + 1) * per_sample]
        heads = ("Image", "Truth", "Prediction") if single or number == 0 else (None, None, None)
        panel[0].imshow(picture)
        _bare(panel[0], heads[0])
        _show_mask(panel[1], true, spec, heads[1])
        if names is not None:
            panel[0].set_ylabel(names[number], fontsize=8.5, color=INK)
        if predictions is None:
            continue
        _show_mask(panel[2], np.where(true == _void(spec), _void(spec), predictions[number]), spec, heads[2])
        share = _show_error(panel[3], picture, true, predictions[number], spec)
        wrong_anywhere |= share > 0
        if columns == 2:
            _bare(panel[3], f"Error: {100 * share:.1f} % of pixels")
            continue
        _bare(panel[3], "Error" if number == 0 else None)
        panel[3].text(
            0.97, 0.05, f"{100 * share:.1f} %", transform=panel[3].transAxes, ha="right", va="bottom", fontsize=8.5,
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1.5, "alpha": 0.9},
        )  # fmt: skip
    present = np.unique(np.concatenate([m.ravel() for group in groups[1:] for m in group]))
    count = _count(spec, *(m for group in groups[1:] for m in group))
    has_void = bool((present == _void(spec)).any())
    shown = [int(i) for i in present if 0 <= i < count and i != _void(spec)]
    _legend_row(figure, _handles(shown, spec, count, has_void, wrong_anywhere))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    if columns == 2:
        figure.draw_without_rendering()  # settles the layout, which the names are fitted to
        for number, mask in enumerate(truths):
            _write_names(flat[number * per_sample + 1], mask, spec)
    return figure


def _show_mask(axes, mask: np.ndarray, spec: Any, title: str | None) -> None:
    axes.imshow(_painted(mask, spec))
    _hatch(axes, mask, spec)
    _bare(axes, title)


def _show_error(axes, picture: np.ndarray, true: np.ndarray, predicted: np.ndarray, spec: Any) -> float:
    """Wrong pixels in one strong colour on a pale copy of the image; returns their share of the pixels that count."""
    pale = 0.72 + 0.28 * np.repeat(picture.mean(-1, keepdims=True), 3, axis=-1)
    counted = true != _void(spec)
    wrong = counted & (true != predicted)
    pale[wrong] = mcolors.to_rgb(WRONG)
    pale[~counted] = mcolors.to_rgb(VOID)
    axes.imshow(pale)
    _hatch(axes, true, spec)
    return float(wrong.sum() / max(1, counted.sum()))


@_styled
def overlay(image: Any, mask: Any, spec: Any = None, *, alpha: float = 0.55, title: str | None = None) -> Figure:
    """The mask's colours laid over the grey image, class borders drawn, names in the legend.

    Args:
        image: (C, H, W) in [0, 1].
        mask: (H, W) labels. Void stays uncoloured.
        spec: class names and void label.
        alpha: weight of the colours.
        title: line above the picture.
    """
    picture, labels = _picture(image), _labels(mask)
    if picture.shape[:2] != labels.shape:
        raise ValueError(f"image and mask differ in size: {picture.shape[:2]} and {labels.shape}")
    height, width = labels.shape
    figure, axes = plt.subplots(figsize=(WIDTH * 0.72, WIDTH * 0.72 * height / width + 0.25))
    void = labels == _void(spec)
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, axis=-1)
    mixed = (1 - alpha) * grey + alpha * _painted(labels, spec)
    mixed[void] = grey[void]
    border = np.zeros_like(void)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:, :] |= labels[1:, :] != labels[:-1, :]
    mixed[border] = 1.0
    axes.imshow(mixed)
    _bare(axes, title)
    count = _count(spec, labels)
    _legend_row(figure, _handles([int(i) for i in np.unique(labels[~void]) if i < count], spec, count, False))
    return figure


@_styled
def legend(spec: Any, *, void: bool = True) -> Figure:
    """All classes of a data set with their colours and label values."""
    count, columns = len(spec.classes), 4
    entries = [(str(i), _name(spec, i), class_colors(spec)[i]) for i in range(count)]
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
        ink = INK if color is None else _ink_on(color)
        if color is not None:
            axes.text(x + 0.085, y, value, ha="center", va="center", fontsize=8, color=ink)
            axes.text(x + 0.21, y, name, ha="left", va="center", fontsize=9)
        else:
            axes.text(x + 0.21, y, f"{name} ({value})", ha="left", va="center", fontsize=9)
    return figure


@_styled
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
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
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
        _bare(axis)
        if titles:
            axis.set_title(titles[k], fontsize=8.5, fontweight="normal")
    if masks:
        present = np.unique(np.concatenate([m.ravel() for m in masks]))
        count = _count(spec, *masks)
        shown = [int(i) for i in present if 0 <= i < count and i != _void(spec)]
        _legend_row(figure, _handles(shown, spec, count, bool((present == _void(spec)).any())))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


# ------------------------------------------------------------------------------------------------------------ numbers
@_styled
def show_tensor(
    *tensors: Any,
    titles: Sequence[str] | None = None,
    spec: Any = None,
    decimals: int | None = None,
    highlight: Sequence[tuple[int, int]] | None = None,
) -> Figure:
    """Small tensors as grids of numbers, side by side, to follow an operation by hand.

    Args:
        tensors: each (H, W) or (W,), at most 16 on a side. Higher dimensions of size 1 are dropped.
        titles: one per tensor.
        spec: colours the cells as class labels; None shades them by value.
        decimals: digits after the point; None: none for whole numbers, 2 otherwise.
        highlight: (row, column) cells to frame, in every tensor that has them.
    """
    grids = []
    for tensor in tensors:
        array = torch.as_tensor(tensor).detach().cpu()
        array = array.reshape(array.shape[-2:]) if array.dim() > 2 and array.shape[:-2].numel() == 1 else array
        array = array[None] if array.dim() == 1 else array.reshape(1, 1) if array.dim() == 0 else array
        if array.dim() != 2 or max(array.shape) > 16:
            raise ValueError(f"show_tensor draws (H, W) with sides up to 16, got {tuple(array.shape)}: index it first")
        grids.append(array.numpy())
    if titles is not None and len(titles) != len(grids):
        raise ValueError(f"{len(grids)} tensors have {len(titles)} titles")
    gap = 1.0
    total = sum(grid.shape[1] for grid in grids) + gap * (len(grids) - 1)
    tall = max(grid.shape[0] for grid in grids)
    unit = min(0.46, WIDTH / total)
    figure, axes = plt.subplots(figsize=(max(total * unit, 1.6), (tall + (0.9 if titles else 0.2)) * unit))
    axes.set(xlim=(-0.08, total + 0.08), ylim=(tall + 0.08, -0.85 if titles else -0.08))
    axes.set_aspect("equal")
    axes.axis("off")
    left = 0.0
    for k, grid in enumerate(grids):
        height, width = grid.shape
        top = (tall - height) / 2
        finite = grid[np.isfinite(grid)].astype(float) if grid.size else np.zeros(1)
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        whole = bool(np.all(finite == np.round(finite)))
        digits = decimals if decimals is not None else (0 if whole else 2)
        for i in range(height):
            for j in range(width):
                value = grid[i, j]
                face, text = _cell(value, low, high, spec, digits)
                axes.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor=face, edgecolor="#ffffff", linewidth=1.2))
                size = min(9.5, 9.5 * unit / 0.46) * min(1.0, 4.6 / max(len(text), 1))
                axes.text(
                    left + j + 0.5, top + i + 0.5, text, ha="center", va="center", fontsize=size, color=_ink_on(face)
                )
        for i, j in highlight or ():
            if 0 <= i < height and 0 <= j < width:
                axes.add_patch(
                    Rectangle((left + j, top + i), 1, 1, facecolor="none", edgecolor=WRONG, linewidth=2, zorder=3)
                )
        if titles:
            axes.text(left, top - 0.28, titles[k], ha="left", va="bottom", fontsize=9, fontweight="bold")
        left += width + gap
    return figure


def _cell(value: Any, low: float, high: float, spec: Any, digits: int) -> tuple[Any, str]:
    """(colour, text) of one number: shaded from white to blue by value, or coloured as a class label."""
    if spec is not None:
        known = 0 <= int(value) < len(spec.classes)
        return (tuple(class_colors(spec)[int(value)]) if known else mcolors.to_rgb(VOID)), str(int(value))
    if not np.isfinite(value):
        return mcolors.to_rgb(VOID), str(value)
    share = 0.0 if high == low else (float(value) - low) / (high - low)
    start, end = np.array(mcolors.to_rgb("#eef3f8")), np.array(mcolors.to_rgb("#5b9bd0"))
    text = f"{float(value):.{digits}f}"
    return tuple(start + share * (end - start)), text.replace("-", "\N{MINUS SIGN}")


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Running mean over a twentieth of the run, which narrows at the beginning."""
    array, window = np.asarray(values, float), max(1, len(values) // 20)
    total = np.concatenate([[0.0], np.cumsum(array)])
    stop = np.arange(1, len(array) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def _spread_labels(heights: list[float], low: float, high: float, least: float) -> list[float]:
    """Move labels apart until neighbours are `least` away from each other, keeping their order."""
    order = np.argsort(heights)
    moved = np.asarray(heights, float)
    for _ in range(200):
        done = True
        for a, b in zip(order[:-1], order[1:], strict=True):
            if moved[b] - moved[a] < least - 1e-9:
                middle = (moved[a] + moved[b]) / 2
                moved[a], moved[b], done = middle - least / 2, middle + least / 2, False
        if done:
            break
    return list(np.clip(moved, low, high))


def _direct_labels(axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names of the curves at their right ends, in their colours, instead of a legend."""
    low, high = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * 0.75 * 72
    places = _spread_labels([y for _, y, _, _ in ends], low, high, (high - low) * 11 / height)
    for (x, _, name, color), y in zip(ends, places, strict=True):
        axes.annotate(
            name, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=color,
            annotation_clip=False,
        )  # fmt: skip


@_styled
def plot_history(history: Any, *, score: str = "miou", title: str | None = None) -> Figure:
    """Training loss over the steps, and the validation score beside it when there is one.

    Args:
        history: what `training.fit` returned, or several as {name: history}.
        score: which score of the validations to draw.
        title: line above the figure.
    """
    runs = dict(history) if isinstance(history, Mapping) else {"": history}
    if not any(run.steps for run in runs.values()):
        raise ValueError("the history has no steps to draw")
    scored = any(run.valid for run in runs.values())
    figure, axes = plt.subplots(1, 2 if scored else 1, figsize=(WIDTH, 2.6), squeeze=False)
    left, right, ends = axes[0, 0], axes[0, -1], ([], [])
    for k, (name, run) in enumerate(runs.items()):
        color = SERIES[k % len(SERIES)]
        smooth = _smoothed(run.loss)
        left.plot(run.steps, run.loss, color=color, linewidth=0.7, alpha=0.28)
        left.plot(run.steps, smooth, color=color)
        ends[0].append((run.steps[-1], smooth[-1], name, color))
        if run.valid:
            steps = [step for step, _ in run.valid]
            values = [100 * float(scores[score]) for _, scores in run.valid]
            right.plot(steps, values, color=color, marker="o", markersize=4)
            text = f"{name} {values[-1]:.1f}".strip()
            ends[1].append((steps[-1], values[-1], text, color))
    left.set(title="Training loss", xlabel="step", ylim=(0, None))
    every = np.concatenate([run.loss for run in runs.values()])
    if every.max() > 4 * np.quantile(every, 0.9) > 0:
        left.set_ylim(0, 1.6 * np.quantile(every, 0.95))  # one early spike must not flatten the rest
    if scored:
        right.set(title=f"Validation {'mIoU' if score == 'miou' else score.replace('_', ' ')} (%)", xlabel="step")
        last = max(max(run.steps) for run in runs.values() if run.steps)
        right.set_xlim(0, last * 1.03)
        right.set_ylim(0, None)
        _direct_labels(right, ends[1])
    for axis in axes.ravel():
        axis.grid(axis="y")
    if len(runs) > 1:
        _direct_labels(left, ends[0])
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


@_styled
def plot_bars(
    values: Mapping[str, Any],
    *,
    spread: Mapping[str, Any] | None = None,
    label: str = "",
    title: str | None = None,
    digits: int | None = None,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Horizontal bars with their values written at the ends; groups of bars for several series.

    Args:
        values: {name: number}, or {series: {name: number}}. NaN is written as "absent".
        spread: same shape as `values`: half-length of the error bar.
        label: what the numbers are, with the unit.
        title: line above the figure.
        digits: digits after the point; None: chosen by size.
        reference: (text, number): a dashed line to compare with.
    """
    if not values:
        raise ValueError("there are no bars to draw")
    series = dict(values) if isinstance(next(iter(values.values())), Mapping) else {"": dict(values)}
    spreads = {} if spread is None else (dict(spread) if "" not in series else {"": spread})
    names = list(dict.fromkeys(name for bars in series.values() for name in bars))
    numbers = [float(v) for bars in series.values() for v in bars.values() if not math.isnan(float(v))]
    largest = max([abs(n) for n in numbers], default=1.0) or 1.0
    digits = digits if digits is not None else (0 if largest >= 100 else 1 if largest >= 10 else 2)
    thick = 0.8 / len(series)
    line = 0.27 if len(series) == 1 else 0.17 * len(series) + 0.08
    top = (0.3 if title else 0.0) + (0.3 if len(series) > 1 else 0.0) + (0.2 if reference else 0)
    figure, axes = plt.subplots(figsize=(WIDTH, line * len(names) + 0.55 + top))
    for k, (name, bars) in enumerate(series.items()):
        color = SERIES[k % len(SERIES)]
        for row, key in enumerate(names):
            y = row - 0.4 + thick * (k + 0.5)
            number = float(bars.get(key, math.nan))
            if math.isnan(number):
                axes.text(0, y, " absent", va="center", fontsize=7.5, color=MUTED)
                continue
            axes.barh(y, number, height=thick * 0.86, color=color, label=name if row == 0 else None)
            error = float(spreads.get(name, {}).get(key, 0.0))
            if error:
                for ink, weight in ((CARD, 3.0), (INK, 1.2)):  # a pale edge, or it would vanish on a dark bar
                    axes.plot([number - error, number + error], [y, y], color=ink, linewidth=weight)
            text = f"{number:.{digits}f}".replace("-", "\N{MINUS SIGN}") + (f" ± {error:.{digits}f}" if error else "")
            axes.annotate(
                text,
                (max(number, 0) + error, y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8 if len(series) < 3 else 7.5,
            )
    axes.set_yticks(range(len(names)), [str(n).replace("_", " ") for n in names], color=INK, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.45, -0.55)
    low, high = min(0.0, min(numbers, default=0.0)), max(0.0, max(numbers, default=1.0))
    axes.set_xlim(low * 1.05, high + 0.13 * (high - low))
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.spines["left"].set_position(("data", 0))
    if label:
        axes.set_xlabel(label, loc="left")
    if reference is not None:
        axes.axvline(reference[1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{reference[0]} {reference[1]:.{digits}f}",
            (reference[1], 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=MUTED,
        )
    if len(series) > 1:
        axes.legend(
            handles=[Patch(color=SERIES[k % len(SERIES)], label=name) for k, name in enumerate(series)],
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            ncols=len(series),
            handlelength=1.1,
            columnspacing=1.6,
        )
    if title:
        axes.set_title(title) if len(series) == 1 else figure.suptitle(
            title, x=0.01, ha="left", fontsize=9.5, fontweight="bold"
        )
    return figure


# ------------------------------------------------------------------------------------------------------- architecture
LOWERS, KEEPS, RAISES = "#6aa5d8", "#cfdce8", "#f2ae72"


@_styled
def draw_architecture(
    trace: Sequence[Any],
    *,
    skips: Sequence[tuple[str, str]] = (),
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a network as boxes from its own traced shapes, so that the picture cannot differ from the code.

    Height and depth of a box grow with the logarithm of the map's sides, its thickness with that of the channels. A
    box's colour says whether it lowers, keeps or raises the resolution. A grey arrow joins neighbours where the output
    shape of one is the input shape of the next.

    Args:
        trace: rows of `probe.shape_trace`: each has name, in_shape and out_shape. At most 20.
        skips: pairs of row names ("input" is the image) to join by an arrow above the boxes.
        labels: {row name: text to write instead}.
        title: line above the figure.

    Raises:
        ValueError: a skip names no row, or there are too many rows to draw.
    """
    rows = [row for row in trace if len(row.out_shape) >= 2]
    if not rows or len(rows) > 20:
        raise ValueError(f"draw_architecture draws 1 to 20 rows, got {len(rows)}: trace a smaller depth, or by names")
    boxes = [("input", rows[0].in_shape, rows[0].in_shape)] + [(r.name, r.in_shape, r.out_shape) for r in rows]
    known = [name for name, _, _ in boxes]
    for pair in skips:
        for name in pair:
            if name not in known:
                raise ValueError(f"a skip names {name!r}, which is none of the boxes: {', '.join(known)}")
    sides = [_side(out) for _, _, out in boxes]
    channels = [out[1] if len(out) != 3 else out[2] for _, _, out in boxes]
    heights = _on_log_scale(sides, 0.32, 1.7)
    thick = _on_log_scale(channels, 0.07, 0.42)
    skew_x, skew_y = 0.26, 0.17  # of the height: how far the depth of a box runs to the right and up

    gap, places, x = 0.2, [], 0.0
    for (_, _, out), height, width in zip(boxes, heights, thick, strict=True):
        depth = height if len(out) == 4 else 0.0  # tokens and vectors are flat
        room = max(width + skew_x * depth, 0.5)  # space for the label
        places.append((x + (room - width - skew_x * depth) / 2, width, height, depth, x + room / 2))
        x += room + gap
    total, reach = x - gap, max(heights) * (1 + skew_y) / 2  # of the tallest box above and below the axis
    figure, axes = plt.subplots()
    for (name, before, after), place in zip(boxes, places, strict=True):
        _box(axes, place, _box_color(name, before, after), skew_x, skew_y)
    for k in range(1, len(boxes)):
        if _side(boxes[k][1]) == _side(boxes[k - 1][2]):
            left, width, _, depth, _ = places[k - 1]
            start, end = left + width + skew_x * depth * 0.5, places[k][0]
            axes.annotate(
                "", (end - 0.01, 0), (start + 0.02, 0), zorder=1,
                arrowprops={"arrowstyle": "-|>,head_width=0.14,head_length=0.28", "color": MUTED, "linewidth": 0.9,
                            "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
    spans = sorted(((known.index(a), known.index(b)) for a, b in skips), key=lambda span: abs(span[1] - span[0]))
    for level, (a, b) in enumerate(spans):
        aside = 0.08 * sum(earlier[1] == b for earlier in spans[:level])  # arrowheads on one box stand side by side
        _skip(axes, places[a], places[b], reach + 0.16 + 0.17 * level, skew_x, aside)
    ceiling = reach + (0.26 + 0.17 * len(spans) if spans else 0.08)

    scale = min(WIDTH / total, 1.15)  # inches per unit
    reference = max(boxes[0][2][-2:])
    room = (0.5 + gap) * scale * 72 - 3  # points, for the narrowest label
    facts = [_box_facts(out, reference) for _, _, out in boxes]
    size = float(np.clip(room / (0.63 * max(len(text) for lines in facts for text in lines)), 5.8, 8.2))
    names = [_broken((labels or {}).get(name, name), room / (0.68 * size)) for name in known]
    line = size * 1.3 / 72 / scale
    deepest = max(len(name) for name in names)
    for place, name, lines in zip(places, names, facts, strict=True):
        for number, text in enumerate([*[""] * (deepest - len(name)), *name, *lines]):
            strong = number < deepest
            axes.text(
                place[4], -reach - 0.08 - number * line, text, ha="center", va="top", fontsize=size,
                color=INK if strong else MUTED, fontweight="bold" if strong else "normal",
            )  # fmt: skip
    floor = -reach - 0.12 - (deepest + 3) * line
    axes.set(xlim=(-0.12, total + 0.12), ylim=(floor, ceiling))
    axes.set_aspect("equal")
    axes.axis("off")
    figure.set_size_inches(max((total + 0.24) * scale, 3.2), (ceiling - floor) * scale + (0.3 if title else 0.0))
    used = {_box_color(name, before, after) for name, before, after in boxes[1:]}
    meaning = {LOWERS: "lowers the resolution", KEEPS: "keeps the resolution", RAISES: "raises the resolution"}
    _legend_row(figure, [Patch(facecolor=c, edgecolor="#7b828a", linewidth=0.5, label=t) for c, t in meaning.items()
                         if c in used])  # fmt: skip
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _side(shape: Sequence[int]) -> float:
    """Side in positions of a map (B, C, H, W), a token sequence (B, N, C) or a vector (B, C)."""
    return math.sqrt(shape[-2] * shape[-1]) if len(shape) == 4 else math.sqrt(shape[1]) if len(shape) == 3 else 1.0


def _on_log_scale(values: Sequence[float], least: float, most: float) -> list[float]:
    low, high = math.log(min(values)), math.log(max(values))
    return [most if high == low else least + (most - least) * (math.log(v) - low) / (high - low) for v in values]


def _box_color(name: str, before: Sequence[int], after: Sequence[int]) -> str:
    if name == "input":
        return "#f4f5f6"
    change = _side(after) / _side(before) if len(before) == len(after) else 1.0
    return LOWERS if change < 0.75 else RAISES if change > 1.34 else KEEPS


def _box(axes, place: tuple[float, ...], color: str, skew_x: float, skew_y: float) -> None:
    left, width, height, depth, _ = place
    dx, dy, low, high = skew_x * depth, skew_y * depth, -height / 2, height / 2
    low, high = low - dy / 2, high - dy / 2  # centred as a whole, so that all boxes stand on one axis
    rgb = np.array(mcolors.to_rgb(color))
    edge = {"edgecolor": "#4d565f", "linewidth": 0.7, "joinstyle": "round", "zorder": 2}
    right = left + width
    axes.add_patch(Polygon([(left, low), (right, low), (right, high), (left, high)], facecolor=rgb, **edge))
    if depth:
        top = [(left, high), (right, high), (right + dx, high + dy), (left + dx, high + dy)]
        side = [(right, low), (right + dx, low + dy), (right + dx, high + dy), (right, high)]
        axes.add_patch(Polygon(top, facecolor=rgb + 0.55 * (1 - rgb), **edge))
        axes.add_patch(Polygon(side, facecolor=0.82 * rgb, **edge))


def _skip(axes, start: tuple, end: tuple, level: float, skew_x: float, aside: float) -> None:
    """An arrow that rises from one box, runs level, and comes down on another."""

    def roof(place: tuple) -> tuple[float, float]:
        left, width, height, depth, _ = place
        return left + (width + skew_x * depth) / 2, height / 2 + 0.02  # middle of the upper face

    (x0, y0), (x1, y1) = roof(start), roof(end)
    x1 -= aside
    axes.plot([x0, x0, x1], [y0, level, level], color=SERIES[1], linewidth=1.3, solid_joinstyle="round", zorder=4)
    axes.annotate(
        "", (x1, y1), (x1, level + 0.004), zorder=4,
        arrowprops={"arrowstyle": "-|>,head_width=0.16,head_length=0.34", "color": SERIES[1], "linewidth": 1.3,
                    "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip


def _broken(name: str, room: float) -> list[str]:
    """A name broken after dots, underscores and spaces into lines of at most `room` characters, where it can be."""
    lines = [""]
    for part in re.findall(r"[^._ ]+[._ ]?|[._ ]", name):
        if lines[-1] and len(lines[-1]) + len(part.strip()) > room:
            lines.append("")
        lines[-1] += part
    return [line.strip() for line in lines]


def _box_facts(out: Sequence[int], reference: int) -> list[str]:
    """Lines under a box: channels, size, fraction of the input's side."""
    if len(out) == 4:
        fraction = reference / max(out[-2:])
        return [f"{out[1]} ch", f"{out[2]}×{out[3]}", f"1/{round(fraction)}"]
    return [f"{out[1]} tokens", f"{out[2]} ch"] if len(out) == 3 else [f"{out[1]} ch", "vector"]
