"""Two processes train what one trains: the same images, weights, scores and states; and they fall together."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import several_processes
import tiny_runs
import torch
import yaml
from several_processes import net, samples, trained
from torch import nn

from segtutor.runs.resume import resume
from segtutor.training import distributed, evaluate, fit, load_checkpoint, sampling

HERE = Path(__file__).parent
CASES = [
    "equal", "continued", "uneven", "workers", "norms", "matrix", "signal", "nan", "memory", "killed", "disk", "shares",
    "order", "cpu_norms", "unread", "command", "resumed", "in_use", "wrong_key", "broken_image",
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")


class Pairs:
    """What two processes left of each case."""

    def __init__(self, folder):
        self.folder, self.one = folder, trained(folder / "one")
        trained(folder / "ten", count=14)
        config = {**tiny_runs.CONFIG, "training": {**tiny_runs.CONFIG["training"], "batch_size": 4, "save_every": 1}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", HERE / "several_processes.py", folder, *CASES]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.statuses = torch.load(folder / "statuses.pt")

    def answers(self, case):
        """What each process returned, once both have ended well."""
        assert self.statuses[case] == [0, 0], "\n".join(self.texts(case))
        return [torch.load(self.folder / f"{case}.{rank}.pt", weights_only=False) for rank in range(2)]

    def texts(self, case):
        """What each process printed."""
        return [(self.folder / f"{case}.{rank}.txt").read_text(encoding="utf-8") for rank in range(2)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.fail("two processes are forked here, which this system does not do")
    return Pairs(tmp_path_factory.mktemp("pairs"))


def equal(one, two):
    return one.keys() == two.keys() and all(value.equal(two[name]) for name, value in one.items())


def distance(one, two):
    return max(float((value - two[name]).abs().max()) for name, value in one.items())


def test_two_processes_train_what_one_trains(pairs):
    first, second = pairs.answers("equal")
    assert [first["world_size"], second["world_size"]] == [2, 2] and [first["rank"], second["rank"]] == [0, 1]
    assert equal(first["weights"], second["weights"]) and first["loss"] == second["loss"]
    assert distance(first["weights"], pairs.one["weights"]) < 1e-6
    assert first["loss"] == pytest.approx(pairs.one["loss"], abs=1e-6)


def test_each_has_its_share_of_every_pass_and_draws_its_own_numbers(pairs):
    first, second = pairs.answers("equal")
    assert len(first["indices"]) == len(second["indices"]) == 2 * 7 * 2
    steps = range(0, 4 * 14, 4)
    joined = [sorted(pairs.one["indices"][i : i + 4]) for i in steps]
    both = [sorted(first["indices"][i // 2 : i // 2 + 2] + second["indices"][i // 2 : i // 2 + 2]) for i in steps]
    assert both == joined
    for begin in range(0, 14 - 2, 3):  # a pass is three batches
        seen = [index for batch in both[begin : begin + 3] for index in batch]
        assert len(set(seen)) == len(seen) == 12
    assert not set(first["drawn"]) & set(second["drawn"])


def test_with_workers_each_image_is_augmented_as_in_one_process(pairs):
    first, second = pairs.answers("workers")
    alone = trained(num_workers=1, noise=1.0)
    assert equal(first["weights"], second["weights"]) and distance(first["weights"], alone["weights"]) < 1e-6
    assert first["loss"] == pytest.approx(alone["loss"], abs=1e-6) and first["loss"] != pairs.one["loss"]


def test_the_first_one_alone_speaks_and_saves(pairs):
    first, second = pairs.answers("equal")
    assert first["states"] == pairs.one["states"] and second["states"] == []
    assert "validation mIoU" in pairs.texts("equal")[0] and pairs.texts("equal")[1] == ""
    assert not (pairs.folder / "never").exists()


def test_validation_counts_each_image_once(pairs):
    first, second = pairs.answers("equal")
    assert first["validation"] == second["validation"] == pairs.one["validation"]
    for answer in pairs.answers("matrix"):
        for count, (matrix, boundary) in zip((7, 1), answer, strict=True):
            alone = evaluate(net(), samples(count), batch_size=2)
            assert matrix.equal(alone.matrix) and boundary.equal(alone.boundary_matrix)


def test_a_run_continues_bit_for_bit_and_in_another_number_of_processes(pairs):
    answers, whole = pairs.answers("continued"), pairs.answers("equal")
    for (_, together), expected in zip(answers, whole, strict=True):
        assert together["loss"] == expected["loss"] and equal(together["weights"], expected["weights"])
        assert together["drawn"] == expected["drawn"][-len(together["drawn"]) :]
    assert distance(answers[0][0]["weights"], pairs.one["weights"]) < 1e-6
    alone = trained(resume=load_checkpoint(pairs.folder / "equal" / "checkpoint3.pt"))
    assert distance(alone["weights"], pairs.one["weights"]) < 1e-6 and alone["indices"] == pairs.one["indices"][-32:]
    states = [load_checkpoint(pairs.folder / name / "checkpoint7.pt") for name in ("one", "equal")]
    assert states[0].keys() == states[1].keys() and states[0]["run"] == states[1]["run"]
    assert [len(state["random"]) for state in states] == [1, 2]


def test_a_last_batch_is_shared_or_dropped(pairs):
    first, second = pairs.answers("uneven")
    assert [len(answer["indices"]) for answer in (first[0], second[0])] == [14, 14]  # 4, 4, 4 of fourteen
    assert [len(answer["indices"]) for answer in (first[1], second[1])] == [4 * 4 + 3 * 3, 4 * 4 + 3 * 2]  # 8, 5
    alone = trained(count=13, batch_size=8, accumulate=1)
    assert distance(first[1]["weights"], alone["weights"]) < 1e-6 and equal(first[1]["weights"], second[1]["weights"])
    assert first[1]["loss"] == pytest.approx(alone["loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size", "sizes"),
    [(9, 4, 2, [4, 4]), (10, 4, 2, [4, 4]), (12, 8, 2, [8, 4]), (11, 8, 2, [8]), (3, 8, 2, [3]), (5, 2, 2, [2, 2])],
)
def test_the_sizes_of_a_pass(count, batch_size, world_size, sizes):
    assert sampling.batch_sizes(count, batch_size, world_size) == sizes


def test_running_statistics_are_the_same_in_all(pairs):
    first, second = pairs.answers("norms")
    assert equal(first["weights"], second["weights"]) and first["validation"] == second["validation"]
    assert math.isfinite(distance(first["weights"], net(norm=True).state_dict()))


# ------------------------------------------------------------------------------------------------------------- faults
def test_a_signal_to_one_stops_all_after_the_same_step(pairs):
    assert pairs.statuses["signal"] == [0, -signal.SIGTERM]
    answer = torch.load(pairs.folder / "signal.0.pt", weights_only=False)
    assert answer["interrupted"] and len(answer["loss"]) == 4 and answer["states"] == [3, 3, 4]
    state = load_checkpoint(pairs.folder / "signal" / "checkpoint4.pt")
    assert trained(resume=state)["loss"] == pytest.approx(pairs.one["loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("nan", "FloatingPointError: the loss became nan at step 3", "PeerError: the loss became nan at step 3"),
        ("memory", "PeerError: another process of this run has ended", "OutOfMemoryError: CUDA out of memory"),
        ("disk", "OSError: [Errno 28]", "PeerError: process 0 has ended: [Errno 28] No space left"),
        ("shares", "ValueError: batch_size is 5, which 2 processes cannot share", "PeerError: process 0 has ended"),
        ("order", "ValueError: the saved run had 4 batches in each pass", "PeerError: process 0 has ended"),
        ("cpu_norms", "ValueError: sync_batchnorm: PyTorch's SyncBatchNorm trains on GPUs", "PeerError: process 0"),
        ("unread", "ValueError: the loss does not depend on spare", "PeerError: process 0 has ended"),
    ],
)
def test_what_ends_one_ends_all_and_is_said_once(pairs, case, first, second):
    assert pairs.statuses[case] == [1, 1]
    last = [text.strip().splitlines()[-1] for text in pairs.texts(case)]
    assert first in last[0] and second in last[1], last


def test_a_killed_process_ends_the_others(pairs):
    assert pairs.statuses["killed"] == [1, -signal.SIGKILL]
    assert "PeerError: another process of this run has ended" in pairs.texts("killed")[0].splitlines()[-1]
    assert (pairs.folder / "killed" / "checkpoint3.pt").is_file()


# ------------------------------------------------------------------------------------------------- the command, by both
def test_the_command_trains_in_two_processes_and_its_run_goes_on_in_one(pairs, monkeypatch):
    assert pairs.statuses["command"] == pairs.statuses["resumed"] == [0, 0], pairs.texts("resumed")
    first, second = pairs.texts("command")
    assert "Processes: 2, each with 2 of the 4 images of a batch." in first and "Done: " in first and second == ""
    assert "Continues" in pairs.texts("resumed")[0] and pairs.texts("resumed")[1] == ""
    assert len(load_checkpoint(pairs.folder / "run" / "checkpoint.pt")["history"]["loss"]) == 8
    lines = (pairs.folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [entry["step"] for entry in map(json.loads, lines) if entry["kind"] == "training"]
    assert steps == list(range(1, 9))  # each once, by the first process alone
    monkeypatch.setitem(tiny_runs.registry.BACKBONES, "pools", tiny_runs.ENTRY)
    assert len(resume(pairs.folder / "run", extend=1).loss) == 9


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("wrong_key", "segtutor: training.stepz: unknown key", ""),
        ("in_use", "is in use: continue it with", ""),
        (
            "broken_image",
            "segtutor: another process of this run has ended: its own message says why",
            "segtutor: process 1: photo.png is truncated. What was saved is kept: continue with",
        ),
    ],
)
def test_errors_of_the_command_are_said_by_the_one_that_has_them(pairs, case, first, second):
    assert pairs.statuses[case] == [2, 2]
    last = [(text.strip().splitlines() or [""])[-1] for text in pairs.texts(case)]
    assert first in last[0] and last[1].startswith(second) and bool(second) == bool(last[1])


def test_a_fault_in_one_process_keeps_a_state_that_continues(pairs, monkeypatch):
    assert "The state after step" in pairs.texts("broken_image")[0]
    monkeypatch.setitem(tiny_runs.registry.BACKBONES, "pools", tiny_runs.ENTRY)
    assert len(resume(pairs.folder / "broken").loss) == 6


# ------------------------------------------------------------------------------------------------------ one process
def test_one_process_needs_no_accelerate_and_has_nobody_to_ask():
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
sys.modules["accelerate"] = None
from several_processes import trained
assert len(trained()["loss"]) == 7
import torch.distributed as dist
assert not dist.is_initialized()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_synchronised_norms_keep_their_tensors_and_names():
    from segtutor.layers import BatchNorm2d

    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNorm2d(4), nn.ReLU()).eval()
    before, images = dict(model.named_parameters()), torch.rand(2, 3, 8, 8)
    expected = model(images)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[1]) is nn.SyncBatchNorm and converted(images).equal(expected)
    assert all(value is before[name] for name, value in converted.named_parameters())
    with pytest.raises(ValueError, match="trains on GPUs only"):
        distributed.check_synchronised_norms(torch.device("cpu"))
    assert len(fit(net(norm=True), samples(4), steps=1, batch_size=2, sync_batchnorm=True).loss) == 1  # nobody to ask


# -------------------------------------------------------------------------------------------- the launchers themselves
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port"],
    "accelerate": ["accelerate.commands.accelerate_cli", "launch", "--num_processes", "2", "--multi_gpu",
                   "--main_process_port"],
}  # fmt: skip
PROGRAM = """
import sys; sys.path.insert(0, {here!r})
import tiny_runs; tiny_runs.register()
from segtutor.cli import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.weekly
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launcher_trains_and_passes_a_signal_on(tmp_path, launcher):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_runs.CONFIG), encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(here=str(HERE)), encoding="utf-8")

    def start(*arguments):
        port = str(several_processes.free_port())
        command = [sys.executable, "-m", *LAUNCHERS[launcher], port, program, "train", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    run = str(tmp_path / "run")
    endless = start(
        "--config", tmp_path / "tiny.yaml", "--out", run, "--no-check", "training.steps=100000", "logging.every=1"
    )
    for line in endless.stdout:
        if line.startswith("step "):
            break
    endless.send_signal(signal.SIGTERM)
    rest = endless.communicate(timeout=120)[0]
    assert endless.returncode != 0
    assert (Path(run) / "checkpoint.pt").is_file(), rest
    done = len(load_checkpoint(Path(run) / "checkpoint.pt")["history"]["loss"])
    assert 0 < done < 100000, rest
    again = start("--resume", run, f"training.steps={done + 2}", "logging.every=100000")
    text = again.communicate(timeout=120)[0]
    assert again.returncode == 0 and "Processes: 2" in text and text.count("Done: ") == 1, text
