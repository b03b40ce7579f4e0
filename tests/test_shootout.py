"""The protocols of the shoot-out: what is trained, how its rate is chosen, what its bounds are; and the GPU session."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs
import torch

from segtutor import runs
from segtutor.data import SyntheticScenes
from segtutor.factory.backbones import registry
from segtutor.factory.config import read_yaml, shipped_configs
from segtutor.lab import harness
from segtutor.lab.experiments import shipped, shootout
from segtutor.lab.protocols import converged
from segtutor.lab.protocols.converged import NETWORKS, RATES, STREET, TISSUE, InMemory, Protocol, build, through_stride
from segtutor.metrics import ConfusionMatrix

ROOT = Path(__file__).resolve().parents[1]


class Drawn(Protocol):
    """The street protocol on drawn scenes, for machines without CamVid."""

    def data(self, split):
        seeds = {"train": 0, "val": 1, "test": 2}
        files = SyntheticScenes((48, 64), 12, seed=seeds[split])
        return InMemory(files, {"new_recording": [0, 1], "seen_recording": [2, 3]} if split == "test" else {})


DRAWN = Drawn("street", 30, (32, 48), "drawn scenes")


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("key", NETWORKS)
def test_every_network_is_built_for_both_sets(key, in_channels):
    scores = build(key, 5, in_channels).eval()(torch.rand(1, in_channels, 48, 64))
    assert scores.shape == (1, 5, 48, 64)


def test_one_pixel_sees_one_pixel():
    model = build("one_pixel", 4, 3)
    images = torch.rand(1, 3, 32, 40)
    changed = images.clone()
    changed[0, :, 10, 20] += 1
    moved = (model(images) != model(changed)).any(dim=1)
    assert moved[0, 10, 20] and moved.sum() == 1
    assert not torch.equal(model(images * 0)[..., 0, 0], model(images * 0)[..., 31, 39])  # it knows the place


def test_the_book_s_networks_are_all_there():
    experiments = harness.load_experiments()
    for protocol in (STREET, TISSUE):
        for key in NETWORKS:
            assert experiments[f"{protocol.name}/{key}"].seeds == (0, 1, 2)
            assert experiments[f"{protocol.name}/rate/{key}"].seeds == (0,)
        assert f"{protocol.steps} steps" in experiments[f"{protocol.name}/unet"].conditions
    tabled = {id.removeprefix("table/") for id in experiments if id.startswith("table/")} - {"cost"}
    assert tabled | {"one_pixel"} == set(NETWORKS)


def test_a_network_learns_and_the_best_validation_is_kept(capsys):
    torch.set_num_threads(1)
    model, curve = converged.trained(DRAWN, "fcn8s", 5e-3, 30, 0, False, print)
    assert [step for step, _ in curve] == [30] and "validation mIoU" in capsys.readouterr().out
    again, same = converged.trained(DRAWN, "fcn8s", 5e-3, 30, 0, False, lambda _: None)
    assert same == curve
    scores = converged.scores_of(DRAWN, model, curve, False)
    assert scores["validation_miou"] == curve[0][1] and scores["best_step"] == 30
    assert {"new_recording/miou", "seen_recording/miou", "iou/sky", "boundary_miou"} <= set(scores)
    assert scores["miou"] == converged.scores_of(DRAWN, again, curve, False)["miou"] > 0.02


def test_weights_are_those_of_the_best_validation_not_the_last(monkeypatch):
    monkeypatch.setattr(converged, "EVERY", 2)
    states, scored = [], iter([0.2, 0.9, 0.9, 0.1])

    def fit(model, train, *, steps, save, **settings):
        history = {"validation": []}
        for step in range(1, 5):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.fill_(step)
            history["validation"].append((step, {"miou": next(scored)}))
            save({"history": history})
            states.append(step)

    monkeypatch.setattr("segtutor.training.fit", fit)
    model, curve = converged.trained(DRAWN, "one_pixel", 1e-3, 4, 0, False, lambda _: None)
    assert len(curve) == 4 and next(model.parameters()).flatten()[0] == 2  # the first of equal ones


def test_the_rate_is_the_best_on_validation(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGTUTOR_RESULTS", str(tmp_path))
    with pytest.raises(harness.BenchmarkError, match="run `segtutor benchmark street/rate/unet` first"):
        converged.chosen_rate(STREET, "unet")
    entry = harness.load_experiments()["street/rate/unet"]
    values = {f"{rate:g}": score for rate, score in zip(RATES, (0.3, 0.5, 0.4), strict=True)}
    harness.record(harness.rows_of(entry, 0, values, 1.0, source="x", quick=False), tmp_path / "street.json")
    assert converged.chosen_rate(STREET, "unet") == RATES[1]


def test_a_copy_without_history_is_told_its_commit(tmp_path, monkeypatch):
    package = tmp_path / "segtutor"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(harness.provenance.segtutor, "__file__", str(package / "__init__.py"))
    assert harness.commit().startswith("unknown")
    for path in (str(package / "__init__.py"), str(ROOT / "segtutor" / "__init__.py")):
        monkeypatch.setattr(harness.provenance.segtutor, "__file__", path)
        monkeypatch.setenv("SEGTUTOR_COMMIT", "0123456789ab")
        assert harness.commit() == "0123456789ab"


@pytest.mark.parametrize("stride", [1, 4, 8, 32])
def test_a_stride_keeps_large_areas_and_loses_thin_ones(stride):
    masks = torch.zeros(1, 50, 70, dtype=torch.long)
    masks[:, :, 35:] = 1
    masks[:, :, 10] = 2  # a pole, one pixel wide
    masks[:, 40:, :5] = 255
    seen = through_stride(masks, stride, 3)
    assert seen.shape == masks.shape and seen.max() <= 2
    if stride == 1:
        inside = masks != 255
        assert torch.equal(seen[inside], masks[inside])
    else:
        assert not (seen == 2).any() and (seen[:, :, 40 + stride :] == 1).all()


def test_bounds_fall_with_the_stride():
    masks = torch.stack([SyntheticScenes((96, 128), 4, seed=3)[i][1] for i in range(4)])
    scores = []
    for stride in (2, 4, 8, 16):
        confusion = ConfusionMatrix(SyntheticScenes().spec.num_classes)
        confusion.update(through_stride(masks, stride, SyntheticScenes().spec.num_classes), masks)
        scores.append(confusion.miou)
    assert scores == sorted(scores, reverse=True) and 0.9 > scores[1] > scores[3] > 0.1


def test_units_cover_every_class():
    entry = harness.load_experiments()["street/unet"]
    assert entry.unit_of("iou/bicyclist") == "IoU" and entry.unit_of("new_recording/miou") == "mIoU"
    with pytest.raises(harness.BenchmarkError):
        entry.unit_of("speed")
    assert shootout.UNITS["lr"] == "learning rate" and replace(STREET, steps=5).config["steps"] == 5


# ---------------------------------------------------------------------------------------------- shipped configurations
def test_a_shipped_configuration_is_measured_by_the_commands(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
    run, overrides = tmp_path / "run", ["training.validate_every=3", "training.seed=1"]
    values = shipped.measured(tiny_runs.CONFIG, run, overrides)
    assert values.keys() == shipped.UNITS.keys() and 0 < values["minutes"] < 5
    assert values["miou"] == runs.evaluate(run, "test")["miou"] == runs.evaluate(run, "test", weights="best")["miou"]
    validated = [score["miou"] for _, score in json.loads((run / "history.json").read_text())["validation"]]
    assert values["validation_miou"] == max(validated) and len(validated) == 2
    again = shipped.measured(tiny_runs.CONFIG, run, overrides)
    assert again == {name: value for name, value in values.items() if name != "minutes"}, "it is there, and goes on"


def test_an_interrupted_run_gives_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", lambda *_, **__: SimpleNamespace(interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        shipped.measured(tiny_runs.CONFIG, tmp_path / "run", [])


def test_rows_of_shipped_configurations_hold_the_configuration():
    experiments = harness.load_experiments()
    for name in shipped.SHIPPED:
        entry = experiments[f"shipped/{name}"]
        assert entry.config["training"] == read_yaml(shipped_configs()[name])["training"] and entry.seeds == (0, 1, 2)


# ----------------------------------------------------------------------------------------------------- the GPU session
@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import gpu_session

    return gpu_session


def test_a_rate_is_measured_before_the_rows_that_need_it(session):
    groups = session.queue(["street/unet", "street/rate/unet", "tissue/segnet", "street"])
    assert groups[0] == ["street/rate/unet", "street/unet"]
    assert groups[1] == ["tissue/segnet"] and len(groups) == 2 + len(NETWORKS) - 1 + 1  # and the bounds
    flat = [id for group in groups for id in group]
    assert len(flat) == len(set(flat))


def test_a_session_s_rows_join_the_package_s(session, tmp_path, monkeypatch, capsys):
    entry = harness.load_experiments()["street/bounds"]
    rows = harness.rows_of(entry, 0, {"majority/miou": 0.02}, 1.0, source="x", quick=False)
    harness.record(rows, tmp_path / "s" / "rows" / "street.json")
    monkeypatch.setattr("segtutor.lab.results.FOLDER", tmp_path / "package")
    assert session.collect(tmp_path / "s") == 0
    stored = json.loads((tmp_path / "package" / "street.json").read_text())
    assert stored["rows"][0]["id"] == "street/bounds/majority/miou" and "street.json: 1 rows" in capsys.readouterr().out


def test_time_is_up(session, tmp_path, monkeypatch):
    monkeypatch.setattr(session.test_gpu, "environment", lambda: {})
    monkeypatch.setattr(session, "queue", lambda ids: [["a"], ["b"]])
    monkeypatch.setattr(session.sys, "executable", "/bin/sleep")
    started = []
    real = session.subprocess.Popen
    monkeypatch.setattr(
        session.subprocess, "Popen", lambda command, **rest: started.append(command) or real(["sleep", "60"], **rest)
    )
    monkeypatch.setattr(sys, "argv", ["x", "--no-tests", "--minutes", "0.03", "--reserve", "0", "--jobs", "1",
                                      "--out", str(tmp_path)])  # fmt: skip
    assert session.main() == 0 and len(started) == 1
