"""What every test shares: one torch thread, absolute paths, GPU tests, and the times that the run is held to."""

from __future__ import annotations

import logging
import os
import signal
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


class Budgets:
    """Adds up the time of every notebook and prints it beside what it may take.

    A plugin of its own: pytest keeps a folder's conftest from seeing what happens in other folders.
    """

    def __init__(self, strict: bool):
        self.strict = strict
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report):
        """Adds the time of a cell, the start of its kernel included."""
        path = report.nodeid.split("::")[0]
        if path.endswith(".ipynb"):
            self.seconds[path] += report.duration

    def pytest_terminal_summary(self, terminalreporter):
        """Prints the times, for runs that contain notebooks."""
        if not self.seconds:
            return
        terminalreporter.section("time and budgets")
        for path, seconds in sorted(self.seconds.items()):
            over = "   OVER BUDGET" if seconds > CHAPTER_BUDGET else ""
            terminalreporter.line(f"{path:48}{seconds:7.1f} s of {CHAPTER_BUDGET}{over}")
        total = time.perf_counter() - _START
        over = "   OVER BUDGET" if total > SUITE_BUDGET else ""
        terminalreporter.line(f"{'the whole run':48}{total:7.1f} s of {SUITE_BUDGET}{over}")

    def pytest_sessionfinish(self, session):
        """An overrun fails the run only where the machine is known to be quiet: SEGTUTOR_STRICT_BUDGET=1."""
        over = any(seconds > CHAPTER_BUDGET for seconds in self.seconds.values())
        over |= bool(self.seconds) and time.perf_counter() - _START > SUITE_BUDGET
        if over and self.strict and session.exitstatus == 0:
            session.exitstatus = 1


def pytest_configure(config):
    """Registers the marker of notebook cells and, in the process that reports, the budgets."""
    config.addinivalue_line("markers", "notebook: a cell of a chapter, run by nbval")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Budgets(os.environ.get("SEGTUTOR_STRICT_BUDGET") == "1"), "segtutor-budgets")


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


@pytest.fixture(autouse=True)
def _same_numbers():
    """Random numbers begin anew in every test, so that none depends on which others ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def notices(caplog, monkeypatch):
    """What the package's logger says, with every licence unsaid so far and whatever others did to the logger."""
    from segtutor.logs import LOGGER
    from segtutor.weights.notices import licence_notice

    licence_notice.cache_clear()
    monkeypatch.setattr(LOGGER, "propagate", True)
    return caplog


@pytest.fixture
def hears_interrupts():
    """Ctrl-C arrives: a run that a shell has put into the background is told to ignore it, and hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def own_log():
    """The package's logger is for each test what it is in a new process."""
    logger = logging.getLogger("segtutor")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
