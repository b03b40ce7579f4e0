"""What a minute cannot show: measured rows, claims and published facts, as numbers and as tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segtutor.lab import results
from segtutor.lab.chapter.tables import MISSING, WHOLE_IMAGE, Table, table

_FIELD_SIDE = 832  # of the image on which the receptive fields of the running table were measured

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
_METRICS: dict[str, tuple[str, Callable[[float], str]]] = {
    "miou": ("mIoU", lambda value: f"{value:.3f}"),
    "boundary_miou": ("Boundary mIoU", lambda value: f"{value:.3f}"),
    "parameters": ("Parameters (M)", lambda value: f"{value / 1e6:.2f}"),
    "flops": ("FLOPs (G)", lambda value: f"{value / 1e9:.2f}"),
    "receptive_field": ("Receptive field (px)", lambda value: WHOLE_IMAGE if value >= _FIELD_SIDE else f"{value:.0f}"),
    "ms_per_step": ("ms per step", lambda value: f"{value:.0f}"),
    "peak_memory": ("Peak memory (MiB)", lambda value: f"{value:.0f}"),
}
_COSTS = ("ms_per_step", "peak_memory")

# metric of a network beside a reference -> heading
_RATIOS = {
    "forward": "Time, forward",
    "step": "Time, step",
    "forward_memory": "Memory, forward",
    "step_memory": "Memory, step",
}


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
    rows: list[list[str]] = []
    measured: list[results.Result] = []
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


def _cell(model: str, metric: str, measured: list[results.Result]) -> str:
    try:
        found = results.result(f"table/{'cost/' if metric in _COSTS else ''}{model}/{metric}")
    except results.MissingResult:
        return MISSING
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
            return "fails" if f"FAC-1/{backbone}/works" in measured else MISSING
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
    rows: list[list[object]] = []
    measured: list[list[results.Result]] = []
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


def claims(*ids: str) -> Table:
    """The verdicts on claims of the ledger, e.g. ``chapter.claims("FCN-1", "FCN-2")``, with what was measured."""
    from segtutor.lab.claims import judge

    judged = [judge(id) for id in ids]
    rows = [[j.claim.id, j.claim.statement, j.verdict, j.sentence, j.claim.conditions] for j in judged]
    return Table(rows, ["Claim", "What is said", "Verdict", "What we measured", "Conditions"])


def paper(key: str, fact: str) -> Any:
    """The value of one fact about a paper, e.g. ``chapter.paper("fcn", "parameters_fcn8s")``.

    It is published or computed; ``segtutor.lab.papers`` says which in the `where` of the fact.

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
