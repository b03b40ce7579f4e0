"""``SyntheticScenes``: street scenes drawn by a program, with CamVid's eleven classes and labels exact to the pixel.

A scene is painted from back to front (sky, skyline, ground, house fronts, then things by distance). One function,
``Canvas.paint``, writes image and label through the same mask: so labels are exact and occlusion is right.
Lengths in the code are metres in the scene; ``scale`` is the size of a thing relative to one that stands at the lower
edge of the image, so distance goes as 1 / scale.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtutor.data.camvid import SPEC as CAMVID
from segtutor.data.registry import Size, register_dataset
from segtutor.data.spec import DatasetSpec
from segtutor.data.synthetic.common import (
    VOID,
    Canvas,
    Rng,
    SyntheticDataset,
    add_noise,
    check_range,
    cut,
    noise_field,
    paint_cue,
    void_borders,
)

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

SCENES_SPEC = DatasetSpec(
    name="scenes",
    title="SyntheticScenes",
    classes=CAMVID.classes,
    palette=CAMVID.palette,
    ignore_index=VOID,
    mean=(0.480, 0.468, 0.464),
    std=(0.183, 0.162, 0.189),
    licence="drawn by this package (MIT)",
)

# What a class looks like at texture=0: one flat colour each.
FLAT = np.array(
    [
        (0.66, 0.82, 0.95), (0.62, 0.50, 0.45), (0.20, 0.20, 0.23), (0.37, 0.37, 0.40), (0.70, 0.66, 0.62),
        (0.27, 0.46, 0.25), (0.88, 0.78, 0.20), (0.50, 0.36, 0.22), (0.15, 0.30, 0.60), (0.80, 0.25, 0.30),
        (0.20, 0.65, 0.60),
    ],
    dtype=np.float32,
)  # fmt: skip
CUE_COLOURS = np.array([(1.0, 0.62, 0.05), (0.20, 0.25, 1.0)], dtype=np.float32)
CUE_CLASSES = (SIGN, FENCE)
DISC_GREY = 0.55

CAMERA_HEIGHT = 2.5
# Of a bicyclist's pixels, what is left on average after others stand in front and the image ends; measured.
VISIBLE_SHARE = 0.8
PEDESTRIAN_HEIGHT = 1.75


@dataclass(frozen=True)
class SceneKnobs:
    """What each knob of ``SyntheticScenes`` isolates, and its range.

    Attributes:
        thickness: Width of every pole in pixels, near or far: 1 to 16. Thin ones ask for sharp boundaries.
        context: 0, or a distance in pixels, at least 4. Then one plain grey disc per image is a ``sign`` when an orange
            light shines that far away and a ``fence`` when a blue one does. Nothing nearer tells the two apart, so a
            network whose receptive field does not reach that far is at chance.
        scale: Ratio of the tallest to the smallest size of cars, people and bicyclists: 1 (all alike) to 16.
        texture: 0 (one flat colour per class) to 1 (windows, foliage, shading, haze, colours that vary).
        noise: Standard deviation of the sensor noise, images being in [0, 1]: 0 to 0.5.
        rare: Share of all pixels that the rare class, ``bicyclist``, covers on average: 0 to 0.1. Where many stand in
            front of one another it comes out lower: above 0.03, or with ``scale`` near 1.
        objects: Cars and pedestrians per image: 0 to 40.
        void: Pixels on either side of each class border that are labelled 255: 0 to 8.

    Raises:
        ValueError: If a knob is out of its range.
    """

    thickness: int = 2
    context: int = 0
    scale: float = 6.0
    texture: float = 1.0
    noise: float = 0.025
    rare: float = 0.005
    objects: int = 7
    void: int = 0

    def __post_init__(self) -> None:
        kind = "SyntheticScenes"
        check_range(kind, "thickness", self.thickness, 1, 16, whole=True)
        if self.context != 0:
            check_range(kind, "context", self.context, 4, 4096, whole=True)
        check_range(kind, "scale", self.scale, 1, 16)
        check_range(kind, "texture", self.texture, 0, 1)
        check_range(kind, "noise", self.noise, 0, 0.5)
        check_range(kind, "rare", self.rare, 0, 0.1)
        check_range(kind, "objects", self.objects, 0, 40, whole=True)
        check_range(kind, "void", self.void, 0, 8, whole=True)


# Light of the hour: top of the sky, sky at the horizon, light on things.
_HOURS = (
    ((0.29, 0.52, 0.82), (0.78, 0.87, 0.95), (1.00, 1.00, 0.98)),
    ((0.42, 0.60, 0.80), (0.90, 0.91, 0.90), (1.00, 0.98, 0.94)),
    ((0.36, 0.44, 0.66), (0.97, 0.80, 0.62), (1.06, 0.94, 0.80)),
    ((0.60, 0.66, 0.73), (0.85, 0.87, 0.89), (0.90, 0.93, 0.97)),
    ((0.24, 0.42, 0.70), (0.93, 0.87, 0.80), (1.04, 0.99, 0.90)),
)
_WALLS = np.array([
    (0.74, 0.64, 0.52), (0.62, 0.36, 0.28), (0.80, 0.75, 0.66), (0.55, 0.52, 0.50), (0.69, 0.50, 0.36),
    (0.46, 0.40, 0.40), (0.83, 0.68, 0.50), (0.57, 0.60, 0.62), (0.72, 0.45, 0.37),
], dtype=np.float32)  # fmt: skip
_PAINTS = (
    (0.70, 0.10, 0.10), (0.12, 0.25, 0.52), (0.86, 0.87, 0.88), (0.16, 0.16, 0.18), (0.58, 0.60, 0.63),
    (0.80, 0.60, 0.12), (0.10, 0.36, 0.28), (0.42, 0.13, 0.20), (0.30, 0.50, 0.66),
)  # fmt: skip
_CLOTHES = (
    (0.75, 0.20, 0.18), (0.20, 0.30, 0.55), (0.85, 0.80, 0.70), (0.20, 0.20, 0.22), (0.25, 0.48, 0.36),
    (0.80, 0.60, 0.20), (0.50, 0.30, 0.50), (0.45, 0.62, 0.78),
)  # fmt: skip
_SKINS = ((0.93, 0.76, 0.64), (0.80, 0.60, 0.46), (0.58, 0.40, 0.28), (0.38, 0.26, 0.19))


@functools.lru_cache(maxsize=8)
def _axes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: (H, 1) rows and (1, W) columns."""
    rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
    return rows, np.arange(width, dtype=np.float32)[None] + 0.5


