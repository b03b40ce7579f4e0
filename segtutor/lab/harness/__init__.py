"""The machinery that measures: experiments are functions, their rows land in ``segtutor/lab/results``.

    @experiment("FCN-2", claim="FCN-2", unit={"miou": "mIoU"}, conditions="CamVid 120x160, 2,000 steps of batch 8")
    def skips(seed, quick, log):
        ...
        return {"fcn32s/miou": 0.31, "fcn8s/miou": 0.42}

A run is one (experiment, seed). Its rows are written the moment it ends, so a long list can be interrupted and
taken up again: what this machine has already measured is not measured twice, and no machine touches the rows of
another. The modules of this package that hold experiments are found by themselves and imported when they are needed.
"""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import segtutor
from segtutor.lab.results import FOLDER, ResultsError, Row, parse_row, plural, read_file, read_rows

EXPERIMENTS: dict[str, "Experiment"] = {}


class BenchmarkError(ValueError):
    """An experiment is unknown, declared twice, or returned something that cannot be a row."""


@dataclass(frozen=True)
class Measurement:
    """A value that is itself the median of repeated timings, with their (low, high)."""

    value: float
    spread: tuple[float, float]


@dataclass(frozen=True)
class Experiment:
    """A registered experiment; see :func:`experiment` for the fields."""

    id: str
    run: Callable
    claim: str | None
    seeds: tuple[int, ...]
    unit: str | Mapping[str, str]
    conditions: str
    group: str
    config: Mapping[str, object]
    device: str
    summary: str

    def unit_of(self, metric: str) -> str:
        """The unit of one returned metric; a mapping is searched by full name, then by its last part."""
        if isinstance(self.unit, str):
            return self.unit
        for name in (metric, metric.rsplit("/", 1)[-1]):
            if name in self.unit:
                return self.unit[name]
        raise BenchmarkError(f"Experiment {self.id} returned {metric!r}, which has no unit; add it to unit={{...}}.")


def experiment(
    id: str,
    *,
    unit: str | Mapping[str, str],
    conditions: str,
    claim: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    group: str | None = None,
    config: Mapping[str, object] | None = None,
    device: str = "cpu",
) -> Callable:
    """Register ``function(seed, quick, log)`` as an experiment.

    The function returns a number, a :class:`Measurement`, or a dict of either. A number becomes the row ``id``, an
    entry of a dict the row ``id/key``. ``quick=True`` asks for a run of seconds that proves that the code works;
    ``log(text)`` prints a progress line.

    Args:
        id: The experiment, e.g. ``"FCN-2"`` or ``"table/fcn8s"``.
        unit: One unit for everything, or a mapping from metric (full key or its last part) to unit.
        conditions: Data, sizes, steps, batch in words; printed under every table that shows the rows.
        claim: The claim of ``segtutor.lab.claims`` that the experiment is about.
        seeds: What to run; ``(0,)`` for counts, which have no chance in them.
        group: The results file, ``results/<group>.json``; default: the module's name.
        config: Settings that make a row another row when they change.
        device: ``"cpu"``, ``"cuda"`` (left out where there is none) or ``"auto"`` (a GPU where there is one).
    """
    if device not in ("cpu", "cuda", "auto"):
        raise BenchmarkError(f"Experiment {id}: device must be 'cpu', 'cuda' or 'auto', not {device!r}.")

    def register(function: Callable) -> Callable:
        known = EXPERIMENTS.get(id)
        if known is not None and known.run.__module__ != function.__module__:
            raise BenchmarkError(f"Experiment {id} is declared in {known.run.__module__} and {function.__module__}.")
        summary = (inspect.getdoc(function) or "").split("\n")[0]
        EXPERIMENTS[id] = Experiment(
            id,
            function,
            claim,
            tuple(seeds),
            unit,
            conditions,
            group or function.__module__.rsplit(".", 1)[-1],
            dict(config or {}),
            device,
            summary,
        )
        return function

    return register


def load_experiments() -> dict[str, Experiment]:
    """Import every module of `segtutor.lab.experiments` and return the registry."""
    experiments = importlib.import_module("segtutor.lab.experiments")
    for module in pkgutil.iter_modules(experiments.__path__):
        importlib.import_module(f"{experiments.__name__}.{module.name}")
    return EXPERIMENTS


