"""The files that say what to install agree with each other, and the workflows name what exists."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"

needs_toml = pytest.mark.skipif(tomllib is None, reason="tomllib arrived with Python 3.11")
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def wanted() -> list[str]:
    """Every requirement of the package and its extras, once."""
    listed = project()["dependencies"] + [one for extra in project()["optional-dependencies"].values() for one in extra]
    return list(dict.fromkeys(listed))


def pinned() -> dict[str, list[Requirement]]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        requirement = Requirement(line)
        found.setdefault(requirement.name, []).append(requirement)
    return found


def tool(name: str) -> ModuleType:
    """A program of ``tools/`` as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as they are typed."""
    [lines] = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@needs_toml
def test_conda_environment_equals_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [*wanted(), "-e ."]


def brought(names: list[str]) -> set[str]:
    """The distributions that come with these requirements, and with theirs, as far as they are installed."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in names]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        extras = requirement.extras or {""}
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
            continue
        if name not in found:
            found.add(name)
            try:
                waiting += map(Requirement, importlib.metadata.requires(name) or ())
            except importlib.metadata.PackageNotFoundError:
                pass
    return found


@needs_toml
def test_what_the_tools_import_comes_with_the_extras():
    pytest.importorskip("myst_nb", reason="comes with the extra `book`")
    here, named_otherwise = brought(wanted()), {"PIL": "pillow", "yaml": "pyyaml"}
    ours = {"segtutor"} | {path.stem for path in (ROOT / "tools").glob("*.py")}
    for path in (ROOT / "tools").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in named} - sys.stdlib_module_names - ours:
                distribution = named_otherwise.get(name, name.replace("_", "-"))
                assert distribution in here, f"{path.name} imports {name}, which no extra installs"


@needs_toml
def test_library_bounds_are_lower_bounds():
    for text in project()["dependencies"]:
        assert {specifier.operator for specifier in Requirement(text).specifier} == {">="}, text


@needs_toml
def test_oldest_versions_are_those_of_the_project_and_their_tests_exist():
    lowest = tool("lowest")
    assert lowest.requirements(None) == project()["dependencies"]
    assert {Requirement(one).name for one in lowest.requirements("test", lowest.TOOLS)} == set(lowest.TOOLS)
    assert all((ROOT / "tests" / f"{name}.py").exists() for name in lowest.FILES)
    assert lowest.at("2.4.0+cpu", "2.4") and lowest.at("1.11.1", "1.11")
    assert not lowest.at("2.40.0", "2.4") and not lowest.at("1.0.23", "1.0.22")
    assert recipe("test-lowest") == [".venv/bin/python tools/lowest.py $(ARGS)"]
    assert "python tools/lowest.py" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_constraints_hold_versions_and_no_addresses():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text and "--" not in text
    for requirements in pinned().values():
        for requirement in requirements:
            assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement


@needs_toml
def test_constraints_satisfy_the_project():
    here = {"python_version": "3.11", "python_full_version": "3.11.9"}
    for text in wanted():
        requirement = Requirement(text)
        pins = pinned()[requirement.name]
        [pin] = [pin for pin in pins if pin.marker is None or Marker(str(pin.marker)).evaluate(here)]
        [version] = [specifier.version for specifier in pin.specifier]
        assert requirement.specifier.contains(version), f"{text}, but {pin}: run `make lock`"


@needs_toml
def test_one_version():
    import segtutor

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == segtutor.__version__
    assert f"{segtutor.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == {"ci", "gpu", "colab", "links", "publish", "release", "weekly"}


@each_workflow
def test_workflow_is_well_formed(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["name"] and (True in workflow or "on" in workflow)  # YAML 1.1 reads a bare `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w/-]+@[\w./-]+", step.get("uses", "actions/checkout@v4")), step


@each_workflow
def test_workflow_names_targets_and_files_that_exist(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", text)) <= makefile_targets()
    for file in re.findall(r"\b(?:tools|tests)/[\w/]+\.\w+", text):
        assert (ROOT / file).exists(), file


def test_every_target_of_the_help_exists():
    first = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()[1]
    named = set(re.findall(r"[a-z][a-z-]+", first.removeprefix("#   make")))
    assert named <= makefile_targets() and {"book", "test", "lint", "clean", "serve"} <= named


def test_hooks_before_a_commit_are_what_lint_runs():
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    [repository] = configured["repos"]
    assert repository["repo"] == "local", "a remote repository of hooks has to be fetched, and has versions of its own"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert [hook["entry"] for hook in repository["hooks"]] == recipe("lint")


def test_devcontainer_prepares_make_test():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    [target] = re.fullmatch(r"make ([a-z-]+)", container["onCreateCommand"]).groups()
    assert target in makefile_targets()
    version = re.search(r"python:(\d+)\.(\d+)$", container["image"]).groups()
    assert tuple(map(int, version)) >= (3, 11), "the Makefile asks for Python 3.11"
    assert container["containerEnv"]["TORCH_BACKEND"] == "cpu"
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter.endswith(recipe("lint")[0].split()[0])


def test_issue_forms_are_forms():
    forms = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in TEMPLATES.glob("*.yml")}
    assert forms.pop("config")["contact_links"]
    assert set(forms) == {"bug", "question", "correction"}
    for form in forms.values():
        assert form["name"] and form["description"] and form["labels"]
        identifiers = [field["id"] for field in form["body"]]
        assert identifiers and len(identifiers) == len(set(identifiers))
        for field in form["body"]:
            assert field["type"] in {"input", "textarea"} and field["attributes"]["label"]
            assert field["validations"]["required"], f"{field['id']}: what nobody has to fill in, nobody does"
    text = (ROOT / ".github" / "pull_request_template.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= makefile_targets()


def test_release_builds_checks_and_publishes_without_a_token():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    assert "python tools/release.py" in text and "python -m build" in text and "secrets." not in text
    assert jobs["publish"]["needs"] == "build" and jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["steps"][-1]["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "permissions" not in jobs["build"], "what builds may not publish"


@pytest.mark.parametrize("behind", ["segtutor/__init__.py", "CITATION.cff", "README.md", "CHANGELOG.md"])
def test_release_is_refused_where_a_file_is_behind(tmp_path, behind):
    import segtutor

    release, version = tool("release"), segtutor.__version__
    for name in release.PLACES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changes = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(re.sub(r"^## Unreleased.*?(?=^## )", "", changes, flags=re.M | re.S))
    assert release.problems(f"v{version}", tmp_path) == []
    text = (tmp_path / behind).read_text(encoding="utf-8")
    (tmp_path / behind).write_text(text.replace(version, "0.0.9"))
    [problem] = release.problems(f"v{version}", tmp_path)
    assert problem.startswith(f"{behind} has version 0.0.9")


def test_release_is_refused_with_a_wrong_tag_or_an_open_changelog(tmp_path):
    release = tool("release")
    assert "is not a version" in release.problems("latest")[0]
    for name in release.PLACES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changes = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n" + changes)
    assert any("unreleased part" in problem for problem in release.problems("v0.1.0", tmp_path))
