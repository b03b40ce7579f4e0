"""Numbers: small tensors cell by cell, training curves, and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from segtutor.viz.style import (
    CARD,
    INK,
    MUTED,
    SERIES,
    VOID,
    WIDTH,
    WRONG,
    class_colors,
    headline,
    ink_on,
    styled,
)


@styled
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
                    left + j + 0.5, top + i + 0.5, text, ha="center", va="center", fontsize=size, color=ink_on(face)
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


@styled
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
    scored = any(run.validation for run in runs.values())
    figure, axes = plt.subplots(1, 2 if scored else 1, figsize=(WIDTH, 2.6), squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    ends: tuple[list[tuple], list[tuple]] = ([], [])
    for k, (name, run) in enumerate(runs.items()):
        color = SERIES[k % len(SERIES)]
        smooth = _smoothed(run.loss)
        left.plot(run.steps, run.loss, color=color, linewidth=0.7, alpha=0.28)
        left.plot(run.steps, smooth, color=color)
        ends[0].append((run.steps[-1], smooth[-1], name, color))
        if run.validation:
            steps = [step for step, _ in run.validation]
            values = [100 * float(scores[score]) for _, scores in run.validation]
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
        headline(figure, title)
    return figure


@styled
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


def _direct_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names of the curves at their right ends, in their colours, instead of a legend."""
    low, high = axes.get_ylim()
    height = cast(Figure, axes.figure).get_size_inches()[1] * 0.75 * 72
    places = _spread_labels([y for _, y, _, _ in ends], low, high, (high - low) * 11 / height)
    for (x, _, name, color), y in zip(ends, places, strict=True):
        axes.annotate(
            name, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=color,
            annotation_clip=False,
        )  # fmt: skip


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
