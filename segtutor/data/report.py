"""What a look at a dataset found: single problems, and the whole on one screen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest

_SHOWN = 5  # findings of one kind that a report prints
_ROWS = 40  # classes that it prints


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: Of the files: ``"unreadable"``, ``"format"``, ``"pages"``, ``"size"``, ``"range"``; of masks: ``"lossy"``,
            ``"alpha"``, ``"values"``, ``"colors"``, ``"palette"``; of all masks together: ``"binary"``, ``"void"``,
            ``"one class"``, ``"off by one"``; of the folder: ``"unmatched"``, ``"missing"``, ``"split"``,
            ``"duplicate"``; ``"item"``: an item of a dataset that is not of the agreed form.
        file: The file, or ``"item 7"`` for datasets without files.
        message: What is wrong and the likely cause, in one sentence.
        found: Values found, where the kind is about values.
        allowed: Values allowed.
    """

    kind: str
    file: str
    message: str
    found: tuple = ()
    allowed: tuple = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.file else self.message


@dataclass
class DatasetReport:
    """What :func:`check_dataset` found. Printing it shows everything that matters on one screen.

    Attributes:
        name: Name of the dataset or folder.
        images: How many images it has.
        checked: How many of them were looked at.
        classes: Class names.
        inferred: Whether the number of classes was taken from the masks.
        pixels: Pixels of each class in the masks that could be read.
        void: Void pixels in them.
        sizes: How often each (height, width) occurs, in the files too of which only the start was looked at.
        problems: Everything found to be wrong.
        notes: What is good to know and not wrong: one sentence each.
        parts: Of several parts of one dataset, the report on each by its name.
    """

    name: str
    images: int = 0
    checked: int = 0
    classes: tuple[str, ...] = ()
    inferred: bool = False
    pixels: tuple[int, ...] = ()
    void: int = 0
    sizes: Counter = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: dict[str, DatasetReport] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def class_frequencies(self) -> dict[str, float]:
        """Share of each class in all pixels that are not void."""
        total = sum(self.pixels)
        return {name: count / total if total else 0.0 for name, count in zip(self.classes, self.pixels, strict=True)}

    def add(self, other: DatasetReport) -> None:
        """Take in the report on another part of the same dataset."""
        self.pixels = tuple(one + two for one, two in zip_longest(self.pixels, other.pixels, fillvalue=0))
        self.classes = max(self.classes, other.classes, key=len)
        self.inferred = self.inferred or other.inferred
        self.images, self.checked = self.images + other.images, self.checked + other.checked
        self.void += other.void
        self.sizes.update(other.sizes)
        self.problems += other.problems
        self.notes += [note for note in other.notes if note not in self.notes]

    def _table(self) -> list[str]:
        width = max(map(len, self.classes))
        lines = []
        for label, (name, share) in enumerate(self.class_frequencies.items()):
            note = "  never occurs" if share == 0 else "  rare: pixel accuracy hides it" if share < 0.01 else ""
            if share or len(self.classes) <= _ROWS:
                lines.append(f"  {label:3d}  {name:<{width}}  {100 * share:6.2f} %{note}")
        if len(self.classes) > _ROWS:
            lines = [*lines[:_ROWS], f"  ... {self.pixels.count(0)} of {len(self.classes)} classes never occur"]
        share = self.void / (self.void + sum(self.pixels))
        return [*lines, f"  void {' ' * width}  {100 * share:6.2f} % of all pixels"]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.checked} of {self.images} images checked, {len(self.classes)} classes"]
        lines[0] += " (as many as the masks hold)" if self.inferred else ""
        if self.sizes:
            common = ", ".join(f"{h} x {w} ({n})" for (h, w), n in self.sizes.most_common(3))
            more = f" and {len(self.sizes) - 3} other sizes" if len(self.sizes) > 3 else ""
            lines.append(f"Height x width in pixels (images): {common}{more}")
        if sum(self.pixels):
            lines.append("Share of the pixels that are not void:")
            lines += self._table()
        lines += self.notes
        if not self.problems:
            return "\n".join([*lines, "No problems found."])
        lines.append(f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}:")
        for kind in dict.fromkeys(problem.kind for problem in self.problems):
            same = [problem for problem in self.problems if problem.kind == kind]
            lines += [f"  [{kind}] {problem}" for problem in same[:_SHOWN]]
            if len(same) > _SHOWN:
                lines.append(f"  [{kind}] ... and {len(same) - _SHOWN} more")
        return "\n".join(lines)
