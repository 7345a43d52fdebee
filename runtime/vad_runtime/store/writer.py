"""The thread that puts events on disk: whoever finds one never waits for it."""

import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from vad_runtime.contracts.errors import InputError
from vad_runtime.live.base import EventChange, EventRecord, PartHealth
from vad_runtime.store.database import is_damaged, prepare, set_aside
from vad_runtime.store.outbox import add_rows, prune
from vad_runtime.words import counted

QUEUE = 10_000
"""Changes that wait for the disk, at most."""

_BATCH = 500
_HEARTBEAT_S = 5.0
_PRUNE_S = 3600.0
_SET_ASIDE_S = 3600.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 15.0
"""Between two tries at a database that cannot be written."""

_COLUMNS = EventRecord.__struct_fields__
_INSERT = (
    f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    " ON CONFLICT (id) DO "
)
_STORE = {
    "started": _INSERT + "NOTHING",
    # Complete in itself: an event whose start was lost in an overflow is there all the same.
    "ended": _INSERT
    + "UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "id"),
}

_REFUSED = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""What SQLite raises for a value that it will never take: trying again would block the queue."""


class StoreWriter:
    """Stores events, and with each the rows of those who are to hear of it, in one transaction.

    A change is acknowledged by `on_stored`, after the commit. Until it is committed it is kept in
    memory, in order, however long the disk is full; beyond `queue` changes new ones are counted as
    dropped and told. Commits that are tried again double nothing.

    Events that are found open, since the process died, end with the last heartbeat: every few
    seconds in which an event is open, the time is noted on disk.

    Args:
        path: The database. A damaged one is set aside; see `database.prepare`.
        sinks: Returns the names of the sinks that hear of a stream; none for a stream it does not
            know, as events that are found open may have. Called from the store's thread.
        say: Takes one line for each change of state.
        on_stored: Called from the store's thread with what is on disk now.
        open_events: Returns the events that are going on, with their peaks so far; called from the
            store's thread with each heartbeat, so that a power cut does not lose a peak.
        queue: Changes that may wait.
        heartbeat_s: Seconds from one heartbeat to the next.
        wall: Unix seconds.

    Raises:
        InputError: The database cannot be opened, or was written by a newer version. A full disk is
            no reason: see `health`.
    """

    def __init__(
        self,
        path: Path,
        sinks: Callable[[str], Sequence[str]],
        *,
        say: Callable[[str], None],
        on_stored: Callable[[list[EventChange]], None] | None = None,
        open_events: Callable[[], Sequence[EventRecord]] | None = None,
        queue: int = QUEUE,
        heartbeat_s: float = _HEARTBEAT_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sinks = sinks
        self._say = say
        self._on_stored = on_stored
        self._open_events = open_events
        self._limit = queue
        self._heartbeat_s = heartbeat_s
        self._wall = wall
        self._wake = threading.Condition()
        self._queue: deque[EventChange] = deque()
        """Guarded by `_wake`; a batch leaves it once it is committed."""
        self._lost_starts: set[str] = set()
        """Events whose start was dropped: their end is too. One a stream at most."""
        self._open: set[str] = set()
        """Identifiers of events that are open on disk; the store's thread only."""
        self._closing_at: float | None = None
        self._trouble, self._trouble_since_s = "", 0.0
        self._full = False
        self._stored = self._dropped = self._dropped_noted = self._refused = self._errors = 0
        now_s = time.monotonic()
        self._beat_at, self._prune_at = now_s + heartbeat_s, now_s + 60.0
        self._set_aside_at = -math.inf
        self._to_recover = True
        self._database = prepare(path, say=say)
        self._thread = threading.Thread(target=self._run, name="vad-store", daemon=True)
        self._thread.start()

    def put(self, change: EventChange) -> bool:
        """Hand over a change; never blocks. From any thread.

        Returns:
            Whether it will be stored; False = it was dropped, counted and told.
        """
        with self._wake:
            if self._takes(change):
                self._queue.append(change)
                self._wake.notify_all()
                return True
            self._dropped += 1
            first, self._full = not self._full, True
            waiting = len(self._queue)
        if first:
            reason = self._trouble or "it is closed, or too slow"
            self._say(
                f"store: event of {change.event.stream} is lost, {waiting} changes wait for the "
                f"database already ({reason}); so are further ones until it can be written."
            )
        return False

    def health(self) -> PartHealth:
        """Return how the store is; from any thread."""
        with self._wake:
            trouble = self._trouble
            if trouble:
                trouble = f"events are not stored since {_utc(self._trouble_since_s)}: {trouble}"
            elif not self._thread.is_alive() and self._closing_at is None:
                trouble = "the store's thread died: restart the site"
            return PartHealth(
                name="store",
                ok=not trouble and not self._full,
                trouble=trouble,
                queued=len(self._queue),
                done=self._stored,
                dropped=self._dropped + self._refused,
                details={"errors": float(self._errors)},
            )

    def close(self, timeout_s: float = 10.0) -> int:
        """Store what waits, and end the thread. A second call does nothing.

        Args:
            timeout_s: Longest time for it, seconds.

        Returns:
            How many changes could not be stored; they are told and lost.
        """
        with self._wake:
            first = self._closing_at is None
            if first:
                self._closing_at = time.monotonic() + timeout_s
            self._wake.notify_all()
        self._thread.join(timeout_s + 1.0)
        with self._wake:
            left = len(self._queue)
        if left and first:
            reason = self._trouble or "the disk does not answer"
            self._say(f"store: {counted(left, 'change')} of events lost at the end ({reason}).")
        return left

    # -- the queue -----------------------------------------------------------------------------

    def _takes(self, change: EventChange) -> bool:
        event = change.event.id
        if self._closing_at is not None:
            return False
        if change.kind == "ended":
            # Always taken where the start was: otherwise the event would stay open on disk. There
            # are no more of them than streams.
            known = event not in self._lost_starts
            self._lost_starts.discard(event)
            return known
        if len(self._queue) < self._limit:
            return True
        self._lost_starts.add(event)
        return False

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            wait_s = _FIRST_WAIT_S
            while True:
                batch = self._next_batch()
                try:
                    if self._to_recover:
                        changes = self._end_left_open()
                        self._to_recover = False
                        self._acknowledge(changes)
                    if batch:
                        self._store(batch)
                    self._upkeep()
                except sqlite3.Error as error:
                    self._failed(error)
                    if self._rest(wait_s):
                        return
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                    continue
                self._well()
                wait_s = _FIRST_WAIT_S
                with self._wake:
                    if self._closing_at is not None and not self._queue:
                        return
        finally:
            self._database.close()

    def _next_batch(self) -> list[EventChange]:
        """Wait for work: changes, the next heartbeat, or the end."""
        with self._wake:
            if self._to_recover:
                return list(islice(self._queue, _BATCH))
            wait_s = self._prune_at - time.monotonic()
            if self._open:
                wait_s = min(wait_s, self._beat_at - time.monotonic())
            self._wake.wait_for(lambda: self._queue or self._closing_at is not None, max(0, wait_s))
            return list(islice(self._queue, _BATCH))

    def _store(self, batch: list[EventChange]) -> None:
        refused: list[tuple[EventChange, str]] = []
        with self._database.transaction() as connection:
            for change in batch:
                connection.execute("SAVEPOINT change")
                try:
                    self._write(connection, change)
                except _REFUSED as error:
                    connection.execute("ROLLBACK TO change")
                    refused.append((change, str(error)))
                connection.execute("RELEASE change")
            if any(change.kind == "started" for change in batch):
                # One from before may be of a clock that was set back since.
                _put(connection, "heartbeat_s", self._wall())
            unnoted = self._dropped - self._dropped_noted
            if unnoted:
                _count(connection, "dropped", unnoted)
        self._dropped_noted += unnoted
        for change in batch:
            (self._open.add if change.kind == "started" else self._open.discard)(change.event.id)
        with self._wake:
            for _ in batch:
                self._queue.popleft()
            self._stored += len(batch) - len(refused)
            self._refused += len(refused)
        for change, reason in refused:
            self._say(
                f"store: event of {change.event.stream} ({change.kind}) cannot be stored: {reason}"
            )
        bad = {id(change) for change, _ in refused}
        self._acknowledge([change for change in batch if id(change) not in bad])

    def _write(self, connection: sqlite3.Connection, change: EventChange) -> None:
        values = tuple(getattr(change.event, name) for name in _COLUMNS)
        connection.execute(_STORE[change.kind], values)
        add_rows(connection, change, self._sinks(change.event.stream), self._wall())

    def _acknowledge(self, changes: list[EventChange]) -> None:
        if not changes or self._on_stored is None:
            return
        try:
            self._on_stored(changes)
        except Exception as error:  # they are on disk; whoever is told must not end the thread
            self._say(f"store: an error of vad-edge itself ({type(error).__name__}: {error})")

    def _upkeep(self) -> None:
        """Note that we live, while an event is open; remove old rows of the outbox."""
        now_s = time.monotonic()
        if self._open and now_s >= self._beat_at:
            going_on = () if self._open_events is None else self._open_events()
            with self._database.transaction() as connection:
                _put(connection, "heartbeat_s", self._wall())
                connection.executemany(
                    "UPDATE events SET peak_s = ?, peak_score = ?, alarms = ?"
                    " WHERE id = ? AND end_s IS NULL",
                    [(e.peak_s, e.peak_score, e.alarms, e.id) for e in going_on],
                )
            self._beat_at = time.monotonic() + self._heartbeat_s
        if now_s >= self._prune_at:
            with self._database.transaction() as connection:
                prune(connection, self._wall())
            self._prune_at = time.monotonic() + _PRUNE_S

    def _rest(self, wait_s: float) -> bool:
        """Wait before the next try; return whether there is no time for another."""
        with self._wake:
            closing_at = self._closing_at
            if closing_at is None:
                self._wake.wait_for(lambda: self._closing_at is not None, wait_s)
                return False
            left_s = closing_at - time.monotonic()
            if left_s > 0:
                self._wake.wait(min(left_s, _FIRST_WAIT_S))
            return left_s <= 0

    def _failed(self, error: sqlite3.Error) -> None:
        with self._wake:
            first = not self._trouble
            if first:
                self._trouble_since_s = self._wall()
            self._trouble = str(error)
            self._errors += 1
        if first:
            self._say(
                f"store: events are not stored ({error}); they are kept in memory and tried again, "
                "and NO ALERTS GO OUT until they are stored."
            )
        # A disk that damages every new file must not be filled with them.
        now_s = time.monotonic()
        if is_damaged(error) and now_s - self._set_aside_at > _SET_ASIDE_S:
            self._set_aside_at = now_s
            try:
                set_aside(self._database.path, str(error), say=self._say)
            except InputError as refused:
                self._say(f"store: {refused}")

    def _well(self) -> None:
        with self._wake:
            was, self._trouble = self._trouble, ""
            full = self._full and len(self._queue) < self._limit
            if full:
                self._full = False
            dropped = self._dropped
        if was or full:
            lost = f", {counted(dropped, 'change was', 'changes were')} lost" if dropped else ""
            self._say(f"store: events are stored again{lost}.")

    # -- at the start --------------------------------------------------------------------------

    def _end_left_open(self) -> list[EventChange]:
        """End what a process that died left open; return what is to be told of it."""
        changes: list[EventChange] = []
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT value FROM counters WHERE name = 'heartbeat_s'"
            ).fetchone()
            written = None if row is None else row[0]  # perhaps not by us
            heartbeat_s = float(written) if isinstance(written, float | int) else 0.0
            for found in connection.execute("SELECT * FROM events WHERE end_s IS NULL").fetchall():
                try:
                    event = event_from_row(found)
                except msgspec.ValidationError:  # not one of ours: nobody is told of it
                    connection.execute("UPDATE events SET end_s = 0 WHERE id = ?", (found["id"],))
                    continue
                # The latest time of which we know that it was still going on.
                end_s = max(event.start_s, event.peak_s, heartbeat_s)
                ended = msgspec.structs.replace(event, end_s=end_s, ended_by="restart")
                change = EventChange(kind="ended", event=ended)
                self._write(connection, change)
                changes.append(change)
            _count(connection, "starts", 1)
        return changes


def event_from_row(row: sqlite3.Row) -> EventRecord:
    """Return the event of a row of the table `events`.

    Raises:
        msgspec.ValidationError: Somebody else has written the row.
    """
    return msgspec.convert({name: row[name] for name in _COLUMNS}, EventRecord)


def _put(connection: sqlite3.Connection, name: str, value: float) -> None:
    connection.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _count(connection: sqlite3.Connection, name: str, more: float) -> None:
    connection.execute(
        "INSERT INTO counters (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, more),
    )


def _utc(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
