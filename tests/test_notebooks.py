"""Every chapter has the same anatomy, and its checked cells really are checked."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
specification = importlib.util.spec_from_file_location("notebook_tools", ROOT / "tools" / "notebooks.py")
tools = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tools)

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARTS = (
    "card failure operation figure source parity train claims production pitfalls summary exercises references".split()
)
WITHOUT = {
    "foundations": {"failure", "figure", "source", "parity", "production"},
    "papers": set(),
    "production": {"failure", "operation", "figure", "source", "parity"},
}
LONG = {"02", "08", "13", "14"}  # two papers, or many parts
WORDS = (900, 2200)
WORDS_LONG = (900, 3500)
LINES = 25
WIDTH = 92  # characters: what the page of a laptop shows without scrolling sideways
# What the package itself depends on: a notebook needs nothing else
PACKAGES = set("torch torchvision timm segmentation_models_pytorch numpy scipy matplotlib PIL yaml".split())
PUBLIC = set(
    "models factory runs losses metrics data training inference weights probe viz layers lab.chapter lab.papers "
    "lab.results lab.source".split()
)
FORBIDDEN_TAGS = {"nbval-skip", "nbval-ignore-output", "nbval-raises-exception", "skip-execution"}
BANNED = re.compile(
    r"\b(simply|just|obviously|note that|it is worth|powerful|crucial|state-of-the-art|delve\w*|leverag\w+)\b", re.I
)
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u26ff\u2705\u274c\u2728]")
FENCE = re.compile(r"^(```+|:::+|~~~+).*?^\1\s*$", re.S | re.M)
QUIET = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`|\{[\w:.-]+\}|<[^>]+>|https?://\S+|\]\([^)]*\)", re.S)


def load(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def prose(text: str) -> str:
    """What is left to read when code, formulas, roles and addresses are gone."""
    return QUIET.sub(" ", FENCE.sub(" ", text))


def captions(cells) -> list[str]:
    found = []
    for cell in cells:
        about = cell.metadata.get("mystnb", {})
        found += [about.get("figure", {}).get("caption", ""), about.get("image", {}).get("alt", "")]
    return found


def group(path: Path) -> str:
    number = int(path.name[:2])
    return "foundations" if number <= 2 else "papers" if number <= 12 else "production"


def part_of(cells, name: str) -> list:
    """The cells from the one tagged ``part-name`` to the next part."""
    start = next(i for i, cell in enumerate(cells) if f"part-{name}" in tags(cell))
    end = next(
        (i for i in range(start + 1, len(cells)) if any(tag.startswith("part-") for tag in tags(cells[i]))), len(cells)
    )
    return cells[start:end]


def exercises(cells) -> list[list]:
    """The cells of each exercise, its statement first."""
    found: list[list] = []
    for cell in part_of(cells, "exercises"):
        if cell.cell_type == "markdown" and re.match(r"### Exercise \d", cell.source):
            found.append([])
        if found:
            found[-1].append(cell)
    return found


def ends_in_assertion(source: str) -> bool:
    last = ast.parse(source).body[-1]
    while isinstance(last, (ast.For, ast.With, ast.If)):
        last = last.body[-1]
    return isinstance(last, ast.Assert)


def code(cells) -> list[tuple[int, str]]:
    return [(i, cell.source) for i, cell in enumerate(cells) if cell.cell_type == "code" and "colab" not in tags(cell)]


def draws(source: str) -> bool:
    """Whether the value of the cell is a figure."""
    last = ast.parse(source).body[-1]
    if not isinstance(last, ast.Expr) or not isinstance(last.value, ast.Call):
        return False
    called = ast.unparse(last.value.func)
    return called.startswith(("viz.", "plt.")) and called != "viz.apply_style"


chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def test_there_are_chapters():
    assert CHAPTERS
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in CHAPTERS)


@chapter
def test_is_in_the_one_form(path):
    assert tools.problems(path) == []


@chapter
def test_parts_are_there_in_order(path):
    first: dict[str, int] = {}
    cells = load(path)
    for i, cell in enumerate(cells):
        for tag in tags(cell):
            if tag.startswith("part-"):
                assert tag[5:] in PARTS, f"{tag} is no part of a chapter: {PARTS}"
                assert cell.cell_type == "markdown"
                first.setdefault(tag[5:], i)
    wanted = [part for part in PARTS if part not in WITHOUT[group(path)]]
    assert [part for part in wanted if part not in first] == []
    positions = [first[part] for part in wanted]
    assert positions == sorted(positions), "the parts stand in another order than in the other chapters"
    for part, i in first.items():
        heading = r"^# \S" if part == "card" else r"^## \S"
        assert re.search(heading, cells[i].source, re.M), f"part-{part} opens without its heading"


@chapter
def test_card_says_what_to_expect(path):
    text = "\n".join(cell.source for cell in part_of(load(path), "card") if cell.cell_type == "markdown")
    for word in ("CPU", "T4"):
        assert word in text, f"the card does not say how long the chapter takes on {word}"


@chapter
def test_length(path):
    cells = load(path)
    text = [prose(cell.source) for cell in cells if cell.cell_type == "markdown"]
    words = len(re.findall(r"[A-Za-z][\w'-]*", " ".join(text + captions(cells))))
    low, high = WORDS_LONG if path.name[:2] in LONG else WORDS
    assert low <= words <= high


@chapter
def test_voice(path):
    cells = load(path)
    for text in [cell.source for cell in cells if cell.cell_type == "markdown"] + captions(cells):
        text = prose(text)
        assert not BANNED.search(text), BANNED.search(text).group()
        assert not EMOJI.search(text)
        assert not re.search(r"\w!(\s|$)", text)


@chapter
def test_cells_are_short(path):
    long = {i: len(source.splitlines()) for i, source in code(load(path)) if len(source.splitlines()) > LINES}
    assert long == {}, f"cells of more than {LINES} lines"


@chapter
def test_lines_fit_the_page(path):
    lines = [(i, n, line) for i, source in code(load(path)) for n, line in enumerate(source.splitlines(), 1)]
    wide = [f"cell {i}, line {n}: {len(line)} characters" for i, n, line in lines if len(line) > WIDTH]
    assert wide == [], f"a line of code has at most {WIDTH}"


@chapter
def test_three_cells_are_checked(path):
    checked = [cell for cell in load(path) if tools.CHECKED in tags(cell)]
    assert len(checked) >= 3
    # nbval compares nothing where the count is null
    assert all(cell.execution_count and cell.outputs for cell in checked)


@chapter
def test_nothing_is_skipped(path):
    for i, cell in enumerate(load(path)):
        assert not FORBIDDEN_TAGS & set(tags(cell)), i
        assert "NBVAL_" not in cell.source, f"cell {i}: use tags, which readers do not see"


@chapter
def test_figures_are_captioned_and_described(path):
    for i, source in code(load(path)):
        about = load(path)[i].metadata.get("mystnb", {})
        if draws(source):
            assert about, f"cell {i} draws: give it mystnb.figure (caption, name) and mystnb.image (alt)"
        if about:
            assert len(about["figure"]["caption"].split()) >= 5, f"cell {i}: what is to be concluded?"
            assert len(about["image"]["alt"].split()) >= 5, f"cell {i}: what is there to see?"
            assert re.fullmatch(rf"fig-{path.name[:2]}-[a-z0-9-]+", about["figure"]["name"])
            assert about["image"]["alt"] != about["figure"]["caption"]


def test_figure_names_are_unique():
    figures = [cell.metadata.get("mystnb", {}).get("figure", {}) for path in CHAPTERS for cell in load(path)]
    names = [figure["name"] for figure in figures if figure]
    assert len(names) == len(set(names))


@chapter
def test_imports_only_public_names(path):
    for i, source in code(load(path)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not any(alias.name.startswith("_") for alias in node.names), f"cell {i}: {ast.unparse(node)}"
                modules = [node.module]
                if node.module in ("segtutor", "segtutor.lab"):
                    modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for module in modules:
                top, *rest = module.split(".")
                assert not any(name.startswith("_") for name in rest if top == "segtutor"), f"cell {i}: {module}"
                assert top in PACKAGES | {"segtutor"} | set(sys.stdlib_module_names), f"cell {i}: {module}"
                if top == "segtutor" and rest:
                    part = ".".join(rest[:2]) if rest[0] == "lab" else rest[0]
                    assert part in PUBLIC, f"cell {i}: {module} is not for readers"


@chapter
def test_stands_alone(path):
    for i, source in code(load(path)):
        assert not re.search(r"""["'](\.{1,2}/|notebooks/|book/|/[a-z]+/)""", source), f"cell {i} names a path"
        assert "tqdm" not in source and "torch.compile" not in source, f"cell {i}"


