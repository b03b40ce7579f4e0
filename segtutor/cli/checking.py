"""``segtutor check-data``: its options as the arguments of `segtutor.data`, alone or on top of a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtutor.data import DatasetReport


def check(options: argparse.Namespace) -> DatasetReport:
    """The report that the options ask for.

    Raises:
        ValueError: an option cannot be read, or there is nothing to look at.
    """
    from segtutor.data.check import check_named, check_path
    from segtutor.data.registry import list_datasets

    given = read_options(options)
    if options.config is not None:
        return _check_config(options, given)
    if options.path is None:
        raise ValueError("check-data has nothing to look at: give a folder, or a configuration with --config.")
    if not options.path.exists():
        if str(options.path) in list_datasets():
            return check_named(str(options.path))
        raise ValueError(
            f"{options.path} does not exist; give the folder that holds the images and the masks, or one of the "
            f"datasets {', '.join(list_datasets())}."
        )
    return check_path(options.path, num_classes=options.num_classes, **given)


def read_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as arguments of `check_path` and keys of the section ``data``.

    Raises:
        ValueError: an option cannot be read.
    """
    given = {
        "label_map": options.label_map and read_label_map(options.label_map),
        "palette": options.palette and read_palette(options.palette),
        "ignore_index": options.ignore_index,
        "mask_suffix": options.mask_suffix,
        "value_range": options.value_range and read_range(options.value_range),
    }
    return {key: value for key, value in given.items() if value is not None}


def read_label_map(text: str) -> dict[int, int]:
    """``"0:0,255:1"``, also with braces and spaces as in YAML, to a mapping.

    Raises:
        ValueError: it is something else.
    """
    try:
        pairs = [entry.split(":") for entry in text.strip(" {}").split(",")]
        return {int(value): int(label) for value, label in pairs}
    except ValueError:
        raise ValueError(f"--label-map {text}: give pairs of file value and label, such as 0:0,255:1.") from None


def read_palette(text: str) -> list[str] | dict[str, int]:
    """``"000000,ff8000"``, or with labels ``"000000:0,ff8000:1,ffffff:255"``, as the argument ``palette``.

    Raises:
        ValueError: it is something else.
    """
    from segtutor.data.folder import as_color

    entries = [entry.strip() for entry in text.split(",")]
    try:
        for entry in entries:
            as_color(entry.partition(":")[0])
        if not any(":" in entry for entry in entries):
            return entries
        pairs = [entry.split(":") for entry in entries]
        return {color: int(label) for color, label in pairs}
    except ValueError:
        raise ValueError(
            f"--palette {text}: give colours in hexadecimal, one for each class, such as 000000,ff8000, or each with "
            "its label, such as 000000:0,ff8000:1."
        ) from None


def read_range(text: str) -> tuple[float, float] | str:
    """``"0,4095"`` to two numbers; a name of a range is left as it is.

    Raises:
        ValueError: it is neither.
    """
    from segtutor.data.ranges import as_range

    try:
        return as_range(text if text.isidentifier() else [float(part) for part in text.split(",")])
    except ValueError as error:
        raise ValueError(f"--value-range {text}: {error}.") from None


def _check_config(options: argparse.Namespace, given: Mapping[str, Any]) -> DatasetReport:
    from segtutor.data.check import check_parts
    from segtutor.factory.config import read_config
    from segtutor.runs.data import open_data, parse_data, splits_of

    section = read_config(options.config).get("data") or "scenes"
    section = {"type": section} if isinstance(section, str) else dict(section)
    more = {"path": options.path and str(options.path), "classes": options.num_classes}
    section.update({key: value for key, value in {**given, **more}.items() if value is not None})
    data = parse_data({"data": section})
    return check_parts({name: open_data(data, name) for name in splits_of(data)})
