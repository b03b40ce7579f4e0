"""Keep the chapter notebooks in one form, so that a diff of a notebook can be read.

    python tools/notebooks.py normalise [PATH ...]       one form: stable ids, no outputs but those of checked cells
    python tools/notebooks.py check [PATH ...]           says what is not in that form, and exits 1
    python tools/notebooks.py store [PATH ...]           runs the notebooks and stores the outputs of checked cells
    python tools/notebooks.py convert CHAPTER.md OUT.ipynb   from MyST Markdown, as the book reads it, then normalises

Without a PATH, every notebook in notebooks/ is meant. A *checked cell* is one tagged ``nbval-check-output``: the test
suite runs it again and compares what it prints with what is stored. It is the only kind of cell whose output is kept.
The install cell for Colab is written by this file, the same in every notebook.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHECKED = "nbval-check-output"
COLAB_TAGS = ["colab", "hide-cell"]
KEPT_METADATA = ("tags", "mystnb")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

COLAB_CELL = """\
# On Colab: installs segtutor and leaves the machine's own torch alone. Where segtutor is installed, does nothing.
import importlib.util

if importlib.util.find_spec("segtutor") is None:
    import importlib.metadata
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    def versions():
        return {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy")}

    before = versions()
    constraints = Path(tempfile.mkdtemp()) / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\\n" for name, version in before.items()))
    repository = "git+{repository}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), repository]
    subprocess.run(command, check=True)
    importlib.invalidate_caches()
    assert versions() == before, f"the installation changed {before} to {versions()}: restart the runtime"
"""


def repository() -> str:
    """The one configured address of the repository, from ``_config.yml``."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"].rstrip("/")


def colab_cell() -> str:
    """The text of the install cell that every notebook carries."""
    return COLAB_CELL.replace("{repository}", repository()).rstrip("\n")


def notebooks(paths: list[str] | None = None) -> list[Path]:
    """The notebooks meant by ``paths``, or every chapter."""
    if paths:
        return [Path(path) for path in paths]
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _stored_outputs(cell: dict) -> list[nbformat.NotebookNode]:
    """The outputs of a checked cell, in the one form that comparing and reading a diff want."""
    merged: list[nbformat.NotebookNode] = []
    for output in (nbformat.from_dict(dict(output)) for output in cell.get("outputs", [])):
        if "metadata" in output:
            output.metadata = nbformat.from_dict({})
        if output.output_type == "error":  # the traceback holds paths and colours; what is compared is name and text
            output.traceback = []
        last = merged[-1] if merged else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text  # consecutive writes arrive in chunks whose borders depend on timing
        else:
            merged.append(output)
    return merged


