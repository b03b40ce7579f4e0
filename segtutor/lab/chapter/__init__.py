"""What every chapter shares: the size of a run, its data, its tables, and the numbers measured elsewhere.

A chapter runs in a minute on one CPU thread, and longer where there is a GPU. One call decides which:

    s = chapter.settings()
    steps = s.pick(quick=200, full=2000)

What a minute cannot show is read from the measured rows (``chapter.result``, ``chapter.running_table``,
``chapter.claims``). Their text is the same on every machine, whatever the size of the run.
"""

from segtutor.lab.chapter.measured import (
    claims,
    compatibility_matrix,
    paper,
    result,
    running_table,
    speed_table,
)
from segtutor.lab.chapter.start import Settings, dataset, settings
from segtutor.lab.chapter.tables import Table, table

__all__ = [
    "Settings",
    "Table",
    "claims",
    "compatibility_matrix",
    "dataset",
    "paper",
    "result",
    "running_table",
    "settings",
    "speed_table",
    "table",
]
