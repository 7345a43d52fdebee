"""The log of a site: lines from every thread, printed by one."""

import os
import queue
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from vad_runtime.words import counted

_MOST_LINES = 2000


class Console:
    """Takes lines from any thread without ever blocking, and prints them in one.

    A terminal that is stopped, or a pipe that nobody reads, makes only the printing thread wait.
    What does not fit is counted, about, and told.

    Args:
        stream: Where to print; None = standard output.
        environment: Variables; None = the process's.
        wall: Unix seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        environment: Mapping[str, str] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._stream = stream if stream is not None else sys.stdout
        variables = os.environ if environment is None else environment
        # The journal has times of its own.
        self._stamped = "JOURNAL_STREAM" not in variables
        self._wall = wall
        # Its `put` may interrupt its own `get`, as in a signal handler, without a deadlock.
        self._lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        self._lost = 0
        self._broken = False
        self._terminal = self._stream.isatty()

    @property
    def gone(self) -> bool:
        """Whether it was a terminal that was closed: whoever started the site has left."""
        return self._terminal and self._broken

    def say(self, line: str) -> None:
        """Take a line; from any thread, also in a signal handler."""
        if self._lines.qsize() < _MOST_LINES:
            self._lines.put((self._wall(), line))
        else:
            self._lost += 1

    def pump(self, timeout_s: float = 0.0) -> None:
        """Print what there is; wait for it, for so long at most. One thread calls it."""
        wait_s = timeout_s
        while True:
            try:
                time_s, line = self._lines.get(timeout=wait_s) if wait_s else self._lines.get(False)
            except queue.Empty:
                break
            self._print(time_s, line)
            wait_s = 0.0
        lost, self._lost = self._lost, 0
        if lost:
            self._print(self._wall(), f"{counted(lost, 'line')} could not be printed in time")

    def _print(self, time_s: float, line: str) -> None:
        if self._broken:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S  ", time.localtime(time_s))
        try:
            self._stream.write((stamp if self._stamped else "") + " ".join(line.split()) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._broken = True  # whoever read it has left; the site goes on
