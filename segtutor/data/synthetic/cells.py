"""``SyntheticCells``: nervous tissue as an electron microscope shows it, drawn by a program, with exact labels.

Cells are the regions of an additively weighted Voronoi diagram: a pixel belongs to the disc whose rim is nearest.
Coordinates are bent by smooth noise first, so that membranes wobble. The distance of a pixel to the membrane is the
difference of its two smallest rim distances over the length of that difference's gradient, correct to first order;
so a membrane is as thick as its knob says, however the coordinates are bent. Classes are those of DrosophilaVNC.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from segtutor.data.drosophila_vnc import SPEC as TISSUE
from segtutor.data.registry import Size, register_dataset
from segtutor.data.spec import DatasetSpec
from segtutor.data.synthetic.common import (
    NOISE_PERIOD,
    VOID,
    Canvas,
    Rng,
    SyntheticDataset,
    add_noise,
    check_range,
    cut,
    cut_at,
    noise_field,
    paint_cue,
    void_borders,
)

MEMBRANE, GLIA, MITOCHONDRIA, SYNAPSE, INTRACELLULAR = range(5)

CELLS_SPEC = DatasetSpec(
    name="cells",
    title="SyntheticCells",
    classes=TISSUE.classes,
    palette=TISSUE.palette,
    ignore_index=VOID,
    mean=(0.545,),
    std=(0.188,),
    in_channels=1,
    licence="drawn by this package (MIT)",
)

# What a class looks like at texture=0: one grey each.
FLAT = np.array([[0.22], [0.42], [0.54], [0.08], [0.72]], dtype=np.float32)
CUE_LIGHTS = np.array([[1.0], [0.0]], dtype=np.float32)
CUE_CLASSES = (MITOCHONDRIA, SYNAPSE)
DISC_GREY = 0.33
MIDDLE_RADIUS = 0.12
BLOCK = 8
RANKS = 16


@dataclass(frozen=True)
class CellKnobs:
    """What each knob of ``SyntheticCells`` isolates, and its range.

    Attributes:
        thickness: Thickness of the membranes in pixels: 1 to 12. Thin ones ask for sharp boundaries.
        context: 0, or a distance in pixels, at least 4. Then one plain grey disc per image is ``mitochondria`` when a
            white spot lies that far away and ``synapse`` when a black one does. Nothing nearer tells the two apart, so
            a network whose receptive field does not reach that far is at chance.
        scale: Ratio of the largest to the smallest radius of cells, and of the mitochondria in them: 1 to 16.
        texture: 0 (one flat grey per class) to 1 (grainy cytoplasm, vesicles, cristae, uneven light).
        noise: Standard deviation of the detector noise, images being in [0, 1]: 0 to 0.5.
        rare: Share of all pixels that the rare class, ``synapse``, covers on average: 0 to 0.1.
        void: Pixels on either side of each class border that are labelled 255: 0 to 8.

    Raises:
        ValueError: If a knob is out of its range.
    """

    thickness: int = 3
    context: int = 0
    scale: float = 4.0
    texture: float = 1.0
    noise: float = 0.05
    rare: float = 0.01
    void: int = 0

    def __post_init__(self) -> None:
        kind = "SyntheticCells"
        check_range(kind, "thickness", self.thickness, 1, 12, whole=True)
        if self.context != 0:
            check_range(kind, "context", self.context, 4, 4096, whole=True)
        check_range(kind, "scale", self.scale, 1, 16)
        check_range(kind, "texture", self.texture, 0, 1)
        check_range(kind, "noise", self.noise, 0, 0.5)
        check_range(kind, "rare", self.rare, 0, 0.1)
        check_range(kind, "void", self.void, 0, 8, whole=True)


@functools.lru_cache(maxsize=8)
def _bend(unit: int, variant: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far a coordinate is displaced, in pixels, and the derivatives of that along rows and columns."""
    field = 0.034 * unit * noise_field(0.40 * unit, variant) + 0.006 * unit * noise_field(0.13 * unit, variant)
    slopes: Any = np.gradient(field)
    along_rows, along_columns = (slope.astype(np.float32) for slope in slopes)
    return field, along_rows, along_columns


