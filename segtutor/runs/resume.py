"""``segtutor train --resume``: continue a run as if it had never stopped, or train on after its end.

What may change on the way, and what not, is the table `RULES`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from segtutor.factory.config import ConfigError
from segtutor.factory.messages import shown
from segtutor.runs.errors import RunError
from segtutor.runs.folder import CHECKPOINT, CONFIG, LAST, check_run, config_of, recipe_of
from segtutor.runs.lock import locked
from segtutor.runs.recipe import Recipe
from segtutor.runs.train import build, fit_run, images_of, is_validated
from segtutor.training import History, load_checkpoint
from segtutor.training.distributed import joined

logger = logging.getLogger(__name__)


class Rule(NamedTuple):
    """Whether a run may go on with another value of a key.

    Attributes:
        key: path of the key, or a pattern such as ``data.*``.
        free: whether it may change.
        because: what would be wrong if it did; of a key that may change, what follows.
    """

    key: str
    free: bool
    because: str


# The first that fits a key counts.
RULES = (
    Rule("training.steps", True, "the run ends there, and the schedule is that of the new length"),
    Rule("training.lr", True, "times the schedule, from the next step on"),
    Rule("training.weight_decay", True, "from the next step on"),
    Rule("training.schedule*", True, "the next step follows the new one at its own place in the run"),
    Rule("training.warmup", True, "counted from the beginning of the run"),
    Rule("training.gradient_clip", True, "from the next step on"),
    Rule("training.precision", True, "weights and moments are kept in float32"),
    Rule("training.validate_every", True, "from the next step on"),
    Rule("training.save_every", True, "from the next step on"),
    Rule("training.num_workers", True, "the order of the images stays; with none, other random numbers are drawn"),
    Rule("training.sync_batchnorm", True, "from the next step on; the tensors are the same"),
    Rule("evaluation.*", True, "from the next validation on"),
    Rule("logging.*", True, "from the next step on"),
    Rule("model.device", True, "another device rounds otherwise"),
    Rule("model.backbone.checkpointing", True, "less memory, at equal gradients"),
    Rule("data.keep_in_memory", True, "the images are the same"),
    Rule("data.path", True, "the same files may have another place"),
    Rule("data.root", True, "the same files may have another place"),
    Rule("training.seed", False, "the order of the images follows from it"),
    Rule("training.batch_size", False, "the order of the images follows from it"),
    Rule("training.optimizer*", False, "the saved moments are of the old optimiser"),
    Rule("training.loss", False, "the curve and the moments are of the old loss"),
    Rule("training.*", False, "the steps so far were made with the old value"),
    Rule("data.classes", False, "the labels that the model has learnt would mean something else"),
    Rule("data.augmentation*", False, "the model would see other images than so far"),
    Rule("data.*", False, "the model would see other data than so far"),
    Rule("model.*", False, "the saved weights are of the old model"),
    Rule("*", False, "the run began with the old value"),
)


class Change(NamedTuple):
    """A key whose value is not what the run had so far."""

    key: str
    old: Any
    new: Any


def resume(
    run: Path | str, overrides: Iterable[str] = (), *, extend: int | None = None, profile: int | None = None
) -> History:
    """Continue a run from its last checkpoint, or from the beginning where it ended before its first.

    Args:
        run: the folder.
        overrides: "path.of.key=value" each, on top of its ``config.yaml``, which then says the new values.
        extend: train so many steps more than it was to have.
        profile: log after so many steps where their time went, and what to change.

    Returns:
        The curves from the first step on.

    Raises:
        RunError: the folder is not a run, or a value is another that must not change.
        InUseError: another process works in it.
        ValueError: its checkpoint is not there.
    """
    run = Path(run)
    processes = joined()
    with contextlib.ExitStack() as stack:

        def planned() -> _Plan | History:
            check_run(run)
            stack.enter_context(locked(run))
            return _plan(run, overrides, extend)

        plan = processes.once(planned)
        if isinstance(plan, History):
            return plan
        recipe, config, state, changes = plan
        parts = build(recipe, pretrained=state is None and processes.first)
        if state is None:
            return fit_run(run, recipe, config, *parts, profile=profile)
        done, noted = len(state["history"]["steps"]), list(state["changes"])
        processes.once(lambda: _check_images(run, state["names"], parts[0]))
        if processes.first:
            logger.info("Continues %s after step %d of %d.", run, done, recipe.training.steps)
        for change in changes:
            noted.append({"step": done + 1, **change._asdict()})
            if processes.first:
                logger.info("%s: %s in place of %s from step %d on.", change.key, change.new, change.old, done + 1)
        return fit_run(run, recipe, config, *parts, state=state, changes=noted, profile=profile)


class _Plan(NamedTuple):
    """How a run goes on: the recipe, the same as it is written down, a checkpoint unless it begins anew, changes."""

    recipe: Recipe
    config: dict[str, Any]
    state: dict[str, Any] | None
    changes: Sequence[Change]


def _plan(run: Path, overrides: Iterable[str], extend: int | None) -> _Plan | History:
    """How a run goes on, or its curves where nothing is left to do."""
    overrides = list(overrides)
    config = config_of(run, overrides)
    if not (run / CHECKPOINT).exists() and not (run / LAST).exists():
        if extend is not None:
            raise RunError(f"{run} has no steps yet that --extend could go on from: leave it out.")
        recipe = recipe_of(run, config).staffed()
        logger.info("No step of %s was saved: it starts from the beginning.", run)
        return _Plan(recipe, _plain(recipe.to_dict(), config), None, ())
    state = load_checkpoint(run / CHECKPOINT)
    if not {"config", "names", "changes"} <= state.keys():
        raise RunError(
            f"{run / CHECKPOINT} was not written by `segtutor train`: continue it with the program that did."
        )
    if extend is not None:
        config = config_of(run, [*overrides, f"training.steps={state['config']['training']['steps'] + extend}"])
    done = len(state["history"]["steps"])
    try:
        recipe = recipe_of(run, config).staffed()
    except ConfigError:  # of two parts that do not fit any more, the one that was changed is to blame
        before, said = _flat(state["config"]), _flat(config)
        found = [Change(key, before[key], said[key]) for key in said if said[key] != before.get(key, said[key])]
        check_changes(run, found, done)
        raise
    now = _plain(recipe.to_dict(), config)
    changes = changed(state["config"], now, said=config)
    check_changes(run, changes, done)
    if done >= recipe.training.steps and is_validated(state["history"]):
        logger.info("%s has all of its %d steps; nothing is left to do. Train on with --extend STEPS.", run, done)
        return History(**state["history"])
    return _Plan(recipe, now, state, changes)


def _check_images(run: Path, names: str, data: Any) -> None:
    """Refuse other training images than those that the run began with."""
    if names != images_of(data):
        raise RunError(
            "data: the training images are not those that the run began with, by number or name: put the old "
            f"ones back, or train anew with `segtutor train --config {run / CONFIG} --out ANOTHER`."
        )


def changed(before: Mapping[str, Any], now: Mapping[str, Any], *, said: Mapping[str, Any]) -> list[Change]:
    """The keys that differ between two whole configurations.

    Args:
        before: what the run had so far.
        now: what is asked of it, every default filled in.
        said: the same as it was written; a key that only the defaults have is newer than the run, and no change.
    """
    old, new, written = _flat(before), _flat(now), _flat(said)
    keys = [key for key in {**old, **new} if key in old or key in written]
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def check_changes(run: Path, changes: Iterable[Change], done: int) -> None:
    """Refuse the changes that `RULES` does not allow.

    Raises:
        RunError: names the first key, both values, why, and what to do.
    """
    refused = [(change, rule) for change in changes if not (rule := rule_of(change.key)).free]
    if refused:
        (key, old, new), rule = refused[0]
        more = f" (and {len(refused) - 1} more keys)" if refused[1:] else ""
        raise RunError(
            f"{key}: the run has had {shown(old)}, and is now asked for {shown(new)}{more}; {rule.because}: put the "
            f"old value back, or train anew with `segtutor train --config {run / CONFIG} {key}=... --out ANOTHER`."
        )
    for key, old, new in changes:
        if key == "training.steps" and new < done:
            raise RunError(f"{key}: the run has {done} steps already, of {old}, and cannot end after {new}.")


def rule_of(key: str) -> Rule:
    """The rule for a key's path."""
    return next(rule for rule in RULES if fnmatchcase(key, rule.key))


def _plain(made: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it is written down: with the lists that somebody named, not the run's own copy of them."""
    if "lists" in made["data"]:
        made["data"]["lists"] = config["data"].get("lists")
    return made


def _flat(config: Any, path: str = "") -> dict[str, Any]:
    """Path of each key -> value; lists, and mappings of numbers, are values."""
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        return {path: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(_flat(value, f"{path}.{key}" if path else key))
    return flat