@functools.lru_cache(maxsize=1)
def _crowns() -> tuple[np.ndarray, np.ndarray]:
    """Outlines and light of 12 tree crowns, (12, 96, 96) each, to be resampled to any size."""
    generator = np.random.default_rng(64)
    axis = np.linspace(-1.15, 1.15, 96)
    y, x = axis[:, None], axis[None]
    masks, lights = [], []
    for _ in range(12):
        mask, light = np.zeros((96, 96), bool), np.zeros((96, 96), np.float32)
        for _ in range(26):
            angle, far = generator.uniform(0, 2 * math.pi), math.sqrt(generator.uniform()) * 0.72
            centre_x, centre_y = far * math.cos(angle), far * math.sin(angle) * 0.95
            radius = generator.uniform(0.16, 0.38)
            ball = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
            shine = 0.80 - 0.30 * ((y - centre_y) + 0.5 * (x - centre_x)) / radius - 0.12 * centre_y
            light[ball] = (shine + generator.uniform(-0.10, 0.10) + np.zeros_like(x * y))[ball]
            mask |= ball
        masks.append(mask)
        lights.append(light)
    return np.stack(masks), np.stack(lights).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _leaves() -> np.ndarray:
    return noise_field(1.5, 3) + noise_field(3.5, 3)


@functools.lru_cache(maxsize=1)
def _wall_grain() -> np.ndarray:
    return np.float32(0.045) * noise_field(1.6, 2) + np.float32(0.06) * noise_field(14.0, 2)


@functools.lru_cache(maxsize=1)
def _ground_grain() -> np.ndarray:
    return np.float32(0.045) * noise_field(1.2, 1) + np.float32(0.05) * noise_field(18.0, 1)


@functools.lru_cache(maxsize=1)
def _clouds() -> np.ndarray:
    return noise_field(46.0) + np.float32(0.35) * noise_field(12.0) - np.float32(0.4)


@functools.lru_cache(maxsize=256)
def _rgb(colour: tuple[float, float, float]) -> np.ndarray:
    """A colour as (3, 1, 1); kept, and so not to be written to."""
    array = np.array(colour, np.float32)[:, None, None]
    array.flags.writeable = False
    return array


