"""The table of `vad-run status`: what a site says of itself, for a terminal and for a pipe."""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vad_runtime.live.base import StreamState
from vad_runtime.live.sparkline import ASCII_LEVELS, LEVELS, OVER, sparkline
from vad_runtime.live.status import EngineStatus, PartStatus, SiteStatus, StreamStatus
from vad_runtime.when import duration, time_of_day
from vad_runtime.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_GAP = 2
_CURVE, _LEAST_CURVE, _WIDEST_CURVE = 30, 12, 60
_CURVE_KEEP = 8
_STYLES: dict[StreamState, str] = {
    "connecting": "yellow",
    "live": "green",
    "stalled": "red",
    "frozen": "red",
    "lost": "red",
    "refused": "red",
    "ended": "dim",
}
_ALARM = "bold white on red"
_WELL: tuple[StreamState, ...] = ("live", "ended")


@dataclass(frozen=True)
class Cell:
    """A text and how it looks where there are colours."""

    text: str
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table of streams."""

    title: str
    cells: list[Cell]
    keep: int
    """Columns with the largest number get their place first where the terminal is narrow."""
    right: bool = False

    @property
    def width(self) -> int:
        """Characters that it needs."""
        return max(len(cell.text) for cell in (Cell(self.title), *self.cells))


@dataclass(frozen=True, kw_only=True)
class View:
    """A whole screen, without any library's types."""

    head: list[Cell]
    columns: list[Column]
    hidden: list[Cell]
    """Which columns a wider terminal would show; empty = all are there."""
    notes: list[Cell]
    """What there is to say of streams in words."""
    foot: list[Cell]
    """Engines, the store, sinks and media."""


def view_of(
    status: SiteStatus,
    *,
    width: int | None = None,
    height: int | None = None,
    ascii_only: bool = False,
) -> View:
    """Return what to show. Pure; any thread may call it.

    Args:
        status: What the site said.
        width: Characters of the terminal; None = as wide as it gets. The curve of scores shrinks
            first, then whole columns go, and a line says which.
        height: Lines of the terminal; None = as long as it gets. Words about streams that are well
            go first, then streams that are well; streams with a trouble come first then.
        ascii_only: The terminal shows no characters but ASCII.
    """
    head = _head(status, width)
    foot = [_engine(engine) for engine in status.engines] + [_part(part) for part in status.parts]
    streams = list(status.streams)
    notes = [note for stream in streams if (note := _note(stream))]
    if height is not None:
        height -= len(_hidden(_fitted(streams, status.now_s, width, ascii_only), width))
        notes = notes[: max(height - len(head) - len(foot) - len(streams) - 4, 0)]
        room = max(height - len(head) - len(foot) - len(notes) - 5, 3)
        if len(streams) > room:
            streams.sort(key=lambda s: (s.state in _WELL and not s.alarm, s.state in _WELL))
            left = len(streams) - room
            notes = [Cell(f"and {left} more streams; a higher terminal shows them", "dim")]
            streams = streams[:room]
    columns = _fitted(streams, status.now_s, width, ascii_only)
    hidden = _hidden(columns, width)
    return View(head=head, columns=columns, hidden=hidden, notes=notes, foot=foot)


def plain_lines(view: View) -> list[str]:
    """Return the view as lines of text without colours, for a pipe, a file or a mail."""
    lines = [cell.text for cell in view.head]
    if view.columns and view.columns[0].cells:
        lines.append("")
        lines.append(_line(view.columns, [column.title for column in view.columns]))
        for row in zip(*(column.cells for column in view.columns), strict=True):
            lines.append(_line(view.columns, [cell.text for cell in row]))
        lines += [cell.text for cell in view.hidden]
    for block in (view.notes, view.foot):
        if block:
            lines += ["", *(cell.text for cell in block)]
    return lines


