"""Ctrl-C and the signals of a batch system, heard between two steps of a run and not in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

# SIGTERM is what batch systems and containers send before they kill; SIGHUP comes when a terminal is closed.
_TERMINATION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def between_steps(*, termination: bool = False, echo: float = 0.0) -> Iterator[list[int]]:
    """Yield a list that signals fill, so that no step is cut in two; the second signal does not wait.

    Args:
        termination: hear SIGTERM and SIGHUP as well, unless the program has a handler for them; after the block such a
            signal is raised again, and ends the process as usual.
        echo: seconds after the first signal in which another one counts as the same: of several processes, a batch
            system signals each and the launcher as well, which passes it on.
    """
    asked: list[int] = []
    first = 0.0

    def note(number: int, frame: object) -> None:
        nonlocal first
        if not asked:
            first = time.monotonic()
            asked.append(number)
        elif time.monotonic() - first >= echo:
            raise KeyboardInterrupt

    heard = {}  # number of a signal -> who heard it before
    if threading.current_thread() is threading.main_thread():  # no other thread may
        for number in (signal.SIGINT, *(_TERMINATION if termination else ())):
            handler = signal.getsignal(number)
            # Somebody else's handler of SIGTERM stays, and so does a process's order to ignore a signal.
            if callable(handler) if number == signal.SIGINT else handler == signal.SIG_DFL:
                heard[number] = handler
                signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
        if asked and asked[0] in _TERMINATION:
            signal.raise_signal(asked[0])
