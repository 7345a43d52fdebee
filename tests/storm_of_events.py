"""A site that stores and tells a storm of events, to be killed: a program, run by a test.

    python storm_of_events.py DATABASE URL

For each line on stdin it forks a site that goes on with the same database, and prints `site PID`:
Python starts once, and each kill is still one of a whole process. A site prints `ack KIND ID` for
what the store has acknowledged. `drain` makes one that tells what is left, and prints `drained`.
"""

import os
import random
import sys
import time
from pathlib import Path

import msgspec

from vad_runtime.contracts.site import Secret, WebhookSettings
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.events import new_event_id
from vad_runtime.sinks.delivery import Delivery
from vad_runtime.sinks.webhook import WebhookSink
from vad_runtime.store.outbox import Outbox
from vad_runtime.store.writer import StoreWriter

EVENTS = 10


def out(line: str) -> None:
    # One write a line: a killed process leaves none by halves.
    os.write(1, f"{line}\n".encode())


def site(path: Path, url: str, life: int, *, drain: bool) -> None:
    deliveries: list[Delivery] = []

    def stored(changes: list[EventChange]) -> None:
        for change in changes:
            out(f"ack {change.kind} {change.event.id}")
        for delivery in deliveries:
            delivery.wake()

    def say(line: str) -> None:
        out(f"say {line}")

    store = StoreWriter(path, lambda stream: ["hook"], say=say, on_stored=stored, heartbeat_s=0.01)
    outbox = Outbox(path)
    delivery = Delivery(WebhookSink("hook", WebhookSettings(url=Secret(url))), outbox, say=say)
    deliveries.append(delivery)
    delivery.start()
    if drain:
        store.close()  # what the last site left open is ended by now
        while outbox.pending("hook"):
            time.sleep(0.02)
        delivery.close()
        outbox.close()
        out("drained")
        return
    chance = random.Random(life)
    for number in range(EVENTS):
        event = EventRecord(
            id=new_event_id(),
            site="depot",
            stream=f"camera{number % 3}",
            start_s=time.time(),
            end_s=None,
            peak_s=time.time(),
            peak_score=2.0,
            threshold=1.0,
            reason="storm",
            start_frame=life * 1000 + number,
            end_frame=None,
        )
        store.put(EventChange(kind="started", event=event))
        time.sleep(chance.random() * 0.004)
        over = msgspec.structs.replace(event, end_s=time.time(), end_frame=1, ended_by="score")
        store.put(EventChange(kind="ended", event=over))
    time.sleep(60)


def main() -> None:
    path, url = Path(sys.argv[1]), sys.argv[2]
    for life, line in enumerate(sys.stdin):
        child = os.fork()
        if not child:
            site(path, url, life, drain=line.strip() == "drain")
            os._exit(0)
        out(f"site {child}")
        os.waitpid(child, 0)
        out("gone")


if __name__ == "__main__":
    main()
