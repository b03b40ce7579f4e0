"""What the package promises to a type checker holds: lazy names are visible, wrong uses are errors."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAZY = ["segtutor", "segtutor.data", "segtutor.lab", "segtutor.models"]


def test_the_package_says_that_it_has_types():
    assert (ROOT / "segtutor" / "py.typed").exists()


@pytest.mark.parametrize("name", LAZY)
def test_lazy_names_are_the_same_for_a_program_and_for_a_type_checker(name):
    module = importlib.import_module(name)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    branches = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    shown, hidden = branches
    assert ast.unparse(hidden.test) == "not TYPE_CHECKING" and hidden.body[0].name == "__getattr__"
    imported = {alias.name: node.module for node in shown.body for alias in node.names}
    assert set(imported) == set(module.__all__) - {"__version__"}
    for entry, home in imported.items():
        value = getattr(module, entry)
        found = importlib.import_module(home)
        assert value is getattr(found, entry, None) or value is importlib.import_module(f"{home}.{entry}")


# ---- As a user's type checker reads it -------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = [block for block in re.findall(r"^```python\n(.*?)^```", README, re.S | re.M) if "%pip" not in block]
START = """\
import segtutor
from segtutor.data import SyntheticScenes
from segtutor.factory import create_model
from segtutor.losses import CrossEntropyLoss
from segtutor.metrics import ConfusionMatrix
from segtutor.models import UNet
from segtutor.training import evaluate, fit
scenes = SyntheticScenes((64, 64), 4)
"""
# A wrong line, and the code of the error that mypy has for it
MISTAKES = {
    "from segtutor.models import UNett": "attr-defined",
    "from segtutor.data import CamVidd": "attr-defined",
    "from segtutor.lab import chapters": "attr-defined",
    "from segtutor.training import fitt": "attr-defined",
    "segtutor.modells": "attr-defined",
    "UNet('three')": "arg-type",
    "UNet(3, depth=4)": "call-arg",
    "fit(UNet(3), scenes, epochs=3)": "call-arg",
    "fit(UNet(3), 'scenes.zip', steps='3')": "arg-type",
    "fit(UNet(3), iter(scenes), steps=3)": "arg-type",
    "CrossEntropyLoss(weights=[1.0])": "call-arg",
    "create_model('resnet18-fcn', info='scenes')": "arg-type",
    "evaluate(UNet(3), scenes) > 0.5": "operator",
    "ConfusionMatrix(3).mIoU": "attr-defined",
    "iou: float = ConfusionMatrix(3).iou": "assignment",
    "image, mask, name = scenes[0]": "misc",
}


@pytest.fixture(scope="module")
def read_by_mypy(tmp_path_factory) -> dict[str, list[str]]:
    """The codes of the errors in each program, from one run of mypy that has segtutor as an installed package."""
    folder = tmp_path_factory.mktemp("user")
    programs = {"user.py": (ROOT / "tests" / "typed_user.py").read_text(encoding="utf-8")}
    programs |= {f"readme_{number}.py": block for number, block in enumerate(SNIPPETS)}
    programs |= {f"mistake_{number}.py": START + line + "\n" for number, line in enumerate(MISTAKES)}
    for name, text in programs.items():
        (folder / name).write_text(text, encoding="utf-8")
    options = ["--strict", "--config-file=", "--no-pretty", "--cache-dir", str(ROOT / ".mypy_cache" / "user")]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *programs],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": ""},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, list[str]] = {name: [] for name in programs}
    for line in run.stdout.splitlines()[:-1]:
        name, _, rest = line.partition(":")
        if ": error:" in line:
            found[name].append(re.search(r"\[([\w-]+)\]$", line).group(1) if name.startswith("mistake") else rest)
    return found


def test_a_users_code_has_no_errors(read_by_mypy):
    assert read_by_mypy["user.py"] == []


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readmes_snippets_have_no_errors(read_by_mypy, number):
    assert read_by_mypy[f"readme_{number}.py"] == []


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_an_error(read_by_mypy, line):
    number = list(MISTAKES).index(line)
    assert set(read_by_mypy[f"mistake_{number}.py"]) == {MISTAKES[line]}
