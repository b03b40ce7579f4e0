"""The command line: exit codes, one sentence per error, and a quick start."""

import subprocess
import sys

import pytest

import segtutor
from segtutor import cli
from segtutor.lab import harness


def run(*arguments):
    command = [sys.executable, "-m", "segtutor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_version_and_help():
    answer = run("--version")
    assert (answer.returncode, answer.stdout) == (0, f"segtutor {segtutor.__version__}\n")
    answer = run()
    assert answer.returncode == 0
    for command in ("models", "train", "evaluate", "predict", "check-data", "benchmark", "claims", "doctor"):
        assert command in answer.stdout


def test_usage_errors_exit_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["nonsense"])
    assert stopped.value.code == 2 and "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["claims", "FCN-9"], "no claim 'FCN-9'"),
        (["benchmark", "FCN-9"], "no experiment 'FCN-9'"),
        (["check-data", "nowhere-at-all"], "nowhere-at-all does not exist"),
    ],
)
def test_errors_are_one_sentence_on_stderr(capsys, arguments, words):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("segtutor: ") and words in printed.err
    assert len(printed.err.splitlines()) == 1 and "Traceback" not in printed.err


def pairs(folder, value):
    import numpy as np
    from PIL import Image

    mask = np.zeros((8, 8), np.uint8)
    mask[0] = value
    for name, array in (("images", np.full((8, 8, 3), 99, np.uint8)), ("masks", mask)):
        (folder / name).mkdir()
        Image.fromarray(array).save(folder / name / "one.png")


@pytest.mark.parametrize(("value", "code"), [(1, 0), (7, 1)])
def test_check_data_exits_1_on_problems(tmp_path, capsys, value, code):
    pairs(tmp_path, value)
    assert cli.main(["check-data", str(tmp_path), "--num-classes", "2"]) == code
    assert ("values 0, 7" in capsys.readouterr().out) == bool(code)


def test_benchmark_passes_its_options_on(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(harness, "run", lambda ids, **options: asked.update(options, ids=ids) or 0)
    cli.main(["benchmark", "FCN-2", "LOSS-1", "--quick", "--seeds", "0", "3", "--results", str(tmp_path), "--rerun"])
    assert asked == {"ids": ["FCN-2", "LOSS-1"], "quick": True, "seeds": [0, 3], "folder": tmp_path, "rerun": True}


def test_benchmark_lists_experiments(capsys):
    assert cli.main(["benchmark", "--list"]) == 0
    assert "speed/import" in capsys.readouterr().out


def test_claims_are_shown_and_written(capsys, monkeypatch, tmp_path):
    from segtutor.lab import claims

    assert cli.main(["claims", "BB-3"]) == 0
    assert "BB-3: ConvNeXt" in (printed := capsys.readouterr().out) and "waits for a GPU" in printed
    (tmp_path / "book").mkdir()
    monkeypatch.setattr(claims.page, "checkout", lambda: tmp_path)
    assert cli.main(["claims", "--write"]) == 0
    assert capsys.readouterr().out == "Wrote book/claims.md.\n"
    assert (tmp_path / "book" / "claims.md").read_text(encoding="utf-8") == claims.page_text(tmp_path)


def test_claims_cannot_be_written_without_the_book(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(segtutor, "__file__", str(tmp_path / "segtutor" / "__init__.py"))
    assert cli.main(["claims", "--write"]) == 2
    assert "book is not beside the package" in capsys.readouterr().err


def test_doctor_fits_one_screen(capsys):
    assert cli.main(["doctor"]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and any(line[3:].startswith("torch ") for line in lines)
    assert any(line[3:].startswith("Data: ") for line in lines)


def test_interruption_exits_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "run", interrupted)
    assert cli.main(["benchmark"]) == 130 and "Traceback" not in capsys.readouterr().err
