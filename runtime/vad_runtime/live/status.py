"""What a running site says of itself: `/status`, `/metrics` and `vad-run status` read it."""

from typing import Literal

import msgspec

from vad_runtime.live.base import StreamState

SCHEMA = 1


class StageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of one stage since the stream was opened, milliseconds; NaN-free."""

    count: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. All counts since it was opened."""

    name: str
    source: str
    """The address, without credentials."""
    bundle: str
    state: StreamState
    state_since_s: float
    """Unix seconds."""
    state_reason: str = ""
    decoder: str = ""
    """What decodes, for example `software h264`; empty before the first connection."""
    width: int = 0
    height: int = 0
    camera_fps: float = 0.0
    """Measured over the last seconds."""
    scored_fps: float = 0.0
    frames: int = 0
    scored: int = 0
    clips: int = 0
    connections: int = 0
    """How often the stream was connected."""
    holes: dict[str, int] = {}
    """Why windows were emptied, and how often."""
    unscored: dict[str, int] = {}
    """Frames without a score, by cause."""
    dropped: dict[str, int] = {}
    """Frames or clips lost, by cause: `late clip`, `queue full`, `decoder behind`, …"""
    misses: int = 0
    """Clips that were scored after their deadline."""
    policy: str = ""
    hop: int = 0
    """Now; larger than the bundle's while `widen-hop` is at work."""
    target_ms: float = 0.0
    """Longest time from a clip's last frame to its score."""
    latency: StageStatus = StageStatus()
    """From the arrival of a clip's last frame to its score."""
    stages: dict[str, StageStatus] = {}
    """decode, queue, inference."""
    threshold: float | None = None
    score: float | None = None
    """The latest."""
    recent: list[float | None] = []
    """The largest score of each of the last seconds, oldest first, 120 at most; None = none."""
    alarm: bool = False
    events: int = 0
    last_event_s: float | None = None
    """Unix seconds of the last event's start."""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One engine and the bundle it runs."""

    bundle: str
    device: str
    """What really computes."""
    streams: list[str] = []
    clips: int = 0
    errors: int = 0
    busy: float = 0.0
    """Share of the last seconds in which it computed, 0 to 1."""
    trouble: str = ""


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The store, a sink, the media recorder."""

    name: str
    kind: Literal["store", "mail", "webhook", "mqtt", "jsonl", "media"]
    ok: bool
    trouble: str = ""
    queued: int = 0
    done: int = 0
    dropped: int = 0
    details: dict[str, float] = {}


class SiteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A whole site."""

    schema: int = SCHEMA
    site: str
    version: str
    pid: int
    started_s: float
    now_s: float
    ok: bool
    troubles: list[str] = []
    """One line each; empty = all is well."""
    streams: list[StreamStatus] = []
    engines: list[EngineStatus] = []
    parts: list[PartStatus] = []
    rss_bytes: int = 0
    threads: int = 0
    reloads: int = 0