@chapter
def test_pitfalls_fail_and_are_cured(path):
    part = part_of(load(path), "pitfalls")
    headings = [i for i, cell in enumerate(part) if re.search(r"^### ", cell.source, re.M) and cell.cell_type != "code"]
    assert 2 <= len(headings) <= 4
    for start, end in zip(headings, [*headings[1:], len(part)], strict=True):
        assert any(cell.cell_type == "code" for cell in part[start:end]), part[start].source.splitlines()[0]
    assert any("raises-exception" in tags(cell) for cell in part), "no pitfall is shown failing"


@chapter
def test_exercises_have_executed_solutions(path):
    found = exercises(load(path))
    assert 3 <= len(found) <= 5
    for cells in found:
        title = cells[0].source.splitlines()[0]
        assert re.search(r"\((easy|medium|open)\)", title), title
        solutions = [cell for cell in cells if "solution" in tags(cell) and cell.cell_type == "code"]
        assert solutions, f"{title}: no solution"
        assert all("hide-cell" in tags(cell) for cell in solutions), f"{title}: the solution is not folded"
        assert ends_in_assertion(solutions[-1].source), f"{title}: the solution does not end in an assertion"


@chapter
def test_summary_has_at_most_five_points(path):
    text = "\n".join(cell.source for cell in part_of(load(path), "summary"))
    assert 1 <= len(re.findall(r"^[-*] ", text, re.M)) <= 5


