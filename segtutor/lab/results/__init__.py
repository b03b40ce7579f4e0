"""Measured rows: every number that the book cites and no chapter can measure in a minute.

The rows are JSON files beside this module, which only ``segtutor benchmark`` writes and only this module reads. It
needs no torch, so that a page can be rendered and checked anywhere.

A row is one value from one run, with its id, seed, machine and configuration, and where it came from.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent


class ResultsError(ValueError):
    """A results file contains something that is not a measured row."""


class MissingResult(LookupError):
    """Nothing was measured under the id that was asked for."""


@dataclass(frozen=True)
class Row:
    """One value from one run.

    Args:
        id: What was measured: ``"FCN-2/fcn8s/boundary_miou"`` (experiment, then what it varies, then the metric).
        value: The number, in ``unit``.
        unit: ``"mIoU"``, ``"ms"``, ``"MiB"``, ``"ratio"``...
        conditions: Data, size, steps and batch in words, enough to judge the number.
        command: The command that measures it again.
        commit: The commit of the code that ran; ``-dirty`` says that ``segtutor/`` had uncommitted changes.
        config: The settings that belong to the row's identity, as a flat mapping.
        seed: The seed of this run.
        hardware: The machine: processor or GPU, cores, threads.
        torch: The torch version.
        python: The Python version.
        date: When the run ended, UTC, ISO 8601.
        wall_seconds: How long the run took, in seconds.
        spread: For values that are themselves a median of repeated timings: their (low, high), else None.
    """

    id: str
    value: float
    unit: str
    conditions: str
    command: str
    commit: str
    config: Mapping[str, object]
    seed: int
    hardware: str
    torch: str
    python: str
    date: str
    wall_seconds: float
    spread: tuple[float, float] | None = None

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What makes two rows the same measurement: id, seed, machine, configuration."""
        return self.id, self.seed, self.hardware, json.dumps(dict(self.config), sort_keys=True)


_TEXT = ("id", "unit", "conditions", "command", "commit", "hardware", "torch", "python", "date")
_NAMES = tuple(field.name for field in fields(Row))


