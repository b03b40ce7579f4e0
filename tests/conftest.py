"""What every test shares: one torch thread, absolute paths, GPU tests, and the times that the run is held to."""

from __future__ import annotations

import os
import time
from collections import defaultdict

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
if os.environ.get("SEGTUTOR_DATA"):
    os.environ["SEGTUTOR_DATA"] = os.path.abspath(os.environ["SEGTUTOR_DATA"])

SUITE_BUDGET = 15 * 60  # seconds for the whole suite and every notebook, on two cores
CHAPTER_BUDGET = 60  # seconds for one notebook, on one CPU thread
_START = time.perf_counter()
_seconds: dict[str, float] = defaultdict(float)


def pytest_configure(config):
    config.addinivalue_line("markers", "notebook: a cell of a chapter, run by nbval")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the cells of notebooks, so that `-m` can choose them; leaves GPU tests out where there is no GPU."""
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.notebook)
    if wanted:
        import torch

        if not torch.cuda.is_available():
            for item in wanted:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_runtest_logreport(report):
    """Adds up the time of every cell of a notebook, the start of its kernel included."""
    path = report.nodeid.split("::")[0]
    if path.endswith(".ipynb"):
        _seconds[path] += report.duration


def pytest_terminal_summary(terminalreporter, config):
    """Prints the times beside their budgets, for runs that contain notebooks."""
    if not _seconds or hasattr(config, "workerinput"):
        return
    terminalreporter.section("time and budgets")
    for path, seconds in sorted(_seconds.items()):
        over = "   OVER BUDGET" if seconds > CHAPTER_BUDGET else ""
        terminalreporter.line(f"{path:48}{seconds:7.1f} s of {CHAPTER_BUDGET}{over}")
    total = time.perf_counter() - _START
    over = "   OVER BUDGET" if total > SUITE_BUDGET else ""
    terminalreporter.line(f"{'the whole run':48}{total:7.1f} s of {SUITE_BUDGET}{over}")


def pytest_sessionfinish(session):
    """An overrun fails the run only where the machine is known to be quiet: SEGTUTOR_STRICT_BUDGET=1."""
    over = any(seconds > CHAPTER_BUDGET for seconds in _seconds.values())
    over |= bool(_seconds) and time.perf_counter() - _START > SUITE_BUDGET
    if over and os.environ.get("SEGTUTOR_STRICT_BUDGET") == "1" and session.exitstatus == 0:
        session.exitstatus = 1
