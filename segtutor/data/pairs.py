"""What all datasets on disk share: reading an image, reading a mask exactly, turning file values into labels.

Masks are read as numbers, never as pictures: the index of a palette file is the label, 16 bits stay 16 bits, and
resizing picks pixels, so that no label appears that was not in the file.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .spec import DatasetSpec

# What Pillow opens everywhere and people keep masks and photographs in.
EXTENSIONS = frozenset(".bmp .gif .jpeg .jpg .jp2 .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
LOSSY = frozenset(".jpeg .jpg".split())
SMOOTHED = "a mask that was resized with interpolation, or a photograph; export it again without smoothing"
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # how Pillow names 16-bit files, by version and byte order


class MaskError(ValueError):
    """A mask holds values that are no label."""


@dataclass(frozen=True)
class LabelCode:
    """How the values in mask files become labels 0..num_classes-1 and ``ignore_index``.

    Attributes:
        num_classes: Number of classes.
        ignore_index: Label of void pixels.
        values: File value -> label; None: the values are the labels.
        colors: RGB in 0-255 -> label, for masks that are colour pictures; None: such masks are refused.
    """

    num_classes: int
    ignore_index: int = 255
    values: Mapping[int, int] | None = None
    colors: Mapping[tuple[int, int, int], int] | None = None

    def allowed(self) -> tuple[int, ...]:
        """The values that a mask file may hold, in rising order."""
        if self.values is not None:
            return tuple(sorted(self.values))
        return tuple(sorted({*range(self.num_classes), self.ignore_index}))

    def decode(self, raw: np.ndarray, where: str) -> np.ndarray:
        """Labels of one mask.

        Args:
            raw: (H, W) values or (H, W, 3) colours, as :func:`read_raw_mask` gives them.
            where: Name of the file, for the message.

        Returns:
            (H, W) int64 labels.

        Raises:
            MaskError: If a value or colour is not allowed; the message names file, values and likely cause.
        """
        if raw.ndim == 3:
            return self._decode_colors(raw, where)
        if raw.dtype == np.uint8:  # counting is ten times faster than sorting
            found, back = np.flatnonzero(np.bincount(raw.ravel(), minlength=256)), None
        else:
            found, back = np.unique(raw, return_inverse=True)
        wrong = sorted(set(found.tolist()) - set(self.allowed()))
        if wrong:
            raise MaskError(
                f"{where} holds the values {shorten(found.tolist())}; allowed are {shorten(self.allowed())}: "
                f"{likely_cause(found.tolist(), self, where)}"
            )
        labels = found.astype(np.int64)
        if self.values is not None:
            labels = np.array([self.values[value] for value in found.tolist()], dtype=np.int64)
        if back is not None:
            return labels[back.reshape(raw.shape)]
        table = np.zeros(256, dtype=np.int64)
        table[found] = labels
        return table[raw]

    def _decode_colors(self, raw: np.ndarray, where: str) -> np.ndarray:
        packed = raw.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        found, back = np.unique(packed, return_inverse=True)
        colors = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found]
        wrong = [color for color in colors if color not in (self.colors or {})]
        if wrong:
            allowed = shorten(sorted(self.colors)) if self.colors else "single numbers per pixel"
            raise MaskError(
                f"{where} holds the colours {shorten(wrong)}; allowed are {allowed}: "
                f"{likely_color_cause(len(colors), self, where)}"
            )
        labels = np.array([self.colors[color] for color in colors], dtype=np.int64)
        return labels[back.reshape(raw.shape[:2])]


def likely_cause(found: Sequence[int], code: LabelCode, where: str = "") -> str:
    """Why a mask holds values that are no labels, and what to do, in one phrase."""
    classes, extra = code.num_classes, sorted(set(found) - set(code.allowed()))
    plain = sorted(set(found) - {code.ignore_index})
    if Path(where).suffix.lower() in LOSSY:
        return "JPEG changes the values of labels; export the masks as PNG"
    if code.values is not None:
        return "the file is not from this dataset, or was resized or re-encoded; restore the original file"
    if set(found) <= {0, 255} and 255 in found:
        return "looks like a 0/255 binary mask; map it with label_map={0: 0, 255: 1}"
    if plain and plain[0] >= 1 and plain[-1] == classes:
        return f"looks like labels 1..{classes} instead of 0..{classes - 1}; subtract 1, with label_map="
    if extra == [classes]:
        return f"either there are {classes + 1} classes, or {classes} is void; map void to 255 with label_map="
    if extra == [code.ignore_index] or extra == [255]:
        return "255 usually marks void; pass ignore_index=255"
    if len(found) > 4 * classes and len(found) > 16:
        return f"looks like {SMOOTHED}"
    step = found[1] - found[0] if len(found) > 1 else 0
    if step > 1 and all((value - found[0]) % step == 0 for value in found):
        return "looks like labels spread over the grey levels to make them visible; map them back with label_map="
    return "the number of classes is too small, or the values need label_map="


def likely_color_cause(count: int, code: LabelCode, where: str) -> str:
    """Why a mask is a colour picture with colours that are no labels, and what to do, in one phrase."""
    if Path(where).suffix.lower() in LOSSY:
        return "JPEG blends the colours of labels; export the masks as PNG"
    if count > 256:
        return f"looks like {SMOOTHED}"
    if not code.colors:
        return "looks like an RGB mask; pass palette= with one colour per class"
    return "a class is missing from palette=, or the mask was smoothed"


def shorten(values: Sequence, most: int = 12) -> str:
    """Values for a message: all of them, a range, or the first few."""
    values = list(values)
    if len(values) > 3 and all(isinstance(v, int) for v in values):
        run = len(values) - (values[-2] + 1 != values[-1])
        if run > 3 and values[:run] == list(range(values[0], values[0] + run)):
            rest = "".join(f", {value}" for value in values[run:])
            return f"{values[0]}..{values[run - 1]}{rest}"
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} in all)"


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


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) to (C, *size), bilinear, smoothed first where it shrinks (corners not aligned)."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized = F.interpolate(image[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].clamp_(0, 1)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (H, W) to ``size``: every pixel is the source pixel under its centre, whatever the dtype.

    The plain ``nearest`` of torch takes the pixel under the corner, half a pixel away from where the bilinear image is.
    """
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    (height, width), (rows, columns) = mask.shape[-2:], size
    row = ((torch.arange(rows) * 2 + 1) * height) // (2 * rows)
    column = ((torch.arange(columns) * 2 + 1) * width) // (2 * columns)
    return mask[..., row[:, None], column]


