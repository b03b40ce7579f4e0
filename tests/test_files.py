"""A file is written whole or not at all, with the mode of any other file, and nothing is left beside it."""

import json
import os
import stat

import pytest
import torch

from segtutor.factory import create_model
from segtutor.files import whole_file, write_text
from segtutor.training import save_checkpoint


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    """A umask that is neither the usual one nor that of a private file."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_the_file_is_there_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with whole_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
        assert part.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_stands_alone(tmp_path, error):
    path = write_text(tmp_path / "file.txt", "old")
    with pytest.raises(error), whole_file(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_the_file_takes_its_name_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_bytes_are_on_the_disk_before_the_file_takes_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    write_text(tmp_path / "file.txt", "text")
    assert calls == ["fsync", "replace"]


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "file.txt"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() in ("first", "second")


def test_a_long_name_can_be_written(tmp_path):
    write_text(tmp_path / ("x" * 255), "text")


def test_saved_models_checkpoints_and_texts_have_the_mode_of_any_file(tmp_path, umask):
    model = create_model("resnet18-fcn", num_classes=2)
    model.save_pretrained(tmp_path)
    save_checkpoint({"format": 1, "tensor": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    write_text(tmp_path / "file.json", json.dumps({}))
    (tmp_path / "any").write_text("")
    modes = {path.name: mode(path) for path in tmp_path.iterdir()}
    assert len(modes) == 6 and set(modes.values()) == {mode(tmp_path / "any")}, modes
