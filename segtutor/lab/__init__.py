"""Where the book's evidence comes from: published facts, experiments, measured rows, claims and their verdicts.

The lab stands on the library; the library never imports it.
"""

import importlib

_PARTS = ("chapter", "claims", "experiments", "harness", "papers", "protocols", "results", "source")

__all__ = list(_PARTS)


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its parts are {', '.join(_PARTS)}.")
