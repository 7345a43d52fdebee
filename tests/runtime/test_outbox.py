"""Rows that sinks work off: claimed on disk before they are sent, and settled once."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers_store import end_of, ended, event_record, start_of

from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.store.database import Database
from vad_runtime.store.outbox import KEPT_S, LONGEST_WAIT_S, Due, Outbox, add_rows, prune
from vad_runtime.store.writer import _COLUMNS, _INSERT

NOW = 1_700_000_000.0


class Box:
    """An outbox and a connection that puts rows into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = NOW
        self.database = Database(path)
        self.outbox = Outbox(path, wall=lambda: self.now)

    def add(self, *changes: EventChange, sinks: Sequence[str] = ("hook",)) -> None:
        with self.database.transaction() as connection:
            for change in changes:
                values = [getattr(change.event, name) for name in _COLUMNS]
                connection.execute(_INSERT + "NOTHING", values)
                add_rows(connection, change, sinks, self.now)

    def due(self, sink: str = "hook", **options: object) -> list[Due]:
        return self.outbox.due(sink, self.now, **options)  # type: ignore[arg-type]

    def claimed(self, sink: str = "hook") -> list[Due]:
        return self.outbox.claim(self.due(sink))

    def states(self) -> list[tuple[object, ...]]:
        found = self.database.read("SELECT state, attempts, maybe_repeated FROM outbox ORDER BY id")
        return [tuple(row) for row in found]

    def close(self) -> None:
        self.outbox.close()
        self.database.close()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    found = Box(tmp_path / "vad.db")
    yield found
    found.close()


def test_a_row_is_due_with_the_event_as_it_was_when_it_was_stored(box: Box) -> None:
    event = event_record()
    box.add(start_of(event), end_of(ended(event)))
    due = box.due()
    assert [(one.kind, one.event) for one in due] == [("started", event), ("ended", ended(event))]
    assert (due[0].sink, due[0].attempts, due[0].maybe_repeated) == ("hook", 0, False)
    assert due[0].created_s == NOW
    assert box.due("mail") == []


def test_a_claimed_row_is_not_due_again_and_a_sent_one_never(box: Box) -> None:
    box.add(start_of(event_record()), start_of(event_record()))
    rows = box.claimed()
    assert box.states() == [("sending", 1, 0)] * 2
    assert box.due() == []
    assert box.outbox.claim(rows) == []
    assert box.outbox.pending("hook") == 2
    box.outbox.sent(rows[:1])
    assert box.states() == [("sent", 1, 0), ("sending", 1, 0)]
    assert box.outbox.pending("hook") == 1


def test_a_failed_row_waits_for_its_next_try(box: Box) -> None:
    box.add(start_of(event_record()))
    box.outbox.failed(box.claimed(), "no answer", NOW + 30)
    assert box.due() == []
    assert box.outbox.next_due_s("hook") == NOW + 30
    box.now += 30
    again = box.due()
    assert [(one.attempts, one.last_error, one.maybe_repeated) for one in again] == [
        (1, "no answer", False)
    ]
    box.outbox.failed(box.outbox.claim(again), "half \ud800" + 1000 * "x", NOW, maybe_repeated=True)
    box.outbox.failed(box.claimed(), "", NOW)
    assert box.due()[0].maybe_repeated  # once unsure, always unsure
    assert len(box.database.read("SELECT last_error FROM outbox")[0][0]) <= 300


def test_a_row_that_is_given_up_is_kept_with_its_reason(box: Box) -> None:
    box.add(start_of(event_record()))
    box.outbox.give_up(box.due(), "refused")
    assert box.states() == [("given_up", 0, 0)]
    assert box.outbox.pending("hook") == 0
    assert box.outbox.next_due_s("hook") is None


def test_the_end_of_an_event_waits_until_its_start_was_told(box: Box) -> None:
    event, other = event_record(), event_record()
    box.add(start_of(event))
    box.outbox.failed(box.claimed(), "no answer", NOW + 30)
    box.add(end_of(ended(event)), start_of(other))
    assert [one.event.id for one in box.due()] == [other.id]
    box.now += 31
    assert [(one.event.id, one.kind) for one in box.due()] == [
        (event.id, "started"),
        (event.id, "ended"),
        (other.id, "started"),
    ]
    start = box.outbox.claim(box.due(limit=1))
    assert [one.event.id for one in box.due()] == [other.id]
    box.outbox.give_up(start, "refused")
    assert [one.kind for one in box.due()] == ["ended", "started"]


def test_streams_can_be_left_out(box: Box) -> None:
    box.add(*(start_of(event_record(stream=name)) for name in ("gate", "gate", "yard")))
    assert [one.event.stream for one in box.due(limit=2)] == ["gate", "gate"]
    assert [one.event.stream for one in box.due(limit=2, skip={"gate"})] == ["yard"]


