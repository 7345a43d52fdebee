"""Progress of long work: a bar with an ETA on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

_EVERY_S = 15.0


class Progress:
    """Counts steps of one piece of work. Made by `progress`."""

    def __init__(self, label: str, total: int | None, done: int, bar: Any) -> None:
        self._label = label
        self._total = total
        self._bar = bar
        self._done = self._before = done
        self._start = self._told = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` (for example a loss) stands beside the count."""
        self._done += steps
        if self._bar is not None:
            if note:
                self._bar.label = f"{self._label} {note}"
            self._bar.update(steps)
        elif time.monotonic() - self._told >= _EVERY_S:
            self._tell(note)

    def _tell(self, note: str) -> None:
        now = self._told = time.monotonic()
        line = f"{self._label}: {self._done}"
        if self._total:
            step_s = (now - self._start) / max(self._done - self._before, 1)
            left_s = step_s * (self._total - self._done)
            line += f" of {self._total}, about {left_s:.0f} s left"
        click.echo(f"{line} {note}".rstrip(), err=True)

    def finish(self) -> None:
        """Say the end on a plain log."""
        if self._bar is None and time.monotonic() - self._start >= _EVERY_S:
            took_s = time.monotonic() - self._start
            click.echo(f"{self._label}: {self._done} in {took_s:.0f} s", err=True)


@contextmanager
def progress(label: str, total: int | None, done: int = 0) -> Iterator[Progress]:
    """Show the progress of a block of work on stderr.

    Args:
        label: What is done, for people.
        total: How many steps; None = unknown.
        done: How many of them an earlier run has done.
    """
    if sys.stderr.isatty() and total:
        with click.progressbar(length=total, label=label, show_eta=True, file=sys.stderr) as bar:
            bar.update(done)
            yield Progress(label, total, done, bar)
        return
    plain = Progress(label, total, done, None)
    yield plain
    plain.finish()
