"""MQTT: events and states at QoS 1, and discovery for Home Assistant.

::

    TOPIC/SITE/availability            online | offline       retained; offline is our last will
    TOPIC/SITE/STREAM/availability     online | offline       retained: whether frames are scored
    TOPIC/SITE/STREAM/alarm            ON | OFF               retained
    TOPIC/SITE/STREAM/event            JSON, see message.py   each start and end of an event
    TOPIC/SITE/STREAM/score            2.3140                 the latest, every 10 s, QoS 0

A row counts as delivered when the broker has acknowledged its event and its state. The client keeps
what was not acknowledged and sends it again by itself when the broker is back, so a second try of a
row only waits for that: nothing is published twice by us. A broker may still pass on the same
message twice, as QoS 1 allows; `id` in the JSON tells.
"""

import contextlib
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import MqttSettings
from vad_runtime.live.status import StreamStatus
from vad_runtime.sinks.base import DeliveryError
from vad_runtime.sinks.message import event_message, network_reason, one_line
from vad_runtime.sinks.mqtt_topics import Topics, discovery

if TYPE_CHECKING:
    from vad_runtime.store.outbox import Due

KEEP_ALIVE_S = 30
SCORES_S = 10.0
LONGEST_RECONNECT_S = 30
ANEW_S = 300.0
"""Without a connection for so long, the client is made anew."""
MOST_QUEUED = 5000
CLOSE_S = 2.0
CONNECTING = "not connected yet"
REFUSED = "the broker refuses us"
SCORED = ("live", "ended")
"""States of a stream in which its alarm topic says something."""


