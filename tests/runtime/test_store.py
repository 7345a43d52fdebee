"""Events on disk: acknowledged, kept in order, told of after a crash; and reading them."""

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from helpers import assert_one_line
from helpers_store import end_of, ended, event_record, start_of, wait_until

from vad_runtime.contracts import InputError
from vad_runtime.live.alerts import line_of
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.store import query, writer
from vad_runtime.store.database import Database, prepare
from vad_runtime.store.outbox import Outbox
from vad_runtime.store.schema import VERSION
from vad_runtime.store.writer import StoreWriter

Make = Callable[..., StoreWriter]


class Store:
    """What a site does with its store, and what it hears from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vad.db"
        self.said: list[str] = []
        self.stored: list[EventChange] = []
        self.open: list[StoreWriter] = []

    def start(self, **options: object) -> StoreWriter:
        given = {"say": self.said.append, "on_stored": self.stored.extend, **options}
        sinks = given.pop("sinks", lambda stream: ["mail", "hook"])
        store = StoreWriter(self.path, sinks, **given)  # type: ignore[arg-type]
        self.open.append(store)
        return store

    def crash(self, store: StoreWriter) -> None:
        """End the thread, but leave the disk as a kill would."""
        copy = self.path.parent / "crash"
        copy.mkdir()
        for file in self.path.parent.glob("vad.db*"):
            shutil.copy(file, copy / file.name)
        store.close()
        self.path = copy / "vad.db"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path)
    yield found
    for store in found.open:
        store.close(1.0)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_an_acknowledged_event_and_the_rows_for_its_sinks_are_on_disk(site: Store) -> None:
    store = site.start()
    event = event_record()
    assert store.put(start_of(event))
    wait_until(lambda: len(site.stored) == 1)
    assert query.events(site.path) == [event]
    assert query.pending(site.path) == {"hook": 1, "mail": 1}
    store.put(end_of(ended(event)))
    wait_until(lambda: len(site.stored) == 2)
    assert query.events(site.path.parent) == [ended(event)]
    assert rows(site.path, "SELECT kind, sink, stream, state FROM outbox") == [
        (kind, sink, "gate", "pending")
        for kind in ("started", "ended")
        for sink in ("mail", "hook")
    ]
    assert site.said == []
    assert store.close() == 0
    health = store.health()
    assert (health.ok, health.done, health.queued, health.dropped) == (True, 2, 0, 0)


def test_the_table_holds_every_field_of_an_event(site: Store) -> None:
    """A new field of `EventRecord` needs a migration."""
    site.start().close()
    columns = [row[1] for row in rows(site.path, "PRAGMA table_info(events)")]
    assert columns == list(EventRecord.__struct_fields__)


def test_the_disk_is_told_to_keep_what_was_committed(tmp_path: Path) -> None:
    database = Database(tmp_path / "vad.db")
    settings = ("journal_mode", "synchronous", "foreign_keys", "user_version")
    found = [database.read(f"PRAGMA {name}")[0][0] for name in settings]
    database.close()
    assert found == ["wal", 2, 1, VERSION]  # 2 = FULL


def test_a_change_is_stored_with_all_its_rows_or_not_at_all(site: Store) -> None:
    event, good = event_record(), event_record(stream="yard")
    store = site.start(sinks=lambda stream: ["mail", "\ud800"] if stream == "gate" else ["mail"])
    store.put(start_of(event))
    store.put(start_of(good))
    wait_until(lambda: store.health().done == 1)
    assert query.events(site.path) == [good]
    assert query.pending(site.path) == {"mail": 1}
    assert site.stored == [start_of(good)]
    assert store.health().dropped == 1
    assert [line for line in site.said if "cannot be stored" in line] == site.said != []


def test_an_event_that_sqlite_will_never_take_does_not_hold_up_the_others(site: Store) -> None:
    store = site.start()
    bad = [event_record(peak_score=float("nan")), event_record(start_frame=2**70)]
    for event in [*bad, event_record(reason="\udcff"), event_record(stream="yard")]:
        store.put(start_of(event))
    wait_until(lambda: store.health().done == 1)
    assert [event.stream for event in query.events(site.path)] == ["yard"]
    assert len(site.said) == store.health().dropped == 3


def test_a_second_try_of_a_commit_doubles_nothing(site: Store) -> None:
    event = event_record()
    store = site.start()
    for change in [start_of(event), start_of(event), end_of(ended(event)), end_of(ended(event))]:
        store.put(change)
    store.put(start_of(event))  # also not where the start is tried again behind the end
    wait_until(lambda: len(site.stored) == 5)
    assert query.events(site.path) == [ended(event)]
    assert query.pending(site.path) == {"hook": 2, "mail": 2}


def test_a_locked_database_is_waited_for_and_told_once(
    site: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.store.database.BUSY_S", 0.02)
    store = site.start()
    wait_until(lambda: query.counters(site.path).get("starts") == 1.0)
    blocker = sqlite3.connect(site.path, isolation_level=None)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        events = [event_record(start_frame=i) for i in range(20)]
        for event in events:
            store.put(start_of(event))
        wait_until(lambda: store.health().details["errors"] >= 2)
        health = store.health()
        assert not health.ok
        assert health.queued == 20
        assert health.trouble.startswith("events are not stored since 20")
        assert health.trouble.endswith("database is locked")
        assert site.stored == []
        blocker.execute("ROLLBACK")
    finally:
        blocker.close()
    wait_until(lambda: len(site.stored) == 20)
    assert query.events(site.path) == events
    wait_until(lambda: store.health().ok)
    assert [line.split(" (")[0] for line in site.said] == [
        "store: events are not stored",
        "store: events are stored again.",
    ]


def test_what_does_not_fit_into_the_queue_is_counted_and_told(
    site: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.store.database.BUSY_S", 0.02)
    store = site.start(queue=3)
    wait_until(lambda: query.counters(site.path).get("starts") == 1.0)
    blocker = sqlite3.connect(site.path, isolation_level=None)
    events = [event_record(start_frame=i) for i in range(5)]
    try:
        blocker.execute("BEGIN IMMEDIATE")
        assert [store.put(start_of(event)) for event in events] == [True] * 3 + [False] * 2
        # The end of an event that was taken is taken, and of one that was not is not.
        assert store.put(end_of(ended(events[2])))
        assert not store.put(end_of(ended(events[3])))
        assert (store.health().dropped, store.health().ok) == (3, False)
        blocker.execute("ROLLBACK")
    finally:
        blocker.close()
    wait_until(lambda: store.health().ok)
    assert query.events(site.path) == [*events[:2], ended(events[2])]
    assert sum("is lost" in line for line in site.said) == 1
    assert "3 changes were lost" in site.said[-1]
    assert query.counters(site.path)["dropped"] == 3.0
    assert store.put(start_of(events[3]))


def test_an_event_left_open_by_a_crash_ends_with_the_last_heartbeat_and_its_sinks_hear_of_it(
    site: Store,
) -> None:
    now = [1_700_000_100.0]
    event = event_record(start_s=1_700_000_099.0, peak_s=1_700_000_099.0)
    higher = msgspec.structs.replace(event, peak_s=1_700_000_101.0, peak_score=7.0, alarms=3)
    first = site.start(
        wall=lambda: now[0], heartbeat_s=0.02, open_events=lambda: [higher], sinks=lambda s: ["m"]
    )
    first.put(start_of(event))
    now[0] += 2.0
    wait_until(lambda: query.events(site.path, open_only=True) == [higher])
    wait_until(lambda: query.counters(site.path).get("heartbeat_s") == now[0])
    site.crash(first)
    site.stored.clear()
    site.start(sinks=lambda s: ["m"]).close()
    expected = msgspec.structs.replace(higher, end_s=1_700_000_102.0, ended_by="restart")
    assert site.stored == [end_of(expected)]
    assert query.events(site.path) == [expected]
    assert [one.kind for one in query.told(site.path, [event.id])[event.id]] == ["started", "ended"]
    # Once: the next start finds nothing open.
    site.stored.clear()
    site.start().close()
    assert site.stored == []


def test_the_heartbeat_of_a_clock_that_was_set_back_does_not_stretch_an_event(site: Store) -> None:
    """A board without a battery for its clock starts in the past."""
    first, second = event_record(), event_record(start_s=1_600_000_000.0, peak_s=1_600_000_000.0)
    for record in (first, second):
        store = site.start(wall=lambda record=record: record.start_s + 0.5, heartbeat_s=60.0)
        store.put(start_of(record))
        wait_until(lambda record=record: start_of(record) in site.stored)
        if record is first:
            store.put(end_of(ended(first)))
            store.close()
    site.crash(store)
    site.start().close()
    assert {event.id: event.end_s for event in query.events(site.path)} == {
        first.id: first.start_s + 4.0,
        second.id: second.start_s + 0.5,
    }


def test_an_error_of_those_who_are_told_does_not_end_the_store(site: Store) -> None:
    def fail(changes: list[EventChange]) -> None:
        raise OverflowError("no such time")

    store = site.start(on_stored=fail)
    events = [event_record(), event_record()]
    for event in events:
        store.put(start_of(event))
        wait_until(lambda: store.health().queued == 0)
    store.close()
    assert len(query.events(site.path)) == 2
    assert "an error of vad-edge itself (OverflowError" in site.said[0]
    assert line_of(start_of(event_record(start_s=1e30))).startswith("gate: ALARM since 1e+30")


def test_an_idle_store_writes_nothing(site: Store) -> None:
    """A month of writing every five seconds would wear out a card."""
    store = site.start(heartbeat_s=0.01)
    wait_until(lambda: query.counters(site.path).get("starts") == 1.0)
    event = event_record()
    store.put(start_of(event))
    wait_until(lambda: "heartbeat_s" in query.counters(site.path))
    store.put(end_of(ended(event)))
    wait_until(lambda: len(site.stored) == 2)
    before = query.counters(site.path)["heartbeat_s"]
    threading.Event().wait(0.1)
    assert query.counters(site.path)["heartbeat_s"] == before


@pytest.mark.parametrize("damage", ["no database", "torn page"])
def test_a_damaged_database_is_set_aside_with_a_loud_line(site: Store, damage: str) -> None:
    store = site.start()
    for i in range(100):
        store.put(start_of(event_record(start_frame=i)))
    store.close()
    content = bytearray(site.path.read_bytes())
    if damage == "no database":
        content[:100] = b"x" * 100
    else:
        content[4096:12288] = bytes(range(256)) * 32
    site.path.write_bytes(content)
    site.start().close()
    assert query.events(site.path) == []
    aside = list(site.path.parent.glob("vad.db.damaged-*Z"))
    assert len(aside) == 1
    assert aside[0].read_bytes() == bytes(content)
    assert len(site.said) == 1
    assert aside[0].name in site.said[0]


@pytest.mark.parametrize("name", [b"peak_scorX", b"\xff\xfeak_score"])
def test_a_whole_database_with_other_tables_is_set_aside_too(site: Store, name: bytes) -> None:
    store = site.start()
    store.put(start_of(event_record()))
    store.close()
    content = site.path.read_bytes()
    assert content.count(b"peak_score REAL") == 1
    site.path.write_bytes(content.replace(b"peak_score REAL", name + b" REAL"))
    with pytest.raises(InputError) as caught:
        query.events(site.path)
    assert_one_line(caught.value)
    store = site.start()
    store.put(start_of(event_record(stream="yard")))
    wait_until(lambda: store.health().done == 1)
    assert [event.stream for event in query.events(site.path)] == ["yard"]
    assert [line for line in site.said if "set aside" in line] == site.said != []


def test_damage_that_is_found_while_the_site_runs_costs_no_further_event(site: Store) -> None:
    store = site.start(heartbeat_s=0.01)
    first, second = event_record(), event_record(stream="yard")
    store.put(start_of(first))
    wait_until(lambda: len(site.stored) == 1)
    real = store._database.transaction
    broken = iter([True])

    def transaction() -> object:
        if next(broken, False):
            raise sqlite3.DatabaseError("database disk image is malformed")
        return real()

    store._database.transaction = transaction  # type: ignore[method-assign,assignment]
    store.put(start_of(second))
    wait_until(lambda: len(site.stored) == 2)
    assert query.events(site.path) == [second]
    assert len(list(site.path.parent.glob("vad.db.damaged-*Z"))) == 1
    wait_until(lambda: store.health().ok)


def test_a_database_of_a_newer_version_is_refused_in_one_line(site: Store) -> None:
    site.start().close()
    connection = sqlite3.connect(site.path)
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    for use in (site.start, lambda: Outbox(site.path), lambda: query.events(site.path)):
        with pytest.raises(InputError, match="newer vad-edge") as caught:
            use()
        assert_one_line(caught.value)


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vad.db"
    Database(path).close()
    with monkeypatch.context() as patched:
        steps = ("ALTER TABLE events ADD COLUMN more TEXT", "no SQL")
        patched.setattr("vad_runtime.store.database.MIGRATIONS", ((), steps))
        patched.setattr("vad_runtime.store.database.VERSION", 2)
        with pytest.raises(InputError) as caught:
            Database(path)
        assert_one_line(caught.value)
        patched.setattr("vad_runtime.store.database.MIGRATIONS", ((), steps[:1]))
        database = Database(path)
        assert database.read("SELECT more FROM events") == []
        assert database.read("PRAGMA user_version")[0][0] == 2
        database.close()


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "vad.db").mkdir()
    for path in (tmp_path / "file" / "vad.db", tmp_path / "vad.db"):
        with pytest.raises(InputError) as caught:
            prepare(path, say=print)
        assert_one_line(caught.value)


def test_a_database_that_was_taken_away_is_made_anew(site: Store) -> None:
    store = site.start()
    outbox = Outbox(site.path)
    try:
        store.put(start_of(event_record()))
        wait_until(lambda: outbox.pending("mail") == 1)
        for file in site.path.parent.glob("vad.db*"):
            file.unlink()
        event = event_record(stream="yard")
        store.put(start_of(event))
        wait_until(lambda: len(site.stored) == 2)
        assert outbox.pending("mail") == 1
        assert [due.event for due in outbox.due("mail", 2e9)] == [event]
        # The old connection is closed now; it must not take the new log with it.
        store.put(end_of(ended(event)))
        wait_until(lambda: len(site.stored) == 3)
    finally:
        outbox.close()
        store.close()
    assert query.events(site.path) == [ended(event)]
    assert rows(site.path, "PRAGMA integrity_check") == [("ok",)]


def test_a_change_behind_the_close_is_refused(site: Store) -> None:
    store = site.start()
    store.close()
    assert not store.put(start_of(event_record()))
    assert store.health().dropped == 1


def test_changes_that_cannot_be_stored_by_the_close_are_told(
    site: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.store.database.BUSY_S", 0.02)
    store = site.start()
    wait_until(lambda: query.counters(site.path).get("starts") == 1.0)
    blocker = sqlite3.connect(site.path, isolation_level=None)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        store.put(start_of(event_record()))
        assert store.close(0.3) == 1
    finally:
        blocker.close()
    assert site.said[-1] == "store: 1 change of events lost at the end (database is locked)."


# -- a full disk -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def test_on_a_full_disk_events_wait_in_order_and_are_stored_when_there_is_room(
    small_disk: Path,
) -> None:
    site = Store(small_disk)
    store = site.start()
    outbox = Outbox(site.path)
    try:
        wait_until(lambda: query.counters(site.path).get("starts") == 1.0)
        ballast = fill(small_disk)
        events = [event_record(start_frame=i) for i in range(300)]
        for event in events:
            assert store.put(start_of(event))
        wait_until(lambda: not store.health().ok)
        assert "full" in store.health().trouble
        assert site.stored == []
        ballast.unlink()
        wait_until(lambda: len(site.stored) == 300)
        assert query.events(site.path) == events
        ballast = fill(small_disk)
        # What was sent is sent, though nobody can write it down now.
        due = outbox.due("mail", 2e9, 300)
        claimed = False
        for first in range(0, 300, 10):
            try:
                batch = outbox.claim(due[first : first + 10])
            except sqlite3.OperationalError:
                break
            claimed = True
            outbox.sent(batch)
        ballast.unlink()
        left = len(outbox.due("mail", 2e9, 300))
        assert left == outbox.pending("mail")
        assert left < 300 or not claimed
    finally:
        outbox.close()
        store.close()


def test_a_site_starts_on_a_full_disk_and_stores_when_there_is_room(small_disk: Path) -> None:
    ballast = fill(small_disk)
    site = Store(small_disk)
    store, outbox = site.start(), None
    try:
        outbox = Outbox(site.path)
        event = event_record()
        store.put(start_of(event))
        wait_until(lambda: not store.health().ok)
        with pytest.raises(sqlite3.Error):
            outbox.due("mail", 2e9)
        ballast.unlink()
        wait_until(lambda: len(site.stored) == 1)
        assert [due.event for due in outbox.due("mail", 2e9)] == [event]
    finally:
        if outbox is not None:
            outbox.close()
        store.close()


# -- reading -----------------------------------------------------------------------------------


@pytest.fixture
def past(site: Store) -> tuple[Path, dict[str, EventRecord]]:
    """A database with four events, one of which is going on."""
    store = site.start()
    named = {}
    for name, stream, start_s, length_s in [
        ("old", "gate", 100.0, 10.0),
        ("long", "yard", 150.0, 100.0),
        ("new", "gate", 300.0, 10.0),
        ("open", "yard", 310.0, None),
    ]:
        event = event_record(stream=stream, start_s=start_s)
        store.put(start_of(event))
        if length_s is not None:
            event = ended(event, end_s=start_s + length_s)
            store.put(end_of(event))
        named[name] = event
    wait_until(lambda: len(site.stored) == 7)
    return site.path, named


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "old long new open"),
        ({"since": 200.0}, "long new open"),
        ({"since": 500.0}, "open"),
        ({"until": 150.0}, "old"),
        ({"since": 120.0, "until": 310.0}, "long new"),
        ({"stream": "gate"}, "old new"),
        ({"stream": ["yard", "nobody"]}, "long open"),
        ({"stream": []}, ""),
        ({"limit": 2}, "new open"),
        ({"open_only": True}, "open"),
        ({"stream": "gate", "limit": 1, "until": 299.0}, "old"),
    ],
)
def test_events_are_found_while_the_site_runs(
    past: tuple[Path, dict[str, EventRecord]], asked: dict[str, object], expected: str
) -> None:
    path, named = past
    found = query.events(path, **asked)  # type: ignore[arg-type]
    assert found == [named[name] for name in expected.split()]


def test_streams_are_counted(past: tuple[Path, dict[str, EventRecord]]) -> None:
    assert query.counts(past[0]) == {"gate": 2, "yard": 2}
    assert query.counts(past[0], since=290.0, until=305.0) == {"gate": 1}


def test_it_is_told_who_heard_of_an_event(past: tuple[Path, dict[str, EventRecord]]) -> None:
    path, named = past
    outbox = Outbox(path)
    due = outbox.claim(outbox.due("hook", 2e9, 1))
    outbox.failed(due, "no answer", 5.0, maybe_repeated=True)
    due = outbox.claim(outbox.due("mail", 2e9, 1))
    outbox.sent(due)
    outbox.close()
    told = query.told(path, [named["old"].id, "nobody"])
    assert told["nobody"] == []
    facts = [(t.sink, t.kind, t.state, t.attempts, t.last_error) for t in told[named["old"].id]]
    assert facts == [
        ("mail", "started", "sent", 1, ""),
        ("hook", "started", "pending", 1, "no answer"),
        ("mail", "ended", "pending", 0, ""),
        ("hook", "ended", "pending", 0, ""),
    ]
    assert [t.maybe_repeated for t in told[named["old"].id]] == [False, True, False, False]
    assert query.pending(path) == {"hook": 7, "mail": 6}


def test_reading_changes_nothing_and_works_on_a_stopped_site(
    past: tuple[Path, dict[str, EventRecord]], site: Store
) -> None:
    path, _ = past
    site.open[0].close()
    before = path.read_bytes()
    assert len(query.events(path)) == 4
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 100])
def test_what_is_no_database_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "vad.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        query.events(tmp_path)
    assert_one_line(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_rows_that_somebody_else_wrote_give_one_line_and_do_not_stop_a_site(site: Store) -> None:
    store = site.start()
    store.put(start_of(event_record()))
    store.close()
    connection = sqlite3.connect(site.path)
    connection.execute("UPDATE events SET start_s = 'yesterday', reason = CAST(x'ff' AS TEXT)")
    connection.execute("UPDATE counters SET value = x'ff00' WHERE name = 'heartbeat_s'")
    connection.commit()
    connection.close()
    with pytest.raises(InputError) as caught:
        query.events(site.path)
    assert_one_line(caught.value)
    store = site.start()
    store.put(start_of(event_record(stream="yard")))
    wait_until(lambda: store.health().done == 1)


def test_the_thread_of_a_store_ends_with_it(site: Store) -> None:
    store = site.start()
    assert any(thread.name == "vad-store" for thread in threading.enumerate())
    store.close()
    store.close()
    assert not any(thread.name == "vad-store" for thread in threading.enumerate())
    assert writer.QUEUE == 10_000
