"""From an image to labels: as a whole or in tiles, seen once or in several views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtutor.inference.pictures import as_pixels
from segtutor.metrics import foreground
from segtutor.modes import kept_modes

SMALLEST_SIDE = 32  # of an image that every model can score


def predict(
    model: nn.Module,
    image: Any,
    *,
    size: tuple[int, int] | None = None,
    spec: Any = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Label every pixel of an image.

    Args:
        model: maps normalised images (B, C, H, W) to logits (B, num_classes, H, W); run in evaluation mode on the
            device where it is; afterwards each of its modules has its own mode back.
        image: a tensor (C, H, W) in [0, 1]; or a picture of Pillow's, which is turned as its EXIF data say; or an array
            (H, W) or (H, W, C), uint8 in 0-255 or other numbers in the ``value_range`` of the spec.
        size: (height, width) at which the model sees it; None: the ``resize`` of the spec, to which the training images
            were resized, or as it is where they were not. Sides under 32 are filled up with their own reflection.
        spec: anything with ``mean`` and ``std`` of the channels; None: what the model carries as ``model.info``.
        scales: factors on that size; where there are several, the probabilities of all are averaged.
        flip: average with the mirror image at each scale, too.

    Returns:
        Labels (H, W) int64 on the CPU, at the size of the image.

    Raises:
        ValueError: the image cannot be read as one, nobody says how it is normalised, a setting is out of its range, or
            the model gives no numbers.
    """
    return _labels(_whole(model, image, size, spec, scales, flip)).cpu()


