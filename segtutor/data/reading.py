"""Reading image files and mask files, and finding them.

Masks are read as numbers, never as pictures: the index of a palette file is the label, and 16 bits stay 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from .labels import MaskError

# What Pillow opens everywhere and people keep masks and photographs in.
EXTENSIONS = frozenset(".bmp .gif .jpeg .jpg .jp2 .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # how Pillow names 16-bit files, by version and byte order


def list_files(folder: Path) -> dict[str, Path]:
    """The image files below a folder, by relative path without extension, in alphabetical order.

    Raises:
        ValueError: If two files differ in their extension only.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith(".") or not path.is_file():
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise ValueError(f"{folder} holds both {found[key].name} and {path.name}: keep one of them")
        found[key] = path
    return found


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """One image file as numbers in [0, 1].

    Args:
        path: File that Pillow can open, of 8 or 16 bits a channel.
        channels: 3 for colour (grey files are repeated), 1 for grey (colour files by the usual luma weights).

    Returns:
        (C, H, W) float32.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            if image.mode in _SIXTEEN_BITS:
                grey = np.asarray(image).astype(np.float32) / 65535
                return np.repeat(grey[None], channels, axis=0)
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): it is damaged, or no image file") from error
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels).astype(np.float32) / 255


def read_raw_mask(path: Path, colors: Mapping | None = None) -> np.ndarray:
    """The numbers in a mask file.

    Args:
        path: File that Pillow can open.
        colors: Colours that are labels. A palette file all of whose colours are among them is read as colours;
            any other one as palette indices.

    Returns:
        (H, W) integers: grey values of 1, 8, 16 or 32 bits, or palette indices; (H, W, 3) uint8 for a colour mask,
        unless all of its pixels are grey. Alpha is left out.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "P" and colors:
                rgb = np.asarray(image.convert("RGB"))
                used = {tuple(c) for c in np.unique(rgb.reshape(-1, 3), axis=0).tolist()}
                raw = rgb if used <= set(colors) else np.asarray(image)
            else:
                raw = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a mask ({error}): it is damaged, or no image file") from error
    if raw.dtype.kind == "f":
        if not np.array_equal(raw, np.round(raw)):
            raise MaskError(f"{path} holds fractions (e.g. {raw[raw != np.round(raw)][0]}): masks hold whole numbers")
        raw = raw.astype(np.int64)
    if raw.ndim == 3:
        raw = raw[..., 0] if raw.shape[2] == 2 else raw[..., :3]
    if raw.ndim == 3 and not colors and (raw == raw[..., :1]).all():
        raw = raw[..., 0]  # grey labels that a program saved as RGB
    return raw.astype(np.uint8) if raw.dtype == bool else raw
