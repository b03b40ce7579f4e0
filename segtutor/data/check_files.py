"""The look at the files of a dataset, one image and one mask at a time, and at what all masks together say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import DataError, MaskError
from .labels import (
    MANY,
    SMOOTHED,
    LabelMapping,
    colored_by,
    in_order,
    likely_cause,
    likely_color_cause,
    mapped_by,
    shorten,
)
from .ranges import EIGHT_BITS, show_range, to_unit
from .reading import evenly, glance, read_raw_mask, read_size, read_values
from .report import DatasetReport, Problem

GLANCES = 1000  # files beyond the ones that are read whole, of which the start is looked at


@dataclass
class FileCheck:
    """What is gathered about the pairs of a dataset.

    Attributes:
        report: Where everything goes.
        mapping: How file values become labels.
        value_range: File values that become 0 and 1.
    """

    report: DatasetReport
    mapping: LabelMapping
    value_range: tuple[float, float]
    seen: set[int] = field(default_factory=set)  # values in grey and palette masks
    wrong: list[tuple[Path, tuple[int, ...]]] = field(default_factory=list)
    colored: list[tuple[Path, list[tuple[int, int, int]]]] = field(default_factory=list)  # where no colours are given
    shown_as: dict[int, tuple[tuple[int, ...], Path]] = field(default_factory=dict)  # index -> colour, the first file
    by_color: list[Path] = field(default_factory=list)
    by_label: list[Path] = field(default_factory=list)
    turned: int = 0
    values: int = 0
    outside: int = 0
    brightest: float = -np.inf

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.mapping.num_classes + 1, dtype=np.int64)  # the last one counts void

    def run(self, pairs: Sequence[tuple[Path, Path]], limit: int | None) -> DatasetReport:
        """Look at ``limit`` pairs whole, and at the start of the others' files where there is a limit."""
        chosen = evenly(len(pairs), limit)
        for index in chosen:
            self.report.checked += 1
            self.look(*pairs[index])
        rest = [pairs[i] for i in range(len(pairs)) if i not in set(chosen)]
        for pair in [rest[i] for i in evenly(len(rest), GLANCES)] if limit else []:
            self.glance(*pair)
        for _, mask in rest if limit else []:  # one class alone in a sample says nothing: look for a second one
            if not self.pixels.any() or np.count_nonzero(self.pixels[:-1]) > 1:
                break
            self.look_at_mask(mask)
        self.conclude()
        return self.report

    def problem(self, path: Path, error: DataError) -> None:
        message = str(error).removeprefix(f"{path} ")  # the report prints the file in front
        self.report.problems.append(Problem(error.kind, str(path), message))

    # ----------------------------------------------------------------------------------------------- one pair of files
    def look(self, image: Path, mask: Path) -> None:
        """Read both files and count what is in them."""
        size = self.look_at_image(image)
        other = self.look_at_mask(mask)
        if size is not None and other is not None and size != other:
            self.report.problems.append(size_problem(image, mask, size, other))

    def look_at_image(self, path: Path) -> tuple[int, int] | None:
        """Height and width; None where the file cannot be read."""
        try:
            values = read_values(path)
            self.turned += glance(path).turned
            if values.dtype != np.uint8 or self.value_range != EIGHT_BITS:
                to_unit(values, self.value_range, str(path))
                self.outside += int(((values < self.value_range[0]) | (values > self.value_range[1])).sum())
        except DataError as error:
            self.problem(path, error)
            if error.kind != "range":
                return None
            values = read_values(path)
        self.values += values.size
        self.brightest = max(self.brightest, float(values.max()))
        size = values.shape[0], values.shape[1]
        self.report.sizes[size] += 1
        return size

    def look_at_mask(self, path: Path) -> tuple[int, int] | None:
        """Height and width; None where the file cannot be read."""
        mapping = self.mapping
        try:
            raw = read_raw_mask(path, mapping.colors, mapping.ignore_index)
        except DataError as error:
            self.problem(path, error)
            return None
        found = tuple(np.unique(raw).tolist()) if raw.ndim == 2 else ()
        self.seen.update(found)
        if found and not mapping.colors:
            self.compare_palette(path, found)
        if found and mapping.greys():
            if mapping.is_by_color(found):
                self.by_color.append(path)
            elif set(found) - set(mapping.greys()):
                self.by_label.append(path)
        try:
            labels = mapping.decode(raw, str(path))
        except MaskError as error:
            if raw.ndim == 2 and not mapping.is_by_color(found):
                self.wrong.append((path, found))
            elif raw.ndim == 3 and not mapping.colors:
                self.colored.append((path, [tuple(color) for color in np.unique(raw.reshape(-1, 3), axis=0).tolist()]))
            else:
                self.problem(path, error)
                colors = tuple(map(tuple, np.unique(raw.reshape(-1, 3), axis=0).tolist())) if raw.ndim == 3 else found
                last = self.report.problems.pop()
                allowed = tuple(mapping.colors or ())
                self.report.problems.append(Problem(last.kind, last.file, last.message, colors, allowed))
            return raw.shape[0], raw.shape[1]
        labels = np.where(labels == mapping.ignore_index, mapping.num_classes, labels)
        self.pixels += np.bincount(labels.ravel(), minlength=len(self.pixels))
        return raw.shape[0], raw.shape[1]

    def glance(self, image: Path, mask: Path) -> None:
        """Look at sizes and palettes without reading the pixels."""
        try:
            size, other = read_size(image), read_size(mask)
            if size != other:  # a PNG that says only at its end which way round it is looks so as well
                self.look(image, mask)
            else:
                self.report.sizes[size] += 1
            if not self.mapping.colors:
                self.compare_palette(mask, tuple(self.seen))
        except DataError as error:
            self.problem(image if str(error).startswith(str(image)) else mask, error)

    def compare_palette(self, path: Path, used: tuple[int, ...]) -> None:
        """Whether a palette file shows the indices in use as the ones before it did."""
        palette = glance(path).palette
        if palette is None:
            return
        for index in used:
            if index >= len(palette):
                continue
            color, first = self.shown_as.setdefault(index, (palette[index], path))
            if color != palette[index]:
                shown = {palette[i] for i in used if i < len(palette)} | {other for other, _ in self.shown_as.values()}
                every = sorted((color[0], color[1], color[2]) for color in shown)
                how = f"{colored_by(every)}, in the order of the classes" if len(every) <= MANY else "palette="
                message = (
                    f"shows the index {index} as {palette[index]}, but {first.name} shows it as {color}: the palettes "
                    f"differ, so one index means two things; pass {how}, and the masks are read by colour, or save "
                    "them with one palette"
                )
                self.report.problems.append(Problem("palette", str(path), message))
                return

    # ------------------------------------------------------------------------------------------------- all of them
    def conclude(self) -> None:
        """Fill in the counts, and add what no single file can show."""
        report, mapping = self.report, self.mapping
        report.pixels, report.void = tuple(self.pixels[:-1].tolist()), int(self.pixels[-1])
        for path, found in self.wrong:
            # All masks together tell more about the cause than one: labels from 1 show in that no mask holds a 0.
            cause = likely_cause(sorted(self.seen), mapping)
            message = f"holds the values {shorten(found)}; allowed are {shorten(mapping.allowed())}: {cause}"
            report.problems.append(Problem("values", str(path), message, found, mapping.allowed()))
        every = sorted({color for _, colors in self.colored for color in colors})
        for path, colors in self.colored:
            cause = likely_color_cause(every, len(every), mapping)
            message = f"holds the colours {shorten(colors)}; allowed are single numbers per pixel: {cause}"
            report.problems.append(Problem("colors", str(path), message, tuple(colors)))
        if self.by_color and self.by_label:
            message = (
                f"holds greys that are colours of palette=, but {self.by_label[0].name} holds labels: use either in "
                "all masks, or leave palette= out"
            )
            report.problems.append(Problem("colors", str(self.by_color[0]), message))
        report.problems += about_all(sorted(self.seen), mapping, report)
        self.about_images()

    def about_images(self) -> None:
        report = self.report
        expected = show_range(self.value_range)
        if self.brightest == 0 and self.value_range[0] == 0:
            message = f"every image is black, where {expected} is expected: look at how the images were saved"
            report.problems.append(Problem("range", "", message))
        elif 0 < self.brightest < 16 and self.value_range[1] >= 255:
            message = (
                f"no image has a value above {self.brightest:g}, where {expected} is expected, so all would be nearly "
                f"black: declare value_range=(0, {self.brightest:g}), or save them brighter"
            )
            report.problems.append(Problem("range", "", message))
        if self.value_range != EIGHT_BITS and self.values:
            cut = f"; {self.outside / self.values:.1%} lie outside and are cut off" if self.outside else ""
            report.notes.append(
                f"Image values are read with value_range=({self.value_range[0]:g}, {self.value_range[1]:g}){cut}."
            )
        if self.turned:
            report.notes.append(
                f"Photographs that EXIF data turn: {self.turned}; they are read as a viewer shows them, and their "
                "masks must fit that."
            )