@chapter
def test_cites_its_sources(path):
    cited = "\n".join(cell.source for cell in part_of(load(path), "references"))
    keys = set(re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", cited))
    known = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M))
    assert keys
    assert {key.strip() for group_ in keys for key in group_.split(",")} <= known


@chapter
def test_first_code_cell_installs_on_colab(path):
    cells = [cell for cell in load(path) if cell.cell_type == "code"]
    assert cells[0].source == tools.colab_cell() and "colab" in tags(cells[0])
    assert sum("colab" in tags(cell) for cell in cells) == 1


def test_colab_cell_never_names_torch_to_install():
    command = next(line for line in tools.colab_cell().splitlines() if "pip" in line and "install" in line)
    assert "torch" not in command and "--constraint" in command
    assert f"git+{tools.repository()}" in tools.colab_cell()


def install(monkeypatch, tmp_path, after: dict[str, str]):
    """Runs the Colab cell with a pip that only records, on a machine without segtutor."""
    import importlib.metadata
    import subprocess

    versions, calls = {"torch": "2.9.1+cu126", "torchvision": "0.24.1+cu126", "numpy": "2.0.2"}, []

    def run(command, check):
        calls.append((command, Path(command[command.index("--constraint") + 1]).read_text()))
        versions.update(after)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(subprocess, "run", run)
    exec(compile(tools.colab_cell(), "colab", "exec"), {})
    return calls


def test_colab_cell_holds_what_is_installed(monkeypatch, tmp_path):
    [(command, constraints)] = install(monkeypatch, tmp_path, after={})
    assert constraints.splitlines() == ["torch==2.9.1+cu126", "torchvision==0.24.1+cu126", "numpy==2.0.2"]
    assert command[-1] == f"git+{tools.repository()}"


def test_colab_cell_notices_a_replaced_torch(monkeypatch, tmp_path):
    with pytest.raises(AssertionError, match="restart the runtime"):
        install(monkeypatch, tmp_path, after={"torch": "2.15.0"})


