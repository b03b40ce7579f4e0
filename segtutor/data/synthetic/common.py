"""What the two synthetic sets share: checks of knobs, random numbers, noise to cut from, and the dataset itself."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from segtutor.data.pairs import choose_split
from segtutor.data.spec import DatasetSpec

T = TypeVar("T")

VOID = 255
NOISE_PERIOD = 512


def check_range(kind: str, name: str, value: float, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse a knob value outside its documented range.

    Raises:
        ValueError: If ``value`` is no number in [low, high], or has a fraction where ``whole`` is asked.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (whole and value != int(value)):
        what = "a whole number" if whole else "a number"
        raise ValueError(f"{kind} knob {name}={value!r} is not valid: give {what} from {low} to {high}")


def resolve_knobs(kind: type, knobs: Any, settings: Mapping[str, Any], presets: Mapping[str, dict[str, Any]]) -> Any:
    """Turn a knobs object, a preset's name or None, plus single settings, into one knobs object.

    Raises:
        ValueError: no such preset, no such knob, or a knobs object of another set.
    """
    if knobs is None:
        knobs = kind()
    elif isinstance(knobs, str):
        if knobs not in presets:
            raise ValueError(f"there is no preset {knobs!r}: choose one of {', '.join(sorted(presets))}")
        knobs = kind(**presets[knobs])
    elif not isinstance(knobs, kind):
        raise ValueError(f"knobs must be a {kind.__name__}, a preset's name or None, not {type(knobs).__name__}")
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(f"there is no knob {unknown[0]!r}: the knobs are {', '.join(known)}")
    return dataclasses.replace(knobs, **settings)


class Rng:
    """A source of single random numbers, drawn many at a time: a call of numpy's generator for each would take longer
    than the drawing.

    Args:
        key: whole numbers that seed it.
    """

    def __init__(self, *key: int) -> None:
        # An array seeds as a tuple of the same numbers does, and quicker.
        words = np.array(key, np.uint32) if max(key) < 2**32 else key
        self.generator = np.random.default_rng(words)
        self._next: Iterator[float] = iter(())

    def repeating(self, row: list[float]) -> Rng:
        """A source that hands out the numbers of ``row``, again and again.

        A thing that is drawn with numbers of its own looks the same whatever a knob does to the others.
        """
        own = object.__new__(Rng)
        own.generator, own._next = self.generator, itertools.cycle(row)
        return own

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """A uniform number in [low, high)."""
        for value in self._next:
            return low + (high - low) * value
        self._next = iter(self.generator.random(512).tolist())
        return self(low, high)

    def log_uniform(self, low: float, high: float) -> float:
        """A number in [low, high) whose logarithm is uniform: as many small ones per octave as large ones."""
        return math.exp(self(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """A uniform whole number from low to high, both included."""
        return low + int(self() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of ``options``, all equally likely."""
        return options[int(self() * len(options))]

    def round(self, value: float) -> int:
        """``value`` rounded up or down at random so that the mean is kept."""
        return int(value) + (self() < value - int(value))


@functools.lru_cache(maxsize=32)
def noise_field(wavelength: float, variant: int = 0) -> np.ndarray:
    """Smooth periodic noise with unit standard deviation and details of about ``wavelength`` pixels.

    Returns:
        (768, 768) float32; it repeats every 512 pixels, so that a cut at any offset is a plain slice.
    """
    generator = np.random.default_rng((1789, variant, int(wavelength * 16)))
    frequency = np.hypot(np.fft.fftfreq(NOISE_PERIOD)[:, None], np.fft.rfftfreq(NOISE_PERIOD)[None])
    spectrum = np.fft.rfft2(generator.standard_normal((NOISE_PERIOD, NOISE_PERIOD)))
    spectrum *= np.exp(-0.5 * (frequency * wavelength) ** 2)
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=(NOISE_PERIOD, NOISE_PERIOD))
    return np.pad(field / field.std(), (0, 256), mode="wrap").astype(np.float32)


def cut(field: np.ndarray, rng: Rng, height: int, width: int) -> np.ndarray:
    """A (height, width) piece of a noise field at a random place; for up to 256 pixels a view, not a copy."""
    return cut_at(field, rng.integer(0, NOISE_PERIOD - 1), rng.integer(0, NOISE_PERIOD - 1), height, width)


