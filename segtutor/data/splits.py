"""How a folder of one's own is parted into training, validation and test images.

In the order looked for:

1. folders: ``train/images`` and ``train/masks``, or ``images/train`` and ``masks/train``, and the same for ``val`` and
   ``test``;
2. lists: ``train.txt``, ``val.txt``, ``test.txt`` with one name on a line, in the folder or in ``splits``, ``lists`` or
   ``ImageSets/Segmentation`` below it;
3. a draw, where no validation images are named: each training image is held out or not by a hash of its name. What
   other images there are has no say in it, so a new image never moves an old one from one part to the other.

Nothing is called test that nobody named so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from segtutor.files import write_text

from .errors import DataError
from .finding import Pairs, as_key, find_pairs, is_data, key_of, list_files, subfolders
from .labels import shorten
from .root import DataNotFoundError

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LIST_FOLDERS = (".", "splits", "lists", "ImageSets/Segmentation")


def part_name(name: str) -> str:
    """``val`` for ``valid`` and ``validation``, and so on; a name that no part has is given back as it is."""
    return next((part for part, names in PARTS.items() if name.lower() in names), name)


class Parts:
    """The parts of one folder. Making one looks at folders and list files; a part's files are looked for when asked.

    Args:
        path: The folder.
        mask_suffix: What the names of masks have in addition.
        held_out: Share of the training images that validates, where no validation images are named.
        lists: Folder with ``train.txt`` and ``val.txt``, which then decide alone; relative to ``path``.

    Attributes:
        names: The parts that there are, of "train", "val" and "test".
        how: "folders", "lists" or "drawn": where the validation images come from.
        folders: Part -> (folder of images, folder of masks); lists and draws part the folders of "train".

    Raises:
        DataNotFoundError: If the folder is not there, or holds no images and masks.
        DataError: If two folders or lists claim to be the same part.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        mask_suffix: str = "",
        held_out: float = 0.2,
        lists: str | os.PathLike | None = None,
    ) -> None:
        self.path, self.mask_suffix, self.held_out = Path(path).expanduser(), mask_suffix, held_out
        if not 0 < held_out < 1:
            raise ValueError(f"held_out={held_out} is not valid: give a share between 0 and 1, such as 0.2")
        if not self.path.is_dir():
            raise DataNotFoundError(f"there is no folder {self.path}: give the one that holds images/ and masks/")
        self.folders = find_folders(self.path)
        if "train" not in self.folders:
            place = self.path / "train" if (self.path / "train").is_dir() else self.path
            raise DataNotFoundError(
                f"{place} holds no folder of images and folder of masks: make {place.name}/images and "
                f"{place.name}/masks, with one mask of the same name for each image"
            )
        if lists is None:
            self.lists = {} if "val" in self.folders else find_lists(self.path)
        else:
            self.lists = lists_in(self.path / Path(lists).expanduser())
            if not self.lists or "val" in self.folders:
                why = "folders part the images already" if self.lists else "it holds no train.txt and no val.txt"
                raise DataError(f"lists={str(lists)!r} does not fit {self.path}: {why}; leave lists= out", kind="split")
        self.how = "folders" if "val" in self.folders else "lists" if self.lists else "drawn"
        self.names = tuple(part for part in PARTS if part in {"train", "val", *self.folders, *self.lists})
        self._found: dict[str, dict[str, tuple[Path, Path]]] = {}

    def pairs(self, split: str) -> Pairs:
        """(image file, mask file) of each image of a part, in alphabetical order.

        Raises:
            DataError: If there is no such part, a file has no partner, or a list names what is not there.
            DataNotFoundError: If a folder holds no images.
        """
        return list(self._part(split).values())

    def _part(self, split: str) -> dict[str, tuple[Path, Path]]:
        """The pairs of a part by name."""
        part = part_name(split)
        if part not in self.names:
            raise DataError(
                f"{self.path} has no part '{split}': choose {' or '.join(self.names)}, or make one as a folder {part}/ "
                f"or a list {part}.txt",
                kind="missing",
            )
        if part in self.folders and (part != "train" or self.how == "folders"):
            return self._of_folder(part)
        assigned = self._assigned()
        return {key: pair for key, pair in self._of_folder("train").items() if assigned.get(key) == part}

    def folder_pairs(self) -> dict[str, Pairs]:
        """All pairs in the folders, those included that no list names."""
        return {part: list(self._of_folder(part).values()) for part in self.folders}

    def write_lists(self, folder: str | os.PathLike) -> None:
        """Write ``train.txt``, ``val.txt`` and so on, which ``lists=`` reads back: this split, whatever comes later."""
        for part in self.names:
            if part in ("train", "val") or part not in self.folders:
                text = "".join(f"{name}\n" for name in self._part(part))
                write_text(Path(folder, f"{part}.txt"), text)

    def _of_folder(self, part: str) -> dict[str, tuple[Path, Path]]:
        if part not in self._found:
            folder = self.folders[part][0]
            pairs, lost, cure = find_pairs(*self.folders[part], self.mask_suffix)
            if lost:
                raise DataError(f"{folder.parent}: {'; '.join(lost)}: {cure}", kind="unmatched")
            self._found[part] = {key_of(pair[0], folder): pair for pair in pairs}
        return self._found[part]

    def _assigned(self) -> dict[str, str]:
        """The part of each image of the training folder, where lists or a draw part it."""
        keys = list(self._of_folder("train"))
        if self.lists:
            return self._listed(keys)
        if len(keys) < 2:
            raise DataError(f"{self.folders['train'][0]} holds one image: training and validation need one each")
        held = set(draw(keys, self.held_out))
        return {key: "val" if key in held else "train" for key in keys}

    def _listed(self, keys: Sequence[str]) -> dict[str, str]:
        images, assigned = self.folders["train"][0], dict[str, str]()
        for part, path in self.lists.items():
            if part == "test" and part in self.folders:
                continue
            for key in read_list(path, keys, images, self.path):
                if assigned.setdefault(key, part) != part:
                    raise DataError(
                        f"{path} names {key}, which {self.lists[assigned[key]].name} names too: an image belongs to "
                        "one part; take it out of one list",
                        kind="split",
                    )
        for part in ("train", "val"):
            if part not in self.lists:  # the one list says of all other images what they are
                assigned = {**dict.fromkeys(keys, part), **assigned}
            if part not in assigned.values():
                raise DataError(f"{self.path}: the lists leave no image for part '{part}': name some", kind="split")
        return assigned


