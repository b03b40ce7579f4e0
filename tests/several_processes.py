"""Two processes that train together, as torchrun starts them: forked, so that torch is imported once for all cases.

Run as a program: ``python several_processes.py FOLDER CASE ...``. Each case runs twice at once, with the environment
that torchrun gives, and may take SECONDS. What it returns goes to FOLDER/CASE.RANK.pt, what it prints to
FOLDER/CASE.RANK.txt, and the exit statuses of all to FOLDER/statuses.pt.
"""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import nn

SECONDS = 60


def net(norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.BatchNorm2d(4)] if norm else []
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.ReLU(), nn.Conv2d(4, 3, 1))


def samples(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(3, 16, 16, generator=generator), torch.randint(3, (16, 16), generator=generator))
        for _ in range(count)
    ]


class Seen:
    """Notes which images this process reads, and what it draws for each, which noise adds to the image."""

    def __init__(self, items, noise=0.0):
        self.items, self.noise, self.indices, self.drawn = items, noise, [], []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.indices.append(index)
        self.drawn.append(float(torch.rand(())))
        image, mask = self.items[index]
        return image + self.noise * self.drawn[-1], mask


SETTINGS = {"steps": 7, "batch_size": 4, "lr": 0.01, "accumulate": 2, "ema": 0.9, "gradient_clip": 0.5}
SETTINGS |= {"validate_every": 3, "evaluation": {"batch_size": 2}, "precision": "fp32", "log_every": 2}


def trained(folder=None, **changes):
    """Thirteen images in batches of four, the last of which is dropped; five to validate, in batches of two."""
    from segtutor.training import fit, save_checkpoint

    settings = {**SETTINGS, **changes}
    data = Seen(samples(settings.pop("count", 13)), settings.pop("noise", 0.0))
    model, states = net(settings.pop("norm", False)), []
    save = None
    if folder is not None:

        def save(state):
            states.append(len(state["history"]["steps"]))
            save_checkpoint(state, folder / f"checkpoint{states[-1]}.pt")

    history = fit(model, data, validation=samples(5, seed=2), save=save, **settings)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return {
        "loss": history.loss,
        "validation": history.validation,
        "weights": weights,
        "indices": data.indices,
        "drawn": data.drawn,
        "states": states,
        "interrupted": history.interrupted,
    }


def at_step(step, rank, act):
    """An `on_step` by which one of the processes does something."""

    def on_step(now, loss):
        if now == step and os.environ["RANK"] == str(rank):
            act()

    return on_step


def case_equal(folder):
    from segtutor.training.distributed import joined

    processes = joined()
    found = trained(folder / "equal" if processes.first else folder / "never")
    return {**found, "world_size": processes.world_size, "rank": processes.rank}


def case_uneven(folder):
    """Of 14 images in batches of four the last two would be one for each: dropped. Of 13 in eights: kept."""
    return [trained(count=14, accumulate=1), trained(count=13, batch_size=8, accumulate=1)]


def case_workers(folder):
    return trained(num_workers=1, noise=1.0)


def case_continued(folder):
    """The state of one process, continued by two; and that of two processes, bit for bit."""
    from segtutor.training import load_checkpoint

    alone = trained(folder / "joined", resume=load_checkpoint(folder / "one" / "checkpoint3.pt"))
    together = trained(resume=load_checkpoint(folder / "equal" / "checkpoint3.pt"))
    return alone, together


def case_matrix(folder):
    from segtutor.training import evaluate
    from segtutor.training.distributed import joined

    sizes = [evaluate(net(), samples(count), batch_size=2, processes=joined()) for count in (7, 1)]
    return [(scores.matrix, scores.boundary_matrix) for scores in sizes]


def case_signal(folder):
    """The second process is told to end, which stops both after the same step, with one state."""
    act = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    return trained(folder / "signal", on_step=at_step(4, 1, act))


