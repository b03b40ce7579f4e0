"""What ends a run from outside: each fault is one sentence and exit code 2, and the run goes on from its last state."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image
from tiny_runs import CONFIG, Pools

from segtutor import cli, files, runs
from segtutor.data.download import DownloadError
from segtutor.data.errors import DataError
from segtutor.factory import ConfigError
from segtutor.factory.backbones import registry
from segtutor.runs import InUseError, RunError, lock
from segtutor.runs.folder import config_of, write_config
from segtutor.training import load_checkpoint

train_module = sys.modules["segtutor.runs.train"]  # the package has a function of that name
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*collapsed:UserWarning", "ignore:.*of one class|hold class:UserWarning"
)
HERE = Path(__file__).parent
RULES = ["training.save_every=2", "training.validate_every=4", "evaluation.boundary_width=null", "logging.every=1"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve images with masks of three classes."""
    base, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, top in (("images", 255), ("masks", 3)):
        (base / name).mkdir()
        for i in range(12):
            shape = (32, 48, 3) if name == "images" else (32, 48)
            Image.fromarray(generator.integers(0, top, shape, np.uint8)).save(base / name / f"{i:02}.png")
    return base


def on_photos(photos):
    return {**CONFIG, "data": {"type": "folder", "path": str(photos), "classes": ["a", "b", "c"]}}


def at_step(monkeypatch, step, event):
    """Let something happen in the forward pass of a step of training (or, with a step below 1, of a validation).

    The step that is undone before the first, and the image that it scores, are not counted.
    """
    calls, forward = {True: -1, False: -1}, Pools.forward

    def watched(self, images):
        calls[self.training] += 1
        features = forward(self, images)
        return event(features) if calls[step > 0] == max(step, 1) and self.training == (step > 0) else features

    monkeypatch.setattr(Pools, "forward", watched)


def raising(error):
    def event(features):
        raise error

    return event


def one_sentence(capsys):
    """The sentence on stderr, the only one."""
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("segtutor: ") and "Traceback" not in line
    return line


