"""The recipes of CONTRIBUTING.md work: a test follows each, step by step, in a copy of the repository."""

from __future__ import annotations

import importlib.metadata
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segtutor import cli

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = ("Add a model", "Add a dataset", "Add a head")
PLACE = re.compile(r"  # (under|above) `(.+)`$")
LEAVES = """\
model: {backbone: resnet18, head: fcn}
data: {type: leaves, size: [40, 48]}
training: {steps: 2, batch_size: 2, validate_every: 2, precision: fp32}
"""


def recipe(title: str) -> list[tuple[str, str, str]]:
    """The blocks of a recipe in their order: language, text, and the words since the block before."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## )", GUIDE, re.S | re.M).group(1)
    blocks, end = [], 0
    for block in re.finditer(r"^```(\w+)\n(.*?)^```\n", section, re.S | re.M):
        blocks.append((block[1], block[2], section[end : block.start()]))
        end = block.end()
    return blocks


def write(folder: Path, language: str, text: str, words: str) -> None:
    """Do what one block says: a new file, or lines for a file that is there."""
    if language == "bibtex":
        path = folder / "book" / "references.bib"
        path.write_text(path.read_text(encoding="utf-8") + "\n" + text, encoding="utf-8")
    elif language == "markdown":
        [name] = re.findall(r"`(book/\w+\.md)`", words)
        insert(folder / name, "under", "|---", text)
    else:
        [name] = re.findall(r"^\d\. `([\w/]+\.\w+)`", words, re.M)  # a step begins with the file that it is about
        path = folder / name
        if not path.exists():
            path.write_text(text, encoding="utf-8")
            return
        chunks: list[tuple[str, str, list[str]]] = []
        for line in text.splitlines():
            if found := PLACE.search(line):
                chunks.append((found[1], found[2], []))
            chunks[-1][2].append(PLACE.sub("", line))
        for side, anchor, lines in chunks:
            insert(path, side, anchor, "\n".join(lines) + "\n")


def insert(path: Path, side: str, anchor: str, text: str) -> None:
    """Put lines under or above the first line that starts with ``anchor``."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.lstrip().startswith(anchor))
    lines.insert(place + (side == "under"), text)
    path.write_text("".join(lines), encoding="utf-8")


def commands(blocks: list[tuple[str, str, str]]) -> list[str]:
    return [line for language, text, _ in blocks if language == "bash" for line in text.splitlines()]


# What stands between backticks in the text, and what is to be typed in a shell
NAMED = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", GUIDE, flags=re.S | re.M))
TYPED = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", GUIDE, re.S | re.M)
    for line in block.splitlines()
]
WORDS = {word for text in [*NAMED, *TYPED] for word in re.split(r"[\s=]+", text)}
FOLDERS = ("book", "notebooks", "segtutor", "tests", "tools", ".github", ".devcontainer")
MADE = {
    name
    for title in RECIPES
    for _, _, words in recipe(title)
    for name in re.findall(r"^\d\. `([\w/]+\.\w+)`", words, re.M)
}
PATHS = sorted(
    word
    for word in WORDS
    if word.split("/")[0] in FOLDERS or re.fullmatch(r"[A-Z_]\w+\.(md|yml|cff)|pyproject\.toml", word)
)
COMMANDS = sorted({text for text in [*NAMED, *TYPED] if text.startswith("segtutor ")})
MODULES = sorted(word for word in WORDS if re.fullmatch(r"(segtutor|torch)(\.\w+)+", word))


def test_the_guide_names_files_commands_and_modules():
    assert len(PATHS) > 30 and len(COMMANDS) > 5 and len(MODULES) > 2


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_the_guide_names_exists(path):
    made = path in MADE or "NN_name" in path  # by one of its recipes, or by whoever writes a chapter
    assert made or (ROOT / path).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_the_guide_names_exists(command, capsys):
    name, *rest = shlex.split(command)[1:]
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0, f"there is no `segtutor {name}`"
    options = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    assert {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize("name", MODULES)
def test_a_module_or_name_of_the_package_that_the_guide_names_exists(name):
    assert pkgutil.resolve_name(name)


@pytest.fixture
def copy(tmp_path) -> Path:
    """The repository as a contributor has it, without what git ignores."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    names = [name for name in names if name and (ROOT / name).is_file()]
    if not names:
        folders = ("book", "segtutor", "tests", "tools")
        names = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
        names += [path.name for path in ROOT.iterdir() if path.is_file()]
    folder = tmp_path / "segtutor"
    for name in names:
        if not str(name).startswith("notebooks/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


# The shortest each time, all of them once a week and before a release
@pytest.mark.parametrize(
    "title", [title if title == "Add a head" else pytest.param(title, marks=pytest.mark.weekly) for title in RECIPES]
)
def test_a_recipe_followed_to_the_letter_works(title, copy, tmp_path):
    blocks = recipe(title)
    for language, text, words in blocks:
        if language != "bash":
            write(copy, language, text, words)
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache"),  # where `make lint` has left what torch says
    }
    if title == "Add a dataset":
        environment["SEGTUTOR_DATA"] = str(tmp_path)
        (copy / "leaves.yaml").write_text(LEAVES, encoding="utf-8")
        make = "import sys, pathlib, test_data_leaves as t; t.miniature(pathlib.Path(sys.argv[1]))"
        subprocess.run(
            [sys.executable, "-c", make, tmp_path / "leaves"], cwd=copy / "tests", env=environment, check=True
        )
    lines = commands(blocks)
    assert len(lines) >= 3
    pinned = re.findall(r"^torch==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    if importlib.metadata.version("torch").partition("+")[0] not in pinned:  # another torch has other types
        lines = [line.partition(" && mypy ")[0] for line in lines]
    for line in lines:
        run = subprocess.run(
            ["bash", "-c", line], cwd=copy, env=environment, capture_output=True, text=True, timeout=600
        )
        assert run.returncode == 0, f"{line}\n{run.stdout[-3000:]}\n{run.stderr[-2000:]}"
        if "pytest" in line:
            assert re.search(r"\d+ passed", run.stdout) and "failed" not in run.stdout, run.stdout[-500:]
        if line == "segtutor models mean":
            assert "To know what the mean of the coarsest map alone is worth." in " ".join(run.stdout.split())
        if "check-data" in line or "train" in line:
            assert "Leaves" in run.stdout or "leaf" in run.stdout or (copy / "runs" / "leaves").is_dir(), run.stdout


def test_a_line_goes_where_its_comment_says(tmp_path):
    path = tmp_path / "segtutor" / "some.py"
    path.parent.mkdir()
    path.write_text("A = [\n    1,\n]\nB = 2\n")
    text = textwrap.dedent("""\
        5  # above `B =`
        6
            0,  # under `A = [`
    """)
    write(tmp_path, "python", text, "1. `segtutor/some.py` gets lines")
    assert path.read_text() == "A = [\n    0,\n    1,\n]\n5\n6\nB = 2\n"
