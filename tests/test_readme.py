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
import yaml

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


def links(text: str) -> list[str]:
    """Where the links and pictures of a Markdown text lead."""
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.M)


def test_links_of_the_readme_work_on_its_package_page():
    """A relative link is a dead one there; an absolute one names a file that is here."""
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    own = re.compile(re.escape(address) + "/(?:blob|raw)/main/(.+)")
    inside = []
    for link in links(README):
        assert link.startswith("https://"), f"README.md links to {link}: write the whole address"
        if found := own.fullmatch(link):
            assert (ROOT / found.group(1)).exists(), f"README.md links to {link}"
            inside.append(found.group(1))
    assert {"CONTRIBUTING.md", "LICENSE", "book/images/overview.png"} <= set(inside)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_targets_and_files_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    typed = re.findall(r"(?:^|`|&& |=\w+ )make ([a-z][a-z-]*)", text, re.M)
    assert typed and set(typed) <= targets
    for link in links(text):
        assert link.startswith(("https://", "#")) or (ROOT / link).exists(), f"{document} links to {link}"
