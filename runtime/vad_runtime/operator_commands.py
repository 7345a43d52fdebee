"""`vad-run status`, `vad-run events` and `vad-run export-clips`: what an operator types."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import msgspec

from vad_runtime.commands import FiniteFloat
from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.site import HealthSettings
from vad_runtime.progress import progress
from vad_runtime.when import HOW, local, moment
from vad_runtime.words import counted

if TYPE_CHECKING:
    from vad_runtime.live.base import EventRecord
    from vad_runtime.live.event_table import Found
    from vad_runtime.live.status_client import Where

ADDRESS_FILE = "health.url"
"""In the data folder while a site runs: where it serves, `http://127.0.0.1:9108`."""

_SITE = click.Path(path_type=Path)


def _moment(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Turn a time as people type it into Unix seconds, or end with a usage error."""
    if value is None:
        return None
    try:
        # "until yesterday" means all of yesterday.
        return moment(value, time.time(), end_of_day=option.name == "until_s")
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, option) from None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a site keeps what it has seen, and where it can be asked."""

    named: str
    """As the user names it."""
    title: str
    data: Path
    health: HealthSettings | None
    streams: tuple[str, ...] | None = None
    """Those of the site file; None = only the data folder is known."""


def place_of(path: Path) -> Place:
    """Return where to look for the site of a site file or of a data folder.

    Secrets are not read: whoever asks need not have the service's environment.

    Raises:
        InputError: Nothing is there.
        ConfigError: The site file holds a mistake.
    """
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it never raises
        return Place(named=str(path), title=path.resolve().name, data=path, health=None)
    from vad_runtime.site_file import read_site

    file = read_site(path, secrets=False)
    return Place(
        named=str(path),
        title=file.site.name,
        data=file.data,
        health=file.site.health,
        streams=tuple(file.site.streams),
    )


# -- status ----------------------------------------------------------------------------------------


@click.command("status")
@click.argument("site", type=_SITE)
@click.option("--once", is_flag=True, help="Print one table and end; so it is in a pipe anyway.")
@click.option("--json", "as_json", is_flag=True, help="Print what the site says as JSON, and end.")
@click.option(
    "--every",
    "every_s",
    type=FiniteFloat(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
def status(site: Path, once: bool, as_json: bool, every_s: float) -> None:
    """Show how the running site SITE (its site file, or its data folder) is.

    The curve of a stream holds its largest score of each second, the newest on the right. Its scale
    is the alarm's threshold: a bar of the two highest kinds is at it or over it.

    \b
    ms p50 / p95 of  from a clip's last frame to its score, and the longest allowed
    left out         clips or frames that were not scored for want of time, or by an error
    missed           clips that were scored, but later than allowed
    holes            how often frames were missing, so that the window started anew

    Ctrl-C ends it. Exit code 1 if the site is not running.
    """  # noqa: D301 - click's mark of a table is a real backspace
    from vad_runtime.live.status_client import asked, status_from_json
    from vad_runtime.live.status_view import plain_lines, view_of

    where = _where(place_of(site))
    body = asked(where)
    if as_json:
        status_from_json(body, where.text)
        click.echo(msgspec.json.format(body, indent=2))
    elif once or not sys.stdout.isatty():
        view = view_of(status_from_json(body, where.text), ascii_only=_ascii_only())
        click.echo("\n".join(_printable(line) for line in plain_lines(view)))
    else:
        _watch(where, every_s)


def _where(place: Place) -> "Where":
    """Return whom to ask: the address that the site left, or that of its site file."""
    from vad_runtime.live.status_client import Where

    try:
        left = urlsplit((place.data / ADDRESS_FILE).read_text().strip())
        if left.hostname and left.port:
            file = place.streams is not None
            return Where(site=place.named, host=left.hostname, port=left.port, is_file=file)
    except (OSError, ValueError):
        pass
    if place.health is None:
        why = "serves no status (health: null)"
        if place.data == Path(place.named):
            why = f"holds no {ADDRESS_FILE}, so no site is running there"
        raise InputError(f"{place.named} {why}. Give the site file of a site that serves it.")
    if place.health.port == 0:
        raise InputError(
            f"{place.named} is not running: {place.data / ADDRESS_FILE} is not there. "
            f"Start it with: vad-run site {place.named}"
        )
    return Where(site=place.named, host=place.health.host, port=place.health.port)


def _watch(where: "Where", every_s: float) -> None:
    """Show the table anew until Ctrl-C; a site that stops meanwhile is waited for."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from vad_runtime.live.status_client import asked, status_from_json
    from vad_runtime.live.status_view import rich_view, view_of

    console = Console()
    told = status_from_json(asked(where), where.text)
    ascii_only = _ascii_only()  # Rich puts a stdout of its own in place
    trouble = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as screen:
            while True:
                start = time.monotonic()
                size = console.size
                view = view_of(
                    told,
                    width=size.width,
                    height=size.height - bool(trouble),
                    ascii_only=ascii_only,
                )
                warning = [Text(trouble, "bold white on red")] if trouble else []
                screen.update(Group(*warning, rich_view(view)), refresh=True)
                time.sleep(max(every_s - (time.monotonic() - start), 0.05))
                try:
                    told = status_from_json(asked(where), where.text)
                    trouble = ""
                except InputError as error:
                    trouble = f"as of {local(told.now_s)}: {error}"
    except KeyboardInterrupt:
        return


def _ascii_only() -> bool:
    return not (getattr(sys.stdout, "encoding", None) or "ascii").lower().startswith("utf")


