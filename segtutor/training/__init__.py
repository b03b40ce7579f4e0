"""Training and evaluation: the loop that every chapter uses. It knows no model, only losses and metrics."""

from segtutor.training.loop import History, autocast_dtype, evaluate, fit, poly

__all__ = ["History", "autocast_dtype", "evaluate", "fit", "poly"]
