"""A page of HTML that is one file: its style, and tables, lists and pictures as text in which everything is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

STYLE = """
:root { color-scheme: light dark; --ink: #22262b; --muted: #5a626b; --line: #d5d9de; --page: #f6f7f8; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --muted: #a3abb3; --line: #3a4148; --page: #16191c; --card: #1f2428; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 44rem; }
.muted, figcaption, th { color: var(--muted); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: .6rem; margin: 1rem 0; }
.facts div, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.facts dt { color: var(--muted); font-size: .85rem; }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: .8rem; }
.curves figure, .sample { margin: 0; }
.curves svg { width: 100%; height: auto; display: block; background: #fff; border-radius: 8px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.matrix td, .matrix th { padding: .2rem .35rem; min-width: 2.2rem; }
.dense td, .dense thead th { padding: 0; min-width: 14px; width: 14px; height: 14px; border: 0; font-size: 0; }
.strong { color: #fff; }
i { display: inline-block; width: .9em; height: .9em; margin-right: .4em; border: 1px solid #7b828a; border-radius: 2px;
    vertical-align: -.1em; }
.sample { margin: 0 0 1.2rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(150px, 45%), 1fr)); gap: .4rem; }
.panels img { width: 100%; height: auto; display: block; border-radius: 4px; }
.panels span { font-size: .8rem; color: var(--muted); }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .9rem; }
pre { overflow-x: auto; margin: 0; font-size: .82rem; line-height: 1.4; }
"""
LARGEST = 640  # pixels of the longer side of a picture


def page(title: str, body: Iterable[str]) -> str:
    """The whole file."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A part of the page under a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """Words."""
    return f"<p>{escape(text)}</p>"


def facts(entries: Mapping[str, str]) -> str:
    """What one looks for first: names and values on cards."""
    cards = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries.items())
    return f'<dl class="facts">{"".join(cards)}</dl>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "", swatches: Sequence[str] = ()) -> str:
    """Rows of text under a header.

    Args:
        header: one for each column.
        rows: as text.
        kind: "text" for columns of words.
        swatches: of each row, a colour that stands before its first column.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for number, row in enumerate(rows):
        mark = f'<i style="background:{swatches[number]}"></i>' if number < len(swatches) else ""
        cells = "".join(f"<td>{mark if not column else ''}{escape(cell)}</td>" for column, cell in enumerate(row))
        lines.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def matrix(shares: np.ndarray, names: Sequence[str], *, numbers: bool) -> str:
    """A confusion matrix in shades.

    Args:
        shares: (C, C) [true, predicted], each row a share of 1; a row of NaN for a class that does not occur.
        names: of the classes.
        numbers: write percent into the cells; else they are small, and say it when pointed at.
    """
    head = "".join(f'<th title="{escape(name, quote=True)}">{label}</th>' for label, name in enumerate(names))
    rows = []
    for label, name in enumerate(names):
        cells = []
        for other, share in enumerate(shares[label]):
            if np.isnan(share):
                cells.append("<td></td>")
                continue
            strong = ' class="strong"' if share > 0.55 else ""
            tip = escape(f"{name} taken for {names[other]}: {100 * share:.1f} %", quote=True)
            text = f"{100 * share:.0f}" if numbers and share >= 0.005 else ""
            shade = f"background:rgba(6,113,235,{share:.2f})"
            cells.append(f'<td{strong} style="{shade}" title="{tip}">{text}</td>')
        rows.append(f"<tr><th>{label} {escape(name)}</th>{''.join(cells)}</tr>")
    kind = "matrix" if numbers else "dense"
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr><th>true \\ predicted</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def legend(spec: Any, labels: Iterable[int], *, wrong: bool = True) -> str:
    """The colours of some classes, of void, and of pixels that are wrong."""
    from segtutor import viz

    colors = viz.class_colors(spec)
    entries = [(hex_of(colors[label]), str(spec.classes[label])) for label in labels if label < len(colors)]
    entries += [(viz.VOID, "void")] + ([(viz.WRONG, "wrong")] if wrong else [])
    items = (f'<li><i style="background:{color}"></i>{escape(name)}</li>' for color, name in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'


def sample(name: str, text: str, image: Tensor, truth: Tensor, answer: Tensor, spec: Any) -> str:
    """Image, truth, prediction and error of one sample, side by side where there is room.

    Args:
        name, text: what stands above them.
        image: (C, H, W) in [0, 1].
        truth, answer: (H, W) labels.
        spec: with the colours of the classes, and the label of void.
    """
    from segtutor import viz

    picture = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    rgb = (255 * picture.permute(1, 2, 0).clamp(0, 1)).round().byte().numpy()
    void = truth == spec.ignore_index
    shown = torch.where(void, truth, answer)
    pale = (0.72 * 255 + 0.28 * rgb.mean(-1, keepdims=True)).repeat(3, axis=-1)
    pale[((truth != answer) & ~void).numpy()] = _rgb(viz.WRONG)
    pale[void.numpy()] = _rgb(viz.VOID)
    panels = {
        "Image": _data_uri(rgb, "JPEG"),
        "Truth": _data_uri(painted(truth, spec), "PNG"),
        "Prediction": _data_uri(painted(shown, spec), "PNG"),
        "Error": _data_uri(pale.astype(np.uint8), "JPEG"),
    }
    cells = "".join(
        f'<div><img src="{uri}" alt="{kind} of {escape(name, quote=True)}"><span>{kind}</span></div>'
        for kind, uri in panels.items()
    )
    return (
        f'<figure class="sample"><figcaption><b>{escape(name)}</b>: {escape(text)}</figcaption>'
        f'<div class="panels">{cells}</div></figure>'
    )


def painted(mask: Tensor, spec: Any) -> np.ndarray:
    """Labels (H, W) as the colours of their classes, (H, W, 3) bytes; what is no class has the colour of void."""
    from segtutor import viz

    colors = (255 * viz.class_colors(spec)).round().astype(np.uint8)
    labels = mask.numpy()
    out = np.empty((*labels.shape, 3), np.uint8)
    out[:] = _rgb(viz.VOID)
    known = (labels >= 0) & (labels < len(colors)) & (labels != spec.ignore_index)
    out[known] = colors[labels[known]]
    return out


def hex_of(color: Sequence[float] | np.ndarray) -> str:
    """A colour (R, G, B) in [0, 1] as ``#rrggbb``."""
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in color)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def _data_uri(pixels: np.ndarray, kind: str) -> str:
    from PIL import Image

    picture, file = Image.fromarray(pixels), io.BytesIO()
    exact = Image.Resampling.NEAREST if kind == "PNG" else Image.Resampling.BILINEAR
    if max(picture.size) > LARGEST:
        scale = LARGEST / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), exact)
    picture.save(file, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
