"""The machinery that measures: experiments are functions, and their values become rows in ``segtutor/lab/results``::

    @experiment("FCN-2", claim="FCN-2", unit={"miou": "mIoU"}, conditions="CamVid 120x160, 2,000 steps of batch 8")
    def skips(seed, quick, log):
        ...
        return {"fcn32s/miou": 0.31, "fcn8s/miou": 0.42}

A run is one (experiment, seed). Its rows are written the moment it ends, so a long list can be interrupted and
taken up again: what this machine has already measured is not measured twice, and no machine touches the rows of
another. The modules of `segtutor.lab.experiments` are found by themselves and imported when they are needed.

``registry`` declares experiments, ``runner`` runs them and writes their rows, ``provenance`` says on what machine and
from what code a row came, and ``stopwatch`` is the one way in which experiments measure time.
"""

from segtutor.lab.harness.provenance import commit, hardware
from segtutor.lab.harness.registry import (
    EXPERIMENTS,
    BenchmarkError,
    Experiment,
    Log,
    Measurement,
    Values,
    experiment,
    listing,
    load_experiments,
    select,
)
from segtutor.lab.harness.runner import default_folder, record, rows_of, run

__all__ = [
    "EXPERIMENTS",
    "BenchmarkError",
    "Experiment",
    "Log",
    "Measurement",
    "Values",
    "commit",
    "default_folder",
    "experiment",
    "hardware",
    "listing",
    "load_experiments",
    "record",
    "rows_of",
    "run",
    "select",
]
