"""Run a slice of the suite where every dependency has the oldest version that pyproject.toml allows.

    make test-lowest                        in an environment of its own, .venv-lowest, made once
    python tools/lowest.py --env FOLDER     in another folder; --python names its interpreter; the rest goes to pytest

A bound that nobody tests is a guess. The tests that are left out compare with libraries that want newer versions.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "jsonschema")  # of the extra `test`, with its bounds
# Shapes and papers' numbers of the models, heads, what is saved and loaded, the command line, data, weights, training
FILES = (
    "test_layers", "test_models_fcn", "test_models_unet", "test_models_deeplab_v3plus",
    "test_models_swin", "test_models_vgg_resnet", "test_factory_heads", "test_factory_create", "test_factory_config",
    "test_cli_models", "test_data_reading", "test_weights", "test_predict", "test_files",
)  # fmt: skip
# Parts of the names of tests that need one of the libraries that are compared with; that train a checkpointed model on
# the meta device, as torch 2.4 cannot; that write a file as old Pillow cannot; that count how often a strategy hits
LEFT_OUT = (
    "transformers", "torchmetrics", "onnx", "exported", "test_it_can_be_trained and max_accuracy",
    "test_further_pages_are_not_dropped", "test_any_configuration_builds_or_is_refused_in_one_sentence",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Makes the environment, says what is in it, and runs the slice; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, default=ROOT / ".venv-lowest", help="folder of the environment")
    parser.add_argument("--python", default=sys.executable, help="interpreter that the environment is made from")
    options, more = parser.parse_known_args(arguments)
    python = make(options.env, options.python)
    wrong = report(python)
    if wrong:
        print(f"Not at their bounds: {', '.join(wrong)}", file=sys.stderr)
        return 1
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(python), *slice_of_the_suite(), *more], cwd=ROOT, env=variables).returncode


def slice_of_the_suite() -> list[str]:
    """What comes after the interpreter's name."""
    without = " and ".join(f"not ({name})" for name in LEFT_OUT)
    return ["-m", "pytest", "-q", *(f"tests/{name}.py" for name in FILES), "-k", without]


def make(folder: Path, interpreter: str) -> Path:
    """Install the oldest versions into a folder, and return its interpreter."""
    uv = [sys.executable, "-m", "uv"]
    if not (folder / "bin" / "python").exists():
        subprocess.run([*uv, "venv", "--quiet", "--python", interpreter, str(folder)], check=True)
    python, backend = folder / "bin" / "python", os.environ.get("TORCH_BACKEND")
    command = [*uv, "pip", "install", "--quiet", "--python", str(python), "--resolution", "lowest-direct"]
    command += ["--torch-backend", backend] if backend else []
    subprocess.run([*command, "-e", ".", *requirements("test", TOOLS)], cwd=ROOT, check=True)
    return python


def requirements(extra: str | None, names: tuple[str, ...] = ()) -> list[str]:
    """Requirements of the package (None) or of those packages of an extra, as pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = "dependencies" if extra is None else extra
    [listed] = re.findall(rf"^{section} = \[\n(.*?)^\]", text, re.M | re.S)
    found = re.findall(r'"([^"]+)"', listed)
    return [one for one in found if not names or re.match(r"[\w.-]+", one).group() in names]


def report(python: Path) -> list[str]:
    """Print what is installed; returns what is newer than its bound."""
    wanted = dict(re.match(r"([\w.-]+)>=([\d.]+)", one).groups() for one in requirements(None))
    code = "import sys, importlib.metadata as m; print(*(m.version(name) for name in sys.argv[1:]))"
    found = subprocess.run([str(python), "-c", code, *wanted], check=True, capture_output=True, text=True).stdout
    versions = dict(zip(wanted, found.split(), strict=True))
    print(f"{python}: {', '.join(f'{name} {version}' for name, version in versions.items())}", flush=True)
    # a release that was withdrawn gives way to the next one, so the last number may differ
    return [f"{name} {versions[name]}" for name, least in wanted.items() if not at(versions[name], least)]


def at(version: str, least: str) -> bool:
    """Whether a version is the oldest of a bound such as 2.4, or one of its repairs."""
    return version.split("+")[0].split(".")[: len(least.split("."))] == least.split(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