def _printable(text: str) -> str:
    """Return a text that stdout can hold: a terminal that is no UTF-8 gets question marks."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


# -- events ----------------------------------------------------------------------------------------


def _filters(command: Any) -> Any:
    for option in (
        click.option(
            "--limit",
            type=click.IntRange(0),
            default=100,
            show_default=True,
            help="Most events, the newest; 0 = all.",
        ),
        click.option("--open", "open_only", is_flag=True, help="Only those that still go on."),
        click.option(
            "--stream",
            "streams",
            multiple=True,
            metavar="NAME",
            help="Only this stream; may be given several times.",
        ),
        click.option(
            "--until",
            "until_s",
            callback=_moment,
            metavar="TIME",
            help="Only what began before; a bare date counts whole.",
        ),
        click.option(
            "--since",
            "since_s",
            callback=_moment,
            metavar="TIME",
            help=f"Only what went on after: {HOW}.",
        ),
    ):
        command = option(command)
    return command


def find(
    place: Place,
    *,
    since_s: float | None,
    until_s: float | None,
    streams: Sequence[str],
    open_only: bool,
    limit: int,
) -> "Found":
    """Look for events; works while the site runs and when it does not.

    Raises:
        InputError: There is no database, or none that can be read.
    """
    from vad_runtime.live.event_table import Found
    from vad_runtime.store import query

    if since_s is not None and until_s is not None and since_s >= until_s:
        raise InputError(f"--since {local(since_s)} is not before --until {local(until_s)}.")
    for name in streams:
        if not name.isascii():  # and SQLite takes no text that is no UTF-8
            raise InputError(f"{name[:80]!a} is no name of a stream. Give one of the site file.")
    if streams:
        _require_known(place, streams)
    rows = query.events(
        place.data,
        since=since_s,
        until=until_s,
        stream=streams or None,
        open_only=open_only,
        limit=limit + 1 if limit else None,
    )
    if since_s is not None and since_s > time.time():  # nobody knows what still goes on then
        rows = [event for event in rows if event.end_s is not None or event.start_s >= since_s]
    more = 0 < limit < len(rows)
    rows = rows[-limit:]
    heard = query.told(place.data, [event.id for event in rows])
    return Found(events=rows, heard=heard, more=more)


def _require_known(place: Place, streams: Sequence[str]) -> None:
    """Refuse a name that is mistyped: "no events" would be a wrong answer.

    Raises:
        InputError: Neither the site file nor the database knows one of the names.
    """
    from vad_runtime.store import query

    known = {*query.counts(place.data), *(place.streams or ())}
    if not known:
        return  # a data folder in which nothing has happened yet
    for name in streams:
        if name not in known:
            there = ", ".join(sorted(known))
            if place.streams is None:
                raise InputError(
                    f"{place.named} holds no event of a stream {name[:80]!r}, only of {there}. "
                    "Give one of these, or the site file, which names all streams."
                )
            raise InputError(
                f"{place.named} has no stream {name[:80]!r}. Give one of these: {there}."
            )


@click.command("events")
@click.argument("site", type=_SITE)
@_filters
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a table for spreadsheets.")
def events(site: Path, as_json: bool, as_csv: bool, **filters: Any) -> None:
    """List past events of SITE (its site file, or its data folder), the newest last.

    Times are this machine's local ones, with their zone. Works while the site runs, too.
    """
    from vad_runtime.live.event_table import csv_of, records_of, table_of

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    place = place_of(site)
    found = find(place, **filters)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(records_of(found)), indent=2))
    elif as_csv:
        click.echo(csv_of(found), nl=False)
    else:
        for line in table_of(found, place.data):
            click.echo(_printable(line))
    _tell_more(found)


def _tell_more(found: "Found") -> None:
    if found.more:
        number = len(found.events)
        click.echo(f"these are the newest {number}; --limit 0 takes older ones, too", err=True)


# -- export-clips ----------------------------------------------------------------------------------


@click.command("export-clips")
@click.argument("site", type=_SITE)
@_filters
@click.option("-o", "--out", type=_SITE, required=True, help="Folder to make.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export there.")
def export_clips(site: Path, out: Path, overwrite: bool, **filters: Any) -> None:
    """Copy clips and snapshots of past events of SITE to a folder that can be handed on.

    It holds index.html, a page of pictures for any browser, and events.csv.
    """
    from vad_runtime.live import clip_export
    from vad_runtime.live.event_table import csv_of

    clip_export.require_free_folder(out, overwrite=overwrite)
    place = place_of(site)
    found = find(place, **filters)
    if not found.events:
        raise InputError(f"{place.named} has no such events, so there is nothing to export.")
    with progress("copying", len(found.events)) as bar:
        done = clip_export.export_clips(
            found.events,
            place.data,
            out,
            table=csv_of(found),
            title=f"{place.title}: {_span(found.events)}",
            overwrite=overwrite,
            advance=bar.advance,
        )
    gone = f", {done.missing} are no longer kept or not there yet" if done.missing else ""
    files = counted(done.files, "clip or picture", "clips and pictures")
    click.echo(
        f"{counted(done.events, 'event')}: {files} ({done.bytes / 1e6:.1f} MB){gone} "
        f"-> {out / clip_export.INDEX}"
    )
    _tell_more(found)


def _span(events: "Sequence[EventRecord]") -> str:
    first, last = local(events[0].start_s)[:16], local(events[-1].start_s)[:16]
    return f"events of {first}" if first == last else f"events from {first} to {last}"
