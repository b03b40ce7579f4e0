"""Reading image files and mask files.

Both are read the way round in which a viewer shows them. Masks are read as numbers, never as pictures: the index of a
palette file is the label, and 16 bits stay 16 bits.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from .errors import DataError, MaskError
from .ranges import EIGHT_BITS, snapped, to_unit

_ORIENTATION = 274  # the EXIF tag that says which way round a viewer shows the pixels


# ------------------------------------------------------------------------------------------------------------- images
def read_image(path: Path, channels: int = 3, value_range: tuple[float, float] = EIGHT_BITS) -> np.ndarray:
    """One image file as numbers in [0, 1], turned as its EXIF data say.

    Args:
        path: File that Pillow can open, of 8 bits a channel, or of one channel of 16 or 32 bits or floats.
        channels: 3 for colour (grey files are repeated), 1 for grey (colour files by the usual luma weights).
        value_range: The file values that become 0 and 1; what lies outside is cut off.

    Returns:
        (C, H, W) float32.

    Raises:
        DataError: If the file cannot be read, has several pages, or holds values that do not fit the range.
    """
    values = read_values(path)
    if values.ndim == 2:
        return np.repeat(to_unit(values, value_range, str(path))[None], channels, axis=0)
    if channels == 1:
        if values.dtype == np.uint8:  # Pillow's own weighting, in whole numbers
            values = np.asarray(Image.fromarray(values).convert("L"))
        else:
            values = np.tensordot(values.astype(np.float64), (0.299, 0.587, 0.114), axes=1)
        return to_unit(values, value_range, str(path))[None]
    return np.ascontiguousarray(to_unit(values, value_range, str(path)).transpose(2, 0, 1))


def read_values(path: Path) -> np.ndarray:
    """The numbers in an image file: (H, W) for grey, (H, W, 3) for colour, in the file's own depth.

    Raises:
        DataError: If the file cannot be read, or has several pages.
    """
    with opened(path, "an image") as image:
        _one_page(image, path)
        if _is_deep_color(image):
            raise DataError(
                f"{path} has several channels of 16 bits, of which Pillow reads the upper 8: save it with 8 bits a "
                "channel, or as grey of 16 bits",
                kind="format",
            )
        if is_grey_deep(image):
            return _pixels(image)
        return _pixels(image, "L" if image.mode in ("1", "L", "LA") else "RGB")


def read_size(path: Path) -> tuple[int, int]:
    """Height and width as a viewer shows the image, from the start of the file alone.

    Raises:
        DataError: If the file is no image.
    """
    with opened(path, "an image") as image:
        # What the file says, for Pillow swaps the sides of some formats as it opens them, and of others as it reads.
        width, height = (tags[256], tags[257]) if (tags := _tags(image)) else image.size
        return (width, height) if orientation(image) > 4 else (height, width)  # 5 to 8 swap the sides


@dataclass(frozen=True)
class Glance:
    """What the start of an image file says.

    Attributes:
        deep: Whether it has more than 8 bits a value.
        turned: Whether a viewer turns or mirrors it, by its EXIF data.
        palette: The colours that a palette file names, by index; None for other files.
    """

    deep: bool
    turned: bool
    palette: tuple[tuple[int, ...], ...] | None


def glance(path: Path) -> Glance:
    """Look at the start of an image file.

    Raises:
        DataError: If the file is no image.
    """
    with opened(path, "an image") as image:
        palette = None
        if image.mode in ("P", "PA"):
            colors = image.getpalette("RGB") or []
            palette = tuple(tuple(colors[i : i + 3]) for i in range(0, len(colors) - 2, 3))
        return Glance(is_grey_deep(image) or _is_deep_color(image), orientation(image) != 1, palette)


def is_grey_deep(image: Image.Image) -> bool:
    """Whether an opened file has one channel of 16 or 32 bits or floats."""
    return image.mode == "F" or image.mode.startswith("I")


def _is_deep_color(image: Image.Image) -> bool:
    """Whether an opened file has several channels of 16 bits, of which Pillow would read the upper 8."""
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else ""  # how the bytes are packed: "RGB;16B", or a tuple that begins so
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return not is_grey_deep(image) and isinstance(raw, str) and ";16" in raw


def measure_range(paths: Sequence[Path]) -> tuple[float, float]:
    """The range of the images of a set, by looking at up to 256 of them.

    8-bit files: 0 to 255. Floats from 0 to 1: 0 to 1. Other numbers from 0 up: 0 to the largest number of 8, 10, 12, 14
    or 16 bits that is needed. Everything else, such as CT numbers: from the smallest to the largest value. Files that
    cannot be read are passed over here, and named when their turn comes.

    Raises:
        DataError: If some images have 8 bits and others more, or no value is finite.
    """
    deep: list[Path] = []
    plain: list[Path] = []
    for path in (paths[i] for i in evenly(len(paths), 256)):
        with contextlib.suppress(DataError):
            (deep if glance(path).deep else plain).append(path)
    if deep and plain:
        raise DataError(
            f"{deep[0]} has more than 8 bits a value, but {plain[0]} has 8: save all images alike, or declare what "
            "becomes 0 and 1 with value_range=(low, high)",
            kind="range",
        )
    least, most, floats, read = math.inf, -math.inf, False, 0
    for path in deep:
        try:
            values = read_values(path)
        except DataError:
            continue
        read += 1
        finite = values[np.isfinite(values)]  # the rest is refused, by name, when the file is read
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
            floats = floats or values.dtype.kind == "f"
    if not read:
        return EIGHT_BITS
    if least > most:
        raise DataError(f"{deep[0]} and {len(deep) - 1} more images hold no finite value: replace NaN before training")
    return snapped(least, most, floats)


def evenly(count: int, most: int | None) -> list[int]:
    """At most ``most`` of the indices below ``count``, spread evenly; None: all of them."""
    return list(range(count)) if most is None or count <= most else [i * count // most for i in range(most)]


# -------------------------------------------------------------------------------------------------------------- masks
def read_raw_mask(
    path: Path, colors: Mapping[tuple[int, int, int], int] | None = None, ignore_index: int = 255
) -> np.ndarray:
    """The numbers in a mask file, turned as its EXIF data say.

    Args:
        path: File that Pillow can open, of a format that keeps values exactly.
        colors: Colours that are labels. A palette file is then read as colours, unless its palette is a grey ramp, or
            colours and indices are the same labels and the index of void alone has a colour of its own.
        ignore_index: The label of void.

    Returns:
        (H, W) integers: grey values of 1, 8, 16 or 32 bits, or palette indices; (H, W, 3) uint8 for a colour mask,
        unless all of its pixels are grey and no colours are given.

    Raises:
        DataError: If the file cannot be read.
        MaskError: If it was saved in a way that loses labels: lossy, in several pages, in its transparency.
    """
    with opened(path, "a mask") as image:
        _one_page(image, path)
        if _is_lossy(image, path):
            raise MaskError(
                f"{path} is a {image.format} file, which changes the values of labels: export the masks as PNG", "lossy"
            )
        if _is_deep_color(image):
            raise MaskError(
                f"{path} has several channels of 16 bits, of which Pillow reads the upper 8: save it as a mask of one "
                "channel, or of 8 bits a channel",
                "format",
            )
        palette = _palette_of(image)
        if palette is not None:
            raw = _pixels(image)
            raw = raw if raw.ndim == 2 else raw[..., 0]  # the transparency of a palette file
            if not colors or _is_grey_ramp(palette, raw) or _is_void_alone(palette, raw, colors, ignore_index):
                return raw
            return palette[raw]
        plain = image.mode in ("1", "L", "LA", "RGB", "RGBA") or is_grey_deep(image)
        raw = _pixels(image, None if plain else "RGB")
    if raw.dtype.kind == "f":
        whole = np.isfinite(raw) & (raw == np.round(raw))
        if not whole.all():
            raise MaskError(
                f"{path} holds fractions (e.g. {raw[~whole][0]}), where labels are whole numbers: save the labels "
                "themselves, not scores or shares",
                "values",
            )
        raw = raw.astype(np.int64)
    if raw.ndim == 3 and raw.shape[2] in (2, 4):
        raw = _without_alpha(raw, path)
    if raw.ndim == 3 and not colors and (raw == raw[..., :1]).all():
        raw = raw[..., 0]  # grey labels that a program saved as RGB
    return raw.astype(np.uint8) if raw.dtype == bool else raw


def _palette_of(image: Image.Image) -> np.ndarray | None:
    """The colours (256, 3) uint8 of a palette file, black where it names none; None for other files."""
    if image.mode not in ("P", "PA"):
        return None
    table = np.zeros((256, 3), np.uint8)
    colors = np.asarray(image.getpalette("RGB") or [], np.uint8)[:768]
    table[: len(colors) // 3] = colors[: len(colors) // 3 * 3].reshape(-1, 3)
    return table


def _is_grey_ramp(palette: np.ndarray, raw: np.ndarray) -> bool:
    """Whether every index in use is shown as the grey of its own number, as in a file that has no palette."""
    used = np.flatnonzero(np.bincount(raw.ravel(), minlength=256))
    return bool((palette[used] == used[:, None]).all())


def _is_void_alone(
    palette: np.ndarray, raw: np.ndarray, colors: Mapping[tuple[int, int, int], int], ignore_index: int
) -> bool:
    """Whether the indices in use are the labels of their colours, but for void, whose colour is not in ``colors``."""
    used = {index: tuple(palette[index].tolist()) for index in np.flatnonzero(np.bincount(raw.ravel())).tolist()}
    if used.pop(ignore_index, None) in {None, *colors}:
        return False
    return all(colors.get(color) == index for index, color in used.items())


def _without_alpha(raw: np.ndarray, path: Path) -> np.ndarray:
    """(H, W, C + 1) to (H, W) or (H, W, C), if the last channel, the transparency, says nothing of its own."""
    colors, alpha = raw[..., :-1].astype(np.int64), raw[..., -1].astype(np.int64)
    if alpha.min() != alpha.max():
        packed = np.zeros_like(alpha)
        for channel in range(colors.shape[-1]):
            packed = packed * 256 + colors[..., channel]
        if len(np.unique(packed * 256 + alpha)) > len(np.unique(packed)):
            raise MaskError(
                f"{path} has pixels of one colour that differ in transparency, so labels may stand in the alpha "
                "channel, which is not read: save the mask without alpha, with one value or colour for each class",
                "alpha",
            )
    return raw[..., 0] if raw.shape[2] == 2 else raw[..., :-1]


def _is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether an opened file is compressed in a way that changes values."""
    if image.format in ("JPEG", "MPO", "JPEG2000"):
        return True
    if image.format == "TIFF":
        return image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
    if image.format == "WEBP":
        # Chunks of "RIFF size WEBP": "VP8L" holds pixels without loss, "VP8 " with, wherever it stands.
        with open(path, "rb") as file:
            file.seek(12)
            while len(head := file.read(8)) == 8:
                if head[:4] in (b"VP8 ", b"VP8L"):
                    return head[:4] == b"VP8 "
                size = int.from_bytes(head[4:], "little")
                # A frame of an animation begins with 16 bytes and then holds chunks itself.
                file.seek(16 if head[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


# ------------------------------------------------------------------------------------------------- opening and turning
@contextlib.contextmanager
def opened(path: Path, what: str) -> Iterator[Image.Image]:
    """A file opened by Pillow, whose errors come out as one sentence.

    Args:
        path: The file.
        what: What it should be, such as "a mask".

    Raises:
        DataError: If the file, or its part that is read in the block, is not readable.
    """
    try:
        # From an open file, for Pillow garbles uncompressed TIFF files with a quarter turn when it maps them by name.
        with open(path, "rb") as file:
            with warnings.catch_warnings():
                # Pillow warns of what it takes, and refuses what has twice as many pixels
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(file)
            with image:
                yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} is not there: restore it, or leave it out") from None
    except PermissionError as error:
        raise DataError(f"{path} may not be read ({error.strerror}): change its permissions") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels, which Pillow takes "
            "for an attack: cut it into tiles, or set PIL.Image.MAX_IMAGE_PIXELS",
            kind="format",
        ) from None
    except Exception as error:  # whatever Pillow raises on a damaged file, struct.error and EOFError among it
        kind = _unsupported_tiff(path)
        if kind:
            raise DataError(
                f"{path} is a TIFF with {kind}, which Pillow does not read: save it as 8 or 16 bits in PNG, or as TIFF "
                "of one channel",
                kind="format",
            ) from error
        raise DataError(f"{path} cannot be read as {what} ({error}): it is damaged, or no image file") from error


