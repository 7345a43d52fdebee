"""Reading `vad.db`, while a site is running and when it is not."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.site import EventKind
from vad_runtime.live.base import EventRecord
from vad_runtime.store.database import BUSY_S, NAME, refuse_newer, set_up
from vad_runtime.store.writer import event_from_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What became of telling one start or end to one sink."""

    sink: str
    kind: EventKind
    state: str
    """`pending`, `sending`, `sent` or `given_up`."""
    attempts: int
    maybe_repeated: bool
    last_error: str
    settled_s: float | None
    """When it was sent or given up, Unix seconds."""


def events(
    path: Path,
    *,
    since: float | None = None,
    until: float | None = None,
    stream: str | Sequence[str] | None = None,
    limit: int | None = None,
    open_only: bool = False,
) -> list[EventRecord]:
    """Return events in order of their starts.

    Args:
        path: The database, or the data folder that holds it.
        since: Without events that ended before, Unix seconds.
        until: Without events that started at this time or later, Unix seconds.
        stream: Only of this stream, or of these; None = all.
        limit: At most so many, the latest; None = all.
        open_only: Only events that are going on.

    Raises:
        InputError: There is no database, or it cannot be read.
    """
    where, values = _conditions(since, until, stream)
    if open_only:
        where += " AND end_s IS NULL"
    values.append(-1 if limit is None else limit)
    with _reader(path) as connection:
        rows = connection.execute(
            f"SELECT * FROM events WHERE {where} ORDER BY start_s DESC, id DESC LIMIT ?", values
        ).fetchall()
        return [event_from_row(row) for row in reversed(rows)]


def counts(path: Path, *, since: float | None = None, until: float | None = None) -> dict[str, int]:
    """Return how many events each stream has. Arguments and errors as `events`."""
    where, values = _conditions(since, until, None)
    with _reader(path) as connection:
        rows = connection.execute(
            f"SELECT stream, count(*) FROM events WHERE {where} GROUP BY stream ORDER BY stream",
            values,
        ).fetchall()
    return {row[0]: int(row[1]) for row in rows}


def pending(path: Path) -> dict[str, int]:
    """Return how many starts and ends each sink has still to tell; without those that have none.

    Args:
        path: The database, or the data folder that holds it.

    Raises:
        InputError: There is no database, or it cannot be read.
    """
    with _reader(path) as connection:
        rows = connection.execute(
            "SELECT sink, count(*) FROM outbox WHERE settled_s IS NULL GROUP BY sink ORDER BY sink"
        ).fetchall()
    return {row[0]: int(row[1]) for row in rows}


def told(path: Path, event_ids: Sequence[str]) -> dict[str, list[Told]]:
    """Return who heard of events, in the order of telling.

    Rows that were settled more than a week ago are gone.

    Args:
        path: The database, or the data folder that holds it.
        event_ids: Which events.

    Returns:
        An entry for each of `event_ids`; empty where nobody was to be told, or the rows are gone.

    Raises:
        InputError: There is no database, or it cannot be read.
    """
    found: dict[str, list[Told]] = {event: [] for event in event_ids}
    with _reader(path) as connection:
        for event, entries in found.items():
            rows = connection.execute(
                "SELECT * FROM outbox WHERE event_id = ? ORDER BY id", (event,)
            ).fetchall()
            entries += [
                Told(
                    sink=row["sink"],
                    kind=row["kind"],
                    state=row["state"],
                    attempts=row["attempts"],
                    maybe_repeated=bool(row["maybe_repeated"]),
                    last_error=row["last_error"],
                    settled_s=row["settled_s"],
                )
                for row in rows
            ]
    return found


def counters(path: Path) -> dict[str, float]:
    """Return the counters of the database's whole life: `starts`, `dropped`, `heartbeat_s`.

    Args:
        path: The database, or the data folder that holds it.

    Raises:
        InputError: There is no database, or it cannot be read.
    """
    with _reader(path) as connection:
        rows = connection.execute("SELECT name, value FROM counters").fetchall()
    return {row[0]: float(row[1]) for row in rows}


def _conditions(
    since: float | None, until: float | None, stream: str | Sequence[str] | None
) -> tuple[str, list[object]]:
    where, values = ["1"], list[object]()
    if since is not None:
        where.append("(end_s >= ? OR end_s IS NULL)")
        values.append(since)
    if until is not None:
        where.append("start_s < ?")
        values.append(until)
    if stream is not None:
        names = [stream] if isinstance(stream, str) else list(stream)
        where.append(f"stream IN ({', '.join('?' * len(names))})")
        values += names
    return " AND ".join(where), values


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{file} is not there. Give a site file or a data folder of a site that has run."
        )
    connection = None
    try:
        connection = _connected(file)
        yield connection
    except (sqlite3.Error, ValueError, msgspec.ValidationError, IndexError) as error:
        raise InputError(
            f"{file} cannot be read as a database of events ({error}). Check the path and its "
            "permissions."
        ) from None
    finally:
        if connection is not None:
            connection.close()


def _connected(file: Path) -> sqlite3.Connection:
    try:
        return _opened(file, "mode=ro")
    except sqlite3.OperationalError:
        # In a folder that we may not write SQLite cannot read a log. Without one, as a site leaves
        # it that was stopped, the file can be read as it is.
        log = file.with_name(file.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _opened(file, "mode=ro&immutable=1")


def _opened(file: Path, how: str) -> sqlite3.Connection:
    address = f"file:{quote(str(file.absolute()))}?{how}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        set_up(connection)
        version = _version(connection)
        refuse_newer(version, file)
        if not version:
            raise InputError(f"{file} is no database of events. Give a data folder of a site.")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    # A site that is just starting makes the file a moment before its tables.
    until = time.monotonic() + 1.0
    while True:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version or time.monotonic() > until:
            return version
        time.sleep(0.05)
