"""Events on their way from the scorer to disk and from there to people."""

import sqlite3
import threading
from collections.abc import Callable, Sequence

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import MqttSettings, SinkSettings, Site
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.site_change import SiteChange
from vad_runtime.live.site_status import PartKind, part_status
from vad_runtime.live.status import PartStatus, StreamStatus
from vad_runtime.sinks.base import Sink
from vad_runtime.sinks.delivery import Delivery
from vad_runtime.sinks.make import make_sink
from vad_runtime.sinks.message import local_clock
from vad_runtime.site_file import SiteFile
from vad_runtime.store.outbox import Outbox
from vad_runtime.store.writer import StoreWriter
from vad_runtime.words import counted

_KINDS: dict[str, PartKind] = {
    "MailSettings": "mail",
    "WebhookSettings": "webhook",
    "MqttSettings": "mqtt",
    "LinesSettings": "jsonl",
}
_STORE_S = 10.0
_SINK_S = 2.0


class Alerts:
    """The store and the deliveries of a site.

    `put`, `parts` from any thread; the rest from the main thread.

    Args:
        file: Of the site.
        say: Takes a line for the log.
        open_events: Returns the events that are going on.
        statuses: Returns how the streams are, for sinks that show it.

    Raises:
        VadError: The database or a sink cannot be opened.
    """

    def __init__(
        self,
        file: SiteFile,
        *,
        say: Callable[[str], None],
        open_events: Callable[[], Sequence[EventRecord]],
        statuses: Callable[[], list[StreamStatus]],
    ) -> None:
        self._site: Site = file.site
        self._say, self._statuses = say, statuses
        sinks = {name: self._sink(file, name) for name in file.site.sinks}
        self._deliveries: dict[str, Delivery] = {}
        try:
            # The store first: it sets a damaged database aside.
            self._store = StoreWriter(
                file.database,
                self._sinks_of,
                say=say,
                on_stored=self._stored,
                open_events=open_events,
            )
            try:
                self._outbox = Outbox(file.database)
            except BaseException:
                self._store.close(_STORE_S)
                raise
        except BaseException:
            for sink in sinks.values():
                sink.close()
            raise
        self._deliveries = {name: self._delivery(sink) for name, sink in sinks.items()}

    def _sink(self, file: SiteFile, name: str) -> Sink:
        settings = file.site.sinks[name]
        streams = [s for s in file.site.streams if _hears(settings, s)]
        try:
            return make_sink(
                name,
                settings,
                site=file.site.name,
                streams=streams,
                folder=file.folder,
                data_folder=file.data,
                say=self._say,
                statuses=self._statuses,
            )
        except ModuleNotFoundError as error:  # a reload must not end what runs
            raise ConfigError(
                f"sinks.{name}: {error.name} is missing. Install it with: "
                "pip install 'vad-edge[site]'"
            ) from None

    def _delivery(self, sink: Sink) -> Delivery:
        return Delivery(sink, self._outbox, say=self._say)

    def start(self) -> None:
        """Start to deliver."""
        self._forget_others()
        for delivery in self._deliveries.values():
            delivery.start()

    def _forget_others(self) -> None:
        try:
            lost = self._outbox.drop_others([*self._site.sinks])
        except sqlite3.Error:
            return  # a full disk; they wait for the next start
        if lost:
            alerts = counted(lost, "alert")
            self._say(f"{alerts} of sinks that are no longer in the site file: given up")

    def put(self, change: EventChange) -> None:
        """Take a start or an end of an event, and tell the log at once; never blocks.

        Sinks hear of it when it is on disk. A disk that is full must not make alarms silent.
        """
        kept = self._store.put(change)
        why = self._store.health().trouble if kept else "it is lost"
        self._say(line_of(change) + (f"; NO ALERT GOES OUT: {why}" if why else ""))

    # -- the store's thread ----------------------------------------------------------------------

    def _sinks_of(self, stream: str) -> list[str]:
        return [name for name, sink in self._site.sinks.items() if _hears(sink, stream)]

    def _stored(self, changes: list[EventChange]) -> None:
        for change in changes:
            if change.event.ended_by == "restart":  # found on disk: nobody has put it
                self._say(line_of(change))
        for delivery in self._deliveries.values():
            delivery.wake()

    # -- reload ----------------------------------------------------------------------------------

    def prepared(self, new: SiteFile, change: SiteChange) -> dict[str, Sink]:
        """Make the sinks that a reload needs, without touching those that run.

        Raises:
            VadError: One of them cannot be made.
        """
        names = list(change.sinks_opened)
        before = [*self._site.streams]
        for name, settings in new.site.sinks.items():
            # It has told its broker of the streams that there were.
            moved = isinstance(settings, MqttSettings) and [*new.site.streams] != before
            if moved and name not in names:
                names.append(name)
        made: dict[str, Sink] = {}
        try:
            for name in names:
                made[name] = self._sink(new, name)
        except BaseException:
            for sink in made.values():
                sink.close()
            raise
        return made

    def change(self, new: SiteFile, made: dict[str, Sink]) -> None:
        """Exchange sinks; rows that wait go to the new sink of the same name."""
        gone = {
            name: delivery
            for name, delivery in self._deliveries.items()
            if name in made or name not in new.site.sinks
        }
        self._site = new.site
        _close_all([*gone.values()], _SINK_S)
        started = {name: self._delivery(sink) for name, sink in made.items()}
        kept = {n: delivery for n, delivery in self._deliveries.items() if n not in gone}
        self._deliveries = {**kept, **started}
        self._forget_others()
        for delivery in started.values():
            delivery.start()

    def close(self, deliver_s: float) -> None:
        """Store what waits, give sinks some time, and close.

        Args:
            deliver_s: Longest time for alerts that wait, seconds.
        """
        self._store.close(_STORE_S)
        _close_all([*self._deliveries.values()], deliver_s)
        self._outbox.close()

    def parts(self) -> list[PartStatus]:
        """Return how the store and the sinks are."""
        parts = [part_status(self._store.health(), "store")]
        sinks = self._site.sinks
        for name, delivery in self._deliveries.items():
            if name in sinks:
                kind = _KINDS[type(sinks[name]).__name__]
                parts.append(part_status(delivery.health(), kind))
        return parts


def _hears(settings: SinkSettings, stream: str) -> bool:
    return settings.streams is None or stream in settings.streams


def _close_all(deliveries: Sequence[Delivery], timeout_s: float) -> None:
    """Close all at once: each may need all of its time."""
    threads = [
        threading.Thread(target=delivery.close, args=(timeout_s,), name="vad-close", daemon=True)
        for delivery in deliveries
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s + 5.0)


def line_of(change: EventChange) -> str:
    """Return a start or end of an event as a line for the log."""
    event = change.event
    if change.kind == "started":
        at = local_clock(event.start_s)
        quiet = f", {event.suppressed} kept quiet before" if event.suppressed else ""
        return (
            f"{event.stream}: ALARM since {at}, score {event.peak_score:.2f} "
            f"(threshold {event.threshold:.2f}){quiet}"
        )
    lasted = "" if event.end_s is None else f" after {event.end_s - event.start_s:.1f} s"
    at = local_clock(event.peak_s)
    by = "" if event.ended_by in ("score", None) else f" (ended by {event.ended_by})"
    merged = f", {event.alarms} alarms" if event.alarms > 1 else ""
    return f"{event.stream}: alarm over{lasted}, peak {event.peak_score:.2f} at {at}{merged}{by}"