def probabilities(
    model: nn.Module,
    image: Any,
    *,
    size: tuple[int, int] | None = None,
    spec: Any = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """How sure the model is of each class at every pixel of an image.

    Args:
        model, image, size, spec, scales, flip: as for `predict`.

    Returns:
        (num_classes, H, W) float32 on the CPU, summing to 1 over the classes; of a model with one logit, background and
        foreground. They are as well calibrated as the model is.

    Raises:
        ValueError: as for `predict`.
    """
    return _as_probabilities(_whole(model, image, size, spec, scales, flip)).cpu()


def predict_tiled(
    model: nn.Module,
    image: Any,
    *,
    tile: int = 512,
    overlap: int = 128,
    spec: Any = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Tensor:
    """Label an image that is too large to be looked at as a whole, tile by tile.

    Neighbours overlap. A quarter of the overlap at the rim of each tile is thrown away, since a network lacks half of
    its surroundings there; over the half in the middle one tile's probabilities fade into the other's. So a network
    whose receptive field reaches no further than ``overlap / 4`` pixels from its centre answers as on the whole image
    (of sides that its stride divides), and any other one without seams. Every tile starts at a multiple of 32, where
    strides fall as on the whole image.

    Args:
        model, image, spec, scales, flip: as for `predict`. The model sees the image at its own scale, times `scales`,
            whatever its training images were resized to.
        tile: side of a tile in pixels, a multiple of 32.
        overlap: pixels that neighbours share, a multiple of 32, at most half a tile.

    Returns:
        Labels (H, W) uint8 on the CPU (int32 with more than 256 classes). Beside them and the image, no more is held
        than the probabilities of a row of tiles.

    Raises:
        ValueError: as for `predict`, or a tile that does not fit.
    """
    labels: Tensor | None = None
    for top, scores, height in strips(model, image, tile=tile, overlap=overlap, spec=spec, scales=scales, flip=flip):
        if labels is None:
            kind = torch.uint8 if len(scores) <= 256 else torch.int32
            labels = torch.empty(height, scores.shape[2], dtype=kind)
        labels[top : top + scores.shape[1]] = scores.argmax(0)
    assert labels is not None  # an image has rows
    return labels


def strips(
    model: nn.Module,
    image: Any,
    *,
    tile: int = 512,
    overlap: int = 128,
    spec: Any = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Iterator[tuple[int, Tensor, int]]:
    """The probabilities of an image from top to bottom, for results that are too large to be held at once.

    Args:
        model, image, tile, overlap, spec, scales, flip: as for `predict_tiled`.

    Yields:
        The first row of a strip, its probabilities (num_classes, h, W) float32 on the CPU, and the image's height.

    Raises:
        ValueError: as for `predict_tiled`.
    """
    check_views(tile, overlap, scales)
    spec = _known(model, spec)
    pixels = _checked(as_pixels(image, spec), spec)  # (C, H, W)
    height, width = pixels.shape[1:]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    rest: Tensor | None = None  # of the strip above, that the next tiles reach into
    for top in rows:
        bottom = min(top + tile, height)
        strip: Tensor | None = None
        down = _fading(bottom - top, overlap, first=top == 0, last=bottom == height)[:, None]  # (h, 1)
        for left in columns:
            right = min(left + tile, width)
            across = _fading(right - left, overlap, first=left == 0, last=right == width)  # (w,)
            part = pixels[:, top:bottom, left:right]
            found = _as_probabilities(_scores(model, part, part.shape[1:], spec, scales, flip)).cpu()
            if strip is None:
                strip = torch.zeros(len(found), bottom - top, width)
            strip[:, :, left:right] += found * (down * across)
        assert strip is not None  # an image has columns
        if rest is not None:
            strip[:, : rest.shape[1]] += rest
        done = len(strip[0]) if bottom == height else tile - overlap
        yield top, strip[:, :done], height
        rest = strip[:, done:].clone()


def check_views(tile: int | None, overlap: int, scales: Sequence[float]) -> None:
    """Raise ValueError, saying what to do, unless an image can be looked at in this way."""
    if tile is not None and (tile < 64 or tile % 32 or overlap < 32 or overlap % 32 or 2 * overlap > tile):
        raise ValueError(
            f"a tile of {tile} pixels with an overlap of {overlap} does not fit: both are multiples of 32, a tile has "
            "at least 64 pixels, and the overlap at least 32 and at most half a tile"
        )
    if not scales or not all(0.05 <= scale <= 20 for scale in scales):
        raise ValueError(f"scales {list(scales)} do not fit: give factors from 0.05 to 20, such as 0.75, 1 and 1.25")


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin, the last of which may be cut off by the image's end."""
    starts = [0]
    while starts[-1] + tile < side:
        starts.append(starts[-1] + tile - overlap)
    return starts


def _fading(length: int, overlap: int, *, first: bool, last: bool) -> Tensor:
    """Weight of each pixel along a side of a tile: neighbours' weights sum to 1 wherever they overlap."""
    places = torch.arange(length) + 0.5
    rise = ((places - overlap / 4) / (overlap / 2)).clamp(0, 1)
    fall = ((length - places - overlap / 4) / (overlap / 2)).clamp(0, 1)
    ones = torch.ones(length)
    return (ones if first else rise) * (ones if last else fall)


def _whole(
    model: nn.Module, image: Any, size: tuple[int, int] | None, spec: Any, scales: Sequence[float], flip: bool
) -> Tensor:
    spec = _known(model, spec)
    size = getattr(spec, "resize", None) if size is None else size
    pixels = _checked(as_pixels(image, spec), spec)
    return _scores(model, pixels, pixels.shape[1:] if size is None else size, spec, scales, flip)


def _known(model: nn.Module, spec: Any) -> Any:
    spec = getattr(model, "info", None) if spec is None else spec
    if spec is None:
        raise ValueError("the model does not say how its images are normalised: pass spec=dataset.spec")
    return spec


def _checked(pixels: Tensor, spec: Any) -> Tensor:
    if pixels.shape[0] != len(spec.mean):
        raise ValueError(
            f"the image has {pixels.shape[0]} channels, but the model was trained on {len(spec.mean)}: convert it to "
            f"{'grey' if len(spec.mean) == 1 else 'colour'} first"
        )
    return pixels


def _scores(
    model: nn.Module, pixels: Tensor, size: Sequence[int], spec: Any, scales: Sequence[float], flip: bool
) -> Tensor:
    """Scores (num_classes, H, W) of an image (C, H, W) that the model sees at a size.

    They are its logits where it looks once, and the logarithm of mean probabilities where it looks several times.
    """
    check_views(None, 0, scales)
    weights = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    normalised = ((pixels - mean) / std)[None].to(weights.device)  # (1, C, H, W)
    views, total = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))], None
    with kept_modes(model), torch.inference_mode():
        model.eval()
        for scale, mirrored in views:
            seen = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            view = normalised.flip(3) if mirrored else normalised
            if seen != tuple(view.shape[2:]):
                view = F.interpolate(view, size=seen, mode="bilinear", align_corners=False, antialias=True)
            logits = model(reflected(view).to(weights.dtype))[:, :, : seen[0], : seen[1]]
            # Scores are resized, not labels: halfway between two classes lies no third one.
            logits = F.interpolate(logits.float(), size=pixels.shape[1:], mode="bilinear", align_corners=False)[0]
            if logits.isnan().any():
                raise ValueError(
                    "the model's scores are not numbers (NaN): its weights are broken, load those of an earlier step"
                )
            logits = logits.flip(2) if mirrored else logits
            if len(views) == 1:
                return logits  # (num_classes, H, W)
            total = _as_probabilities(logits) + (0 if total is None else total)
    assert total is not None
    return (total / len(views)).log()


def reflected(images: Tensor, smallest: int = SMALLEST_SIDE) -> Tensor:
    """Fill sides that are too small for a model up to `smallest`, below and on the right, by their reflection.

    Args:
        images: (B, C, H, W).
        smallest: pixels.

    Returns:
        (B, C, max(H, smallest), max(W, smallest)); the images themselves where they are large enough.
    """
    for dim in (2, 3):
        side = images.shape[dim]
        if side < smallest:
            period = [*range(side), *range(side - 2, 0, -1)]  # 0 1 2 3 2 1, and again
            places = [period[i % len(period)] for i in range(smallest)]
            images = images.index_select(dim, torch.tensor(places, device=images.device))
    return images


def _as_probabilities(scores: Tensor) -> Tensor:
    """(num_classes, H, W) to probabilities; of one logit, to those of background and foreground."""
    if scores.shape[0] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores])
    return scores.softmax(0)


def _labels(scores: Tensor) -> Tensor:
    return foreground(scores[0]) if scores.shape[0] == 1 else scores.argmax(0)  # (H, W)