def select(ids: Iterable[str], experiments: Mapping[str, Experiment]) -> list[Experiment]:
    """Experiments by id, by the first parts of an id, or by claim; all of them when ``ids`` is empty.

    Raises:
        BenchmarkError: When an id selects nothing.
    """
    ids = list(ids)
    if not ids:
        return list(experiments.values())
    chosen = {}
    for wanted in ids:
        found = [e for e in experiments.values() if wanted in (e.id, e.claim) or e.id.startswith(wanted + "/")]
        if not found:
            raise BenchmarkError(f"There is no experiment {wanted!r}; there are {', '.join(experiments) or 'none'}.")
        chosen.update({e.id: e for e in found})
    return list(chosen.values())


# ---------------------------------------------------------------------------------------------- where a row comes from


def hardware(device: str = "cpu") -> str:
    """The machine in words: processor, cores, torch threads, and the GPU when ``device`` uses one."""
    import torch

    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    cpu = f"{_processor()}, {plural(cores, 'core')}, {plural(torch.get_num_threads(), 'thread')}"
    if device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} ({cpu})"
    return cpu


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine() or "unknown processor"


def commit() -> str:
    """The commit of the package's own checkout; ``-dirty`` when its code (not its rows) has uncommitted changes."""
    package = Path(segtutor.__file__).parent
    try:
        # A package installed into a project's environment lies inside that project's checkout: not our commit.
        if Path(_git(package, "rev-parse", "--show-toplevel")).resolve() != package.parent.resolve():
            raise OSError
        changed = _git(package, "status", "--porcelain", "--", ".", ":(exclude)lab/results")
        return _git(package, "rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"unknown (package {segtutor.__version__})"


def _git(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def default_folder() -> Path:
    """The package's own folder in a checkout that can be written, else ``./segtutor-results``."""
    if not commit().startswith("unknown") and os.access(FOLDER, os.W_OK):
        return FOLDER
    return Path("segtutor-results")


# ------------------------------------------------------------------------------------------------------------- writing


def record(rows: Iterable[Row], path: Path) -> None:
    """Add rows to a results file, replacing only rows with the same id, seed, machine and configuration.

    The file is replaced in one step, so a reader or an interruption never meets half of it, and two runs that
    write to one folder at once take turns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path.parent):
        merged = {row.key: row for row in (read_file(path) if path.exists() else [])}
        merged.update({row.key: row for row in rows})
        ordered = sorted(merged.values(), key=lambda row: row.key)
        lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) for row in ordered)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f'{{"rows": [\n{lines}\n]}}\n')
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def _turn(folder: Path):
    """Hold the folder's lock; where the system has no file locks, runs must not share a folder."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def rows_of(entry: Experiment, seed: int, returned: object, seconds: float, *, source: str, quick: bool) -> list[Row]:
    """Turn what an experiment returned into rows with their provenance.

    Raises:
        BenchmarkError: When a value is no finite number or a metric has no unit.
    """
    import torch

    values = returned if isinstance(returned, Mapping) else {"": returned}
    if not values:
        raise BenchmarkError(f"Experiment {entry.id} returned no values.")
    rows = []
    for metric, value in values.items():
        id = f"{entry.id}/{metric}" if metric else entry.id
        spread = None
        if isinstance(value, Measurement):
            value, spread = value.value, [float(end) for end in value.spread]
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise BenchmarkError(f"Experiment {entry.id} returned {value!r} for {id}; return a number.") from None
        conditions = f"Quick run, not evidence. {entry.conditions}" if quick else entry.conditions
        row = {
            "id": id,
            "value": int(value) if value.is_integer() and abs(value) < 2**53 else value,
            "unit": entry.unit_of(metric),
            "conditions": conditions,
            "command": f"segtutor benchmark {entry.id}",
            "commit": source,
            "config": dict(entry.config, quick=True) if quick else dict(entry.config),
            "seed": seed,
            "hardware": hardware(entry.device),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "wall_seconds": round(seconds, 2),
            "spread": spread,
        }
        try:
            rows.append(parse_row(row, f"experiment {entry.id}"))
        except ResultsError as error:
            raise BenchmarkError(str(error)) from None
    return rows


# ------------------------------------------------------------------------------------------------------------- running


def run(
    ids: Iterable[str] = (),
    *,
    quick: bool = False,
    seeds: Iterable[int] | None = None,
    folder: Path | str | None = None,
    again: bool = False,
    experiments: Mapping[str, Experiment] | None = None,
) -> int:
    """Measure what is missing, and print progress.

    Args:
        ids: Experiments, first parts of their ids, or claims; empty for all.
        quick: Run the short form, into a temporary folder: it proves the code and is never evidence.
        seeds: Instead of each experiment's own.
        folder: Where the rows go; default: :func:`default_folder`.
        again: Measure again what this machine has already measured.
        experiments: A registry; default: every experiment of the package.

    Returns:
        0 when everything was measured, 1 when an experiment failed, 130 when interrupted.
    """
    chosen = select(ids, load_experiments() if experiments is None else experiments)
    if folder is None:
        folder = tempfile.mkdtemp(prefix="segtutor-quick-") if quick else default_folder()
    folder = Path(folder)
    if quick and folder.resolve() == FOLDER.resolve():
        raise BenchmarkError("Quick rows are not evidence and never go into the package; choose another --results.")
    where = "the package's results" if folder == FOLDER else str(folder)
    print(f"{'Quick rows, not evidence, go' if quick else 'Rows go'} to {where}.", flush=True)

    waiting = _waiting(chosen, seeds, folder, quick=quick, again=again)
    started, failed = time.monotonic(), 0
    expected = _expected_seconds(folder)
    for number, (entry, seed) in enumerate(waiting, 1):
        rest = _remaining(waiting[number - 1 :], expected)
        print(f"[{number}/{len(waiting)}] {entry.id}, seed {seed}{rest}", flush=True)
        source, begun = commit(), time.monotonic()
        try:
            returned = entry.run(seed, quick, _log)
            seconds = time.monotonic() - begun
            rows = rows_of(entry, seed, returned, seconds, source=source, quick=quick)
            record(rows, folder / f"{entry.group}.json")
        except KeyboardInterrupt:
            print(f"Interrupted: {plural(number - 1, 'run')} kept; the same command goes on from here.", flush=True)
            return 130
        except Exception as error:  # one broken experiment must not cost the night's other rows
            traceback.print_exc()
            print(f"  {entry.id}, seed {seed} failed: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        expected.setdefault(entry.id, []).append(seconds)
        for row in rows:
            spread = f" ({row.spread[0]:.4g} to {row.spread[1]:.4g})" if row.spread else ""
            print(f"  {row.id} = {row.value:.6g} {row.unit}{spread}", flush=True)
    done = len(waiting) - failed
    print(f"{plural(done, 'run')} measured in {_duration(time.monotonic() - started)}, {failed} failed.", flush=True)
    return 1 if failed else 0


def _log(text: object) -> None:
    print(f"  {text}", flush=True)


def _waiting(chosen, seeds, folder, *, quick, again) -> list[tuple[Experiment, int]]:
    """The runs that this machine has not made yet, seed by seed: an interrupted list then has every id once."""
    import torch

    rows = read_rows(folder=folder)
    runs, kept = [], 0
    for entry in chosen:
        if entry.device == "cuda" and not torch.cuda.is_available():
            print(f"{entry.id} waits for a GPU.", flush=True)
            continue
        settings = json.dumps(dict(entry.config, quick=True) if quick else dict(entry.config), sort_keys=True)
        machine = hardware(entry.device)
        have = {row.seed for row in rows if _belongs(row, entry) and row.key[2:] == (machine, settings)}
        for place, seed in enumerate(entry.seeds if seeds is None else seeds):
            if seed in have and not again:
                kept += 1
            else:
                runs.append((place, entry, seed))
    if kept:
        print(f"{plural(kept, 'run')} already measured on this machine (--again measures anew).", flush=True)
    return [(entry, seed) for _, entry, seed in sorted(runs, key=lambda run: run[0])]


def _belongs(row: Row, entry: Experiment) -> bool:
    return row.command == f"segtutor benchmark {entry.id}"


def _expected_seconds(folder: Path) -> dict[str, list[float]]:
    """Earlier wall times by experiment, the basis of the first estimate."""
    known: dict[str, list[float]] = {}
    for row in read_rows(folder=folder):
        known.setdefault(row.command.rsplit(" ", 1)[-1], []).append(row.wall_seconds)
    return known


def _remaining(runs, expected) -> str:
    known = [sum(expected[e.id]) / len(expected[e.id]) for e, _ in runs if e.id in expected]
    if not known:
        return ""
    # Experiments that never ran are taken to be as long as the average of the others.
    return f", about {_duration(sum(known) / len(known) * len(runs))} to go"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listing(experiments: Mapping[str, Experiment] | None = None) -> str:
    """One line per experiment: id, seeds measured anywhere, what it measures."""
    experiments = load_experiments() if experiments is None else experiments
    rows = read_rows()
    width = max((len(id) for id in experiments), default=0)
    lines = []
    for entry in experiments.values():
        measured = len({row.seed for row in rows if _belongs(row, entry)})
        lines.append(f"{entry.id:<{width}}  {measured}/{len(entry.seeds)} seeds  {entry.summary}")
    return "\n".join(lines) or "There are no experiments."
