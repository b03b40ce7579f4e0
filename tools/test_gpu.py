"""Run on CUDA what needs CUDA: the tests marked `gpu`, and every notebook.

    make test-gpu                    with python3 as it is; PYTHON= names another interpreter
    SEGTUTOR_ALLOW_CPU=1 make test-gpu    a rehearsal on a machine without a GPU

The interpreter keeps its own torch, torchvision and timm, whatever their versions. What else is missing is taken from
offline-bundle/ where that folder exists (`make offline-bundle`, on a machine with internet); nothing is fetched.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "offline-bundle"
OWN = ("torch", "torchvision", "timm")
TOOLS = ("numpy", "scipy", "matplotlib", "PIL", "yaml", "safetensors", "segmentation_models_pytorch")
TOOLS += ("pytest", "xdist", "nbval", "ipykernel", "nbclient")
CELL_TIMEOUT = 900


def install_bundle() -> Path | None:
    """Unpacks the bundle's wheels into a folder of their own, once; the interpreter itself is not touched."""
    if not BUNDLE.is_dir():
        return None
    about = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if about["python"] != here:
        raise SystemExit(
            f"offline-bundle is for Python {about['python']} and this is {here}: "
            f"make it again with `make offline-bundle BUNDLE_PYTHON={here}`."
        )
    site = BUNDLE / f"site-{here}"
    if not (site / ".complete").exists():
        wheels = sorted(map(str, (BUNDLE / "wheels").glob("*.whl")))
        command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*command, "--no-index", "--no-deps", "--target", str(site), *wheels], check=True)
        (site / ".complete").touch()
    return site


def check(names: tuple[str, ...], advice: str) -> None:
    """Stops with one sentence when a module is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{sys.executable} lacks {', '.join(missing)}: {advice}")


def environment() -> dict[str, str]:
    """Variables of a process on this interpreter, with what the bundle brought; stops where something is missing."""
    check(OWN, "install them first, or name another interpreter with PYTHON=.")
    import torch

    if not torch.cuda.is_available() and os.environ.get("SEGTUTOR_ALLOW_CPU") != "1":
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device: SEGTUTOR_ALLOW_CPU=1 rehearses on the CPU.")
    paths = [ROOT]
    site = install_bundle()
    if site is not None:
        paths.insert(0, site)
    sys.path[:0] = list(map(str, paths))
    importlib.invalidate_caches()
    check(TOOLS, "install them, or bring them along in offline-bundle (`make offline-bundle`).")

    variables = dict(os.environ, JUPYTER_PREFER_ENV_PATH="1")
    variables["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    if BUNDLE.is_dir():
        if not variables.get("SEGTUTOR_DATA") and (BUNDLE / "data").is_dir():
            variables["SEGTUTOR_DATA"] = str(BUNDLE / "data")
        about = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
        variables.setdefault("SEGTUTOR_COMMIT", about.get("commit", ""))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU (a rehearsal)"
    versions = [f"{name} {importlib.import_module(name).__version__}" for name in OWN]
    print(f"Python {sys.version.split()[0]}, {', '.join(versions)}, on {device}", flush=True)
    return variables


def tests(arguments: list[str]) -> list[str]:
    """The command that runs the tests that need a GPU, and every notebook."""
    # only files that hold such tests: the others may need oracles that this interpreter has no reason to have
    files = sorted(ROOT.glob("tests/test_*.py"))
    files = [path for path in files if "mark.gpu" in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu or notebook", "--nbval-lax", "--nbval-current-env"]
    return [*command, f"--nbval-cell-timeout={CELL_TIMEOUT}", *map(str, files), str(ROOT / "notebooks"), *arguments]


def main(arguments: list[str]) -> int:
    """Runs the tests; returns pytest's exit status."""
    variables = environment()
    return subprocess.run(tests(arguments), cwd=ROOT, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
