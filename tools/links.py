"""Ask every address that the repository names whether it still answers; exit 1 and list those that do not.

A server that refuses programs (401, 403, 405, 429) or is busy (503) says nothing about the link, so it is let pass.
"""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https?://[^\s\"'<>()\[\]{}`\\|^]+")
SUFFIXES = {".md", ".ipynb", ".py", ".bib", ".yml", ".toml", ".cff"}
UNTOLD = {401, 403, 405, 429, 503}
LOCAL = re.compile(r"https?://(localhost|127\.0\.0\.1|example\.)")


def addresses() -> dict[str, list[str]]:
    """Each address with the files that name it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for name in listed.stdout.splitlines():
        if Path(name).suffix in SUFFIXES and not name.startswith("tests/"):
            for address in ADDRESS.findall((ROOT / name).read_text(encoding="utf-8")):
                address = address.rstrip(".,;:!?")
                if not LOCAL.match(address):
                    found.setdefault(address.split("#")[0], []).append(name)
    return found


def fault(address: str) -> str:
    """What is wrong with the address, or an empty string."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (segtutor link check)"})
    for attempt in (1, 2):
        try:
            with urllib.request.urlopen(request, timeout=30):
                return ""
        except urllib.error.HTTPError as error:
            return "" if error.code in UNTOLD else f"HTTP {error.code}"
        except (OSError, ValueError) as error:
            if attempt == 2:
                return str(error)
    return ""


def main() -> int:
    """Prints the broken links; returns the exit status."""
    found = addresses()
    with ThreadPoolExecutor(8) as pool:
        faults = dict(zip(found, pool.map(fault, found), strict=True))
    broken = [f"- {address} ({why}): {', '.join(set(found[address]))}" for address, why in faults.items() if why]
    print(f"{len(found)} addresses, {len(broken)} broken", *broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
