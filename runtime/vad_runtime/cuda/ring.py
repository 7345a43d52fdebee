"""A ring of frames with a copy on the GPU, so that each frame crosses the bus once.

Windows overlap: with a hop of 4, three quarters of a clip of 16 frames were in the clip before.

::

    frame ─► ring in host memory, as everywhere          latest() is a view of it
        └──► pinned ═══ bus ═══► the same ring on the device ── two copies there ──► engine's input
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.cuda.base import Cuda
from vad_runtime.ring import FrameRing


@dataclass(frozen=True, kw_only=True)
class RingMemory:
    """What a ring needs of the GPU; owned by its `Cuda` object."""

    address: int
    pinned: npt.NDArray[np.uint8]
    """Shape (slots, H, W, C)."""


class DeviceRing(FrameRing):
    """A `FrameRing` whose frames are on the GPU too, slot by slot.

    To everybody else it is a `FrameRing`: `latest` gives a view in host memory, which stays true
    when the GPU is gone. Who has the GPU asks `gather` whether an array is such a view.

    Args:
        cuda: The GPU. After `detach` it is not touched any more.
        stream: Where copies are enqueued, and where whoever reads them works.
        length: See `FrameRing`.
        frame_shape: See `FrameRing`.
        memory: Of a ring of the same form that is gone; None = new memory.

    Raises:
        BackendError: CUDA refused.
    """

    def __init__(
        self,
        cuda: Cuda,
        stream: int,
        length: int,
        frame_shape: tuple[int, int, int],
        *,
        memory: RingMemory | None = None,
    ) -> None:
        super().__init__(length, frame_shape)
        self._cuda: Cuda | None = cuda
        self._stream = stream
        self._frame_bytes = int(np.prod(frame_shape))
        if memory is None:
            nbytes = self._capacity * self._frame_bytes
            pinned = cuda.pinned(nbytes).reshape(self._capacity, *frame_shape)
            memory = RingMemory(address=cuda.allocate(nbytes), pinned=pinned)
        self.memory = memory

    def push(self, pixels: npt.NDArray[np.uint8]) -> None:
        """See `FrameRing.push`.

        Raises:
            BackendError: CUDA refused.
        """
        slot = self._pushed % self._capacity
        super().push(pixels)
        if self._cuda is None:
            return
        # An older copy from this slot may be under way. It may bring what it likes: ours goes to
        # the same place behind it, and who gathers waits before the next push.
        host = self.memory.pinned[slot]
        host[...] = pixels
        self._cuda.copy_in(self.memory.address + slot * self._frame_bytes, host, self._stream)

    def gather(self, clip: npt.NDArray[Any], address: int) -> bool:
        """Enqueue the copies that bring a clip to one address on the device.

        Args:
            clip: As `latest` gave it, or any other array (one that runs backwards, too).
            address: Of as many bytes on the device.

        The stream must be waited for before the next `push`.

        Returns:
            False if the clip is no view of this ring: then nothing was done.

        Raises:
            BackendError: CUDA refused.
        """
        offset = clip.ctypes.data - self._frames.ctypes.data
        ring_bytes = self._capacity * self._frame_bytes
        ours = 0 <= offset < ring_bytes and clip.flags.c_contiguous
        if self._cuda is None or not ours:
            return False
        first = min(clip.nbytes, ring_bytes - offset)
        self._cuda.copy_within(address, self.memory.address + offset, first, self._stream)
        if first < clip.nbytes:  # it goes on at the ring's start
            rest = clip.nbytes - first
            self._cuda.copy_within(address + first, self.memory.address, rest, self._stream)
        return True

    def detach(self) -> None:
        """Be a `FrameRing` and no more, since the GPU is about to be closed."""
        self._cuda = None