def loss_of(run):
    return load_checkpoint(run / "checkpoint.pt")["history"]["loss"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, photos):
    """The losses of a run without faults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
        return runs.train(on_photos(photos), RULES, out=tmp_path_factory.mktemp("whole") / "run").loss


FAULTS = {
    "NaN": (5, lambda features: features._replace(c4=features.c4 * float("nan")), "loss became nan at step 5: lower"),
    "GPU memory": (5, raising(torch.cuda.OutOfMemoryError("CUDA out of memory")), "out of memory in training"),
    "memory": (5, raising(MemoryError()), r"training.batch_size lower \(2 now\), or data.augmentation.crop in place"),
    "CPU memory": (5, raising(RuntimeError("can't allocate memory")), "model.backbone.checkpointing=true"),
    "in validation": (0, raising(MemoryError()), r"in the validation: set evaluation.batch_size lower \(2 now\)"),
    "worker": (5, raising(RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed.")), "num_workers lower"),
    "disk": (5, raising(OSError(errno.ENOSPC, "No space left", "x")), r"the disk is full at x \(No space left\): make"),
    "file": (5, raising(PermissionError(errno.EACCES, "Permission denied", "x.png")), "Permission denied: 'x.png'"),
}  # fmt: skip


@pytest.mark.parametrize(("step", "event", "says"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_sentence_and_the_run_goes_on(tmp_path, photos, whole, capsys, step, event, says):
    import re

    run = tmp_path / "run"
    write_config(tmp_path, on_photos(photos))
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, event)
        assert cli.main(["train", "--config", str(tmp_path / "config.yaml"), *RULES, "--out", str(run)]) == 2
    line = one_sentence(capsys)
    assert re.search(says, line) and f"after step 4 is kept: continue with `segtutor train --resume {run}`" in line
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert loss_of(run) == whole


def test_a_mistake_in_the_program_keeps_its_traceback(tmp_path, photos, monkeypatch):
    at_step(monkeypatch, 1, raising(RuntimeError("shapes do not fit")))
    write_config(tmp_path, on_photos(photos))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        cli.main(["train", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize("file", ["checkpoint.pt", "model.safetensors"])
def test_a_full_disk_keeps_the_last_state(tmp_path, photos, whole, capsys, monkeypatch, file):
    run, moved, written = tmp_path / "run", files.move_into_place, []

    def full(part, path):
        if path.name == file:
            written.append(path)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        moved(part, path)

    monkeypatch.setattr(files, "move_into_place", full)
    write_config(tmp_path, on_photos(photos))
    assert cli.main(["train", "--config", str(tmp_path / "config.yaml"), *RULES, "--out", str(run)]) == 2
    assert "the disk is full" in (line := one_sentence(capsys)) and "is kept: continue with" in line
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]
    monkeypatch.setattr(files, "move_into_place", moved)
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert loss_of(run) == whole


@pytest.mark.parametrize("file", ["checkpoint.pt", "model.safetensors", "history.json"])
def test_a_run_that_ends_while_it_saves_for_the_first_time_goes_on(tmp_path, photos, whole, monkeypatch, file):
    run, moved = tmp_path / "run", files.move_into_place

    def full(part, path):
        if path.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        moved(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "move_into_place", full)
        with pytest.raises(RunError, match="the disk is full") as caught:
            runs.train(on_photos(photos), RULES, out=run)
    assert ("Nothing was saved yet" in str(caught.value)) == (file == "checkpoint.pt")
    assert runs.resume(run).loss == whole


@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_what_torch_and_safetensors_say_of_a_full_disk_is_the_systems_error(tmp_path, kind):
    from segtutor.factory.saved import write_model
    from segtutor.training import save_checkpoint

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    tensors = {"x": torch.zeros(100_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            if kind == "model":
                write_model(tmp_path, {}, {}, tensors)
            else:
                save_checkpoint(tensors, tmp_path / "checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["damaged", "huge"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, photos, whole, capsys, monkeypatch, workers, fault):
    run, names = tmp_path / "run", sorted((photos / "images").iterdir())
    train = {path.name: path.read_bytes() for path in names}
    write_config(tmp_path, on_photos(photos))
    # The look before a run would find it, so that it is left out.
    bad = names[5]
    try:
        if fault == "damaged":
            bad.write_bytes(train[bad.name][:200])
        else:
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
            Image.new("RGB", (200, 100)).save(bad)
        config = ["--config", str(tmp_path / "config.yaml"), *RULES, f"training.num_workers={workers}", "--no-check"]
        assert cli.main(["train", *config, "--out", str(run)]) == 2
    finally:
        bad.write_bytes(train[bad.name])
    line = one_sentence(capsys)
    assert f"{bad} " in line and ("damaged" if fault == "damaged" else "cut it into tiles") in line
    assert "Caught" not in line and ("is kept: continue" in line or "Nothing was saved yet" in line)
    monkeypatch.undo()
    monkeypatch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert workers or loss_of(run) == whole


# ------------------------------------------------------------------------------------------------------- interruptions
def twice(features):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    return features


@pytest.mark.usefixtures("hears_interrupts")
@pytest.mark.parametrize(
    ("step", "says"), [(4, "Stopped after step 3 of 6. The state after step 2 is kept."), (1, "Stopped before")]
)
def test_a_second_interrupt_leaves_a_state_that_continues(tmp_path, photos, whole, capsys, step, says):
    run = tmp_path / "run"
    write_config(tmp_path, on_photos(photos))
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, twice)
        assert cli.main(["train", "--config", str(tmp_path / "config.yaml"), *RULES, "--out", str(run)]) == 130
    assert says in (printed := capsys.readouterr().out) and f"Continue with: segtutor train --resume {run}" in printed
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert loss_of(run) == whole


@pytest.mark.usefixtures("hears_interrupts")
def test_interrupts_while_a_state_is_written_do_not_cost_it(tmp_path, photos, whole, monkeypatch):
    run, saved, calls = tmp_path / "run", torch.save, []

    def interrupted(state, file):
        calls.append(1)
        if len(calls) == 1:
            file.write(b"half")
            twice(None)
        saved(state, file)

    monkeypatch.setattr(torch, "save", interrupted)
    assert runs.train(on_photos(photos), RULES, out=run).interrupted
    assert loss_of(run) == whole[:2] and not list(run.glob(".*.part"))
    assert runs.resume(run).loss == whole


# --------------------------------------------------------------------------------------------------------------- locks
def test_two_runs_cannot_share_a_folder(tmp_path, photos, capsys):
    run = tmp_path / "run"
    write_config(tmp_path, on_photos(photos))
    train = ["train", "--config", str(tmp_path / "config.yaml"), "training.steps=2", "--out", str(run)]
    with lock.locked(run):
        for arguments in (train, ["train", "--resume", str(run)]):
            write_config(run, {**on_photos(photos)})
            assert cli.main(arguments) == 2
            assert f"{run} is in use by process {os.getpid()} on " in one_sentence(capsys)
        assert sorted(path.name for path in run.iterdir()) == [".lock", ".owner", "config.yaml"]
    assert cli.main(train) == 0
    assert not (run / ".owner").exists()


def test_a_run_that_begins_meanwhile_is_noticed(tmp_path, photos, monkeypatch):
    run, build = tmp_path / "run", train_module.build

    def slow(*arguments, **options):
        run.mkdir()
        (run / "checkpoint.pt").write_bytes(b"of somebody who was quicker")
        return build(*arguments, **options)

    monkeypatch.setattr(train_module, "build", slow)
    with pytest.raises(runs.RunError, match="is in use"):
        runs.train(on_photos(photos), RULES, out=run)
    assert not (run / "config.yaml").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    held, done = threading.Event(), threading.Event()

    def orphan():  # what a loading process does until it notices that its trainer is dead
        with lock.locked(tmp_path):
            owner = json.loads((tmp_path / ".owner").read_text())
            (tmp_path / ".owner").write_text(json.dumps({**owner, "process": child.pid}))
            (tmp_path / ".checkpoint.pt.0123abcd.part").write_bytes(b"half")
            held.set()
            done.wait(0.5)

    thread = threading.Thread(target=orphan)
    thread.start()
    held.wait()
    start = time.perf_counter()
    with lock.locked(tmp_path):
        assert time.perf_counter() - start > 0.2 and not list(tmp_path.glob("*.part"))
    thread.join()
    with lock.locked(tmp_path), pytest.raises(runs.InUseError, match="wait until it ends"), lock.locked(tmp_path):
        pass


# ---------------------------------------------------------------------------------------------------- killed, for real
KILLING = """
import json, os, random, signal, sys, time
sys.path.insert(0, {here!r})
import tiny_runs, torch, torchvision.transforms.v2
from segtutor import runs, training
from segtutor.data import transforms
from segtutor.runs import lock
tiny_runs.register()
torch.set_num_threads(1)
folder, config, rules, seed = {folder!r}, {config!r}, {rules!r}, {seed}
draw = random.Random(seed)

