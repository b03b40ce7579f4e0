"""Make every link to the repository the one that _config.yml names: run it after a change there (`make repository`).

Rewrites the old address, which pyproject.toml still holds, in every tracked text file, and the install cell of every
notebook.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import notebooks

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Rewrites and says what changed."""
    new = notebooks.repository()
    old = re.search(r'^Repository = "(.*?)/?"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M).group(1)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for path in (ROOT / entry for entry in listed.split("\0") if entry):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        if path.name != "_config.yml" and old != new and old in text:
            path.write_text(text.replace(old, new), encoding="utf-8")
            print(path.relative_to(ROOT))
    notebooks.main(["normalise"])


if __name__ == "__main__":
    main()