@functools.lru_cache(maxsize=1)
def _grains() -> tuple[np.ndarray, np.ndarray]:
    """Grain of cytoplasm: fine with a few dark specks, and coarse."""
    fine, specks = noise_field(3.0, 5), noise_field(5.0, 6)
    plasm = 0.045 * fine - 0.10 * np.clip(specks - 1.1, 0, 2) + 0.03 * noise_field(24.0, 5)
    glia = 0.06 * fine - 0.10 * np.clip(specks - 0.6, 0, 2) + 0.05 * noise_field(12.0, 7)
    return plasm.astype(np.float32), glia.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _vesicles() -> np.ndarray:
    """Stamps (3, 9, 9) to be added: a small ring, a large ring, a dense core."""
    axis = np.arange(-4, 5, dtype=np.float32)
    far = np.hypot(axis[:, None], axis[None])
    rings = [0.10 * np.exp(-((far / (0.7 * r)) ** 2)) - 0.26 * np.exp(-(((far - r) / 0.75) ** 2)) for r in (1.8, 2.6)]
    core = -0.42 * np.exp(-((far / 1.6) ** 2))
    stamps = np.stack([*rings, core])
    stamps[:, far > 4.3] = 0
    return stamps.astype(np.float32)


class _Tissue:
    """One section: discs, distances, and the painters of what lies in the cells."""

    def __init__(self, size: tuple[int, int], knobs: CellKnobs, rng: Rng) -> None:
        self.height, self.width = size
        self.knobs, self.rng = knobs, rng
        self.unit = min(size)
        self.canvas = Canvas(*size, FLAT, knobs.texture)
        self.whole = (slice(0, self.height), slice(0, self.width))

    def place_discs(self) -> None:
        """Discs that do not overlap, radii spread around one middle radius over the ratio ``scale``."""
        rng = self.rng
        spread = math.sqrt(self.knobs.scale)
        middle = MIDDLE_RADIUS * self.unit
        low, high = middle / spread, middle * spread
        most = 400
        x, y, r = (np.empty(most, np.float32) for _ in range(3))
        count, refused = 0, 0
        margin = 0.6 * middle
        while count < most and refused < 24:
            radius = rng.log_uniform(low, high) if spread > 1 else low
            column = rng(-margin, self.width + margin)
            row = rng(-margin, self.height + margin)
            if count:
                dx, dy = x[:count] - column, y[:count] - row
                gap = float((np.sqrt(dx * dx + dy * dy) - r[:count]).min())
                if gap < low * 0.9:
                    refused += 1
                    continue
                radius = min(radius, gap)
            x[count], y[count], r[count] = column, row, radius
            count += 1
        self.x, self.y, self.r = x[:count], y[:count], r[:count]
        self.rivals = min(RANKS, 6 + math.ceil(12 / low))

    def measure(self) -> None:
        """Nearest and second disc of every pixel, and the distance to the membrane between the two.

        Only the few discs nearest to the middle of a block of 8 x 8 pixels are compared at the pixels of that block.
        """
        rng, height, width = self.rng, self.height, self.width
        high, wide = -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK
        bends = []
        for variant in (11, 12):
            top, left = rng.integer(0, NOISE_PERIOD - 1), rng.integer(0, NOISE_PERIOD - 1)
            bends.append([cut_at(field, top, left, high, wide) for field in _bend(self.unit, variant)])
        (down, down_rows, down_columns), (right, right_rows, right_columns) = bends
        rows = np.arange(high, dtype=np.float32)[:, None] + 0.5 + down
        columns = np.arange(wide, dtype=np.float32)[None] + 0.5 + right
        middle = slice(BLOCK // 2, None, BLOCK)
        far = np.square(columns[middle, middle, None] - self.x) + np.square(rows[middle, middle, None] - self.y)
        far = np.sqrt(far) - self.r
        few = min(len(self.x), self.rivals)
        rivals = np.argpartition(far, few - 1, axis=2)[:, :, :few] if few < len(self.x) else np.argsort(far, axis=2)

        # One integer holds distance (1/256 pixel) and rank, so that two minima find the two nearest discs and say which
        # they are; a block is a column, so that numpy walks along many blocks at once.
        blocks = (high // BLOCK, BLOCK, wide // BLOCK, BLOCK)
        rows_, columns_ = (a.reshape(blocks).transpose(1, 3, 0, 2).reshape(BLOCK * BLOCK, -1) for a in (rows, columns))
        rivals = rivals.reshape(-1, few).T
        first, second = (np.full(rows_.shape, np.iinfo(np.int32).max, np.int32) for _ in range(2))
        for rank in range(few):
            disc = rivals[rank]
            far, upright = columns_ - self.x[disc], rows_ - self.y[disc]
            far *= far
            upright *= upright
            far += upright
            np.sqrt(far, out=far)
            far -= self.r[disc]
            far *= 256 * RANKS
            key = far.astype(np.int32)
            key &= -RANKS
            key |= rank
            np.minimum(second, np.maximum(key, first), out=second)
            np.minimum(first, key, out=first)
        crop = (slice(0, height), slice(0, width))
        pair = []
        for key in (first, second):
            disc = np.take_along_axis(rivals, (key & (RANKS - 1)).astype(np.intp), axis=0)
            order = (BLOCK, BLOCK, blocks[0], blocks[2])
            flat = [a.reshape(order).transpose(2, 0, 3, 1).reshape(high, wide)[crop] for a in (key, disc)]
            pair += [(flat[0] >> 4).astype(np.float32) * np.float32(1 / 256), flat[1]]
        first, self.cell, second, other = pair
        self.rows, self.columns, self.down, self.right = rows[crop], columns[crop], down[crop], right[crop]
        near, far = 1 / np.maximum(first + self.r[self.cell], 0.5), 1 / np.maximum(second + self.r[other], 0.5)
        across = (self.columns - self.x[other]) * far - (self.columns - self.x[self.cell]) * near
        upright = (self.rows - self.y[other]) * far - (self.rows - self.y[self.cell]) * near
        along_columns = across * (1 + right_columns[crop]) + upright * down_columns[crop]
        along_rows = across * right_rows[crop] + upright * (1 + down_rows[crop])
        slope = np.sqrt(np.square(along_columns) + np.square(along_rows))
        self.distance = (second - first) / np.maximum(slope, 0.35)

    def paint_cytoplasm(self) -> None:
        rng, canvas = self.rng, self.canvas
        count = len(self.x)
        tone = np.array([rng(0.60, 0.76) for _ in range(count)], np.float32)
        # Glia squeezes in between: it is small cells rather than large ones.
        self.glia = np.array([rng() < 0.22 for _ in range(count)]) & (self.r <= 1.05 * np.median(self.r))
        tone[self.glia] *= 0.62
        plasm, glia = _grains()
        value = tone[self.cell] + cut(plasm, rng, self.height, self.width)
        halo = np.maximum(0, 1 - np.maximum(self.distance - self.knobs.thickness / 2, 0) * 0.45)
        value -= 0.26 * halo
        self.stamp_vesicles(value)
        canvas.paint(self.whole, True, INTRACELLULAR, value)
        if self.glia.any():
            mask = self.glia[self.cell]
            canvas.paint(self.whole, mask, GLIA, value + cut(glia, rng, self.height, self.width))

    def stamp_vesicles(self, value: np.ndarray) -> None:
        """Add small rings in clusters, away from the membranes."""
        generator = self.rng.generator
        clusters = max(3, round(7 * self.height * self.width / self.unit**2))
        middle = generator.random((clusters, 1, 2), dtype=np.float32) * (self.height, self.width)
        place = middle + generator.standard_normal((clusters, 12, 2), dtype=np.float32) * (0.07 * self.unit)
        loose = generator.random((clusters * 5, 2), dtype=np.float32) * (self.height, self.width)
        place = np.concatenate([place.reshape(-1, 2), loose]).astype(np.intp)
        kind = np.searchsorted((0.62, 0.92), generator.random(len(place)))
        ok = (place >= 4).all(1) & (place[:, 0] < self.height - 4) & (place[:, 1] < self.width - 4)
        place, kind = place[ok], kind[ok]
        clear = self.distance[place[:, 0], place[:, 1]] > self.knobs.thickness / 2 + 4
        place, kind = place[clear], kind[clear]
        offset = np.arange(-4, 5)
        rows = place[:, 0, None, None] + offset[:, None]
        columns = place[:, 1, None, None] + offset
        value[rows, columns] += _vesicles()[kind]

    def paint_mitochondria(self) -> None:
        """Ellipses with a double rim and cristae, in bent coordinates like the cells they lie in."""
        rng = self.rng
        for cell in range(len(self.x)):
            radius = float(self.r[cell])
            wanted = 1 + (radius > 0.17 * self.unit) + (radius > 0.30 * self.unit)
            for number in range(wanted):
                if rng() > (0.42 if wanted == 1 else 0.75) or self.glia[cell]:
                    continue
                size = min(rng(0.48, 0.70) / (1 if wanted == 1 else 1.45) * radius, 0.22 * self.unit)
                turn = rng(0, 2 * math.pi)
                off = rng(0.0, 0.25) if wanted == 1 else rng(0.45, 0.55)
                angle = turn + 2 * math.pi * number / wanted
                x = float(self.x[cell]) + off * radius * math.cos(angle)
                y = float(self.y[cell]) + off * radius * math.sin(angle)
                self.paint_mitochondrion(cell, x, y, size, size * rng(0.6, 0.95), rng(0, math.pi))

    def paint_mitochondrion(self, cell: int, x: float, y: float, long: float, short: float, turn: float) -> None:
        rng = self.rng
        row, column = y, x  # undo the bend: where in the image do the coordinates read (x, y)?
        for _ in range(3):
            at = min(max(int(row), 0), self.height - 1), min(max(int(column), 0), self.width - 1)
            row, column = y - float(self.down[at]), x - float(self.right[at])
        half = 1.5 * long + 2
        where = self.canvas.window(column - half, column + half, row - half, row + half)
        pitch, phase, tone = rng(3.4, 5.0), rng(0, 6.3), rng(0.40, 0.50)
        corners = [rng.integer(0, NOISE_PERIOD - 1) for _ in range(4)]  # drawn in any case: nothing else may shift
        if where is None:
            return
        dx, dy = self.columns[where] - np.float32(x), self.rows[where] - np.float32(y)
        cosine, sine = math.cos(turn), math.sin(turn)
        along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
        far = np.sqrt(np.square(along / long) + np.square(across / short))
        mask = (far < 1) & (self.cell[where] == cell) & (self.distance[where] > self.knobs.thickness / 2 + 1.2)
        if not mask.any():
            return
        depth = (1 - far) * short  # pixels from the rim
        bend = cut_at(noise_field(9.0, 8), *corners[:2], *mask.shape)
        cristae = np.sin(along * (2 * math.pi / pitch) + bend * 0.9 + phase)
        value = tone + cut_at(noise_field(4.0, 9), *corners[2:], *mask.shape) * np.float32(0.03)
        value += np.where(depth > 2.6, 0.13 * cristae, np.float32(0.03))
        value -= 0.26 * np.maximum(0, 1 - np.abs(depth - 0.6)) - 0.10 * np.maximum(0, 1 - np.abs(depth - 1.9))
        self.canvas.paint(where, mask, MITOCHONDRIA, value)

    def paint_membranes(self) -> None:
        half = self.knobs.thickness / 2
        grain = cut(noise_field(6.0, 10), self.rng, self.height, self.width)
        value = 0.24 + 0.035 * grain + 0.10 * np.square(self.distance / half)
        self.membrane = self.distance <= half
        self.canvas.paint(self.whole, self.membrane, MEMBRANE, value)

    def paint_synapses(self) -> None:
        """Dark plates on membranes until the share ``rare`` is covered; the last is drawn or not by chance."""
        rng, canvas, knobs = self.rng, self.canvas, self.knobs
        left = knobs.rare * self.height * self.width
        ys, xs = np.nonzero(self.membrane)
        if not len(ys) or left <= 0:
            return
        for _ in range(400):
            pick = rng.integer(0, len(ys) - 1)
            row, column = int(ys[pick]), int(xs[pick])
            radius = self.unit * rng(0.035, 0.065) + 1
            thick = knobs.thickness / 2 + rng(0.012, 0.024) * self.unit + 0.4
            where = canvas.window(column - radius, column + radius + 1, row - radius, row + radius + 1)
            if where is None:  # it cannot be: the pixel itself lies in the window
                continue
            dy = np.arange(where[0].start - row, where[0].stop - row, dtype=np.float32)[:, None]
            dx = np.arange(where[1].start - column, where[1].stop - column, dtype=np.float32)
            round_ = (dx * dx + dy * dy) / np.float32(radius * radius)
            mask = (round_ < 1) & (self.distance[where] < thick * np.sqrt(np.maximum(1 - round_, 0)) + 0.5)
            mask &= canvas.label[where] != MITOCHONDRIA
            area = int((mask & (canvas.label[where] != SYNAPSE)).sum())
            if area == 0:
                continue
            if left < area and rng() > left / area:
                return
            value = np.float32(0.09) + np.float32(0.05) * round_ + 0.03 * (self.distance[where] / thick)
            canvas.paint(where, mask, SYNAPSE, value)
            left -= area
            if left <= 0:
                return

    def render(self) -> Canvas:
        light = cut(noise_field(200.0, 13), self.rng, self.height, self.width)
        self.place_discs()
        self.measure()
        self.paint_cytoplasm()
        self.paint_mitochondria()
        self.paint_membranes()
        self.paint_synapses()
        if self.knobs.texture > 0:
            self.canvas.image *= 1 + np.float32(0.05) * self.canvas.texture * light
        return self.canvas


@register_dataset("cells")
class SyntheticCells(SyntheticDataset):
    """Tissue sections with the five classes of DrosophilaVNC, drawn by a program; ``CellKnobs`` lists what can be set.

    ``dataset[i]`` is (image (1, H, W) float32 in [0, 1], mask (H, W) int64). The arguments are those of
    ``SyntheticDataset``.
    """

    spec = CELLS_SPEC
    KNOBS = CellKnobs
    PRESETS = {
        "default": {},
        "thin": {"thickness": 1},
        "context": {"context": 24},
        "scales": {"scale": 16.0},
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
        knobs: CellKnobs | str | None = None,
        transform: Callable[..., Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(size, length, split=split, seed=seed, knobs=knobs, transform=transform, **settings)

    def draw(self, index: int, *, counterpart: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Draw one section.

        Args:
            index: Which one.
            counterpart: With ``context``: the same section, but with the other spot and so the other class of the disc.

        Returns:
            Image (1, H, W) float32 in [0, 1] and label (H, W) uint8.
        """
        knobs = self.knobs
        canvas = _Tissue(self.size, knobs, Rng(self.seed, index, 0)).render()
        image, label = canvas.image, canvas.label
        if knobs.context:
            paint_cue(
                image, label, Rng(self.seed, index, 1), knobs.context, CUE_LIGHTS, DISC_GREY, CUE_CLASSES, counterpart
            )
        if knobs.noise:
            add_noise(image, knobs.noise, Rng(self.seed, index, 2))
        np.clip(image, 0, 1, out=image)
        return image, void_borders(label, knobs.void)