class _Scene:
    """One street: camera, light, and the painters of everything that stands in it."""

    def __init__(self, size: tuple[int, int], knobs: SceneKnobs, rng: Rng) -> None:
        self.height, self.width = size
        self.knobs, self.rng = knobs, rng
        self.canvas = Canvas(*size, FLAT, knobs.texture)
        self.rows, self.columns = _axes(*size)
        self.horizon = self.height * rng(0.36, 0.46)
        self.vanish = self.width * rng(0.34, 0.66)
        self.ground = self.height - self.horizon
        self.per_metre = self.ground / CAMERA_HEIGHT
        self.focal = 0.9 * self.height * CAMERA_HEIGHT / self.ground
        self.road = rng(2.3, 3.3)
        self.edge = self.road + rng(1.4, 2.4)
        sky, haze, light = rng.choice(_HOURS)
        self.sky, self.haze, self.light = _rgb(sky), _rgb(haze), _rgb(light)
        self.sun = -1 if rng() < 0.5 else 1

    def position(self, metres: float, scale: float) -> tuple[float, float]:
        """Pixel (x, y) of a point of the ground, ``metres`` right of the middle of the road."""
        return self.vanish + metres * self.per_metre * scale, self.horizon + self.ground * scale

    def clearness(self, scale: float | np.ndarray) -> Any:
        """Share of a thing's own colour that reaches the camera through the haze."""
        if isinstance(scale, float):
            return np.float32(math.exp(-self.focal / (75.0 * scale)))
        return np.exp(np.float32(-self.focal / 75.0) / scale)

    def hazed(self, colour: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
        """Colour after the air between it and the camera."""
        clear = self.clearness(scale)
        colour = colour * clear
        colour += self.haze * (1 - clear)
        return colour

    def coloured(self, colours: Sequence[Any], part: np.ndarray, shade: Any, scale: float) -> np.ndarray:
        """Light, shade and haze on a thing whose pixels are numbered by its parts.

        Args:
            colours: One RGB colour per part.
            part: (h, w) part numbers.
            shade: (h, w) factor, or a number.
            scale: Size of the thing, hence its distance.

        Returns:
            (3, h, w) colours.
        """
        clear = self.clearness(scale)
        table = np.array(colours, np.float32).T * (self.light[:, :, 0] * clear)
        colour = table.take(part, axis=1)
        colour *= shade
        colour += self.haze * (1 - clear)
        return colour

    def paint_sky(self) -> None:
        rows = slice(0, min(self.height, math.ceil(self.horizon) + 1))
        down = np.clip(self.rows[rows] / np.float32(self.horizon), 0, 1)
        colour = self.sky + (self.haze - self.sky) * down**1.5
        amount = self.rng(0.0, 0.9)
        cloud = cut(_clouds(), self.rng, rows.stop, self.width)
        cloud = np.minimum(np.maximum(cloud, 0), 1) * (np.float32(amount) * (1 - 0.6 * down))
        cloudy = cloud * (np.float32(0.98) - colour)
        cloudy += colour
        self.canvas.paint((rows, slice(0, self.width)), True, SKY, cloudy)

    def paint_skyline(self) -> None:
        """Far roofs and far trees, one hazy strip above the horizon."""
        rng, width = self.rng, self.width
        top = math.ceil(self.horizon) + 1
        for label, share in ((BUILDING, rng(0.05, 0.22)), (TREE, rng(0.03, 0.13))):
            if label == BUILDING:
                steps = np.array([rng() for _ in range(24)], np.float32)
                place = np.arange(width) * np.float32(rng(10, 18) / width)
                profile = steps[place.astype(np.intp) % 24]
            else:
                profile = 0.55 + 0.28 * cut(noise_field(7.0), rng, 1, width)[0]
            limit = self.horizon - share * self.height * np.clip(profile, 0.05, 1.2)
            where = (slice(max(0, int(limit.min()) - 1), top), slice(0, width))
            base = _rgb((0.45, 0.44, 0.48) if label == BUILDING else (0.22, 0.34, 0.22))
            fade = 0.62 if label == BUILDING else 0.45
            colour = base + fade * (self.haze - base)
            self.canvas.paint(where, self.rows[where[0]] >= limit[None], label, colour)

    def paint_ground(self) -> None:
        rng = self.rng
        first = min(self.height - 1, math.ceil(self.horizon))
        where = (slice(first, self.height), slice(0, self.width))
        scale = np.maximum(self.rows[where[0]] - np.float32(self.horizon), 0.4) / np.float32(self.ground)
        metres = (self.columns - np.float32(self.vanish)) / (np.float32(self.per_metre) * scale)
        away = np.float32(self.focal) / scale
        shade = 1 + cut(_ground_grain(), rng, *metres.shape) * np.minimum(1, 0.2 + scale * 1.6)
        aside = np.abs(metres)
        if rng() < 0.7:  # houses on the sunny side throw a shadow over that edge of the street
            np.multiply(shade, 0.74, out=shade, where=metres * self.sun > self.road * rng(0.2, 1.1))

        tiles = rng(0.5, 0.9)
        slab_number = aside * (1 / tiles)
        seams = (slab_number - np.floor(slab_number) < 0.07 / tiles) | ((away % tiles) < 0.07)
        slabs = shade * np.where(seams & (scale > 0.16), np.float32(0.88), np.float32(1))
        np.multiply(slabs, 1.14, out=slabs, where=aside < self.road + 0.16)
        slab = _rgb(rng.choice(((0.66, 0.63, 0.59), (0.60, 0.58, 0.57), (0.70, 0.62, 0.54)))) * self.light

        asphalt = rng(0.27, 0.40)
        tone = np.full(metres.shape, asphalt, np.float32)
        phase = rng(0, 5)
        lines = (np.abs(metres) < 0.07) & ((away + phase) % 5.0 < 2.6)
        lines |= np.abs(aside - (self.road - 0.22)) < 0.05
        if rng() < 0.3:
            start = rng(7, 16)
            lines |= (np.abs(away - start - 1.4) < 1.4) & ((metres % 0.9) < 0.45) & (aside < self.road - 0.3)
        np.putmask(tone, lines, 0.86)
        tone *= shade
        tone *= 1 - 0.08 * np.maximum(0, 1 - 4 * np.square(np.abs(aside - self.road / 2) - 0.7))  # tracks
        # Road and pavement are lit, hazed and painted in one go: what lies under the road is never seen.
        road = aside < self.road
        colour = np.where(road, _rgb((0.98, 0.99, 1.03)) * self.light, slab)
        colour *= np.where(road, tone, slabs)
        clear = self.clearness(scale)
        colour *= clear
        colour += self.haze * (1 - clear)
        self.canvas.paint(where, True, np.where(road, np.uint8(ROAD), np.uint8(PAVEMENT)), colour)

    def paint_side(self, side: int) -> None:
        """House fronts and fences along one side of the street, in perspective."""
        rng, canvas = self.rng, self.canvas
        reach = (self.vanish if side < 0 else self.width - self.vanish) / (self.edge * self.per_metre)
        count = 16
        numbers = rng.generator.random((7, count), dtype=np.float32)
        ends = np.float32(self.focal / reach - 8 * rng()) + np.cumsum(5 + 8 * numbers[0])
        fences = numbers[1] < 0.22
        heights = np.where(fences, 1.0 + 0.5 * numbers[2], 4.2 + 6.3 * numbers[2])
        lit = np.float32(1.08 if side == -self.sun else 0.78)
        walls = _WALLS[(numbers[3] * len(_WALLS)).astype(np.intp)]
        walls *= (0.85 + 0.27 * numbers[4])[:, None]
        walls[fences] = rng.choice(((0.50, 0.36, 0.22), (0.36, 0.38, 0.36), (0.62, 0.58, 0.50)))
        walls *= self.light[:, 0, 0] * lit

        end, fenced = ends.tolist(), fences.tolist()  # single numbers out of a list cost less
        for plot in range(count):  # trees in the gardens behind fences
            if fenced[plot] and end[plot] < 40:
                away = max(end[plot] - rng(1.5, 5.0), 3.0)
                self.paint_tree(side * (self.edge + rng(1.5, 3.5)), self.focal / away, rng(3.5, 6.0))
        gables = (heights[1:] > heights[:-1]) & (ends[:-1] < 60) & ~fences[1:]
        for plot in np.flatnonzero(gables)[::-1].tolist():  # walls seen over a lower neighbour that is nearer
            scale = self.focal / end[plot]
            x, y = self.position(side * self.edge, scale)
            beyond = x + side * 9 * self.per_metre * scale
            top = y - heights[plot + 1] * self.per_metre * scale
            where = canvas.window(min(x, beyond), max(x, beyond), top, y)
            if where:
                colour = self.hazed(walls[plot + 1][:, None, None] * np.float32(0.72), scale)
                canvas.paint(where, True, BUILDING, colour)

        columns = slice(0, max(0, int(self.vanish))) if side < 0 else slice(int(self.vanish) + 1, self.width)
        across = self.columns[:, columns]
        if across.shape[1] == 0:
            return
        scale = np.maximum(np.abs(across - np.float32(self.vanish)), 0.3) / np.float32(self.edge * self.per_metre)
        along = np.float32(self.focal) / scale
        plot = np.minimum(np.searchsorted(ends, along[0]), count - 1)
        visible = along < ends[-1]  # some 130 metres: then only the skyline
        unit = np.float32(self.per_metre) * scale
        high = heights[plot][None]
        base = np.float32(self.horizon) + np.float32(self.ground) * scale
        top_row = max(0, int((base - high * unit).min()))
        rows = slice(top_row, min(self.height, int(base.max()) + 2))
        up = (base - self.rows[rows]) / unit
        where = (rows, columns)
        inside = (up >= 0) & (up < high) & visible

        bays, storeys = 1.2 + 0.8 * numbers[5][plot][None], 2.1 + 0.6 * numbers[6][plot][None]
        bay, storey = along / bays, up / storeys
        bay_number, storey_number = np.floor(bay), np.floor(storey)
        v = storey - storey_number
        fence = fences[plot][None]
        table = rng.generator.random(256, dtype=np.float32)
        # Whatever depends on the column alone is one row of numbers, joined with the rest last.
        from_middle = np.where(fence, np.float32(1), np.abs(bay - bay_number - 0.5))
        from_sill, below_roof, share = np.abs(v - 0.56), high - up, up / high
        upper = (storey_number > 0) & (below_roof > 0.45)
        window = upper & (from_sill < 0.27) & (from_middle < 0.27)
        window |= (storey_number == 0) & (np.abs(v - 0.41) < 0.31) & (from_middle < 0.42)
        shade = 1 + cut(_wall_grain(), rng, *up.shape)
        shade -= 0.05 * np.minimum(1, share)
        np.multiply(shade, 0.80, out=shade, where=below_roof < 0.32)  # cornice
        framed = upper & (from_sill < 0.33) & (np.abs(bay - bay_number - 0.5) < 0.33)
        np.multiply(shade, 1.13, out=shade, where=framed)
        if fence.any():
            gap = (np.abs(share - 0.8) > 0.05) & (np.abs(share - 0.25) > 0.05) & fence & (along % 0.32 > 0.22)
            shade *= np.where(gap, np.float32(0.55), np.where(fence, np.float32(1.08), np.float32(1)))
        clear = self.clearness(scale)
        air = self.haze * (1 - clear)
        # Taken so that each channel lies in one piece: a transposed table would spread to every array made from it.
        colour = (walls.T.take(plot, axis=1) * clear)[:, None, :] * shade
        colour += air
        at = np.flatnonzero(window & inside)
        column = at % up.shape[1]
        which = (bay_number[0] * 7 + plot * 71).take(column) + storey_number.take(at) * 37
        glow = table.take(which.astype(np.int32) & 255)
        glass = (0.16 + 0.30 * glow * (0.4 + v.take(at))) * np.array(((0.80,), (0.95,), (1.12,)), np.float32)
        glass = np.where(glow > 0.93, np.array(((0.90,), (0.72,), (0.42,)), np.float32), glass)
        glass *= clear[0].take(column)
        glass += air[:, 0].take(column, axis=1)
        for plane, values in zip(colour, glass, strict=True):
            plane.put(at, values)
        canvas.paint(where, inside, np.where(fence, np.uint8(FENCE), np.uint8(BUILDING)), colour)

    def paint_tree(self, metres: float, scale: float, tall: float) -> None:
        rng, canvas = self.rng, self.canvas
        x, y = self.position(metres, scale)
        unit = self.per_metre * scale
        trunk = max(0.7, 0.11 * unit * rng(0.7, 1.2))
        where = canvas.window(x - trunk, x + trunk, y - 0.55 * tall * unit, y)
        if where:
            across = (self.columns[:, where[1]] - np.float32(x)) / np.float32(trunk)
            bark = _rgb((0.30, 0.22, 0.16)) * (0.9 - 0.35 * across * self.sun)
            canvas.paint(where, True, TREE, self.hazed(bark, scale))
        half_width, half_height = 0.36 * tall * unit * rng(0.8, 1.15), 0.36 * tall * unit
        middle = y - 0.66 * tall * unit
        where = canvas.window(x - half_width, x + half_width, middle - half_height, middle + half_height)
        which, mirror = rng.integer(0, 11), rng() < 0.5
        green = _rgb(rng.choice(((0.30, 0.47, 0.20), (0.23, 0.41, 0.24), (0.42, 0.50, 0.20), (0.52, 0.44, 0.20))))
        if where is None:
            return
        masks, lights = _crowns()
        row = ((self.rows[where[0], 0] - (middle - half_height)) * (96 / (2 * half_height))).astype(np.intp)
        column = ((self.columns[0, where[1]] - (x - half_width)) * (96 / (2 * half_width))).astype(np.intp)
        row, column = np.minimum(row, 95)[:, None], np.minimum(column, 95)
        column = 95 - column if mirror else column
        pixel = row * 96 + column
        mask, light = masks[which].take(pixel), lights[which].take(pixel)
        light += np.float32(0.13 * min(1.0, 0.35 + unit / 12)) * cut(_leaves(), rng, *mask.shape)
        clear = self.clearness(scale)
        colour = (green * self.light * clear) * light
        colour += self.haze * (1 - clear)
        canvas.paint(where, mask, TREE, colour)

    def paint_pole(self, metres: float, scale: float, tall: float, sign: bool) -> None:
        """A lamp post or a sign post: every part of the post is ``thickness`` pixels wide."""
        rng, canvas, thick = self.rng, self.canvas, self.knobs.thickness
        x, y = self.position(metres, scale)
        x, unit = round(x) + (0.5 if thick % 2 else 0.0), self.per_metre * scale
        left = x - thick / 2
        top = y - tall * unit
        grey = self.hazed(_rgb(rng.choice(((0.22, 0.24, 0.25), (0.34, 0.35, 0.36), (0.17, 0.22, 0.20)))), scale)
        where = canvas.window(left, left + thick, top, y)
        if where is None:
            return
        across = np.float32(1.25) - np.float32(0.45 / thick) * (self.columns[:, where[1]] - np.float32(left))
        canvas.paint(where, True, POLE, grey * across)
        if not sign:
            arm = max(3 * thick, 0.9 * unit) * (1 if metres < 0 else -1)
            where = canvas.window(min(left, x + arm), max(left + thick, x + arm), top, top + thick)
            if where:
                canvas.paint(where, True, POLE, grey)
            return
        radius = max(2.6, 0.42 * unit * rng(0.8, 1.2))
        middle = top + radius * 0.6
        where = canvas.window(x - radius - 1, x + radius + 1, middle - radius - 1, middle + radius + 1)
        shape = rng.integer(0, 3)
        face, rim = rng.choice(
            (((0.95, 0.95, 0.95), (0.80, 0.10, 0.12)), ((0.10, 0.30, 0.70), (0.92, 0.93, 0.95)),
             ((0.96, 0.78, 0.12), (0.15, 0.15, 0.15)), ((0.78, 0.08, 0.10), (0.95, 0.95, 0.95)))
        )  # fmt: skip
        if where is None:
            return
        dx = (self.columns[:, where[1]] - np.float32(x)) / np.float32(radius)
        dy = (self.rows[where[0]] - np.float32(middle)) / np.float32(radius)
        if shape == 0:
            far = np.maximum(np.abs(dx) * 1.732 + dy * 1.0, -dy * 2.0) * 0.9
        elif shape == 1:
            far = np.maximum(np.abs(dx), np.abs(dy)) * 1.12
        elif shape == 2:
            far = np.abs(dx) + np.abs(dy)
        else:
            far = np.sqrt(dx * dx + dy * dy)
        colour = np.where((far > 0.72)[None], _rgb(rim), _rgb(face))
        bar = (np.abs(dy) < 0.16) & (np.abs(dx) < 0.42) & (shape == 3)
        colour = np.where(bar[None], _rgb(rim), colour)
        canvas.paint(where, far < 1, SIGN, self.hazed(colour * self.light, scale))

    def shadow(self, x: float, y: float, half: float, scale: float) -> None:
        """Darken the ground under a thing; the ground keeps its class."""
        where = self.canvas.window(x - half * 1.15, x + half * 1.15, y - half * 0.16 - 1, y + half * 0.13 + 1)
        if where and self.knobs.texture > 0 and half > 3:
            dx = (self.columns[:, where[1]] - np.float32(x)) / np.float32(half * 1.15)
            dy = (self.rows[where[0]] - np.float32(y)) / np.float32(half * 0.16 + 1)
            fall = np.minimum(np.maximum(1.3 - dx * dx - dy * dy, 0), 1) * np.float32(0.6 * self.knobs.texture)
            ground = (self.canvas.label[where] == ROAD) | (self.canvas.label[where] == PAVEMENT)
            fall *= ground
            self.canvas.image[:, where[0], where[1]] *= np.subtract(1, fall, out=fall)

    def paint_car(self, metres: float, scale: float, size: float) -> None:
        """A car from behind or from the front, with the side that perspective shows."""
        rng, canvas = self.rng, self.canvas
        van = rng() < 0.2
        tall, length = (2.1, 4.6) if van else (rng(1.38, 1.6), rng(3.6, 4.4))
        half = 0.87
        paint = np.array(rng.choice(_PAINTS), np.float32) * rng(0.85, 1.1)
        rear = metres > 0
        x, y = self.position(metres, scale)
        unit = self.per_metre * scale * size
        roof = 0.80 if van else 0.62
        self.shadow(x, y, half * unit, scale)
        # The long side lies in the plane across = constant, on the side that faces the camera.
        plane = metres - math.copysign(half * size, metres)
        if abs(metres) > half * size * 1.05 and scale > 0.05:
            near = self.focal / scale
            x_near, _ = self.position(plane, scale)
            x_far, _ = self.position(plane, self.focal / (near + length * size))
            where = canvas.window(min(x_near, x_far), max(x_near, x_far), y - 2.4 * unit, y + 1)
            if where:
                here = (self.columns[:, where[1]] - np.float32(self.vanish)) / np.float32(plane * self.per_metre)
                here = np.maximum(here, 1e-3)
                along = (np.float32(self.focal) / here - np.float32(near)) / np.float32(size * length)
                local = np.float32(self.per_metre * size) * here
                up = (np.float32(self.horizon) + np.float32(self.ground) * here - self.rows[where[0]]) / local
                hood = 0.93 if van else 0.66
                slope = np.minimum((hood - along) * (9 if van else 3.4), (along + (0.06 if van else 0.02)) * 16)
                top = 0.92 + (tall - 0.92) * np.minimum(np.maximum(slope, 0), 1)
                wheel = np.minimum(np.abs(along - 0.2), np.abs(along - 0.8)) * np.float32(length)
                tyre = wheel * wheel + np.square(up - 0.31) < 0.105
                body = (up > 0.26) & (up < top)
                pane = (up > 0.98) & (up < top - 0.12) & (np.abs(along % 0.33 - 0.165) < 0.145) & (slope > 0.35)
                part = pane.astype(np.intp)
                np.putmask(part, tyre, 2)
                colours = (paint * 0.72, (0.16, 0.19, 0.23), (0.07, 0.07, 0.08))
                canvas.paint(where, body | tyre, CAR, self.coloured(colours, part, np.float32(1), scale))
        where = canvas.window(x - half * unit, x + half * unit, y - tall * unit, y)
        if where is None:
            return
        across = np.abs(self.columns[:, where[1]] - np.float32(x)) / np.float32(unit)
        up = (np.float32(y) - self.rows[where[0]]) / np.float32(unit)
        wide, high = np.square(across / 0.88), np.square((up - 0.62) / 0.40)
        lower = wide * wide + high * high < 1
        side = 0.84 - (0.84 - roof) * (up - 0.9) / (tall - 0.9)
        roundness = np.square((up - 0.9) / (tall - 0.88))
        cabin = (up > 0.8) & (across < side) & (roundness * roundness * roundness + wide * wide * wide < 1.1)
        wheels = (np.abs(across - 0.68) < 0.14) & (up < 0.4)
        part = np.zeros(lower.shape, np.intp)
        np.putmask(part, (up > 0.97) & (up < tall - 0.13) & (across < side - 0.1), 1)
        np.putmask(part, (up < 0.30) & ~lower | wheels & (up < 0.27), 2)
        np.putmask(part, (np.abs(up - 0.77) < 0.09) & (np.abs(across - 0.69) < 0.12), 3)
        np.putmask(part, (np.abs(up - 0.55) < 0.06) & (across < 0.24), 4)
        np.putmask(part, (np.abs(up - 0.40) < 0.05) & lower, 5)
        lights = (0.75, 0.06, 0.05) if rear else (0.98, 0.96, 0.82)
        front = (paint, (0.20, 0.25, 0.31), (0.07, 0.07, 0.08), lights, (0.90, 0.89, 0.80), paint * 0.55)
        shade = np.where(part <= 1, 0.80 + 0.26 * up, np.float32(1))
        gleam = (part == 1) & (np.abs(up - across * 0.5 - 0.9) < 0.12)  # the sky in the window
        np.multiply(shade, 1.9, out=shade, where=gleam)
        canvas.paint(where, lower | cabin | wheels, CAR, self.coloured(front, part, shade, scale))

    def paint_pedestrian(self, metres: float, scale: float, size: float) -> None:
        rng, canvas = self.rng, self.canvas
        x, y = self.position(metres, scale)
        unit = self.per_metre * scale * size
        stride, lean = rng(0.02, 0.24), rng(-0.03, 0.03)
        shirt, trousers, skin = rng.choice(_CLOTHES), rng.choice(_CLOTHES), rng.choice(_SKINS)
        bag, hair = rng() < 0.35, rng(0.08, 0.3)
        self.shadow(x, y, 0.42 * unit, scale)
        where = canvas.window(x - 0.55 * unit, x + 0.55 * unit, y - PEDESTRIAN_HEIGHT * unit, y)
        if where is None:
            return
        across = (self.columns[:, where[1]] - np.float32(x)) / np.float32(unit)
        up = (np.float32(y) - self.rows[where[0]]) / np.float32(unit)
        body = across - lean * up
        part = np.zeros((up.shape[0], across.shape[1]), np.intp)
        spread = stride * (0.9 - up) + 0.085
        legs = (np.abs(np.abs(body) - spread) < 0.085) & (up < 0.92)
        np.putmask(part, legs, 2)
        np.putmask(part, legs & (up < 0.08), 5)
        width = 0.235 - 0.10 * (up - 1.25) ** 2
        np.putmask(part, (np.abs(body) < width) & (up > 0.80) & (up < 1.46), 1)
        np.putmask(part, (np.abs(np.abs(body) - 0.27 - 0.06 * (1.4 - up)) < 0.055) & (up > 0.78) & (up < 1.40), 1)
        if bag:
            np.putmask(part, (np.abs(body - 0.36) < 0.12) & (np.abs(up - 0.68) < 0.15), 4)
        head = (body / 0.125) ** 2 + ((up - 1.59) / 0.155) ** 2 < 1
        np.putmask(part, head, 3)
        np.putmask(part, head & (up > 1.64), 4)
        colours = ((0, 0, 0), shirt, trousers, skin, (hair, hair * 0.8, hair * 0.7), (0.12, 0.10, 0.10))
        shade = np.float32(0.92) + np.float32(0.5 * self.sun) * body
        canvas.paint(where, part > 0, PEDESTRIAN, self.coloured(colours, part, shade, scale))

    def paint_bicyclist(self, metres: float, scale: float, size: float) -> None:
        rng, canvas = self.rng, self.canvas
        x, y = self.position(metres, scale)
        unit = self.per_metre * scale * size
        facing = 1 if rng() < 0.5 else -1
        shirt, trousers = rng.choice(_CLOTHES), rng.choice(_CLOTHES)
        skin, frame = rng.choice(_SKINS), rng.choice(_PAINTS)
        pedal = rng(-0.12, 0.12)
        self.shadow(x, y, 0.8 * unit, scale)
        where = canvas.window(x - 0.95 * unit, x + 0.95 * unit, y - 1.78 * unit, y)
        if where is None:
            return
        across = facing * (self.columns[:, where[1]] - np.float32(x)) / np.float32(unit)
        up = (np.float32(y) - self.rows[where[0]]) / np.float32(unit)
        thin = max(0.035, 0.55 / unit)
        part = np.zeros((up.shape[0], across.shape[1]), np.intp)

        def limb(x0: float, y0: float, x1: float, y1: float, radius: float, which: int) -> None:
            dx, dy = x1 - x0, y1 - y0
            right, above = across - x0, up - y0
            t = right * (dx / (dx * dx + dy * dy)) + above * (dy / (dx * dx + dy * dy))
            np.maximum(t, 0, out=t)
            np.minimum(t, 1, out=t)
            np.putmask(part, np.square(right - t * dx) + np.square(above - t * dy) < radius * radius, which)

        height2 = (up - 0.34) ** 2
        for hub in (-0.53, 0.53):
            far = np.sqrt((across - hub) ** 2 + height2)
            np.putmask(part, np.abs(far - (0.34 - thin)) < thin, 4)
            if unit > 14:
                np.putmask(part, far < 0.05, 4)
        limb(-0.53, 0.34, 0.0, 0.34, thin, 5)
        limb(0.0, 0.34, 0.42, 0.80, thin, 5)
        limb(0.0, 0.34, -0.14, 0.88, thin, 5)
        limb(0.53, 0.34, 0.40, 0.98, thin, 5)
        limb(-0.14, 0.92, 0.14 + pedal, 0.66, 0.095, 2)
        limb(0.14 + pedal, 0.66, 0.02 + pedal, 0.28, 0.075, 2)
        limb(-0.12, 0.98, 0.10, 1.34, 0.16, 1)
        limb(0.12, 1.36, 0.40, 1.02, 0.06, 1)
        limb(0.20, 1.60, 0.21, 1.62, 0.13, 3)
        np.putmask(part, ((across - 0.20) ** 2 + (up - 1.62) ** 2 < 0.0196) & (up > 1.65), 6)
        colours = ((0, 0, 0), shirt, trousers, skin, (0.09, 0.09, 0.10), frame, rng.choice(_PAINTS))
        shade = np.float32(0.95) + np.float32(0.12) * (up - 0.8)
        canvas.paint(where, part > 0, BICYCLIST, self.coloured(colours, part, shade, scale))

    def within(self, low: float, high: float, scale: float) -> float:
        """A place between ``low`` and ``high`` metres right of the middle that the camera sees, if there is one."""
        unit = self.per_metre * scale
        first, last = max(low, -self.vanish / unit), min(high, (self.width - self.vanish) / unit)
        return self.rng(first, last) if first < last else self.rng(low, high)

    def aside(self, low: float, high: float, scale: float) -> float:
        """A place ``low`` to ``high`` metres from the middle, on a side of the street that the camera sees."""
        unit = self.per_metre * scale
        sides = [side for side, room in ((-1, self.vanish), (1, self.width - self.vanish)) if room / unit > low]
        side = self.rng.choice(sides or (-1, 1))
        return self.within(low, high, scale) if side > 0 else self.within(-high, -low, scale)

    def furniture(self) -> list[tuple[float, Rng, Callable[..., None], tuple]]:
        """What stands on the street: (scale, its own random numbers, painter, arguments), not sorted by distance."""
        shared, knobs = self.rng, self.knobs
        things: list[tuple[float, Rng, Callable[..., None], tuple]] = []
        rows = iter(shared.generator.random((9 + 40, 32)).tolist())

        def add(scale: float, painter: Callable[..., None], *arguments: float) -> None:
            things.append((scale, self.rng, painter, arguments))

        trees, poles = shared.integer(1, 4), shared.integer(3, 5)
        for number in range(4):
            self.rng = rng = shared.repeating(next(rows))
            scale = rng.log_uniform(0.07, 0.42)
            if number < trees:
                add(scale, self.paint_tree, self.aside(self.road + 0.6, self.edge, scale), scale, rng(3.5, 6.5))
        for number in range(5):
            self.rng = rng = shared.repeating(next(rows))
            scale = rng.log_uniform(0.09, 0.5)
            place = self.aside(self.road + 0.1, self.road + 0.5, scale)
            sign = rng() < 0.55
            if number < poles:
                add(scale, self.paint_pole, place, scale, rng(2.3, 3.0) if sign else rng(4.0, 6.0), sign)
        # Sizes are spread around one middle size, so that the knob changes the range and not the middle.
        spread = math.sqrt(knobs.scale)
        low, high = 0.25 / spread, 0.25 * spread
        for _ in range(knobs.objects):
            self.rng = rng = shared.repeating(next(rows))
            scale = rng.log_uniform(low, high)
            if rng() < 0.55:
                lane = self.road - rng(0.95, 1.15) if rng() < 0.6 else 0.5 * self.road
                add(scale, self.paint_car, self.aside(lane - 0.1, lane + 0.1, scale), scale, 1.0)
            else:
                place = self.aside(self.road + 0.3, self.edge - 0.2, scale)
                add(scale, self.paint_pedestrian, place, scale, rng(0.9, 1.08))
        left = knobs.rare * self.height * self.width
        while left > 0:  # until the share is covered; the last one is drawn or not by chance
            self.rng = rng = shared.repeating(shared.generator.random(32).tolist())
            scale = rng.log_uniform(low, high)
            unit = self.per_metre * scale
            # A silhouette's area in square metres, measured: thin tubes are drawn thicker when they are far away.
            area = VISIBLE_SHARE * max(0.83, 0.72 + 2.3 / unit) * unit**2
            if left < area and rng() > left / area:
                break
            left -= area
            add(scale, self.paint_bicyclist, self.within(-self.road + 0.3, self.road - 0.3, scale), scale, 1.0)
        return things

    def render(self) -> Canvas:
        self.paint_sky()
        self.paint_skyline()
        self.paint_ground()
        self.paint_side(-1)
        self.paint_side(1)
        for _, rng, painter, arguments in sorted(self.furniture(), key=lambda thing: thing[0]):
            self.rng = rng
            painter(*arguments)
        return self.canvas


@register_dataset("scenes")
class SyntheticScenes(SyntheticDataset):
    """Street scenes with the eleven CamVid classes, drawn by a program; see ``SceneKnobs`` for what can be turned.

    ``dataset[i]`` is (image (3, H, W) float32 in [0, 1], mask (H, W) int64). The arguments are those of
    ``SyntheticDataset``.
    """

    spec = SCENES_SPEC
    KNOBS = SceneKnobs
    PRESETS = {
        "default": {},
        "thin": {"thickness": 1},
        "context": {"context": 24},
        "scales": {"scale": 16.0, "objects": 12},
        "noisy": {"noise": 0.2},
        "imbalanced": {"rare": 0.001},
        "flat": {"texture": 0.0, "noise": 0.0},
    }

    def __init__(
        self,
        size: Size = (128, 128),
        length: int = 1000,
        *,
        split: str | None = None,
        seed: int = 0,
        knobs: SceneKnobs | str | None = None,
        transform: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(size, length, split=split, seed=seed, knobs=knobs, transform=transform, **settings)

    def draw(self, index: int, *, counterpart: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Draw one scene.

        Args:
            index: Which one.
            counterpart: With ``context``: the same scene, but with the other light and so the other class of the disc.

        Returns:
            Image (3, H, W) float32 in [0, 1] and label (H, W) uint8.
        """
        knobs = self.knobs
        scene = _Scene(self.size, knobs, Rng(self.seed, index, 0))
        canvas = scene.render()
        image, label = canvas.image, canvas.label
        if knobs.context:
            rng = Rng(self.seed, index, 1)
            paint_cue(image, label, rng, knobs.context, CUE_COLOURS, DISC_GREY, CUE_CLASSES, counterpart)
        if knobs.noise:
            add_noise(image, knobs.noise, Rng(self.seed, index, 2))
        np.clip(image, 0, 1, out=image)
        return image, void_borders(label, knobs.void)
