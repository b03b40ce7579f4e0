"""Tables that notebooks show as HTML and terminals as aligned text."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segtutor.lab import results

MISSING = "not measured"
# A field as large as the image that it was measured on: the network sees all of it, whatever its size.
WHOLE_IMAGE = "whole image"


class Table:
    """A table that displays as HTML in a notebook and as aligned text elsewhere.

    It carries no colours of its own: the class ``dataframe`` lets notebook front ends and the book's theme, light
    or dark, style it.
    """

    def __init__(self, rows: Iterable[Sequence[Any]], columns: Sequence[str], caption: str = ""):
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


def table(rows: Iterable[Any], columns: Sequence[str] | None = None, caption: str = "") -> Table:
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


def _text(cell: object) -> str:
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
        return cell in ("", "absent", MISSING, WHOLE_IMAGE)
    return True


def _escape(text: str) -> str:
    """HTML for one cell; text between backticks becomes code, as in the book's pages."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:  # an odd backtick is a backtick
        return html.escape(text)
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