def size_problem(image: Path, mask: Path, size: tuple[int, int], other: tuple[int, int]) -> Problem:
    """What to say about a mask of another size than its image."""
    message = f"is {other[0]} x {other[1]} pixels (height x width), but its image {image.name} is {size[0]} x {size[1]}"
    cause = "export the mask at the size of its image, or resize it by nearest neighbour"
    if other == size[::-1]:
        cause = "height and width are swapped; turn the mask, or read it without a transpose"
        if glance(image).turned:
            cause = "EXIF data turn the photograph, as a viewer shows it, but not its mask; save both upright"
    return Problem("size", str(mask), f"{message}: {cause}", found=other, allowed=size)


def about_all(seen: list[int], mapping: LabelMapping, report: DatasetReport) -> list[Problem]:
    """What all masks together show: values and labels that are allowed one by one, but not what they seem.

    Args:
        seen: Values found in grey masks, in rising order.
        mapping: What they may mean.
        report: With the pixels counted.
    """
    if any(problem.kind in ("values", "colors") for problem in report.problems):
        return []
    allowed, void = mapping.allowed(), mapping.ignore_index
    present = [label for label, count in enumerate(report.pixels) if count]
    plain = mapping.values is None and not mapping.colors
    if not present and report.void:
        message = (
            f"every pixel of every mask is void (ignore_index={void}), so there is nothing to learn: give these pixels "
            "a class, with label_map= or another ignore_index"
        )
        return [Problem("void", "", message, tuple(seen), allowed)]
    if len(present) == 1 and report.void and plain and len(seen) == 2:
        label = present[0]
        message = (
            f"all masks together hold only {seen[0]} and {seen[1]}, and {void} is void, so nothing but class {label} "
            f"would be learnt: looks like {seen[0]}/{seen[1]} binary masks; give two classes, and map them with "
            f"{mapped_by({label: 0, void: 1})}"
        )
        return [Problem("binary", "", message, tuple(seen), allowed)]
    labels = [value for value in seen if value != void]
    if labels and labels[0] == 1 and 0 not in seen and labels[-1] == mapping.num_classes - 1 and report.inferred:
        shifted = {value: value - 1 for value in range(1, labels[-1] + 1)} | ({void: void} if void in seen else {})
        message = (
            f"all masks together hold the labels {shorten(labels)} and never 0: looks like labels that start at 1; "
            f"subtract 1, with {mapped_by(shifted)}, or give class 0 its place on purpose with the number of classes"
        )
        return [Problem("off by one", "", message, tuple(seen), allowed)]
    if len(present) == 1:
        name = report.classes[present[0]]
        message = (
            f"all masks hold one class only, {present[0]} ({name}), so that a network which always answers it scores "
            "1: add images of the other classes, or correct how file values become labels"
        )
        return [Problem("one class", "", message, tuple(seen), allowed)]
    if plain and report.inferred and len(labels) > 1 and len(labels) < (labels[-1] + 1) / 2:
        cure = mapped_by(in_order(seen, void)) if len(seen) <= MANY else "label_map="
        message = (
            f"all masks together hold the values {shorten(seen)}, with large gaps: looks like grey levels or colour "
            f"numbers instead of labels; map them, e.g. with {cure}, or give the number of classes"
        )
        return [Problem("values", "", message, tuple(seen), allowed)]
    if plain and report.inferred and len(labels) > 128:
        message = f"all masks together hold {len(labels)} different labels: looks like {SMOOTHED}"
        return [Problem("values", "", message, tuple(seen), allowed)]
    return []