def normalised(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of ``notebook`` in the repository's form."""
    cells, seen = [], {}
    sources = [dict(cell) for cell in notebook.cells if cell.source.strip()]
    if not any("colab" in cell.get("metadata", {}).get("tags", []) for cell in sources):
        first = next((i for i, cell in enumerate(sources) if cell["cell_type"] == "code"), len(sources))
        sources.insert(first, {"cell_type": "code", "source": "", "metadata": {"tags": COLAB_TAGS}})
    for old in sources:
        metadata = {key: old["metadata"][key] for key in KEPT_METADATA if old.get("metadata", {}).get(key)}
        tags = metadata.get("tags", [])
        source = "\n".join(line.rstrip() for line in old["source"].strip("\n").split("\n"))
        if "colab" in tags:
            source, metadata["tags"] = colab_cell(), COLAB_TAGS
        key = hashlib.sha256(f"{old['cell_type']}\n{source}".encode()).hexdigest()[:10]
        seen[key] = seen.get(key, 0) + 1
        cell = {"cell_type": old["cell_type"], "id": key if seen[key] == 1 else f"{key}-{seen[key]}"}
        cell |= {"metadata": metadata, "source": source}
        if old["cell_type"] == "code":
            checked = CHECKED in tags
            cell["outputs"] = _stored_outputs(old) if checked else []
            cell["execution_count"] = old.get("execution_count") if checked else None
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def text(notebook: nbformat.NotebookNode) -> str:
    """The bytes that a notebook in the repository's form has on disk."""
    return nbformat.writes(normalised(notebook), version=nbformat.NO_CONVERT) + "\n"


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook at ``path``."""
    return nbformat.read(path, as_version=4)


def problems(path: Path) -> list[str]:
    """What keeps the notebook at ``path`` from being in the repository's form."""
    notebook, found = read(path), []
    if path.read_text(encoding="utf-8") != text(notebook):
        found.append(f"{path.name} is not normalised: run `make notebooks`")
    for index, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or CHECKED not in tags:
            continue
        # nbval compares nothing where the count is null, so such a cell would pass without being checked
        if cell.execution_count is None or not cell.outputs:
            run = f"python tools/notebooks.py store notebooks/{path.name}"
            found.append(f"{path.name}, cell {index}: a checked cell without a stored output and count: run `{run}`")
        for output in cell.outputs:
            shown = output.get("text") or output.get("data", {}).get("text/plain", "")
            if ADDRESS.search(shown) or output.get("name") == "stderr":
                found.append(f"{path.name}, cell {index}: a checked output holds a memory address or a warning")
            if "image/png" in output.get("data", {}):
                found.append(f"{path.name}, cell {index}: a checked cell draws: draw in a cell of its own")
    return found


def execute(notebook: nbformat.NotebookNode, timeout: int = 600) -> nbformat.NotebookNode:
    """A copy of ``notebook``, run in an empty folder by this interpreter: as a reader on another machine would."""
    from nbclient import NotebookClient

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one that the user once installed
    if os.environ.get("SEGTUTOR_DATA"):
        os.environ["SEGTUTOR_DATA"] = os.path.abspath(os.environ["SEGTUTOR_DATA"])
    ran = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(ran, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute()
    return ran


def store(path: Path) -> int:
    """Runs the notebook and stores the outputs of its checked cells; returns their number."""
    notebook = normalised(read(path))
    ran = execute(normalised(notebook))
    checked = 0
    for cell, new in zip(notebook.cells, ran.cells, strict=True):
        if cell.cell_type == "code" and CHECKED in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = new.outputs, new.execution_count
            checked += 1
    path.write_text(text(notebook), encoding="utf-8")
    return checked


def convert(source: Path, target: Path) -> None:
    """Writes the MyST Markdown chapter ``source`` as the notebook ``target``; unchanged cells keep their outputs."""
    from myst_nb.core.read import MystMetadataParsingError, read_myst_markdown_notebook

    try:
        notebook = normalised(read_myst_markdown_notebook(source.read_text(encoding="utf-8")))
    except MystMetadataParsingError as error:
        raise SystemExit(f"{source}: {error}") from error
    known = {}
    if target.exists():
        known = {cell.source: cell for cell in read(target).cells if cell.cell_type == "code" and cell.outputs}
    for cell in notebook.cells:
        if cell.source in known and cell.cell_type == "code":
            cell.outputs, cell.execution_count = known[cell.source].outputs, known[cell.source].execution_count
    target.write_text(text(notebook), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("normalise", "check", "store", "convert"))
    parser.add_argument("paths", nargs="*")
    given = parser.parse_args(arguments)
    if given.command == "convert":
        if len(given.paths) != 2:
            parser.error("convert takes the chapter in Markdown and the notebook to write")
        convert(Path(given.paths[0]), Path(given.paths[1]))
        return 0
    found = []
    for path in notebooks(given.paths):
        if given.command == "check":
            found += problems(path)
        elif given.command == "store":
            print(f"{path.name}: {store(path)} checked cells stored", flush=True)
        else:
            path.write_text(text(read(path)), encoding="utf-8")
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
