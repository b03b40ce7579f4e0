"""Looks at every image and mask of a dataset and says what is wrong with them, before a training run does.

Most trouble with segmentation is trouble with masks: 0/255 where labels are meant, colours, labels from 1, another
size than the image. Each finding names the file, the values found, the values allowed, and the likely cause.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from .check_files import FileCheck, about_all
from .errors import DataError
from .finding import Pairs, find_pairs, is_data, same_images, subfolders
from .folder import Palette, SegmentationFolder, label_mapping
from .labels import LabelMapping, likely_cause, shorten
from .pairs import PairDataset
from .ranges import EIGHT_BITS, as_range
from .reading import evenly, measure_range, read_raw_mask
from .registry import DatasetEntry, find_dataset
from .report import DatasetReport, Problem
from .root import DataNotFoundError, real_datasets
from .splits import Parts

SAMPLE = 40  # pairs of files of each part of one's own data that are read before a training run
FEW = 4  # the same of other sets: published ones are whole, and generated ones have to be drawn


def check_dataset(
    images: Dataset | str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    classes: Sequence[str] | int | None = None,
    palette: Palette | None = None,
    ignore_index: int = 255,
    label_map: Mapping[int, int] | None = None,
    mask_suffix: str = "",
    value_range: Sequence[float] | str | None = None,
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
        value_range: As for :class:`~segtutor.data.SegmentationFolder`.
        limit: Read this many pairs, spread evenly over the set, and of the others the start; None: read all of them.

    Returns:
        The report.
    """
    if isinstance(images, PairDataset):
        report = DatasetReport(_name(images), len(images.pairs), classes=images.spec.classes)
        return FileCheck(report, images.mapping, images.spec.value_range).run(images.pairs, limit)
    if not isinstance(images, (str, os.PathLike)):
        return _check_items(images, classes, ignore_index, limit)
    options = {
        "palette": palette, "ignore_index": ignore_index, "label_map": label_map, "mask_suffix": mask_suffix,
        "value_range": value_range,
    }  # fmt: skip
    if masks is None:
        return _check_folder(Path(images), classes, limit, options)
    pairs, problems = _pairs(Path(images).parent, images, masks, mask_suffix)
    return _check_own(Path(images).name, pairs, problems, classes, limit, options)


def check_path(
    path: str | os.PathLike,
    *,
    num_classes: int | None = None,
    palette: Palette | None = None,
    ignore_index: int = 255,
    label_map: Mapping[int, int] | None = None,
    mask_suffix: str = "",
    value_range: Sequence[float] | str | None = None,
    limit: int | None = None,
) -> DatasetReport:
    """What ``segtutor check-data PATH`` prints.

    Args:
        path: The folder of a real dataset that segtutor knows (all of its splits are looked at), or a folder that
            holds one folder of images (named ``images``, ``image``, ``imgs``, ``img``, ``JPEGImages``, ``inputs`` or
            ``x``) and one of masks (``masks``, ``mask``, ``labels``, ``label``, ``annotations``, ``annotation``,
            ``annot``, ``SegmentationClass``, ``targets``, ``gt`` or ``y``), itself or in each of its parts
            (``train/images``, ``train/masks``; or ``images/train``, ``masks/train``).
        num_classes: How many classes the masks may hold; None: taken from the masks.
        palette, ignore_index, label_map, mask_suffix, value_range: As for :class:`~segtutor.data.SegmentationFolder`.
        limit: Look at this many images (of each split, for a set that segtutor knows), spread evenly over the set;
            None: at all of them.

    Returns:
        The report; a folder that is not there, or holds none of this, is a problem in it.
    """
    options = {
        "palette": palette, "ignore_index": ignore_index, "label_map": label_map, "mask_suffix": mask_suffix,
        "value_range": value_range,
    }  # fmt: skip
    return _check_folder(Path(path), num_classes, limit, options)


def check_parts(parts: Mapping[str, Dataset], *, limit: int | None = None) -> DatasetReport:
    """Look at the parts of one dataset, and for images that stand in two of them.

    Args:
        parts: Name, such as "train" -> dataset.
        limit: As for :func:`check_dataset`, for each part.

    Returns:
        One report on all of them, in which findings without a file carry the name of their part.
    """
    total = DatasetReport(next((_title(dataset) for dataset in parts.values()), ""))
    for part, dataset in parts.items():
        few = limit if limit is None or isinstance(dataset, SegmentationFolder) else min(limit, FEW)
        report = check_dataset(dataset, limit=few)
        report.problems = [Problem(p.kind, p.file or part, p.message, p.found, p.allowed) for p in report.problems]
        total.add(report)
        total.parts[part] = report
    own = {part: dataset for part, dataset in parts.items() if isinstance(dataset, SegmentationFolder)}
    total.problems += _duplicates({part: [image for image, _ in dataset.pairs] for part, dataset in own.items()})
    known = next((dataset.parts for dataset in own.values() if dataset.parts is not None), None)
    if known is not None and set(known.names) == {dataset.split for dataset in own.values()}:
        total.notes.insert(0, _how_parted(known, own))
    return total


