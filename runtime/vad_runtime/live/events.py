"""Scores of one stream to events that people hear of: merged, spaced, and never endless."""

import math
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import EventSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.events import AlarmState
from vad_runtime.live.base import EventChange, EventRecord

BLIND_S = 60.0
"""An alarm that is on ends as at a hole after so long without a score, seconds."""

_ROUNDING_S = 1e-6  # as in AlarmState

MediaNames = Callable[[EventRecord], tuple[str | None, str | None]]
"""Snapshot and clip of an event, relative to the data folder; None = there will be none."""


class _Ids:
    """Identifiers that sort by time: UUID version 7 (RFC 9562, section 5.7).

    Within a process each is larger than the one before, also when the clock is set back: the 12
    bits behind the milliseconds count (section 6.2, method 1), and the time never runs backwards.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._last = 0

    def new(self) -> str:
        """Return the next identifier; from any thread."""
        now = min(max(int(self._wall() * 1000), 0), (1 << 48) - 1)
        with self._lock:
            # Milliseconds and counter are one number of 60 bits: a full counter carries over.
            self._last = max(self._last + 1, now << 12)
            stamp = self._last
        value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64
        value |= 0b10 << 62 | int.from_bytes(os.urandom(8), "big") >> 2
        return str(uuid.UUID(int=value))


_IDS = _Ids()


def new_event_id() -> str:
    """Return a new identifier of an event: a UUID of version 7; from any thread."""
    return _IDS.new()


def site_scoring(scoring: Scoring, settings: EventSettings) -> Scoring:
    """Return a manifest's scoring with what a site file puts in its place.

    Args:
        scoring: Of the bundle's manifest.
        settings: A stream's; None leaves the manifest's value.
    """
    own = {
        name: value
        for name in ("threshold", "release", "min_duration_s")
        if (value := getattr(settings, name)) is not None
    }
    return msgspec.structs.replace(scoring, **own)


@dataclass(slots=True, kw_only=True)
class _Open:
    """An event that is not told as ended yet. Times `…_pts` are the stream's own."""

    record: EventRecord
    start_pts: float
    end_pts: float
    """Of the last frame that belongs to it."""
    end_frame: int
    held: str | None = None
    """Its alarm is over, for this reason, and may come back; None = the alarm is on."""

    def unix(self, pts_s: float) -> float:
        """Return a Unix time, from the event's start and the stream's clock.

        The clock of the machine may be set in the middle of an event; its length must not change.
        """
        return self.record.start_s + max(0.0, pts_s - self.start_pts)

    def add(self, frame: int, pts_s: float) -> None:
        """Take a further frame of the alarm."""
        self.end_frame, self.end_pts, self.held = frame, pts_s, None

    def peak(self, pts_s: float, score: float) -> None:
        """Keep the score if it is the largest yet."""
        if score > self.record.peak_score:
            self.record = msgspec.structs.replace(
                self.record, peak_score=score, peak_s=self.unix(pts_s)
            )

    def ended(self, by: str) -> EventRecord:
        """Return the event as it ends."""
        return msgspec.structs.replace(
            self.record, end_s=self.unix(self.end_pts), end_frame=self.end_frame, ended_by=by
        )


