"""What a user must be told about weights, once per process, by logging."""

from functools import cache

from segtutor.logs import LOGGER


@cache
def licence_notice(text: str) -> None:
    """Say under which terms weights may be used: at the level WARNING, so that it is seen however logging is set up."""
    LOGGER.warning(text)
