"""The files that say what to install agree with each other, and the workflows name what exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path

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


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@needs_toml
def test_conda_environment_equals_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == [*wanted(), "-e ."]


@needs_toml
def test_library_bounds_are_lower_bounds():
    for text in project()["dependencies"]:
        assert {specifier.operator for specifier in Requirement(text).specifier} == {">="}, text


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
    assert {path.stem for path in WORKFLOWS} == {"ci", "gpu", "colab", "links", "publish"}


@each_workflow
def test_workflow_is_well_formed(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["name"] and (True in workflow or "on" in workflow)  # YAML 1.1 reads a bare `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)


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
