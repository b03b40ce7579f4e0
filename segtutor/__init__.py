"""Semantic segmentation, explained and proven: the package that the book's chapters import.

Importing ``segtutor`` imports nothing else: every part is loaded when it is first used, so the package costs no
more than the parts that a program needs (``segtutor.losses`` brings torch, ``segtutor.viz`` brings matplotlib).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker sees; a program looks names up on first use
    from segtutor import (
        data,
        factory,
        inference,
        lab,
        layers,
        losses,
        metrics,
        models,
        probe,
        runs,
        training,
        viz,
        weights,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "data",
    "factory",
    "inference",
    "lab",
    "layers",
    "losses",
    "metrics",
    "models",
    "probe",
    "runs",
    "training",
    "viz",
    "weights",
]
_PARTS = __all__[1:]

# Hidden from type checkers, which would take any name for one that is here
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _PARTS:
            return import_module(f"segtutor.{name}")
        raise AttributeError(f"module 'segtutor' has no attribute {name!r}; its parts are {', '.join(_PARTS)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
