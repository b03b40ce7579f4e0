"""Serve the built book on this machine, and take pictures of its pages.

python tools/serve.py FOLDER [PAGE ...]     screenshots of the pages (default: all), wide and narrow, light and dark
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
BROWSER = ROOT / "tools" / "browser"


def chromium() -> str | None:
    """The Chromium to use: the one named by SEGTUTOR_CHROMIUM, else the first one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("SEGTUTOR_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def repository() -> str:
    """The one configured address of the repository."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"].rstrip("/")


def missing() -> str:
    """The first thing that a look at the built book lacks, or an empty string."""
    if not (HTML / "index.html").exists():
        return "no built book: run `make book` first"
    if not shutil.which("node") or not (ROOT / "tools" / "node_modules" / "playwright-core").is_dir():
        return "Node, or what `make book` installs with it, is missing"
    return "" if chromium() else "no Chromium on the path: install it, or name it in SEGTUTOR_CHROMIUM"


def html_pages() -> list[str]:
    """Every page of the built book that is in its table of contents, and the search and index pages."""
    pages = [page for folder in ("book", "notebooks") for page in (HTML / folder).rglob("*.html")]
    return sorted(page.relative_to(HTML).as_posix() for page in pages) + ["search.html", "genindex.html"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Nothing: a test's output is no place for an access log."""


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of the built book while the block runs, on a free port of this machine only."""
    handler = functools.partial(_Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def main() -> int:
    """Takes the screenshots; returns the exit status."""
    if missing():
        raise SystemExit(missing())
    folder, *pages = sys.argv[1:] or [str(ROOT / "_build" / "screenshots")]
    unknown = [page for page in pages if page not in html_pages()]
    if unknown:
        raise SystemExit(f"no such page: {', '.join(unknown)}; there are {', '.join(html_pages())}")
    with served() as base:
        command = ["node", str(BROWSER / "screenshots.mjs"), chromium(), base, folder, *(pages or html_pages())]
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
