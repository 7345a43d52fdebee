import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers_servers import HttpServer, change, free_port, store, until

from vad_runtime.contracts.site import (
    LinesSettings,
    MailSettings,
    MqttSettings,
    Secret,
    WebhookSettings,
)
from vad_runtime.sinks.delivery import Delivery, DeliveryError
from vad_runtime.sinks.lines import LinesSink
from vad_runtime.sinks.make import make_sink
from vad_runtime.sinks.webhook import WebhookSink
from vad_runtime.store.outbox import Due, Outbox


class Script:
    """A sink that does as it is told, and notes what it got."""

    kind = "webhook"
    by_stream = False

    def __init__(self, most: int = 1) -> None:
        self.name, self.most = "hook", most
        self.answers: list[Exception | None] = []
        self.broken: dict[str, Exception] = {}
        self.got: list[list[str]] = []
        self.repeated: list[bool] = []
        self.idle = ""
        self.closed = 0

    def wait_s(self, stream: str) -> float:
        return 0.0

    def tick(self) -> str:
        return self.idle

    def close(self) -> None:
        self.closed += 1

    def deliver(self, batch: Sequence[Due]) -> None:
        self.got.append([f"{int(due.event.id[-12:])}-{due.kind}" for due in batch])
        self.repeated += [due.maybe_repeated for due in batch]
        answer = self.answers.pop(0) if self.answers else self.broken.get(batch[0].event.id)
        if answer is not None:
            raise answer


