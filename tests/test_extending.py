"""The guide to extending the package does what it says: its code runs, and keeps the contract of every entry."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from segtutor import cli

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
PARTS = "\n\n".join(block for block in BLOCKS if "create_model(" not in block)
CHECK = """
import sys
import my_parts
from segtutor.factory import list_backbones, list_heads, create_model, get_backbone_channels
from segtutor.data import check_dataset, list_datasets
assert {"plain", "regnet"} <= set(list_backbones()) and "hypercolumn" in list_heads()
assert "checkers" in list_datasets() and check_dataset(my_parts.Checkers("val")).ok
{use}
assert get_backbone_channels({"type": "plain", "width": 16}) == [16, 32, 64, 128] == list(model.backbone.channels)
try:
    create_model("plain-hypercolumn", num_classes=0)
except ValueError as error:
    assert "num_classes: 0 is too small" in str(error)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "my_parts.py").write_text(PARTS, encoding="utf-8")
    return tmp_path


def test_what_is_added_is_short():
    for name in ("HypercolumnHead", "Plain", "Checkers"):
        [block] = [block for block in BLOCKS if f"class {name}(" in block]
        lines = block[block.index(f"class {name}(") :].splitlines()
        assert len([line for line in lines if line.strip()]) <= 22, name


def test_the_guides_parts_keep_the_contract(parts):
    [use] = [block for block in BLOCKS if "create_model(" in block]
    program = CHECK.replace("{use}", use)
    tests = [str(ROOT / "tests" / f"test_factory_{kind}.py") for kind in ("heads", "backbones")]
    # Every promise of a head. Of a backbone: "plain" has no weights to ask for and no stride to choose, "regnet" both.
    plain = "plain and (takes or trains or checkpointing or frozen)"
    regnet = "regnet and (odd_sizes or dilates or deeper or download)"
    chosen = f"hypercolumn or ({plain}) or ({regnet})"
    run = subprocess.run(
        [sys.executable, "-c", program, *tests, "-q", "-k", chosen, "-p", "no:cacheprovider", "-o", "addopts="],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{parts}:{ROOT}"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", run.stdout).group(1)) > 25


def test_the_command_line_imports_a_file(parts, tmp_path, monkeypatch, capsys):
    imported = tmp_path / "noted.py"
    imported.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.txt').write_text('here')\n")
    assert cli.main(["--import", str(imported), "claims", "BB-3"]) == 0
    assert (tmp_path / "noted.txt").read_text() == "here" and "BB-3" in capsys.readouterr().out
    assert cli.main(["--import", str(tmp_path / "missing.py"), "claims", "BB-3"]) == 2
    assert "missing.py" in capsys.readouterr().err
