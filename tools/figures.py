"""Draw the figures that show the synthetic sets: what every knob does, and the picture of the README.

``python tools/figures.py`` writes ``book/generated/knobs-scenes.png`` and ``knobs-cells.png`` (not in git: the book
build makes them). ``python tools/figures.py --overview`` writes ``book/images/overview.png``, which is in git.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

ROOT = Path(__file__).resolve().parents[1]
DPI = 130
sys.path.insert(0, str(ROOT))

from segtutor import viz  # noqa: E402
from segtutor.data import SyntheticCells, SyntheticScenes  # noqa: E402

SCENE_ROWS = (
    ("thickness", (1, 3, 8), "width of every pole, in pixels"),
    ("context", (0, 8, 32), "a grey disc is a sign or a fence: a light this many pixels away says which"),
    ("scale", (1, 4, 16), "tallest to smallest of cars and people"),
    ("texture", (0.0, 0.5, 1.0), "from one flat colour per class to windows, foliage, shade and haze"),
    ("noise", (0.0, 0.08, 0.3), "standard deviation of the sensor noise"),
    ("rare", (0.0, 0.01, 0.05), "share of pixels of the rare class, bicyclist"),
    ("objects", (0, 7, 25), "cars and pedestrians"),
    ("void", (0, 1, 3), "pixels next to a class border that are ignored (white)"),
)
CELL_ROWS = (
    ("thickness", (1, 3, 8), "thickness of the membranes, in pixels"),
    ("context", (0, 8, 32), "a grey disc is mitochondrion or synapse: a spot this many pixels away says which"),
    ("scale", (1, 4, 16), "largest to smallest radius of cells and mitochondria"),
    ("texture", (0.0, 0.5, 1.0), "from one flat grey per class to grain, vesicles and cristae"),
    ("noise", (0.0, 0.08, 0.3), "standard deviation of the detector noise"),
    ("rare", (0.0, 0.01, 0.05), "share of pixels of the rare class, synapse"),
    ("void", (0, 1, 3), "pixels next to a class border that are ignored (white)"),
)


def picture(image) -> np.ndarray:
    """(H, W, 3) from an image (1 or 3, H, W)."""
    return np.broadcast_to(np.moveaxis(np.asarray(image), 0, -1), (*image.shape[1:], 3))


def painted(label, spec) -> np.ndarray:
    """(H, W, 3) of a label map in the colours of its set; void is white."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: spec.num_classes] = spec.palette
    return colors[np.asarray(label)]


def handles(spec) -> list[Patch]:
    """One legend entry per class."""
    return [
        Patch(facecolor=np.array(color) / 255, edgecolor="#7b828a", linewidth=0.5, label=name)
        for name, color in zip(spec.classes, spec.palette, strict=True)
    ]


class Page:
    """A figure laid out in pixels from its top left corner, so that pictures keep their own pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="none")

    def put(self, left: int, top: int, pixels: np.ndarray) -> None:
        tall, wide = pixels.shape[:2]
        box = (left / self.width, 1 - (top + tall) / self.height, wide / self.width, tall / self.height)
        axes = self.figure.add_axes(box)
        axes.imshow(pixels, interpolation="nearest")
        axes.set_axis_off()

    def write(self, left: int, baseline: int, text: str, **style) -> None:
        self.figure.text(left / self.width, 1 - baseline / self.height, text, va="baseline", **style)


def knob_figure(kind, rows, *, index, seed, columns):
    """One row per knob: three settings, image and labels side by side, all else equal."""
    tall, wide = 120, 160
    margin, gap, between, step = 8, 5, 18, 34 + 21 + tall + 12
    page = Page(2 * margin + 6 * wide + 3 * gap + 2 * between, 2 * margin + len(rows) * step + 62)
    for number, (knob, settings, meaning) in enumerate(rows):
        top = margin + number * step
        page.write(margin, top + 20, knob, fontsize=11, weight="bold")
        page.write(margin + 122, top + 20, meaning, fontsize=9.5, color=viz.MUTED)
        for column, setting in enumerate(settings):
            # The last distance is shown with the other light, and so with the other class.
            other = knob == "context" and column == 2
            image, label = kind(size=(tall, wide), seed=seed, **{knob: setting}).draw(index, counterpart=other)
            left = margin + column * (2 * wide + gap + between)
            page.write(left, top + 34 + 14, f"{knob} = {setting:g}" + ", other light" * other, fontsize=8.5)
            page.put(left, top + 34 + 21, picture(image))
            page.put(left + wide + gap, top + 34 + 21, painted(label, kind.spec))
    page.figure.legend(handles=handles(kind.spec), loc="lower center", ncols=columns, fontsize=9, columnspacing=1.4)
    return page.figure


def overview_figure():
    """One street and one piece of tissue, each with its labels."""
    tall, wide, margin, gap, between, head, foot = 240, 320, 8, 6, 20, 30, 62
    page = Page(2 * margin + 4 * wide + 2 * gap + between, head + tall + foot)
    size = (tall, wide)
    sets = (
        (SyntheticScenes(size=size, seed=21, noise=0.004, objects=9, thickness=3), 7, "a street", 6),
        (SyntheticCells(size=size, seed=21, noise=0.012, thickness=4), 6, "nerve tissue", 3),
    )
    for half, (dataset, index, title, columns) in enumerate(sets):
        image, label = dataset.draw(index)
        for place, (pixels, text) in enumerate(
            ((picture(image), title), (painted(label, dataset.spec), "the class of every pixel"))
        ):
            left = margin + half * (2 * wide + gap + between) + place * (wide + gap)
            page.put(left, head, pixels)
            page.write(left, head - 9, text, fontsize=10.5, weight="bold")
        middle = (margin + half * (2 * wide + gap + between) + wide + gap / 2) / page.width
        page.figure.legend(
            handles=handles(dataset.spec), loc="center", bbox_to_anchor=(middle, foot / 2 / page.height),
            ncols=columns, fontsize=8.5, columnspacing=1.1, handlelength=1.1, handletextpad=0.5,
        )  # fmt: skip
    return page.figure


def save(figure, path: Path) -> None:
    """Write an opaque PNG, one figure pixel per image pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=viz.CARD, bbox_inches=figure.bbox_inches, dpi=DPI)
    plt.close(figure)
    print(f"{path.relative_to(ROOT).as_posix()}: {path.stat().st_size // 1024} KB")


def main(arguments: list[str]) -> None:
    with plt.rc_context(viz.STYLE):
        if "--overview" in arguments:
            save(overview_figure(), ROOT / "book" / "images" / "overview.png")
            return
        generated = ROOT / "book" / "generated"
        save(knob_figure(SyntheticScenes, SCENE_ROWS, index=2, seed=3, columns=6), generated / "knobs-scenes.png")
        save(knob_figure(SyntheticCells, CELL_ROWS, index=0, seed=3, columns=5), generated / "knobs-cells.png")


if __name__ == "__main__":
    main(sys.argv[1:])
