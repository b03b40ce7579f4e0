"""Labels and probabilities as files that other programs and people can read."""

from __future__ import annotations

import colorsys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segtutor.files import whole_file
from segtutor.inference.pictures import as_pixels

BLOCK = 2**22  # pixels that are painted at once


def save_labels(labels: Tensor, path: Path | str, spec: Any = None) -> Path:
    """Write labels (H, W) as a PNG whose pixel values are the labels, shown in the colours of the classes.

    Args:
        labels: 0 to 255.
        path: the file.
        spec: anything with ``palette``, ``classes`` and ``ignore_index``; None: the colours of the book.

    Returns:
        The path.

    Raises:
        ValueError: a label does not fit into the file.
    """
    from PIL import Image

    from segtutor import viz

    if labels.ndim != 2 or int(labels.min()) < 0 or int(labels.max()) > 255:
        raise ValueError(f"labels {tuple(labels.shape)} must be (H, W) with values from 0 to 255 to be written as PNG")
    colors = np.full((256, 3), 228, np.uint8)
    palette = viz.PALETTE if spec is None else _colored(spec).palette
    colors[: min(256, len(palette))] = np.asarray(palette, np.uint8)[:256]
    picture = Image.fromarray(labels.to(torch.uint8).numpy(), mode="P")
    picture.putpalette(colors.tobytes())
    with whole_file(path) as part:
        picture.save(part, format="PNG")
    return Path(path)


def save_overlay(image: Any, labels: Tensor, path: Path | str, spec: Any = None) -> Path:
    """Write the labels' colours over the grey image, at the image's own size, class borders in white.

    Args:
        image: as for `predict`.
        labels: (H, W).
        path: the file.
        spec: anything with ``classes``, ``palette`` and ``ignore_index``; None: the colours of the book.

    Returns:
        The path.
    """
    from PIL import Image

    from segtutor import viz

    pixels, spec = as_pixels(image, spec), _colored(spec)
    height, width = labels.shape
    painted, rows = np.empty((height, width, 3), np.uint8), max(1, BLOCK // width)
    for top in range(0, height, rows):  # of a large image, what is between would take ten times its memory
        above, bottom = max(0, top - 1), top + rows  # with the row above, from which borders are seen
        block = viz.painted_over(pixels[:, above:bottom], labels[above:bottom], spec)
        painted[top:bottom] = block[top - above :]
    with whole_file(path) as part:
        Image.fromarray(painted).save(part, format=Image.registered_extensions().get(Path(path).suffix.lower(), "PNG"))
    return Path(path)


def save_legend(path: Path | str, spec: Any) -> Path:
    """Write the names of all classes beside their colours, which an overlay of the image's size has no room for.

    Args:
        path: the file, a PNG.
        spec: as for `save_overlay`.

    Returns:
        The path.
    """
    import matplotlib.pyplot as plt

    from segtutor import viz

    figure = viz.legend(_colored(spec), void=False)
    try:
        with whole_file(path) as part:
            figure.savefig(part, format="png", metadata={"Software": None})  # the same bytes for the same classes
    finally:
        plt.close(figure)
    return Path(path)


def save_probabilities(probabilities: Tensor, path: Path | str, spec: Any = None) -> Path:
    """Write probabilities as a compressed npz file of numpy.

    It holds ``probabilities`` (num_classes, H, W) float16, exact to 0.0005, and ``classes``, their names.

    Args:
        probabilities: (num_classes, H, W).
        path: the file.
        spec: anything with ``classes``; None: numbered classes.

    Returns:
        The path.
    """
    names = [f"class {i}" for i in range(len(probabilities))] if spec is None else spec.classes
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities.half().numpy(), classes=np.asarray(names))
    return Path(path)


def _colored(spec: Any) -> Any:
    """The spec, with the book's colours where nobody chose any, and further ones where those are too few."""
    from segtutor import viz

    if spec is None or spec.palette:
        return spec
    further = max(0, len(spec.classes) - len(viz.PALETTE))
    # Hues a golden angle apart: however many there are, neighbours differ
    hues = [colorsys.hls_to_rgb(i * 0.618034 % 1, (0.45, 0.65)[i % 2], 0.6) for i in range(further)]
    palette = (*viz.PALETTE, *(tuple(round(255 * part) for part in hue) for hue in hues))
    return SimpleNamespace(
        classes=spec.classes, palette=palette[: len(spec.classes)], ignore_index=getattr(spec, "ignore_index", 255)
    )
