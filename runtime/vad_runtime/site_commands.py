"""`vad-run site` and `vad-run check`: a site runs, and what would keep it from running."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from vad_runtime.commands import INTERRUPTED
from vad_runtime.contracts.errors import VadError
from vad_runtime.words import counted

if TYPE_CHECKING:
    from vad_runtime.live.console import Console
    from vad_runtime.live.notify import Notifier
    from vad_runtime.live.site import LiveSite

_SITE = click.Path(path_type=Path)
_STATUS_S = 10.0
_LOOK_S = 0.2
_REHEARSAL_DELIVER_S = 15.0


@click.command("site")
@click.argument("site", type=_SITE)
def site(site: Path) -> None:
    """Run the site of the site file SITE until SIGTERM or Ctrl-C.

    One line is printed for each change of a stream's state, each start and end of an event, and
    each reload. SIGHUP reads SITE again: what did not change goes on untouched, and a file with a
    mistake changes nothing. A site of recordings without loop ends by itself.
    """
    from vad_runtime.live.console import Console
    from vad_runtime.live.notify import Notifier

    console, notifier = Console(), Notifier()
    with _signals() as wishes:
        try:
            code = _run(site, console, notifier, wishes)
        except KeyboardInterrupt:
            # Leaving the tidy way while engines still run makes their libraries abort. What is on
            # disk is whole at any moment.
            click.echo("Interrupted.", err=True)
            os._exit(INTERRUPTED)
    click.get_current_context().exit(code)


class _Wishes:
    """What signals ask for. Handlers only set flags: anything else could meet a held lock."""

    def __init__(self) -> None:
        self.stop: int | None = None
        self.reload = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
            return
        if self.stop is not None:  # a second one is meant
            raise KeyboardInterrupt
        self.stop = number


@contextmanager
def _signals() -> Iterator[_Wishes]:
    wishes = _Wishes()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, wishes.handle) for number in numbers}
    try:
        yield wishes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(path: Path, console: "Console", notifier: "Notifier", wishes: _Wishes) -> int:
    """Run a site to its end; return the exit code."""
    from vad_runtime.live.site import LiveSite
    from vad_runtime.site_file import read_site

    running = LiveSite(read_site(path), say=console.say)
    try:
        running.start()
    except BaseException:  # it has stopped what it had started
        console.pump()
        raise
    try:
        console.say(_started(running))
        notifier.ready(_streams(running))
        _loop(running, path, console, notifier, wishes)
    finally:
        _stop(running, console, notifier)
    if running.failure is not None:
        raise running.failure
    return INTERRUPTED if wishes.stop == signal.SIGINT else 0


def _stop(running: "LiveSite", console: "Console", notifier: "Notifier") -> None:
    """Stop in a thread, so that what is told meanwhile is printed, and a second signal heard."""
    notifier.stopping()
    console.say("stopping")
    over = running.finished.is_set() and running.failure is None
    deliver_s = _REHEARSAL_DELIVER_S if over else 5.0
    thread = threading.Thread(
        target=running.stop, kwargs={"deliver_s": deliver_s}, name="vad-stop", daemon=True
    )
    thread.start()
    while thread.is_alive():
        console.pump(_LOOK_S)
    console.say("stopped")
    console.pump()


def _started(running: "LiveSite") -> str:
    site = running.file.site
    served = f", status at {running.url}/status" if running.url else ""
    sinks = f", sinks {', '.join(site.sinks)}" if site.sinks else ", no sinks"
    return f"{site.name}: {_streams(running)}{sinks}{served}"


def _streams(running: "LiveSite") -> str:
    return counted(len(running.file.site.streams), "stream")


def _loop(
    running: "LiveSite", path: Path, console: "Console", notifier: "Notifier", wishes: _Wishes
) -> None:
    """Print, reload and tell systemd how it is, until the site is to stop."""
    watchdog, status_at = _Watchdog(running, notifier), time.monotonic()
    while wishes.stop is None and not running.finished.is_set() and not console.gone:
        console.pump(_LOOK_S)
        if wishes.reload:
            wishes.reload = False
            _reload(running, path, console, notifier, watchdog)
        watchdog.look()
        now = time.monotonic()
        if now >= status_at:
            notifier.status(_summary(running))
            status_at = now + _STATUS_S


class _Watchdog:
    """Keeps systemd's watchdog quiet while the site's own threads run."""

    def __init__(self, running: "LiveSite", notifier: "Notifier") -> None:
        self._running, self._notifier = running, notifier
        self._ping_at = time.monotonic()

    def look(self) -> None:
        """Tell systemd, if it is time."""
        longest_s, now = self._notifier.watchdog_s, time.monotonic()
        if longest_s is not None and now >= self._ping_at and self._running.alive():
            self._notifier.alive()
            self._ping_at = now + longest_s / 3


def _reload(
    running: "LiveSite",
    path: Path,
    console: "Console",
    notifier: "Notifier",
    watchdog: _Watchdog,
) -> None:
    """Reload in a thread: an engine may take minutes, in which the watchdog must be kept quiet."""
    notifier.reloading()
    bugs: list[Exception] = []
    thread = threading.Thread(
        target=_follow, args=(running, path, console, bugs), name="vad-reload", daemon=True
    )
    thread.start()
    while thread.is_alive():
        console.pump(_LOOK_S)
        watchdog.look()
    notifier.ready(_streams(running))
    if bugs:  # half a change may be done: a new start is better
        raise bugs[0]


def _follow(running: "LiveSite", path: Path, console: "Console", bugs: list[Exception]) -> None:
    from vad_runtime.site_file import read_site

    try:
        try:
            new = read_site(path)
        except VadError as error:
            running.refused(str(error))
            raise
        console.say(f"reload: {running.reload(new).line}")
    except VadError as error:
        console.say(f"reload: nothing was changed: {error}")
    except Exception as error:
        bugs.append(error)


def _summary(running: "LiveSite") -> str:
    try:
        status = running.status()
    except Exception as error:  # only words for `systemctl status`: no reason to end a site
        return f"status unknown ({type(error).__name__})"
    live = sum(stream.state == "live" for stream in status.streams)
    trouble = ""
    if not status.ok:
        trouble = f"; {counted(len(status.troubles), 'trouble')}, e.g. {status.troubles[0]}"
    return f"{live} of {counted(len(status.streams), 'stream')} live{trouble}"[:500]


@click.command("check")
@click.argument("site", type=_SITE)
@click.option(
    "--connect",
    is_flag=True,
    help="Ask each camera for a picture, and connect and log in to each server of a sink. No alert "
    "is sent.",
)
def check(site: Path, connect: bool) -> None:
    """Say everything that would keep the site file SITE from running, a line each.

    Looks at the file, its secrets, bundles, back ends, recordings, decoders, folders, free space
    and the port, and leaves nothing behind. The site may be running. Exit code 1 if anything is
    wrong.
    """
    from vad_runtime.site_check import findings

    wrong = 0
    for finding in findings(site, connect=connect):
        wrong += finding.wrong
        click.echo(("wrong  " if finding.wrong else "ok     ") + finding.text)
    if wrong:
        things = "1 thing is" if wrong == 1 else f"{wrong} things are"
        click.echo(f"{things} wrong with {site}", err=True)
    click.get_current_context().exit(1 if wrong else 0)
