"""Finding image files and their masks: which files count, and which belong together."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .errors import DataError
from .labels import setting, shorten
from .root import DataNotFoundError

# What Pillow opens everywhere and people keep masks and photographs in.
EXTENSIONS = frozenset(".bmp .gif .jpeg .jpg .jp2 .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split())
# Names of the two folders that people use, in the order tried; upper and lower case are the same.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "inputs", "x")
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentationclass"),
    *("targets", "gt", "y"),
)
# Folders that programs keep beside the images for themselves: network drives, macOS archives, file systems.
_NOT_DATA = frozenset({"@eadir", "__macosx", "#recycle", "lost+found", "$recycle.bin"})

Pairs = list[tuple[Path, Path]]


def list_files(folder: Path) -> dict[str, Path]:
    """The image files below a folder, by relative path without extension, in alphabetical order.

    Linked folders are entered. Hidden files and folders (``.ipynb_checkpoints``) and those that file systems make for
    themselves (``@eaDir``) are passed over. Names are compared as people read them: an accented letter is one
    character, whether the file system stores it as one or as two.

    Raises:
        DataError: If two files differ in their extension only, or in the way their accents are stored.
    """
    found: dict[str, Path] = {}
    for path in image_files(folder):
        key = as_key(path.relative_to(folder).with_suffix("").as_posix())
        if key in found:
            twin = found[key]
            how = "" if twin.suffix != path.suffix else ", whose names look the same and are stored differently"
            raise DataError(f"{folder} holds both {twin.name} and {path.name}{how}: keep one of them", kind="unmatched")
        found[key] = path
    return found


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, passing over what :func:`list_files` passes over, in alphabetical order."""
    return sorted(_walk(folder))


def as_key(name: str) -> str:
    """A name in the form in which names are compared (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def is_data(name: str) -> bool:
    """Whether a file or folder of this name is data, not something that a program keeps for itself."""
    return not name.startswith(".") and name.lower() not in _NOT_DATA


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it stands in
        return
    for path in sorted(folder.iterdir()):
        if is_data(path.name):
            if path.is_dir():
                yield from _walk(path, (*above, real))
            elif path.suffix.lower() in EXTENSIONS and path.is_file():
                yield path


def subfolders(path: Path) -> tuple[Path | None, Path | None]:
    """The folder of images and the folder of masks in a folder, by the names that people use; None where missing."""
    names = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    images, masks = (next((names[n] for n in wanted if n in names), None) for wanted in (IMAGE_FOLDERS, MASK_FOLDERS))
    return images, masks


def key_of(path: Path, folder: Path) -> str:
    """The name of a file in a folder by which it is matched: relative, without extension."""
    return as_key(path.relative_to(folder).with_suffix("").as_posix())


def find_pairs(
    images: str | os.PathLike, masks: str | os.PathLike, mask_suffix: str = ""
) -> tuple[Pairs, list[str], str]:
    """Pairs of two folders in alphabetical order, one phrase for each kind of file without a partner, and what to do.

    Raises:
        DataNotFoundError: If a folder does not exist or holds no images.
        DataError: If two files differ in their extension only.
    """
    images, masks = Path(images).expanduser(), Path(masks).expanduser()
    for folder, what in ((images, "images"), (masks, "masks")):
        if not folder.is_dir():
            raise DataNotFoundError(f"there is no folder {folder}: give the folder that holds the {what}")
    left, right = list_files(images), list_files(masks)
    for files, folder in ((left, images), (right, masks)):
        if not files:
            raise DataNotFoundError(f"{folder} holds no image files: give the folder that holds them")
    if suffix := as_key(mask_suffix):
        right = {key.removesuffix(suffix): path for key, path in right.items()}
    pairs = [(path, right[key]) for key, path in left.items() if key in right]
    cure = "give each image one mask of the same name, or set mask_suffix"
    if ending := shared_ending(left, right):
        cure = f"set mask_suffix={ending!r} ({setting('mask_suffix', ending, ending)})"
    return pairs, unmatched(left, right), cure


def shared_ending(images: Mapping[str, Path], masks: Mapping[str, Path]) -> str:
    """What the name of every mask has behind the name of its image, such as ``_mask``; "" if there is no such text."""
    first = min(masks)
    endings = [first[len(key) :] for key in images if first.startswith(key) and first != key]
    fits = (end for end in endings if all(key.endswith(end) and key.removesuffix(end) in images for key in masks))
    return next(fits, "")


def unmatched(images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[str]:
    """One phrase for the images without a mask, and one for the masks without an image."""
    phrases = []
    for ours, theirs, what in ((images, masks, "without a mask"), (masks, images, "without an image")):
        alone = [path.name for key, path in ours.items() if key not in theirs]
        if alone:
            phrases.append(f"{len(alone)} {'file' if len(alone) == 1 else 'files'} {what} ({shorten(alone, 5)})")
    return phrases


def same_images(parts: Mapping[str, Sequence[Path]]) -> list[tuple[str, Path, str, Path]]:
    """Files of two parts whose bytes are the same, as (part, file, other part, other file).

    Whole files are read only where another one has the same length and the same bytes in its middle.
    """
    alike: dict[object, list[tuple[str, Path]]] = {}
    for part, paths in parts.items():
        for path in paths:
            alike.setdefault(path.stat().st_size, []).append((part, path))
    for look in (_middle, lambda path: hashlib.sha256(path.read_bytes()).digest()):
        finer: dict[object, list[tuple[str, Path]]] = {}
        for key, group in alike.items():
            if len({part for part, _ in group}) > 1:
                for part, path in group:
                    finer.setdefault((key, look(path)), []).append((part, path))
        alike = finer
    return [(*group[0], part, path) for group in alike.values() for part, path in group[1:] if part != group[0][0]]


def _middle(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(4096)
