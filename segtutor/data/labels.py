"""How the numbers or colours in mask files become labels, and what is likely wrong where they do not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import MaskError

MANY = 24  # values or colours that are more than a message spells out
SMOOTHED = "a mask that was resized with interpolation, or a photograph; export it again without smoothing"


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

    def greys(self) -> dict[int, int]:
        """Grey value -> label, of the grey ones among the colours, where no ``values`` say how grey masks are read."""
        if self.values is not None:
            return {}
        return {color[0]: label for color, label in (self.colors or {}).items() if len(set(color)) == 1}

    def is_by_color(self, found: Sequence[int]) -> bool:
        """Whether a grey mask with these values is one whose greys are colours of ``colors``, such as 255 for class 1.

        It is, where one of its values means another label as a colour than as a number.
        """
        return any(label != value for value, label in self.greys().items() if value in set(found))

    def decode(self, raw: np.ndarray, where: str) -> np.ndarray:
        """Labels of one mask.

        Args:
            raw: (H, W) values or (H, W, 3) colours, as :func:`~segtutor.data.reading.read_raw_mask` gives them.
            where: Name of the file, for the message.

        Returns:
            (H, W) int64 labels.

        Raises:
            MaskError: If a value or colour is not allowed; the message names file, values and likely cause.
        """
        if raw.ndim == 3:
            return self._decode_colors(raw, where)
        if raw.dtype == np.uint8:  # counting is ten times faster than sorting
            counts = np.bincount(raw.ravel(), minlength=256)
            found, back = np.flatnonzero(counts), None
            counts = counts[found]
        else:
            found, back, counts = np.unique(raw, return_inverse=True, return_counts=True)
        meaning = self._meaning(dict(zip(found.tolist(), counts.tolist(), strict=True)), where)
        labels = np.array([meaning[value] for value in found.tolist()], dtype=np.int64)
        if back is not None:
            return labels[back.reshape(raw.shape)]
        table = np.zeros(256, dtype=np.int64)
        table[found] = labels
        return table[raw]

    def _meaning(self, counts: Mapping[int, int], where: str) -> Mapping[int, int]:
        """The label of each value in a mask, given how many pixels have it."""
        found = sorted(counts)
        if self.is_by_color(found):
            greys = self.greys()
            if other := [value for value in found if value not in greys]:
                raise MaskError(
                    f"{where} holds the values {shorten(found)}, of which {shorten(sorted(set(found) & set(greys)))} "
                    f"are colours of palette= and {shorten(other)} are not: use either colours or labels in all masks",
                    "values",
                )
            return greys
        wrong = sorted(set(found) - set(self.allowed()))
        if wrong:
            raise MaskError(
                f"{where} holds the values {shorten(found)}; allowed are {shorten(self.allowed())}: "
                f"{likely_cause(found, self, {value: counts[value] for value in wrong})}",
                "values",
            )
        return self.values if self.values is not None else {value: value for value in found}

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
                f"{likely_color_cause(wrong, len(colors), self)}",
                "colors",
            )
        labels = np.array([known[color] for color in colors], dtype=np.int64)
        return labels[back.reshape(raw.shape[:2])]


def setting(key: str, in_yaml: str, option: str) -> str:
    """How to write a setting in a configuration and on the command line, for a message."""
    return f"in YAML {key}: {in_yaml}, on the command line --{key.replace('_', '-')} {option}"


def mapped_by(label_map: Mapping[int, int]) -> str:
    """How to pass a label map, for a message: to a function, in a configuration, and on the command line."""
    pairs = "{" + ", ".join(f"{value}: {label}" for value, label in label_map.items()) + "}"
    option = ",".join(f"{value}:{label}" for value, label in label_map.items())
    return f"label_map={pairs} ({setting('label_map', pairs, option)})"


def colored_by(colors: Sequence[tuple[int, int, int]]) -> str:
    """How to pass a palette, likewise; its colours in the order given."""
    codes = [f"{red:02x}{green:02x}{blue:02x}" for red, green, blue in colors]
    quoted = "[" + ", ".join(f"'#{code}'" for code in codes) + "]"
    return f"palette={quoted} ({setting('palette', quoted, ','.join(codes))})"


def in_order(found: Sequence[int], ignore_index: int) -> dict[int, int]:
    """A label map for values that are no labels: the lowest is class 0, the next class 1, and so on.

    What stands far above a run of 0, 1, 2, ... is void, and so is ``ignore_index``, unless it ends equal steps.

    Args:
        found: Two values or more, in rising order.
        ignore_index: Label of void pixels.
    """
    steps = [after - before for before, after in itertools.pairwise(found)]
    void = {ignore_index} & set(found) if max(steps) - min(steps) > 1 else set()
    inner = [value for value in found if value not in void]
    if len(inner) > 2 and inner[:-1] == list(range(len(inner) - 1)) and inner[-1] >= len(inner):
        void.add(inner.pop())
    return {**{value: label for label, value in enumerate(inner)}, **dict.fromkeys(sorted(void), ignore_index)}


def likely_cause(found: Sequence[int], mapping: LabelMapping, wrong: Mapping[int, int] | None = None) -> str:
    """Why a mask holds values that are no labels, and what to do, in one phrase.

    Args:
        found: All values, in rising order.
        mapping: What is allowed.
        wrong: The number of pixels of each value that is not; None: unknown.
    """
    classes, extra = mapping.num_classes, sorted(set(found) - set(mapping.allowed()))
    plain = sorted(set(found) - {mapping.ignore_index})
    if mapping.values is not None:
        if len(extra) > 3:
            return "the file is not from this dataset, or was resized or re-encoded; restore the original file"
        many = [f"{value} ({wrong[value]} pixels)" if wrong else str(value) for value in extra]
        more = ", ".join(f"{value}: {mapping.ignore_index}" for value in extra)
        return (
            f"nothing says which label {', '.join(many)} is; add it to label_map=, e.g. {more} for void, or restore "
            "the original file if it was changed"
        )
    if set(found) <= {0, 255} and 255 in found:
        return f"looks like a 0/255 binary mask; map it with {mapped_by({0: 0, 255: 1})}"
    if plain and plain[0] >= 1 and plain[-1] == classes:
        shifted = {value: value - 1 for value in range(1, classes + 1)}
        how = mapped_by({**shifted, **_void(mapping, found)})
        return f"looks like labels 1..{classes} instead of 0..{classes - 1}; subtract 1, with {how}"
    if extra == [classes]:
        return (
            f"either there are {classes + 1} classes, or {classes} is void; map void to {mapping.ignore_index} with "
            f"{mapped_by({**{i: i for i in range(classes)}, **_void(mapping, found), classes: mapping.ignore_index})}"
        )
    if extra == [mapping.ignore_index] or extra == [255]:
        return "255 usually marks void; pass ignore_index=255"
    if len(found) > 4 * classes and len(found) > 16:
        return f"looks like {SMOOTHED}"
    step = found[1] - found[0] if len(found) > 1 else 0
    if step > 1 and all((value - found[0]) % step == 0 for value in found):
        spread = mapped_by({value: i for i, value in enumerate(found)}) if len(found) == classes else "label_map="
        return f"looks like labels spread over the grey levels to make them visible; map them back with {spread}"
    plan = in_order(found, mapping.ignore_index) if 1 < len(found) <= MANY else {}
    changed = any(value != label for value, label in plan.items())
    needed = max((label + 1 for label in plan.values() if label != mapping.ignore_index), default=0)
    if changed and needed > classes:
        return f"the number of classes is too small: give {needed} classes, with {mapped_by(plan)}"
    example = f"a label map, e.g. {mapped_by(plan)}" if changed else "label_map="
    return f"the number of classes is too small, or the values need {example}"


def _void(mapping: LabelMapping, found: Sequence[int]) -> dict[int, int]:
    return {mapping.ignore_index: mapping.ignore_index} if mapping.ignore_index in found else {}


def likely_color_cause(wrong: Sequence[tuple[int, int, int]], count: int, mapping: LabelMapping) -> str:
    """Why a mask is a colour picture with colours that are no labels, and what to do, in one phrase.

    Args:
        wrong: The colours that are not allowed.
        count: How many colours the mask holds.
        mapping: What is allowed.
    """
    if count > 256:
        return f"looks like {SMOOTHED}"
    if not mapping.colors:
        if count > MANY:
            return "looks like an RGB mask; pass palette= with one colour per class"
        return f"looks like an RGB mask; pass {colored_by(wrong)}, its colours in the order of the classes"
    color = wrong[0]
    nearest = min(mapping.colors, key=lambda known: max(abs(a - b) for a, b in zip(color, known, strict=True)))
    if max(abs(a - b) for a, b in zip(color, nearest, strict=True)) <= 3:
        return f"{color} is almost {nearest}; correct palette=, or map both colours to the label"
    return f"add {color} to palette=, as void in a mapping of colours to labels, or save the mask without smoothing"


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
