"""How the numbers or colours in mask files become labels, and what is likely wrong where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LOSSY = frozenset(".jpeg .jpg".split())
SMOOTHED = "a mask that was resized with interpolation, or a photograph; export it again without smoothing"


class MaskError(ValueError):
    """A mask holds values that are no label."""


@dataclass(frozen=True)
class LabelMapping:
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
        known = self.colors or {}
        wrong = [color for color in colors if color not in known]
        if wrong:
            allowed = shorten(sorted(known)) if known else "single numbers per pixel"
            raise MaskError(
                f"{where} holds the colours {shorten(wrong)}; allowed are {allowed}: "
                f"{likely_color_cause(len(colors), self, where)}"
            )
        labels = np.array([known[color] for color in colors], dtype=np.int64)
        return labels[back.reshape(raw.shape[:2])]


def likely_cause(found: Sequence[int], mapping: LabelMapping, where: str = "") -> str:
    """Why a mask holds values that are no labels, and what to do, in one phrase."""
    classes, extra = mapping.num_classes, sorted(set(found) - set(mapping.allowed()))
    plain = sorted(set(found) - {mapping.ignore_index})
    if Path(where).suffix.lower() in LOSSY:
        return "JPEG changes the values of labels; export the masks as PNG"
    if mapping.values is not None:
        return "the file is not from this dataset, or was resized or re-encoded; restore the original file"
    if set(found) <= {0, 255} and 255 in found:
        return "looks like a 0/255 binary mask; map it with label_map={0: 0, 255: 1}"
    if plain and plain[0] >= 1 and plain[-1] == classes:
        return f"looks like labels 1..{classes} instead of 0..{classes - 1}; subtract 1, with label_map="
    if extra == [classes]:
        return f"either there are {classes + 1} classes, or {classes} is void; map void to 255 with label_map="
    if extra == [mapping.ignore_index] or extra == [255]:
        return "255 usually marks void; pass ignore_index=255"
    if len(found) > 4 * classes and len(found) > 16:
        return f"looks like {SMOOTHED}"
    step = found[1] - found[0] if len(found) > 1 else 0
    if step > 1 and all((value - found[0]) % step == 0 for value in found):
        return "looks like labels spread over the grey levels to make them visible; map them back with label_map="
    return "the number of classes is too small, or the values need label_map="


def likely_color_cause(count: int, mapping: LabelMapping, where: str) -> str:
    """Why a mask is a colour picture with colours that are no labels, and what to do, in one phrase."""
    if Path(where).suffix.lower() in LOSSY:
        return "JPEG blends the colours of labels; export the masks as PNG"
    if count > 256:
        return f"looks like {SMOOTHED}"
    if not mapping.colors:
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
