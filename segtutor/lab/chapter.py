"""What every chapter shares: the size of a run, its data, its tables, and the numbers measured elsewhere.

A chapter runs in a minute on one CPU thread, and longer where there is a GPU. One call decides which:

    s = chapter.settings()
    steps = s.pick(quick=200, full=2000)

What a minute cannot show is read from the measured rows (``chapter.result``, ``chapter.running_table``,
``chapter.claims``). Their text is the same on every machine, whatever the size of the run.
"""

import html
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segtutor.lab import results

__all__ = [
    "Settings",
    "Table",
    "claims",
    "compatibility_matrix",
    "dataset",
    "paper",
    "result",
    "running_table",
    "settings",
    "speed_table",
    "table",
]


# ------------------------------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Settings:
    """The size of this run: ``mode`` is ``"quick"`` or ``"full"``, ``device`` is ``"cpu"`` or ``"cuda"``."""

    mode: str
    device: str

    def pick(self, quick, full):
        """The first value in a quick run, the second in a full one."""
        return quick if self.mode == "quick" else full


def settings() -> Settings:
    """Decide the size of the run, apply the house style to figures, and say so in one printed line.

    A GPU means a full run, a CPU a quick one; the environment variable ``SEGTUTOR_MODE`` (``quick`` or ``full``)
    overrides that. The number of torch threads and the random state stay as they are.

    Raises:
        ValueError: When ``SEGTUTOR_MODE`` is neither ``quick`` nor ``full``.
    """
    import torch

    from segtutor import viz

    device = "cuda" if torch.cuda.is_available() else "cpu"
    mode = os.environ.get("SEGTUTOR_MODE") or ("full" if device == "cuda" else "quick")
    if mode not in ("quick", "full"):
        raise ValueError(f"SEGTUTOR_MODE is {mode!r}; set it to 'quick' or 'full', or unset it.")
    viz.apply_style()
    # Said by tqdm when timm first loads, with a path of this machine in it; no chapter shows a progress bar.
    warnings.filterwarnings("ignore", message="IProgress not found")
    found = [title for name, (title, _) in _REAL.items() if _available(name)]
    data = f"Real data: {', '.join(found)} found." if found else "No real data found: synthetic images stand in."
    print(f"{mode.capitalize()} run on the {'GPU' if device == 'cuda' else 'CPU'}. {data}")
    return Settings(mode, device)


# ---------------------------------------------------------------------------------------------------------------- data

# name in chapters -> (class in segtutor.data, the synthetic set that stands in for it)
_REAL = {"camvid": ("CamVid", "scenes"), "vnc": ("DrosophilaVNC", "cells")}
_SYNTHETIC = {"scenes": "SyntheticScenes", "cells": "SyntheticCells"}
# Splits of a synthetic set are different seeds: no image of one is ever an image of another.
_SPLITS = {"train": (0, 1000), "val": (1, 100), "test": (2, 200)}


def _available(name: str) -> bool:
    from segtutor import data

    return data.available(name)


def dataset(name, split="train", *, size=None, tile=None, transform=None, length=None, seed=None, **knobs):
    """The data that a chapter runs on, and one printed line that says which it is.

    Args:
        name: ``"camvid"`` or ``"vnc"`` (the synthetic set stands in where the files are absent), ``"scenes"`` or
            ``"cells"`` (always synthetic).
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: (height, width) of the images; None: the set's own.
        tile: For ``"vnc"``: cut the large slices into tiles of this side; synthetic images are made at that size.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        length: How many images a synthetic set has; default 1000, 100 and 200 for the three splits.
        seed: Seed of a synthetic set; default: a different one for each split.
        **knobs: Knobs of the synthetic set; real images have none and ignore them.

    Returns:
        A dataset of image (C, H, W) and mask (H, W) with ``.spec``.

    Raises:
        ValueError: When the name or the split is unknown.
    """
    from segtutor import data

    if name not in _REAL and name not in _SYNTHETIC:
        raise ValueError(f"There is no data set {name!r}; a chapter has {', '.join([*_REAL, *_SYNTHETIC])}.")
    if split not in _SPLITS:
        raise ValueError(f"There is no split {split!r}; use {', '.join(_SPLITS)}.")
    if tile is not None and name == "camvid":
        raise ValueError("CamVid is not cut into tiles; use size=(height, width).")
    if name in _REAL and _available(name):
        title, _ = _REAL[name]
        options = {} if tile is None else {"tile": tile}
        chosen = getattr(data, title)(split, size=size, transform=transform, **options)
        if size is not None:  # small images, seen many times
            chosen.keep_in_memory()
        print(f"Data: {title}, {split}, {results.plural(len(chosen), 'image')}, {_classes(chosen)}.")
        return chosen
    stand_in = _REAL[name][1] if name in _REAL else name
    default_seed, default_length = _SPLITS[split]
    if size is not None or tile is not None:
        knobs["size"] = size or ((tile, tile) if isinstance(tile, int) else tuple(tile))
    chosen = getattr(data, _SYNTHETIC[stand_in])(
        length=default_length if length is None else length,
        seed=default_seed if seed is None else seed,
        transform=transform,
        **knobs,
    )
    why = f" in place of {_REAL[name][0]}, which is not on this machine" if name in _REAL else ""
    count = results.plural(len(chosen), "image")
    print(f"Data: synthetic {stand_in}{why}, {split}, {count}, {_classes(chosen)}.")
    return chosen


