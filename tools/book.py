"""Build the book: run the chapters, render the pages, say how long it took.

    python tools/book.py            what `make book` runs; the result is _build/html/index.html

Warnings are errors. Chapters run two at a time into an execution cache whose key covers the package, the interpreter,
torch and the data that is present: Jupyter Book's own key is the notebook alone, so a page would go on showing what
an older library printed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
HTML = BUILD / "html"
CHAPTER_BUDGET = 60  # seconds for one chapter, on one CPU thread
BOOK_BUDGET = 600  # from an empty cache, on two cores
REBUILD_BUDGET = 15  # with nothing changed
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal
FOOTER_WITHOUT_NODE = (
    "<p>This copy was built without Node: its formulas are drawn by MathJax from a content delivery network.</p>"
)


def digest(paths: list[Path], *words: str) -> str:
    """A short hash of the files' names and contents, and of the words."""
    state = hashlib.sha256("\n".join(words).encode())
    for path in sorted(paths):
        state.update(f"\n{path.relative_to(ROOT)}\n".encode())
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def package_files() -> list[Path]:
    """What a chapter's output may depend on in the package."""
    files = (ROOT / "segtutor").rglob("*")
    return [path for path in files if path.is_file() and "__pycache__" not in path.parts]


def data_present() -> str:
    """Which data folders a chapter would find: the ones named by SEGTUTOR_DATA, and the user's cache."""
    folders = [Path.home() / ".cache" / "segtutor"]
    if os.environ.get("SEGTUTOR_DATA"):
        folders.insert(0, Path(os.environ["SEGTUTOR_DATA"]))
    return json.dumps([sorted(entry.name for entry in folder.iterdir()) for folder in folders if folder.is_dir()])


def execution_key() -> str:
    """Changes whenever a chapter could print something else than it did."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "numpy")]
    mode = os.environ.get("SEGTUTOR_MODE", ""), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return digest(package_files(), sys.version, *versions, *mode, data_present())


def vendor_mathjax() -> bool:
    """Puts the parts of MathJax that pages load into vendor/mathjax; False, with one line, where Node is missing."""
    if not shutil.which("npm"):
        print("Node is not installed: formulas fall back to a content delivery network, browser tests are skipped.")
        return False
    wanted = (ROOT / "tools" / "package.json").read_text(encoding="utf-8")
    marker, target = ROOT / "vendor" / ".package.json", ROOT / "vendor" / "mathjax"
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted and (ROOT / "tools" / "node_modules").is_dir():
        return True
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(command, cwd=ROOT / "tools").returncode:
        print("npm could not install what tools/package.json names: formulas fall back to a content delivery network.")
        return False
    source = ROOT / "tools" / "node_modules" / "mathjax" / "es5"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy2(source / "tex-mml-chtml.js", target)
    shutil.copytree(source / "input", target / "input")
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    shutil.copytree(source / fonts, target / fonts)
    marker.write_text(wanted, encoding="utf-8")
    return True


def make_figures() -> None:
    """Runs tools/figures.py when it, or the package that draws, has changed."""
    script = ROOT / "tools" / "figures.py"
    if not script.exists():
        return
    target = ROOT / "book" / "generated"
    marker, key = target / ".key", digest([script, *package_files()], data_present())
    if marker.exists() and marker.read_text() == key:
        return
    subprocess.run([sys.executable, str(script)], cwd=ROOT, check=True)
    target.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)


def write_config(cache: Path, local_mathjax: bool) -> Path:
    """Writes _config.yml with what depends on this machine added; returns where."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["cache"] = str(cache)
    sphinx = config["sphinx"]
    extensions = sphinx.get("local_extensions", {})
    sphinx["local_extensions"] = {name: str(ROOT / path) for name, path in extensions.items()}
    if local_mathjax:
        # not in a _static folder, of which every script would be added to every page
        sphinx["config"]["html_extra_path"] = ["vendor"]
        sphinx["config"]["mathjax_path"] = "../mathjax/tex-mml-chtml.js"
    else:
        config["html"]["extra_footer"] = FOOTER_WITHOUT_NODE
    path = BUILD / "config.yml"
    content = yaml.safe_dump(config, sort_keys=False)
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")
    return path


def pages() -> list[str]:
    """Every page named in _toc.yml, as a path without its suffix."""

    def walk(node):
        if isinstance(node, dict):
            yield from (str(node[key]) for key in ("root", "file") if key in node)
            node = list(node.values())
        if isinstance(node, list):
            for entry in node:
                yield from walk(entry)

    return list(walk(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))))


