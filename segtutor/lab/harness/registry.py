"""Experiments by their ids: what is declared, how it is found, and how it is listed."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from segtutor.lab.results import Row, read_rows

EXPERIMENTS: dict[str, "Experiment"] = {}

Log = Callable[[object], None]  # prints a progress line


class BenchmarkError(ValueError):
    """An experiment is unknown, declared twice, lacks what it needs, or returned something that cannot be a row."""


@dataclass(frozen=True)
class Measurement:
    """A value that is itself the median of repeated timings, with their (low, high)."""

    value: float
    spread: tuple[float, float]


Values = Mapping[str, float | Measurement]  # metric -> its value
Run = Callable[[int, bool, Log], float | Measurement | Values]  # run(seed, quick, log) measures


@dataclass(frozen=True)
class Experiment:
    """A registered experiment; see :func:`experiment` for the fields."""

    id: str
    run: Run
    claim: str | None
    seeds: tuple[int, ...]
    unit: str | Mapping[str, str]
    conditions: str
    group: str
    config: Mapping[str, object]
    device: str
    summary: str

    @property
    def command(self) -> str:
        """The command that measures it, as its rows record it."""
        return f"segtutor benchmark {self.id}"

    def unit_of(self, metric: str) -> str:
        """The unit of one returned metric; a mapping is searched by full name, then by its last part.

        Raises:
            BenchmarkError: When the metric has no unit.
        """
        if isinstance(self.unit, str):
            return self.unit
        for name in (metric, metric.rsplit("/", 1)[-1]):
            if name in self.unit:
                return self.unit[name]
        raise BenchmarkError(f"Experiment {self.id} returned {metric!r}, which has no unit; add it to unit={{...}}.")

    def measured(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the rows that this experiment measured, on whatever machine."""
        return [row for row in rows if row.command == self.command]


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
) -> Callable[[Run], Run]:
    """Register ``function(seed, quick, log)`` as an experiment.

    The function returns a number, a :class:`Measurement`, or a dict of either. A number becomes the row ``id``, an
    entry of a dict the row ``id/key``. ``quick=True`` asks for a run of seconds that proves that the code works;
    ``log(text)`` prints a progress line.

    Args:
        id: The experiment, e.g. ``"FCN-2"`` or ``"table/fcn8s"``.
        unit: One unit for everything, or a mapping from metric (full key or its last part) to unit.
        conditions: Data, sizes, steps, batch in words; printed under every table that shows the rows.
        claim: The claim of ``segtutor.lab.claims`` that the experiment is about.
        seeds: What to run; ``(0,)`` for counts, in which chance has no part.
        group: The results file, ``results/<group>.json``; default: the module's name.
        config: Settings that make a row another row when they change.
        device: ``"cpu"``, ``"cuda"`` (not run where there is none) or ``"auto"`` (a GPU where there is one).

    Raises:
        BenchmarkError: When the device is unknown, or another module has declared the id.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise BenchmarkError(f"Experiment {id}: device must be 'cpu', 'cuda' or 'auto', not {device!r}.")

    def register(function: Run) -> Run:
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


def listing(experiments: Mapping[str, Experiment] | None = None) -> str:
    """One line per experiment: id, how many of its seeds were measured on any machine, what it measures."""
    experiments = load_experiments() if experiments is None else experiments
    rows = read_rows()
    width = max((len(id) for id in experiments), default=0)
    lines = []
    for entry in experiments.values():
        seeds = len({row.seed for row in entry.measured(rows)})
        lines.append(f"{entry.id:<{width}}  {seeds}/{len(entry.seeds)} seeds  {entry.summary}")
    return "\n".join(lines) or "There are no experiments."
