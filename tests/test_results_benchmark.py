"""Measured rows: the schema, the one reader, and the runner that writes them."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import segtutor
from segtutor.lab import harness, results
from segtutor.lab.harness import BenchmarkError, Experiment, Measurement, registry, runner, stopwatch
from segtutor.lab.protocols import reference_speed, running_table
from segtutor.lab.results import MissingResult, ResultsError, Row, parse_row, read_file, read_rows, result

RECORD = {
    "id": "X-1/net/miou",
    "value": 0.5,
    "unit": "mIoU",
    "conditions": "4 images",
    "command": "segtutor benchmark X-1",
    "commit": "abc",
    "config": {"steps": 10},
    "seed": 0,
    "hardware": "a machine",
    "torch": "2.15.0",
    "python": "3.11.7",
    "date": "2026-01-31T12:00:00Z",
    "wall_seconds": 1.5,
    "spread": None,
}


def write(folder, *records, name="x.json"):
    (folder / name).write_text(json.dumps({"rows": [{**RECORD, **record} for record in records]}), encoding="utf-8")


def declare(run, id="X-1", **changes):
    fields = dict(
        run=run,
        claim=None,
        seeds=(0, 1, 2),
        unit="mIoU",
        conditions="4 images",
        group="x",
        config={},
        device="cpu",
        summary="",
    )
    return {id: Experiment(id, **{**fields, **changes})}


# ---------------------------------------------------------------------------------------------------------- the reader


def test_row_survives_json():
    row = parse_row(json.loads(json.dumps(RECORD)))
    assert asdict(row) == RECORD
    assert parse_row({**RECORD, "spread": [1, 2]}).spread == (1.0, 2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": float("nan")}, "value must be a finite number"),
        ({"value": "0.5"}, "value must be a finite number"),
        ({"value": True}, "value must be a finite number"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"unit": " "}, "unit must be a non-empty string"),
        ({"hardware": None}, "hardware must be a non-empty string"),
        ({"config": "steps"}, "config must be a JSON object"),
        ({"date": "yesterday"}, "date must be ISO 8601"),
        ({"spread": [2, 1]}, r"spread must be \[low, high\]"),
        ({"spread": 0.1}, "spread must be null or two"),
        ({"colour": "red"}, "unknown colour"),
    ],
)
def test_bad_rows_are_refused_by_name(tmp_path, change, words):
    write(tmp_path, {}, change)
    with pytest.raises(ResultsError, match=rf"x\.json, row 2: .*{words}"):
        read_file(tmp_path / "x.json")


def test_missing_fields_and_bad_files_are_named(tmp_path):
    with pytest.raises(ResultsError, match="missing unit, date"):
        parse_row({key: value for key, value in RECORD.items() if key not in ("unit", "date")})
    cases = {"{": "not valid JSON", "[]": "at the top level", '{"rows": [1]}': "must be a JSON object"}
    for text, words in cases.items():
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        with pytest.raises(ResultsError, match=words):
            read_file(tmp_path / "x.json")


def test_the_same_measurement_twice_is_refused_across_files(tmp_path):
    write(tmp_path, {})
    write(tmp_path, {"value": 0.7}, name="y.json")
    with pytest.raises(ResultsError, match="twice"):
        read_rows(folder=tmp_path)


def test_rows_by_prefix_stop_at_the_slash(tmp_path):
    write(tmp_path, {}, {"id": "X-1"}, {"id": "X-10"}, {"id": "X-1/other"})
    assert {row.id for row in read_rows("X-1", folder=tmp_path)} == {"X-1/net/miou", "X-1", "X-1/other"}
    assert len(read_rows(folder=tmp_path)) == 4


def test_result_is_mean_and_range_over_seeds(tmp_path):
    write(tmp_path, *({"seed": seed, "value": value} for seed, value in enumerate((0.2, 0.9, 0.4))))
    found = result("X-1/net/miou", folder=tmp_path)
    assert found.value == pytest.approx(0.5) and found.spread == (0.2, 0.9) and found.n == 3
    assert f"{found:.2f}" == "0.50" and float(found) == found.value
    assert str(found) == "0.5 mIoU (0.2 to 0.9), 3 seeds"
    for part in ("3 seeds", "a machine", "torch 2.15.0", "commit abc", "2026-01-31", "`segtutor benchmark X-1`"):
        assert part in found.provenance


def test_one_seed_keeps_the_spread_inside_its_run(tmp_path):
    write(tmp_path, {"spread": [0.4, 0.6]})
    assert result("X-1/net/miou", folder=tmp_path).spread == (0.4, 0.6)


def test_machines_and_configurations_are_never_averaged(tmp_path):
    write(
        tmp_path,
        {"seed": 0, "value": 1.0},
        {"seed": 1, "value": 3.0},
        {"seed": 0, "value": 100.0, "hardware": "another", "date": "2026-02-01T12:00:00Z"},
        {"seed": 0, "value": 500.0, "config": {"steps": 5}, "date": "2025-01-01T12:00:00Z"},
        {"seed": 1, "value": 500.0, "config": {"steps": 5}, "date": "2025-01-01T12:00:00Z"},
        {"seed": 2, "value": 500.0, "config": {"steps": 5}, "date": "2025-01-01T12:00:00Z"},
    )
    found = result("X-1/net/miou", folder=tmp_path)
    assert (found.value, found.n, found.hardware) == (2.0, 2, "a machine")


def test_missing_result_names_what_there_is(tmp_path):
    write(tmp_path, {})
    with pytest.raises(MissingResult, match=r"'X-1/net/iou'.*X-1/net/miou.*`segtutor benchmark X-1`"):
        result("X-1/net/iou", folder=tmp_path)
    with pytest.raises(MissingResult, match="no rows at all"):
        result("Y", folder=tmp_path)


def test_a_file_is_parsed_again_when_its_time_or_its_size_changes(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(results, "read_file", lambda path: parsed.append(path) or read_file(path))
    for value, second in ((0.5, 1), (0.7, 2), (0.75, 2)):
        write(tmp_path, {"value": value})
        os.utime(tmp_path / "x.json", (second, second))
        assert [result("X-1/net/miou", folder=tmp_path).value for _ in range(3)] == [value] * 3
    assert len(parsed) == 3


def test_the_committed_rows_are_valid():
    for row in read_rows():
        assert "quick" not in row.config
        assert row.command.startswith("segtutor benchmark ")
        assert not row.commit.startswith("unknown"), f"{row.id} was measured outside a checkout"


# ---------------------------------------------------------------------------------------------------------- the runner


def test_rows_carry_their_provenance(tmp_path, capsys):
    def measure(seed, quick, log):
        log("half way")
        return {"net/miou": 0.5 + seed, "net/ms": Measurement(7, (6, 9))}

    unit = {"net/miou": "mIoU", "ms": "ms"}
    known = declare(measure, unit=unit, config={"steps": 3}, seeds=(4,))
    assert harness.run(folder=tmp_path, experiments=known) == 0
    rows = {row.id: row for row in read_file(tmp_path / "x.json")}
    score, timing = rows["X-1/net/miou"], rows["X-1/net/ms"]
    assert (score.value, score.unit, score.seed, dict(score.config)) == (4.5, "mIoU", 4, {"steps": 3})
    assert (timing.value, timing.unit, timing.spread) == (7, "ms", (6.0, 9.0))
    assert score.hardware == harness.hardware() and "thread" in score.hardware
    assert score.python == ".".join(map(str, sys.version_info[:3])) and score.date.endswith("Z")
    printed = capsys.readouterr().out
    assert "half way" in printed and "X-1/net/miou = 4.5 mIoU" in printed


def test_a_second_run_measures_only_what_is_missing(tmp_path, capsys):
    seen = []
    known = declare(lambda seed, quick, log: seen.append(seed) or seed)
    harness.run(folder=tmp_path, experiments=known, seeds=[1])
    harness.run(folder=tmp_path, experiments=known)
    assert seen == [1, 0, 2]
    harness.run(folder=tmp_path, experiments=known)
    assert seen == [1, 0, 2] and "3 runs already measured" in capsys.readouterr().out
    harness.run(folder=tmp_path, experiments=known, seeds=[2], rerun=True)
    assert seen[3:] == [2] and len(read_file(tmp_path / "x.json")) == 3
    harness.run(folder=tmp_path, experiments=declare(known["X-1"].run, config={"steps": 5}), seeds=[0])
    assert seen[4:] == [0] and len(read_file(tmp_path / "x.json")) == 4


def test_rows_of_another_machine_stay(tmp_path):
    foreign = {"id": "X-1", "hardware": "somewhere else", "value": 42.0, "config": {}}
    write(tmp_path, foreign)
    for rerun in (False, True):
        harness.run(folder=tmp_path, experiments=declare(lambda *_: 1.0, seeds=(0,)), rerun=rerun)
    rows = {row.hardware: row.value for row in read_file(tmp_path / "x.json")}
    assert rows == {"somewhere else": 42.0, harness.hardware(): 1.0}


def test_an_interruption_keeps_what_was_measured(tmp_path, capsys):
    def measure(seed, quick, log):
        if seed == 1:
            raise KeyboardInterrupt
        return 1.0

    assert harness.run(folder=tmp_path, experiments=declare(measure)) == 130
    assert [row.seed for row in read_file(tmp_path / "x.json")] == [0]
    assert "1 run kept" in capsys.readouterr().out


def test_a_failing_experiment_costs_only_itself(tmp_path, capsys):
    def broken(seed, quick, log):
        raise RuntimeError("no such layer")

    known = {**declare(broken, "A", seeds=(0,)), **declare(lambda *_: 1.0, "B", seeds=(0,))}
    assert harness.run(folder=tmp_path, experiments=known) == 1
    assert [row.id for row in read_file(tmp_path / "x.json")] == ["B"]
    assert "A, seed 0 failed: no such layer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("returned", "unit", "words"),
    [
        (float("nan"), "ms", "finite"),
        ({}, "ms", "no values"),
        ("fast", "ms", "return a number"),
        ({"a/b": 1.0}, {"c": "ms"}, "has no unit"),
    ],
)
def test_a_value_that_cannot_be_a_row_fails(tmp_path, capsys, returned, unit, words):
    known = declare(lambda *_: returned, unit=unit, seeds=(0,))
    assert harness.run(folder=tmp_path, experiments=known) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "x.json").exists()


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    write(tmp_path, {})
    before = (tmp_path / "x.json").read_bytes()
    monkeypatch.setattr(runner.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        harness.record([replace(parse_row(RECORD), seed=9)], tmp_path / "x.json")
    assert (tmp_path / "x.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_two_writers_lose_nothing(tmp_path):
    code = (
        "import json, sys\n"
        "from dataclasses import replace\n"
        "from segtutor.lab import harness, results\n"
        f"row = results.parse_row(json.loads({json.dumps(json.dumps(RECORD))}))\n"
        "for n in range(20):\n"
        "    harness.record([replace(row, seed=int(sys.argv[1]) + n)], sys.argv[2])\n"
    )
    target = str(tmp_path / "x.json")
    writers = [subprocess.Popen([sys.executable, "-c", code, start, target]) for start in ("0", "100")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(read_file(target)) == 40


def test_quick_rows_never_enter_the_package(tmp_path, capsys):
    seen = []
    known = declare(lambda seed, quick, log: seen.append(quick) or 1.0, seeds=(0,))
    assert harness.run(quick=True, folder=tmp_path, experiments=known) == 0
    (row,) = read_file(tmp_path / "x.json")
    assert seen == [True] and row.config == {"quick": True} and row.conditions.startswith("Quick run, not evidence")
    before = sorted(results.FOLDER.iterdir())
    harness.run(quick=True, experiments=known)
    assert sorted(results.FOLDER.iterdir()) == before and "segtutor-quick-" in capsys.readouterr().out
    with pytest.raises(BenchmarkError, match="never go into the package"):
        harness.run(quick=True, folder=results.FOLDER, experiments=known)


def test_progress_says_how_long_it_takes(tmp_path, capsys):
    slow = {"id": "X-1", "wall_seconds": 120.0, "hardware": "somewhere else"}
    write(tmp_path, slow)
    harness.run(folder=tmp_path, experiments=declare(lambda *_: 1.0))
    assert "[1/3] X-1, seed 0, about 6 min to go" in capsys.readouterr().out


def test_selection_by_id_prefix_and_claim():
    known = {**declare(None, "table/fcn8s"), **declare(None, "table/unet"), **declare(None, "Z", claim="FCN-2")}
    assert [e.id for e in harness.select(["table"], known)] == ["table/fcn8s", "table/unet"]
    assert [e.id for e in harness.select(["FCN-2", "Z"], known)] == ["Z"]
    assert len(harness.select([], known)) == 3
    with pytest.raises(BenchmarkError, match="'tab'; there are table/fcn8s"):
        harness.select(["tab"], known)


def test_experiments_that_need_a_gpu_wait_for_it(tmp_path, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    known = declare(lambda *_: pytest.fail("ran"), device="cuda")
    assert harness.run(folder=tmp_path, experiments=known) == 0
    assert "X-1 waits for a GPU" in capsys.readouterr().out


def test_every_experiment_module_loads_and_names_real_claims():
    from segtutor.lab.claims import CLAIMS

    known = harness.load_experiments()
    ids = {claim.id for claim in CLAIMS}
    for entry in known.values():
        assert entry.claim is None or entry.claim in ids, f"{entry.id} names the claim {entry.claim}"
        assert entry.summary and entry.conditions and entry.seeds
    assert "speed/import" in known and "speed/import" in harness.listing(known)


def git(folder, *arguments):
    name = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True)


def test_commit_is_dirty_only_for_changed_code(tmp_path, monkeypatch):
    package = tmp_path / "segtutor"
    (package / "lab" / "results").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "lab" / "results" / "x.json").write_text("{}")
    monkeypatch.setattr(segtutor, "__file__", str(package / "__init__.py"))
    assert harness.commit() == f"unknown (package {segtutor.__version__})"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    clean = harness.commit()
    assert len(clean) == 12 and "-" not in clean
    (tmp_path / "README.md").write_text("changed")
    (package / "lab" / "results" / "x.json").write_text('{"rows": []}')
    assert harness.commit() == clean
    (package / "new.py").write_text("")
    assert harness.commit() == clean + "-dirty"


def test_a_package_inside_somebody_elses_checkout_has_no_commit(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "segtutor"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    monkeypatch.setattr(segtutor, "__file__", str(package / "__init__.py"))
    assert harness.commit().startswith("unknown")
    assert str(harness.default_folder()) == "segtutor-results"


def test_reading_rows_needs_no_torch():
    code = "import sys; from segtutor.lab import claims, results; results.read_rows(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_row_is_frozen():
    with pytest.raises(AttributeError):
        Row(**{**RECORD}).value = 1.0


# -------------------------------------------------------------------------------------- the running table's protocol


def field_of(*layers, side=24):
    from torch import nn

    from segtutor import probe

    return running_table.longer_side(probe.receptive_field(nn.Sequential(*layers), (side, side)), side)


def test_field_of_a_local_network_is_its_longer_side():
    from torch import nn

    assert field_of(nn.Conv2d(3, 2, (3, 7), padding=(1, 3))) == 7


def test_field_of_a_network_that_sees_everything_is_the_images_side():
    from torch import nn

    assert field_of(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1)) == 24
    side = running_table.FIELD
    assert f"image of {side}x{side}, where {side} means all" in running_table.CONDITIONS


def test_field_that_one_border_cuts_off_is_refused():
    from torch import nn

    with pytest.raises(BenchmarkError, match="cut off.*24x24"):
        field_of(nn.AdaptiveAvgPool2d((1, 4)), nn.Conv2d(3, 2, 1))


# ------------------------------------------------------------------------------------------- a network beside another


def clocked(monkeypatch, seconds):
    """A 3x3 convolution for each name, and the (pass, name, layout, training mode) of each run that is timed.

    Args:
        seconds: ``seconds(pass, name, layout, number)``, what the clock says of a network's run of this number.
    """
    import torch
    from torch import nn

    class Side(nn.Module):
        def __init__(self, name, copies):
            super().__init__()
            self.name, self.copies, self.layer = name, copies, nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, images):
            return torch.stack([self.layer(images)] * self.copies).mean(0)

    runs = []

    def clock(kind):
        def make(model, images, target=None, *, mixed=False):
            contiguous, numbers = images.is_contiguous(), iter(range(100))
            layout = torch.contiguous_format if contiguous else torch.channels_last
            assert model.layer.weight.is_contiguous(memory_format=layout), "weights and images lie alike"

            def once():
                runs.append((kind, model.name, layout, model.training))
                return seconds(kind, model.name, layout, next(numbers))

            return once

        return make

    monkeypatch.setattr(stopwatch, "forward_seconds", clock("forward"))
    monkeypatch.setattr(stopwatch, "step_seconds", clock("step"))
    ours, theirs = Side("ours", 1), Side("theirs", 8)
    theirs.layer.load_state_dict(ours.layer.state_dict())
    return {"ours": ours, "theirs": theirs}, runs


def test_the_faster_memory_format_is_that_of_the_second_run(monkeypatch):
    import torch

    def seconds(kind, name, layout, number):
        return 9 - number if (layout == torch.channels_last) == (name == "ours") else 5 + 4 * number

    models, _ = clocked(monkeypatch, seconds)
    plain, last = torch.contiguous_format, torch.channels_last
    chosen = stopwatch.faster_formats(models, 16, "cpu", None)
    assert chosen == {("forward", "ours"): last, ("step", "ours"): last} | {
        ("forward", "theirs"): plain, ("step", "theirs"): plain,
    }  # fmt: skip


def test_a_networks_time_and_memory_are_over_the_references(monkeypatch):
    import torch

    from segtutor import probe

    def seconds(kind, name, layout, number):
        return 5.0 if number == 0 else (0.25 if name == "ours" else 1.0) * (2 if kind == "step" else 1)

    models, runs = clocked(monkeypatch, seconds)
    formats = {(kind, name): torch.channels_last for kind in ("forward", "step") for name in models}
    lines = []
    values = stopwatch.compare_at_size(models, 16, "cpu", None, formats, (2, 3), lines.append)
    for kind, factor in (("forward", 1), ("step", 2)):
        assert values[kind] == Measurement(0.25, (0.25, 0.25)), "warming up does not count"
        assert values[f"{kind}_ms_ours"] == Measurement(250 * factor, (250 * factor,) * 2)
        assert values[f"{kind}_ms_theirs"] == Measurement(1000 * factor, (1000 * factor,) * 2)
        options = {"batch": 2, "training": kind == "step"}
        ours, theirs = (probe.count_peak_bytes(model, (16, 16), **options) for model in models.values())
        assert values[f"{kind}_memory"] == ours / theirs < 1
    assert [runs.count(("forward", name, torch.channels_last, False)) for name in models] == [3, 3]
    assert [runs.count(("step", name, torch.channels_last, True)) for name in models] == [4, 4]
    assert len(runs) == 14 and "theirs" in lines[0]


def test_the_caller_chooses_the_mode_of_the_backward_pass(monkeypatch):
    import torch

    models, runs = clocked(monkeypatch, lambda *_: 1.0)
    formats = {(kind, name): torch.contiguous_format for kind in ("forward", "step") for name in models}
    stopwatch.compare_at_size(models, 8, "cpu", torch.nn.Module.eval, formats, (1, 1), lambda line: None)
    assert {training for *_, training in runs} == {False}


def test_networks_that_differ_are_not_timed(monkeypatch):
    import torch

    models, runs = clocked(monkeypatch, lambda *_: 1.0)
    formats = {(kind, name): torch.contiguous_format for kind in ("forward", "step") for name in models}
    torch.nn.init.ones_(models["ours"].layer.bias)
    with pytest.raises(AssertionError, match="not close"):
        stopwatch.compare_at_size(models, 8, "cpu", None, formats, (1, 1), lambda line: None)
    assert runs == []


def test_experiments_read_no_clock_but_the_stopwatch():
    for folder in ("experiments", "protocols"):
        for path in (Path(segtutor.__file__).parent / "lab" / folder).glob("*.py"):
            imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
            assert "time" not in {alias.name for node in imports for alias in node.names}, path.name


def test_a_paired_ratio_compares_runs_of_the_same_round():
    ours, theirs = iter([9.0, 1.0, 4.0, 9.0]), iter([1.0, 2.0, 4.0, 3.0])
    found = stopwatch.paired_ratio(lambda: next(ours), lambda: next(theirs), 3, warmup=1)
    assert found == Measurement(1.0, (0.75, 2.0))


def test_seconds_are_those_of_the_run_alone(monkeypatch):
    now = iter(range(10))
    for clock in ("process_time", "perf_counter"):
        monkeypatch.setattr(stopwatch.time, clock, lambda: next(now))
    once = stopwatch.seconds_of(lambda: [next(now) for _ in range(4)], before=lambda: [next(now) for _ in range(3)])
    assert once() == 5  # 3 before the clock starts, 4 in the run


def test_runs_in_turns_change_the_order_and_forget_the_first():
    calls = []
    runs = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert stopwatch.in_turns(runs, 2, warmup=1) == {"a": [4, 5], "b": [3, 6]} and calls == list("abbaab")


def test_the_forward_pass_is_timed_in_evaluation_mode_and_the_step_as_the_model_stands():
    import torch
    from torch import nn

    model, seen = nn.Conv2d(3, 2, 1).train(), []
    model.register_forward_hook(lambda layer, args, out: seen.append((layer.training, out.requires_grad)))
    images, target = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    assert stopwatch.step_seconds(model, images, target)() >= 0 and stopwatch.forward_seconds(model, images)() >= 0
    assert seen == [(True, True), (False, False)]


def test_each_size_is_an_experiment_and_larger_ones_choose_their_format_at_512(monkeypatch):
    monkeypatch.setattr(registry, "EXPERIMENTS", {})
    asked = []
    monkeypatch.setattr(reference_speed, "_by_name", lambda build, names, side, device: build(side))
    monkeypatch.setattr(reference_speed, "faster_formats", lambda models, side, *_: asked.append((models, side)) or {})
    monkeypatch.setattr(reference_speed, "compare_at_size", lambda models, side, *rest: (models, side, rest[-2]))
    rounds = {128: (9, 5), 1024: (3, 2)}
    reference_speed.speed_rows("net", lambda side: f"built for {side}", "timm", "a net", "no dropout", rounds)
    small, large = (registry.EXPERIMENTS[f"speed/net/{side}"] for side in (128, 1024))
    assert small.run(0, False, print) == ("built for 128", 128, (9, 5))
    assert large.run(0, False, print) == ("built for 1024", 1024, (3, 2))
    assert asked == [("built for 128", 128), ("built for 512", 512)]
    assert large.run(0, True, print) == ("built for 64", 64, (2, 2)) and asked[2] == ("built for 64", 64)
    assert (large.config, large.group) == ({"side": 1024, "rounds": [3, 2]}, "speed")
    assert {small.unit_of(f"step_ms_{name}") for name in ("segtutor", "timm")} == {"ms"}
    assert small.unit_of("forward_memory") == small.unit_of("step") == "ratio"