def test_colab_cell_does_nothing_where_segtutor_is(monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it installed"))
    exec(compile(tools.colab_cell(), "colab", "exec"), {})


def cell(kind: str, source: str, **more) -> dict:
    ran = {"outputs": more.pop("outputs", []), "execution_count": more.pop("count", None)}
    return {"cell_type": kind, "source": source, "metadata": more, **(ran if kind == "code" else {})}


def test_normalising_drops_what_a_diff_should_not_show():
    output = {"output_type": "stream", "name": "stdout", "text": "1\n"}
    messy = nbformat.from_dict(
        {
            "nbformat": 4,
            "nbformat_minor": 4,
            "metadata": {"widgets": {}, "kernelspec": {"name": "my-kernel"}},
            "cells": [
                cell("markdown", "# Title\n"),
                cell("code", "print(1)\n\n", outputs=[output], count=7, execution={"started": "now"}),
                cell("code", "print(1)", outputs=[output, output], count=9, tags=[tools.CHECKED]),
                cell("code", "  "),
            ],
        }
    )
    clean = tools.normalised(messy)
    assert [c.cell_type for c in clean.cells] == ["markdown", "code", "code", "code"]
    _, colab, plain, checked = clean.cells
    assert colab.source == tools.colab_cell()
    assert plain.source == "print(1)" and plain.outputs == [] and plain.execution_count is None and plain.metadata == {}
    assert checked.execution_count == 9 and [o.text for o in checked.outputs] == ["1\n1\n"]
    assert len({c.id for c in clean.cells}) == 4 and clean.metadata.kernelspec.name == "python3"
    assert tools.text(clean) == tools.text(tools.normalised(clean))


def test_a_checked_cell_that_never_ran_is_found(tmp_path):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell("code", "1", tags=[tools.CHECKED])]}
    path = tmp_path / "x.ipynb"
    path.write_text(tools.text(nbformat.from_dict(notebook)), encoding="utf-8")
    [problem] = tools.problems(path)
    assert "without a stored output" in problem


CHAPTER = """\
---
kernelspec:
  name: python3
---
+++ {"tags": ["part-card"]}

# A chapter

```bash
not a cell
```

```{code-cell} ipython3
:tags: [nbval-check-output]

print(6 * 7)
```

Words between.

```{code-cell} ipython3
---
tags: [solution]
mystnb:
  figure:
    caption: What it shows.
---
assert 6 * 7 == 42
```
"""


def test_a_chapter_in_markdown_becomes_a_notebook(tmp_path):
    pytest.importorskip("myst_nb", reason="comes with the extra `book`")
    source, target = tmp_path / "chapter.md", tmp_path / "chapter.ipynb"
    source.write_text(CHAPTER, encoding="utf-8")
    assert tools.main(["convert", str(source), str(target)]) == 0
    first, install, *middle, last = load(target)
    assert first.cell_type == "markdown" and tags(first) == ["part-card"] and "not a cell" in first.source
    assert tags(install) == tools.COLAB_TAGS
    assert [cell.source for cell in middle] == ["print(6 * 7)", "Words between."]
    assert last.metadata.mystnb.figure.caption == "What it shows." and tags(last) == ["solution"]
    # Stored outputs survive a change of words, and go with a change of the code
    notebook = tools.read(target)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="42\n")]
    notebook.cells[2].execution_count = 1
    target.write_text(tools.text(notebook), encoding="utf-8")
    source.write_text(CHAPTER.replace("Words between", "Better words"), encoding="utf-8")
    tools.convert(source, target)
    assert load(target)[2].outputs[0].text == "42\n" and load(target)[3].source == "Better words."
    source.write_text(CHAPTER.replace("6 * 7)", "7 * 6)"), encoding="utf-8")
    tools.convert(source, target)
    assert load(target)[2].outputs == []


def test_a_chapter_with_unreadable_options_is_named(tmp_path):
    pytest.importorskip("myst_nb", reason="comes with the extra `book`")
    source = tmp_path / "chapter.md"
    source.write_text("+++ {tags: part-card\n\nWords.\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"chapter\.md: "):
        tools.convert(source, tmp_path / "chapter.ipynb")
    assert not (tmp_path / "chapter.ipynb").exists()


@pytest.mark.parametrize("path", CHAPTERS[3:4], ids=lambda path: path.stem)
def test_a_chapter_keeps_its_cells_through_markdown(path, tmp_path):
    """What the reader of the book makes of a chapter's text is the chapter."""
    pytest.importorskip("myst_nb", reason="comes with the extra `book`")
    parts = []
    for cell in load(path):
        about = json.dumps(dict(cell.metadata))
        body = cell.source if cell.cell_type == "markdown" else f"````{{code-cell}} ipython3\n{cell.source}\n````"
        if cell.cell_type == "code" and cell.metadata:
            body = body.replace("ipython3\n", f"ipython3\n---\n{about}\n---\n", 1)
            about = ""
        parts.append(f"+++ {about}\n\n{body}\n")
    source, target = tmp_path / "chapter.md", tmp_path / "chapter.ipynb"
    source.write_text("\n".join(parts), encoding="utf-8")
    tools.convert(source, target)
    assert [(cell.id, dict(cell.metadata)) for cell in load(target)] == [
        (cell.id, dict(cell.metadata)) for cell in load(path)
    ]
