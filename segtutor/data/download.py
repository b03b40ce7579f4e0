"""Downloads that resume, are checked, and leave nothing half-written; archives that cannot write outside their folder.

Only the standard library. A dataset's folder appears when all of its files are there and checked; until then they
wait in ``<folder>.partial``, where the next call goes on. When several processes need a dataset, download it in one
of them first: they would write to the same unfinished file.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import importlib.resources
import logging
import lzma
import os
import shutil
import stat
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

from segtutor.files import move_into_place
from segtutor.logs import shown_unless_handled

logger = logging.getLogger(__name__)
_BLOCK = 1 << 16
_TIMEOUT = 30  # seconds without a byte
_LIVELESS_TRIES = 4  # tries in a row that bring no byte


class DownloadError(OSError):
    """A file could not be fetched."""


class CorruptFileError(DownloadError):
    """A file was fetched, but its digest is not the expected one; it has been removed."""


class UnsafeArchiveError(ValueError):
    """An archive holds an entry that would write outside its folder, or that is not a plain file or folder."""


class Progress:
    """Logs a line now and then, the same on a terminal, in a notebook and in a log file.

    Args:
        title: What is fetched.
        total: Files or bytes in all; None where unknown.
        unit: ``"files"`` or ``"MB"`` (``total`` and steps are then bytes).
        every: Seconds between two lines.
    """

    def __init__(self, title: str, total: int | None, unit: str = "files", *, every: float = 2.0) -> None:
        self.title, self.total, self.unit, self.every = title, total, unit, every
        self.done = 0
        self._next = time.monotonic() + every
        self._lock = threading.Lock()

    def step(self, amount: int) -> None:
        """Count ``amount`` more, and report when it is time."""
        with self._lock:
            self.done += amount
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + self.every
                self._report()

    def close(self) -> None:
        """Report for the last time."""
        self._report()

    def _report(self) -> None:
        scale, form = (1e6, ".1f") if self.unit == "MB" else (1, ".0f")
        of = f" of {self.total / scale:{form}}" if self.total else ""
        logger.info(f"{self.title}: {self.done / scale:{form}}{of} {self.unit}")


def checksums(name: str, digest: str = "") -> dict[str, str]:
    """The SHA-256 of every upstream file of a dataset, as shipped with the package.

    Args:
        name: Key of the dataset, e.g. ``"camvid"``.
        digest: SHA-256 that the list itself must have; empty: not checked.

    Returns:
        Relative path with forward slashes -> 64 hexadecimal digits.

    Raises:
        CorruptFileError: If the list is not the one with that digest.
    """
    listing = importlib.resources.files("segtutor.data").joinpath("checksums", f"{name}.txt").read_bytes()
    listing = listing.replace(b"\r\n", b"\n")  # a checkout on Windows may have changed the line ends
    found = hashlib.sha256(listing).hexdigest()
    if digest and found != digest:
        raise CorruptFileError(
            f"the list of checksums for {name} has SHA-256 {found}, expected {digest}: install segtutor again"
        )
    return {path: value for value, path in (line.split(maxsplit=1) for line in listing.decode().splitlines())}


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's content."""
    # MD5 guards against accidents only; on a FIPS machine it must say that it is not meant for security.
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def download_file(
    urls: str | Sequence[str],
    path: str | os.PathLike,
    *,
    sha256: str = "",
    md5: str = "",
    progress: Progress | None = None,
    pause: float = 1.0,
) -> Path:
    """Fetch one file; go on where an earlier call stopped; check it; only then give it its name.

    Args:
        urls: Where the file is; several are tried in this order.
        path: Where to put it. Unfinished bytes wait in ``<path>.part``.
        sha256: Expected SHA-256, in hexadecimal.
        md5: Expected MD5, for sources that publish nothing better; one of the two must be given.
        progress: Counts the bytes.
        pause: Seconds before a lost connection is tried again; doubled each time.

    Returns:
        The path.

    Raises:
        CorruptFileError: If the file has another digest; nothing of it is left.
        DownloadError: If no address delivers it; what has come stays in ``<path>.part``.
        ValueError: If no digest is given.
    """
    algorithm, expected = ("sha256", sha256) if sha256 else ("md5", md5)
    if not expected:
        raise ValueError(f"give the sha256 or the md5 of {Path(path).name}: an unchecked download is not kept")
    path = Path(path)
    if path.exists() and file_digest(path, algorithm) == expected.lower():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    problems = []
    for url in [urls] if isinstance(urls, str) else urls:
        # Bytes of an earlier call may be those of another file, so the first mismatch after a resume is not final.
        for resumed in [True, False] if part.exists() else [False]:
            if not resumed:
                part.unlink(missing_ok=True)
            try:
                _fetch(url, part, progress, pause)
            except (OSError, http.client.HTTPException) as error:
                reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
                problems.append(DownloadError(f"{url}: {reason}"))
                break
            found = file_digest(part, algorithm)
            if found == expected.lower():
                move_into_place(part, path)
                return path
            part.unlink()
            if not resumed:
                problems.append(
                    CorruptFileError(f"{url} is corrupt: {algorithm} expected {expected}, found {found}; removed it")
                )
    corrupt = next((problem for problem in problems if isinstance(problem, CorruptFileError)), None)
    raise corrupt or DownloadError(
        f"could not fetch {path.name} ({'; '.join(map(str, problems))}): check the connection and call again, it goes "
        "on where it stopped"
    )


