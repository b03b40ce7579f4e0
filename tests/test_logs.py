"""Who sees what the package logs: the caller's own logging, or plain lines where a chapter or command asks for them."""

import logging
import subprocess
import sys

import pytest

from segtutor import cli, logs
from segtutor.lab import chapter

FIT = """
import torch
from segtutor.training import fit

data = [(torch.rand(3, 8, 8), torch.randint(2, (8, 8))) for _ in range(4)]
fit(torch.nn.Conv2d(3, 2, 1), data, steps=4, batch_size=2, log_every=2)
"""
say = logging.getLogger("segtutor.training").info


def no_handlers(monkeypatch):
    """A root logger without handlers, as in a program that has set up no logging: pytest has put its own there."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def script(code):
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout, answer.stderr


def test_a_script_that_asks_for_lines_sees_them():
    out, err = script(FIT + "\nimport logging; assert logging.getLogger('segtutor').handlers == []")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["step 2/4", "step 4/4"] and err == ""


def test_a_program_with_logging_of_its_own_gets_the_lines_there():
    out, err = script("import logging; logging.basicConfig(level='INFO', format='%(name)s: %(message)s')\n" + FIT)
    assert out == "" and [line.split("  ")[0] for line in err.splitlines()] == [
        "segtutor.training.reporting: step 2/4",
        "segtutor.training.reporting: step 4/4",
    ]
    assert script("import logging; logging.getLogger('segtutor').addHandler(logging.NullHandler())\n" + FIT)[0] == ""


def test_nothing_is_shown_unless_somebody_asks(capsys, monkeypatch):
    no_handlers(monkeypatch)
    say("hello")
    with logs.shown_unless_handled():
        say("shown")
    say("hello again")
    assert capsys.readouterr().out == "shown\n"
    assert (logs.LOGGER.handlers, logs.LOGGER.level, logs.LOGGER.propagate) == ([], logging.NOTSET, True)


def test_lines_are_shown_once_however_often_it_is_asked_for(capsys):
    logs.show()
    logs.show()
    chapter.settings()
    capsys.readouterr()
    with logs.shown():
        say("one")
    say("two")
    captured = capsys.readouterr()
    assert captured.out == "one\ntwo\n" and captured.err == ""


def test_the_root_logger_does_not_show_the_lines_a_second_time(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    logs.show()
    say("one")
    captured = capsys.readouterr()
    assert captured.out == "one\n" and captured.err == ""


def test_the_command_line_shows_the_lines_while_it_runs(capsys, monkeypatch):
    no_handlers(monkeypatch)
    monkeypatch.setattr(sys.modules["segtutor.cli.main"], "_models", lambda options: say("working") or 0)
    assert cli.main(["models"]) == 0
    say("after")
    assert capsys.readouterr().out == "working\n"


def test_a_closed_pipe_reaches_the_caller(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    logs.show()
    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        say("hello")
