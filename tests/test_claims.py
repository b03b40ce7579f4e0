"""The ledger of claims and the page that it becomes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from segtutor.lab import claims, results
from segtutor.lab.claims import (
    CHAPTERS,
    CLAIMS,
    CONFIRMED,
    NOT_YET,
    OPEN,
    VERDICTS,
    WAITS,
    Claim,
    ClaimError,
    Comparison,
    judge,
    page_text,
)
from segtutor.lab.papers import PAPERS

ROOT = Path(__file__).parent.parent

# The ledger as the project promised it: nothing may drop out, the popular but doubtful ones stay marked.
PROMISED = """
INTRO-1? FCN-1? FCN-2 FCN-3? UNET-1 UNET-2 SEG-1 SEG-2 SEG-3 PSP-1 PSP-2 DL-1 DL-2 DL-3 DL-4 DL-5 DL-6? DL-7? DL-8?
ED-1 ED-2 ED-3 ED-4 ED-5 ATT-1 SF-1 BB-1 BB-2 BB-3 BB-4 BB-5 BB-6 LOSS-1 FAC-1
""".split()

CLAIM = Claim(
    "FCN-2",
    "Skips help.",
    "03_fcn",
    verdict=CONFIRMED,
    sentence="From {X/a:.2f} ({X/a@spread}, {X/a@n} seeds) to {X/b:.2f}, "
    "{X/b minus X/a:.1f} more, {X/b over X/a:.1f} x.",
    conditions="4 images",
    checks=("X/b > X/a", "X/a@low >= 0.2"),
)


@pytest.fixture
def rows(tmp_path):
    record = {
        "unit": "mIoU",
        "conditions": "4 images",
        "command": "segtutor benchmark X",
        "commit": "abc",
        "config": {},
        "hardware": "a machine",
        "torch": "2.15.0",
        "python": "3.11.7",
        "date": "2026-01-31T12:00:00Z",
        "wall_seconds": 1.0,
    }
    values = {"X/a": (0.2, 0.3), "X/b": (0.4, 0.6)}
    rows = [{**record, "id": id, "seed": s, "value": v} for id, both in values.items() for s, v in enumerate(both)]
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return folder


def test_ledger_is_complete():
    assert sorted(claim.id + "?" * claim.doubtful for claim in CLAIMS) == sorted(PROMISED)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_can_be_judged(claim):
    assert claim.chapter in CHAPTERS and claim.statement.endswith(".") and claim.verdict in VERDICTS
    judged = judge(claim)
    if judged.verdict in (NOT_YET, WAITS):
        assert not judged.sentence
    else:
        assert judged.sentence.endswith(".") and claim.conditions
        # Numbers come from rows or papers: what is typed by hand may only be part of a name or of a number of things.
        typed = re.sub(r"{[^}]*}|\w*-?\d+s\b|[A-Za-z]+[ -]?\d+(\.\d+)*", "", claim.sentence)
        assert not re.search(r"\d\.\d|\d %", typed), f"{claim.id} types a number by hand: {typed}"


def test_sentence_is_filled_from_rows(rows):
    judged = judge(CLAIM, folder=rows)
    assert judged.verdict == CONFIRMED
    assert judged.sentence == "From 0.25 (0.2 to 0.3, 2 seeds) to 0.50, 0.2 more, 2.0 x."
    assert {found.id for found in judged.results} == {"X/a", "X/b"}


def test_published_facts_fill_in_too(rows):
    fact = PAPERS["fcn"].facts["parameters_fcn8s"].value
    judged = judge(replace(CLAIM, sentence="It has {papers/fcn/parameters_fcn8s:,}.", checks=()), folder=rows)
    assert judged.sentence == f"It has {fact:,}." and judged.verdict == CONFIRMED


def test_a_mean_of_counts_is_written_as_a_count(rows):
    judged = judge(replace(CLAIM, sentence="{X/b over X/a:d} times, {X/b over X/a:,} times", checks=()), folder=rows)
    assert judged.sentence == "2 times, 2 times"


def test_a_missing_row_means_not_yet_measured(rows):
    for change in ({"sentence": "{X/c:.2f}"}, {"checks": ("X/c > 0",)}):
        judged = judge(replace(CLAIM, **change), folder=rows)
        assert (judged.verdict, judged.sentence, judged.results) == (NOT_YET, "", ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"checks": ("X/a > X/b",)}, "rows contradict the verdict.*0.25 > 0.5"),
        ({"checks": ("X/a",)}, "is not a comparison"),
        ({"verdict": "true"}, "verdict 'true' is unknown"),
        ({"sentence": "It is so.", "checks": ()}, "needs a measured number"),
        ({"sentence": "{papers/fcn/nonsense}"}, "no fact"),
        ({"sentence": "{X/a@mode}"}, "asks for @mode"),
        ({"sentence": "{X/a:,d}"}, "',d' does not fit 0.25"),
    ],
)
def test_bad_claims_are_refused(rows, change, words):
    with pytest.raises(ClaimError, match=f"FCN-2.*{words}"):
        judge(replace(CLAIM, **change), folder=rows)


SCORES = {
    "one_pixel": (0.18, 0.19, 0.20),
    "good": (0.41, 0.42, 0.43),
    "fair": (0.35, 0.36, 0.40),
    "level": (0.40, 0.41, 0.42),
    "weak": (0.19, 0.25, 0.26),
    "young": (0.30, 0.31),
}
BETTER = replace(CLAIM, sentence="It has {town/good/miou:.2f}.", checks=())


@pytest.fixture
def scores(rows):
    """Rows of networks on two data sets, each with its seeds."""
    path = rows / "x.json"
    [example, *_] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    written = [
        {**example, "id": f"{data}/{network}/miou", "seed": seed, "value": value}
        for data in ("town", "cells")
        for network, values in SCORES.items()
        for seed, value in enumerate(values)
    ]
    path.write_text(json.dumps({"rows": written}), encoding="utf-8")
    return rows


def compared(better, worse, data=("town", "cells")):
    return replace(BETTER, comparisons=(Comparison(better, worse, data=data),))


def test_a_network_that_is_better_on_two_sets_is_confirmed(scores):
    assert judge(compared("good", "fair"), folder=scores).verdict == CONFIRMED


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (compared("good", "level"), "contradict.*town/good/miou@low > town/level/miou@high"),
        (compared("fair", "good"), "contradict.*town/fair/miou@low > town/good/miou@high"),
        (compared("good", "weak"), "contradict.*town/weak/miou@low > town/one_pixel/miou@high"),
        (compared("good", "young"), "contradict.*town/young/miou@n >= 3"),
        (compared("good", "fair", data=("town",)), "needs two data sets, and has town"),
        (replace(BETTER, checks=("town/good/miou@low > town/fair/miou@high",)), "needs comparisons of converged"),
        (replace(BETTER, checks=("town/good/boundary_miou > 0.1",)), "needs comparisons of converged"),
        (replace(BETTER, verdict=OPEN), "says in `missing`"),
        (replace(BETTER, missing="More seeds."), "says in `missing`"),
    ],
)
def test_a_verdict_on_accuracy_without_its_ground_is_refused(scores, claim, words):
    with pytest.raises(ClaimError, match=f"FCN-2.*{words}"):
        judge(claim, folder=scores)


def test_an_open_claim_says_what_is_missing(scores):
    judged = judge(replace(BETTER, verdict=OPEN, missing="a second data set."), folder=scores)
    assert (judged.verdict, judged.sentence) == (OPEN, "It has 0.42. Open: a second data set.")


def test_page_has_verdicts_notes_and_links(rows, tmp_path, monkeypatch):
    open_claim = Claim("INTRO-1", "It finds boxes.", "03_fcn", doubtful=True)
    monkeypatch.setattr(claims.page, "CLAIMS", (replace(CLAIM, statement="Skips | help."), open_claim))
    text = page_text(tmp_path, folder=rows)
    assert "Of 2 claims: 1 confirmed, 1 not yet measured." in text
    assert "| FCN-2 | Skips \\| help. | **confirmed** | From 0.25" in text
    assert "| INTRO-1 ? |" in text and "{doc}" not in text
    (note,) = [line for line in text.splitlines() if line.startswith("[^FCN-2]: ")]
    for part in ("4 images.", "2 seeds", "a machine", "commit abc", "`segtutor benchmark X`"):
        assert part in note
    assert text.count("[^FCN-2]") == 2 and "[^INTRO-1]" not in text
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "03_fcn.ipynb").write_text("{}")
    assert "{doc}`../notebooks/03_fcn`" in page_text(tmp_path, folder=rows)


def test_every_claim_is_on_the_page():
    text = page_text(ROOT)
    for claim in CLAIMS:
        assert f"| {claim.id}{' ?' if claim.doubtful else ''} | {claim.statement} |" in text


def test_committed_page_is_what_the_generator_writes():
    path = ROOT / "book" / "claims.md"
    if not path.parent.is_dir():
        pytest.skip("the package is tested without the book beside it")
    assert path.read_text(encoding="utf-8") == page_text(ROOT), "run `segtutor claims --write`"


def test_unknown_claim_is_named():
    with pytest.raises(ClaimError, match="'FCN-9'; there are INTRO-1"):
        judge("FCN-9")


def test_the_matrix_of_the_factory_has_all_backbones_and_heads():
    from segtutor.factory.backbones import list_backbone_names
    from segtutor.lab.experiments import factory

    assert set(claims.BACKBONES) == set(list_backbone_names()) and len(claims.BACKBONES) == 26
    assert len(factory.HEADS) == 12
    for name in claims.BACKBONES:
        for head in factory.HEADS:
            assert results.result(f"FAC-1/{name}/{head}").value > 0