def start(work):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        code = 1
        try:
            sys.stdout = open(os.devnull, "w")
            work()
            code = 0
        finally:
            os._exit(code)
    return pid

def go(name):
    run = os.path.join(folder, name)
    began = os.path.isfile(os.path.join(run, "config.yaml"))
    return start(lambda: runs.resume(run) if began else runs.train(config, rules, out=run, check_data=False))

tick = time.monotonic()
assert os.waitpid(go("whole"), 0)[1] == 0
seconds = time.monotonic() - tick
names, kills = [], 0
while len(names) < {points}:
    name, times = f"cut{{len(names)}}-{{kills}}-{{draw.random()}}", 0
    while times < 3:
        pid = go(name)
        time.sleep(draw.uniform(0.05, 0.7) * seconds)
        {kill}
        if os.waitpid(pid, 0)[1] == 0:
            break
        times += 1
    assert os.waitpid(go(name), 0)[1] == 0, f"{{name}} does not go on"
    kills += times
    names += [name] if times else []  # the others were done before it came to that
print(json.dumps([kills, names]))
"""
DEADLY = {
    "KILL": "os.kill(pid, signal.SIGKILL)",
    "TERM": "os.killpg(pid, signal.SIGTERM)",
    "HUP": "os.killpg(pid, signal.SIGHUP)",
}


def curves_of(run):
    """The lines of metrics.jsonl, but for what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def killed(tmp_path, *, points, workers, how="KILL", steps=10, seed=0):
    """Train, end the process at random moments, continue; compare with the run that nobody ended. How often it died."""
    rules = [
        f"training.steps={steps}", f"training.num_workers={workers}", "training.save_every=1",
        "training.validate_every=4", "evaluation.boundary_width=null", "data.augmentation.color=0.5",
    ]  # fmt: skip
    code = KILLING.format(
        here=str(HERE), folder=str(tmp_path), config=CONFIG, rules=rules, seed=seed, points=points, kill=DEADLY[how]
    )
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    kills, names = json.loads(answer.stdout)
    expected = load_checkpoint(tmp_path / "whole" / "checkpoint.pt")
    for name in names:
        state = load_checkpoint(tmp_path / name / "checkpoint.pt")
        assert state["history"]["loss"] == expected["history"]["loss"]
        assert state["history"]["validation"] == expected["history"]["validation"]
        assert all(state["model"][key].equal(value) for key, value in expected["model"].items())
        best = [(tmp_path / run / "best" / "model.safetensors").read_bytes() for run in ("whole", name)]
        assert best[0] == best[1] and not list((tmp_path / name).rglob("*.part"))
        assert curves_of(tmp_path / name) == curves_of(tmp_path / "whole")
    return kills


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    assert killed(tmp_path, points=1, workers=0, steps=8) >= 1


