"""A camera as a source: connects, watches over it, and connects again, for ever."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import VadError
from vad_runtime.contracts.site import Secret, StreamSettings
from vad_runtime.latency import Stage
from vad_runtime.live.base import StateChange, StreamState
from vad_runtime.live.contained import bug_text
from vad_runtime.sources.address import Address, masked
from vad_runtime.sources.backoff import Backoff
from vad_runtime.sources.base import LIVE, Frame, SourceInfo, SourceStats
from vad_runtime.sources.connection import (
    Connection,
    ConnectionFailed,
    Image,
    PacketInfo,
    StreamTemplate,
    open_connection,
)
from vad_runtime.sources.live_frames import FrameMaker
from vad_runtime.sources.watchdog import StallWatch

_LOOKS_S = 0.5
"""The watchdog looks at least this often, seconds."""
_GRACE_S = 0.3
"""The connection's own time-out comes first: it knows more about the reason."""
_LONGEST_SKIP_S = 10.0
"""For so long dropping up to the next key frame is no stall; some streams have no key frames."""


_Loss = tuple[StreamState, str]
"""How a connection ended, or that there was none: the state and the reason."""


class LiveSource:
    """A camera, a stream or a pipeline: frames at model size until `stop`, whatever happens to it.

    ::

        connecting ──► live ◄──► frozen        lost      tries again, with backoff and jitter
             │         ▲  │                    refused   the same, slowly
             ▼         │  ▼                    stalled   no frame came for too long; then as lost
          lost, refused, stalled ──► ended     ended     by `stop`

    What is missing between two frames is said by the hole of the second: `reconnected`, `stalled`,
    `jump in time`, `jump back in time`, `change of resolution`, `change of frame rate`,
    `decoder behind`, `undecodable packet`. Frames of a frozen camera have the hole
    `frozen picture` and are `damaged`: they are not to be scored.

    `Frame.index` counts the camera's frames over all connections, those included that were not
    given. `Frame.pts_s` rises strictly over all of them: see `Timeline`. `Frame.arrived_s` is by
    `clock`.

    One thread iterates over `frames`; everything else may be called from any thread. While it is
    read, a second thread, `vad-watchdog`, sees to it that frames come.

    Args:
        address: A live one.
        spec: Size, colour and rate of the frames.
        settings: Everything else; its `source` is not looked at.
        pictures: Whether `Frame.picture` will be called.
        on_state: Called with each change of state, one at a time, by the thread that reads or the
            one that watches. Must neither block nor call `stop`'s thread back. What it raises ends
            the source, and `frames` raises it.
        on_packet: Called with each packet of the video, by the thread that reads, before decoding.
        say: Takes the few lines that are no change of state, without the stream's name.
        stage: Receives the time that each picture took to decode and resize, seconds, without that
            of waiting for the camera; nothing where a source has no packets.
        connect: Opens a connection, as `open_connection` does.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        address: Address,
        spec: ClipSpec,
        settings: StreamSettings,
        *,
        pictures: bool = True,
        on_state: Callable[[StateChange], None] = lambda _: None,
        on_packet: Callable[[PacketInfo], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
        stage: Stage | None = None,
        connect: Callable[..., Connection] = open_connection,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._settings = address, settings
        self._on_state, self._on_packet = on_state, on_packet
        self._stage, self._connect, self._clock = stage, connect, clock
        self._stats = SourceStats()
        self._maker = FrameMaker(spec, settings, self._stats, pictures=pictures, say=say)
        self._info = SourceInfo(
            name=str(address),
            kind=LIVE,
            codec="",
            width=0,
            height=0,
            fps=self._maker.fps,
            frames=None,
        )
        self._stop = threading.Event()
        self._lock = threading.Lock()  # one change of state at a time
        self._change = StateChange(
            state="connecting", before="connecting", reason="", monotonic_s=clock()
        )
        self._connection: Connection | None = None
        self._ahead: tuple[Iterator[Image], Image] | None = None
        self._silent = False
        self._backoff = Backoff(settings.reconnect)
        self._stall = StallWatch(settings.watchdog.stalled_s + _GRACE_S)
        self._reading_since_s = 0.0
        self._waited_s: float | None = None
        self._skipping_since_s: float | None = None
        self._failed: Exception | None = None

    # -- what anybody may ask --------------------------------------------------------------------

    @property
    def info(self) -> SourceInfo:
        """What the stream says of itself; `fps` is the rate of the frames that are given.

        Until the first connection the size is 0 x 0 and the rate the model's. It may be another
        after each hole.
        """
        return self._info

    @property
    def stats(self) -> SourceStats:
        """Counters, over all connections; written by the thread that reads."""
        return self._stats

    @property
    def state(self) -> StreamState:
        """How the stream is."""
        return self._change.state

    @property
    def state_change(self) -> StateChange:
        """The last change of state, with its reason and time."""
        return self._change

    @property
    def decoder(self) -> str:
        """What decodes; empty without a connection."""
        connection = self._connection
        return "" if connection is None else connection.decoder

    @property
    def template(self) -> StreamTemplate | None:
        """What a container needs for the packets; None without a connection or without packets."""
        connection = self._connection
        return None if connection is None else connection.template

    @property
    def camera_fps(self) -> float | None:
        """Measured frame rate of the camera; None = not known yet."""
        return self._maker.camera_fps

    @property
    def behind_s(self) -> float:
        """How far decoding lags behind the camera, seconds."""
        return self._maker.behind_s

    def stop(self) -> None:
        """End `frames`: at once while it waits to connect again, else with the next packet.

        A connection that is silent, or is being made, ends with its time-out.
        """
        self._stop.set()
        connection = self._connection
        if connection is not None:
            connection.close()

    # -- reading ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect and wait for the first picture, before `frames`: is the address right?

        Raises:
            ConnectionFailed: There is no connection, or no picture comes.
            BackendError: See `open_connection`.
            SourceError: See `open_connection`.
        """
        try:
            images = self._opened().images()
            first = next(images, None)
            if first is None:
                raise ConnectionFailed(self._info.name, "no picture came")
        except BaseException:
            self.stop()
            raise
        self._ahead = (images, first)
        self._describe((first.picture.width, first.picture.height))

    def frames(self) -> Iterator[Frame]:
        """Yield frames until `stop`, once; waits as long as there is no camera.

        Whatever happens to a camera that has given a frame, it is sought again.

        Raises:
            BackendError: A decoder was asked for that this machine does not have.
            SourceError: A package is missing, or the address is not live.
        """
        watcher = threading.Thread(target=self._watch, name="vad-watchdog", daemon=True)
        watcher.start()
        try:
            while not self._stop.is_set():
                state, reason = yield from self._connection_frames()
                if self._stop.is_set():
                    break
                self._maker.lost("stalled" if state == "stalled" else "reconnected")
                self._tell(state, reason)
                self._stop.wait(self._backoff.wait_s(refused=state == "refused"))
            if self._failed is not None:
                raise self._failed
        finally:
            self.stop()
            watcher.join()
            self._tell("ended", "")

    def _connection_frames(self) -> Generator[Frame, None, _Loss]:
        """Yield the frames of one connection; return how it ended."""
        ahead, self._ahead = self._ahead, None
        images: Iterator[Image] | None = None
        first: Image | None = None
        began_s: float | None = None
        self._silent = False
        try:
            if ahead is not None:
                images, first = ahead
            else:
                images = self._opened().images()
            while True:
                image = self._read(images) if first is None else first
                first = None
                if image is None or self._silent or self._stop.is_set():
                    return self._loss(None)
                if began_s is None:
                    began_s = self._clock()
                    self._begin(image)
                frame = self._frame(image)
                if frame is not None:
                    yield frame
        except ConnectionFailed as error:
            return self._loss(error)
        except Exception as error:
            # Before the first frame something is not as it must be. Later it was: a GPU without
            # memory for once, or a picture that nothing can be done with, must not end a month.
            if self._stats.frames == 0:
                raise
            return "lost", masked(str(error) if isinstance(error, VadError) else bug_text(error))
        finally:
            if began_s is not None:
                self._backoff.ended(self._clock() - began_s)
            self._close(images)

    def _opened(self) -> Connection:
        watchdog = self._settings.watchdog
        connection = self._connect(
            self._address,
            decoder=self._settings.decoder,
            transport=self._settings.transport,
            connect_s=watchdog.connect_s,
            stalled_s=watchdog.stalled_s,
            on_packet=self._packet,
        )
        self._connection = connection
        if self._stop.is_set():  # `stop` may not have seen this connection
            connection.close()
        self._waited_s = self._skipping_since_s = None
        self._stats.connections += 1
        return connection

    def _read(self, images: Iterator[Image]) -> Image | None:
        self._reading_since_s = self._clock()
        self._stall.started(self._reading_since_s)
        try:
            return next(images, None)
        finally:
            self._stall.ended()  # what the caller does with a frame is not the camera's fault

    def _begin(self, image: Image) -> None:
        assert self._connection is not None
        self._maker.connected(self._connection.info.fps)
        self._describe((image.picture.width, image.picture.height))

    def _frame(self, image: Image) -> Frame | None:
        now_s = self._clock()
        waited_s, self._waited_s = self._waited_s, None
        frame = self._maker.frame(image, now_s, waited_s)
        if self._stage is not None and waited_s is not None:
            self._stage.add(self._clock() - self._reading_since_s)
        if self._maker.size != (self._info.width, self._info.height) or (
            self._maker.fps != self._info.fps
        ):
            self._describe(self._maker.size)
        self._skip(now_s)
        if self._maker.frozen:
            if self.state != "frozen":
                self._tell("frozen", f"the same picture for {self._settings.watchdog.frozen_s:g} s")
        elif self.state != "live":
            info = self._info
            self._tell("live", f"{info.width}x{info.height}, {info.fps:.3g} fps, {self.decoder}")
        return frame

    def _skip(self, now_s: float) -> None:
        connection = self._connection
        if not self._maker.behind or connection is None:
            self._skipping_since_s = None
            return
        if self._skipping_since_s is None:
            self._skipping_since_s = now_s
        connection.skip_to_key()

    def _packet(self, packet: PacketInfo) -> None:
        now_s = self._clock()
        self._waited_s = (self._waited_s or 0.0) + max(0.0, now_s - self._reading_since_s)
        self._reading_since_s = now_s
        skipping_s = self._skipping_since_s
        if skipping_s is not None and now_s - skipping_s < _LONGEST_SKIP_S:
            self._stall.started(now_s)
        if self._on_packet is not None:
            self._on_packet(packet)

    def _loss(self, error: ConnectionFailed | None) -> _Loss:
        if self._silent or (error is not None and error.stalled):
            return "stalled", self._silence
        if error is None:
            return "lost", "the stream ended"
        return "refused" if error.refused else "lost", error.reason

    @property
    def _silence(self) -> str:
        return f"no frame for {self._settings.watchdog.stalled_s:g} s"

    def _close(self, images: Iterator[Image] | None) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        close = getattr(images, "close", None)
        if close is not None:  # a generator: frees what the connection holds now, not some day
            close()

    def _describe(self, size: tuple[int, int]) -> None:
        connection = self._connection
        if connection is not None:
            self._info = replace(
                connection.info,
                name=str(self._address),
                kind=LIVE,
                width=size[0],
                height=size[1],
                fps=self._maker.fps,
                frames=None,
            )

    # -- states ----------------------------------------------------------------------------------

    def _tell(self, state: StreamState, reason: str) -> None:
        with self._lock:
            if state == self._change.state or self._change.state == "ended":
                return
            self._change = StateChange(
                state=state, before=self._change.state, reason=reason, monotonic_s=self._clock()
            )
            try:
                self._on_state(self._change)
            except Exception as error:  # `frames` raises it, whichever thread this is
                self._failed = self._failed or error
                self.stop()

    def _watch(self) -> None:
        """Close a connection that is silent, which some do not notice themselves.

        A camera whose sound goes on, a packet now and then that does not decode, a driver that
        waits for ever.
        """
        wait_s = _LOOKS_S
        while not self._stop.wait(wait_s):
            left_s = self._stall.left_s(self._clock())
            if left_s is not None and left_s <= 0 and not self._silent:
                self._silent = True
                self._tell("stalled", self._silence)
                connection = self._connection
                if connection is not None:
                    connection.close()
            wait_s = _LOOKS_S if left_s is None else min(max(left_s, 0.05), _LOOKS_S)


def open_live(
    address: Address,
    spec: ClipSpec,
    settings: StreamSettings | None = None,
    **options: Any,
) -> LiveSource:
    """Open a camera that has to be there now: a wrong address is no camera that is off.

    Args:
        address: A live one.
        spec: Size, colour and rate of the frames.
        settings: None = the defaults of a site.
        **options: As of `LiveSource`. `on_state` hears nothing before `frames` is read; `on_packet`
            may be called already, by this thread.

    Returns:
        A source that is connected; once it is read, it connects again for ever. Its `stop` must be
        called where it is not read.

    Raises:
        ConnectionFailed: It did not come about, or no picture came; one line.
        BackendError: A decoder was asked for that this machine does not have.
        SourceError: A package is missing, or the address is not live.
    """
    settings = settings or StreamSettings(source=Secret(address.text))
    source = LiveSource(address, spec, settings, **options)
    source.open()
    return source
