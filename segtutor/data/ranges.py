"""Which file value is black and which is white: what makes [0, 1] of the numbers in image files.

An 8-bit file says it itself. A file of 16 bits may hold 8, 10, 12 or 16 of them, a float file anything, and CT numbers
start below zero. No single file tells which; the set does, or its owner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .errors import DataError

EIGHT_BITS = (0.0, 255.0)
NAMED = {
    "uint8": EIGHT_BITS,
    "uint10": (0.0, 1023.0),
    "uint12": (0.0, 4095.0),
    "uint14": (0.0, 16383.0),
    "uint16": (0.0, 65535.0),
    "unit": (0.0, 1.0),
}


def as_range(value: Sequence[float] | str) -> tuple[float, float]:
    """A range as two numbers.

    Args:
        value: (low, high), the file values that become 0 and 1; or a name: ``"uint8"``, ``"uint10"``, ``"uint12"``,
            ``"uint14"``, ``"uint16"`` (0 to the largest number of so many bits) or ``"unit"`` (0 to 1).

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, str):
        if value not in NAMED:
            raise ValueError(f"value_range={value!r} is not known: give (low, high), or one of {', '.join(NAMED)}")
        return NAMED[value]
    numbers = tuple(float(number) for number in value)
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] >= numbers[1]:
        raise ValueError(f"value_range={tuple(value)} is not valid: give (low, high), low below high, in file values")
    return numbers


def show_range(value_range: tuple[float, float]) -> str:
    """A range for a message: ``0 to 4095``."""
    return f"{value_range[0]:.6g} to {value_range[1]:.6g}"


def to_unit(values: np.ndarray, value_range: tuple[float, float], where: str) -> np.ndarray:
    """File values to float32 in [0, 1]: linear from low to high, and cut off outside.

    Args:
        values: What stands in the file, of any dtype.
        value_range: The file values that become 0 and 1.
        where: Name of the file, for the message.

    Raises:
        DataError: If values are not finite, or the file plainly has another range than the set.
    """
    low, high = value_range
    if values.dtype == np.uint8:
        if value_range == EIGHT_BITS:
            return values.astype(np.float32) / 255
        wrong = high > 255 or high <= 1 < values.max(initial=0)
        has = f"holds 8-bit values, up to {values.max(initial=0)}"
    else:
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise DataError(
                f"{where} holds values that are not finite (NaN or infinite) in {bad} of {values.size} places: "
                "replace them before training, e.g. by the lowest value of the set"
            )
        least, most = float(values.min()), float(values.max())
        unit = values.dtype.kind == "f" and 0 <= least and 0 < most <= 1
        wrong = value_range == EIGHT_BITS and (most > 255 or unit)
        has = f"holds values from {least:.6g} to {most:.6g}"
    if wrong:
        raise DataError(
            f"{where} {has}, but the images of this set go from {show_range(value_range)}: declare the range of all "
            "images with value_range=(low, high), or save this one like the others",
            kind="range",
        )
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.clip(scaled, 0, 1).astype(np.float32)


def snapped(least: float, most: float, floats: bool) -> tuple[float, float]:
    """The range that values between ``least`` and ``most`` were most likely recorded with.

    Args:
        floats: Whether the files hold floating-point numbers.
    """
    if floats and least >= 0 and most <= 1:
        return NAMED["unit"]
    if least >= 0 and most <= 65535:
        return next(NAMED[name] for name in ("uint8", "uint10", "uint12", "uint14", "uint16") if most <= NAMED[name][1])
    return (least, most) if least < most else (least, least + 1)
