"""What the package reports while it works: records of the logger "segtutor", at level INFO.

The library only makes the records. Who runs it decides where they go, by the standard ``logging`` module; the command
line and the book's chapters print them plainly, and so does a single call that was asked for progress lines in a
program that has set up no logging at all.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

LOGGER = logging.getLogger("segtutor")


class PrintHandler(logging.Handler):
    """Prints the message alone, to what ``sys.stdout`` is at that moment: notebooks and tests put another in its place.

    An error of the output, such as a closed pipe, reaches the caller as it does from ``print``.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        print(self.format(record), flush=True)


def show() -> None:
    """Print the records of the package from now on, each once; a second call changes nothing."""
    if not any(isinstance(handler, PrintHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(PrintHandler())
    if not LOGGER.isEnabledFor(logging.INFO):
        LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # a handler of the root logger would show each line a second time


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Print the records of the package inside the block; afterwards its logger is as it was."""
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    show()
    try:
        yield
    finally:
        LOGGER.handlers[:], LOGGER.propagate = before[0], before[2]
        LOGGER.setLevel(before[1])


@contextlib.contextmanager
def shown_unless_handled() -> Iterator[None]:
    """Print the records of the package inside the block, unless somebody has set up logging."""
    with contextlib.nullcontext() if LOGGER.handlers or logging.getLogger().handlers else shown():
        yield
