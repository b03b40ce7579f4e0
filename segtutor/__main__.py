"""``python -m segtutor`` is the command ``segtutor``."""

from segtutor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