def parse_row(record: object, where: str = "row") -> Row:
    """Turn one JSON object into a ``Row``.

    Raises:
        ResultsError: Naming ``where`` and the field, when the object does not follow the schema.
    """
    if not isinstance(record, dict):
        raise ResultsError(f"{where}: a row must be a JSON object, not {type(record).__name__}.")
    missing = [name for name in _NAMES if name not in record and name != "spread"]
    unknown = [name for name in record if name not in _NAMES]
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        raise ResultsError(f"{where}: {' and '.join(parts)}; a row has exactly the fields {', '.join(_NAMES)}.")
    for name in _TEXT:
        if not isinstance(record[name], str) or not record[name].strip():
            raise ResultsError(f"{where}: {name} must be a non-empty string, found {record[name]!r}.")
    for name in ("value", "wall_seconds"):
        if not _is_number(record[name]):
            raise ResultsError(f"{where}: {name} must be a finite number, found {record[name]!r}.")
    if isinstance(record["seed"], bool) or not isinstance(record["seed"], int):
        raise ResultsError(f"{where}: seed must be an integer, found {record['seed']!r}.")
    if not isinstance(record["config"], dict):
        raise ResultsError(f"{where}: config must be a JSON object, found {record['config']!r}.")
    try:
        datetime.fromisoformat(record["date"].replace("Z", "+00:00"))
    except ValueError:
        raise ResultsError(f"{where}: date must be ISO 8601 such as 2026-01-31T12:00:00Z.") from None
    spread = record.get("spread")
    if spread is not None:
        if not (isinstance(spread, (list, tuple)) and len(spread) == 2 and all(map(_is_number, spread))):
            raise ResultsError(f"{where}: spread must be null or two finite numbers [low, high], found {spread!r}.")
        if spread[0] > spread[1]:
            raise ResultsError(f"{where}: spread must be [low, high], found {spread!r}.")
        spread = (float(spread[0]), float(spread[1]))
    return Row(**{**record, "spread": spread})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_file(path: Path) -> list[Row]:
    """All rows of one results file.

    Raises:
        ResultsError: When the file is not JSON, a row breaks the schema, or a measurement appears twice.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path.name} is not valid JSON ({error}).") from None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ResultsError(f'{path.name}: expected {{"rows": [...]}} at the top level.')
    rows = [parse_row(record, f"{path.name}, row {number}") for number, record in enumerate(content["rows"], 1)]
    _check_unique(rows, path.name)
    return rows


def _check_unique(rows: Iterable[Row], where: str) -> None:
    seen: set[tuple[str, int, str, str]] = set()
    for row in rows:
        if row.key in seen:
            twice = f"{row.id} with seed {row.seed} appears twice for {row.hardware}"
            raise ResultsError(f"{where}: {twice}; delete one of the two rows.")
        seen.add(row.key)


def read_rows(id: str | None = None, *, folder: Path | str | None = None) -> list[Row]:
    """Rows by id or by the first parts of an id.

    Args:
        id: ``"FCN-2/fcn8s/miou"`` for one quantity, ``"FCN-2"`` for everything below it, None for all rows.
        folder: Where the files are; default: the package's own.

    Returns:
        The rows in the order of their files; an empty list when there is none.
    """
    stats = [(path, path.stat()) for path in sorted(Path(folder or FOLDER).glob("*.json"))]
    rows = _all_rows(tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats))
    if id is None:
        return list(rows)
    return [row for row in rows if row.id == id or row.id.startswith(id + "/")]


@lru_cache(maxsize=4)
def _all_rows(files: tuple[tuple[Path, int, int], ...]) -> tuple[Row, ...]:
    """The rows of files, each given with its time of change and its size: until these change, it is parsed once."""
    rows = tuple(row for path, _, _ in files for row in read_file(path))
    _check_unique(rows, "results")
    return rows


@dataclass(frozen=True)
class Result:
    """One quantity, averaged over seeds on one machine.

    ``spread`` is (lowest, highest) over the seeds; with one seed it is the spread inside that run, if it has one.
    """

    id: str
    value: float
    spread: tuple[float, float] | None
    n: int
    unit: str
    conditions: str
    rows: tuple[Row, ...]

    @property
    def hardware(self) -> str:
        """The machine that measured it."""
        return self.rows[0].hardware

    @property
    def provenance(self) -> str:
        """Machine, versions, commit, date and command in one line."""
        last = max(self.rows, key=lambda row: row.date)
        commits = ", ".join(dict.fromkeys(row.commit for row in self.rows))
        return (
            f"{plural(self.n, 'seed')}, {last.hardware}, torch {last.torch}, Python {last.python}, "
            f"commit {commits}, {last.date[:10]}, `{last.command}`"
        )

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __str__(self) -> str:
        spread = f" ({self.spread[0]:.4g} to {self.spread[1]:.4g})" if self.spread else ""
        return f"{self.value:.4g} {self.unit}{spread}, {plural(self.n, 'seed')}"

    def __repr__(self) -> str:
        return f"{self.id}: {self}"


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def result(id: str, *, folder: Path | str | None = None) -> Result:
    """The mean over seeds of one quantity.

    Rows of different machines or configurations are never averaged. The newest configuration is taken, and of the
    machines that measured it the one with the most seeds (then the newest), so that the timings of one table come
    from one machine.

    Args:
        id: The id of a row.
        folder: Where the files are; default: the package's own.

    Raises:
        MissingResult: When nothing was measured under ``id``; the message names the ids of the same experiment.
    """
    rows = [row for row in read_rows(folder=folder) if row.id == id]
    if not rows:
        raise MissingResult(_missing_sentence(id, folder))
    newest = max(rows, key=lambda row: (row.date, row.key)).key[3]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.key[3] == newest:
            groups.setdefault(row.hardware, []).append(row)
    best = max(groups.values(), key=lambda group: (len(group), max(row.date for row in group), group[0].hardware))
    best.sort(key=lambda row: row.seed)
    values = [row.value for row in best]
    spread = (min(values), max(values)) if len(values) > 1 else best[0].spread
    return Result(id, statistics.fmean(values), spread, len(values), best[0].unit, best[0].conditions, tuple(best))


def _missing_sentence(id: str, folder: Path | str | None) -> str:
    experiment = id.split("/")[0]
    known = sorted({row.id for row in read_rows(experiment, folder=folder)})
    near = f"{experiment!r} has {', '.join(known)}" if known else f"{experiment!r} has no rows at all"
    return f"There is no measured row {id!r}: {near}; `segtutor benchmark {experiment}` measures what is missing."
