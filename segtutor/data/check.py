"""Looks at every image and mask of a dataset and says what is wrong with them, before a training run does.

Most trouble with segmentation is trouble with masks: 0/255 where labels are meant, colours, labels from 1, another
size than the image. Each finding names the file, the values found, the values allowed, and the likely cause.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from . import folder as folders
from .labels import SMOOTHED, LabelMapping, MaskError, likely_cause, shorten
from .pairs import PairDataset
from .reading import read_raw_mask
from .root import LAYOUTS, DataNotFoundError

# Names of the two folders that people use, in the order tried; upper and lower case are the same.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "inputs", "x")
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentationclass"),
    *("targets", "gt", "y"),
)
_SHOWN = 5  # findings of one kind that a report prints
_ROWS = 40  # classes that it prints


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: ``"unreadable"``, ``"size"``, ``"values"``, ``"colors"``, ``"binary"``, ``"off by one"``, ``"unmatched"``,
            ``"missing"`` or ``"item"`` (an item of a dataset that is not of the agreed form).
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
        sizes: How often each (height, width) occurs.
        problems: Everything found to be wrong.
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

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def class_frequencies(self) -> dict[str, float]:
        """Share of each class in all pixels that are not void."""
        total = sum(self.pixels)
        return {name: count / total if total else 0.0 for name, count in zip(self.classes, self.pixels, strict=True)}

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
        if not self.problems:
            return "\n".join([*lines, "No problems found."])
        lines.append(f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}:")
        for kind in dict.fromkeys(problem.kind for problem in self.problems):
            same = [problem for problem in self.problems if problem.kind == kind]
            lines += [f"  [{kind}] {problem}" for problem in same[:_SHOWN]]
            if len(same) > _SHOWN:
                lines.append(f"  [{kind}] ... and {len(same) - _SHOWN} more")
        return "\n".join(lines)


def check_dataset(
    images: Dataset | str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    classes: Sequence[str] | int | None = None,
    palette: Sequence[tuple[int, int, int]] | Mapping[tuple[int, int, int], int] | None = None,
    ignore_index: int = 255,
    label_map: Mapping[int, int] | None = None,
    mask_suffix: str = "",
    limit: int | None = None,
) -> DatasetReport:
    """Look at every image and mask of a dataset, or of two folders, or of one folder that holds both.

    Nothing is raised for bad data: whatever is wrong stands in the report.

    Args:
        images: A dataset with ``dataset[i] -> (image, mask)``; or the folder with images, when ``masks`` is given; or
            a folder for :func:`check_path`.
        masks: The folder with masks.
        classes: Names of the classes or how many there are; None: as the dataset's spec says, or taken from the masks.
        palette: As for :class:`~segtutor.data.SegmentationFolder`.
        ignore_index: Label of void pixels, where the dataset has no spec.
        label_map: As for :class:`~segtutor.data.SegmentationFolder`.
        mask_suffix: As for :class:`~segtutor.data.SegmentationFolder`.
        limit: Look at this many images, spread evenly over the set; None: at all of them.

    Returns:
        The report.
    """
    if isinstance(images, PairDataset):
        return _check_pairs(_name(images), images.pairs, images.mapping, images.spec.classes, limit)
    if not isinstance(images, (str, os.PathLike)):
        return _check_items(images, classes, ignore_index, limit)
    options = {"palette": palette, "ignore_index": ignore_index, "label_map": label_map, "mask_suffix": mask_suffix}
    if masks is None:
        return _check_folder(Path(images), classes, limit, options)
    return _check_two_folders(Path(images).name, images, masks, classes, limit, options)


def check_path(path: str | os.PathLike, *, num_classes: int | None = None, limit: int | None = None) -> DatasetReport:
    """What ``segtutor check-data PATH`` prints.

    Args:
        path: The folder of a real dataset that segtutor knows (all of its splits are looked at), or a folder that
            holds one folder of images (named ``images``, ``image``, ``imgs``, ``img``, ``JPEGImages``, ``inputs`` or
            ``x``) and one of masks (``masks``, ``mask``, ``labels``, ``label``, ``annotations``, ``annotation``,
            ``annot``, ``SegmentationClass``, ``targets``, ``gt`` or ``y``), itself or in each of its splits
            (``train/images``, ``train/masks``).
        num_classes: How many classes the masks may hold; None: taken from the masks.
        limit: Look at this many images (of each split, for a set that segtutor knows), spread evenly over the set;
            None: at all of them.

    Returns:
        The report; a folder that is not there, or holds none of this, is a problem in it.
    """
    return _check_folder(Path(path), num_classes, limit, {})


def _name(dataset: object) -> str:
    title = type(dataset).__name__
    return f"{title} {dataset.split}" if isinstance(getattr(dataset, "split", None), str) else title


# ------------------------------------------------------------------------------------------------------- finding files
def _check_folder(path: Path, classes: Sequence[str] | int | None, limit: int | None, options: dict) -> DatasetReport:
    path = path.expanduser()
    if not path.is_dir():
        message = "is not a folder" if path.exists() else "does not exist"
        return DatasetReport(str(path), problems=[Problem("missing", str(path), f"{message}: give the data folder")])
    name = path.resolve().name
    if classes is None and not any(options.get(key) for key in ("palette", "label_map")):
        for layout in LAYOUTS.values():
            if layout.matches(path):
                return _check_known(layout.name, path, limit)
    found = [(path, *subfolders(path))]
    if None in found[0]:
        found = [(part, *subfolders(part)) for part in sorted(path.iterdir()) if part.is_dir()]
        found = [entry for entry in found if None not in entry]
    if not found:
        message = (
            f"holds no folder of images and folder of masks: make {path.name}/images and {path.name}/masks, with "
            "one mask of the same name for each image"
        )
        return DatasetReport(name, problems=[Problem("missing", str(path), message)])
    pairs, problems = [], []
    for part, images, masks in found:
        more, lost = _pairs(part, images, masks, options.get("mask_suffix", ""))
        pairs += more
        problems += lost
    return _check_own(name, pairs, problems, classes, limit, options)


def subfolders(path: Path) -> tuple[Path | None, Path | None]:
    """The folder of images and the folder of masks in a folder, by the names that people use; None where missing."""
    names = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    return tuple(next((names[n] for n in wanted if n in names), None) for wanted in (IMAGE_FOLDERS, MASK_FOLDERS))


def _pairs(where, images, masks, suffix: str) -> tuple[list[tuple[Path, Path]], list[Problem]]:
    try:
        pairs, lost = folders.find_pairs(images, masks, suffix)
    except (ValueError, OSError) as error:
        kind = "missing" if isinstance(error, DataNotFoundError) else "unmatched"
        return [], [Problem(kind, str(where), str(error))]
    return pairs, [
        Problem("unmatched", str(where), f"{phrase}: give each image one mask of its name") for phrase in lost
    ]


def _check_two_folders(name, images, masks, classes, limit, options) -> DatasetReport:
    pairs, problems = _pairs(Path(images).parent, images, masks, options["mask_suffix"])
    return _check_own(name, pairs, problems, classes, limit, options)


def _check_own(name, pairs, problems, classes, limit, options) -> DatasetReport:
    """Check files whose classes are given by the caller, or not at all."""
    palette, ignore_index = options.get("palette"), options.get("ignore_index", 255)
    label_map = options.get("label_map")
    inferred = classes is None
    if inferred:
        known = [*(palette.values() if isinstance(palette, Mapping) else ())] + [*(label_map or {}).values()]
        known = [label for label in known if label != ignore_index]
        if isinstance(palette, Sequence):
            classes = len(palette)
        elif known:
            classes = max(known) + 1
        else:
            classes = _infer(pairs, ignore_index, limit)
    names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    try:
        mapping, _ = folders.label_mapping(len(names), palette, ignore_index, label_map)
    except ValueError as error:
        return DatasetReport(name, len(pairs), problems=[*problems, Problem("values", "", str(error))])
    return _check_pairs(name, pairs, mapping, names, limit, problems, inferred)


def _infer(pairs: Sequence, ignore_index: int, limit: int | None) -> int:
    """The number of classes that the masks speak of: one more than their largest label, at least two."""
    largest = 1
    for _, mask in _spread(pairs, limit):
        try:
            raw = read_raw_mask(mask)
        except Exception:  # _check_pairs names the file
            continue
        if raw.ndim == 2 and raw.size:
            labels = raw[raw != ignore_index]
            largest = max(largest, int(labels.max()) if labels.size else 0)
    return largest + 1


def _check_known(name: str, path: Path, limit: int | None) -> DatasetReport:
    """All splits of a real dataset that stands in ``path``."""
    from segtutor import data

    dataset_class = getattr(data, LAYOUTS[name].title)
    splits = {"isbi2012": ("all",), "oxford_pets": ("trainval", "test"), "cityscapes": ("train", "val")}
    reports, missing = [], []
    for split in splits.get(name, ("train", "val", "test") if name != "voc" else ("train", "val")):
        try:
            reports.append(check_dataset(dataset_class(split, root=path), limit=limit))
        except (ValueError, OSError) as error:
            missing.append(Problem("missing", f"{LAYOUTS[name].title} {split}", str(error)))
    if not reports:
        return DatasetReport(LAYOUTS[name].title, problems=missing)
    total = DatasetReport(LAYOUTS[name].title, classes=reports[0].classes, problems=missing)
    total.pixels = tuple(sum(counts) for counts in zip(*(report.pixels for report in reports), strict=True))
    for report in reports:
        total.images, total.checked = total.images + report.images, total.checked + report.checked
        total.void += report.void
        total.sizes.update(report.sizes)
        total.problems += report.problems
    return total


def _spread(items: Sequence, limit: int | None) -> list:
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(max(0, limit))]


# ------------------------------------------------------------------------------------------------------ looking at them
def _check_pairs(
    name: str,
    pairs: Sequence[tuple[Path, Path]],
    mapping: LabelMapping,
    classes: tuple[str, ...],
    limit: int | None,
    problems: Sequence[Problem] = (),
    inferred: bool = False,
) -> DatasetReport:
    report = DatasetReport(name, len(pairs), classes=classes, inferred=inferred, problems=list(problems))
    pixels, seen = np.zeros(len(classes) + 1, dtype=np.int64), set()
    wrong: list[tuple[Path, tuple[int, ...]]] = []
    for image_path, mask_path in _spread(pairs, limit):
        report.checked += 1
        size = _image_size(image_path, report)
        try:
            raw = read_raw_mask(mask_path, mapping.colors)
        except Exception as error:  # whatever Pillow raises on a damaged file is the finding
            report.problems.append(Problem("unreadable", str(mask_path), _reason(error, mask_path)))
            continue
        if size is not None and raw.shape[:2] != size:
            report.problems.append(_size_problem(image_path, mask_path, size, raw.shape[:2]))
        found = tuple(np.unique(raw).tolist()) if raw.ndim == 2 else ()
        seen.update(found)
        try:
            labels = mapping.decode(raw, str(mask_path))
        except MaskError as error:
            if raw.ndim == 2:
                wrong.append((mask_path, found))
            else:
                colors = tuple(map(tuple, np.unique(raw.reshape(-1, 3), axis=0).tolist()))
                message = _reason(error, mask_path)
                report.problems.append(Problem("colors", str(mask_path), message, colors, tuple(mapping.colors or ())))
            continue
        labels = np.where(labels == mapping.ignore_index, len(classes), labels)
        pixels += np.bincount(labels.ravel(), minlength=len(classes) + 1)
    report.pixels, report.void = tuple(pixels[:-1].tolist()), int(pixels[-1])
    for path, found in wrong:
        # All masks together tell more about the cause than one: labels from 1 show in that no mask holds a 0.
        cause = likely_cause(sorted(seen), mapping, str(path))
        message = f"holds the values {shorten(found)}; allowed are {shorten(mapping.allowed())}: {cause}"
        report.problems.append(Problem("values", str(path), message, found, mapping.allowed()))
    report.problems += _about_the_whole(sorted(seen), mapping, report)
    return report


def _reason(error: Exception, path: Path) -> str:
    """The message without the name of the file, which the report prints in front."""
    return str(error).removeprefix(f"{path} ")


def _image_size(path: Path, report: DatasetReport) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            image.load()  # a file that breaks off has a sound header
            size = image.height, image.width
    except Exception as error:  # whatever Pillow raises on a damaged file is the finding
        message = f"cannot be read as an image ({error}): it is damaged, or no image file"
        report.problems.append(Problem("unreadable", str(path), message))
        return None
    report.sizes[size] += 1
    return size


def _size_problem(image: Path, mask: Path, size: tuple[int, int], other: tuple[int, int]) -> Problem:
    message = f"is {other[0]} x {other[1]} pixels (height x width), but its image {image.name} is {size[0]} x {size[1]}"
    cause = "export the mask at the size of its image, or resize it by nearest neighbour"
    if other == size[::-1]:
        cause = "height and width are swapped; turn the mask, or read it without a transpose"
        with Image.open(image) as opened:
            if opened.getexif().get(274, 1) > 4:  # orientations 5-8 swap height and width
                cause = "the photograph carries a rotation in its EXIF data; save it turned"
    return Problem("size", str(mask), f"{message}: {cause}", found=other, allowed=size)


def _about_the_whole(seen: list[int], mapping: LabelMapping, report: DatasetReport) -> list[Problem]:
    """What no single mask can show: values that are allowed one by one, but not what they seem."""
    if mapping.values is not None or not seen or any(problem.kind == "values" for problem in report.problems):
        return []
    labels = [value for value in seen if value != mapping.ignore_index]
    allowed = mapping.allowed()
    if seen == [0, 255] and mapping.ignore_index == 255:
        message = (
            "all masks together hold only 0 and 255, and 255 is void, so nothing but class 0 would be learnt: "
            "looks like 0/255 binary masks; map them with label_map={0: 0, 255: 1}"
        )
        return [Problem("binary", "", message, tuple(seen), allowed)]
    if labels and labels[0] == 1 and 0 not in seen and labels[-1] == mapping.num_classes - 1 and report.inferred:
        message = (
            f"all masks together hold the labels {shorten(labels)} and never 0: looks like labels that start at 1; "
            "subtract 1, with label_map=, or give class 0 its place on purpose with the number of classes"
        )
        return [Problem("off by one", "", message, tuple(seen), allowed)]
    if report.inferred and len(labels) > 1 and len(labels) < (labels[-1] + 1) / 2:
        message = (
            f"all masks together hold the labels {shorten(labels)}, with large gaps: looks like grey levels or colour "
            "numbers instead of labels; map them with label_map=, or give the number of classes"
        )
        return [Problem("values", "", message, tuple(seen), allowed)]
    if report.inferred and len(labels) > 128:
        message = f"all masks together hold {len(labels)} different labels: looks like {SMOOTHED}"
        return [Problem("values", "", message, tuple(seen), allowed)]
    return []


def _check_items(
    dataset: Dataset, classes: Sequence[str] | int | None, ignore_index: int, limit: int | None
) -> DatasetReport:
    """A dataset without known files: what it returns is checked."""
    spec = getattr(dataset, "spec", None)
    if classes is None and spec is not None:
        classes = spec.classes
    ignore_index = spec.ignore_index if spec is not None else ignore_index
    report, counts = DatasetReport(_name(dataset), len(dataset), inferred=classes is None), Counter()
    where: dict[int, str] = {}
    for index in _spread(range(len(dataset)), limit):
        report.checked += 1
        try:
            image, mask = dataset[index]
        except Exception as error:  # whatever a dataset raises is the finding
            report.problems.append(Problem("unreadable", f"item {index}", f"{type(error).__name__}: {error}"))
            continue
        fault = _item_fault(image, mask)
        if fault:
            report.problems.append(Problem("item", f"item {index}", fault))
            continue
        report.sizes[tuple(image.shape[-2:])] += 1
        values, many = torch.unique(mask, return_counts=True)
        for value, count in zip(values.tolist(), many.tolist(), strict=True):
            counts[value] += count
            where.setdefault(value, f"item {index}")
    labels = [value for value in counts if value != ignore_index]
    if classes is None:
        classes = max([1, *labels]) + 1
    names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    mapping = LabelMapping(len(names), ignore_index)
    report.classes, report.void = names, counts[ignore_index]
    report.pixels = tuple(counts[label] for label in range(len(names)))
    wrong = sorted(set(counts) - set(mapping.allowed()))
    if wrong:
        message = (
            f"the masks hold the values {shorten(sorted(counts))}; allowed are {shorten(mapping.allowed())}: "
            f"{likely_cause(sorted(counts), mapping)}"
        )
        report.problems.append(Problem("values", where[wrong[0]], message, tuple(sorted(counts)), mapping.allowed()))
    report.problems += _about_the_whole(sorted(counts), mapping, report)
    return report


def _item_fault(image, mask) -> str:
    if not isinstance(image, torch.Tensor) or not isinstance(mask, torch.Tensor):
        return f"is ({type(image).__name__}, {type(mask).__name__}): return two tensors"
    if image.ndim != 3 or mask.ndim != 2 or image.shape[-2:] != mask.shape:
        return (
            f"has an image of shape {tuple(image.shape)} and a mask of shape {tuple(mask.shape)}: they must be "
            "(C, H, W) and (H, W) with the same H and W"
        )
    if not image.is_floating_point():
        return f"has an image of {image.dtype}: return floats in [0, 1], e.g. image / 255"
    if mask.dtype != torch.int64:
        return f"has a mask of {mask.dtype}: the losses need torch.int64"
    if not torch.isfinite(image).all():
        return "has an image with values that are not finite: look at how it is read and normalised"
    return ""