def chapters() -> list[Path]:
    """The notebooks of the book, in its order."""
    paths = [(ROOT / page).with_suffix(".ipynb") for page in pages()]
    return [path for path in paths if path.exists()]


def shorten_tracebacks(notebook) -> None:
    """Keeps the cell and the message of each error: the frames between are not the chapter's, and name this machine."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [part for part in output.traceback if not COLOUR.sub("", part).startswith("File ")]


def run_chapter(path: Path) -> tuple[Path, object]:
    """Runs one notebook in an empty folder. A kernel that did not start is given one more try; nothing else is."""
    from jupyter_cache.executors.utils import single_nb_execution

    for attempt in (1, 2):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            result = single_nb_execution(notebook, cwd=folder, timeout=CHAPTER_BUDGET * 10, allow_errors=False)
        died = type(result.err).__name__ in ("DeadKernelError", "RuntimeError")
        if not died or attempt == 2:
            shorten_tracebacks(notebook)
            return path, (notebook, result.time, str(result.err) if result.err else "")
    raise AssertionError("unreachable")


def run_chapters(cache_path: Path) -> tuple[dict[str, float], list[str], int]:
    """Runs what the cache lacks, two at a time; returns the seconds of each chapter, the failures, the number run."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    cache = get_cache(str(cache_path))
    seconds, failures, missing = {}, [], []
    for path in chapters():
        try:
            record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
            seconds[path.stem] = record.data.get("execution_seconds", 0.0)
        except KeyError:
            missing.append(path)
    with ProcessPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        for path, (notebook, duration, error) in pool.map(run_chapter, missing):
            seconds[path.stem] = duration
            print(f"  ran {path.name}: {duration:.0f} s", flush=True)
            if error:
                failures.append(f"{path.relative_to(ROOT)} failed:\n{error}")
                continue
            bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": duration})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return seconds, failures, len(missing)


def remove_stale() -> None:
    """Removes pages that are no longer in the book and caches of packages that are gone."""
    kept = set(pages())
    for folder in ("book", "notebooks"):
        for page in (HTML / folder).rglob("*.html"):
            if page.relative_to(HTML).with_suffix("").as_posix() not in kept:
                page.unlink()
    caches = sorted((BUILD / "cache").iterdir(), key=lambda path: path.stat().st_mtime)
    for old in caches[:-3]:
        shutil.rmtree(old)


def report(seconds: dict[str, float], ran: int, total: float) -> bool:
    """Prints every time beside its budget; True when all are kept."""
    budget = BOOK_BUDGET if ran else REBUILD_BUDGET
    print(f"\nSeconds per chapter, of {CHAPTER_BUDGET}:")
    kept = True
    for name, duration in sorted(seconds.items()):
        over = duration > CHAPTER_BUDGET
        kept &= not over
        print(f"  {name:34}{duration:6.1f}{'   OVER BUDGET' if over else ''}")
    kept &= total <= budget
    over = "" if total <= budget else "   OVER BUDGET"
    print(f"  {f'whole book ({ran} chapters run)':34}{total:6.1f}   of {budget}{over}")
    return kept


def main() -> int:
    """Builds the book; returns the exit status."""
    start = time.perf_counter()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    if os.environ.get("SEGTUTOR_DATA"):
        os.environ["SEGTUTOR_DATA"] = os.path.abspath(os.environ["SEGTUTOR_DATA"])
    cache = BUILD / "cache" / execution_key()
    cache.mkdir(parents=True, exist_ok=True)
    os.utime(cache)
    remove_stale()
    config = write_config(cache, vendor_mathjax())
    make_figures()
    seconds, failures, ran = run_chapters(cache)
    if failures:
        print("\n".join(failures), file=sys.stderr)
        return 1
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT), "--path-output", str(ROOT)]
    command += ["--config", str(config), "-W", "--keep-going", "-n", "--quiet"]
    status = subprocess.run(command, cwd=ROOT).returncode
    if status:
        # Sphinx tells a warning only while it reads a page: without this, a second try would pass
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        print("\nThe book was not built: see the warnings above.", file=sys.stderr)
        return status
    kept = report(seconds, ran, time.perf_counter() - start)
    print(f"\nThe book is at {HTML / 'index.html'}  (`make serve` opens it at a local address, with search)")
    # two busy cores are too noisy to fail a build for a second; SEGTUTOR_STRICT_BUDGET=1 does
    return 0 if kept or os.environ.get("SEGTUTOR_STRICT_BUDGET") != "1" else 1


if __name__ == "__main__":
    sys.exit(main())
