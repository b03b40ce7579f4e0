"""Where a row comes from: the machine that measured it, and the commit of the code that ran."""

import contextlib
import os
import platform
import subprocess
from pathlib import Path

import segtutor
from segtutor.lab.results import plural


def hardware(device: str = "cpu") -> str:
    """The machine in words: processor, cores, torch threads, and the GPU when ``device`` uses one."""
    import torch

    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    cpu = f"{_processor()}, {plural(cores, 'core')}, {plural(torch.get_num_threads(), 'thread')}"
    if device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} ({cpu})"
    return cpu


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine() or "unknown processor"


def commit() -> str:
    """The commit of the package's own checkout; ``-dirty`` when its code (not its rows) has uncommitted changes.

    ``SEGTUTOR_COMMIT`` tells it to a copy of the checkout, whose history is another or missing.
    """
    told = os.environ.get("SEGTUTOR_COMMIT")
    if told:
        return told
    package = Path(segtutor.__file__).parent
    try:
        # A package installed into a project's environment lies inside that project's checkout: not our commit.
        if Path(_git(package, "rev-parse", "--show-toplevel")).resolve() != package.parent.resolve():
            raise OSError
        changed = _git(package, "status", "--porcelain", "--", ".", ":(exclude)lab/results")
        return _git(package, "rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"unknown (package {segtutor.__version__})"


def _git(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip()
