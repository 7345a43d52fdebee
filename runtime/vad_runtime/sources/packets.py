"""The last seconds of a stream as it came: packets, not pictures."""

import threading
from collections import deque

from vad_runtime.sources.connection import PacketInfo


class PacketRing:
    """Keeps the newest packets of one connection, from a key frame on.

    ::

        K p p p K p p p K p p        packets, K = key frame, by time of arrival
                ^ now - pre_s
        `------- kept -------'       from the key frame at or before now - pre_s

    Whole groups of pictures are kept and dropped. When the bytes run out, older groups go first;
    a single group that is too large is dropped up to the next key frame.

    Args:
        pre_s: Seconds to keep, by time of arrival.
        longest_bytes: Bound of what is kept. 64 MiB hold 5 s at 100 Mbit/s.
    """

    def __init__(self, pre_s: float, longest_bytes: int = 64 << 20) -> None:
        self._pre_s = pre_s
        self._longest_bytes = longest_bytes
        self._groups: deque[_Group] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._overflows = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of the packets that are kept. From any thread."""
        return self._bytes

    @property
    def overflows(self) -> int:
        """How often less than `pre_s` was kept because of `longest_bytes`. From any thread."""
        return self._overflows

    def add(self, packet: PacketInfo) -> None:
        """Take a packet: O(1) on average, never waits for long. From any thread.

        Packets that come before the first key frame are of no use and are not kept.
        """
        with self._lock:
            if packet.key:
                self._groups.append(_Group())
            elif not self._groups:
                return
            self._groups[-1].add(packet)
            self._bytes += len(packet.data)
            self._shrink(packet.arrived_s)

    def since(self, monotonic_s: float) -> list[PacketInfo]:
        """Return the packets from the key frame at or before a time on. From any thread.

        Args:
            monotonic_s: A time of `time.monotonic()`, as in `PacketInfo.arrived_s`.

        Returns:
            In the order of arrival, a key frame first; all that is kept where the time is older;
            empty where no key frame has come yet.
        """
        with self._lock:
            groups = list(self._groups)
            out: list[list[PacketInfo]] = []
            for group in reversed(groups):
                out.append(list(group.packets))
                if group.packets[0].arrived_s <= monotonic_s:
                    break
        return [packet for group in reversed(out) for packet in group]

    def clear(self) -> None:
        """Forget everything, as a new connection must: its packets are another recording's."""
        with self._lock:
            self._groups.clear()
            self._bytes = 0

    def _shrink(self, now_s: float) -> None:
        groups = self._groups
        while len(groups) > 1 and groups[1].packets[0].arrived_s <= now_s - self._pre_s:
            self._bytes -= groups.popleft().bytes
        while groups and self._bytes > self._longest_bytes:
            self._bytes -= groups.popleft().bytes
            self._overflows += 1


class _Group:
    """A key frame and what follows up to the next."""

    __slots__ = ("bytes", "packets")

    def __init__(self) -> None:
        self.packets: list[PacketInfo] = []
        self.bytes = 0

    def add(self, packet: PacketInfo) -> None:
        self.packets.append(packet)
        self.bytes += len(packet.data)
