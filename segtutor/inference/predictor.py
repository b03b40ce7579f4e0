"""From an image to labels, and from labels to files that other programs and people can read."""

from __future__ import annotations

import colorsys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.files import whole_file
from segtutor.metrics import foreground
from segtutor.modes import kept_modes


def predict(model: nn.Module, image: Any, *, size: tuple[int, int] | None = None, spec: Any = None) -> Tensor:
    """Label every pixel of an image.

    Args:
        model: maps normalised images (B, C, H, W) to logits (B, num_classes, H, W); run in evaluation mode on the
            device where it is; afterwards each of its modules has its own mode back.
        image: a tensor (C, H, W) in [0, 1]; or a picture of Pillow's, which is turned as its EXIF data say; or an array
            (H, W) or (H, W, C), uint8 in 0-255 or other numbers in the ``value_range`` of the spec.
        size: (height, width) at which the model sees it; None: the ``resize`` of the spec, to which the training images
            were resized, or as it is where they were not.
        spec: anything with ``mean`` and ``std`` of the channels; None: what the model carries as ``model.info``.

    Returns:
        Labels (H, W) int64 on the CPU, at the size of the image.

    Raises:
        ValueError: the image cannot be read as one, nobody says how it is normalised, or the model gives no numbers.
    """
    logits = _logits(model, image, size, spec)
    if logits.shape[0] == 1:
        return foreground(logits[0]).cpu()  # (H, W)
    return logits.argmax(0).cpu()  # (H, W)


def probabilities(model: nn.Module, image: Any, *, size: tuple[int, int] | None = None, spec: Any = None) -> Tensor:
    """How sure the model is of each class at every pixel of an image.

    Args:
        model, image, size, spec: as for `predict`.

    Returns:
        (num_classes, H, W) float32 on the CPU, summing to 1 over the classes; of a model with one logit, background and
        foreground. They are as well calibrated as the model is.

    Raises:
        ValueError: as for `predict`.
    """
    logits = _logits(model, image, size, spec)
    if logits.shape[0] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits])
    return logits.softmax(0).cpu()


def _logits(model: nn.Module, image: Any, size: tuple[int, int] | None, spec: Any) -> Tensor:
    """The scores (num_classes, H, W) at the size of the image."""
    spec = getattr(model, "info", None) if spec is None else spec
    if spec is None:
        raise ValueError("the model does not say how its images are normalised: pass spec=dataset.spec")
    pixels = _pixels(image, spec)
    if pixels.shape[0] != len(spec.mean):
        raise ValueError(
            f"the image has {pixels.shape[0]} channels, but the model was trained on {len(spec.mean)}: convert it to "
            f"{'grey' if len(spec.mean) == 1 else 'colour'} first"
        )
    weights = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    seen = ((pixels - mean) / std)[None].to(weights.device)  # (1, C, H, W)
    size = getattr(spec, "resize", None) if size is None else size
    if size is not None:
        seen = F.interpolate(seen, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    with kept_modes(model), torch.inference_mode():
        logits = model.eval()(seen.to(weights.dtype))  # (1, num_classes, H, W)
        # Scores are resized, not labels: halfway between two classes lies no third one.
        logits = F.interpolate(logits.float(), size=pixels.shape[1:], mode="bilinear", align_corners=False)
    if logits.isnan().any():
        raise ValueError(
            "the model's scores are not numbers (NaN): its weights are broken, load those of an earlier step"
        )
    return logits[0]  # (num_classes, H, W)


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

    pixels = viz.painted_over(_pixels(image, spec), labels, _colored(spec))
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, format=Image.registered_extensions().get(Path(path).suffix.lower(), "PNG"))
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


def _pixels(image: Any, spec: Any = None) -> Tensor:
    """Any kind of picture as (C, H, W) float32 in [0, 1], by the spec's ``value_range`` where it is not of 8 bits."""
    if not isinstance(image, Tensor):
        array = np.asarray(_upright(image))
        low, high = getattr(spec, "value_range", (0.0, 255.0))
        finite = array.dtype.kind in "uif" and bool(np.isfinite(array).all())
        fits = 1 < high <= 255 if array.dtype == np.uint8 else (low, high) != (0, 255)
        if array.ndim not in (2, 3) or not finite or not fits:
            values = f"in {low:g}-{high:g}" if high <= 255 else f"of more than 8 bits, in {low:g} to {high:g}"
            raise ValueError(
                f"an array of {array.dtype} with shape {array.shape} is no picture for this model: give (H, W) or "
                f"(H, W, C) {values}, or a tensor (C, H, W) in [0, 1]"
            )
        tensor = torch.from_numpy(np.clip((array.astype(np.float32) - low) / (high - low), 0, 1))
        return tensor[None] if array.ndim == 2 else tensor.permute(2, 0, 1)
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(f"a tensor of {image.dtype} {tuple(image.shape)} is no image: give (C, H, W) floats in [0, 1]")
    low, high = float(image.min()), float(image.max())
    if not (low >= -0.01 and high <= 1.01):
        raise ValueError(f"the image's values go from {low:.3g} to {high:.3g}: give them in [0, 1], not normalised")
    return image.detach().float().cpu()


def _upright(image: Any) -> Any:
    """A picture of Pillow's as a viewer shows it: turned, in its colours; anything else as it is."""
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB", "F") or image.mode.startswith("I"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")
