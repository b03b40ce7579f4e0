"""Use a GPU that is lent for minutes: tests and notebooks on CUDA, and measured rows, side by side until time is up.

    python tools/gpu_session.py --minutes 9 --out results-of-the-session street tissue
    SEGTUTOR_ALLOW_CPU=1 python tools/gpu_session.py --quick --minutes 5 --out /tmp/rehearsal street/unet

Two things run at once, because each of them leaves the GPU idle most of the time: one pytest over everything that
needs CUDA (``tests.log``, ``tests.xml``), and the experiments (``rows/*.json``, ``rows.log``), in the order given,
several networks at a time, each in a process of its own. When the time is up, what still runs is stopped; rows that
were written stay, and the same command goes on from there: copy them into ``segtutor/lab/results`` with
``python tools/gpu_session.py --collect results-of-the-session``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import test_gpu

ROOT = Path(__file__).resolve().parents[1]


def queue(ids: list[str]) -> list[list[str]]:
    """Experiments in the order given, as groups that one process works through: a rate and the rows that need it."""
    from segtutor.lab import harness

    known = harness.load_experiments()
    groups: dict[str, list[str]] = {}
    for wanted in ids:
        for experiment in harness.select([wanted], known):
            network = experiment.id.replace("/rate/", "/")
            groups.setdefault(network, [])
            if experiment.id not in groups[network]:
                groups[network].append(experiment.id)
    return [sorted(group, key=lambda id: "/rate/" not in id) for group in groups.values()]


def run(options: argparse.Namespace) -> int:
    """Runs both sides until all is done or time is up; returns the tests' exit status."""
    began, deadline = time.monotonic(), time.monotonic() + 60 * options.minutes - options.reserve
    variables = test_gpu.environment()
    out = Path(options.out).resolve()
    (out / "rows").mkdir(parents=True, exist_ok=True)
    variables |= {"SEGTUTOR_RESULTS": str(out / "rows"), "PYTHONUNBUFFERED": "1"}
    variables.setdefault("OMP_NUM_THREADS", "1")
    waiting, running, done = queue(options.ids), {}, []
    tests = None
    if not options.no_tests:
        log = (out / "tests.log").open("w", encoding="utf-8")
        workers = ["-n", str(options.test_jobs), "--dist", "loadfile", f"--junitxml={out / 'tests.xml'}"]
        tests = subprocess.Popen(
            test_gpu.tests([*workers, "-q", "--durations=30"]), cwd=ROOT, env=variables, stdout=log, stderr=log
        )
    quick = ["--quick", "--results", str(out / "rows")] if options.quick else []
    while time.monotonic() < deadline and (waiting or running or (tests and tests.poll() is None)):
        # When the tests are through, their cores are the experiments'
        free = tests is None or tests.poll() is not None
        while waiting and len(running) < options.jobs + (options.test_jobs if free and tests else 0):
            group = waiting.pop(0)
            name = group[-1].replace("/", "-")
            log = (out / f"rows-{name}.log").open("w", encoding="utf-8")
            command = [sys.executable, "-m", "segtutor", "benchmark", *group, *quick]
            running[name] = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            done.append(f"{name}: exit {running.pop(name).returncode}, {time.monotonic() - began:.0f} s")
            print(done[-1], flush=True)
        time.sleep(0.5)
    left = list(running)
    for process in [*running.values(), *([tests] if tests else [])]:
        if process.poll() is None:
            process.terminate()
    for process in [*running.values(), *([tests] if tests else [])]:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
    logs = sorted(out.glob("rows-*.log"))
    (out / "rows.log").write_text("".join(f"== {path.stem}\n{path.read_text()}" for path in logs), encoding="utf-8")
    for path in logs:
        path.unlink()
    print(f"{len(done)} groups done; stopped: {', '.join(left) or 'none'}; not begun: {len(waiting)}")
    if tests is not None:
        print("\n".join((out / "tests.log").read_text(encoding="utf-8").splitlines()[-25:]))
    return 0 if tests is None else tests.returncode


def collect(folder: Path) -> int:
    """Adds a session's rows to the package's own; returns the exit status."""
    from segtutor.lab import harness
    from segtutor.lab.results import FOLDER, read_file

    for path in sorted((folder / "rows").glob("*.json")):
        rows = read_file(path)
        harness.record(rows, FOLDER / path.name)
        print(f"{path.name}: {len(rows)} rows")
    return 0


def main() -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help="experiments, or first parts of their ids, the most valuable first")
    parser.add_argument("--minutes", type=float, default=9, help="when everything is stopped (default: 9)")
    parser.add_argument("--reserve", type=float, default=20, help="seconds of it kept for stopping (default: 20)")
    parser.add_argument("--jobs", type=int, default=8, help="experiments at a time (default: 8)")
    parser.add_argument("--test-jobs", type=int, default=8, help="processes of the tests (default: 8)")
    parser.add_argument("--no-tests", action="store_true", help="only the rows")
    parser.add_argument("--quick", action="store_true", help="the experiments' short form: a rehearsal")
    parser.add_argument("--out", default="gpu-session", help="where logs and rows go")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="add a session's rows to the package's own")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    return collect(options.collect) if options.collect else run(options)


if __name__ == "__main__":
    sys.exit(main())
