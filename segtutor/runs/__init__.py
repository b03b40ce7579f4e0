"""What the command line does, as functions: from a configuration to a trained model, its scores and its predictions."""

from segtutor.runs.recipe import Recipe, read_recipe
from segtutor.runs.run import evaluate, predict, resume, train

__all__ = ["Recipe", "evaluate", "predict", "read_recipe", "resume", "train"]