class MqttSink:
    """Keeps a connection to one broker; paho's own thread reads and reconnects.

    Args:
        name: As in the site file.
        settings: Broker and topics.
        site: Name of the site, second part of every topic.
        streams: Names of the streams that are told of.
        statuses: Asked about every 10 s for scores and states of the streams; from the delivery
            thread, must not block. None = only events are told.
        clock: Durations, seconds.

    Raises:
        ConfigError: A topic cannot be used.
    """

    kind = "mqtt"
    most = 20
    by_stream = False

    def __init__(
        self,
        name: str,
        settings: MqttSettings,
        *,
        site: str,
        streams: Sequence[str],
        statuses: Callable[[], Sequence[StreamStatus]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            settings.host.encode("idna")
        except UnicodeError:
            raise ConfigError(
                f"sinks.{name}.host: {settings.host!a} is no host name. Write one such as "
                "broker.example.org."
            ) from None
        self.name = name
        self._settings, self._clock, self._statuses = settings, clock, statuses
        self._streams = list(streams)
        self._topics = Topics(name, settings, site)
        self._site = site
        # Never held while paho is called: paho calls us back under locks of its own.
        self._lock = threading.Condition()
        self._connected = False  # these four under the lock
        self._greeting = False
        self._why = CONNECTING
        self._down_since = clock()
        # The rest belongs to the delivery thread.
        self._flying: dict[int, list[paho.MQTTMessageInfo]] = {}  # row -> its messages
        self._alarms: dict[str, tuple[tuple[str, bool], bool]] = {}  # stream -> by what, ON or OFF
        self._online: dict[str, bool] = {}
        self._next_scores = -float("inf")
        self._closed = False
        self._client: paho.Client | None = None

    def wait_s(self, stream: str) -> float:  # noqa: ARG002  # as every sink
        """Return 0: nothing is held back."""
        return 0.0

    def tick(self) -> str:
        """Connect at the first call, greet after each connection, tell scores and states.

        Returns:
            Why there is no connection; empty where there is one.
        """
        with self._lock:
            connected, why = self._connected, self._why
            down_s = 0.0 if connected else self._clock() - self._down_since
        if down_s > ANEW_S and self._client is not None:
            # Whatever has happened to paho's thread: a new client begins from the start.
            self._end(self._client)
            self._client = None
            self._flying.clear()
        if self._client is None and not self._closed:
            self._client = self._started()
        if not connected or self._client is None:
            return self._told(why)
        self._greet(self._client)
        now = self._clock()
        if self._statuses is not None and now >= self._next_scores:
            self._next_scores = now + SCORES_S
            self._tell_streams(self._client, self._statuses())
        return ""

    def try_out(self) -> str:
        """Connect and log in, and publish nothing; return what was done. Of a sink not in use.

        Raises:
            DeliveryError: The broker does not take us.
        """
        settings = self._settings
        client = self._started(will=False)
        with self._lock:
            self._lock.wait_for(lambda: self._why != CONNECTING, settings.timeout_s)
            connected, why = self._connected, self._why
        self._end(client)
        if not connected:
            raise DeliveryError(self._told(why))
        done = [f"answers at {settings.host}:{settings.port}"]
        done += ["encrypted"] if settings.tls else []
        return ", ".join(done + (["logged in"] if settings.user is not None else []))

    def deliver(self, batch: "Sequence[Due]") -> None:
        """Publish rows and wait for the broker's acknowledgements.

        Raises:
            DeliveryError: Not all were acknowledged in time.
        """
        until = self._clock() + self._settings.timeout_s
        with self._lock:
            if self._why == CONNECTING:  # the first connection takes a moment
                self._lock.wait_for(lambda: self._why != CONNECTING, self._settings.timeout_s)
            connected, why = self._connected, self._why
        client = self._client
        if client is not None and connected:
            self._greet(client)
            if len(self._flying) > 50 * self.most:  # rows that were given up while they flew
                kept = [due.id for due in batch if due.id in self._flying]
                self._flying = {row: self._flying[row] for row in kept}
            for due in batch:
                if due.id not in self._flying:
                    self._flying[due.id] = self._publish(client, due)
            for due in batch:
                for info in self._flying[due.id]:
                    info.wait_for_publish(max(0.0, until - self._clock()))
            with self._lock:
                lost, why = not self._connected, self._why
            if not lost:
                why = f"no acknowledgement within {self._settings.timeout_s:g} s"
        flying = any(due.id in self._flying for due in batch)
        done = [due for due in batch if self._arrived(due)]
        if len(done) < len(batch):
            raise DeliveryError(self._told(why), maybe_delivered=flying, done=done)

    def close(self) -> None:
        """Say that the site is offline and end the connection, within two seconds."""
        if self._closed:
            return
        self._closed = True
        client, self._client = self._client, None
        if client is None:
            return
        with self._lock:
            connected = self._connected
        if connected:
            with contextlib.suppress(RuntimeError, ValueError):
                info = client.publish(self._topics.site_availability, "offline", 1, retain=True)
                info.wait_for_publish(CLOSE_S / 2)
        self._end(client)

    def _end(self, client: paho.Client) -> None:
        client.disconnect()
        # loop_stop waits for paho's thread, which may be in a name look-up for half a minute.
        stopper = threading.Thread(target=client.loop_stop, name="vad-mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(CLOSE_S / 2)

    # -- messages ----------------------------------------------------------------------------------

    def _publish(self, client: paho.Client, due: "Due") -> list[paho.MQTTMessageInfo]:
        stream = due.event.stream
        message = event_message(due)
        if due.maybe_repeated:
            message["maybe_repeated"] = True
        body = json.dumps(message, separators=(",", ":"))
        infos = [self._send(client, self._topics.event(stream), body, retain=False)]
        # Events' ids rise with time, which the clock need not do. An old row must not switch a
        # newer alarm.
        order = (due.event.id, due.kind == "ended")
        known = self._alarms.get(stream)
        if known is None or order >= known[0]:
            alarm = due.kind == "started"
            self._alarms[stream] = (order, alarm)
            infos.append(self._send(client, self._topics.alarm(stream), _on(alarm), retain=True))
        return infos

    def _send(
        self, client: paho.Client, topic: str, text: str, *, retain: bool
    ) -> paho.MQTTMessageInfo:
        info = client.publish(topic, text, qos=1, retain=retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN:
            # Lost this very moment: paho keeps the message and sends it with the next connection.
            info.rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            reason = "the broker acknowledges nothing, and too much waits for it"
            raise DeliveryError(self._told(reason), maybe_delivered=True)
        return info

    def _arrived(self, due: "Due") -> bool:
        infos = self._flying.get(due.id)
        if infos is None or not all(info.is_published() for info in infos):
            return False
        del self._flying[due.id]
        return True

    def _greet(self, client: paho.Client) -> None:
        """After each connection, tell everything that a broker without a memory has forgotten."""
        with self._lock:
            greeting, self._greeting = self._greeting, False
        if not greeting:
            return
        for topic, config in discovery(
            self._topics, self._site, self._streams, scores=self._statuses is not None
        ):
            client.publish(topic, json.dumps(config), qos=1, retain=True)
        for stream in self._streams:
            if self._statuses is None or stream in self._online:
                text = _line(self._online.get(stream, True))
                client.publish(self._topics.availability(stream), text, qos=1, retain=True)
        for stream, (_, alarm) in self._alarms.items():
            client.publish(self._topics.alarm(stream), _on(alarm), qos=1, retain=True)
        client.publish(self._topics.site_availability, "online", qos=1, retain=True)

    def _tell_streams(self, client: paho.Client, statuses: Sequence[StreamStatus]) -> None:
        for status in statuses:
            if status.name not in self._streams:
                continue
            online = status.state in SCORED
            if self._online.get(status.name) is not online:
                self._online[status.name] = online
                topic = self._topics.availability(status.name)
                client.publish(topic, _line(online), qos=1, retain=True)
            if status.name not in self._alarms:
                # Nobody has told a receiver yet what it is now; rows do so from here on.
                self._alarms[status.name] = (("", False), status.alarm)
                topic = self._topics.alarm(status.name)
                client.publish(topic, _on(status.alarm), qos=1, retain=True)
            if online and status.score is not None:
                client.publish(self._topics.score(status.name), f"{status.score:.4f}", qos=0)

    # -- the connection ----------------------------------------------------------------------------

    def _started(self, *, will: bool = True) -> paho.Client:
        settings = self._settings
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            # Two clients of one name would throw each other out for ever.
            client_id=f"vad-{self._site[:10]}-{secrets.token_hex(4)}",
            protocol=paho.MQTTv311,
        )
        if settings.user is not None:
            password = None if settings.password is None else settings.password.reveal()
            client.username_pw_set(settings.user.reveal(), password)
        if settings.tls:
            client.tls_set()
        if will:
            client.will_set(self._topics.site_availability, "offline", qos=1, retain=True)
        client.connect_timeout = settings.timeout_s
        # A connection that breaks again and again must not pile up greetings without end.
        client.max_queued_messages_set(MOST_QUEUED)
        client.reconnect_delay_set(1, LONGEST_RECONNECT_S)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        with self._lock:
            self._why, self._down_since = CONNECTING, self._clock()
        client.connect_async(settings.host, settings.port, KEEP_ALIVE_S)
        client.loop_start()
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _more: Any) -> None:
        if code.is_failure:
            self._down(f"{REFUSED} ({one_line(str(code))})")
            return
        with self._lock:
            self._connected = self._greeting = True
            self._why = ""
            self._lock.notify_all()

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        error = sys.exc_info()[1]  # paho calls us while it handles the error
        reason = "no connection"
        if isinstance(error, Exception):
            reason = network_reason(error, self._settings.timeout_s)
        self._down(reason)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _more: Any) -> None:
        with self._lock:
            refused = self._why.startswith(REFUSED)  # says more than "lost"
        if not refused:
            self._down(f"the connection was lost ({one_line(str(code))})")

    def _down(self, why: str) -> None:
        with self._lock:
            if self._connected:
                self._down_since = self._clock()
            self._connected, self._why = False, why
            self._lock.notify_all()

    def _told(self, reason: str) -> str:
        return f"{self._settings.host}:{self._settings.port}: {reason}"


def _on(alarm: bool) -> str:
    return "ON" if alarm else "OFF"


def _line(online: bool) -> str:
    return "online" if online else "offline"
