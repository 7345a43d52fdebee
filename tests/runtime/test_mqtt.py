import json
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from helpers_servers import SITE, Broker, change, free_port, listener, store, until
from paho.mqtt import client as paho

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import MqttSettings
from vad_runtime.live.status import StreamStatus
from vad_runtime.sinks.delivery import Delivery, DeliveryError
from vad_runtime.sinks.mqtt import MqttSink
from vad_runtime.sinks.mqtt_topics import Topics, discovery
from vad_runtime.store.outbox import Due, Outbox


def status(state: str = "live", **values: object) -> StreamStatus:
    known = {"name": "gate", "source": "", "bundle": "", "state_since_s": 0.0, "score": 2.25}
    return StreamStatus(**(known | {"state": state} | values))  # type: ignore[arg-type]


def sink(port: int, **values: object) -> MqttSink:
    settings = MqttSettings(host="127.0.0.1", port=port, timeout_s=5.0)
    return MqttSink("bus", settings, site=SITE, streams=["gate", "yard"], **values)  # type: ignore[arg-type]


def hears(heard: list[tuple[str, str, bool]], topic: str, text: str) -> None:
    """Wait until the latest word on a topic is this."""
    until(lambda: dict(one[:2] for one in heard).get(topic) == text, what=f"{topic} {text}")


def test_alarms_survive_a_restart_of_the_broker_and_home_assistant_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vad_runtime.sinks.delivery.LONGEST_WAIT_S", 0.3)
    monkeypatch.setattr("vad_runtime.sinks.mqtt.LONGEST_RECONNECT_S", 1)
    database, lines = tmp_path / "vad.db", []
    outbox = Outbox(database)
    with Broker() as broker:
        bus = sink(broker.port, statuses=lambda: [status(), status("lost", name="yard")])
        delivery = Delivery(bus, outbox, say=lines.append)
        with listener(broker.port) as heard:
            store(database, [change(1)], "bus")
            delivery.start()
            expected = {
                "availability": "online",
                "gate/availability": "online",
                "yard/availability": "offline",
                "gate/alarm": "ON",
                "gate/score": "2.2500",
            }
            for topic, text in expected.items():
                hears(heard, f"vad-edge/{SITE}/{topic}", text)
            until(lambda: delivery.health().done == 1)
            said = {topic: text for topic, text, _ in heard}
            told = json.loads(said[f"vad-edge/{SITE}/gate/event"])
            assert told["kind"] == "started"
            assert told["event"]["stream"] == "gate"
            found = f"homeassistant/binary_sensor/vad-edge_{SITE}_gate/alarm/config"
            assert json.loads(said[found])["state_topic"] == f"vad-edge/{SITE}/gate/alarm"
        broker.kill()
        until(lambda: not delivery.health().ok, what="the trouble")
        store(database, [change(1, "ended")], "bus")
        delivery.wake()
        until(lambda: delivery.health().queued == 1)
        broker.start()
        with listener(broker.port) as heard:
            until(lambda: delivery.health().done == 2, seconds=20, what="the end of the event")
            hears(heard, f"vad-edge/{SITE}/gate/alarm", "OFF")
            ends = [text for topic, text, _ in heard if topic.endswith("gate/event")]
            assert [json.loads(text)["id"] for text in ends] == [change(1).event.id + "-ended"]
            until(lambda: delivery.health().ok)
            before = len(heard)
            assert sink(broker.port).try_out() == f"answers at 127.0.0.1:{broker.port}"
            assert not [one for one in heard[before:] if "availability" in one[0]]
            delivery.close()
            hears(heard, f"vad-edge/{SITE}/availability", "offline")
    outbox.close()
    assert outbox_is_empty(database)
    assert f"127.0.0.1:{broker.port}: " in lines[0]
    assert "works again" in lines[-1]
    assert len(lines) == 2


def test_an_old_row_that_is_told_late_does_not_switch_a_newer_alarm() -> None:
    class Client:
        said: ClassVar[list[tuple[str, str]]] = []

        def publish(self, topic: str, text: str, **_: object) -> paho.MQTTMessageInfo:
            self.said.append((topic.rpartition("/")[2], text))
            return paho.MQTTMessageInfo(1)

    bus, client = sink(free_port()), Client()
    for number, kind in ((1, "started"), (2, "started"), (1, "ended"), (2, "ended")):
        row = Due(
            id=number,
            event=change(number, kind).event,
            kind=kind,  # type: ignore[arg-type]
            sink="bus",
            attempts=0,
            created_s=0.0,
            maybe_repeated=False,
        )
        bus._publish(client, row)  # type: ignore[arg-type]
    assert [text for topic, text in client.said if topic == "alarm"] == ["ON", "ON", "OFF"]
    assert sum(topic == "event" for topic, _ in client.said) == 4


def outbox_is_empty(database: Path) -> bool:
    outbox = Outbox(database)
    try:
        return outbox.pending("bus") == 0
    finally:
        outbox.close()


def test_a_broker_that_is_not_there_is_a_trouble_before_any_alert_and_closing_is_quick() -> None:
    bus = sink(free_port())
    before = threading.active_count()
    with pytest.raises(DeliveryError, match="connection refused"):
        sink(free_port()).try_out()
    until(lambda: "connection refused" in bus.tick(), what="the reason")
    start = time.monotonic()
    bus.close()
    bus.close()
    assert time.monotonic() - start < 3
    until(lambda: threading.active_count() <= before, seconds=6)


def test_discovery_names_an_alarm_and_a_score_of_each_stream() -> None:
    topics = Topics("bus", MqttSettings(host="h"), SITE)
    found = dict(discovery(topics, SITE, ["gate"], scores=True))
    alarm = found[f"homeassistant/binary_sensor/vad-edge_{SITE}_gate/alarm/config"]
    assert alarm["device_class"] == "problem"
    assert [one["topic"] for one in alarm["availability"]] == [
        f"vad-edge/{SITE}/availability",
        f"vad-edge/{SITE}/gate/availability",
    ]
    assert len({one["unique_id"] for one in found.values()}) == len(found) == 2
    nothing = Topics("bus", MqttSettings(host="h", discovery=None), SITE)
    assert not list(discovery(nothing, SITE, ["gate"], scores=True))


@pytest.mark.parametrize("topic", ["a/#", "+", "/a", "a/", "", "a\nb"])
def test_a_topic_with_wildcards_or_empty_ends_is_refused(topic: str) -> None:
    with pytest.raises(ConfigError, match=r"sinks\.bus\.topic"):
        Topics("bus", MqttSettings(host="h", topic=topic), SITE)


def test_a_host_that_is_no_name_is_refused_before_paho_dies_of_it() -> None:
    with pytest.raises(ConfigError, match=r"sinks\.bus\.host"):
        MqttSink("bus", MqttSettings(host="a..b"), site=SITE, streams=[])
