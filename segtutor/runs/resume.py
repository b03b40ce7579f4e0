"""``segtutor train --resume``: continue a run that was cut short, as if it had never stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from segtutor.runs.folder import CHECKPOINT, recipe_of
from segtutor.runs.train import fit_recipe, is_validated
from segtutor.training import History, load_checkpoint

logger = logging.getLogger(__name__)


def resume(run: Path | str) -> History:
    """Continue a run from its last checkpoint.

    Args:
        run: the folder.

    Returns:
        The curves from the first step on.

    Raises:
        RunError: the folder is not a run.
        ValueError: it has no checkpoint.
    """
    run = Path(run)
    recipe = recipe_of(run)
    state = load_checkpoint(run / CHECKPOINT)
    done = len(state["history"]["steps"])
    if done >= recipe.training.steps and is_validated(state["history"]):
        logger.info("%s has all of its %d steps; nothing is left to do.", run, done)
        return History(**state["history"])
    logger.info("Continues %s after step %d of %d.", run, done, recipe.training.steps)
    return fit_recipe(recipe, run, state)
