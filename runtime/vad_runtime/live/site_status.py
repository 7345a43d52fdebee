"""What a site says of itself, put together from what its parts say."""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from vad_runtime import __version__
from vad_runtime.live.base import PartHealth, StreamState
from vad_runtime.live.status import EngineStatus, PartStatus, SiteStatus, StreamStatus

PartKind = Literal["store", "mail", "webhook", "mqtt", "jsonl", "media"]

_CONNECTING_S = 20.0
_BAD_STATES: frozenset[StreamState] = frozenset(["lost", "refused", "stalled", "frozen"])


def site_status(
    *,
    site: str,
    started_s: float,
    streams: Sequence[StreamStatus],
    engines: Sequence[EngineStatus],
    parts: Sequence[PartStatus],
    more: Iterable[str] = (),
    reloads: int = 0,
) -> SiteStatus:
    """Return the status of a whole site, now.

    Args:
        site: Name of the site.
        started_s: When it was started, Unix seconds.
        streams: Of each stream.
        engines: Of each engine.
        parts: Store, sinks, media.
        more: Troubles of the site itself.
        reloads: How often the site file was read again.
    """
    now = time.time()
    troubles = [
        *more,
        *(line for stream in streams if (line := stream_trouble(stream, now))),
        *(f"engine of {engine.bundle}: {engine.trouble}" for engine in engines if engine.trouble),
        *(f"{part.name}: {part.trouble or 'not well'}" for part in parts if not part.ok),
    ]
    return SiteStatus(
        site=site,
        version=__version__,
        pid=os.getpid(),
        started_s=started_s,
        now_s=now,
        ok=not troubles,
        troubles=troubles,
        streams=list(streams),
        engines=list(engines),
        parts=list(parts),
        rss_bytes=resident_bytes(),
        threads=threading.active_count(),
        reloads=reloads,
    )


def stream_trouble(stream: StreamStatus, now_s: float) -> str:
    """Return what is wrong with a stream, in one line; empty = nothing."""
    reason = f" ({stream.state_reason})" if stream.state_reason else ""
    if stream.state in _BAD_STATES:
        return f"{stream.name}: {stream.state}{reason}"
    if stream.state == "connecting" and now_s - stream.state_since_s > _CONNECTING_S:
        return f"{stream.name}: still connecting{reason}"
    if stream.state == "ended" and stream.state_reason:
        return f"{stream.name}: ended{reason}"
    return ""


def part_status(health: PartHealth, kind: PartKind) -> PartStatus:
    """Return a part's health as `/status` tells it."""
    return PartStatus(
        name=health.name,
        kind=kind,
        ok=health.ok,
        trouble=health.trouble,
        queued=health.queued,
        done=health.done,
        dropped=health.dropped,
        details=dict(health.details),
    )


def resident_bytes() -> int:
    """Return the memory that this process holds, bytes; 0 where it cannot be told."""
    try:
        with open("/proc/self/statm", "rb") as stream:  # noqa: PTH123 - nothing to join
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
