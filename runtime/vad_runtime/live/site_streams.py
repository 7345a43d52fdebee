"""From the settings of a stream to a stream that runs: its source, its reader, its events."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import BackendError, ConfigError, InputError, SourceError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.contracts.site import MediaSettings, StreamSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.files import home_expanded
from vad_runtime.latency import Stage
from vad_runtime.live.base import EventChange, EventRecord, StateChange
from vad_runtime.live.events import EventTracker, site_scoring
from vad_runtime.live.looped import Looped
from vad_runtime.live.media import media_names
from vad_runtime.live.reader import queue_depth
from vad_runtime.live.stream import LiveStream
from vad_runtime.sources import find_sources, open_source
from vad_runtime.sources.address import Address, address_from_text
from vad_runtime.sources.base import FrameSource
from vad_runtime.sources.connection import StreamTemplate, require_decoder
from vad_runtime.sources.live import LiveSource
from vad_runtime.sources.pace import Pace
from vad_runtime.sources.packets import PacketRing
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import ClipWindow

if TYPE_CHECKING:
    from vad_runtime.live.media.recorder import MediaRecorder

_PATHS = ("file", "glob", "folder")


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a stream tells the site, and when; called in the scorer's thread unless said."""

    on_change: Callable[[EventChange, ScoredFrame | None], None]
    on_ended: Callable[[LiveStream], None]
    wake: Callable[[], None]
    """Something is in the stream's queue; called in the reader's thread."""
    say: Callable[[str], None]
    """From any thread."""


@dataclass(kw_only=True)
class OpenStream:
    """A stream of a site."""

    live: LiveStream
    tracker: EventTracker
    recording: bool
    """It ends by itself, unless it is looped."""


def check_stream(
    name: str, settings: StreamSettings, manifest: Manifest, folder: Path, *, open_it: bool = True
) -> Address:
    """Refuse a stream that could never run; nothing is connected.

    Args:
        name: The stream's.
        settings: Its settings.
        manifest: Of its bundle.
        folder: Relative paths of recordings start here.
        open_it: Open a recording and close it again.

    Returns:
        Its address, with an absolute path.

    Raises:
        ConfigError: The hop or the address make no sense.
        BackendError: This machine lacks the camera's decoder.
        SourceError: A recording cannot be read.
    """
    try:
        ClipWindow(manifest.clip, hop=settings.hop)
    except ValueError as error:
        raise ConfigError(f"streams.{name}.hop: {error}. Give another.") from None
    try:
        address = absolute(settings.source.reveal(), folder)
        if address.live:
            require_decoder(address, settings.decoder)
        elif open_it:
            _recording(address, manifest, pictures=False)
    except SourceError as error:
        raise SourceError(f"streams.{name}.source: {error}") from None
    except BackendError as error:
        raise BackendError(f"streams.{name}: {error}") from None
    return address


def absolute(text: str, folder: Path) -> Address:
    """Return the address of a text; a path starts at `folder`.

    Raises:
        SourceError: It is none.
    """
    address = address_from_text(text)
    if address.kind in _PATHS:
        return address_from_text(str(folder / home_expanded(address.text)))
    return address


def _recording(address: Address, manifest: Manifest, *, pictures: bool) -> FrameSource:
    """Open the one recording that an address names."""
    path = Path(address.text)
    if address.kind in ("glob", "folder"):
        sources = find_sources(path)
        if len(sources) != 1:
            raise SourceError(
                f"{address} holds {len(sources)} recordings, but a stream is one. Name that one."
            )
        path = sources[0]
    return open_source(path, manifest.clip, pictures=pictures)


