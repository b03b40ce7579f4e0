"""What is raised for a file that cannot be used: always one sentence that names the file and says what to do."""

from __future__ import annotations


class DataError(ValueError):
    """A file of a dataset cannot be used as it is.

    A DataLoader worker hands an error over as the text of its whole traceback, put into a new error of the same class.
    The sentence is taken out of that text again, so that one bad file reads the same with and without workers.

    Args:
        message: One sentence: what is wrong, in which file, what to do.
        kind: The finding's name in a report of ``check_dataset``.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        if message.startswith("Caught ") and "\n" in message:
            message = message.rstrip().rpartition("\n")[2].partition(": ")[2]
        super().__init__(" ".join(message.split()))
        self.kind = kind


class MaskError(DataError):
    """A mask holds values that are no label, or was saved in a way that loses labels."""