def check_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) as two whole numbers, or None.

    Raises:
        ValueError: If it is something else.
    """
    if size is None:
        return None
    if len(tuple(size)) != 2 or min(size) < 1:
        raise ValueError(f"size={tuple(size)} is not valid: give (height, width) in pixels")
    return int(size[0]), int(size[1])


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


class PairDataset(Dataset):
    """Images and masks in files, as pairs.

    ``dataset[i]`` is image (C, H, W) float32 in [0, 1] and mask (H, W) int64, not normalised.

    Args:
        pairs: (image file, mask file) of each item.
        spec: What the set says about itself.
        code: How file values become labels.
        size: (height, width) to resize to; None: as in the file.
        transform: Called as ``transform(image, mask)`` on ``tv_tensors.Image`` and ``tv_tensors.Mask``.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        spec: DatasetSpec,
        code: LabelCode,
        *,
        size: tuple[int, int] | None = None,
        transform: Callable | None = None,
    ) -> None:
        self.pairs = list(pairs)
        self.spec = spec
        self.code = code
        self.size = check_size(size)
        self.transform = transform
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def keep_in_memory(self) -> PairDataset:
        """Keep every pair once it is read and resized, before the transform; returns the dataset itself.

        Worth it where small images are seen many times: decoding a file takes longer than a small network's step. The
        cost is 4 (C + 2) H W bytes an image; with DataLoader workers, each of them keeps its own.
        """
        self._kept = {} if self._kept is None else self._kept
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {self.spec.num_classes} classes)"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, H, W) float32 and labels (H, W) int64 as they are in the files.

        Raises:
            ValueError: If a file cannot be read, a mask holds no labels, or image and mask differ in size.
        """
        image_path, mask_path = self.pairs[index]
        image = read_image(image_path, self.spec.in_channels)
        labels = self.code.decode(read_raw_mask(mask_path, self.code.colors), str(mask_path))
        if image.shape[1:] != labels.shape:
            raise ValueError(
                f"{image_path} is {image.shape[1]} x {image.shape[2]} pixels (height x width) but {mask_path} is "
                f"{labels.shape[0]} x {labels.shape[1]}: export the mask at the size of its image"
            )
        return image, labels

    def _resized(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.read(index)
        image, mask = torch.from_numpy(pixels), torch.from_numpy(labels)
        if self.size is None:
            return image, mask
        return resize_image(image, self.size), resize_mask(mask, self.size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) and mask (H, W).

        Raises:
            IndexError: If the set has no such index.
            ValueError: As :meth:`read`.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__} has {len(self)} images: index {index} is out of range")
        index %= len(self)
        if self._kept is None:
            image, mask = self._resized(index)
        else:
            if index not in self._kept:
                self._kept[index] = self._resized(index)
            image, mask = (tensor.clone() for tensor in self._kept[index])  # a caller may write into what it gets
        if self.transform is None:
            return image, mask
        from torchvision import tv_tensors

        return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


def matched(images: Path, masks: Path, title: str) -> list[tuple[Path, Path]]:
    """Pairs of the files of two folders with equal stems.

    Raises:
        DataNotFoundError: If a folder is not there or holds no images.
        ValueError: If a file has no partner; the message names it.
    """
    from .root import DataNotFoundError

    for folder in (images, masks):
        if not folder.is_dir():
            raise DataNotFoundError(f"{title} has no folder {folder}: restore it, or choose another split")
    left, right = list_files(images), list_files(masks)
    if not left:
        raise DataNotFoundError(f"{title} has no images in {images}: restore them, or choose another split")
    problems = unmatched(left, right)
    if problems:
        raise ValueError(f"{title}: {'; '.join(problems)}: give each image one mask of the same name")
    return [(path, right[key]) for key, path in left.items()]


def unmatched(images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[str]:
    """One phrase for the images without a mask, and one for the masks without an image."""
    phrases = []
    for ours, theirs, what in ((images, masks, "without a mask"), (masks, images, "without an image")):
        alone = [path.name for key, path in ours.items() if key not in theirs]
        if alone:
            phrases.append(f"{len(alone)} {'file' if len(alone) == 1 else 'files'} {what} ({shorten(alone, 5)})")
    return phrases


def choose_split(title: str, split: str, splits: Sequence[str]) -> str:
    """The split, if there is one of that name.

    Raises:
        ValueError: If there is none.
    """
    if split not in splits:
        raise ValueError(f"{title} has no split {split!r}: choose one of {', '.join(splits)}")
    return split
