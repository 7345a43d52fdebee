"""What the parts of a live site tell each other."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from vad_runtime.contracts.site import EventKind

StreamState = Literal["connecting", "live", "stalled", "frozen", "lost", "refused", "ended"]
"""`lost`: no connection, trying again. `refused`: the camera refuses our credentials, trying again
slowly. `stalled`: connected, but no frame comes. `frozen`: frames come and are all the same.
`ended`: a recording is over, or the stream was taken away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """A stream went from one state to another: one line on the log."""

    state: StreamState
    before: StreamState
    reason: str
    """Why, in words, without credentials; empty where the state says it."""
    monotonic_s: float


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event, as the database, every sink and `vad-run events` know it.

    Times are Unix seconds (UTC) by the clock of this machine at the arrival of the frame.
    """

    id: str
    """Unique, made once when the event starts; sorts by time (UUID version 7)."""
    site: str
    stream: str
    start_s: float
    end_s: float | None
    """None = still going on."""
    peak_s: float
    peak_score: float
    threshold: float
    reason: str
    """Which output of which model, for example `score of site.vad`."""
    start_frame: int
    """Number of the frame since the stream was opened."""
    end_frame: int | None
    alarms: int = 1
    """How many alarms were merged into it."""
    suppressed: int = 0
    """Alarms within the cooldown before it, which raised no event of their own."""
    ended_by: str | None = None
    """`score`, `hole`, `longest`, `stop` (of the site), `restart` (found open after a crash)."""
    snapshot: str | None = None
    """Path of the JPEG, from the data folder; the file appears a moment after the event starts."""
    clip: str | None = None
    """Path of the film, from the data folder; the file appears some seconds after its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventChange:
    """What the scorer hands to the store, and the store, once it is on disk, to the sinks."""

    kind: EventKind
    event: EventRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHealth:
    """How a part is."""

    name: str
    ok: bool
    trouble: str = ""
    """One line, without credentials: what is wrong and since when; empty = nothing."""
    queued: int = 0
    done: int = 0
    dropped: int = 0
    """Given up because the queue was full: counted, never silent."""
    details: dict[str, float] = field(default_factory=dict)
