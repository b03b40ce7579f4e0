"""Which images `predict` is asked for, and what their results are called: nothing is written over anything."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segtutor.data.finding import as_key, image_files
from segtutor.runs.errors import RunError

ENDS = (".png", "_overlay.png", "_probabilities.npz")
LEGEND = "legend.png"  # of all the overlays in a folder of results


class Results(NamedTuple):
    """An image and the files that are made of it.

    Attributes:
        image: the file.
        labels: where its labels go.
        overlay: where the picture of it goes.
        probabilities: where they go, if they are asked for.
    """

    image: Path
    labels: Path
    overlay: Path
    probabilities: Path


def plan(
    images: Sequence[Path | str], out: Path, *, probabilities: bool = False, overwrite: bool = False
) -> list[Results]:
    """What is to be read and written, decided before anything is.

    ``a.jpg`` becomes ``a.png`` and ``a_overlay.png``, in the sub-folder where it is; where another image has one of
    these names, ``a.jpg.png`` and ``a.jpg_overlay.png``. ``legend.png`` is kept for the legend.

    Args:
        images: files, folders, which are searched to the bottom, and patterns such as ``"photos/*.jpg"``.
        out: where the results go.
        probabilities: whether they are asked for.
        overwrite: earlier results may be replaced; images never are.

    Raises:
        RunError: a folder or pattern without images, results that would stand among the images or replace something.
    """
    results: list[Results] = []
    taken = {LEGEND}
    for path, name in _asked_for(images, out):
        for stem in _stems(name):
            files = [f"{stem}{end}" for end in ENDS]
            if taken.isdisjoint(map(_key, files)):
                break
        taken.update(map(_key, files))
        results.append(Results(path, *(out / file for file in files)))
    _check(results, out, 3 if probabilities else 2, overwrite)
    return results


def place_of_legend(out: Path, same: Callable[[Path], bool]) -> Path:
    """Where a legend may stand among results: where there is none yet, or the same.

    Args:
        out: the folder of the results.
        same: whether a file that is there is this legend.
    """
    number, path = 1, out / LEGEND
    while path.exists() and not same(path):
        number += 1
        path = out / f"legend-{number}.png"
    return path


def _asked_for(images: Iterable[Path | str], out: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    """Each image file once, with its name below the folder that was named."""
    seen: set[Path] = set()
    for argument in images:
        for path, name in _files(Path(argument), out):
            if (real := path.resolve()) not in seen:
                seen.add(real)
                yield path, name


def _files(path: Path, out: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    if path.is_dir():
        if out.resolve() == path.resolve() or path.resolve() in out.resolve().parents:
            raise RunError(
                f"the results would stand among the images of {path}: give a folder outside of it with --out."
            )
        found = image_files(path)
        if not found:
            raise RunError(f"{path} holds no image files: give the folder that holds them.")
        yield from ((file, PurePosixPath(file.relative_to(path).as_posix())) for file in found)
    elif not path.exists() and glob.has_magic(str(path)):
        found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        if not found:
            raise RunError(f"no file fits the pattern {path}.")
        base = _base(path)
        yield from ((file, PurePosixPath(file.relative_to(base).as_posix())) for file in found)
    else:
        yield path, PurePosixPath(path.name)


def _base(pattern: Path) -> Path:
    """The folder above the first part of a pattern that is one."""
    plain: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _stems(name: PurePosixPath) -> Iterator[str]:
    yield name.with_suffix("").as_posix()
    yield name.as_posix()
    number = 2
    while True:
        yield f"{name.with_suffix('').as_posix()}-{number}"
        number += 1


def _key(name: str) -> str:
    """A name as file systems compare names that do not tell upper case from lower."""
    return as_key(name).casefold()


def _check(results: Sequence[Results], out: Path, count: int, overwrite: bool) -> None:
    """Refuse to replace anything by the first so many files of each image."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file: give a folder for the results with --out.")
    inputs = {result.image.resolve() for result in results}
    written = [path for result in results for path in result[1 : 1 + count]]
    for path in written:
        if path.resolve() in inputs:
            raise RunError(f"{path} is one of the images and would be replaced: give another folder with --out.")
    there = [path for path in written if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise RunError(f"{there[0]}{more} would be replaced: give another folder with --out, or add --overwrite.")
