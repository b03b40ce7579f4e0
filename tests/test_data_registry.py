"""Adding a dataset is one file: everything that asks for datasets by name then knows it."""

import inspect
import json
import textwrap

import pytest

from segtutor import cli, data
from segtutor.data import registry
from segtutor.data.registry import datasets, find_dataset, register_dataset
from segtutor.factory.config import section_model
from segtutor.runs.data import OWN_TO_SPLITS, parse_data

STREET = textwrap.dedent('''
    """Stripes: two classes, and nothing to download."""

    from typing import Literal

    import torch
    from torch.utils.data import Dataset

    from segtutor.data import DatasetSpec, register_dataset

    SPEC = DatasetSpec(name="stripes", title="Stripes", classes=("dark", "light"), palette=((0, 0, 0), (255, 255, 255)))


    @register_dataset("stripes", splits=("train", "val"))
    class Stripes(Dataset):
        """Stripes.

        Args:
            width: of a stripe, in pixels.
        """

        spec = SPEC

        def __init__(self, split="train", *, width: Literal[1, 2, 4] = 2, transform=None):
            self.split, self.width, self.transform = split, width, transform

        def __len__(self):
            return 4

        def __getitem__(self, index):
            mask = ((torch.arange(32) + index) // self.width % 2).expand(32, 32).contiguous()
            image = (0.2 + 0.6 * mask).expand(3, 32, 32).contiguous()
            return (image, mask) if self.transform is None else self.transform(image, mask)
''')


@pytest.fixture
def forgets(monkeypatch):
    """What a test registers is gone after it."""
    datasets()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_a_file_of_ones_own_is_known_to_every_command(tmp_path, forgets, capsys):
    file = tmp_path / "stripes_of_mine.py"
    file.write_text(STREET, encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        "model: mobilenetv2-fcn\ndata: {type: stripes, width: 4}\ntraining: {steps: 2, batch_size: 2}\n"
    )
    command = ["--import", str(file)]
    run = str(tmp_path / "run")
    assert cli.main([*command, "train", "--config", str(tmp_path / "run.yaml"), "--out", run]) == 0
    assert "Stripes, 4 images to train on, 4 to validate, 2 classes" in capsys.readouterr().out
    registry._ENTRIES.pop("stripes")
    assert cli.main([*command, "evaluate", run]) == 0
    assert "Stripes, val, 4 images" in capsys.readouterr().out
    registry._ENTRIES.pop("stripes")
    assert cli.main([*command, "check-data", "stripes"]) == 0
    assert "8 of 8 images checked, 2 classes" in capsys.readouterr().out
    registry._ENTRIES.pop("stripes")
    assert cli.main([*command, "schema"]) == 0
    made = json.loads(capsys.readouterr().out)["$defs"]["data_stripes"]["properties"]
    assert made["width"]["enum"] == [1, 2, 4] and made["width"]["description"] == "of a stripe, in pixels."
    registry._ENTRIES.pop("stripes")
    assert cli.main([*command, "train", "--config", "mobilenetv2-fcn", "data.type=stripes", "data.width=3"]) == 2
    assert "data.width: 3 is not possible; did you mean 2, 4 or 1?" in capsys.readouterr().err


def test_a_file_beside_the_others_needs_no_list(tmp_path, forgets, monkeypatch):
    (tmp_path / "stripes_beside.py").write_text(STREET, encoding="utf-8")
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    registry._import_all.cache_clear()
    try:
        assert "stripes" in data.list_datasets()
        assert data.Stripes is find_dataset("stripes").build is find_dataset("Stripes").build
        assert parse_data("stripes")["width"] == 2
    finally:
        registry._import_all.cache_clear()
        data.__dict__.pop("Stripes", None)
    with pytest.raises(AttributeError, match="no attribute 'Strypes'"):
        data.Strypes  # noqa: B018


def test_names_are_given_once(forgets):
    with pytest.raises(ValueError, match="'camvid' is already registered"):
        register_dataset("camvid")(type("Mine", (), {}))
    with pytest.raises(ValueError, match="'mine' has a spec named 'camvid'"):
        register_dataset("mine")(type("Mine", (), {"spec": data.CamVid.spec}))
    with pytest.raises(ValueError, match="there is no dataset 'camvit': did you mean camvid"):
        find_dataset("camvit")


@pytest.mark.parametrize("name", data.list_datasets())
def test_the_keys_of_a_dataset_are_the_arguments_of_its_class(name):
    entry = find_dataset(name)
    arguments = set(inspect.signature(entry.build).parameters) - {"split", "transform", "settings"}
    assert set(section_model(entry.build, OWN_TO_SPLITS).model_fields) == arguments
    assert hasattr(data, entry.title) and set(entry.splits) <= set(registry.SPLITS)
    assert entry.spec is None or entry.spec.name == name


def test_a_known_set_needs_its_settings(capsys):
    assert cli.main(["check-data", "folder"]) == 2
    assert "'folder' needs path and classes: give the folder itself" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["scenes", "cells"])
def test_drawn_splits_share_no_image(name):
    build = find_dataset(name).build
    sets = {split: build((32, 32), 4, split=split) for split in registry.SPLITS}
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        assert sets[split][3][0].equal(build((32, 32), 4, seed=seed)[3][0])
    first, second = (build((32, 32), 4, split="train", seed=seed) for seed in (0, 1))
    later = [build((32, 32), 4, split=split, seed=seed)[0][0] for split in registry.SPLITS for seed in (0, 1)]
    assert not first[0][0].equal(second[0][0])
    assert all(not one.equal(two) for i, one in enumerate(later) for two in later[:i])
    assert [len(build(split=split)) for split in registry.SPLITS] == [1000, 100, 200]
    with pytest.raises(ValueError, match="has no split 'all'"):
        build(split="all")
