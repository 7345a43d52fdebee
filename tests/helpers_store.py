"""Events for tests of the store and the outbox. Import it as `helpers_store`."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.events import new_event_id


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
