"""The curves of a run as SVG, small enough to be read on a telephone."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from segtutor.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.0, 2.6)  # inches
POINTS = 500  # of a curve; of more, each stands for the mean of several


def curves(history: History) -> dict[str, str]:
    """What a curve shows -> an ``<svg>`` element, for loss, learning rate and, where there is one, score."""
    steps, losses = binned(history.steps, history.loss)
    found = {"Training loss": _svg("loss", history.steps[-1], lambda axes: _loss(axes, steps, losses))}
    found["Learning rate"] = _svg("rate", history.steps[-1], lambda axes: axes.plot(*binned(history.steps, history.lr)))
    if history.validation:
        at = [step for step, _ in history.validation]
        scores = [100 * scores["miou"] for _, scores in history.validation]
        found["Validation mIoU (%)"] = _svg(
            "score", history.steps[-1], lambda axes: axes.plot(at, scores, marker="o", markersize=4)
        )
    return found


def binned(steps: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, of a long run the means of equally many neighbours."""
    size = max(1, -(-len(steps) // POINTS))
    cuts = range(0, len(steps), size)
    x, y = (np.array([np.mean(numbers[cut : cut + size]) for cut in cuts]) for numbers in (steps, values))
    return x, y


def _loss(axes: Axes, steps: np.ndarray, losses: np.ndarray) -> None:
    window = max(1, len(losses) // 20)
    smooth = [losses[max(0, end - window) : end].mean() for end in range(1, len(losses) + 1)]
    [line] = axes.plot(steps, losses, linewidth=0.7, alpha=0.35)
    axes.plot(steps, smooth, color=line.get_color())
    if losses.max() > 4 * np.quantile(losses, 0.9) > 0:  # one early spike must not flatten the rest
        axes.set_ylim(0, 1.6 * np.quantile(losses, 0.95))


def _svg(name: str, last: int, draw: Callable[[Axes], object]) -> str:
    import matplotlib.pyplot as plt

    from segtutor import viz

    text = io.StringIO()
    with plt.rc_context({**viz.STYLE, "svg.fonttype": "path", "svg.hashsalt": name}):  # the same run, the same file
        figure, axes = plt.subplots(figsize=SIZE)
        draw(axes)
        axes.set_xlabel("step")
        axes.set_xlim(0, last * 1.03)
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1])
        axes.grid(axis="y")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        plt.close(figure)
    drawn = text.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.S)
    # Several drawings stand in one page, where an id may be there once
    drawn = re.sub(r'\bid="', f'id="{name}-', drawn)
    drawn = re.sub(r'href="#', f'href="#{name}-', drawn)
    return re.sub(r"url\(#", f"url(#{name}-", drawn)
