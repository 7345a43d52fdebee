"""Past events as a table for people, as CSV and as plain values."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vad_runtime.live.base import EventRecord
from vad_runtime.live.clip_export import media_file
from vad_runtime.live.status_view import shown
from vad_runtime.store.query import Told
from vad_runtime.when import duration, iso, local


@dataclass(frozen=True, kw_only=True)
class Found:
    """The answer to a question for past events."""

    events: list[EventRecord]
    heard: dict[str, list[Told]]
    """By the event's id."""
    more: bool
    """Whether there are older ones beyond the limit."""


def records_of(found: Found) -> list[dict[str, Any]]:
    """Return events as plain values, with what people want to read beside what is stored."""
    return [
        msgspec.to_builtins(event)
        | {
            "start": iso(event.start_s),
            "end": None if event.end_s is None else iso(event.end_s),
            "duration_s": None if event.end_s is None else event.end_s - event.start_s,
            "peak_time": iso(event.peak_s),
            "times_threshold": _ratio(event),
            "heard": [msgspec.to_builtins(row) for row in found.heard.get(event.id, [])],
        }
        for event in found.events
    ]


_CSV: tuple[str, ...] = ("id", "site", "stream", "start", "end", "duration_s", "peak_time")
_CSV += ("peak_score", "threshold", "times_threshold", "alarms", "suppressed", "ended_by")
_CSV += ("reason", "snapshot", "clip", "heard")


def csv_of(found: Found) -> str:
    """Return the events as CSV with a header, lines ended by CR LF (RFC 4180)."""
    text = io.StringIO()
    table = csv.DictWriter(text, _CSV, extrasaction="ignore")
    table.writeheader()
    for event, record in zip(found.events, records_of(found), strict=True):
        table.writerow(record | {"heard": _heard(found.heard.get(event.id, []))})
    return text.getvalue()


def _ratio(event: EventRecord) -> float | None:
    """Return the peak as a multiple of the threshold; None where that says nothing."""
    return round(event.peak_score / event.threshold, 3) if event.threshold > 0 else None


def table_of(found: Found, data: Path) -> list[str]:
    """Return the lines of a table for people; `data` is the site's data folder."""
    if not found.events:
        return ["no events"]
    rows = [["start", "lasted", "stream", "peak", "x alarm", "ended by", "clip", "heard"]]
    rows += [_row(event, found.heard.get(event.id, []), data) for event in found.events]
    return _aligned(rows)


def _row(event: EventRecord, heard: Sequence[Told], data: Path) -> list[str]:
    ratio = _ratio(event)
    clip = media_file(event.clip, data)
    return [
        local(event.start_s),
        "goes on" if event.end_s is None else duration(event.end_s - event.start_s),
        shown(event.stream),
        f"{event.peak_score:.2f}",
        "-" if ratio is None else f"{ratio:.2f}",
        shown(event.ended_by or "-"),
        "-" if clip is None else shown(str(event.clip)),
        shown(_heard(heard)) or "-",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _heard(rows: Sequence[Told]) -> str:
    """Return who heard of an event, for example `mail sent, hook pending (503, 4 tries)`."""
    said = []
    for sink in dict.fromkeys(row.sink for row in rows):
        mine = [row for row in rows if row.sink == sink]
        # One word for start and end: that of the one that is worst off.
        worst = next((row for state in _WORST_FIRST for row in mine if row.state == state), mine[0])
        text = f"{sink} {worst.state.replace('_', ' ')}"
        if worst.state != "sent" and (worst.last_error or worst.attempts):
            text += f" ({worst.last_error or 'no reason'}, {worst.attempts} tries)"
        if any(row.maybe_repeated for row in mine):
            text += " (maybe twice)"
        said.append(text)
    return ", ".join(said)


_WORST_FIRST = ("given_up", "pending", "sending", "sent")
