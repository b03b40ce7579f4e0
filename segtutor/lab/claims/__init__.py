"""The ledger of claims: what is said about these networks, and what the book measured.

``ledger`` holds the claims as data, ``judge`` fills in their numbers and applies the rules of a verdict, ``page``
writes ``book/claims.md``.
"""

from segtutor.lab.claims.judge import Judgement, judge
from segtutor.lab.claims.ledger import (
    BACKBONES,
    CLAIMS,
    CONFIRMED,
    DEPENDS,
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
from segtutor.lab.claims.page import CHAPTERS, page_text, write_page

__all__ = [
    "BACKBONES",
    "CHAPTERS",
    "CLAIMS",
    "CONFIRMED",
    "DEPENDS",
    "NOT_YET",
    "OPEN",
    "REFUTED",
    "VERDICTS",
    "WAITS",
    "Claim",
    "ClaimError",
    "Comparison",
    "Judgement",
    "find",
    "judge",
    "page_text",
    "write_page",
]
