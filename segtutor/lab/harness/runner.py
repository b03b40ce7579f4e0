"""Run experiments and write their rows: one run is one (experiment, seed), and its rows are written when it ends."""

import contextlib
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from segtutor.files import write_text
from segtutor.lab.harness.provenance import commit, hardware
from segtutor.lab.harness.registry import BenchmarkError, Experiment, Measurement, Values, load_experiments, select
from segtutor.lab.results import FOLDER, ResultsError, Row, parse_row, plural, read_file, read_rows


def default_folder() -> Path:
    """``SEGTUTOR_RESULTS``, else the package's own folder in a writable checkout, else ``./segtutor-results``."""
    if os.environ.get("SEGTUTOR_RESULTS"):
        return Path(os.environ["SEGTUTOR_RESULTS"])
    if not commit().startswith("unknown") and os.access(FOLDER, os.W_OK):
        return FOLDER
    return Path("segtutor-results")


# ------------------------------------------------------------------------------------------------------------- writing


def record(rows: Iterable[Row], path: Path | str) -> None:
    """Add rows to a results file, replacing only rows with the same id, seed, machine and configuration.

    The file is replaced in one step, so a reader or an interruption never meets half of it, and two runs that
    write to one folder at once take turns.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        merged = {row.key: row for row in (read_file(path) if path.exists() else [])}
        merged.update({row.key: row for row in rows})
        ordered = sorted(merged.values(), key=lambda row: row.key)
        lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) for row in ordered)
        write_text(path, f'{{"rows": [\n{lines}\n]}}\n')


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
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


def rows_of(
    entry: Experiment,
    seed: int,
    returned: float | Measurement | Values,
    seconds: float,
    *,
    source: str,
    quick: bool,
) -> list[Row]:
    """Turn what an experiment returned into rows with their provenance.

    Args:
        entry: The experiment.
        seed: The seed that it ran with.
        returned: A number, a Measurement, or a mapping from metric to either.
        seconds: How long the run took.
        source: The commit of the code that ran.
        quick: Whether it was a run that only proves that the code works; its rows say so.

    Raises:
        BenchmarkError: When a value is not a finite number or a metric has no unit.
    """
    import torch

    values: Values = returned if isinstance(returned, Mapping) else {"": returned}
    if not values:
        raise BenchmarkError(f"Experiment {entry.id} returned no values.")
    rows = []
    for metric, value in values.items():
        id = f"{entry.id}/{metric}" if metric else entry.id
        number, spread = (value.value, value.spread) if isinstance(value, Measurement) else (value, None)
        try:
            number = float(number)
            ends = None if spread is None else [float(end) for end in spread]
        except (TypeError, ValueError):
            raise BenchmarkError(f"Experiment {entry.id} returned {number!r} for {id}; return a number.") from None
        row = {
            "id": id,
            "value": int(number) if number.is_integer() and abs(number) < 2**53 else number,
            "unit": entry.unit_of(metric),
            "conditions": f"Quick run, not evidence. {entry.conditions}" if quick else entry.conditions,
            "command": entry.command,
            "commit": source,
            "config": _settings(entry, quick),
            "seed": seed,
            "hardware": hardware(entry.device),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "wall_seconds": round(seconds, 2),
            "spread": ends,
        }
        try:
            rows.append(parse_row(row, f"experiment {entry.id}"))
        except ResultsError as error:
            raise BenchmarkError(str(error)) from None
    return rows


def _settings(entry: Experiment, quick: bool) -> dict[str, object]:
    return dict(entry.config, quick=True) if quick else dict(entry.config)


# ------------------------------------------------------------------------------------------------------------- running


def run(
    ids: Iterable[str] = (),
    *,
    quick: bool = False,
    seeds: Iterable[int] | None = None,
    folder: Path | str | None = None,
    rerun: bool = False,
    experiments: Mapping[str, Experiment] | None = None,
) -> int:
    """Measure what is missing, and print progress.

    Args:
        ids: Experiments, first parts of their ids, or claims; empty for all.
        quick: Run the short form, into a temporary folder: it proves the code and is never evidence.
        seeds: Instead of each experiment's own.
        folder: Where the rows go; default: :func:`default_folder`.
        rerun: Measure again what this machine has already measured.
        experiments: A registry; default: every experiment of the package.

    Returns:
        0 when everything was measured, 1 when an experiment failed, 130 when interrupted.

    Raises:
        BenchmarkError: When an id selects nothing, or quick rows were to go into the package.
    """
    chosen = select(ids, load_experiments() if experiments is None else experiments)
    if folder is None:
        folder = tempfile.mkdtemp(prefix="segtutor-quick-") if quick else default_folder()
    folder = Path(folder)
    if quick and folder.resolve() == FOLDER.resolve():
        raise BenchmarkError("Quick rows are not evidence and never go into the package; choose another --results.")
    where = "the package's results" if folder == FOLDER else str(folder)
    print(f"{'Quick rows, not evidence, go' if quick else 'Rows go'} to {where}.", flush=True)

    planned = _missing_runs(chosen, seeds, folder, quick=quick, rerun=rerun)
    started, failed = time.monotonic(), 0
    durations = _past_seconds(folder)
    for number, (entry, seed) in enumerate(planned, 1):
        rest = _time_left(planned[number - 1 :], durations)
        print(f"[{number}/{len(planned)}] {entry.id}, seed {seed}{rest}", flush=True)
        source, begun = commit(), time.monotonic()
        try:
            returned = entry.run(seed, quick, _log)
            seconds = time.monotonic() - begun
            rows = rows_of(entry, seed, returned, seconds, source=source, quick=quick)
            record(rows, folder / f"{entry.group}.json")
        except KeyboardInterrupt:
            print(
                f"Interrupted: {plural(number - 1 - failed, 'run')} kept; the same command continues.",
                flush=True,
            )
            return 130
        except Exception as error:  # one broken experiment must not cost the night's other rows
            traceback.print_exc()
            print(f"  {entry.id}, seed {seed} failed: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        durations.setdefault(entry.command, []).append(seconds)
        for row in rows:
            spread = f" ({row.spread[0]:.4g} to {row.spread[1]:.4g})" if row.spread else ""
            print(f"  {row.id} = {row.value:.6g} {row.unit}{spread}", flush=True)
    done = len(planned) - failed
    print(f"{plural(done, 'run')} measured in {_duration(time.monotonic() - started)}, {failed} failed.", flush=True)
    return 1 if failed else 0


def _log(text: object) -> None:
    print(f"  {text}", flush=True)


def _missing_runs(
    chosen: Iterable[Experiment], seeds: Iterable[int] | None, folder: Path, *, quick: bool, rerun: bool
) -> list[tuple[Experiment, int]]:
    """The runs that this machine has not made yet, seed by seed: an interrupted list then has every id once."""
    import torch

    rows, seeds = read_rows(folder=folder), None if seeds is None else list(seeds)
    runs, kept = [], 0
    for entry in chosen:
        if entry.device == "cuda" and not torch.cuda.is_available():
            print(f"{entry.id} waits for a GPU.", flush=True)
            continue
        settings = json.dumps(_settings(entry, quick), sort_keys=True)
        machine = hardware(entry.device)
        have = {row.seed for row in entry.measured(rows) if row.key[2:] == (machine, settings)}
        for place, seed in enumerate(entry.seeds if seeds is None else seeds):
            if seed in have and not rerun:
                kept += 1
            else:
                runs.append((place, entry, seed))
    if kept:
        print(f"{plural(kept, 'run')} already measured on this machine (--rerun measures again).", flush=True)
    return [(entry, seed) for _, entry, seed in sorted(runs, key=lambda run: run[0])]


def _past_seconds(folder: Path) -> dict[str, list[float]]:
    """Earlier wall times by command, the basis of the first estimate."""
    known: dict[str, list[float]] = {}
    for row in read_rows(folder=folder):
        known.setdefault(row.command, []).append(row.wall_seconds)
    return known


def _time_left(runs: Sequence[tuple[Experiment, int]], durations: Mapping[str, Sequence[float]]) -> str:
    known = [sum(durations[e.command]) / len(durations[e.command]) for e, _ in runs if e.command in durations]
    if not known:
        return ""
    # Experiments that never ran are taken to be as long as the average of the others.
    return f", about {_duration(sum(known) / len(known) * len(runs))} to go"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
