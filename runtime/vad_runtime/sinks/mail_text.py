"""The words of an alert mail: pure functions of the rows it is about."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vad_runtime.live.base import EventRecord
from vad_runtime.sinks.message import local_clock, one_line

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

TABLE_ROWS = 40
"""Events in the table of a digest; the rest is counted."""
_DAY = "%Y-%m-%d %H:%M:%S %Z"


def latest_events(batch: "Sequence[Due]") -> list[EventRecord]:
    """Return what is known of each event of a batch, in order of their first rows."""
    events: dict[str, EventRecord] = {}
    for due in batch:
        known = events.get(due.event.id)
        if known is None or due.kind == "ended" or known.end_s is None:
            events[due.event.id] = due.event
    return list(events.values())


def worst(batch: "Sequence[Due]") -> EventRecord:
    """Return the event with the highest peak; its threshold does not count."""
    return max(latest_events(batch), key=_peak)


def _peak(event: EventRecord) -> float:
    return event.peak_score if math.isfinite(event.peak_score) else -math.inf


def mail_subject(site: str, batch: "Sequence[Due]") -> str:
    """Return one line: what happened, where and when, in local time."""
    events = latest_events(batch)
    event = worst(batch)
    head, peak = f"[{site}] {event.stream}:", f"peak {event.peak_score:.2f}"
    if len(events) == 1:
        if batch[0].kind == "started":
            return f"{head} alarm {local_clock(event.start_s)}, {peak}"
        end_s = event.start_s if event.end_s is None else event.end_s
        return f"{head} alarm ended {local_clock(end_s)}, {peak}"
    first = min(event.start_s for event in events)
    last = max(event.start_s for event in events)
    between = f"{local_clock(first)} to {local_clock(last)}"
    return f"{head} {len(events)} alarms {between}, worst {peak}"


def mail_text(site: str, batch: "Sequence[Due]", data_folder: Path) -> str:
    """Return the body, plain text of lines that are not too long for a telephone.

    Args:
        site: Name of the site.
        batch: What the mail is about.
        data_folder: Named in the command that lists all events.
    """
    events = latest_events(batch)
    lines = _one(site, events[0]) if len(events) == 1 else _many(site, events, data_folder)
    if any(due.maybe_repeated for due in batch):
        lines += ["", "The connection broke off before: you may have had this already."]
    return "\n".join(lines) + "\n"


def _one(site: str, event: EventRecord) -> list[str]:
    lines = [
        f"Site       {site}",
        f"Stream     {event.stream}",
        f"Start      {local_clock(event.start_s, _DAY)}",
    ]
    if event.end_s is None:
        lines.append("End        still going on")
    else:
        lines.append(f"End        {local_clock(event.end_s, _DAY)}")
        lines.append(f"Duration   {_duration(event)}")
    lines += [
        f"Peak       {event.peak_score:.3f} at {local_clock(event.peak_s)}",
        f"Threshold  {event.threshold:.3f}",
        f"Reason     {one_line(event.reason)}",
        f"Alarms     {event.alarms}",
    ]
    if event.suppressed:
        lines.append(f"Before     {event.suppressed} alarms within the cooldown")
    if event.ended_by not in (None, "score"):
        lines.append(f"Ended by   {event.ended_by}")
    if event.clip:
        lines.append(f"Clip       {event.clip}")
    lines.append(f"Event      {event.id}")
    return lines


def _many(site: str, events: list[EventRecord], data_folder: Path) -> list[str]:
    going_on = sum(event.end_s is None for event in events)
    highest = max(events, key=_peak)
    lines = [
        f"{len(events)} events of {events[0].stream} at {site}, {going_on} still going on.",
        f"From {local_clock(min(event.start_s for event in events), _DAY)}",
        f"to   {local_clock(max(event.start_s for event in events), _DAY)}.",
        f"Worst: peak {highest.peak_score:.3f} at {local_clock(highest.peak_s)}, threshold "
        f"{highest.threshold:.3f}, event {highest.id}.",
        "",
        "start      duration      peak  clip",
    ]
    # A storm shows its worst; what is told is in order of time.
    shown = sorted(sorted(events, key=_peak)[-TABLE_ROWS:], key=lambda event: event.start_s)
    for event in shown:
        row = f"{local_clock(event.start_s)}  {_duration(event):>10}  {event.peak_score:>8.2f}"
        lines.append(f"{row}  {event.clip or ''}".rstrip())
    if len(shown) < len(events):
        lines.append(f"and {len(events) - len(shown)} with lower peaks.")
    command = f"vad-run events {shlex.quote(str(data_folder.absolute()))}"
    lines += ["", "All of them, on the machine of the site:", one_line(command)]
    return lines


def _duration(event: EventRecord) -> str:
    if event.end_s is None:
        return "going on"
    return f"{max(0.0, event.end_s - event.start_s):.1f} s"
