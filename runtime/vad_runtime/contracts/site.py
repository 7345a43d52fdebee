"""What a site is: its streams, its alarms and who hears of them. The content of a site file."""

import math
import re
from typing import Annotated, Literal

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Decoder = Literal["auto", "software", "nvdec", "gstreamer"]
Policy = Literal["drop-oldest", "widen-hop", "error"]
EventKind = Literal["started", "ended"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z")
"""Names become parts of file names, of MQTT topics and of metrics' labels."""


class Secret:
    """A text that never shows itself: passwords, tokens, addresses that hold one.

    `str`, `repr` and f-strings give `***`; only `reveal` gives the text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")


class EventSettings(_Strict, frozen=True, kw_only=True):
    """How scores become events; None = as the bundle's manifest says."""

    threshold: float | None = None
    release: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    min_duration_s: NotNegative | None = None
    """The score must stay up for this long before an event starts, seconds."""
    merge_s: NotNegative = 0.0
    """An alarm that comes back within this time belongs to the same event, seconds."""
    cooldown_s: NotNegative = 0.0
    """After an event ends, none starts for this long, seconds; what would have is counted."""
    longest_s: Positive = 600.0
    """An event that lasts longer ends here, and a new one follows, so that no clip grows without
    bound, seconds."""


class ReconnectSettings(_Strict, frozen=True, kw_only=True):
    """How a lost stream is sought again: exponential backoff with full jitter."""

    first_s: Positive = 0.25
    """Longest wait before the first try, seconds; doubles with each try."""
    longest_s: Positive = 2.0
    """Longest wait of all, seconds."""
    refused_s: Positive = 30.0
    """Longest wait where the camera refuses our credentials: many lock an account otherwise."""


class WatchdogSettings(_Strict, frozen=True, kw_only=True):
    """When a stream that raises no error is not well."""

    connect_s: Positive = 5.0
    """Longest time for connecting, seconds."""
    stalled_s: Positive = 3.0
    """Without a frame for so long the stream is stalled and is connected anew, seconds."""
    frozen_s: Positive = 10.0
    """The same picture for so long is a frozen camera, seconds; its frames are not scored."""
    behind_s: Positive = 3.0
    """Decoding that lags so far behind the camera is caught up by dropping, seconds."""


class StreamSettings(_Strict, frozen=True, kw_only=True):
    """One camera, or a recording in the place of one."""

    source: Secret
    """What `vad-run watch` takes: rtsp://, http://, /dev/video0, `gst: PIPELINE`, a file, a glob.
    Shown only by `vad_runtime.sources.address.masked`, since it may hold a password."""
    bundle: str | None = None
    """Path of the bundle, from the site file's folder; None = the site's."""
    decoder: Decoder = "auto"
    transport: Literal["tcp", "udp"] = "tcp"
    hop: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Source frames from one clip to the next; None = the bundle's."""
    target_ms: Positive | None = None
    """Longest time from a clip's last frame to its score; None = hop / fps, milliseconds."""
    policy: Policy = "drop-oldest"
    """What happens when clips come too late."""
    fps: Literal["adapt", "keep"] = "adapt"
    """adapt = frames are left out by their times where the camera is faster than the footage that
    the model was trained on."""
    loop: bool = False
    """A recording starts over at its end."""
    events: EventSettings = EventSettings()
    reconnect: ReconnectSettings = ReconnectSettings()
    watchdog: WatchdogSettings = WatchdogSettings()


class EngineSettings(_Strict, frozen=True, kw_only=True):
    """What computes; as the options of `vad-run watch`."""

    backend: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "mixed"] = "auto"
    device: str = "auto"
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    engine: str | None = None
    """A TensorRT plan or a folder of plans, from the site file's folder."""
    batch: Annotated[int, msgspec.Meta(ge=1)] = 8
    """Most clips in one run on a GPU; a processor takes one at a time."""