def case_nan(folder):
    def loss(logits, masks):
        loss.calls += 1
        bad = loss.calls > 4 and os.environ["RANK"] == "1"
        return (logits * float("nan" if bad else 1)).float().mean()

    loss.calls = 0
    return trained(folder / "nan", loss=loss, save_every=1, log_every=1)


def raises(error):
    def act():
        raise error

    return act


def case_memory(folder):
    return trained(folder / "memory", on_step=at_step(4, 1, raises(torch.cuda.OutOfMemoryError("CUDA out of memory"))))


def case_killed(folder):
    return trained(folder / "killed", on_step=at_step(4, 1, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def case_disk(folder):
    from segtutor.training import fit

    def save(state):
        raise OSError(28, "No space left on device")

    return fit(net(), samples(8), steps=3, batch_size=4, save=save)


def case_shares(folder):
    return trained(batch_size=5)


def case_order(folder):
    """The state of one process that had a last batch of two images, which two processes leave out."""
    from segtutor.training import load_checkpoint

    return trained(resume=load_checkpoint(folder / "ten" / "checkpoint3.pt"), count=14)


def case_norms(folder):
    return trained(norm=True, ema=None)


def case_cpu_norms(folder):
    return trained(sync_batchnorm=True)


def case_unread(folder):
    """A parameter that no output depends on."""
    from segtutor.training import fit

    model = net()
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    return fit(model, samples(8), steps=3, batch_size=4)


def command(*arguments):
    from segtutor.cli import main

    status = main([str(argument) for argument in arguments])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def case_command(folder):
    """The whole command, with a run's folder."""
    import tiny_runs

    tiny_runs.register()
    command("train", "--config", folder / "tiny.yaml", "--out", folder / "run", "--no-check")


def case_resumed(folder):
    import tiny_runs

    tiny_runs.register()
    command("train", "--resume", folder / "run", "--extend", "2")


def case_wrong_key(folder):
    command("train", "--config", folder / "tiny.yaml", "training.stepz=3", "--out", folder / "wrong")


def case_in_use(folder):
    import tiny_runs

    tiny_runs.register()
    command("train", "--config", folder / "tiny.yaml", "--out", folder / "run", "--no-check")


def case_broken_image(folder):
    """An image that one of the two cannot read."""
    import tiny_runs

    from segtutor.data import SyntheticScenes

    tiny_runs.register()
    if os.environ["RANK"] == "1":
        read = SyntheticScenes.__getitem__
        calls = []

        def broken(self, index):
            calls.append(index)
            if len(calls) > 4:
                raise ValueError("photo.png is truncated")
            return read(self, index)

        SyntheticScenes.__getitem__ = broken
    command("train", "--config", folder / "tiny.yaml", "--out", folder / "broken", "--no-check")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def child(case, folder, rank, port):
    """In a process of its own: run the case, leave its answer, end."""
    os.setsid()
    text = os.open(folder / f"{case}.{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(text, 1)
    os.dup2(text, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    status = 1
    try:
        torch.save(globals()[f"case_{case}"](folder), folder / f"{case}.{rank}.pt")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(case, folder):
    """Both processes of a case: their exit statuses, "late" for one that had to be killed."""
    port, pids, statuses = free_port(), [], {}
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            child(case, folder, rank, port)
        pids.append(pid)
    end = time.monotonic() + SECONDS
    while len(statuses) < 2 and time.monotonic() < end:
        for pid in set(pids) - set(statuses):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for pid in set(pids) - set(statuses):
        statuses[pid] = "late"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [statuses[pid] for pid in pids]


if __name__ == "__main__":
    torch.set_num_threads(1)
    import torchvision.transforms.v2  # noqa: F401
    from accelerate import Accelerator  # noqa: F401

    import segtutor.runs  # noqa: F401
    import segtutor.training  # noqa: F401

    folder = Path(sys.argv[1])
    torch.save({case: run(case, folder) for case in sys.argv[2:]}, folder / "statuses.pt")
