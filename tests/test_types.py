"""What the package promises to a type checker holds: lazy names are visible, wrong uses are errors."""

from __future__ import annotations

import ast
import importlib
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