def _fetch(url: str, part: Path, progress: Progress | None, pause: float) -> None:
    """Bring ``part`` to the whole length of the file at ``url``, through as many connections as it takes."""
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, part, progress):
                return
            error: Exception = ConnectionError(f"the connection was lost after {part.stat().st_size} bytes")
        except urllib.error.HTTPError as answer:
            if answer.code < 500 and answer.code not in (408, 429):
                raise
            error = answer
        except (OSError, http.client.HTTPException) as lost:
            error = lost
        moved = part.exists() and part.stat().st_size > before
        tries = 0 if moved else tries + 1
        if tries >= _LIVELESS_TRIES:
            raise error
        time.sleep(pause * 2 ** max(0, tries - 1))


def _receive(url: str, part: Path, progress: Progress | None) -> bool:
    """Receive over one connection, appending where the server allows it; True when the file is whole."""
    have = part.stat().st_size if part.exists() else 0
    # A compressed answer could not be resumed, nor counted.
    request = urllib.request.Request(url, headers={"User-Agent": "segtutor", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after these bytes: the digest decides whether they are the file
            return True
        raise
    with answer:
        length = answer.headers.get("Content-Length")
        appends = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not appends:
            if answer.status == 206:
                raise ConnectionError(f"the server sent another range than asked ({answer.headers['Content-Range']})")
            have = 0  # the server knows no ranges and sends the file from its first byte
        received = 0
        with open(part, "ab" if appends else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                received += len(block)
                if progress:
                    progress.step(len(block))
    return length is None or received == int(length)


@shown_unless_handled()
def download_files(
    title: str,
    bases: Sequence[str],
    digests: Mapping[str, str],
    folder: str | os.PathLike,
    *,
    workers: int = 8,
    pause: float = 1.0,
) -> Path:
    """Fetch many small files into a folder that appears only when all of them are there and checked.

    Args:
        title: Name for the progress lines.
        bases: Addresses that, followed by a path, give a file; tried in this order for each file.
        digests: Relative path with forward slashes -> SHA-256.
        folder: The folder to make; it must not exist, or be empty.
        workers: Files fetched at the same time.
        pause: As for :func:`download_file`.

    Returns:
        The folder.

    Raises:
        CorruptFileError: As for :func:`download_file`.
        DownloadError: As for :func:`download_file`; the files that came stay in ``<folder>.partial``.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    progress = Progress(title, len(digests))
    stop = threading.Event()

    def fetch(path: str, sha256: str) -> None:
        if stop.is_set():
            return
        urls = [f"{base.rstrip('/')}/{urllib.parse.quote(path)}" for base in bases]
        download_file(urls, partial.joinpath(*safe_parts(path)), sha256=sha256, pause=pause)
        progress.step(1)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            jobs = [pool.submit(fetch, path, sha256) for path, sha256 in digests.items()]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        finally:  # also when interrupted: the files under way are finished, no other one is begun
            stop.set()
    progress.close()
    for job in done:
        job.result()
    return _settle(partial, folder)


@shown_unless_handled()
def download_archives(
    title: str, resources: Iterable[tuple[str, str]], folder: str | os.PathLike, *, within: str = "", pause: float = 1.0
) -> Path:
    """Fetch archives and unpack them into a folder that appears only when all of them are unpacked.

    Args:
        title: Name for the progress lines.
        resources: (address, MD5) of each archive.
        folder: The folder to make; it must not exist, or be empty.
        within: Folder below ``folder`` to unpack into.
        pause: As for :func:`download_file`.

    Returns:
        The folder.

    Raises:
        CorruptFileError: As for :func:`download_file`.
        DownloadError: As for :func:`download_file`; what came stays in ``<folder>.partial``.
        UnsafeArchiveError: As for :func:`extract`.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    archives = []
    for url, md5 in resources:
        name = PurePosixPath(urllib.parse.urlsplit(url).path).name
        progress = Progress(f"{title} ({name})", None, "MB")
        archives.append(download_file(url, partial / name, md5=md5, progress=progress, pause=pause))
        progress.close()
    content = partial / "content"
    shutil.rmtree(content, ignore_errors=True)  # left by an interrupted call
    for archive in archives:
        logger.info("%s: unpacking %s", title, archive.name)
        extract(archive, content / within)
    _settle(content, folder)
    shutil.rmtree(partial, ignore_errors=True)
    return folder


def _settle(finished: Path, folder: Path) -> Path:
    if folder.exists():
        folder.rmdir()  # raises unless empty; Windows would not replace even an empty folder
    os.replace(finished, folder)
    return folder


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path with forward slashes, on any system.

    Raises:
        UnsafeArchiveError: If the path is absolute, names a drive, has a backslash, or leads upwards.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in parts:
        raise UnsafeArchiveError(f"the path {name!r} would lead outside its folder: nothing was written for it")
    return parts


def extract(archive: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Unpack a zip or tar archive: plain files and folders only, all of them inside ``folder``.

    Every entry is looked at before the first one is written. Owners, permissions and times are not restored.

    Args:
        archive: The archive; its format is told from its content.
        folder: Where to unpack; made when it is not there.

    Returns:
        The folder.

    Raises:
        UnsafeArchiveError: If an entry has an absolute path, leads upwards, or is a link or a device.
        DownloadError: If the file is no zip or tar archive, or breaks off.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                zipped = [(i.filename, i.is_dir(), _zip_kind(i), i) for i in opened.infolist()]
                _write(zipped, opened.open, folder, archive.name)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                packed = [(m.name, m.isdir(), _tar_kind(m), m) for m in opened.getmembers()]
                _write(packed, opened.extractfile, folder, archive.name)
        else:
            raise DownloadError(f"{archive.name} is neither a zip nor a tar archive: download it again")
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DownloadError(f"{archive.name} could not be unpacked ({error}): download it again") from error
    return folder


def _zip_kind(entry: zipfile.ZipInfo) -> str:
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    return "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link" if stat.S_ISLNK(mode) else "a device"


def _tar_kind(entry: tarfile.TarInfo) -> str:
    if entry.isfile() or entry.isdir():
        return ""
    return "a link" if entry.issym() or entry.islnk() else "a device"


def _write(entries: Sequence[tuple], read: Callable, folder: Path, archive: str) -> None:
    targets = []
    for name, is_folder, kind, entry in entries:
        if kind:
            raise UnsafeArchiveError(f"{archive} holds {kind} ({name!r}): only plain files are unpacked")
        targets.append((folder.joinpath(*safe_parts(name)), is_folder, entry))
    folder.mkdir(parents=True, exist_ok=True)
    for target, is_folder, entry in targets:
        if is_folder:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with read(entry) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
