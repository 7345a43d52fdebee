"""Times for packets whose stream leaves some out."""

from collections.abc import Callable
from dataclasses import replace

from vad_runtime.sources.connection import PacketInfo

_MOST_HELD = 25


class PacketTimes:
    """Hands packets on with a time each.

    RTSP leaves the first packets without a time until it knows the first of RTP; and those are the
    key frame that a clip needs. So they are held until the first time is known, and count back
    from it.

    Args:
        fps: Nominal frame rate: the step where there is no time.
        on_packet: Receives the packets; None = nobody.
    """

    def __init__(self, fps: float, on_packet: Callable[[PacketInfo], None] | None) -> None:
        self._step = 1.0 / fps
        self._on_packet = on_packet
        self._last: float | None = None
        self._held: list[PacketInfo] = []

    def give(self, packet: PacketInfo, pts_s: float | None, dts_s: float | None) -> None:
        """Take a packet; `pts_s` and `dts_s` take the place of its own."""
        if self._on_packet is None:
            return
        if self._last is None and pts_s is None and len(self._held) < _MOST_HELD:
            self._held.append(packet)
            return
        if self._last is None:
            first = (pts_s or 0.0) - self._step * len(self._held)
            for i, held in enumerate(self._held):
                self._on_packet(replace(held, pts_s=first + self._step * i))
            self._last = (pts_s or 0.0) - self._step
            self._held = []
        self._last = self._last + self._step if pts_s is None else pts_s
        self._on_packet(replace(packet, pts_s=self._last, dts_s=dts_s))
