"""The house style: colours, type and sizes, the colours and names of classes, and the legend under a figure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib import colors as mcolors
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

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
# Fonts that have the signs of Chinese, Japanese and Korean names, which DejaVu Sans lacks
EAST_ASIAN = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "PingFang SC"),
    *("Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei"),
)


def fonts() -> list[str]:
    """DejaVu Sans, which matplotlib brings, then those of this machine that can write what it cannot."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in EAST_ASIAN if name in installed)]


STYLE: dict[Any, Any] = {
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
    "font.sans-serif": fonts(),
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
    "axes.prop_cycle": cycler(color=SERIES),
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


Arguments = ParamSpec("Arguments")


def styled(function: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw in the house style, then close the figure in pyplot: notebooks would show it a second time otherwise."""

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*args, **kwargs)
            plt.close(figure)
        return figure

    return wrapper


def class_colors(spec: Any = None, count: int | None = None) -> np.ndarray:
    """Colours of the classes, (num_classes, 3) in [0, 1]: the data set's own, or PALETTE where there is none."""
    if spec is None and count is not None and count > len(PALETTE):
        raise ValueError(f"{count} classes exceed the palette's {len(PALETTE)} colours: give a spec with its own")
    return np.asarray(PALETTE[:count] if spec is None else spec.palette, dtype=float) / 255


def class_count(spec: Any, *masks: np.ndarray) -> int:
    """How many classes there are: the data set's, or as many as the largest label in the masks asks for."""
    if spec is not None:
        return len(spec.classes)
    return max((int(m[m != 255].max(initial=0)) for m in masks), default=0) + 1


def class_name(spec: Any, label: int) -> str:
    """The name of a class, with spaces for underscores; "class 3" where there is no spec."""
    return str(spec.classes[label]).replace("_", " ") if spec is not None else f"class {label}"


def void_label(spec: Any) -> int:
    """The label of void pixels: the data set's, or 255."""
    return 255 if spec is None else spec.ignore_index


def ink_on(color: Sequence[float]) -> str:
    """Black or white, whichever stands out more on `color` (WCAG contrast ratio)."""
    light = luminance(color)
    return "#ffffff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000000"


def luminance(color: Any) -> float:
    """Relative luminance of a colour, 0 for black to 1 for white (WCAG 2.1)."""
    rgb = np.asarray(mcolors.to_rgb(tuple(color) if not isinstance(color, str) else color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def bare(axes: Axes, title: str | None = None) -> None:
    """Take ticks and frame off the axes, and give them a title."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)


def headline(figure: Figure, title: str) -> None:
    """One line above the whole figure."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def class_handles(present: Sequence[int], spec: Any, count: int, void: bool, wrong: bool = False) -> list[Patch]:
    """Legend entries of the classes that are present, and of void and wrong pixels where there are any."""
    colors = class_colors(spec, count)
    handles = [
        Patch(facecolor=colors[i], edgecolor="#7b828a", linewidth=0.5, label=class_name(spec, i)) for i in present
    ]
    if void:
        handles.append(Patch(facecolor=VOID, edgecolor="#8b929a", linewidth=0.5, hatch="//////", label="void"))
    if wrong:
        handles.append(Patch(facecolor=WRONG, edgecolor="#7b828a", linewidth=0.5, label="wrong"))
    return handles


def legend_row(figure: Figure, handles: list[Patch]) -> None:
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


def _legend_columns(handles: list[Patch], width: float) -> int:
    """The most legend columns that fit into `width` inches, filled as matplotlib does, top to bottom."""
    widths = [29 + 5.3 * len(str(handle.get_label())) for handle in handles]  # points
    for lines in range(1, len(handles)):
        columns = math.ceil(len(handles) / lines)
        if sum(max(part) for part in np.array_split(widths, columns)) <= 72 * width:
            return columns
    return 1