class MediaSettings(_Strict, frozen=True, kw_only=True):
    """What is kept of an event besides its row."""

    clips: bool = True
    pre_s: NotNegative = 5.0
    """A clip starts so long before its event, at the key frame before, seconds."""
    post_s: NotNegative = 5.0
    """A clip ends so long after its event, seconds."""
    snapshots: bool = True
    """A JPEG of the frame that raised the alarm, and of the peak."""
    overlay: bool = False
    """Keep a film of everything with score and alarm drawn in, in pieces of an hour."""
    scores: Literal["none", "csv", "jsonl"] = "none"
    """Keep the row of every frame, a file a day."""


class RetentionSettings(_Strict, frozen=True, kw_only=True):
    """How much may be kept; the oldest goes first, rows of events never do."""

    clips_gb: Positive = 10.0
    """Clips, snapshots, films and score files together, 10^9 bytes."""
    days: Positive | None = None
    """Files older than this go in any case, days."""
    free_gb: NotNegative = 0.5
    """So much is left free on the disk: below it the oldest files go, 10^9 bytes."""


class MailSettings(_Strict, frozen=True, kw_only=True, tag_field="kind", tag="mail"):
    """E-mail by SMTP."""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: Secret | None = None
    password: Secret | None = None
    sender: str
    to: Annotated[list[str], msgspec.Meta(min_length=1)]
    every_s: NotNegative = 60.0
    """After the mail of a start, the next about its stream waits for so long, and is a digest."""
    timeout_s: Positive = 20.0
    streams: list[str] | None = None
    """Only these streams; None = all."""


class WebhookSettings(_Strict, frozen=True, kw_only=True, tag_field="kind", tag="webhook"):
    """A POST of JSON for each start and end of an event."""

    url: Secret
    secret: Secret | None = None
    """Signs each request: `X-Vad-Signature: t=UNIX,v1=HMAC-SHA256("UNIX.BODY")` in hex."""
    headers: dict[str, Secret] = {}
    timeout_s: Positive = 10.0
    streams: list[str] | None = None


class MqttSettings(_Strict, frozen=True, kw_only=True, tag_field="kind", tag="mqtt"):
    """MQTT at QoS 1, with discovery for Home Assistant."""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    tls: bool = False
    user: Secret | None = None
    password: Secret | None = None
    topic: str = "vad-edge"
    """First part of every topic."""
    discovery: str | None = "homeassistant"
    """Prefix of Home Assistant's discovery; None = none."""
    timeout_s: Positive = 10.0
    streams: list[str] | None = None


class LinesSettings(_Strict, frozen=True, kw_only=True, tag_field="kind", tag="jsonl"):
    """A file to which a line of JSON is appended for each start and end of an event."""

    file: str
    """Path, from the site file's folder."""
    streams: list[str] | None = None


SinkSettings = MailSettings | WebhookSettings | MqttSettings | LinesSettings


class HealthSettings(_Strict, frozen=True, kw_only=True):
    """Where `/health`, `/status` and `/metrics` are served, without credentials and read-only."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 9108
    """0 = any free port, which is printed."""


class Site(_Strict, frozen=True, kw_only=True):
    """The content of a site file."""

    name: str = "site"
    data: str = "data"
    """Folder for the database, clips and snapshots, from the site file's folder."""
    bundle: str | None = None
    """Path of the bundle of each stream that names none."""
    engine: EngineSettings = EngineSettings()
    streams: Annotated[dict[str, StreamSettings], msgspec.Meta(min_length=1)]
    media: MediaSettings = MediaSettings()
    retention: RetentionSettings = RetentionSettings()
    sinks: dict[str, SinkSettings] = {}
    health: HealthSettings | None = HealthSettings()
    """None = nothing is served, and `vad-run status` has nobody to ask."""

    def __post_init__(self) -> None:
        """Refuse names that cannot be parts of file names and topics."""
        super().__post_init__()
        for kind, names in (("stream", self.streams), ("sink", self.sinks), ("site", [self.name])):
            for name in names:
                if not _NAME.match(name):
                    raise ValueError(
                        f"{name!r} is no name of a {kind}: letters, digits, - and _, "
                        "63 at most, a letter or digit first"
                    )
