"""What the command line says of an error: one sentence."""

from __future__ import annotations


def sentence(error: Exception) -> str | None:
    """What went wrong, on one line; None for an error that no user can cause, "" for what another process says.

    Args:
        error: what reached the command line.
    """
    from segtutor.runs import faults
    from segtutor.training import distributed

    if isinstance(error, distributed.PeerError):
        return "" if distributed.rank() else str(error)
    if faults.is_out_of_memory(error):
        return "out of memory: give smaller images or batches, close other programs, or take a larger machine."
    return None if isinstance(error, RuntimeError) else faults.sentence(error)
