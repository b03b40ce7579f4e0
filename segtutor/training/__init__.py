"""Training and evaluation: the loop that every chapter uses. It knows no model, only losses and metrics."""

from segtutor.training.checkpointing import load_checkpoint, save_checkpoint
from segtutor.training.evaluate import evaluate, evaluate_each
from segtutor.training.loop import fit
from segtutor.training.precision import autocast_dtype
from segtutor.training.rehearsal import Rehearsal, rehearse
from segtutor.training.reporting import History, Observer
from segtutor.training.sampling import Samples
from segtutor.training.schedule import cosine, poly, warmed_up

__all__ = [
    "History",
    "Observer",
    "Rehearsal",
    "Samples",
    "autocast_dtype",
    "cosine",
    "evaluate",
    "evaluate_each",
    "fit",
    "load_checkpoint",
    "poly",
    "rehearse",
    "save_checkpoint",
    "warmed_up",
]
