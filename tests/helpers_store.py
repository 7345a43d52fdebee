"""Events for tests of the store and the outbox. Import it as `helpers_store`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.events import new_event_id
from vad_runtime.live.media import media_names
from vad_runtime.store.writer import StoreWriter

NOW = 1_800_000_000.0
"""15 January 2027, 08:00 UTC: about when the events of `past_events` are."""


def event_record(**changes: Any) -> EventRecord:
    """Return an event that is going on; each has its own id."""
    base = EventRecord(
        id=new_event_id(),
        site="depot",
        stream="gate",
        start_s=1_700_000_000.0,
        end_s=None,
        peak_s=1_700_000_000.5,
        peak_score=2.25,
        threshold=1.0,
        reason="score of site.vad",
        start_frame=10,
        end_frame=None,
        snapshot="snapshots/a.jpg",
    )
    return msgspec.structs.replace(base, **changes)


def ended(event: EventRecord, **changes: Any) -> EventRecord:
    """Return how an event ended."""
    fields = {"end_s": event.start_s + 4.0, "end_frame": 110, "ended_by": "score", **changes}
    return msgspec.structs.replace(event, **fields)


def start_of(event: EventRecord) -> EventChange:
    return EventChange(kind="started", event=event)


def end_of(event: EventRecord) -> EventChange:
    return EventChange(kind="ended", event=event)


def wait_until(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for something that another thread does; fails when it does not come."""
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.005)


def past_event(number: int, **changes: Any) -> EventRecord:
    """Return the same event for the same number: a minute behind the one before, and over."""
    plain: dict[str, Any] = {
        "id": f"0190{number:04d}-0000-7000-8000-0000{number:08d}",
        "site": "depot",
        "stream": "gate",
        "start_s": NOW + 60 * number,
        "end_s": NOW + 60 * number + 12.4,
        "peak_s": NOW + 60 * number + 1,
        "peak_score": 1.8,
        "threshold": 1.2,
        "reason": "score of <tiny>.vad",
        "start_frame": 0,
        "end_frame": 10,
        "ended_by": "score",
    }
    record = EventRecord(**(plain | changes))
    snapshot, clip = media_names(record)
    return msgspec.structs.replace(record, snapshot=snapshot, clip=clip)


def past_events(folder: Path) -> Path:
    """Make a data folder with five events; the second's stream is `yard`, the last one is open."""
    store = StoreWriter(
        folder / "vad.db", lambda _: ["people", "hook"], say=lambda _: None, wall=lambda: NOW
    )
    for i in range(5):
        record = past_event(i, stream="yard" if i == 1 else "gate")
        opened = msgspec.structs.replace(record, end_s=None, end_frame=None, ended_by=None)
        assert store.put(EventChange(kind="started", event=opened))
        if i < 4:
            assert store.put(EventChange(kind="ended", event=record))
    assert store.close() == 0
    return folder