def _classes(chosen) -> str:
    return f"{chosen.spec.num_classes} classes"


# -------------------------------------------------------------------------------------------------------------- tables


class Table:
    """A table that displays as HTML in a notebook and as aligned text elsewhere.

    It carries no colours of its own: the class ``dataframe`` lets notebook front ends and the book's theme, light
    or dark, style it.
    """

    def __init__(self, rows: Iterable[Sequence], columns: Sequence[str], caption: str = ""):
        self.columns = [str(column) for column in columns]
        self.rows = [[_text(cell) for cell in row] for row in rows]
        self.caption = caption
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"The row {row[:1]}... has {len(row)} cells for {len(self.columns)} columns.")
        self._numeric = [
            bool(self.rows) and all(_is_numeric(row[place]) for row in self.rows) for place in range(len(self.columns))
        ]

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col"{self._align(i)}>{_escape(c)}</th>' for i, c in enumerate(self.columns))
        body = "".join(
            f'<tr><th scope="row">{_escape(row[0])}</th>'
            + "".join(f"<td{self._align(i, cell)}>{_escape(cell)}</td>" for i, cell in enumerate(row[1:], 1))
            + "</tr>\n"
            for row in self.rows
        )
        # Outside the box that scrolls, so that a wide table does not take its caption out of sight
        caption = f"<figcaption>{_escape(self.caption)}</figcaption>\n" if self.caption else ""
        # The box can be reached by keyboard, because on a narrow screen it scrolls.
        return (
            '<figure class="segtutor-figure" style="margin: 0">\n'
            '<div class="pst-scrollable-table-container" tabindex="0">\n<table class="dataframe segtutor-table">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n{caption}</figure>"
        )

    def _align(self, place: int, cell: str = "") -> str:
        # On a telephone a sentence would become a column of single words; so the table scrolls instead.
        room = "; min-width: 11rem" if len(cell) > 60 else ""
        return f' style="text-align: {"right" if self._numeric[place] else "left"}{room}"'

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.columns))]
        text = ["  ".join(self._pad(line, widths)).rstrip() for line in lines]
        text.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*text, self.caption] if self.caption else text)

    def _pad(self, line: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, self._numeric, strict=True)
        ]


def table(rows: Iterable, columns: Sequence[str] | None = None, caption: str = "") -> Table:
    """A table from rows of cells, or from mappings.

    Args:
        rows: Sequences with one cell per column, or mappings from column to cell (a missing one stays empty).
            Floats are shown with three decimals, integers with thousands separators, strings as they are.
        columns: Headings; for mappings default to the keys of the first.
        caption: Shown with the table; conditions belong here.

    Raises:
        ValueError: When a row does not fit the columns, or sequences come without columns.
    """
    rows = list(rows)
    if rows and all(isinstance(row, Mapping) for row in rows):
        columns = list(rows[0]) if columns is None else columns
        rows = [[row.get(column, "") for column in columns] for row in rows]
    if columns is None:
        raise ValueError("A table of sequences needs columns=[...], one heading per cell.")
    return Table(rows, columns, caption)


