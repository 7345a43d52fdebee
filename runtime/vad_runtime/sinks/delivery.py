"""Alerts on their way: one thread per sink works off its rows of the outbox.

::

    store ──commit──► outbox (on disk) ──due──► claim ──► Sink.deliver ──► sent
                         ▲                                     │
                         └──── wait: 1 s … 5 min, jitter ◄─────┤ may pass by
                                                  given up ◄───┘ refused too often, or a day old

A row is marked `sending` on disk before its sink starts. A row found so after a crash, or whose
server went silent after it had everything, may have arrived: it is sent again and says that it may
be a repetition. Rows of one stream keep their order; a row that fails holds back its own stream for
a few tries, never another one.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vad_runtime.live.base import PartHealth
from vad_runtime.sinks.base import DeliveryError, Sink, Spool
from vad_runtime.sinks.message import one_line

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

__all__ = ["Delivery", "DeliveryError", "Sink", "Spool"]

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
LONGEST_ASKED_S = 3600.0
"""Longest wait that a server may ask for (`Retry-After`)."""
GIVE_UP_S = 24 * 3600.0
REFUSALS = 8
"""Tries of a row that the server refuses for good."""
IN_ORDER = 5
"""So many tries hold back what follows of the same stream; a row that never passes does not."""
STEP_BACK_S = 3600.0
"""A row's age alone proves nothing where the clock has just been set: it is given up only where
this process has also seen the sink fail for so long."""
EXPIRED_AT_ONCE = 10_000
"""Most rows given up after one failure for their age."""
IDLE_S = 1.0
TELL_LOST_S = 60.0
SLOW_S = 60.0
"""A delivery that takes longer is shown as a trouble."""


class Delivery:
    """The thread that works off one sink's rows, and what it says of itself.

    Args:
        sink: Closed by `close`.
        outbox: Used from the delivery's thread only.
        say: Gets one line per change of state; must be thread-safe.
        clock: Durations, seconds.
        unix: Times of rows, Unix seconds.
        jitter: Random number in [0, 1).
    """

    def __init__(
        self,
        sink: Sink,
        outbox: Spool,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._sink, self._outbox, self._say = sink, outbox, say
        self._clock, self._unix, self._jitter = clock, unix, jitter
        self._wake = threading.Event()
        self._stop_by: float | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._held: dict[str, float] = {}  # stream -> not before, by the clock
        self._pause_until = -float("inf")
        self._failures = 0  # in a row
        self._failing_since: float | None = None
        self._trouble = ""
        self._idle_trouble = ""
        self._disk_trouble = ""
        self._ticked = self._counted = -float("inf")
        self._lost_told, self._lost_told_at = 0, -float("inf")
        self._busy_since: float | None = None
        self._queued = self._done = self._lost = self._attempts = 0

    # -- from other threads ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(
            target=self._run, name=f"vad-delivery-{self._sink.name}", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Say that there are new rows. Never blocks."""
        self._wake.set()

    def health(self) -> PartHealth:
        """Return how the sink is, at once, from any thread."""
        now, busy, since = self._clock(), self._busy_since, self._failing_since
        trouble = self._trouble
        if trouble and since is not None:
            trouble += f"; for {_span(now - since)}"
        elif busy is not None and now - busy > SLOW_S:
            trouble = f"has been sending for {_span(now - busy)}"
        else:
            trouble = trouble or self._disk_trouble or self._idle_trouble
        return PartHealth(
            name=self._sink.name,
            ok=not trouble,
            trouble=trouble,
            queued=self._queued,
            done=self._done,
            dropped=self._lost,
            details={"attempts": float(self._attempts), "given_up": float(self._lost)},
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Deliver what is due, for so long at most, then stop; what is left waits on disk."""
        if self._closed:
            return
        self._closed = True
        self._stop_by = self._clock() + timeout_s
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s + 0.5)
        self._sink.close()

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            wait_s = self.step()
            stop_by = self._stop_by
            if stop_by is not None and (wait_s > 0 or self._clock() >= stop_by):
                return
            if wait_s > 0:
                self._wake.wait(wait_s)
                self._wake.clear()

    def step(self) -> float:
        """Do one thing that is due; return how long there is nothing to do, seconds."""
        now = self._clock()
        self._tick(now)
        try:
            if now - self._counted >= IDLE_S:
                self._queued, self._counted = self._outbox.pending(self._sink.name), now
            batch = [] if now < self._pause_until else self._next_batch(now)
            batch = self._outbox.claim(batch) if batch else []
        except sqlite3.Error as error:
            self._disk(f"the database cannot be used ({one_line(str(error))})")
            return IDLE_S
        self._disk("")
        if not batch:
            left_s = self._pause_until - now
            return min(IDLE_S, left_s) if left_s > 0 else IDLE_S
        self._deliver(batch)
        return 0.0

    def _tick(self, now: float) -> None:
        self._tell_lost(now)
        if now - self._ticked < IDLE_S:
            return
        self._ticked = now
        try:
            self._idle_trouble = self._sink.tick()
        except Exception as error:  # a bug in a sink must not end its thread
            self._idle_trouble = _bug(error)

    def _disk(self, trouble: str) -> None:
        if bool(trouble) != bool(self._disk_trouble):
            self._say(f"{self._title}: {trouble or 'the database can be used again'}.")
        self._disk_trouble = trouble

    def _next_batch(self, now: float) -> "list[Due]":
        self._held = {stream: until for stream, until in self._held.items() if until > now}
        skip = set(self._held)
        while True:
            rows = self._outbox.due(self._sink.name, self._unix(), self._sink.most, skip=skip)
            waits_s = {row.event.stream: 0.0 for row in rows}
            waits_s = {s: wait_s for s in waits_s if (wait_s := self._sink.wait_s(s)) > 0}
            if not waits_s:
                break
            # Asked again without them: a storm of one stream must not hide another's only row.
            # Nor are thousands of rows read every second until the stream's time has come.
            self._held.update({stream: now + wait_s for stream, wait_s in waits_s.items()})
            skip |= waits_s.keys()
        if self._sink.by_stream and rows:
            rows = [row for row in rows if row.event.stream == rows[0].event.stream]
        return rows

    def _deliver(self, batch: "list[Due]") -> None:
        self._busy_since = self._clock()
        self._attempts += 1
        try:
            self._sink.deliver(batch)
        except DeliveryError as error:
            self._busy_since = None
            self._failed(batch, error)
            return
        except Exception as error:  # a bug in a sink must not end its thread
            self._busy_since = None
            self._failed(batch, DeliveryError(_bug(error), maybe_delivered=True))
            return
        self._busy_since = None
        self._sent(batch)
        self._well()

    def _sent(self, rows: "Sequence[Due]") -> None:
        if rows:
            self._done += len(rows)
            self._queued = max(0, self._queued - len(rows))
            self._outbox.sent(rows)

    def _failed(self, batch: "list[Due]", error: DeliveryError) -> None:
        now = self._clock()
        self._sent(error.done)
        done = {row.id for row in error.done}
        left = [row for row in batch if row.id not in done]
        pause_s = 0.0
        if error.retry:
            pause_s = self._pause(now, error.reason, error.after_s)
        else:  # the server is there, and takes other rows
            self._trouble = error.reason
        lost = [row for row in left if self._hopeless(row, error, now)]
        gone = {row.id for row in lost}
        if lost:
            self._give_up(lost, error.reason)
        if len(lost) < len(left):
            self._put_back([row for row in left if row.id not in gone], error, now, pause_s)
        if error.retry:
            self._expire(now, error.reason)

    def _hopeless(self, row: "Due", error: DeliveryError, now: float) -> bool:
        if not error.retry:
            return row.attempts + 1 >= REFUSALS
        since = self._failing_since
        failing_s = 0.0 if since is None else now - since
        old = self._unix() - row.created_s > GIVE_UP_S
        return old and (failing_s >= STEP_BACK_S or row.attempts >= 3 * REFUSALS)

    def _give_up(self, rows: "list[Due]", reason: str) -> None:
        self._lost += len(rows)
        self._outbox.give_up(rows, reason)

    def _expire(self, now: float, reason: str) -> None:
        """Give up what is a day old, so that a server that never returns fills no disk."""
        if self._failing_since is None or now - self._failing_since < STEP_BACK_S:
            return
        oldest_s = self._unix() - GIVE_UP_S
        try:
            for _ in range(EXPIRED_AT_ONCE // 500):
                rows = self._outbox.due(self._sink.name, self._unix(), 500)
                old = [row for row in rows if row.created_s < oldest_s]
                if old:
                    self._outbox.give_up(old, reason)
                    self._lost += len(old)
                if len(old) < 500:
                    return
        except sqlite3.Error:
            return  # the next step meets it too, and says so

    def _tell_lost(self, now: float) -> None:
        if self._lost == self._lost_told or now - self._lost_told_at < TELL_LOST_S:
            return
        count, self._lost_told = self._lost - self._lost_told, self._lost
        self._lost_told_at = now
        alerts = "1 alert" if count == 1 else f"{count} alerts"
        why = f" ({self._trouble})" if self._trouble else ""
        self._say(f"{self._title}: gave up {alerts}{why}; the events are in the database.")

    def _put_back(
        self, rows: "list[Due]", error: DeliveryError, now: float, pause_s: float
    ) -> None:
        # Longer than the sink's own pause, so that a row that never passes lets others go first.
        tries = max(row.attempts for row in rows) + 1
        wait_s = max(1.5 * pause_s, self._backoff(tries), error.after_s or 0.0)
        wait_s = min(wait_s, LONGEST_ASKED_S)
        for row in rows:
            if row.attempts < IN_ORDER:
                self._held[row.event.stream] = now + wait_s
        self._outbox.failed(
            rows, error.reason, self._unix() + wait_s, maybe_repeated=error.maybe_delivered
        )

    def _backoff(self, failures: int) -> float:
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 20))
        return longest * (0.5 + 0.5 * self._jitter())

    def _pause(self, now: float, reason: str, after_s: float | None) -> float:
        """Wait before the next try of anything; returns for how long, seconds."""
        self._failures += 1
        wait_s = max(self._backoff(self._failures), min(after_s or 0.0, LONGEST_ASKED_S))
        self._pause_until = now + wait_s
        if self._failing_since is None:
            self._failing_since = now
            self._say(f"{self._title}: {reason}; alerts wait on disk and are tried again.")
        self._trouble = reason
        return wait_s

    def _well(self) -> None:
        since, self._failing_since = self._failing_since, None
        self._failures, self._trouble = 0, ""
        if since is not None:
            self._say(f"{self._title}: works again after {_span(self._clock() - since)}.")

    @property
    def _title(self) -> str:
        return f"{self._sink.kind} {self._sink.name}"


def _bug(error: Exception) -> str:
    """Name an error that should not be, and its place; its text might hold a secret."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" in {place.tb_frame.f_code.co_name}:{place.tb_lineno}"
    return f"an error of vad-edge itself ({type(error).__name__}{where})"


def _span(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