def rich_view(view: View, threshold_colours: bool = True) -> "RenderableType":
    """Return the view for a terminal; needs Rich.

    Args:
        view: What to show.
        threshold_colours: Colour those parts of a curve that are over the threshold.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=False)
    for column in view.columns:
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in zip(*(column.cells for column in view.columns), strict=True):
        table.add_row(*(_coloured(Text(c.text, c.style), c, threshold_colours) for c in row))
    # Text and not strings: Rich would read brackets in a stream's error as its own markup.
    parts: list[RenderableType] = [Text(c.text, c.style, no_wrap=True) for c in view.head]
    if view.columns and view.columns[0].cells:
        parts += [Text(), table, *(Text(c.text, c.style, no_wrap=True) for c in view.hidden)]
    for block in (view.notes, view.foot):
        if block:
            texts = (Text(c.text, c.style, no_wrap=True, overflow="ellipsis") for c in block)
            parts += [Text(), *texts]
    return Group(*parts)


_CURVE_STYLE = "cyan"


def _coloured(text: "Text", cell: Cell, threshold_colours: bool) -> "Text":
    if cell.style == _CURVE_STYLE and threshold_colours:
        over = LEVELS[OVER:] + ASCII_LEVELS[OVER:]
        for place, char in enumerate(cell.text):
            if char in over:
                text.stylize("bold red", place, place + 1)
    return text


def _line(columns: Sequence[Column], texts: Sequence[str]) -> str:
    cells = [
        text.rjust(column.width) if column.right else text.ljust(column.width)
        for column, text in zip(columns, texts, strict=True)
    ]
    return (" " * _GAP).join(cells).rstrip()


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _head(status: SiteStatus, width: int | None) -> list[Cell]:
    state = Cell("all is well", "green") if status.ok else Cell("TROUBLE", _ALARM)
    facts = [
        f"vad-edge {shown(status.version)}",
        f"up {duration(status.now_s - status.started_s)}",
        f"memory {status.rss_bytes / 1e6:.0f} MB",
        f"{status.threads} threads",
        f"process {status.pid}",
    ]
    if status.reloads:
        facts.append(counted(status.reloads, "reload"))
    lines = [Cell(f"{shown(status.site)}: {state.text}  ({', '.join(facts)})", state.style)]
    lines += [Cell(f"  {shown(trouble)}", "red") for trouble in status.troubles]
    if width is None:
        return lines
    room = max(width, 20)
    return [
        Cell(part, line.style)
        for line in lines
        for part in textwrap.wrap(line.text, room, subsequent_indent="    ") or [line.text]
    ]


def _columns(streams: Sequence[StreamStatus], now_s: float) -> list[Column]:
    def column(title: str, keep: int, cells: list[Cell], right: bool = True) -> Column:
        return Column(title=title, cells=cells, keep=keep, right=right)

    return [
        column("stream", 99, [Cell(shown(s.name), "bold") for s in streams], right=False),
        column("state", 98, [_state(s) for s in streams], right=False),
        column("since", 1, [Cell(duration(now_s - s.state_since_s), "dim") for s in streams]),
        column("score / alarm at", 10, [_score(s) for s in streams]),
        column("fps in / scored", 4, [_fps(s) for s in streams]),
        column("ms p50 / p95 of", 6, [_latency(s) for s in streams]),
        column("left out", 5, [_count(sum(s.dropped.values())) for s in streams]),
        column("missed", 2, [_count(s.misses) for s in streams]),
        column("holes", 3, [_count(sum(s.holes.values())) for s in streams]),
        column("events", 7, [Cell(str(s.events)) for s in streams]),
        column("last event", 9, [_last_event(s, now_s) for s in streams]),
    ]


def _fitted(
    streams: Sequence[StreamStatus], now_s: float, width: int | None, ascii_only: bool
) -> list[Column]:
    """Return the columns that a width has room for, and a curve that fills the rest of it."""
    columns = _columns(streams, now_s)
    space = _CURVE
    columns.insert(3, _curve(streams, _LEAST_CURVE, ascii_only))
    if width is not None:
        wanted = sorted(columns, key=lambda column: -column.keep)
        kept = wanted[:2]
        for column in wanted[2:]:
            if _width([*kept, column]) <= width:
                kept.append(column)
        columns = [column for column in columns if column in kept]
        space = _LEAST_CURVE + width - _width(columns)
    for place, column in enumerate(columns):
        if column.keep == _CURVE_KEEP:
            columns[place] = _curve(streams, min(space, _WIDEST_CURVE), ascii_only)
    return columns


def _hidden(columns: Sequence[Column], width: int | None) -> list[Cell]:
    if width is None:
        return []
    there = {column.title for column in columns}
    left = [column.title for column in _columns([], 0.0) if column.title not in there]
    if all(column.keep != _CURVE_KEEP for column in columns):
        left.append("the curve of scores")
    if not left:
        return []
    text = f"a wider terminal shows: {', '.join(left)}"
    return [Cell(part, "dim") for part in textwrap.wrap(text, max(width, 20))]


def _curve(streams: Sequence[StreamStatus], width: int, ascii_only: bool) -> Column:
    seconds = max((len(s.recent) for s in streams), default=0)
    width = max(min(width, seconds), _LEAST_CURVE)
    cells = [
        Cell(
            sparkline(s.recent, width=width, threshold=s.threshold, ascii_only=ascii_only),
            _CURVE_STYLE if s.threshold is not None else "",
        )
        for s in streams
    ]
    return Column(title=f"last {seconds} s", cells=cells, keep=_CURVE_KEEP)


def _state(stream: StreamStatus) -> Cell:
    if stream.alarm:
        return Cell("ALARM", _ALARM)
    return Cell(stream.state, _STYLES[stream.state])


def _score(stream: StreamStatus) -> Cell:
    at = "none" if stream.threshold is None else f"{stream.threshold:.2f}"
    score = "-" if stream.score is None else f"{stream.score:.2f}"
    over = None not in (stream.score, stream.threshold) and stream.alarm
    return Cell(f"{score} / {at}", "bold red" if over else "")


def _fps(stream: StreamStatus) -> Cell:
    return Cell(f"{stream.camera_fps:.1f} / {stream.scored_fps:.1f}")


def _latency(stream: StreamStatus) -> Cell:
    if not stream.latency.count:
        return Cell("-")
    latency, target = stream.latency, stream.target_ms
    late = 0 < target < latency.p95_ms
    text = f"{latency.p50_ms:.0f} / {latency.p95_ms:.0f}"
    return Cell(f"{text} of {target:.0f}" if target else text, "red" if late else "")


def _count(number: int) -> Cell:
    return Cell(str(number), "yellow" if number else "dim")


def _last_event(stream: StreamStatus, now_s: float) -> Cell:
    if stream.last_event_s is None:
        return Cell("-", "dim")
    return Cell(time_of_day(stream.last_event_s, now_s))


def _note(stream: StreamStatus) -> Cell | None:
    """Say in words what the table's numbers do not."""
    said = []
    if stream.state not in _WELL or stream.state_reason:
        reason = shown(stream.state_reason) or "no reason given"
        said.append(f"{stream.state}: {reason} ({shown(stream.source)})")
    if stream.connections > 1:
        said.append(f"connected {stream.connections} times")
    for what, counts in (("left out", stream.dropped), ("holes", stream.holes)):
        if sum(counts.values()):
            said.append(f"{what}: {_causes(counts)}")
    if not said:
        return None
    style = "" if stream.state in _WELL else _STYLES[stream.state]
    return Cell(f"{shown(stream.name)}: {'; '.join(said)}", style)