def test_what_was_being_sent_at_a_crash_is_due_again_and_marked(box: Box) -> None:
    box.add(*(start_of(event_record()) for _ in range(3)))
    rows = box.claimed()
    box.outbox.sent(rows[:1])
    box.outbox.failed(rows[1:2], "no answer", NOW + 30)
    after = Outbox(box.path, wall=lambda: NOW)
    assert after.recovered == 1
    assert [(one.id, one.maybe_repeated) for one in after.due("hook", NOW)] == [(rows[2].id, True)]
    after.close()
    second = Outbox(box.path, recover=False)
    assert second.recovered == 0
    second.close()


def test_a_clock_that_is_set_back_does_not_hold_rows_for_years(box: Box) -> None:
    box.add(start_of(event_record()))
    box.outbox.failed(box.claimed(), "no answer", NOW + 1e9)
    assert box.outbox.next_due_s("hook") == NOW + LONGEST_WAIT_S  # no longer wait is taken
    assert box.due() == []
    box.now -= 5 * LONGEST_WAIT_S
    assert len(box.due()) == 1
    assert box.outbox.next_due_s("hook") == box.now


def test_a_result_that_cannot_be_written_now_is_written_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.store.database.BUSY_S", 0.01)
    box.close()
    box = Box(box.path)
    box.add(*(start_of(event_record()) for _ in range(3)))
    rows = box.claimed()
    box.database._connection.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
    box.outbox.sent(rows[:1])
    box.outbox.failed(rows[1:2], "no answer", NOW)
    with pytest.raises(sqlite3.OperationalError):
        box.due()
    with pytest.raises(sqlite3.OperationalError):
        box.outbox.claim(rows)
    box.database._connection.execute("ROLLBACK")  # type: ignore[union-attr]
    assert [one.id for one in box.due()] == [rows[1].id]
    assert [state for state, _, _ in box.states()] == ["sent", "pending", "sending"]
    box.close()


def test_rows_of_sinks_that_are_gone_are_given_up(box: Box) -> None:
    box.add(start_of(event_record()), sinks=["hook", "mail", "old"])
    assert box.outbox.drop_others(["hook", "mail"]) == 1
    assert [row[0] for row in box.states()] == ["pending", "pending", "given_up"]
    assert box.outbox.drop_others([]) == 2


def test_settled_rows_go_after_a_week_and_waiting_ones_never(box: Box) -> None:
    box.add(*(start_of(event_record()) for _ in range(3)))
    rows = box.claimed()
    box.outbox.sent(rows[:1])
    box.outbox.give_up(rows[1:2], "refused")
    for later, left in [(KEPT_S - 1, 3), (KEPT_S + 1, 1), (1e9, 1)]:
        with box.database.transaction() as connection:
            prune(connection, NOW + later)
        assert len(box.states()) == left
    assert len(box.database.read("SELECT id FROM events")) == 3


def test_a_row_that_is_damaged_is_given_up_and_does_not_hold_up_the_others(box: Box) -> None:
    good = event_record()
    box.add(start_of(event_record()), start_of(good))
    with box.database.transaction() as connection:
        connection.execute("UPDATE outbox SET record = '{' WHERE id = 1")
    assert [one.event for one in box.due()] == [good]
    assert [one.event for one in box.due()] == [good]
    assert [row[0] for row in box.states()] == ["given_up", "pending"]


def test_a_result_is_not_written_to_a_row_of_a_new_database(box: Box) -> None:
    box.add(start_of(event_record()))
    rows = box.claimed()
    for file in box.path.parent.glob("vad.db*"):
        file.unlink()
    box.add(start_of(event_record()))
    box.outbox.sent(rows)
    assert [row[0] for row in box.states()] == ["pending"]


def test_threads_that_claim_at_once_never_get_the_same_row(box: Box) -> None:
    box.add(*(start_of(event_record()) for _ in range(40)))
    got: list[int] = []

    def work() -> None:
        while rows := box.due(limit=7):
            mine = box.outbox.claim(rows)
            got.extend(row.id for row in mine)
            box.outbox.sent(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 41))
    assert {row[0] for row in box.states()} == {"sent"}


def test_looking_for_due_rows_does_not_read_the_sent_ones(box: Box) -> None:
    plan = box.database.read(
        "EXPLAIN QUERY PLAN SELECT * FROM outbox WHERE settled_s IS NULL AND sink = 'a'"
        " AND state = 'pending' ORDER BY id LIMIT 5"
    )
    assert [row["detail"] for row in plan] == ["SEARCH outbox USING INDEX outbox_open (sink=?)"]


def test_every_field_of_an_event_comes_back(box: Box) -> None:
    event = event_record(end_s=5.25, end_frame=7, alarms=2, suppressed=3, ended_by="hole", clip="c")
    assert all(getattr(event, name) is not None for name in EventRecord.__struct_fields__)
    box.add(end_of(event))
    assert box.due()[0].event == event
