"""Semantic segmentation, explained and proven: the package that the book's chapters import.

Importing ``segtutor`` imports nothing else: every part is loaded when it is first used, so the package costs no
more than the parts that a program needs (``segtutor.losses`` brings torch, ``segtutor.viz`` brings matplotlib).
"""

import importlib

__version__ = "0.1.0"

_PARTS = (
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
)

__all__ = ["__version__", *_PARTS]


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"segtutor.{name}")
    raise AttributeError(f"module 'segtutor' has no attribute {name!r}; its parts are {', '.join(_PARTS)}.")


def __dir__():
    return sorted({*globals(), *_PARTS})
