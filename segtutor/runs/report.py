"""``segtutor report RUN``: what came of a run, as one file ``report.html`` that needs nothing beside itself."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

import segtutor
from segtutor import training
from segtutor.factory.config import dump_yaml
from segtutor.files import write_text
from segtutor.metrics import ConfusionMatrix
from segtutor.runs import page, scores
from segtutor.runs.curves import curves
from segtutor.runs.errors import RunError
from segtutor.runs.evaluate import Opened, opened
from segtutor.runs.folder import HISTORY, REPORT, SCORES, check_run, config_of
from segtutor.runs.panels import answered, picture
from segtutor.training import History

SHOWN = 3  # images of the worst, and of the best
WITH_NUMBERS, WITH_CELLS = 14, 40  # classes of a confusion matrix with numbers in it, and of one that is drawn at all
MISTAKES = 8  # of the largest confusions that are listed
PACKAGES = ("torch", "torchvision", "timm", "numpy")


@dataclass(frozen=True)
class Scored:
    """What a model made of a split: one matrix over all pixels, and the mIoU of each image."""

    confusion: ConfusionMatrix
    images: list[float]


def report(run: Path | str, split: str = "val", *, weights: str | None = None) -> Path:
    """Score a run's model once more, image by image, and write ``report.html`` into its folder.

    Args:
        run: the folder of the run.
        split: the images to show; of "test", look once, when all choices are made.
        weights: "best" or "last"; None: the best ones where they were kept.

    Returns:
        The file.

    Raises:
        RunError: the folder is not a run, or has no model yet.
        ConfigError: the data have no such split, or are not there.
    """
    run = Path(run)
    check_run(run)
    curve, changes = read_history(run)
    found = opened(run, split, weights=weights)
    scored = score(found)
    name = run.resolve().name
    body = [
        f"<h1>{escape(name)}</h1>",
        *_summary(run, found, scored, curve),
        _curves(curve),
        _classes(found, scored.confusion),
        _confusion(found, scored.confusion),
        *_images(found, scored),
        _configuration(run, changes),
        _environment(curve),
    ]
    return write_text(run / REPORT, page.page(f"{name}: report", body))


def read_history(run: Path) -> tuple[History, list[dict[str, Any]]]:
    """The curves of a run, and what was changed on its way.

    Raises:
        RunError: it has none yet, or the file cannot be read.
    """
    try:
        written = json.loads((run / HISTORY).read_text(encoding="utf-8"))
        changes = written.pop("changes", [])
        validation = [
            (step, {name: math.nan if value is None else value for name, value in entry.items()})
            for step, entry in written.pop("validation")
        ]
        return History(**written, validation=validation), changes
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{run / HISTORY} cannot be read ({error}): continue the run with `segtutor train --resume {run}`."
        ) from None


def score(found: Opened) -> Scored:
    """Score each image alone, and all of them together."""
    each = training.evaluate_each(found.model, found.data, **found.rules)
    return Scored(scores.merged(each), [one.miou for one in each])


def shown_path(value: Any) -> Any:
    """A value of the configuration in which no path tells of a machine: of an absolute one, its last part."""
    if isinstance(value, Mapping):
        return {key: shown_path(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown_path(entry) for entry in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() or value.startswith("~"):
                return f".../{kind(value).name}"
    return value


def worst_and_best(images: Sequence[float]) -> tuple[list[int], list[int]]:
    """Numbers of the images with the lowest scores, and of others with the highest, the extreme ones first."""
    known = sorted((number for number, value in enumerate(images) if not math.isnan(value)), key=images.__getitem__)
    worst = known[:SHOWN]
    return worst, [number for number in known[::-1][:SHOWN] if number not in worst]


# ----------------------------------------------------------------------------------------------------------- the parts
def _summary(run: Path, found: Opened, scored: Scored, history: History) -> list[str]:
    confusion, spec = scored.confusion, found.data.spec
    entries = {"mIoU": f"{_percent(confusion.miou)} %"}
    if confusion.boundary_width is not None:
        entries["mIoU on the borders"] = f"{_percent(confusion.boundary_miou)} %"
    entries["pixel accuracy"] = f"{_percent(confusion.pixel_accuracy)} %"
    entries["steps"] = f"{len(history.steps)}" + (" (stopped)" if history.interrupted else "")
    entries["time"] = _duration(history.seconds)
    config = found.model.config
    if config is not None:
        entries["model"] = f"{config.backbone['type']} + {config.head['type']}".replace("_", " ")
    million = sum(parameter.numel() for parameter in found.model.parameters()) / 1e6
    entries["parameters"] = f"{million:.1f} million"
    what = (
        f"Scores of the {found.place.name} weights on {scores.counted(found.data)} of {spec.title}, split "
        f"{found.split}."
    )
    parts = [page.paragraph(what), page.facts(entries)]
    others = _other_scores(run, found.split)
    if others:
        parts.append(page.paragraph("What `segtutor evaluate` has found on other images:"))
        parts.append(page.table(("split", "weights", "images", "mIoU (%)", "pixel accuracy (%)"), others))
    return parts


def _other_scores(run: Path, split: str) -> list[tuple[str, ...]]:
    try:
        known = json.loads((run / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [
        (name, str(entry["weights"]), str(entry["images"]), _percent(entry["miou"]), _percent(entry["pixel_accuracy"]))
        for name, entry in known.items()
        if name != split
    ]


def _curves(history: History) -> str:
    if not history.steps:
        return ""
    drawn = (
        f'<figure class="card"><figcaption>{escape(title)}</figcaption>{svg}</figure>'
        for title, svg in curves(history).items()
    )
    return page.section("Curves", f'<div class="curves">{"".join(drawn)}</div>')


def _classes(found: Opened, confusion: ConfusionMatrix) -> str:
    from segtutor import viz

    names, colors = found.model.info.classes, viz.class_colors(found.data.spec)
    pixels = confusion.matrix.sum(1).double()
    columns = {"IoU": confusion.iou}  # first, since a telephone shows the first columns
    if confusion.boundary_width is not None:
        columns[f"within {confusion.boundary_width} px of a border"] = confusion.boundary_iou
    columns["accuracy"] = confusion.class_accuracy
    columns["share of pixels"] = pixels / pixels.sum().clamp(min=1)
    rows = [
        (name, *(_percent(float(values[label])) for values in columns.values())) for label, name in enumerate(names)
    ]
    swatches = [page.hex_of(color) for color in colors]
    return page.section("Classes, in percent", page.table(("class", *columns), rows, swatches=swatches))


def _confusion(found: Opened, confusion: ConfusionMatrix) -> str:
    names, counts = found.model.info.classes, confusion.matrix.double().numpy()  # (C, C) [true, predicted]
    total = counts.sum(1, keepdims=True)
    shares = np.where(total > 0, counts / np.maximum(total, 1), np.nan)
    parts = [page.paragraph("Each row is a true class: what its pixels were taken for, in percent of them.")]
    if len(names) <= WITH_CELLS:
        parts.append(page.matrix(shares, names, numbers=len(names) <= WITH_NUMBERS))
    wrong = counts * (1 - np.eye(len(names)))
    order = np.argsort(wrong, axis=None)[::-1][:MISTAKES]
    rows = [
        (names[true], names[other], _percent(float(shares[true, other])), _percent(wrong[true, other] / counts.sum()))
        for true, other in (divmod(int(place), len(names)) for place in order)
        if wrong[true, other] > 0
    ]
    if rows:
        header = ("true", "taken for", "% of the class", "% of all pixels")
        parts += [page.paragraph("The largest confusions:"), page.table(header, rows)]
    return page.section("Confusion", *parts)


def _images(found: Opened, scored: Scored) -> list[str]:
    parts = []
    for title, chosen in zip(("Worst images", "Best images"), worst_and_best(scored.images), strict=True):
        samples, labels = [], set[int]()
        for index in chosen:
            image, mask, answer = answered(found.model, found.data, index)
            counted = mask != found.data.spec.ignore_index
            wrong = float(((mask != answer) & counted).sum() / counted.sum().clamp(min=1))
            labels |= set(mask[counted].unique().tolist()) | set(answer[counted].unique().tolist())
            text = f"mIoU {_percent(scored.images[index])} %, {_percent(wrong)} % of the pixels wrong"
            shown = picture(image, found.data.spec)
            samples.append(page.sample(_name(found.data, index), text, shown, mask, answer, found.data.spec))
        if samples:
            how = f"By the mIoU of each image of {found.split}, over the classes of its mask and its prediction."
            legend = page.legend(found.data.spec, sorted(labels))
            parts.append(page.section(title, page.paragraph(how), legend, *samples))
    return parts


def _name(data: Any, index: int) -> str:
    pairs = getattr(data, "pairs", None)
    return f"image {index}" if pairs is None else Path(pairs[index][0]).name


def _configuration(run: Path, changes: Sequence[Mapping[str, Any]]) -> str:
    text = dump_yaml(shown_path(config_of(run)))
    parts = [f'<div class="card"><pre>{escape(text)}</pre></div>']
    if changes:
        rows = [
            (str(entry["step"]), str(entry["key"]), *(str(shown_path(entry[key])) for key in ("old", "new")))
            for entry in changes
        ]
        said = page.paragraph("Changed on the way, from these steps on:")
        parts += [said, page.table(("step", "key", "before", "after"), rows, kind="text")]
    return page.section("Configuration", *parts)


def _environment(history: History) -> str:
    rows = [("segtutor", segtutor.__version__ + (f", commit {found}" if (found := _commit()) else ""))]
    rows.append(("Python", platform.python_version()))
    for package in PACKAGES:
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    rows += [("device", device), ("system", platform.system()), ("precision of the training", history.precision)]
    if history.step_seconds:
        rows.append(("time of a step", f"{1000 * history.seconds_per_step:.0f} ms (median)"))
    said = page.paragraph("Of the process that wrote this page.")
    return page.section("Environment", said, page.table(("what", "which"), rows, kind="text"))


def _commit() -> str:
    """The commit of the package's own checkout; "" for one that is installed."""
    folder = Path(segtutor.__file__).parent.parent
    if not (folder / ".git").exists():  # an installed package may lie in somebody else's checkout
        return ""
    try:
        said = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
