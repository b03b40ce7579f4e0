"""What a run shows and writes while it goes: a bar on a terminal, lines elsewhere, curves as files, panels."""

import csv
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import CONFIG

from segtutor import logs, runs
from segtutor.factory.backbones import registry
from segtutor.runs import progress
from segtutor.runs.metrics import MetricFiles
from segtutor.training import History

pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")
HERE = Path(__file__).parent
PROGRAM = f"""
import json, signal, sys, warnings
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where this suite runs behind, without Ctrl-C
warnings.simplefilter("ignore")
sys.path.insert(0, {str(HERE)!r})
import tiny_runs
from segtutor import cli
tiny_runs.register()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


def on_terminal(arguments, columns):
    """Start the command on a terminal of its own; the process, and the end that shows what it wrote."""
    shown, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"},
    )  # fmt: skip
    os.close(slave)
    return process, shown


def read(shown, until=None, seconds=120):
    """What the terminal showed up to a text, or to the end of the process."""
    text, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and (until is None or not re.search(until, text)):
        if select.select([shown], [], [], 0.5)[0]:
            try:
                text += os.read(shown, 65536)
            except OSError:  # the other end is closed
                return text.decode()
    assert until is not None and re.search(until, text), text.decode()[-2000:]
    return text.decode()


SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture(scope="module")
def terminals(tmp_path_factory):
    """A whole run, one with Ctrl-C and one with SIGTERM in the middle, each on a terminal: (exit code, output)."""
    folder, found = tmp_path_factory.mktemp("terminals"), {}
    (folder / "c.yaml").write_text(json.dumps(CONFIG))
    started = {}
    for name in ("whole", "INT", "TERM"):
        steps = 40 if name == "whole" else 1_000_000
        given = ["train", "--config", str(folder / "c.yaml"), f"training.steps={steps}", "training.save_every=1000"]
        given += ["training.validate_every=20"] if name == "whole" else ["logging.every=5"]
        started[name] = on_terminal([*given, "--out", str(folder / name)], 120 if name == "whole" else 80)
    for name, (process, shown) in started.items():
        text = ""
        if name != "whole":
            text = read(shown, rb"/1000000.*loss \d")
            process.send_signal(getattr(signal, f"SIG{name}"))
        text += read(shown)
        found[name] = process.wait(60), text
        os.close(shown)
    return found


def test_a_terminal_shows_a_bar(terminals):
    code, text = terminals["whole"]
    assert code == 0 and HIDE in text and "━" in text
    last = re.findall(
        r"40/40 .*?loss (\d\.\d+)  lr \d\.\d\de-\d\d  [\d.]+ images/s  \d+:\d\d left  mIoU (\d\.\d+)", text
    )
    assert last and f"validation mIoU {last[-1][1]}" in text
    assert "step 40/40  loss" not in text and "step 20/40  validation mIoU" in text
    assert text.rindex(SHOW) > text.rindex(HIDE) and text.rindex("Done: ") > text.rindex("40/40 ")


@pytest.mark.parametrize(("how", "expected"), [("INT", 130), ("TERM", -signal.SIGTERM)])
def test_a_run_that_is_ended_leaves_the_terminal_clean(terminals, how, expected):
    code, text = terminals[how]
    assert code == expected and "Traceback" not in text
    assert HIDE in text and text.rindex(SHOW) > text.rindex(HIDE)
    rest = text[text.rindex("images/s") :]
    assert "\x1b[2K" in rest or "\r" in rest  # the line of the bar was wiped
    assert how == "TERM" or "Stopped after step" in rest


def test_elsewhere_there_are_lines(tmp_path, capsys):
    with logs.shown():
        runs.train(CONFIG, ["logging.every=3"], out=tmp_path / "run")
    text = capsys.readouterr().out
    line = r"step 3/6  loss \d\.\d{4}  lr \d\.\d\de-03  \d+ ms/step  \d+:\d\d left"
    assert re.search(line, text) and "\x1b" not in text


def test_when_a_bar_is_drawn(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert progress.is_drawn()
    with logs.shown():
        assert progress.is_drawn()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    assert not progress.is_drawn()  # somebody's own logging gets lines
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with monkeypatch.context() as patch:
        patch.setenv("TERM", "dumb")
        assert not progress.is_drawn()
    with monkeypatch.context() as patch:
        patch.setattr(progress.importlib.util, "find_spec", lambda name: None)
        assert not progress.is_drawn()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert not progress.is_drawn()  # notebooks, pipes, files


def test_times_are_read_at_a_glance():
    assert [progress.clock(seconds) for seconds in (5, 65.4, 3725)] == ["0:05", "1:05", "1:02:05"]


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_curves_are_files_for_other_programs(tmp_path):
    run = tmp_path / "run"
    history = runs.train(CONFIG, ["logging.every=4", "training.validate_every=3"], out=run)
    lines = lines_of(run)
    assert [(line["step"], line["kind"]) for line in lines] == [
        (3, "validation"), (4, "training"), (6, "training"), (6, "validation"),
    ]  # fmt: skip
    assert lines[1]["loss"] == sum(history.loss[:4]) / 4 and lines[2]["loss"] == sum(history.loss[4:]) / 2
    assert lines[1]["lr"] == history.lr[3] and lines[1]["images_per_second"] > 0
    assert lines[3] == {"step": 6, "kind": "validation", **history.validation[1][1]}
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, lines, strict=True):
        assert {key: value for key, value in row.items() if value} == {key: str(value) for key, value in line.items()}


def test_files_of_curves_go_on_where_the_run_goes_on(tmp_path):
    history = History([1, 2, 3], [3.0, 2.0, 1.0], [0.1, 0.1, 0.1], [0.5, 0.5, 0.5], [(2, {"miou": float("nan")})])
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "loss": 0.5}\n{"step": 10, "lo')  # of a run that was killed
    files = MetricFiles(tmp_path, every=1, steps=4, images=2, history=history, boundary_width=None)
    history.steps.append(4), history.loss.append(0.5), history.lr.append(0.1), history.step_seconds.append(0.25)
    files.entered(history)
    files.entered(history)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4]
    assert lines[2] == {"step": 2, "kind": "validation", "miou": None} and lines[4]["images_per_second"] == 8
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 6


def test_tensorboard_has_panels_of_the_same_images(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    runs.train(CONFIG, ["logging.tensorboard=true", "training.validate_every=3"], out=run)
    written = {}
    for path in sorted((run / "tensorboard" / "samples").iterdir()):
        events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        for tag in events.Tags()["images"]:
            written.setdefault(tag, []).extend(event.step for event in events.Images(tag))
    assert written == {f"validation/image {index}": [3, 6] for index in (0, 2, 5)}
