"""One process at a time writes into the folder of a run.

Two runs in one folder would replace each other's models, and both would say that they are done. The lock is the
operating system's: whatever way the process ends, `kill -9` and a power cut included, nobody has to clear it away.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtutor.files import write_text
from segtutor.runs.errors import InUseError

LOCK, OWNER = ".lock", ".owner"
PATIENCE = 20  # seconds in which the loading processes of a killed run notice that they are alone
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep a run's folder, which is made where it is missing, to this process inside the block.

    Raises:
        InUseError: another process, or another part of this one, has it; the message names process and computer.
    """
    from filelock import FileLock, Timeout

    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        if not _has_died(owner := _owner(run)):
            raise InUseError(in_use(run, owner)) from None
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise InUseError(in_use(run, _owner(run))) from None
    except NotImplementedError:
        logger.warning("%s is on a disk without locks: see to it that no second run writes there.", run)
    try:
        write_text(run / OWNER, json.dumps({"process": os.getpid(), "computer": platform.node()}) + "\n")
        for path in (*run.glob(".*.part"), *run.glob("*/.*.part")):  # of a run that was killed while it wrote
            path.unlink(missing_ok=True)
        yield
    finally:
        (run / OWNER).unlink(missing_ok=True)
        lock.release()


def check_not_in_use(run: Path) -> None:
    """Raise InUseError where another process works in the folder."""
    if (run / LOCK).is_file():
        with locked(run):
            pass


def _owner(run: Path) -> dict[str, Any]:
    """Who wrote that the folder is theirs; empty where nobody did, or not to the end."""
    try:
        owner = json.loads((run / OWNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _has_died(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this computer that is no more."""
    number = owner.get("process")
    if os.name != "posix" or owner.get("computer") != platform.node() or not isinstance(number, int):
        return False
    try:
        os.kill(number, 0)  # asks whether there is such a process, and sends nothing
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def in_use(run: Path, owner: dict[str, Any]) -> str:
    """What is said to the second run."""
    known = {"process", "computer"} <= owner.keys()
    who = f"process {owner['process']} on {owner['computer']}" if known else "another run"
    return f"{run} is in use by {who}: wait until it ends, or name another folder with --out."