def _text(cell) -> str:
    if isinstance(cell, (bool, str)):
        return str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return "absent" if cell != cell else f"{cell:.3f}"
    if isinstance(cell, results.Result):
        return _with_spread(cell)
    return str(cell)


def _with_spread(measured: results.Result) -> str:
    spread = f" ({measured.spread[0]:.3g} to {measured.spread[1]:.3g})" if measured.spread else ""
    return f"{measured.value:.3g}{spread}"


def _is_numeric(cell: str) -> bool:
    try:
        float(cell.split(" ")[0].replace(",", "").rstrip("%"))
    except ValueError:
        return cell in ("", "absent", _MISSING, _EVERYTHING)
    return True


def _escape(text: str) -> str:
    """HTML for one cell; text between backticks becomes code, as in the book's pages."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:  # an odd backtick is a backtick
        return html.escape(text)
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


# ---------------------------------------------------------------------------------------------------- measured numbers

_MISSING = "not measured"
# A field as large as the image that it was measured on: the network sees all of it, whatever its size.
_EVERYTHING, _SIDE = "whole image", 832

# key in the rows' ids -> (name for readers, chapter in which the model enters the table)
_MODELS = {
    "fcn32s": ("FCN-32s", "03"),
    "fcn16s": ("FCN-16s", "03"),
    "fcn8s": ("FCN-8s", "03"),
    "unet": ("U-Net", "04"),
    "segnet": ("SegNet", "05"),
    "pspnet": ("PSPNet", "06"),
    "deeplab_v1": ("DeepLab v1", "07"),
    "deeplab_v2": ("DeepLab v2", "08"),
    "deeplab_v3": ("DeepLab v3", "08"),
    "deeplab_v3plus": ("DeepLab v3+", "09"),
    "vit_segmenter": ("ViT + linear decoder", "10"),
    "swin_upernet": ("Swin + UPerNet", "11"),
    "segformer": ("SegFormer", "12"),
}

# metric -> (heading, how its number is written)
_METRICS = {
    "miou": ("mIoU", lambda value: f"{value:.3f}"),
    "boundary_miou": ("Boundary mIoU", lambda value: f"{value:.3f}"),
    "parameters": ("Parameters (M)", lambda value: f"{value / 1e6:.2f}"),
    "flops": ("FLOPs (G)", lambda value: f"{value / 1e9:.2f}"),
    "receptive_field": ("Receptive field (px)", lambda value: _EVERYTHING if value >= _SIDE else f"{value:.0f}"),
    "ms_per_step": ("ms per step", lambda value: f"{value:.0f}"),
    "peak_memory": ("Peak memory (MiB)", lambda value: f"{value:.0f}"),
}
_COSTS = ("ms_per_step", "peak_memory")


def result(id: str) -> results.Result:
    """One measured quantity: ``.value``, ``.spread``, ``.n``, ``.unit``, ``.conditions``; `segtutor.lab.results`."""
    return results.result(id)


def running_table(upto: str = "99", *, metrics: Sequence[str] = tuple(_METRICS)) -> Table:
    """Every model met so far on one data set under one protocol, from the rows ``table/<model>/<metric>``.

    Time and memory come from ``table/cost``, for which all models take turns in one run.

    Args:
        upto: The number of the chapter that shows the table, e.g. ``"03"``.
        metrics: Which columns; see the headings for what there is.

    Raises:
        ValueError: When a metric is unknown.
    """
    unknown = [metric for metric in metrics if metric not in _METRICS]
    if unknown:
        raise ValueError(f"The running table has no {unknown[0]!r}; it has {', '.join(_METRICS)}.")
    rows, measured = [], []
    for key, (name, number) in _MODELS.items():
        if number <= upto[:2]:
            cells = [_cell(key, metric, measured) for metric in metrics]
            rows.append([name, *cells])
    conditions = "; ".join(dict.fromkeys(found.conditions for found in measured))
    seeds = sorted({found.n for found in measured if found.id.endswith("miou")})
    means = f" Scores are means over {' to '.join(map(str, seeds))} seeds." if seeds and seeds[-1] > 1 else ""
    machines = ", ".join(dict.fromkeys(found.hardware for found in measured if found.id.endswith("ms_per_step")))
    timed = f" Timed on {machines}." if machines else ""
    caption = f"{conditions}.{means}{timed} Measured again by `segtutor benchmark table`." if measured else ""
    return Table(rows, ["Model", *(_METRICS[metric][0] for metric in metrics)], caption)


def _cell(model: str, metric: str, measured: list) -> str:
    try:
        found = results.result(f"table/{'cost/' if metric in _COSTS else ''}{model}/{metric}")
    except results.MissingResult:
        return _MISSING
    measured.append(found)
    return _METRICS[metric][1](found.value)


def compatibility_matrix(backbones: Sequence[str], heads: Sequence[str]) -> Table:
    """Every head on every backbone, from the rows ``FAC-1/<backbone>/<head>``: the cost of what works, in GFLOPs.

    Args:
        backbones: The rows, by short name.
        heads: The columns.
    """
    measured = {row.id: row for row in results.read_rows() if row.id.startswith("FAC-1/")}

    def cell(backbone: str, head: str) -> str:
        found = measured.get(f"FAC-1/{backbone}/{head}")
        if found is None:
            return "fails" if f"FAC-1/{backbone}/works" in measured else _MISSING
        return f"{found.value:.1f}"

    rows = [[backbone, *(cell(backbone, head) for head in heads)] for backbone in backbones]
    conditions = "; ".join(dict.fromkeys(row.conditions for row in measured.values()))
    caption = f"GFLOPs: {conditions}. Measured again by `segtutor benchmark FAC-1`." if measured else ""
    return Table(rows, ["backbone", *heads], caption)


def speed_table(networks: Mapping[str, str]) -> Table:
    """Time and peak memory of networks over a reference's with the same weights, at every size that was measured.

    Args:
        networks: Key in the ids ``speed/<key>/<side>/<metric>`` to a name for readers.

    Raises:
        MissingResult: When a network was measured at no size.
    """
    rows, measured = [], []
    for key, name in networks.items():
        ids = [row.id.split("/") for row in results.read_rows() if row.id.startswith(f"speed/{key}/")]
        sides = sorted({int(parts[2]) for parts in ids if parts[2].isdigit()})
        for side in sides or [0]:  # at none: the look-up says what there is
            measured.append([results.result(f"speed/{key}/{side}/{metric}") for metric in _RATIOS])
            rows.append([name, f"{side} x {side}", *measured[-1]])
    clauses = [found.conditions.split("; ") for line in measured for found in line]
    # The networks first, then what holds for all of them, each said once.
    conditions = "; ".join(dict.fromkeys([each[0] for each in clauses] + [part for each in clauses for part in each]))
    machines = ", ".join(dict.fromkeys(found.hardware for line in measured for found in line))
    again = " ".join(f"speed/{key}" for key in networks)
    caption = f"Ratios: {conditions}. Timed on {machines}. Measured again by `segtutor benchmark {again}`."
    return table(rows, ["Network", "Image", *_RATIOS.values()], caption)


# metric -> heading
_RATIOS = {
    "forward": "Time, forward",
    "step": "Time, step",
    "forward_memory": "Memory, forward",
    "step_memory": "Memory, step",
}


def claims(*ids: str) -> Table:
    """The verdicts on claims of the ledger, e.g. ``chapter.claims("FCN-1", "FCN-2")``, with what was measured."""
    from segtutor.lab.claims import judge

    judged = [judge(id) for id in ids]
    rows = [[j.claim.id, j.claim.statement, j.verdict, j.sentence, j.claim.conditions] for j in judged]
    return Table(rows, ["Claim", "What is said", "Verdict", "What we measured", "Conditions"])


def paper(key: str, fact: str):
    """The value of one published fact, e.g. ``chapter.paper("fcn", "parameters_fcn8s")``.

    Raises:
        ValueError: When the paper or the fact is unknown, with the names that there are.
    """
    from segtutor.lab.papers import PAPERS

    if key not in PAPERS:
        raise ValueError(f"There is no paper {key!r}; there are {', '.join(PAPERS)}.")
    facts = PAPERS[key].facts
    if fact not in facts:
        raise ValueError(f"Paper {key!r} has no fact {fact!r}; it has {', '.join(facts)}.")
    return facts[fact].value
