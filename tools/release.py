"""Refuse a release whose files do not agree on the version.

python tools/release.py v1.2.3     the tag, or the version; exit status 1 and a sentence for each file that is behind
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where the version is written, and how it stands there
PLACES = {
    "segtutor/__init__.py": r'^__version__ = "(.+?)"',
    "CITATION.cff": r'^version: "?([^"\s]+)',
    "README.md": r"^  version = \{(.+?)\}",
    "CHANGELOG.md": r"^## (\d\S*)",  # the newest comes first
}


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Why ``tag`` (``v1.2.3``) may not be released from the files below ``root``, one sentence each."""
    version = tag.removeprefix("v")
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        return [f"{tag!r} is not a version: a tag looks like v1.2.3"]
    found = []
    for name, pattern in PLACES.items():
        written = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.M)
        if written is None:
            found.append(f"{name} names no version")
        elif written.group(1) != version:
            found.append(f"{name} has version {written.group(1)}, the tag {version}: write {version} there, tag anew")
    if re.search(r"^## Unreleased", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M):
        found.append(f"CHANGELOG.md still has an unreleased part: make its heading {version}")
    return found


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    if len(arguments) != 1:
        raise SystemExit("name the tag to release: python tools/release.py v1.2.3")
    found = problems(arguments[0])
    print("\n".join(found) or f"{arguments[0]} can be released")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