def draw(keys: Sequence[str], held_out: float) -> list[str]:
    """The names that validate: about the share ``held_out`` of all, and at least one on either side.

    A name is held out when its hash, a number between 0 and 1, is below ``held_out``, whatever other names there are.

    Args:
        keys: Names without extension.
        held_out: Share between 0 and 1.
    """
    ranked = sorted(keys, key=_hash)
    count = sum(_hash(key) < held_out for key in ranked)
    return ranked[: max(1, min(count, len(ranked) - 1))]


def _hash(key: str) -> float:
    digest = hashlib.sha256(as_key(key).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


# ------------------------------------------------------------------------------------------------------------- folders
def find_folders(base: Path) -> dict[str, tuple[Path, Path]]:
    """Part -> folders of images and masks. Images that no folder parts are "train".

    Raises:
        DataError: If two folders are the same part, or images lie beside the folders of parts.
    """
    inside = {part: subfolders(folder) for part, folder in part_folders(base).items()}
    found = {part: (images, masks) for part, (images, masks) in inside.items() if images and masks}
    if "train" in found:
        return found
    images, masks = subfolders(base)
    if images is None or masks is None:
        return found
    parted = part_folders(images)
    if "train" not in parted:
        return {"train": (images, masks), **found}
    loose = [path for path in list_files(images).values() if not any(path.is_relative_to(p) for p in parted.values())]
    if loose and len(parted) == 1:  # a folder that only happens to be called train, beside others
        return {"train": (images, masks), **found}
    if loose:
        raise DataError(
            f"{images} holds the parts {', '.join(path.name for path in parted.values())} and {len(loose)} images "
            f"outside of them ({shorten([path.name for path in loose], 3)}): move these into a part",
            kind="split",
        )
    parts = part_folders(masks)
    if missing := [folder.name for part, folder in parted.items() if part not in parts]:
        raise DataError(
            f"{images} is parted into {', '.join(path.name for path in parted.values())}, but {masks} has no "
            f"{' and no '.join(missing)}: part both alike",
            kind="split",
        )
    return {**found, **{part: (folder, parts[part]) for part, folder in parted.items()}}


def part_folders(base: Path) -> dict[str, Path]:
    """Part -> its folder, of the folders in ``base`` that are named like parts.

    Raises:
        DataError: If two are the same part, such as ``val`` and ``valid``.
    """
    found: dict[str, Path] = {}
    for folder in sorted(entry for entry in base.iterdir() if is_data(entry.name) and entry.is_dir()):
        part = part_name(folder.name)
        if part in PARTS and part in found:
            raise DataError(
                f"{base} holds both {found[part].name} and {folder.name}, which are names of one part: keep one",
                kind="split",
            )
        if part in PARTS:
            found[part] = folder
    return {part: found[part] for part in PARTS if part in found}


# --------------------------------------------------------------------------------------------------------------- lists
def find_lists(base: Path) -> dict[str, Path]:
    """Part -> its list file, in the first folder that holds one for training or validation."""
    for folder in LIST_FOLDERS:
        found = lists_in(base / folder)
        if found:
            return found
    return {}


def lists_in(folder: Path) -> dict[str, Path]:
    """Part -> its list file in one folder; empty without one for training or validation.

    Raises:
        DataError: If two files are lists of the same part.
    """
    found: dict[str, Path] = {}
    for part, names in PARTS.items():
        there = [folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()]
        if len(there) > 1:
            raise DataError(f"{folder} holds both {there[0].name} and {there[1].name}: keep one of them", kind="split")
        if there:
            found[part] = there[0]
    return found if {"train", "val"} & set(found) else {}


def read_list(path: Path, keys: Sequence[str], images: Path, base: Path) -> list[str]:
    """The names in a list file, each as its key among ``keys``.

    A line is a name, with or without extension and folder; what follows a name (as the mask in ``image mask``) is not
    looked at. Empty lines and lines that begin with ``#`` are passed over.

    Raises:
        DataError: If a name is not among the images, or the file is no text.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # names may hold what else ends lines
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as a list of names ({error}): write it as UTF-8 text") from None
    known, found = set(keys), []
    for number, line in enumerate(map(as_key, lines), 1):
        key = next((name for name in _readings(line, as_key(images.name)) if name in known), None)
        line = line.strip()
        if key is None and (not line or line.startswith("#")):
            continue
        if key is None:
            raise DataError(
                f"{path}, line {number}, names {line!r}, which is not among the {len(keys)} images in {images}: "
                "correct the list, or add the image",
                kind="split",
            )
        found.append(key)
    if not found:
        raise DataError(f"{path} names no image: write one name on each line", kind="split")
    return found


def _readings(line: str, folder: str) -> Iterator[str]:
    """What the key may be that a line means, the most literal first; ``folder`` is the name of the images' folder."""
    for text in (line, line.strip(), line.partition(",")[0].strip(), *line.split()[:1]):
        path = text.replace("\\", "/").removeprefix("./")
        for name in (text, path, f"/{path}".rpartition(f"/{folder}/")[2]):
            yield name
            if "." in name.rpartition("/")[2]:
                yield name.rpartition(".")[0]
