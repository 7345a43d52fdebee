"""Exceptions that are bugs of ours, kept from stopping what has nothing to do with them."""

import traceback
from collections.abc import Callable


def bug_text(error: BaseException) -> str:
    """Return a bug in a few words on one line: type, message, function and line."""
    found = traceback.extract_tb(error.__traceback__)
    where = f", {found[-1].name} line {found[-1].lineno}" if found else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())


class Contained:
    """Calls what must never fail; if it does, that is told once, counted, and things go on.

    Not for several threads.

    Args:
        name: Whose callbacks these are, for the log.
        say: Takes a line for the log.
        count: Called at each failure.
    """

    def __init__(self, name: str, say: Callable[[str], None], count: Callable[[], None]) -> None:
        self._name, self._say, self._count = name, say, count
        self._told = False

    def __call__(self, callback: Callable[[], None]) -> None:
        """Call it."""
        try:
            callback()
        except Exception as error:
            self._count()
            if not self._told:
                self._told = True
                self._say(
                    f"{self._name}: a bug behind the scorer ({bug_text(error)}); scoring goes on, "
                    "such failures are counted"
                )
