"""Any kind of picture as numbers in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_pixels(image: Any, spec: Any = None) -> Tensor:
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
