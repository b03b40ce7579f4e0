"""Where the files of a real dataset are looked for: ``SEGTUTOR_DATA`` first, then ``~/.cache/segtutor``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SEGTUTOR_DATA"


class DataNotFoundError(FileNotFoundError, ValueError):
    """The files of a dataset, or the folder that should hold them, are not there."""


@dataclass(frozen=True)
class Layout:
    """How the folder of one dataset is recognised.

    Attributes:
        name: Key of the dataset, and the folder that a download makes.
        title: Name of the dataset's class in ``segtutor.data``.
        folders: Folders to look in, below the data folder, in this order.
        needs: Alternatives; the dataset is there when all the paths of one alternative exist.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]

    def matches(self, folder: Path) -> bool:
        """Whether ``folder`` itself holds the dataset."""
        return any(all((folder / path).exists() for path in paths) for paths in self.needs)

    def locate(self, base: Path) -> Path | None:
        """The folder of the dataset, where ``base`` is that folder or holds it."""
        for folder in (base, *(base / name for name in self.folders)):
            if self.matches(folder):
                return folder
        return None


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "camvid",
            "CamVid",
            ("camvid", "CamVid"),
            (("train", "trainannot"), ("val", "valannot"), ("test", "testannot")),
        ),
        Layout("vnc", "DrosophilaVNC", ("vnc",), (("stack1/raw", "stack1/labels"),)),
        Layout("isbi2012", "ISBI2012", ("isbi2012",), (("train/image", "train/label"),)),
        Layout(
            "oxford_pets",
            "OxfordPets",
            ("oxford_pets",),
            (("oxford-iiit-pet/images", "oxford-iiit-pet/annotations/trimaps"),),
        ),
        Layout("voc", "VOC", ("voc",), (("VOCdevkit",), ("TrainVal/VOCdevkit",))),
        Layout("cityscapes", "Cityscapes", ("cityscapes",), (("leftImg8bit", "gtFine"),)),
    )
}


def layout(name: str) -> Layout:
    """The layout of a dataset by its key (``"camvid"``) or by its class (``"CamVid"``), in any case.

    Raises:
        ValueError: If there is no real dataset of that name.
    """
    wanted = name.lower().replace("_", "").replace("-", "")
    for entry in LAYOUTS.values():
        if wanted in (entry.name.replace("_", ""), entry.title.lower()):
            return entry
    raise ValueError(f"there is no real dataset {name!r}: choose one of {', '.join(LAYOUTS)}")


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
        name: Key or class name of the dataset, as in :func:`layout`.

    Raises:
        DataNotFoundError: If ``SEGTUTOR_DATA`` is set to something that is not a folder.
        ValueError: If there is no real dataset of that name.
    """
    wanted = layout(name)
    for base in data_folders():
        found = wanted.locate(base)
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
    wanted = layout(name)
    found = find_root(name) if root is None else wanted.locate(Path(root).expanduser())
    if found is not None:
        return found
    base = data_folders()[0] if root is None else Path(root).expanduser()
    if fetch is None:
        place = f"not in {root}" if root else f"no {wanted.folders[0]} folder in {VARIABLE} or ~/.cache/segtutor"
        how = how or f"pass download=True, or set {VARIABLE} to the folder that holds {wanted.folders[0]}"
        raise DataNotFoundError(f"{wanted.title} is not on this machine ({place}): {how}")
    folder = base / wanted.folders[0]
    if folder.exists() and any(folder.iterdir()):
        raise DataNotFoundError(
            f"{folder} exists but does not hold {wanted.title} (expected {' and '.join(wanted.needs[0])} in it): "
            "move it away, or pass another root"
        )
    fetch(folder)
    return folder
