"""Chapter 16: shipped configurations for CamVid, trained and scored by the functions behind the commands."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segtutor.lab.harness import BenchmarkError, experiment
from segtutor.lab.harness.stopwatch import seconds_of

SHIPPED = ("camvid_lite0",)
UNITS = {
    "miou": "mIoU",
    "boundary_miou": "mIoU within 3 pixels of a border",
    "pixel_accuracy": "share of pixels",
    "validation_miou": "mIoU of the best validation",
    "minutes": "minutes of processor time",
}


def register(name: str) -> None:
    """Enter a configuration's run."""
    from segtutor.factory.config import read_yaml, shipped_configs

    shipped = read_yaml(shipped_configs()[name])

    @experiment(
        f"shipped/{name}",
        unit=UNITS,
        device="auto",
        config={key: shipped[key] for key in ("model", "data", "training")},
        conditions=f"`segtutor train --config {name}` and `segtutor evaluate` with the best weights on the 233 test "
        "images of CamVid; minutes are of the training with its validations, of a run that was not interrupted",
    )
    def row(seed: int, quick: bool, log: Any) -> dict[str, float]:
        """A shipped configuration from its first step to its score on the test set."""
        from segtutor.data import available

        if not available("CamVid"):
            raise BenchmarkError(f"shipped/{name} needs CamVid: set SEGTUTOR_DATA to the folder that holds camvid/.")
        if not quick:
            return measured(name, Path("runs", f"{name}-seed-{seed}"), [f"training.seed={seed}"])
        with TemporaryDirectory() as folder:
            short = ["training.steps=2", "data.size=[96, 128]", "data.augmentation.crop=[64, 64]"]
            return measured(name, Path(folder, "run"), [*short, f"training.seed={seed}"])


def measured(config: Any, run: Path, overrides: list[str]) -> dict[str, float]:
    """Train a configuration, or go on with its run, and score it.

    Args:
        config: As for `segtutor.runs.train`.
        run: The run's folder, which is kept: what was interrupted goes on.
        overrides: "path.of.key=value" each.

    Returns:
        The row's values, without minutes where the run was not trained in one piece.
    """
    from segtutor import runs

    fresh, histories = not run.exists(), []

    def trained() -> None:
        histories.append(runs.train(config, overrides, out=run) if fresh else runs.resume(run))

    minutes, [history] = seconds_of(trained)() / 60, histories
    if history.interrupted:
        raise KeyboardInterrupt
    scores = runs.evaluate(run, "test")
    values = {name: scores[name] for name in ("miou", "boundary_miou", "pixel_accuracy")}
    values["validation_miou"] = max(score["miou"] for _, score in history.validation)
    return values | ({"minutes": minutes} if fresh else {})


for _name in SHIPPED:
    register(_name)
