"""The rules of a verdict: its sentence has numbers, its checks hold on the measured rows, or it is withheld."""

import operator
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtutor.lab.claims.ledger import (
    CONFIRMED,
    NOT_YET,
    OPEN,
    REFUTED,
    VERDICTS,
    WAITS,
    Claim,
    ClaimError,
    Comparison,
    find,
)
from segtutor.lab.papers import PAPERS
from segtutor.lab.results import MissingResult, Result, result


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict, its sentence with numbers, and the results that the numbers came from."""

    claim: Claim
    verdict: str
    sentence: str
    results: tuple[Result, ...]


def judge(claim: Claim | str, *, folder: Path | str | None = None) -> Judgement:
    """The verdict on a claim by the measured rows; "not yet measured" when one of them is missing.

    Args:
        claim: A claim or its id.
        folder: Where the rows are; default: the package's own.

    Raises:
        ClaimError: When the claim is badly written, or its rows contradict its verdict.
    """
    claim = find(claim) if isinstance(claim, str) else claim
    if claim.verdict not in VERDICTS:
        raise ClaimError(f"{claim.id}: the verdict {claim.verdict!r} is unknown; use one of {', '.join(VERDICTS)}.")
    if claim.verdict in (NOT_YET, WAITS):
        return Judgement(claim, claim.verdict, "", ())
    _demand(claim)
    numbers = _Numbers(claim.id, folder)
    try:
        sentence = numbers.format(claim.sentence)
        for check in claim.checks:
            numbers.check(check)
        for comparison in claim.comparisons:
            _compare(comparison, numbers)
    except MissingResult:
        return Judgement(claim, NOT_YET, "", ())
    if not numbers.look_ups:
        raise ClaimError(f"{claim.id}: a verdict needs a measured number or a published fact in its sentence.")
    if claim.missing:
        sentence += f" Open: {claim.missing}"
    return Judgement(claim, claim.verdict, sentence, tuple(numbers.used.values()))


SEEDS = 3  # of every network that a verdict on accuracy compares
_ACCURACY = re.compile(r"iou(@\w+)?(\s|$)")


def _demand(claim: Claim) -> None:
    """What a verdict must come with, whatever its rows say.

    Raises:
        ClaimError: When it comes without.
    """
    if (claim.verdict == OPEN) != bool(claim.missing):
        raise ClaimError(f"{claim.id}: an open claim, and no other, says in `missing` what would settle it.")
    if claim.verdict not in (CONFIRMED, REFUTED):
        return
    data = {name for comparison in claim.comparisons for name in comparison.data}
    if claim.comparisons and len(data) < 2:
        raise ClaimError(f"{claim.id}: a verdict on accuracy needs two data sets, and has {', '.join(data)}.")
    if not claim.comparisons and any(_ACCURACY.search(check) for check in claim.checks):
        raise ClaimError(
            f"{claim.id}: a verdict on accuracy needs comparisons of converged networks on two data sets; "
            "without them it is 'depends' or 'open'."
        )


def _compare(comparison: Comparison, numbers: "_Numbers") -> None:
    """Both networks are clearly above one that sees a single pixel, and no seed of one reaches into the other's."""
    better, worse, metric = comparison.better, comparison.worse, comparison.metric
    for data in comparison.data:
        for network in (better, worse):
            numbers.check(f"{data}/{network}/miou@n >= {SEEDS}")
            numbers.check(f"{data}/{network}/miou@low > {data}/one_pixel/miou@high")
        numbers.check(f"{data}/{better}/{metric}@low > {data}/{worse}/{metric}@high")


_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
_PARTS = {
    "spread": lambda found: f"{found.spread[0]:.3g} to {found.spread[1]:.3g}" if found.spread else "one run",
    "low": lambda found: found.spread[0] if found.spread else found.value,
    "high": lambda found: found.spread[1] if found.spread else found.value,
    "n": lambda found: found.n,
}


class _Numbers(string.Formatter):
    """Fills the fields of a sentence, and remembers which results it used."""

    def __init__(self, claim: str, folder: Path | str | None):
        self.claim, self.folder = claim, folder
        self.used: dict[str, Result] = {}
        self.look_ups = 0  # of rows and of published facts

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        return self.value(field_name), field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, float) and value.is_integer() and format_spec.endswith((",", "d")):
            value = int(value)  # a mean of counts is a count where all seeds agree
        try:
            return format(value, format_spec or (".3g" if isinstance(value, float) else ""))
        except ValueError as error:
            raise ClaimError(f"{self.claim}: the format {format_spec!r} does not fit {value!r}: {error}.") from None

    def check(self, text: str) -> None:
        """Compare two expressions, e.g. ``"FCN-2/fcn8s/miou > FCN-2/fcn32s/miou"``."""
        match = re.fullmatch(r"(.+?)\s+(<=|>=|<|>|==)\s+(.+)", text)
        if not match:
            raise ClaimError(f"{self.claim}: the check {text!r} is not a comparison such as 'a > b'.")
        left, sign, right = match.groups()
        a, b = self.value(left), self.value(right)
        if not _COMPARE[sign](a, b):
            raise ClaimError(f"{self.claim}: the rows contradict the verdict: {text!r} is {a:.6g} {sign} {b:.6g}.")

    def value(self, expression: str) -> Any:
        """What an expression comes to: a number, or the text that ``@spread`` asks for."""
        for word, combine in ((" over ", operator.truediv), (" minus ", operator.sub)):
            if word in expression:
                left, right = expression.split(word, 1)
                return combine(self.value(left), self.value(right))
        try:
            return float(expression)
        except ValueError:
            self.look_ups += 1
        if expression.startswith("papers/"):
            return self._fact(expression)
        id, _, part = expression.partition("@")
        if part and part not in _PARTS:
            raise ClaimError(f"{self.claim}: {expression!r} asks for @{part}; there are @{', @'.join(_PARTS)}.")
        found = self.used.setdefault(id, result(id, folder=self.folder))
        return _PARTS[part](found) if part else found.value

    def _fact(self, expression: str) -> Any:
        _, key, name = (expression.split("/") + ["", ""])[:3]
        if key not in PAPERS or name not in PAPERS[key].facts:
            raise ClaimError(f"{self.claim}: segtutor.lab.papers has no fact {expression!r}.")
        return PAPERS[key].facts[name].value
