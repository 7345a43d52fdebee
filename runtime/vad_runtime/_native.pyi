import numpy as np
import numpy.typing as npt

class MirroredBuffer:
    """Memory mapped twice back to back: byte i and byte i + capacity are the same byte."""

    def __init__(self, bytes: int) -> None:
        """Map zeroed memory.

        Args:
            bytes: Size of the memory; a positive multiple of `page_size()`.

        Raises:
            ValueError: `bytes` is not such a multiple.
            OSError: The kernel refuses (too much memory, or a sandbox without memfd_create).
        """

    @property
    def capacity(self) -> int:
        """Bytes of memory, counted once."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """Writable array of shape (2 * capacity,), uint8; it keeps the buffer alive."""

    @staticmethod
    def page_size() -> int:
        """Size of a memory page in bytes."""
