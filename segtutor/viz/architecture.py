"""A network drawn as boxes, from the shapes that it was seen to compute."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon

from segtutor.viz.style import (
    INK,
    MUTED,
    SERIES,
    WIDTH,
    headline,
    legend_row,
    styled,
)

LOWERS, KEEPS, RAISES = "#6aa5d8", "#cfdce8", "#f2ae72"


@styled
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
    for place, words, lines in zip(places, names, facts, strict=True):
        for number, text in enumerate([*[""] * (deepest - len(words)), *words, *lines]):
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
    legend_row(figure, [Patch(facecolor=c, edgecolor="#7b828a", linewidth=0.5, label=t) for c, t in meaning.items()
                         if c in used])  # fmt: skip
    if title:
        headline(figure, title)
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


def _box(axes: Axes, place: tuple[float, ...], color: str, skew_x: float, skew_y: float) -> None:
    left, width, height, depth, _ = place
    dx, dy, low, high = skew_x * depth, skew_y * depth, -height / 2, height / 2
    low, high = low - dy / 2, high - dy / 2  # centred as a whole, so that all boxes stand on one axis
    rgb = np.array(mcolors.to_rgb(color))
    edge: dict[str, Any] = {"edgecolor": "#4d565f", "linewidth": 0.7, "joinstyle": "round", "zorder": 2}
    right = left + width
    axes.add_patch(Polygon([(left, low), (right, low), (right, high), (left, high)], facecolor=rgb, **edge))
    if depth:
        top = [(left, high), (right, high), (right + dx, high + dy), (left + dx, high + dy)]
        side = [(right, low), (right + dx, low + dy), (right + dx, high + dy), (right, high)]
        axes.add_patch(Polygon(top, facecolor=rgb + 0.55 * (1 - rgb), **edge))
        axes.add_patch(Polygon(side, facecolor=0.82 * rgb, **edge))


def _skip(axes: Axes, start: tuple, end: tuple, level: float, skew_x: float, aside: float) -> None:
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
