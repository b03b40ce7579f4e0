"""Collect what a GPU machine without internet lacks into ./offline-bundle: wheels, and the real data.

    make offline-bundle                        for Python 3.12 on 64-bit Linux
    make offline-bundle BUNDLE_PYTHON=3.11

Such a machine has torch, torchvision and timm of its own, and the usual scientific packages (scipy, matplotlib); none
of these is brought along. `make test-gpu` installs the wheels into a folder of their own and leaves the rest alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from segtutor.data.drosophila_vnc import SLICES, slice_files
from segtutor.lab.harness import commit

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "offline-bundle"
LIMIT = 58 * 2**20  # bytes
PRESENT = ("torch", "torchvision", "timm", "scipy", "matplotlib")
BROUGHT = ("pytest", "pytest-xdist", "nbval", "ipykernel", "nbclient", "hypothesis", "torchmetrics")
BROUGHT += ("segmentation-models-pytorch", "pydantic")
GLIBC = (5, 12, 17, 24, 27, 28, 31, 34)  # pip matches a manylinux tag exactly
# Interactive completion and the debugger: large, and loaded only when somebody sits at the keyboard
LEFT_OUT = ("jedi", "parso", "debugpy")


def resolve(packages: tuple[str, ...], python: str) -> dict[str, str]:
    """Every package that ``packages`` need on that Python, with its version."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "-"]
    run = subprocess.run(command, input="\n".join(packages), capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    return dict(line.split("==") for line in run.stdout.splitlines() if "==" in line)


def wheels(python: str, target: Path) -> list[str]:
    """Downloads the wheels; returns their names and versions."""
    present = resolve(PRESENT, python)
    wanted = resolve((*PRESENT, *BROUGHT), python)
    wanted = [f"{name}=={version}" for name, version in wanted.items() if name not in (*present, *LEFT_OUT)]
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(target)]
    for tag in (*(f"manylinux_2_{minor}_x86_64" for minor in GLIBC), "manylinux2014_x86_64", "linux_x86_64", "any"):
        command += ["--platform", tag]
    subprocess.run([*command, *wanted], check=True)
    return wanted


def data(source: Path, target: Path) -> dict[str, int]:
    """Copies the real data in the layout that the datasets read; returns the number of images of each.

    Slices of the tissue set are stored without compression; here they are packed, without loss.
    """
    copied = {"camvid": 0, "vnc": 0}
    for split in ("train", "val", "test"):
        for image in sorted((source / "camvid" / split).glob("*.*")):
            label = source / "camvid" / f"{split}annot" / f"{image.stem}.png"
            for path in (image, label):
                to = target / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)
            copied["camvid"] += 1
    for number in sorted(number for split in SLICES.values() for number in split):
        for path in slice_files(source / "vnc", number):
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".tif":
                Image.open(path).save(to, compression="tiff_adobe_deflate")
            else:
                shutil.copy2(path, to)
        copied["vnc"] += 1
    return copied


def main() -> int:
    """Makes the folder; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12")
    python = parser.parse_args().python
    shutil.rmtree(BUNDLE, ignore_errors=True)
    (BUNDLE / "wheels").mkdir(parents=True)
    packages = wheels(python, BUNDLE / "wheels")
    source = os.environ.get("SEGTUTOR_DATA")
    images = data(Path(source), BUNDLE / "data") if source else {}
    about = {"commit": commit(), "python": python, "platform": "linux x86_64", "packages": packages, "images": images}
    (BUNDLE / "bundle.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    note = ", ".join(f"{count} images of {name}" for name, count in images.items())
    note = note or "no real data (SEGTUTOR_DATA is not set; the notebooks fall back to synthetic images)"
    print(f"{BUNDLE.name}: {len(packages)} wheels for Python {python}, {note}; {size >> 20} of {LIMIT >> 20} MiB")
    if size > LIMIT:
        print("That is too large to carry: take fewer images.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
