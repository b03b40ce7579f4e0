"""What the command line does, as functions: from a configuration to a trained model, its scores and its predictions."""

from segtutor.runs.errors import InUseError, RunError
from segtutor.runs.evaluate import evaluate
from segtutor.runs.overfit import Overfit, overfit
from segtutor.runs.predict import predict
from segtutor.runs.recipe import Recipe, read_recipe
from segtutor.runs.report import report
from segtutor.runs.resume import resume
from segtutor.runs.train import train

__all__ = [
    "InUseError",
    "Overfit",
    "Recipe",
    "RunError",
    "evaluate",
    "overfit",
    "predict",
    "read_recipe",
    "report",
    "resume",
    "train",
]
