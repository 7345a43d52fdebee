"""The topics of a site, and what Home Assistant is told of them."""

from collections.abc import Iterator, Sequence
from typing import Any

from vad_runtime.contracts.errors import ConfigError
from vad_runtime.contracts.site import MqttSettings


class Topics:
    """Names of all topics of one sink.

    Args:
        name: Of the sink, for errors.
        settings: First parts of the topics.
        site: Second part.

    Raises:
        ConfigError: A first part holds a wildcard, or begins or ends with a slash.
    """

    def __init__(self, name: str, settings: MqttSettings, site: str) -> None:
        for key, text in (("topic", settings.topic), ("discovery", settings.discovery)):
            if text is not None and (
                not text or not text.isprintable() or text.strip("/") != text or set(text) & {*"+#"}
            ):
                raise ConfigError(
                    f"sinks.{name}.{key}: {text!a} is no beginning of an MQTT topic. Write one "
                    "such as vad-edge, without + and #."
                )
        self.base = f"{settings.topic}/{site}"
        self.prefix = settings.discovery
        self.site_availability = f"{self.base}/availability"

    def availability(self, stream: str) -> str:
        """Return where a stream says whether it is scored."""
        return f"{self.base}/{stream}/availability"

    def alarm(self, stream: str) -> str:
        """Return where a stream says ON or OFF."""
        return f"{self.base}/{stream}/alarm"

    def event(self, stream: str) -> str:
        """Return where starts and ends of events go."""
        return f"{self.base}/{stream}/event"

    def score(self, stream: str) -> str:
        """Return where the latest score goes."""
        return f"{self.base}/{stream}/score"


def discovery(
    topics: Topics, site: str, streams: Sequence[str], *, scores: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield topic and payload for each entity of Home Assistant: an alarm per stream, and a score.

    Fields: Home Assistant's documentation of MQTT discovery, "binary_sensor" and "sensor".
    """
    if topics.prefix is None:
        return
    for stream in streams:
        node = f"vad-edge_{site}_{stream}"
        common: dict[str, Any] = {
            "availability": [
                {"topic": topics.site_availability},
                {"topic": topics.availability(stream)},
            ],
            "availability_mode": "all",
            "device": {
                "identifiers": [node],
                "name": f"{site} {stream}",
                "manufacturer": "vad-edge",
                "model": "video anomaly detection",
            },
            "origin": {"name": "vad-edge"},
        }
        alarm = {
            "name": "Alarm",
            "unique_id": f"{node}_alarm",
            "device_class": "problem",
            "state_topic": topics.alarm(stream),
            "payload_on": "ON",
            "payload_off": "OFF",
            "json_attributes_topic": topics.event(stream),
        }
        yield f"{topics.prefix}/binary_sensor/{node}/alarm/config", alarm | common
        if not scores:
            continue
        score = {
            "name": "Score",
            "unique_id": f"{node}_score",
            "state_class": "measurement",
            "state_topic": topics.score(stream),
            "suggested_display_precision": 2,
        }
        yield f"{topics.prefix}/sensor/{node}/score/config", score | common