def before_training(train: Dataset, validation: Dataset | None = None, *, limit: int | None = SAMPLE) -> DatasetReport:
    """What is wrong with the data of a training run, looked for before its first step.

    Of large sets a sample is read, of the other files the start is looked at, and where the sample holds one class
    alone, masks are read until a second one turns up. Random numbers stay as they were.

    Args:
        train: What is trained on.
        validation: What is validated on.
        limit: Pairs of each set that are read, fewer of sets that are not the user's own; None: all of them.

    Returns:
        One report on all of them, with the parts "training" and "validation".
    """
    parts = {"training": train} if validation is None else {"training": train, "validation": validation}
    with _same_random_numbers():
        return check_parts(parts, limit=limit)


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(state)
    np.random.set_state(numpy_state)


def _name(dataset: object) -> str:
    title, split = type(dataset).__name__, getattr(dataset, "split", None)
    return f"{title} {split}" if isinstance(split, str) else title


def _title(dataset: object) -> str:
    return getattr(getattr(dataset, "spec", None), "title", type(dataset).__name__)


# ------------------------------------------------------------------------------------------------------- finding files
def _check_folder(path: Path, classes: Sequence[str] | int | None, limit: int | None, options: dict) -> DatasetReport:
    path = path.expanduser()
    if not path.is_dir():
        message = "is not a folder" if path.exists() else "does not exist"
        return DatasetReport(str(path), problems=[Problem("missing", str(path), f"{message}: give the data folder")])
    name = path.resolve().name
    if classes is None and not any(options[key] for key in ("palette", "label_map", "mask_suffix", "value_range")):
        for entry in real_datasets().values():
            if entry.layout is not None and entry.layout.matches(path):
                return _check_known(entry, limit, root=path)
    try:
        folders, notes, problems = _folders(path, options["mask_suffix"])
    except ValueError as error:
        kind = error.kind if isinstance(error, DataError) else "missing"
        return DatasetReport(name, problems=[Problem(kind, "", str(error))])
    pairs: Pairs = []
    for part, (images, masks) in folders.items():
        more, lost = _pairs(part, images, masks, options["mask_suffix"])
        pairs += more
        problems += lost
    report = _check_own(name, pairs, problems, classes, limit, options)
    report.notes = [*notes, *report.notes]
    return report


def _folders(path: Path, mask_suffix: str) -> tuple[dict[Path, tuple[Path, Path]], list[str], list[Problem]]:
    """Folders of images and masks by the folder that they are in, how they are parted, and what is wrong with that."""
    try:
        parts = Parts(path, mask_suffix=mask_suffix)
    except DataNotFoundError:  # folders of other names, such as those of a cross-validation
        inside = {part: subfolders(part) for part in sorted(path.iterdir()) if part.is_dir() and is_data(part.name)}
        found = {part: (images, masks) for part, (images, masks) in inside.items() if images and masks}
        if not found:
            raise
        return found, [], []
    folders = {images.parent: (images, masks) for images, masks in parts.folders.values()}
    if len(folders) < len(parts.folders):  # images/train and images/val stand in one folder
        folders = {images: (images, masks) for images, masks in parts.folders.values()}
    problems: list[Problem] = []
    try:
        of_part = {part: parts.pairs(part) for part in parts.names}
    except ValueError as error:
        kind = error.kind if isinstance(error, DataError) else "missing"
        problems += [Problem(kind, "", str(error))] if kind == "split" else []  # the others are found again below
        return folders, [], problems
    problems += _duplicates({part: [image for image, _ in pairs] for part, pairs in of_part.items()})
    return folders, [_how_parted(parts, of_part)], problems


def _how_parted(parts: Parts, of_part: Mapping[str, Sized]) -> str:
    """One sentence: how many images are in which part of a folder, and who says so."""
    how = {"folders": "by folders", "lists": "by lists of names", "drawn": "validation drawn by a hash of the names"}
    counts = ", ".join(f"{part} {len(pairs)}" for part, pairs in of_part.items())
    left = sum(map(len, parts.folder_pairs().values())) - sum(map(len, of_part.values()))
    rest = f"; {left} in no list" if left else ""
    return f"Images of each part: {counts}{rest} ({how[parts.how]})."


def _duplicates(parts: Mapping[str, Sequence[Path]]) -> list[Problem]:
    return [
        Problem(
            "duplicate",
            str(second),
            f"is the same image as {first}, but one is in part '{part}' and the other in '{other}', so that the scores "
            "are too good: leave one of them out",
        )
        for part, first, other, second in same_images(parts)
    ]


