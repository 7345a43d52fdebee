from collections.abc import Sequence
from typing import Literal

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

class Resizer:
    """The portable resizer: from a decoder's planes to model size, the same bytes everywhere."""

    def __init__(
        self,
        height: int,
        width: int,
        colour: Literal["gray", "rgb"],
        interpolation: Literal["area", "bilinear"],
        simd: str | None = None,
    ) -> None:
        """Choose the size and the kernels; weights are made when the first picture comes.

        Args:
            height: Rows of the result, 1 to 65535.
            width: Columns of the result, 1 to 65535.
            colour: What the result holds.
            interpolation: `area` averages, and is bilinear for a plane that must grow.
            simd: One of `usable_simd()`; the best of them if None. All give the same bytes.

        Raises:
            ValueError: A size or a name that is none of these.
        """

    @property
    def simd(self) -> str:
        """Instruction set of the kernels in use."""

    def __call__(
        self,
        format: Literal["gray", "rgb", "bgr", "nv12", "yuv"],
        planes: Sequence[npt.NDArray[np.uint8]],
        matrix: Literal["bt601", "bt709", "bt2020"],
        full_range: bool,
        out: npt.NDArray[np.uint8],
    ) -> None:
        """Resize a picture into `out`, without the GIL; one call at a time of several threads.

        Args:
            format: Pixel format; `yuv` has planes of luma, Cb and Cr.
            planes: Shape (rows, bytes), uint8: three bytes a pixel for rgb and bgr, two a sample
                for the second plane of nv12. Rows may stand any distance apart, also bottom up.
            matrix: Standard that Cb and Cr follow; without effect for gray, rgb and bgr.
            full_range: Luma of 0 to 255, not 16 to 235; without effect for rgb and bgr.
            out: Shape (height, width, 1 or 3), uint8, C-contiguous, writable: the result.

        Raises:
            ValueError: Planes that make no picture, or an `out` of the wrong shape.
            TypeError: An array that is not of this type, not contiguous or not writable.
        """

def usable_simd() -> list[str]:
    """Instruction sets that this build has and this processor runs, best first.

    The environment variable VAD_SIMD (`baseline` or `avx2`) leaves out the better ones.
    """
