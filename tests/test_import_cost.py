"""What importing costs: ``sys.modules`` after an import, in a fresh process."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torchvision", "timm", "segmentation_models_pytorch", "matplotlib", "scipy", "transformers", "torchmetrics",
    "accelerate",
}  # fmt: skip


def loaded(statement):
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_import_segtutor_loads_nothing_heavy():
    modules = loaded("import segtutor")
    assert not modules & (HEAVY | {"torch", "numpy", "pydantic"})


def test_command_line_starts_without_torch():
    assert not loaded("import segtutor.cli") & (HEAVY | {"torch", "numpy", "pydantic"})


def test_pydantic_waits_for_the_first_configuration():
    parts = "models, layers, data, factory, runs"
    assert "pydantic" not in loaded(f"from segtutor import {parts}")
    first = "from segtutor.factory.config import ModelConfig, parse; parse(ModelConfig, {'backbone': {}, 'head': {}, "
    assert "pydantic" in loaded(first + "'num_classes': 2}, '')")


@pytest.mark.parametrize(
    "parts",
    [
        "models losses metrics training probe weights",
        "lab.chapter lab.claims lab.harness lab.results lab.source data",
        "factory inference runs",
    ],
)
def test_parts_load_torch_at_most(parts):
    names = [f"segtutor.{part}" for part in parts.split()]
    assert not loaded("import " + ", ".join(names)) & HEAVY


def test_parts_are_reached_as_attributes():
    code = (
        "import segtutor\n"
        "assert segtutor.lab.papers.PAPERS\n"
        "for name in segtutor.__all__: getattr(segtutor, name)\n"
        "assert set(segtutor.__all__) <= set(dir(segtutor))\n"
        "try: segtutor.nonsense\n"
        "except AttributeError as error: assert 'weights' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_version_is_where_the_build_reads_it():
    import re
    from pathlib import Path

    import segtutor

    text = Path(segtutor.__file__).read_text(encoding="utf-8")
    assert re.search(r'(?m)^__version__ = "([^"]+)"$', text).group(1) == segtutor.__version__