class EventTracker:
    r"""Turns the scores of one stream into starts and ends of events.

    ::

        score      /‾‾\_/‾\___/‾\________/‾\_/‾‾‾‾‾‾‾‾
        alarm      [==] [=]   [=]        [=] [========
        told        started        ended         started
                   |- one event -|-merge-|             (the alarm within the cooldown is counted
                                 |----- cooldown -----|  as suppressed by the next event)

    An event starts at the first frame over the threshold and is told when the score has stayed up
    for the minimum duration. Its end is the last frame over the release level; where alarms are
    merged it is told after `merge_s`, when nothing can follow. An alarm that is still on when the
    cooldown is over starts its event there, at the next frame over the threshold.

    Durations are those of the stream's clock (`Frame.pts_s`); Unix times follow from the arrival of
    an event's first frame, so that a machine whose clock is set does not stretch an event.

    One thread calls it, which it never blocks. `open_event` may be read from any thread.

    Args:
        site: Name of the site, for the records.
        stream: Name of the stream, for the records.
        scoring: Of the bundle's manifest.
        settings: Of the stream.
        reason: Which output of which model, for the records.
        media_names: Gives the names of an event's snapshot and clip, if they are kept.
        clock: Monotonic seconds, for a stream from which nothing comes.
    """

    def __init__(
        self,
        site: str,
        stream: str,
        scoring: Scoring,
        settings: EventSettings,
        reason: str,
        *,
        media_names: MediaNames | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scoring = site_scoring(scoring, settings)
        """What holds: the manifest's values, and the site's where it has some."""
        self._site = site
        self._stream = stream
        self._settings = settings
        self._reason = reason
        self._names = media_names
        self._clock = clock
        self._alarm = AlarmState(self.scoring)
        self._open: _Open | None = None
        self._run_start = (0.0, 0.0)
        """First frame of the run under way: time in the stream, Unix time; seconds."""
        self._ended_pts = -math.inf
        """End of the last event that starts a cooldown."""
        self._muted = False
        """An alarm is on that the cooldown keeps quiet."""
        self._waiting = 0
        """Suppressed alarms that the next event will tell of."""
        self._scored_pts: float | None = None
        self._updated_s = clock()
        self.suppressed = 0
        """Alarms within a cooldown, since the tracker was made."""
        self.events = 0
        """Events that were told as started, since the tracker was made."""

    @property
    def alarm(self) -> bool:
        """Whether the alarm is on, with the site's threshold; also within a cooldown."""
        return self._alarm.active

    @property
    def open_event(self) -> EventRecord | None:
        """The event that is going on, with its peak so far; also while it may be merged."""
        now = self._open
        return None if now is None else now.record

    def update(self, scored: ScoredFrame, unix_s: float) -> list[EventChange]:
        """Take the next settled frame, scored or not, in order.

        Args:
            scored: The frame.
            unix_s: When it arrived, Unix seconds.

        Returns:
            What is to be told now; most often nothing.
        """
        self._updated_s = self._clock()
        frame, pts_s = scored.frame.index, scored.frame.pts_s
        changes: list[EventChange] = []
        if scored.score is None or not math.isfinite(scored.score):
            since = self._scored_pts
            if since is not None and pts_s - since > BLIND_S:
                changes += self._interrupted("hole")
        else:
            self._scored_pts = pts_s
            self._alarm.update(frame, pts_s, scored.score)
            changes += self._follow(frame, pts_s, scored.score, unix_s)
        return changes + self._expired(pts_s)

    def hole(self, unix_s: float) -> list[EventChange]:
        """End an alarm that is on: something is missing behind the last frame.

        Call it when the stream is lost, and not only when it is back: the event would stay open
        until then. Further calls do nothing.

        Args:
            unix_s: Now; the event ends with its last frame all the same.
        """
        del unix_s
        return self._interrupted("hole")

    def tick(self) -> list[EventChange]:
        """Tell what time alone decides; call it about once a second, also when no frame comes."""
        silent_s = self._clock() - self._updated_s
        changes: list[EventChange] = []
        if silent_s > BLIND_S:
            changes += self._interrupted("hole")
        held = self._open is not None and self._open.held is not None
        # A second more: frames that are on their way through the engine may still continue it.
        if held and silent_s > self._settings.merge_s + 1.0:
            changes += self._finished()
        return changes

    def stop(self, unix_s: float, by: str = "stop") -> list[EventChange]:
        """End everything, also an event that waits for a merge: no frame will follow.

        Args:
            unix_s: Now; the event ends with its last frame all the same.
            by: `ended_by` of an event whose alarm is on.
        """
        del unix_s
        return self._interrupted(by) + self._finished()

    # -- what a frame changes ------------------------------------------------------------------

    def _follow(self, frame: int, pts_s: float, score: float, unix_s: float) -> list[EventChange]:
        run, now = self._alarm.run, self._open
        if run is None:
            return self._alarm_over("score")
        if run.start_frame == frame:
            self._run_start = (pts_s, unix_s)
        if not self._alarm.active:
            return []
        if now is None:
            return self._wanted(frame, pts_s, score, unix_s)
        if now.held is not None:
            mergeable = run.start_s - now.end_pts <= self._settings.merge_s + _ROUNDING_S
            if not mergeable or pts_s - now.start_pts >= self._settings.longest_s:
                return self._finished() + self._wanted(frame, pts_s, score, unix_s)
            now.record = msgspec.structs.replace(now.record, alarms=now.record.alarms + 1)
            now.peak(run.peak_s, run.peak_score)
        elif pts_s - now.start_pts >= self._settings.longest_s:
            ended = self._finished("longest")
            return [*ended, self._started(frame, pts_s, pts_s, score, unix_s)]
        now.add(frame, pts_s)
        now.peak(pts_s, score)
        return []

    def _wanted(self, frame: int, pts_s: float, score: float, unix_s: float) -> list[EventChange]:
        """Start an event, unless the last one is too near."""
        run = self._alarm.run
        assert run is not None
        quiet_until = self._ended_pts + self._settings.cooldown_s - _ROUNDING_S
        if run.start_s >= quiet_until:
            start_pts, start_unix = self._run_start
            started = self._started(
                run.start_frame, start_pts, run.peak_s, run.peak_score, start_unix
            )
            assert self._open is not None
            self._open.add(frame, pts_s)
            return [started]
        threshold = self.scoring.threshold
        # The tail of an alarm, below the threshold, is nothing to start an event with.
        if pts_s < quiet_until or (threshold is not None and score < threshold):
            self._muted = True
            return []
        self._muted = False
        return [self._started(frame, pts_s, pts_s, score, unix_s)]

    def _started(
        self, frame: int, start_pts: float, peak_pts: float, peak: float, unix_s: float
    ) -> EventChange:
        threshold = self.scoring.threshold
        assert threshold is not None  # without one there is no alarm
        record = EventRecord(
            id=new_event_id(),
            site=self._site,
            stream=self._stream,
            start_s=unix_s,
            end_s=None,
            peak_s=unix_s + max(0.0, peak_pts - start_pts),
            peak_score=peak,
            threshold=threshold,
            reason=self._reason,
            start_frame=frame,
            end_frame=None,
            suppressed=self._waiting,
        )
        if self._names is not None:
            snapshot, clip = self._names(record)
            record = msgspec.structs.replace(record, snapshot=snapshot, clip=clip)
        self._waiting = 0
        self.events += 1
        self._open = _Open(record=record, start_pts=start_pts, end_pts=start_pts, end_frame=frame)
        return EventChange(kind="started", event=record)

    def _interrupted(self, by: str) -> list[EventChange]:
        self._alarm.end()
        return self._alarm_over(by)

    def _alarm_over(self, by: str) -> list[EventChange]:
        """The alarm is off: hold its event open for as long as another may be merged into it."""
        if self._muted:
            self._muted = False
            self._waiting += 1
            self.suppressed += 1
        now = self._open
        if now is None or now.held is not None:
            return []
        now.held = by
        return [] if self._settings.merge_s > 0 else self._finished()

    def _expired(self, pts_s: float) -> list[EventChange]:
        now, run = self._open, self._alarm.run
        if now is None or now.held is None:
            return []
        latest = now.end_pts + self._settings.merge_s + _ROUNDING_S
        if pts_s <= latest or (run is not None and run.start_s <= latest):
            return []
        return self._finished()

    def _finished(self, by: str | None = None) -> list[EventChange]:
        """Tell the end of the event, if there is one.

        Args:
            by: Why it ends while its alarm goes on; None = as it is held.
        """
        now, self._open = self._open, None
        if now is None:
            return []
        if by is None:
            # What follows a split is the same alarm, which no cooldown may keep quiet.
            self._ended_pts = now.end_pts
        return [EventChange(kind="ended", event=now.ended(by or now.held or "score"))]
