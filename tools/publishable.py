"""Refuse to publish a book that shows a dataset's images: CamVid is for research use, the tissue set non-commercial.

python tools/publishable.py     after `make book`, in the environment and on the machine that built it
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from segtutor.data.root import available, real_datasets

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
WITHOUT = "No real data found"


def problems(html: Path = HTML) -> list[str]:
    """Why the book may not be published, one sentence each."""
    present = [entry.title for entry in real_datasets().values() if available(entry.name)]
    found = [f"{title} is on this machine: build where it is not" for title in present]
    chapters = sorted((html / "notebooks").glob("*.html"))
    if not chapters:
        found.append("there is no built book: run `make book` first")
    titles = "|".join(entry.title for entry in real_datasets().values())
    for page in chapters:
        text = page.read_text(encoding="utf-8")
        if WITHOUT not in text:
            found.append(f"{page.name} does not say that it ran without real data")
        if re.search(rf"Real data: |Data: ({titles}),", text):
            found.append(f"{page.name} ran on real data")
    return found


if __name__ == "__main__":
    print("\n".join(problems()))
    sys.exit(1 if problems() else 0)