def _pairs(
    where: Path, images: str | os.PathLike, masks: str | os.PathLike, suffix: str
) -> tuple[Pairs, list[Problem]]:
    try:
        pairs, lost, cure = find_pairs(images, masks, suffix)
    except (ValueError, OSError) as error:
        kind = "missing" if isinstance(error, DataNotFoundError) else "unmatched"
        return [], [Problem(kind, str(where), str(error))]
    return pairs, [Problem("unmatched", str(where), f"{phrase}: {cure}") for phrase in lost]


def _check_own(
    name: str,
    pairs: Pairs,
    problems: list[Problem],
    classes: Sequence[str] | int | None,
    limit: int | None,
    options: dict[str, Any],
) -> DatasetReport:
    """Check files whose classes are given by the caller, or not at all."""
    palette, ignore_index, label_map = options["palette"], options["ignore_index"], options["label_map"]
    report = DatasetReport(name, len(pairs), problems=list(problems), inferred=classes is None)
    try:
        if classes is None:
            classes = _count_classes(pairs, palette, ignore_index, label_map, limit)
        report.classes = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
        mapping, _ = label_mapping(len(report.classes), palette, ignore_index, label_map)
    except (TypeError, ValueError) as error:
        report.problems.append(Problem("values", "", str(error)))
        return report
    try:
        given = options["value_range"]
        value_range = as_range(given) if given is not None else measure_range([image for image, _ in pairs])
    except DataError as error:  # the file is named again where it is read, if it is that file alone
        report.problems += [Problem("range", "", str(error))] if error.kind == "range" else []
        value_range = EIGHT_BITS
    except ValueError as error:
        report.problems.append(Problem("range", "", str(error)))
        return report
    return FileCheck(report, mapping, value_range).run(pairs, limit)


def _count_classes(
    pairs: Pairs,
    palette: Palette | None,
    ignore_index: int,
    label_map: Mapping[int, int] | None,
    limit: int | None,
) -> int:
    """The number of classes that the settings speak of, or else the masks: one more than the largest label, or two."""
    if palette is not None and not isinstance(palette, Mapping):
        return len(palette)
    labels = [*(palette or {}).values(), *(label_map or {}).values()]
    if labels := [int(label) for label in labels if int(label) != ignore_index]:
        return max(labels) + 1
    largest = 1
    for index in evenly(len(pairs), limit):
        try:
            raw = read_raw_mask(pairs[index][1])
        except ValueError:  # named where all files are read
            continue
        if raw.ndim == 2 and raw.size:
            found = raw[raw != ignore_index]
            largest = max(largest, int(found.max()) if found.size else 0)
    return largest + 1


def check_named(name: str, *, limit: int | None = None, **settings: Any) -> DatasetReport:
    """Look at every image and mask of a registered dataset.

    Args:
        name: Name of the dataset, such as ``"camvid"``.
        limit: Look at this many images of each split, spread evenly over it; None: at all of them.
        **settings: Arguments of its class, such as ``root``.

    Returns:
        The report; splits that cannot be opened are problems in it.

    Raises:
        ValueError: If there is no dataset of that name, or it needs settings that were not given.
    """
    entry = find_dataset(name)
    needed = [
        key for key, argument in inspect.signature(entry.build).parameters.items()
        if argument.kind is argument.KEYWORD_ONLY and argument.default is argument.empty and key not in settings
    ]  # fmt: skip
    if needed:
        raise ValueError(f"the dataset '{name}' needs {' and '.join(needed)}: give the folder itself, or --config")
    return _check_known(entry, limit, **settings)


def _check_known(entry: DatasetEntry, limit: int | None, **settings: Any) -> DatasetReport:
    """All splits of a registered dataset in one report."""
    reports, missing = [], []
    for split in entry.whole:
        try:
            reports.append(check_dataset(entry.build(split=split, **settings), limit=limit))
        except (ValueError, OSError) as error:
            missing.append(Problem("missing", f"{entry.title} {split}", str(error)))
    if not reports:
        return DatasetReport(entry.title, problems=missing)
    total = DatasetReport(entry.title, problems=missing)
    for report in reports:
        total.add(report)
    return total


# ------------------------------------------------------------------------------------------------- sets without files
def _check_items(
    dataset: Dataset, classes: Sequence[str] | int | None, ignore_index: int, limit: int | None
) -> DatasetReport:
    """A dataset without known files: what it returns is checked."""
    spec = getattr(dataset, "spec", None)
    if classes is None and spec is not None:
        classes = spec.classes
    ignore_index = spec.ignore_index if spec is not None else ignore_index
    length = len(cast(Sized, dataset))
    report, counts = DatasetReport(_name(dataset), length, inferred=classes is None), Counter[int]()
    where: dict[int, str] = {}
    chosen = evenly(length, limit)
    for index in (*chosen, *(i for i in range(length) if i not in set(chosen))):
        if report.checked >= len(chosen) and (not counts or len(set(counts) - {ignore_index}) > 1):
            break  # beyond the sample, only where it holds one class alone, or void
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
    report.problems += about_all(sorted(counts), mapping, report)
    return report


def _item_fault(image: object, mask: object) -> str:
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
