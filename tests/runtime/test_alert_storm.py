"""A storm of alarms, from scores to a real mail server: few mails, every row in the database."""

import math
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import frame
from helpers_servers import SITE, MailServer, until

from vad_runtime.contracts import Scoring
from vad_runtime.contracts.site import EventSettings, MailSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange
from vad_runtime.live.events import EventTracker
from vad_runtime.sinks.delivery import Delivery
from vad_runtime.sinks.mail import MailSink
from vad_runtime.store.outbox import Outbox
from vad_runtime.store.writer import StoreWriter

FPS = 50.0
UNIX = 1_800_000_000.0
PIXELS = np.zeros((2, 2, 1), np.uint8)
CROSSINGS = 1000
SCORES = (2.0, 0.1, 0.1)
"""Over the threshold and back, 1,000 times in a minute at 50 frames a second."""


class CountingOutbox(Outbox):
    """Counts the rows that it was asked for."""

    read = 0

    def due(self, sink: str, now: float, limit: int = 100, *, skip: Collection[str] = ()) -> Any:
        found = super().due(sink, now, limit, skip=skip)
        self.read += len(found)
        return found


class Minute:
    """Cameras, store and mail of a site; time passes only where `camera` says so."""

    def __init__(self, folder: Path, port: int, every_s: float, events: EventSettings) -> None:
        self.passed_s, self.frames = 0.0, 0
        self.lines: list[str] = []
        self.path = folder / "vad.db"
        scoring = Scoring(threshold=1.0, release=0.5)
        self.writer = StoreWriter(
            self.path, lambda _: ["office"], say=self.lines.append, wall=self.unix
        )
        self.outbox = CountingOutbox(self.path, wall=self.unix)
        settings = MailSettings(
            host="127.0.0.1",
            port=port,
            tls="none",
            sender="vad@example.org",
            to=["guard@example.org"],
            every_s=every_s,
        )
        say = self.lines.append
        office = MailSink(
            "office", settings, site=SITE, data_folder=folder, say=say, clock=self.clock
        )
        self.delivery = Delivery(office, self.outbox, say=say, clock=self.clock, unix=self.unix)
        self.tracker = EventTracker(SITE, "gate", scoring, events, "score", clock=self.clock)

    def clock(self) -> float:
        return 1000.0 + self.passed_s

    def unix(self) -> float:
        return UNIX + self.passed_s

    def camera(self, scores: Sequence[float] = SCORES, seconds: int = 60) -> Iterator[int]:
        """Let time pass, with these scores over and over; yields after each second."""
        for _ in range(seconds):
            for _ in range(int(FPS)):
                score = scores[self.frames % len(scores)]
                scored = ScoredFrame(
                    frame=frame(self.frames, PIXELS, fps=FPS),
                    raw=score,
                    score=score,
                    alarm=False,
                    status="scored",
                )
                self.store(self.tracker.update(scored, self.unix()))
                self.frames += 1
                self.passed_s += 1 / FPS
            yield self.frames

    def store(self, changes: list[EventChange]) -> None:
        for change in changes:
            assert self.writer.put(change)

    def stop(self) -> None:
        self.store(self.tracker.stop(self.unix()))

    def deliver(self) -> None:
        """Send what is due, once everything is on disk."""
        until(lambda: self.writer.health().queued == 0)
        while self.delivery.step() == 0:
            pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(query).fetchall()

    def close(self) -> None:
        assert self.writer.close() == 0
        self.delivery.close()
        self.outbox.close()


@pytest.mark.parametrize("every_s", [60.0, 20.0])
def test_a_thousand_crossings_in_a_minute_give_the_configured_mails_and_lose_no_event(
    tmp_path: Path, every_s: float
) -> None:
    with MailServer() as server:
        site = Minute(tmp_path, server.port, every_s, EventSettings())
        for _ in site.camera():
            site.deliver()
        during = len(server.mails)
        site.stop()
        site.passed_s += every_s  # the rest is held back for so long
        site.deliver()
        site.passed_s += 10 * every_s  # and nothing is left to be told
        site.deliver()
    assert during == math.ceil(60.0 / every_s)
    assert len(server.mails) == during + 1
    assert site.rows("SELECT count(*), count(DISTINCT id), count(end_s) FROM events") == [
        (CROSSINGS, CROSSINGS, CROSSINGS)
    ]
    told = site.rows("SELECT kind, state, max(attempts), count(*) FROM outbox GROUP BY kind, state")
    assert told == [("ended", "sent", 1, CROSSINGS), ("started", "sent", 1, CROSSINGS)]
    assert site.rows("SELECT start_frame FROM events ORDER BY id") == [
        (3 * number,) for number in range(CROSSINGS)
    ]
    health = site.writer.health()
    assert (health.done, health.dropped) == (2 * CROSSINGS, 0)
    assert site.outbox.read < 2.5 * 2 * CROSSINGS  # what is held back is not read every second
    site.close()
    assert not site.lines


def test_a_cooldown_makes_the_storm_few_events_which_count_every_crossing(tmp_path: Path) -> None:
    settings = EventSettings(merge_s=0.5, cooldown_s=10.0, longest_s=1.0)
    with MailServer() as server:
        site = Minute(tmp_path, server.port, 60.0, settings)
        for _ in site.camera():
            site.deliver()
        for scores, seconds in (((0.1,), 15), ((2.0,), 1)):  # what was kept quiet is told then
            for _ in site.camera(scores, seconds):
                site.deliver()
        site.stop()
        site.passed_s += 60.0
        site.deliver()
    query = "SELECT count(*), count(end_s), sum(alarms), sum(suppressed) FROM events"
    ((events, ended, alarms, suppressed),) = site.rows(query)
    assert events == ended
    assert 3 < events < 20
    assert suppressed == site.tracker.suppressed
    assert alarms + suppressed == CROSSINGS + 1
    assert len(server.mails) == 3
    site.close()
    assert not site.lines
