"""Writing a file whole or not at all, the same way everywhere in the package.

A program that is stopped in the middle of writing leaves half a file under the final name, and the next one reads it.
Here the bytes go into a temporary file in the same folder, which takes the final name only when it is complete and on
the disk. A reader meets the old file or the new one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file to write to, and move it onto ``path`` when the block ends without an error.

    After an error, and after Ctrl-C, the temporary file is gone and ``path`` is what it was before. The new file has
    the mode that the user's umask gives to any new file, whatever wrote it.

    Args:
        path: the file to write; its folder is made where it is missing.

    Yields:
        The temporary file: in the same folder, empty, hidden, and without the suffix of ``path``.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.

    Example:
        >>> with whole_file("scores.json") as part:
        ...     part.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        yield part
        os.chmod(part, mode)  # some libraries write for the owner alone
        move_into_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all; returns its path."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def move_into_place(part: Path, path: Path) -> None:
    """Move a finished file onto ``path`` in one step, after its bytes have reached the disk.

    Args:
        part: the finished file, in the folder of ``path``.
        path: its final name; what was there is replaced.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # else a power cut could leave the new name with none of the bytes
    os.replace(part, path)