def _unsupported_tiff(path: Path) -> str:
    """What a sound TIFF file holds, by its tags; "" for files that are damaged or of another format."""
    try:
        with open(path, "rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            sizes, count, kinds = tags.get(258, (1,)), tags.get(277, 1), tags.get(339, (1,))
            strips = tags.get(279) or tags.get(325) or (0,)  # how many bytes each strip or tile has
            whole = path.stat().st_size >= sum(strips) > 0
    except Exception:  # no TIFF, or cut off
        return ""
    if not whole or (count == 1 and sizes[0] <= 16 and kinds[0] != 3) or (count in (3, 4) and set(sizes) == {8}):
        return ""  # a kind that Pillow reads, so that this file is damaged
    what = {2: "signed numbers", 3: "floats", 5: "complex numbers", 6: "complex numbers"}.get(kinds[0], "whole numbers")
    return f"{count} channel{'s' if count > 1 else ''} of {sizes[0]} bits ({what})"


def _one_page(image: Image.Image, path: Path) -> None:
    """Refuse files of several pages, of which the first alone would be read."""
    if image.format == "MPO":  # the photograph of a telephone with its preview or depth map
        return
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format == "TIFF":  # a page may be the same picture, smaller
        pages = 0
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pages += number == 0 or not int(_tags(image).get(254, 0)) & 1
        image.seek(0)
    if pages > 1:
        raise DataError(
            f"{path} holds {pages} pages, of which only the first would be read: save each page as a file of its own",
            kind="pages",
        )


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of an opened TIFF file by number; none for other formats."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def orientation(image: Image.Image) -> int:
    """How an opened file is to be turned, 1 (not at all) to 8 by EXIF's count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF data, which viewers pass over as well
        try:
            # A PNG may hold EXIF data behind its pixels, and Pillow reads all of them to see; not for a glance.
            exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
            value = exif.get(_ORIENTATION, 1)
        except Exception:
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn(values: np.ndarray, how: int) -> np.ndarray:
    """An array (H, W, ...) mirrored and turned by EXIF's orientation, 1 to 8."""
    if how in (2, 4, 5, 7):  # mirrored left to right, before the quarter turns
        values = values[:, ::-1]
    return np.ascontiguousarray(np.rot90(values, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(how, 0)))


def _pixels(image: Image.Image, mode: str | None = None) -> np.ndarray:
    """The numbers of an opened file as a viewer shows them, converted to one of Pillow's modes before."""
    tags = _tags(image) if image.mode == "I" else {}
    unsigned = tags.get(258, (0,))[0] == 32 and tags.get(339, (1,))[0] == 1
    image.load()  # Pillow turns TIFF files itself while it reads them, and takes the tag away
    values = turn(np.asarray(image.convert(mode) if mode else image), orientation(image))
    return values.view(np.uint32) if unsigned else values  # Pillow has no such mode, and calls it signed
