"""Where the files of a real dataset are looked for: ``SEGTUTOR_DATA`` first, then ``~/.cache/segtutor``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .registry import DatasetEntry, Layout, datasets, find_dataset

VARIABLE = "SEGTUTOR_DATA"


class DataNotFoundError(FileNotFoundError, ValueError):
    """The files of a dataset, or the folder that should hold them, are not there."""


def on_disk(name: str) -> tuple[DatasetEntry, Layout]:
    """A dataset that is read from files, by its name or class as in :func:`find_dataset`, and its layout.

    Raises:
        ValueError: If there is no such dataset, or it has no files.
    """
    entry = find_dataset(name)
    if entry.layout is None:
        raise ValueError(
            f"the dataset '{entry.name}' has no files of its own: choose one of {', '.join(real_datasets())}"
        )
    return entry, entry.layout


def real_datasets() -> dict[str, DatasetEntry]:
    """The datasets whose files are looked for on this machine, by name."""
    return {name: entry for name, entry in datasets().items() if entry.layout is not None}


def data_folders() -> list[Path]:
    """The folders that may hold datasets, in the order in which they are searched.

    Raises:
        DataNotFoundError: If ``SEGTUTOR_DATA`` is set to something that is not a folder.
    """
    folders = []
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen:
        folder = Path(chosen).expanduser()
        # A typing error must not turn silently into "no data": results on synthetic images would pass for real ones.
        if not folder.is_dir():
            raise DataNotFoundError(f"{VARIABLE} is set to {chosen!r}, which is not a folder: correct or unset it")
        folders.append(folder)
    folders.append(Path.home() / ".cache" / "segtutor")
    return folders


def find_root(name: str) -> Path | None:
    """The folder that holds a real dataset, or None where its files are not there.

    Args:
        name: Name or class of the dataset, as in :func:`on_disk`.

    Raises:
        DataNotFoundError: If ``SEGTUTOR_DATA`` is set to something that is not a folder.
        ValueError: If there is no real dataset of that name.
    """
    _, layout = on_disk(name)
    for base in data_folders():
        found = layout.locate(base)
        if found is not None:
            return found
    return None


def available(name: str) -> bool:
    """Whether the files of a real dataset are on this machine; raises as :func:`find_root` does."""
    return find_root(name) is not None


def open_root(
    name: str, root: str | os.PathLike | None, fetch: Callable[[Path], object] | None, *, how: str = ""
) -> Path:
    """The folder of a dataset: given, found, or downloaded.

    Args:
        name: Key of the dataset.
        root: The dataset's folder or the folder that holds it; None searches :func:`data_folders`.
        fetch: Called with the folder to fill when the dataset is not there; None: it may not be downloaded.
        how: What to do instead of ``download=True``, for sets that cannot be downloaded.

    Raises:
        DataNotFoundError: If the dataset is not there and ``fetch`` is None.
    """
    entry, layout = on_disk(name)
    found = find_root(name) if root is None else layout.locate(Path(root).expanduser())
    if found is not None:
        return found
    base = data_folders()[0] if root is None else Path(root).expanduser()
    if fetch is None:
        place = f"not in {root}" if root else f"no {layout.folders[0]} folder in {VARIABLE} or ~/.cache/segtutor"
        how = how or f"pass download=True, or set {VARIABLE} to the folder that holds {layout.folders[0]}"
        raise DataNotFoundError(f"{entry.title} is not on this machine ({place}): {how}")
    folder = base / layout.folders[0]
    if folder.exists() and any(folder.iterdir()):
        raise DataNotFoundError(
            f"{folder} exists but does not hold {entry.title} (expected {' and '.join(layout.needs[0])} in it): "
            "move it away, or pass another root"
        )
    fetch(folder)
    return folder
