"""Opening `vad.db`: crash-safe settings, migrations, damaged files set aside."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vad_runtime.contracts.errors import InputError
from vad_runtime.files import PRIVATE_FILE, private_folder
from vad_runtime.store.schema import MIGRATIONS, VERSION

NAME = "vad.db"
"""File name of the database in a site's data folder."""

BUSY_S = 5.0
"""How long a connection waits for another's lock, seconds."""

_CHECK_S = 20.0  # A database larger than can be read in this time is checked in part.


def is_damaged(error: sqlite3.Error) -> bool:
    """Return whether an error says that the file is no whole database.

    A full disk, a lock or a missing folder raise subclasses of `sqlite3.DatabaseError`, a damaged
    file raises the class itself (the Python manual, sqlite3, "Exceptions").
    """
    return type(error) is sqlite3.DatabaseError


class Database:
    """One connection to `vad.db` for writing, from one thread at a time.

    Write-ahead log, and every commit is flushed to the disk (`synchronous=FULL`): what was
    committed survives a power cut. Where the file was taken away under us (an operator who cleans
    up), the next transaction makes a new one: SQLite would go on to write into a file without name.
    A disk that is full when a site starts is no reason not to start: each call tries again.

    Args:
        path: The file; made where it is missing, and its folder too.

    Raises:
        InputError: It cannot be opened, was written by a newer version, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is open."""
        try:
            self._connected()
        except (sqlite3.Error, OSError) as error:
            if not _passes(error):
                raise _unusable(path, error) from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction: all of it is committed, or nothing.

        Raises:
            sqlite3.OperationalError: The disk is full, the file is locked or read-only: try again.
            sqlite3.DatabaseError: Whatever else SQLite finds wrong.
        """
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # Where SQLite has rolled back by itself, as on a full disk, there is nothing to do.
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise

    def read(self, sql: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """Return all rows of a query.

        Raises:
            sqlite3.Error: As `transaction`.
        """
        return self._connected().execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the connection; the last one tidies the log away. A second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Where the file was moved, SQLite leaves the log alone that now has its name.
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _connected(self) -> sqlite3.Connection:
        """Return the connection to the file that has the name now."""
        try:
            now: tuple[int, int] | None = _identity(self.path)
        except FileNotFoundError:
            now = None
        except OSError:
            now = self._file  # the folder cannot be looked at just now: SQLite will say why
        if self._connection is None or now != self._file:
            self.close()
            try:
                self._connection = self._opened()
            except OSError as error:
                raise sqlite3.OperationalError(error.strerror or str(error)) from None
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        private_folder(self.path.parent)
        if not self.path.exists():  # its log and index take over the rights
            self.path.touch(PRIVATE_FILE)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            set_up(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA journal_size_limit=16777216")
            _migrate(connection, self.path)
            self._file = _identity(self.path)
        except BaseException:
            connection.close()
            raise
        return connection


def set_up(connection: sqlite3.Connection) -> None:
    """Make a connection give named rows, and texts whatever their bytes are."""
    connection.row_factory = sqlite3.Row
    connection.text_factory = lambda text: text.decode("utf-8", "replace")


def prepare(path: Path, *, say: Callable[[str], None]) -> Database:
    """Open the database at the start of a site.

    A damaged file is set aside as `vad.db.damaged-TIME`, and a new one is made: a site must run.
    Call it before anything else has the file open.

    Args:
        path: The file.
        say: Takes the line about a damaged file.

    Raises:
        InputError: It cannot be opened, or was written by a newer version.
    """
    damage = _damage(path)
    if damage:
        set_aside(path, damage, say=say)
    return Database(path)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    # The version is read again inside the transaction: two connections may open a new file at once.
    if _version(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[_version(connection, path) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    refuse_newer(version, path)
    return version


def refuse_newer(version: int, path: Path) -> None:
    """Refuse a database of a newer vad-edge.

    Raises:
        InputError: It is one.
    """
    if version > VERSION:
        raise InputError(
            f"{path} was written by a newer vad-edge (its version is {version}, this one knows "
            f"{VERSION}). Update vad-edge, or choose another data folder."
        )


def _damage(path: Path) -> str:
    """Return what is wrong with the file; empty = nothing, or it is not there."""
    if not path.exists():
        return ""
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        set_up(connection)
        until = time.monotonic() + _CHECK_S
        connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        connection.set_progress_handler(None, 0)
        return _foreign(connection) if found == "ok" else found.replace("\n", " ")
    except sqlite3.DatabaseError as error:
        return str(error) if is_damaged(error) else ""  # what else is wrong is told on opening
    except UnicodeError:  # names of columns
        return "its tables are not named as ours"
    finally:
        if connection is not None:
            connection.close()


def _foreign(connection: sqlite3.Connection) -> str:
    """Return what is wrong with the tables of a whole database; empty = nothing."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        return ""  # it is new, is migrated, or is refused
    ours = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for statements in MIGRATIONS:
            for statement in statements:
                ours.execute(statement)
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        for (table,) in ours.execute(tables).fetchall():
            asked = f"PRAGMA table_info({table})"
            wanted = {row[1] for row in ours.execute(asked)}
            if not wanted <= {row[1] for row in connection.execute(asked)}:
                return f"columns of its table {table} are missing"
    finally:
        ours.close()
    return ""


def set_aside(path: Path, damage: str, *, say: Callable[[str], None]) -> None:
    """Rename a damaged database and its log, and say so; the next transaction makes a new one.

    Args:
        path: The file.
        damage: What is wrong with it.
        say: Takes the line.

    Raises:
        InputError: It cannot be renamed.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    try:
        # The log goes with it: part of the events may be there only.
        for ending in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{ending}", f"{aside}{ending}")  # noqa: PTH104
    except OSError as error:
        raise InputError(
            f"{path} is damaged and cannot be renamed ({error.strerror}). Move it away."
        ) from None
    say(
        f"store: {path} is damaged ({damage}) and was set aside as {aside.name}; the site goes on "
        "with a new one. `sqlite3 FILE .recover` may restore earlier events."
    )


def _passes(error: Exception) -> bool:
    """Return whether waiting may help: a full disk, an error of the disk, a lock."""
    text = str(error).lower()
    return any(word in text for word in ("full", "no space", "disk i/o", "locked"))


def _unusable(path: Path, error: Exception) -> InputError:
    if isinstance(error, sqlite3.Error) and is_damaged(error):
        return InputError(
            f"{path} is damaged ({error}). Stop the site, move the file away and start again."
        )
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(
        f"{path} cannot be opened as a database ({reason}). Check the folder, its owner and its "
        "free space."
    )
