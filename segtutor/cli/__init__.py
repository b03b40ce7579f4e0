"""The command ``segtutor``: the parser, and what `doctor` and `models` print."""

from segtutor.cli.main import main

__all__ = ["main"]
