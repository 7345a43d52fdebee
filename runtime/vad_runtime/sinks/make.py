"""Any sink of alerts from its settings; what needs an extra is imported only for its own kind."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vad_runtime.contracts.site import LinesSettings, MailSettings, SinkSettings, WebhookSettings
from vad_runtime.live.status import StreamStatus
from vad_runtime.sinks.base import Sink


def make_sink(
    name: str,
    settings: SinkSettings,
    *,
    site: str,
    streams: Sequence[str],
    folder: Path,
    data_folder: Path,
    say: Callable[[str], None],
    statuses: Callable[[], Sequence[StreamStatus]] | None = None,
) -> Sink:
    """Make a sink for a `Delivery`. Opens no connection and no file.

    Args:
        name: As in the site file.
        settings: Of one of the kinds.
        site: Name of the site.
        streams: Names of the site's streams; the sink's own choice is made here.
        folder: What a path in the settings starts from.
        data_folder: What the events' snapshots start from.
        say: Gets one line per change of state; must be thread-safe.
        statuses: Asked by MQTT about every 10 s for scores and states; must not block.

    Raises:
        ConfigError: The settings cannot be used.
        ModuleNotFoundError: MQTT without paho-mqtt.
    """
    if isinstance(settings, MailSettings):
        from vad_runtime.sinks.mail import MailSink

        return MailSink(name, settings, site=site, data_folder=data_folder, say=say)
    if isinstance(settings, WebhookSettings):
        from vad_runtime.sinks.webhook import WebhookSink

        return WebhookSink(name, settings)
    if isinstance(settings, LinesSettings):
        from vad_runtime.sinks.lines import LinesSink

        return LinesSink(name, folder / settings.file)
    from vad_runtime.sinks.mqtt import MqttSink

    heard = [one for one in streams if settings.streams is None or one in settings.streams]
    return MqttSink(name, settings, site=site, streams=heard, statuses=statuses)
