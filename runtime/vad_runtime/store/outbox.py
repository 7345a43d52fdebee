"""Who still has to hear of what: rows that survive crashes, each worked off by one sink."""

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vad_runtime.contracts.site import EventKind
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.store.database import Database

LONGEST_WAIT_S = 3600.0
"""No row waits longer for its next try, seconds. A row whose time lies further ahead was written
before the machine's clock was set back, and is due."""

KEPT_S = 7 * 86400.0
"""Rows that were sent or given up are kept for so long, seconds."""

_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One start or end of an event that one sink has to tell."""

    id: int
    """Number of the row; rises with time."""
    event: EventRecord
    """As it was at that start or end: a second try sends what the first one sent."""
    kind: EventKind
    sink: str
    attempts: int
    """Tries before this one."""
    created_s: float
    """When it was stored, Unix seconds."""
    maybe_repeated: bool
    """A try before this one may have arrived: nobody knows its outcome."""
    last_error: str = ""


def add_rows(
    connection: sqlite3.Connection, change: EventChange, sinks: Sequence[str], now: float
) -> None:
    """Add a row for each sink, inside the transaction that stores the event.

    A row that is there already stays as it is: a commit that is tried again doubles nothing.

    Args:
        connection: In a transaction.
        change: What is to be told.
        sinks: Names of the sinks.
        now: Unix seconds.
    """
    event = change.event
    record = msgspec.json.encode(event).decode()
    connection.executemany(
        "INSERT INTO outbox (event_id, kind, sink, stream, created_s, record)"
        " VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        [(event.id, change.kind, sink, event.stream, now, record) for sink in sinks],
    )


class Outbox:
    """The rows that sinks work off. All methods may be called from any thread.

    ::

        pending --claim--> sending --sent-----> sent
           ^                  |----give_up----> given_up
           |                  |
           '------failed------'      after a crash: sending -> pending, marked as maybe repeated

    A site has one outbox; a second one of the same file would take its rows back. What cannot be
    written down about a row (the disk is full) is kept in memory and written with the next call.

    Args:
        path: The database; made where it is missing.
        recover: Take back what a process that died was sending.
        wall: Unix seconds.

    Raises:
        InputError: The database cannot be used.
    """

    def __init__(
        self, path: Path, *, recover: bool = True, wall: Callable[[], float] = time.time
    ) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._owed: list[tuple[str, tuple[object, ...]]] = []
        """Statements about rows we hold that could not be executed yet, oldest first."""
        self._database = Database(path)
        self.recovered = 0
        """Rows whose sending was cut off by a crash."""
        self._to_recover = recover
        self._try_settle()

    def due(
        self, sink: str, now: float, limit: int = 100, *, skip: Collection[str] = ()
    ) -> list[Due]:
        """Return what `sink` has to tell now, oldest first.

        The end of an event is held back as long as its start waits for another try.

        Args:
            sink: Name of the sink.
            now: Unix seconds.
            limit: Most rows.
            skip: Names of streams whose rows are to wait.

        Raises:
            sqlite3.Error: The database cannot be read or written now: try again later.
        """
        with self._lock:
            self._settle()
            latest = now + LONGEST_WAIT_S
            rows = self._database.read(
                "SELECT * FROM outbox AS o WHERE settled_s IS NULL AND sink = ?"
                " AND state = 'pending' AND (next_try_s <= ? OR next_try_s > ?)"
                " AND NOT EXISTS (SELECT 1 FROM outbox AS b WHERE b.event_id = o.event_id"
                "  AND b.sink = o.sink AND b.id < o.id AND (b.state = 'sending' OR"
                "  (b.state = 'pending' AND b.next_try_s > ? AND b.next_try_s <= ?)))"
                f" AND stream NOT IN ({_marks(skip)}) ORDER BY id LIMIT ?",
                (sink, now, latest, now, latest, *skip, limit),
            )
            found = [(row, _due(row)) for row in rows]
            for row, item in found:
                if item is None:
                    self._end(row["id"], row["event_id"], "given_up", "the row is damaged")
            return [item for _, item in found if item is not None]

    def claim(self, rows: Sequence[Due]) -> list[Due]:
        """Note on disk that `rows` are being sent, before the first byte of them leaves.

        Returns:
            The rows to send: those that are still pending.

        Raises:
            sqlite3.Error: It could not be noted, so nothing may be sent now: try again later.
        """
        claimed: list[Due] = []
        with self._lock:
            self._settle()
            with self._database.transaction() as connection:
                for row in rows:
                    done = connection.execute(
                        "UPDATE outbox SET state = 'sending', attempts = attempts + 1"
                        " WHERE id = ? AND state = 'pending'",
                        (row.id,),
                    )
                    if done.rowcount:
                        claimed.append(row)
        return claimed

    def sent(self, rows: Sequence[Due]) -> None:
        """Note that claimed rows have arrived. Never raises: it is written as soon as it can be."""
        with self._lock:
            for row in rows:
                self._end(row.id, row.event.id, "sent", "")
            self._try_settle()

    def failed(
        self, rows: Sequence[Due], error: str, next_try: float, *, maybe_repeated: bool = False
    ) -> None:
        """Give claimed rows back for another try. Never raises, as `sent`.

        Args:
            rows: The rows.
            error: One line, without credentials.
            next_try: Unix seconds; at most `LONGEST_WAIT_S` ahead.
            maybe_repeated: The try may have arrived all the same, as at a time-out behind the
                last byte.
        """
        latest = self._wall() + LONGEST_WAIT_S
        values = (min(next_try, latest), _storable(error), maybe_repeated)
        statement = (
            "UPDATE outbox SET state = 'pending', next_try_s = ?, last_error = ?,"
            " maybe_repeated = maybe_repeated OR ?"
            " WHERE id = ? AND event_id = ? AND state = 'sending'"
        )
        with self._lock:
            self._owed += [(statement, (*values, row.id, row.event.id)) for row in rows]
            self._try_settle()

    def give_up(self, rows: Sequence[Due], error: str) -> None:
        """Note that rows will never be told. Never raises, as `sent`.

        Args:
            rows: The rows, claimed or not.
            error: One line, without credentials.
        """
        with self._lock:
            for row in rows:
                self._end(row.id, row.event.id, "given_up", error)
            self._try_settle()

    def drop_others(self, sinks: Sequence[str]) -> int:
        """Give up the rows of sinks that are no longer there; return how many there were.

        Raises:
            sqlite3.Error: The database cannot be written now.
        """
        with self._lock, self._database.transaction() as connection:
            done = connection.execute(
                "UPDATE outbox SET state = 'given_up', settled_s = ?,"
                " last_error = 'the sink was removed from the site file'"
                f" WHERE settled_s IS NULL AND sink NOT IN ({_marks(sinks)})",
                (self._wall(), *sinks),
            )
            return done.rowcount

    def pending(self, sink: str) -> int:
        """Return how many rows `sink` has still to tell, those being sent included.

        Raises:
            sqlite3.Error: The database cannot be read now.
        """
        with self._lock:
            rows = self._database.read(
                "SELECT count(*) FROM outbox WHERE settled_s IS NULL AND sink = ?",
                (sink,),
            )
        return int(rows[0][0])

    def next_due_s(self, sink: str) -> float | None:
        """Return when the next row of `sink` is due, Unix seconds; None = nothing waits.

        Raises:
            sqlite3.Error: The database cannot be read now.
        """
        with self._lock:
            rows = self._database.read(
                "SELECT min(next_try_s) FROM outbox"
                " WHERE settled_s IS NULL AND sink = ? AND state = 'pending'",
                (sink,),
            )
        if rows[0][0] is None:
            return None
        value, now = float(rows[0][0]), self._wall()
        return value if value <= now + LONGEST_WAIT_S else now

    def close(self) -> None:
        """Write down what is still owed, if possible, and close. A second call does nothing."""
        with self._lock:
            self._try_settle()
            self._database.close()

    def _end(self, row: int, event_id: str, state: str, error: str) -> None:
        # The event too: numbers start over where the file was taken away and made anew.
        self._owed.append(
            (
                "UPDATE outbox SET state = ?, settled_s = ?, last_error = ?"
                " WHERE id = ? AND event_id = ? AND settled_s IS NULL",
                (state, self._wall(), _storable(error), row, event_id),
            )
        )

    def _settle(self) -> None:
        """Execute what is owed, all or nothing. It is never more than what was claimed."""
        if self._to_recover:
            with self._database.transaction() as connection:
                done = connection.execute(
                    "UPDATE outbox SET state = 'pending', maybe_repeated = 1, next_try_s = 0"
                    " WHERE settled_s IS NULL AND state = 'sending'"
                )
            self.recovered, self._to_recover = done.rowcount, False
        if not self._owed:
            return
        with self._database.transaction() as connection:
            for statement, values in self._owed:
                connection.execute(statement, values)
        self._owed.clear()

    def _try_settle(self) -> None:
        try:
            self._settle()
        except sqlite3.Error:
            return  # `due` and `claim` tell the sink's thread, and try again


def prune(connection: sqlite3.Connection, now: float) -> int:
    """Remove rows that were settled longer ago than `KEPT_S`; return how many.

    Args:
        connection: In a transaction.
        now: Unix seconds.
    """
    done = connection.execute("DELETE FROM outbox WHERE settled_s < ?", (now - KEPT_S,))
    return done.rowcount


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))


def _storable(error: str) -> str:
    """Return an error as SQLite takes it: not too long, and no halves of characters."""
    return error[:_LONGEST_ERROR].encode("utf-8", "replace").decode()


def _due(row: sqlite3.Row) -> Due | None:
    try:
        event = msgspec.json.decode(row["record"], type=EventRecord)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return Due(
        id=row["id"],
        event=event,
        kind=row["kind"],
        sink=row["sink"],
        attempts=row["attempts"],
        created_s=row["created_s"],
        maybe_repeated=bool(row["maybe_repeated"]),
        last_error=row["last_error"],
    )
