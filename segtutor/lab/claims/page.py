"""The page of claims: ``book/claims.md``, written from the ledger and the measured rows."""

from pathlib import Path

import segtutor
from segtutor.lab.claims.judge import Judgement, judge
from segtutor.lab.claims.ledger import CLAIMS, CONFIRMED, DEPENDS, OPEN, REFUTED, VERDICTS, WAITS, ClaimError

# Chapter (its notebook's name) to its heading on the page, in the page's order
CHAPTERS = {
    "00_what_is_segmentation": "What is semantic segmentation?",
    "01_losses_and_metrics": "Losses and metrics",
    "02_encoder_decoder": "Encoder and decoder",
    "03_fcn": "FCN",
    "04_unet": "U-Net",
    "05_segnet": "SegNet",
    "06_pspnet": "PSPNet",
    "07_atrous_and_deeplab_v1": "Atrous convolution and DeepLab v1",
    "08_deeplab_v2_v3": "DeepLab v2 and v3",
    "09_deeplab_v3plus": "DeepLab v3+",
    "10_vit": "ViT",
    "11_swin": "Swin",
    "12_segformer": "SegFormer",
    "13_backbones": "Backbones",
    "14_heads": "Heads",
    "15_factory": "The factory",
    "16_training": "Training",
    "17_from_model_to_use": "From model to use",
    "18_shootout": "Shootout",
}

_LEDGER = "segtutor/lab/claims/ledger.py"
_INTRO = """\
# Claims, measured

Much is said about these networks, in papers, in courses, in articles that copy each other. Each line below is one
such claim, with the experiment of this book that tests it. A verdict holds for the conditions in its note and no
further: the networks are small, the images too, and a note says how many seeds stand behind a number. A question mark
after the id warns that the claim is popular and was in doubt from the start.

That one network scores higher than another is confirmed or refuted only where both were trained until validation
stopped rising and are clearly above a network that sees a single pixel, where no seed of one reaches into the other's
range, and where two data sets agree. Else the verdict is "depends", or "open", with what is missing.

The numbers come from the measured rows of the package. The command in a note measures them again on your machine, and
leaves ours as they are.
"""


def page_text(root: Path | str, *, folder: Path | str | None = None) -> str:
    """The text of ``book/claims.md``.

    Args:
        root: The checkout; chapters are linked when their notebook is in ``notebooks/``.
        folder: Where the rows are; default: the package's own.
    """
    judged = [judge(claim, folder=folder) for claim in CLAIMS]
    counts = {verdict: sum(j.verdict == verdict for j in judged) for verdict in VERDICTS}
    tally = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    tally = tally.replace(WAITS, "waiting for a GPU")
    blocks = [f"<!-- Written by `segtutor claims --write`; change {_LEDGER}, not this page. -->\n{_INTRO}"]
    blocks.append(f"Of {len(judged)} claims: {tally}.\n")
    for chapter, title in CHAPTERS.items():
        here = [j for j in judged if j.claim.chapter == chapter]
        if here:
            written = (Path(root) / "notebooks" / f"{chapter}.ipynb").exists()
            blocks.append(_section(title, chapter if written else None, here))
    return "\n".join(blocks)


def _section(title: str, chapter: str | None, judged: list[Judgement]) -> str:
    lines = [f"## {title}\n"]
    if chapter:
        lines.append(f"Measured in {{doc}}`../notebooks/{chapter}`.\n")
    lines += ["| Claim | What is said | Verdict | What we measured |", "|---|---|---|---|"]
    notes = []
    for j in judged:
        mark = " ?" if j.claim.doubtful else ""
        note = _note(j)
        if note:
            notes.append(f"[^{j.claim.id}]: {note}")
        sentence = f"{j.sentence}[^{j.claim.id}]" if note else j.sentence
        verdict = f"**{j.verdict}**" if j.verdict in (CONFIRMED, REFUTED, DEPENDS, OPEN) else j.verdict
        cells = (f"{j.claim.id}{mark}", j.claim.statement, verdict, sentence)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, *(f"\n{note}" for note in notes), ""])


def _note(judged: Judgement) -> str:
    sources = dict.fromkeys(found.provenance for found in judged.results)
    return " ".join(f"{part}." for part in (judged.claim.conditions.rstrip("."), *sources) if part)


def checkout() -> Path:
    """The folder that holds ``segtutor/`` and ``book/``.

    Raises:
        ClaimError: When the package is installed without the book.
    """
    root = Path(segtutor.__file__).parents[1]
    if not (root / "book").is_dir():
        raise ClaimError("The book is not beside the package: run this in a clone of the repository.")
    return root


def write_page(root: Path | str | None = None) -> Path:
    """Write ``book/claims.md`` and return its path.

    Args:
        root: The checkout; default: the one that the package runs from.

    Raises:
        ClaimError: When the package is installed without the book.
    """
    root = checkout() if root is None else Path(root)
    path = root / "book" / "claims.md"
    path.write_text(page_text(root), encoding="utf-8")
    return path
