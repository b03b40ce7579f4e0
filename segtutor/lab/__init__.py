"""Where the book's evidence comes from: published facts, experiments, measured rows, claims and their verdicts.

The lab imports the library; the library never imports the lab.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker sees; a program looks names up on first use
    from segtutor.lab import chapter, claims, experiments, harness, papers, protocols, results, source

__all__ = ["chapter", "claims", "experiments", "harness", "papers", "protocols", "results", "source"]

# Hidden from type checkers, which would take any name for one that is here
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its parts are {', '.join(__all__)}.")