@pytest.mark.weekly
@pytest.mark.parametrize(("workers", "points"), [(0, 20), (2, 8)])
def test_runs_killed_at_many_moments_go_on_bit_for_bit(tmp_path, workers, points):
    assert killed(tmp_path, points=points, workers=workers, steps=16, seed=1) >= points


@pytest.mark.weekly
@pytest.mark.parametrize("how", ["TERM", "HUP"])
@pytest.mark.parametrize("workers", [0, 2])
def test_runs_whose_whole_group_is_told_to_end_go_on_bit_for_bit(tmp_path, workers, how):
    assert killed(tmp_path, points=2, workers=workers, how=how, steps=16) >= 2


def test_workers_leave_the_signals_of_the_group_to_the_trainer():
    from segtutor.training.sampling import _leave_signals_to_the_trainer

    names, heard = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], []
    before = [signal.signal(number, lambda number, frame: heard.append(number)) for number in names]
    try:
        _leave_signals_to_the_trainer(0)
        for number in names:
            os.kill(os.getpid(), number)
        assert heard == []
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the second time it obeys"
    finally:
        for number, handler in zip(names, before, strict=True):
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------ what can reach the command line
RAISED = [
    ConfigError("model.head: unknown"),
    RunError("run is not a run"),
    InUseError("run is in use"),
    DataError("x.png is damaged"),
    DownloadError("could not fetch x.zip"),
    LookupError("no claim 'X-1'"),
    ImportError("TensorBoard is not installed"),
    FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
    NotADirectoryError(errno.ENOTDIR, "Not a directory", "x/y"),
    PermissionError(errno.EACCES, "Permission denied", "x"),
    OSError(errno.ENOSPC, "No space left on device", "x"),
    FloatingPointError("the loss became nan at step 1"),
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate 8 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ValueError("two\nlines"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: f"{type(error).__name__} {error}"[:40])
def test_every_error_that_a_user_can_cause_is_one_sentence(monkeypatch, capsys, error):
    monkeypatch.setattr(sys.modules["segtutor.cli.main"], "_models", raising(error))
    assert cli.main(["models"]) == 2
    assert len(one_sentence(capsys)) > len("segtutor: ") + 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos):
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "pools", tiny_runs.ENTRY)
        folder = tmp_path_factory.mktemp("trained") / "run"
        runs.train(on_photos(photos), ["training.steps=2"], out=folder)
    return folder


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-20])


BROKEN = {
    "no such configuration": (["train", "--config", "no.yaml"], None, "no.yaml could not be read"),
    "no YAML": (["train", "--config", "RUN/config.yaml", "--out", "new"], "config.yaml", "is not valid YAML"),
    "results in a file": (["predict", "RUN", "PHOTO", "--out", "RUN/config.yaml"], None, "is a file: give a folder"),
    "a run in a file": (["train", "--config", "pools-fcn", "--out", "RUN/config.yaml"], None, "name another folder"),
    "half a checkpoint": (["train", "--resume", "RUN"], "checkpoint.pt", "cannot be read as a checkpoint"),
    "no checkpoint": (["train", "--resume", "RUN"], ("checkpoint.pt",), "there is no checkpoint"),
    "half a configuration": (["evaluate", "RUN"], "config.yaml", "config.yaml is not valid YAML"),
    "half the weights": (["predict", "RUN", "PHOTO", "--out", "new"], "best/model.safetensors", "no readable model"),
    "half a model": (["predict", "RUN", "PHOTO", "--out", "new"], "best/config.json", "holds no readable model"),
    "half the scores": (["evaluate", "RUN"], "scores.json", "scores.json cannot be read"),
    "no images": (["evaluate", "RUN"], None, "there is no folder"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "broken", "says"), BROKEN.values(), ids=BROKEN)
def test_every_broken_file_is_one_sentence(tmp_path, photos, trained, capsys, monkeypatch, arguments, broken, says):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    monkeypatch.chdir(tmp_path)
    if broken == "scores.json":
        (run / "scores.json").write_text('{"val": {"miou": 0.5, "images": 12345}}')
    if broken == "config.yaml":
        (run / "config.yaml").write_text("model: [1,\n")
    elif isinstance(broken, tuple):
        (run / broken[0]).unlink()
    elif broken:
        cut_off(run / broken)
    if says == "there is no folder":
        config = config_of(run)
        config["data"]["path"] = str(tmp_path / "gone")
        write_config(run, config)
    photo = str(photos / "images" / "00.png")
    assert cli.main([word.replace("RUN", str(run)).replace("PHOTO", photo) for word in arguments]) == 2
    assert says in one_sentence(capsys)
