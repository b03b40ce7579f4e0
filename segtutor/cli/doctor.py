"""What stands between this machine and a trained model, one line each, and what to do about it."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import segtutor

# The oldest versions that the package is tested with, as pyproject.toml has them.
LEAST = {
    "torch": "2.4",
    "torchvision": "0.19",
    "timm": "1.0.22",
    "segmentation-models-pytorch": "0.5",
    "numpy": "1.26",
    "huggingface-hub": "0.25",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        text: what was found.
        advice: what to do about it; "" where nothing is wrong.
    """

    text: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at versions, device, caches and data; nothing is changed or downloaded."""
    here = f"segtutor {segtutor.__version__}, Python {platform.python_version()}, {platform.system()}"
    return [Finding(here), *versions(), fit_of_torchvision(), machine(), accelerator(), *caches(), *data_sets()]


def report() -> tuple[str, int]:
    """The examination as text, and how many problems it found."""
    findings = examine()
    problems = [finding for finding in findings if finding.advice]
    lines = [f"{'!!' if finding.advice else '  '} {finding.text}" for finding in findings]
    if not problems:
        return "\n".join([*lines, "Nothing is in the way. Try: segtutor train --config resnet18-fcn"]), 0
    lines.append("What to do:")
    lines += [f"{number}. {problem.advice}" for number, problem in enumerate(problems, 1)]
    return "\n".join(lines), len(problems)


def versions() -> list[Finding]:
    """The packages that models are built from, against the oldest versions that are tested."""
    found = []
    for name, least in LEAST.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(Finding(f"{name} is not installed", f"pip install '{name}>={least}'."))
            continue
        old = _numbers(version) < _numbers(least)
        text = f"{name} {version}" + (f", older than {least}" if old else "")
        found.append(Finding(text, f"pip install --upgrade {name}" if old else ""))
    return found


def fit_of_torchvision() -> Finding:
    """Whether torchvision's binary goes with this torch: it is built against one version, and fails beside others."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # a wrong binary fails in more ways than one
        reason = str(error).splitlines()[0][:80]
        return Finding(
            f"torchvision does not work with this torch ({type(error).__name__}: {reason})",
            "Install both in one command, so that they fit: pip install --upgrade torch torchvision",
        )
    return Finding("torchvision fits torch")


def machine() -> Finding:
    """Processor, cores, and the threads that torch uses of them."""
    import torch

    from segtutor.lab import harness

    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    text = f"Machine: {harness.hardware()}"
    if cores and threads > cores:
        return Finding(text, f"torch uses {threads} threads on {cores} cores, which wait for each other: set "
                       f"OMP_NUM_THREADS={cores}.")  # fmt: skip
    return Finding(text)


def accelerator() -> Finding:
    """The GPU, or why there is none."""
    import torch

    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        half = "bf16" if about.major >= 8 else "fp16"
        return Finding(
            f"GPU: {about.name}, {about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, "
            f"driver {_driver() or 'unknown'}; trains in {half}"
        )
    card = bool(shutil.which("nvidia-smi")) or Path("/dev/nvidia0").exists()
    if torch.version.cuda is None and card:
        return Finding(
            "GPU: a driver is here, but this torch is built for the CPU",
            "Install torch for CUDA, with the command that pytorch.org shows for this system.",
        )
    if card:
        return Finding(
            f"GPU: the driver ({_driver() or 'unknown'}) does not answer a torch for CUDA {torch.version.cuda}",
            "Update the driver, or install a torch for an older CUDA; in a container, start it with the GPU.",
        )
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        return Finding("GPU: Apple's; ask for it with model.device=mps")
    return Finding("GPU: none found; the synthetic sets and the tiny presets train on the CPU")


def caches() -> list[Finding]:
    """Where pretrained weights are kept, how much there is, and whether there is room for more."""
    import torch

    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface", "hub")
    found = []
    for title, folder in (
        ("Weights of timm and the hub", Path(hub)),
        ("Weights of torchvision", Path(torch.hub.get_dir())),
    ):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        found.append(Finding(f"{title}: {folder}, {size / 1e9:.1f} GB"))
    free = shutil.disk_usage(_existing(Path(hub))).free / 1e9
    advice = "Make room, or set HF_HOME to a folder on a larger disk." if free < 2 else ""
    return [*found, Finding(f"Free on that disk: {free:.0f} GB", advice)]


def data_sets() -> list[Finding]:
    """Which real data sets are on this machine."""
    from segtutor import data
    from segtutor.data.root import real_datasets

    try:
        found = [name for name in real_datasets() if data.available(name)]
    except ValueError as error:
        return [Finding("Data: SEGTUTOR_DATA is wrong", f"{error}.")]
    return [Finding(f"Data: {', '.join(found) or 'none found; the synthetic sets scenes and cells are always there'}")]


def _numbers(version: str) -> tuple[int, ...]:
    parts = (part for part in version.split("+")[0].split("."))
    return tuple(int("".join(char for char in part if char.isdigit()) or 0) for part in parts)[:3]


def _driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return ""
    return next((word for word in first.split() if word[0].isdigit() and "." in word), "")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