def open_stream(
    name: str,
    settings: StreamSettings,
    bundle: Bundle,
    *,
    site: str,
    folder: Path,
    media: "MediaRecorder",
    media_settings: MediaSettings,
    hooks: Hooks,
) -> OpenStream:
    """Make a stream; the engine that it is added to starts it.

    Args:
        name: The stream's.
        settings: Its settings.
        bundle: Opened.
        site: Name of the site, for events.
        folder: Relative paths of recordings start here.
        media: Told of the stream, and of each settled frame.
        media_settings: What is kept of events.
        hooks: What the stream tells.

    Raises:
        InputError: See `check_stream`.
    """
    manifest = bundle.manifest
    address = check_stream(name, settings, manifest, folder, open_it=False)
    teller = _Teller(name, hooks.say)
    wanted = media_settings
    # The codec of a camera is known only later; without packets, clips are made of pictures.
    pictures = wanted.snapshots or wanted.overlay or wanted.clips
    scoring = site_scoring(manifest.scoring, settings.events)
    ring: PacketRing | None = None
    source: FrameSource
    template: Callable[[], StreamTemplate | None] = _no_template
    stage = Stage()
    if address.live:
        if wanted.clips:
            ring = teller.ring = PacketRing(media.ring_s(scoring.min_duration_s))
        source = live = LiveSource(
            address,
            manifest.clip,
            settings,
            pictures=pictures,
            on_state=teller.state_changed,
            on_packet=None if ring is None else ring.add,
            say=teller.say,
            stage=stage,  # the reader's would hold the wait for the camera
        )

        def template() -> StreamTemplate | None:
            return live.template

    else:
        source = _recorded(name, address, settings, manifest, pictures=pictures)
    depth = queue_depth(manifest.clip, settings.hop)
    tracker = EventTracker(
        site,
        name,
        manifest.scoring,
        settings.events,
        f"score of {bundle.name}",
        media_names=_names(wanted),
    )
    stream = LiveStream(
        name,
        settings,
        manifest,
        Prefetch(
            source,
            depth=depth,
            live=address.live,
            realtime=not address.live,
            stage=None if address.live else stage,
            on_item=hooks.wake,
        ),
        tracker=tracker,
        source=source,
        decode=stage,
        address=str(address),
        bundle=bundle.name,
        pace=None if address.live else _pace(settings, manifest),
        on_change=hooks.on_change,
        on_scored=lambda scored: media.scored(name, scored),
        on_ended=hooks.on_ended,
        say=hooks.say,
    )
    teller.stream = stream
    media.stream_opened(
        name, ring=ring, template=template, info=lambda: source.info, scoring=tracker.scoring
    )
    return OpenStream(
        live=stream,
        tracker=tracker,
        recording=not address.live and not settings.loop,
    )


def _no_template() -> StreamTemplate | None:
    return None


def _recorded(
    name: str, address: Address, settings: StreamSettings, manifest: Manifest, *, pictures: bool
) -> FrameSource:
    def again() -> FrameSource:
        return _recording(address, manifest, pictures=pictures)

    try:
        return Looped(again) if settings.loop else again()
    except SourceError as error:
        raise InputError(f"streams.{name}.source: {error}") from None


def _pace(settings: StreamSettings, manifest: Manifest) -> Pace | None:
    fps = manifest.clip.fps
    return Pace(fps) if fps is not None and settings.fps == "adapt" else None


def _names(media: MediaSettings) -> Callable[[EventRecord], tuple[str | None, str | None]]:
    def names(event: EventRecord) -> tuple[str | None, str | None]:
        snapshot, clip = media_names(event)
        return (snapshot if media.snapshots else None, clip if media.clips else None)

    return names


class _Teller:
    """One line on the log for each change of a camera's state; called from several threads."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._lock = threading.Lock()
        self._gone_s: float | None = None
        self.stream: LiveStream | None = None
        self.ring: PacketRing | None = None

    def say(self, line: str) -> None:
        self._say(f"{self._name}: {line}")

    def state_changed(self, change: StateChange) -> None:
        if self.stream is not None:
            self.stream.state_changed(change)
        if self.ring is not None and change.state not in ("live", "frozen"):
            self.ring.clear()  # what another connection brings does not fit to it
        if change.state == "ended":
            return  # the site tells how it ended
        with self._lock:
            again = ""
            if change.state == "live" and self._gone_s is not None:
                again = f" again after {change.monotonic_s - self._gone_s:.0f} s"
            if change.before == "live":
                self._gone_s = change.monotonic_s
        reason = f" ({change.reason})" if change.reason else ""
        self.say(f"{change.state}{again}{reason}")