class World:
    """An outbox on disk, a clock that stands still, and a delivery that is stepped by hand."""

    def __init__(self, folder: Path, most: int = 1) -> None:
        self.path, self.now, self.wall = folder / "vad.db", 100.0, time.time()
        self.lines: list[str] = []
        self.outbox = Outbox(self.path, wall=lambda: self.wall)
        self.sink = Script(most)
        self.delivery = Delivery(
            self.sink,
            self.outbox,
            say=self.lines.append,
            clock=lambda: self.now,
            unix=lambda: self.wall,
            jitter=lambda: 1.0,
        )

    def store(self, *changes: object) -> None:
        store(self.path, changes, "hook")  # type: ignore[arg-type]

    def go(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(int(seconds / step)):
            while self.delivery.step() == 0:
                pass
            self.now += step
            self.wall += step

    @property
    def flat(self) -> list[str]:
        return [row for batch in self.sink.got for row in batch]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.outbox.close()


def no(reason: str = "503", **values: object) -> DeliveryError:
    return DeliveryError(reason, **values)  # type: ignore[arg-type]


def test_rows_arrive_once_and_in_order(world: World) -> None:
    world.store(change(1), change(1, "ended"), change(2))
    world.go(2)
    assert world.flat == ["1-started", "1-ended", "2-started"]
    assert world.outbox.pending("hook") == 0
    health = world.delivery.health()
    assert (health.ok, health.done, health.queued, health.dropped) == (True, 3, 0, 0)
    assert not world.lines


def test_a_server_that_is_down_is_asked_less_and_less_and_told_of_twice(world: World) -> None:
    world.sink.answers = [no() for _ in range(12)]
    world.store(change(1))
    world.go(3600)
    tries = len(world.sink.got)
    assert tries == 13
    assert world.lines == [
        "webhook hook: 503; alerts wait on disk and are tried again.",
        world.lines[1],
    ]
    assert "works again after" in world.lines[1]
    assert world.delivery.health().ok


def test_a_row_that_never_passes_holds_back_neither_other_streams_nor_its_own_for_long(
    world: World,
) -> None:
    world.sink.broken = {change(1).event.id: no("500")}
    world.store(change(1), change(2), change(3, stream="yard"))
    world.go(8)
    assert "3-started" in world.flat
    assert "2-started" not in world.flat
    world.go(120)
    assert "2-started" in world.flat
    assert world.flat.count("1-started") >= 5


def test_the_end_of_an_event_never_overtakes_its_start(world: World) -> None:
    world.sink.answers = [no(), no()]
    world.store(change(1), change(1, "ended"))
    world.go(30)
    assert world.flat == ["1-started"] * 3 + ["1-ended"]


def test_a_server_that_asks_for_time_gets_it(world: World) -> None:
    world.sink.answers = [no("429", after_s=90.0)]
    world.store(change(1), change(2, stream="yard"))
    world.go(89)
    assert len(world.sink.got) == 1
    world.go(60)
    assert sorted(world.flat) == ["1-started", "1-started", "2-started"]


def test_a_message_that_is_refused_is_given_up_after_some_tries_and_told(world: World) -> None:
    world.sink.broken = {change(1).event.id: no("400 Bad Request", retry=False)}
    world.store(change(1), change(2, stream="yard"))
    world.go(900, 1.0)
    assert world.flat.count("1-started") == 8
    assert world.flat.count("2-started") == 1
    assert world.outbox.pending("hook") == 0
    assert world.delivery.health().dropped == 1
    assert len(world.lines) == 1
    assert "gave up 1 alert (400 Bad Request); the events are in the database" in world.lines[0]


def test_alerts_a_day_old_are_given_up_while_the_server_is_down_but_not_because_the_clock_jumped(
    world: World,
) -> None:
    world.sink.answers = [no() for _ in range(1000)]
    world.store(*(change(number) for number in range(1, 30)))
    world.go(60)
    world.wall += 56 * 365 * 86400.0  # a board without a clock finds the time
    world.go(600)
    assert world.delivery.health().dropped == 0
    world.go(3600, 2.0)
    assert world.delivery.health().dropped == 29
    assert world.outbox.pending("hook") == 0


def test_a_clock_that_is_set_back_delays_no_alert(world: World) -> None:
    world.sink.answers = [no()]
    world.store(change(1))
    world.go(1, 1.0)
    world.wall -= 86400.0
    world.go(5)
    assert world.flat == ["1-started"] * 2


def test_only_what_may_have_arrived_is_marked_as_perhaps_repeated(world: World) -> None:
    world.sink.answers = [no(), no(maybe_delivered=True), no()]
    world.store(change(1))
    world.go(60)
    assert world.sink.repeated == [False, False, True, True]


def test_of_a_batch_only_what_did_not_arrive_is_sent_again(tmp_path: Path) -> None:
    world = World(tmp_path, most=3)
    world.store(change(1), change(2), change(3))
    rows = world.outbox.due("hook", world.wall, 10)
    world.sink.answers = [no(done=rows[:2])]
    world.go(10)
    assert world.sink.got == [["1-started", "2-started", "3-started"], ["3-started"]]
    assert world.delivery.health().done == 3
    world.outbox.close()


def test_a_bug_in_a_sink_ends_no_thread_and_shows_no_secret(world: World) -> None:
    world.sink.answers = [ValueError("password=pa55word")]
    world.store(change(1))
    world.go(10)
    assert world.flat == ["1-started"] * 2
    assert "an error of vad-edge itself (ValueError in deliver:" in world.lines[0]
    assert "pa55word" not in "".join(world.lines)


def test_a_database_that_cannot_be_written_is_told_once_and_nothing_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> list[Due]:
        raise sqlite3.OperationalError("database or disk is full")

    world.store(change(1))
    with monkeypatch.context() as patch:
        patch.setattr(world.outbox, "claim", full)
        world.go(20)
    assert not world.flat
    assert "disk is full" in world.delivery.health().trouble
    world.go(2)
    assert world.flat == ["1-started"]
    assert world.lines == [
        "webhook hook: the database cannot be used (database or disk is full).",
        "webhook hook: the database can be used again.",
    ]


def test_a_trouble_without_alerts_is_seen(world: World) -> None:
    world.sink.idle = "no connection"
    world.go(2)
    assert not world.delivery.health().ok
    world.sink.idle = ""
    world.go(2)
    assert world.delivery.health().ok


def test_closing_delivers_what_is_due_and_leaves_the_rest_on_disk(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store(change(1), change(2))
    world.delivery.start()
    world.delivery.close(5.0)
    world.delivery.close(5.0)
    assert world.flat == ["1-started", "2-started"]
    assert world.sink.closed == 1
    assert not [one for one in threading.enumerate() if one.name.startswith("vad-delivery")]
    world.outbox.close()


def test_a_webhook_gets_everything_once_after_errors_a_hang_and_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.sinks.delivery.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("vad_runtime.sinks.delivery.LONGEST_WAIT_S", 0.1)
    database, port = tmp_path / "vad.db", free_port()
    settings = WebhookSettings(url=Secret(f"http://127.0.0.1:{port}/x"), timeout_s=0.3)

    def begin() -> tuple[Delivery, Outbox]:
        outbox = Outbox(database)
        delivery = Delivery(WebhookSink("hook", settings), outbox, say=lambda _: None)
        delivery.start()
        return delivery, outbox

    delivery, outbox = begin()
    store(database, [change(number) for number in range(1, 11)], "hook")
    delivery.wake()
    until(lambda: "connection refused" in delivery.health().trouble)
    delivery.close(0.2)
    outbox.close()
    with HttpServer(port=port, code=500) as server:
        delivery, outbox = begin()
        until(lambda: "500" in delivery.health().trouble)
        server.manner = "hang"
        until(lambda: "no answer within" in delivery.health().trouble)
        server.manner, server.code = "answer", 204
        until(lambda: delivery.health().done == 10)
        delivery.close(1.0)
        outbox.close()
    keys = [request.headers["Idempotency-Key"] for request in server.taken]
    assert sorted(keys) == [f"{change(number).event.id}-started" for number in range(1, 11)]
    hung = [one for one in server.taken if "X-Vad-Maybe-Repeated" in one.headers]
    assert hung  # those that the server took and did not answer


def rows_of(outbox: Outbox) -> list[Due]:
    return outbox.due("hook", time.time(), 100)


def test_lines_survive_logrotate_removal_and_half_a_line(tmp_path: Path, world: World) -> None:
    world.store(change(1), change(2), change(2, "ended"))
    first, second, third = rows_of(world.outbox)
    path = tmp_path / "log" / "events.jsonl"
    sink = LinesSink("log", path)
    sink.deliver([first])
    path.rename(path.with_name("events.jsonl.1"))
    sink.deliver([second])
    with path.open("ab") as file:
        file.write(b'{"cut')
    sink.deliver([third])
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()[::2]] == [
        "started",
        "ended",
    ]
    path.unlink()
    sink.deliver([first, second])
    os.truncate(path, 0)  # copytruncate
    sink.deliver([third])
    assert json.loads(path.read_text())["id"] == f"{change(2).event.id}-ended"
    sink.close()
    sink.close()


def test_lines_go_whole_or_not_at_all_to_a_full_disk(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store(change(1), change(2))
    sink, path = LinesSink("log", tmp_path / "events.jsonl"), tmp_path / "events.jsonl"
    rows = rows_of(world.outbox)
    sink.deliver(rows[:1])
    whole = path.read_bytes()
    written = os.write

    def full(handle: int, text: bytes) -> int:
        if len(text) > 50:
            return written(handle, text[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("vad_runtime.sinks.lines.os.write", full)
        with pytest.raises(DeliveryError, match="no space left"):
            sink.deliver(rows)
    assert path.read_bytes().startswith(whole)
    sink.deliver(rows)
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["started"] * 3
    sink.close()


def test_a_pipe_in_the_place_of_a_file_hangs_nobody(tmp_path: Path, world: World) -> None:
    os.mkfifo(tmp_path / "pipe")
    world.store(change(1))
    with pytest.raises(DeliveryError, match="pipe cannot be written"):
        LinesSink("log", tmp_path / "pipe").deliver(rows_of(world.outbox))


def test_every_kind_of_sink_is_made_from_its_settings(tmp_path: Path) -> None:
    made = [
        make_sink(
            "one",
            settings,
            site="depot",
            streams=["gate"],
            folder=tmp_path,
            data_folder=tmp_path,
            say=print,
        )
        for settings in (
            MailSettings(host="h", sender="a@example.org", to=["b@example.org"]),
            WebhookSettings(url=Secret("https://h/")),
            MqttSettings(host="h"),
            LinesSettings(file="x.jsonl"),
        )
    ]
    assert [sink.kind for sink in made] == ["mail", "webhook", "mqtt", "jsonl"]
    for sink in made:
        sink.close()