def cut_at(field: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A (height, width) piece of a noise field at a given place, wrapped around."""
    if height <= 256 and width <= 256:
        return field[top : top + height, left : left + width]
    rows = (top + np.arange(height)) % NOISE_PERIOD
    return field[rows[:, None], (left + np.arange(width)) % NOISE_PERIOD]


@functools.lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """White noise to cut from, (6, 768, 768): drawing new numbers for every pixel would cost as much as a scene."""
    return np.random.default_rng(271).standard_normal((6, NOISE_PERIOD + 256, NOISE_PERIOD + 256), dtype=np.float32)


def add_noise(image: np.ndarray, sigma: float, rng: Rng) -> None:
    """Add Gaussian sensor noise in place, independent between pixels and between channels of one image.

    Args:
        image: (C, H, W) float32.
        sigma: Standard deviation.
        rng: Source of randomness.
    """
    height, width = image.shape[1:]
    if height > 256 or width > 256:
        image += np.float32(sigma) * rng.generator.standard_normal(image.shape, dtype=np.float32)
        return
    first = rng.integer(0, 5)
    for channel, plane in enumerate(image):
        piece = cut(_grain()[(first + channel) % 6], rng, height, width)
        plane += np.float32(sigma) * piece[:: rng.choice((1, -1)), :: rng.choice((1, -1))]


def void_borders(label: np.ndarray, width: int) -> np.ndarray:
    """Mark every pixel within ``width`` pixels (city-block) of another class as void.

    Args:
        label: (H, W) class labels.
        width: Pixels to mark on either side of a class border; 0 marks none.

    Returns:
        (H, W) labels of the same dtype.
    """
    if width == 0:
        return label
    low, high = label.copy(), label.copy()
    for _ in range(width):
        for reach, extreme in ((low, np.minimum), (high, np.maximum)):
            before = reach.copy()
            extreme(reach[1:], before[:-1], out=reach[1:])
            extreme(reach[:-1], before[1:], out=reach[:-1])
            extreme(reach[:, 1:], before[:, :-1], out=reach[:, 1:])
            extreme(reach[:, :-1], before[:, 1:], out=reach[:, :-1])
    return np.where(low == high, label, np.uint8(VOID))


def place_cue(rng: Rng, height: int, width: int, distance: int, radius: int) -> tuple[tuple[int, int], ...]:
    """Where the ambiguous disc and the cue that names it go: ``distance`` pixels between their nearest pixels.

    Args:
        rng: Source of randomness.
        height: Rows of the image.
        width: Columns of the image.
        distance: Gap in pixels between disc and cue, edge to edge.
        radius: Radius of both in pixels.

    Returns:
        (row, column) of the centre of the disc and of the cue; both lie inside the image.
    """
    between = distance + 2 * radius + 1
    for _ in range(40):
        angle = rng(0.0, 2 * math.pi)
        # Rounding away from zero keeps the promise: the cue is never nearer than asked.
        step_y = math.copysign(math.ceil(abs(between * math.sin(angle))), math.sin(angle))
        step_x = math.copysign(math.ceil(abs(between * math.cos(angle))), math.cos(angle))
        low_y, high_y = max(radius, radius - step_y), min(height, height - step_y) - 1 - radius
        low_x, high_x = max(radius, radius - step_x), min(width, width - step_x) - 1 - radius
        if low_y <= high_y and low_x <= high_x:
            row, column = rng.integer(int(low_y), int(high_y)), rng.integer(int(low_x), int(high_x))
            return (row, column), (row + int(step_y), column + int(step_x))
    # Far cues fit along the longer side only.
    if width >= height:
        row, column = rng.integer(radius, height - 1 - radius), radius
        ends = (row, column), (row, column + between)
    else:
        row, column = radius, rng.integer(radius, width - 1 - radius)
        ends = (row, column), (row + between, column)
    return ends if rng() < 0.5 else ends[::-1]


def paint_cue(
    image: np.ndarray,
    label: np.ndarray,
    rng: Rng,
    distance: int,
    lights: np.ndarray,
    grey: float,
    classes: tuple[int, int],
    counterpart: bool,
) -> None:
    """Paint one plain grey disc and, ``distance`` pixels away, the light that alone says which class the disc has.

    Which of the two it is does not depend on the scene; the light leaves the labels under it as they are.

    Args:
        image: (C, H, W) float32, painted in place.
        label: (H, W) uint8, painted in place.
        rng: Source of randomness, another one than the scene's.
        distance: Pixels between the disc and the light, edge to edge.
        lights: (2, C) colour of the light for either class.
        grey: Value of the disc in every channel.
        classes: The two classes.
        counterpart: Take the other light and the other class, with everything else equal.
    """
    which = int(rng() < 0.5) ^ int(counterpart)
    height, width = label.shape
    radius = cue_radius((height, width))
    disc, cue = place_cue(rng, height, width, distance, radius)
    offset = np.arange(-radius, radius + 1)
    mask = offset[:, None] ** 2 + offset**2 <= radius**2
    for (row, column), colour in ((cue, lights[which]), (disc, np.full(len(image), grey, np.float32))):
        rows, columns = slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1)
        np.copyto(image[:, rows, columns], colour[:, None, None], where=mask)
    np.copyto(label[rows, columns], classes[which], where=mask)


def cue_radius(size: tuple[int, int]) -> int:
    """Radius in pixels of the ambiguous disc and of its cue."""
    return max(3, round(0.055 * min(size)))


class Canvas:
    """Image and label, painted together.

    Args:
        height: Rows.
        width: Columns.
        flat: (classes, C) what each class looks like without texture.
        texture: 0 (flat) to 1 (as painted).
    """

    def __init__(self, height: int, width: int, flat: np.ndarray, texture: float) -> None:
        self.height, self.width, self.flat, self.texture = height, width, flat, np.float32(texture)
        self.image = np.empty((flat.shape[1], height, width), np.float32)
        self.label = np.zeros((height, width), np.uint8)

    def window(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice] | None:
        """The pixels whose centres lie in a box, clipped to the image; None when there are none."""
        first_row, last_row = max(0, math.ceil(top - 0.5)), min(self.height, math.ceil(bottom - 0.5))
        first, last = max(0, math.ceil(left - 0.5)), min(self.width, math.ceil(right - 0.5))
        if first_row >= last_row or first >= last:
            return None
        return slice(first_row, last_row), slice(first, last)

    def paint(
        self, where: tuple[slice, slice], mask: np.ndarray | bool, label: np.ndarray | int, colour: np.ndarray
    ) -> None:
        """Write class and colour through one mask.

        Args:
            where: Rows and columns of the window.
            mask: (h, w) bool, or True for the whole window.
            label: Class of the pixels: one for all, or an array of them broadcastable to (h, w).
            colour: Broadcastable to (C, h, w), in [0, 1].
        """
        if self.texture < 1:
            flat = self.flat.T[:, np.atleast_2d(label)]
            colour = flat + self.texture * (colour - flat)
        if mask is True:  # a plain copy is much faster than one through a mask
            self.image[:, where[0], where[1]] = colour
            self.label[where] = label
        else:
            np.copyto(self.image[:, where[0], where[1]], colour, where=mask)
            np.copyto(self.label[where], label, where=mask)


class SyntheticDataset(Dataset):
    """Images drawn by a program: ``draw(index)`` depends on (seed, index, size, knobs) and on nothing else.

    Args:
        size: Height and width in pixels, each at least 32.
        length: How many images the set has.
        split: ``"train"``, ``"val"`` or ``"test"``, which share no image; the last two have at most 100 and 200 images.
            None: no part of anything, ``seed`` alone decides.
        seed: Another seed is another set: without a split, use different ones for training and validation.
        knobs: The set's knobs, the name of one of its ``PRESETS``, or None for the defaults.
        transform: Called as ``transform(image, mask)`` on ``tv_tensors.Image`` and ``tv_tensors.Mask``.
        **settings: Single knobs by name, in place of those in ``knobs``.

    Raises:
        ValueError: If an argument or a knob is out of its range.
    """

    spec: DatasetSpec
    KNOBS: type
    PRESETS: dict[str, dict[str, Any]]
    # Splits are other seeds, so no image of one is ever an image of another: its place among them, its images at most
    SPLITS = {"train": (0, 1 << 31), "val": (1, 100), "test": (2, 200)}

    def __init__(
        self,
        size: Sequence[int] = (128, 128),
        length: int = 1000,
        *,
        split: str | None = None,
        seed: int = 0,
        knobs: Any = None,
        transform: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        name = type(self).__name__
        if len(tuple(size)) != 2 or min(size) < 32:
            raise ValueError(f"{name} size={tuple(size)} is not valid: give (height, width), each at least 32 pixels")
        if length < 1 or seed < 0:
            raise ValueError(f"{name} needs length >= 1 and seed >= 0, got length={length} and seed={seed}")
        self.size = (int(size[0]), int(size[1]))
        self.split = None if split is None else choose_split(name, split, tuple(self.SPLITS))
        place, most = self.SPLITS[split] if split else (0, length)
        self.length = min(int(length), most)
        self.seed = int(seed) if split is None else len(self.SPLITS) * int(seed) + place
        self.knobs = resolve_knobs(self.KNOBS, knobs, settings, self.PRESETS)
        self.transform = transform
        furthest = max(self.size) - 4 * cue_radius(self.size) - 2
        if self.knobs.context > furthest:
            raise ValueError(
                f"{name} knob context={self.knobs.context} does not fit into an image of {self.size[0]} x "
                f"{self.size[1]} pixels: give at most {furthest}, or a larger size"
            )

    def __len__(self) -> int:
        return self.length

    def draw(self, index: int, *, counterpart: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, H, W) float32 in [0, 1] and label (H, W) uint8 of one index."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it draws")

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (C, H, W) float32 in [0, 1] and mask (H, W) int64.

        Raises:
            IndexError: If the set has no such index.
        """
        index = operator.index(index)
        if not -self.length <= index < self.length:
            raise IndexError(f"{type(self).__name__} has {self.length} images: index {index} is out of range")
        pixels, label = self.draw(index % self.length)
        image, mask = torch.from_numpy(pixels), torch.from_numpy(label).long()
        if self.transform is None:
            return image, mask
        from torchvision import tv_tensors

        return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
