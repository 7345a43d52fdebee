"""A ring of frames whose last `length` frames are always one plain array.

A model wants the last T frames as one contiguous block, a camera brings one frame at a time. A
common ring buffer breaks the block in two wherever it wraps. Two ways around that, same answers::

    native   every frame is written once; the memory is mapped twice, back to back, so the
             block that wraps goes on in the second mapping        |..cdef||ab....|
    pure     every frame is written twice, into two halves of one NumPy array

Neither moves a frame again, and the block is a view.
"""

import math

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import BackendError
from vad_runtime.native import native_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vad_runtime._native import MirroredBuffer


class FrameRing:
    """The last `length` frames of one shape as one contiguous array, without moving a frame.

    One thread pushes and reads. With the native form, a forked child shares the memory with its
    parent.

    Args:
        length: Frames in the block that `latest` returns.
        frame_shape: (height, width, channels) of every frame.
        native: True requires the native form, False takes the pure form, None takes the native
            form where the extension is built and the frame size suits memory pages. The property
            `native` tells which one runs.

    Raises:
        ValueError: `length` or `frame_shape` is not positive.
        BackendError: `native=True` and the native form cannot be had.
    """

    def __init__(
        self, length: int, frame_shape: tuple[int, int, int], *, native: bool | None = None
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1 frame, not {length}")
        if len(frame_shape) != 3 or min(frame_shape) < 1:
            raise ValueError(
                f"frame_shape must be (height, width, channels), all positive, not {frame_shape}"
            )
        self._length = length
        self._frame_shape = frame_shape
        self._pushed = 0

        memory: npt.NDArray[np.uint8] | None = None
        if native is not False:
            try:
                memory = _mirrored_frames(length, frame_shape)
            except BackendError:
                if native:
                    raise
        self._native = memory is not None
        if memory is None:
            memory = np.zeros((2 * (length + 1), *frame_shape), np.uint8)
        # Twice the slots there are: slot i and slot i + capacity hold the same frame.
        self._frames = memory
        self._capacity = len(memory) // 2
        self._bytes = memory.reshape(-1).data
        self._frame_bytes = math.prod(frame_shape)
        self._readable = memory.view()
        self._readable.flags.writeable = False

    @property
    def native(self) -> bool:
        """Whether each frame is written once into mirrored memory (else twice, with NumPy)."""
        return self._native

    def push(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Copy one frame into the ring.

        Args:
            pixels: shape (H, W, C), uint8, any strides.

        Raises:
            ValueError: Another shape or dtype (NumPy would broadcast or cast it silently).
        """
        if pixels.shape != self._frame_shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"the ring holds uint8 frames of shape {self._frame_shape}, "
                f"got {pixels.dtype} of shape {pixels.shape}"
            )
        slot = self._pushed % self._capacity
        self._copy(slot, pixels)
        if not self._native:
            self._copy(slot + self._capacity, pixels)
        self._pushed += 1

    def _copy(self, slot: int, pixels: npt.NDArray[np.uint8]) -> None:
        if not pixels.flags.c_contiguous:
            self._frames[slot] = pixels
            return
        # NumPy lets go of the interpreter to copy, and waits for it longer than a copy takes where
        # a decoder runs beside: 36 us for a frame of 16 KB instead of 1 (seen in `vad-run score`).
        start = slot * self._frame_bytes
        self._bytes[start : start + self._frame_bytes] = pixels.data.cast("B")

    def latest(self) -> npt.NDArray[np.uint8]:
        """The last `length` frames, oldest first, without a copy.

        Returns:
            shape (length, H, W, C), uint8, C-contiguous, read-only. A view that belongs to the
            ring: it stays true through the next push, but maybe not through the one after, so
            copy it to keep it. It keeps the memory alive when the ring is gone.

        Raises:
            ValueError: Fewer than `length` frames were pushed since the last `clear`.
        """
        if self._pushed < self._length:
            raise ValueError(
                f"the ring holds {self._pushed} of {self._length} frames; push more first"
            )
        start = (self._pushed - self._length) % self._capacity
        block: npt.NDArray[np.uint8] = self._readable[start : start + self._length]
        return block

    def clear(self) -> None:
        """Forget all frames, for example because the stream has a gap."""
        self._pushed = 0

    def __len__(self) -> int:
        """Frames held, at most `length`."""
        return min(self._pushed, self._length)


def _mirrored_frames(length: int, frame_shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Mirrored memory for at least `length` + 1 frames.

    Returns:
        shape (2 * capacity, H, W, C), uint8, writable; frame i + capacity is frame i.

    Raises:
        BackendError: There is no extension, the frame size does not suit, or no memory.
    """
    buffer_class = _mirrored_buffer_class()
    if buffer_class is None:
        raise BackendError(
            "This installation of vad-edge has no native extension (vad_runtime._native). "
            "Install a C++ compiler and reinstall vad-edge, or use FrameRing(native=False)."
        )
    frame_bytes = math.prod(frame_shape)
    capacity = _page_aligned_capacity(length + 1, frame_bytes, buffer_class.page_size())
    if capacity is None:
        raise BackendError(
            f"Frames of {frame_bytes} bytes fill whole memory pages of "
            f"{buffer_class.page_size()} bytes too seldom for a mirrored ring. "
            "Use a height and width that are multiples of 32, or FrameRing(native=False)."
        )
    try:
        buffer = buffer_class(capacity * frame_bytes)
    except OSError as error:
        raise BackendError(
            f"The kernel gives no mirrored memory of {capacity * frame_bytes} bytes ({error}). "
            "Use fewer or smaller frames, or FrameRing(native=False)."
        ) from error
    return buffer.array.reshape(2 * capacity, *frame_shape)


def _page_aligned_capacity(frames: int, frame_bytes: int, page_bytes: int) -> int | None:
    """The smallest count of at least `frames` frames that fills whole pages.

    Frames of an odd size fill whole pages only every `page_bytes` frames, which may be a lot of
    memory; None if it is more than four times the need and not negligible either.

    >>> _page_aligned_capacity(17, 224 * 224 * 3, 4096)  # four frames are 147 pages
    20
    >>> _page_aligned_capacity(17, 225 * 225 * 3, 4096) is None
    True
    """
    step = page_bytes // math.gcd(page_bytes, frame_bytes)
    capacity = -(-frames // step) * step
    negligible_bytes = 1 << 20
    if capacity * frame_bytes > 4 * frames * frame_bytes + negligible_bytes:
        return None
    return capacity


def _mirrored_buffer_class() -> "type[MirroredBuffer] | None":
    module = native_module()
    return None if module is None else module.MirroredBuffer