def _causes(counts: Mapping[str, int]) -> str:
    largest = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{shown(cause)} {count}" for cause, count in largest if count)


def _engine(engine: EngineStatus) -> Cell:
    text = (
        f"{shown(engine.bundle)} on {shown(engine.device)}: "
        f"{counted(len(engine.streams), 'stream')}, busy {100 * engine.busy:.0f} %, "
        f"{counted(engine.clips, 'clip')}"
    )
    if engine.errors:
        text += f", {counted(engine.errors, 'error')}"
    if engine.trouble:
        text += f"; {shown(engine.trouble)}"
    return Cell(text, "red" if engine.trouble else "")


def _part(part: PartStatus) -> Cell:
    name = part.kind if part.name == part.kind else f"{part.name} ({part.kind})"
    text = f"{shown(name)}: {part.queued} queued, {part.done} done"
    if part.dropped:
        text += f", {part.dropped} given up"
    for key, value in part.details.items():
        if value:
            text += f", {_detail(shown(key), value)}"
    if part.trouble or not part.ok:
        text += f"; {shown(part.trouble) or 'not well'}"
    return Cell(text, "" if part.ok else "red")


def _detail(key: str, value: float) -> str:
    name = key.replace("_", " ")
    if key.endswith("_bytes"):
        size = f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
        return f"{name.removesuffix(' bytes')} {size}"
    for unit in ("s", "ms"):
        if key.endswith(f"_{unit}"):
            return f"{name.removesuffix(f' {unit}')} {value:.1f} {unit}"
    return f"{name} {value:g}"


def shown(text: str, longest: int = 300) -> str:
    """Return a text that others sent as one line that no terminal takes for commands."""
    kept = "".join(
        " " if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char
        for char in text[: longest + 1]
    )
    return kept if len(kept) <= longest else f"{kept[: longest - 1]}…"
