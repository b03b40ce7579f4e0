"""The built book as a reader's browser shows it: `make book`, then `make test-book`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
specification = importlib.util.spec_from_file_location("book_serve", ROOT / "tools" / "serve.py")
serve = importlib.util.module_from_spec(specification)
specification.loader.exec_module(serve)

pytestmark = pytest.mark.browser
MISSING = serve.missing()
PAGES = [] if MISSING else serve.html_pages()
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]

# The theme's own, seen on a page with nothing in it
KNOWN_CONSOLE = ("Identifier 'THEBE_JS_URL' has already been declared", "Got invalid theme mode")
# What the theme brings and a reader is not hindered by: axe's rule, a part of the element's text, the reason
KNOWN_AXE = [
    ("label-content-name-mismatch", "search-button", "named Search, as its text begins; the rest is its shortcut"),
    ("label-content-name-mismatch", "theme-switch-button", "named Color mode; its text names the icons that it shows"),
]


@pytest.fixture(scope="session")
def report() -> dict:
    """What the browser saw on every page."""
    if MISSING:
        if os.environ.get("SEGTUTOR_REQUIRE_BROWSER") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with serve.served() as base:
        command = ["node", str(serve.BROWSER / "check.mjs"), serve.chromium(), base, *PAGES]
        run = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr
    (ROOT / "_build" / "browser.json").write_text(run.stdout, encoding="utf-8")
    return json.loads(run.stdout)


def unknown_console(seen: dict) -> list[str]:
    return [text for text in seen["console"] if not any(known in text for known in KNOWN_CONSOLE)]


def test_there_is_a_book_to_look_at(report):
    assert CHAPTERS and "book/index.html" in PAGES


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_page_opens_without_errors(report, page, mode):
    seen = report["pages"][page][mode]
    assert seen["applied"] == mode
    assert unknown_console(seen) == []
    assert seen["missing"] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_request_leaves_this_machine(report, page):
    assert report["pages"][page]["light"]["external"] + report["pages"][page]["dark"]["external"] == []


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_drawn(report, page):
    seen = report["pages"][page]
    assert seen["drawn"] >= seen["formulas"]
    assert seen["formulaErrors"] == 0


def test_some_formula_is_drawn(report):
    assert sum(seen["drawn"] for seen in report["pages"].values()) > 0


@pytest.mark.parametrize("page", PAGES)
def test_images_are_there_described_and_opaque(report, page):
    for image in report["pages"][page]["images"]:
        assert image["loaded"], image
        assert image["alt"] and not image["alt"].startswith(("../", "_images")), image
        # a transparent background shows black labels on black in the dark theme
        assert image["opaque"], image
        if image["output"]:
            assert image["caption"].startswith("Fig. "), image


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapter_shows_no_unexpected_error_or_warning(report, page):
    assert report["pages"][page]["tracebacks"] == 0
    assert report["pages"][page]["warnings"] == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_colab_button_opens_this_notebook(report, page):
    repository = serve.repository().removeprefix("https://github.com/")
    notebook = page.replace(".html", ".ipynb")
    assert (
        report["pages"][page]["colab"] == f"https://colab.research.google.com/github/{repository}/blob/main/{notebook}"
    )


@pytest.mark.parametrize("page", PAGES)
def test_no_sideways_scrolling_on_a_telephone(report, page):
    narrow = report["pages"][page]["narrow"]
    assert narrow["overflow"] <= 0 and narrow["widest"] == []


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_no_serious_accessibility_violation(report, page, mode):
    found = []
    for violation in report["pages"][page][mode]["axe"]:
        for node in violation["nodes"]:
            if not any(rule == violation["rule"] and part in node["html"] for rule, part, _ in KNOWN_AXE):
                found.append(f"{violation['rule']}: {node['target']}\n  {node['html']}\n  {node['why']}")
    assert not found, "\n".join(found)


def test_search_finds_receptive_field(report):
    assert report["search"]["hits"], "the search page found nothing for 'receptive field'"
    assert unknown_console(report["search"]) == []
