"""`kill -9` in the middle of a storm of events, fifty times: nothing acknowledged is lost."""

import collections
import http.server
import os
import random
import signal
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vad_runtime.store import query

KILLS = 50
LONGEST_LIFE_S = 0.15
PROGRAM = Path(__file__).resolve().parents[1] / "storm_of_events.py"


class Receiver(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Takes webhooks and notes each: its key, and whether it was marked as maybe repeated."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, bool]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if len(self.rfile.read(length)) < length:
            return
        key, marked = self.headers["Idempotency-Key"], "X-Vad-Maybe-Repeated" in self.headers
        self.server.got.append((key, marked))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Sites:
    """The program that makes sites, and what they have said."""

    def __init__(self, database: Path, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(database), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.acknowledged: set[tuple[str, str]] = set()
        self.said: list[str] = []

    def start(self, what: str) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return int(self.until("site").split()[1])

    def until(self, word: str) -> str:
        """Read lines up to one that starts with a word; note the others."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line
            if line.startswith("ack "):
                _, kind, event = line.split()
                self.acknowledged.add((kind, event))
            else:
                self.said.append(line)
        pytest.fail(f"the program ended: {self.said[-5:]}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def check(database: Path, acknowledged: set[tuple[str, str]]) -> None:
    """Assert that the database is whole and holds each acknowledged start and end once."""
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = {(row[0], row[1]) for row in connection.execute("SELECT kind, event_id FROM outbox")}
    finally:
        connection.close()
    events = query.events(database)
    assert len({event.start_frame for event in events}) == len(events)
    found = {("started", event.id) for event in events}
    found |= {("ended", event.id) for event in events if event.end_s is not None}
    assert acknowledged <= found
    assert rows == found  # each start and end on disk has its row for the webhook


def test_kill_9_loses_no_acknowledged_event_doubles_none_and_marks_repeated_webhooks(
    tmp_path: Path, receiver: Receiver
) -> None:
    database = tmp_path / "vad.db"
    chance = random.Random(6)
    sites = Sites(database, receiver.url)
    try:
        for life in range(KILLS):
            site = sites.start("go")
            time.sleep(chance.random() * LONGEST_LIFE_S)
            os.kill(site, signal.SIGKILL)
            sites.until("gone")
            if life % 5 == 4:  # the others are opened first by the next site, as it was left
                check(database, sites.acknowledged)
        sites.start("drain")
        sites.until("drained")
        sites.until("gone")
    finally:
        sites.close()
    assert sites.said == []
    check(database, sites.acknowledged)
    assert len(sites.acknowledged) > KILLS
    assert query.events(database, open_only=True) == []

    events = query.events(database)
    expected = {f"{event.id}-{kind}" for event in events for kind in ("started", "ended")}
    deliveries = collections.Counter(key for key, _ in receiver.got)
    assert set(deliveries) == expected
    unmarked = collections.Counter(key for key, marked in receiver.got if not marked)
    assert max(unmarked.values()) == 1
    repeated = [key for key, count in deliveries.items() if count > 1]
    told = query.told(database, [event.id for event in events])
    sure = {
        f"{event}-{row.kind}"
        for event, rows in told.items()
        for row in rows
        if not row.maybe_repeated
    }
    assert sure.isdisjoint(repeated)
    assert {event.ended_by for event in events} == {"score", "restart"}
