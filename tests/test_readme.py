"""What the README and CONTRIBUTING tell a newcomer to type works."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.S | re.M)
PYTHON = [block for language, block in BLOCKS if language == "python"]
ON_COLAB = [block for block in PYTHON if re.search(r"^[%!]", block, re.M)]
SCRIPTS = [block for block in PYTHON if block not in ON_COLAB]


def test_the_three_uses_are_there():
    assert ON_COLAB and SCRIPTS and any(language == "bash" for language, _ in BLOCKS)
    assert all(len(block.splitlines()) < 10 for _, block in BLOCKS if "@" not in block)


@pytest.mark.parametrize("block", SCRIPTS, ids=range(len(SCRIPTS)))
def test_snippet_runs(block, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::DeprecationWarning:segtutor"}
    run = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("block", ON_COLAB, ids=range(len(ON_COLAB)))
def test_colab_cell_is_python_and_its_imports_exist(block):
    [command] = [line for line in block.splitlines() if line.startswith(("%", "!"))]
    assert "--constraint" in command and not re.search(r"\btorch", command)
    tree = ast.parse("\n".join("" if line == command else line for line in block.splitlines()))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_targets_and_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    typed = re.findall(r"(?:^|`|&& |=\w+ )make ([a-z][a-z-]*)", text, re.M)
    assert typed and set(typed) <= targets
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (ROOT / link).exists(), f"{document} links to {link}"
