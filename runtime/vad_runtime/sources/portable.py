"""The portable resizer: from a decoder's planes to model size, in whole numbers only.

Its result is defined, not just computed (docs/portable-resizer.md), so that the compiled form, this
one in NumPy and a GPU give the same bytes. The form in NumPy is the reference: written to be read,
and fast enough to live with.
"""

import math
import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.native import native_module, why_not
from vad_runtime.sources.base import Pixels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vad_runtime._native import Resizer

Format = Literal["gray", "rgb", "bgr", "nv12", "yuv"]
Matrix = Literal["bt601", "bt709", "bt2020"]
Interpolation = Literal["area", "bilinear"]

_Sums = npt.NDArray[np.unsignedinteger[Any]]
_Wide = Any  # np.uint32 or np.uint64, whose common type NumPy's stubs do not find

LARGEST = 65535
"""Samples of a plane, each way."""
SAMPLES: dict[Format, tuple[int, ...]] = {
    "gray": (1,),
    "rgb": (3,),
    "bgr": (3,),
    "nv12": (1, 2),
    "yuv": (1, 1, 1),
}
"""Samples that lie side by side in each plane: of 3 channels, of Cb and Cr in pairs."""
_COLOUR: dict[tuple[Matrix, bool], tuple[int, int, int, int, int]] = {
    ("bt601", False): (76309, 104597, 25675, 53279, 132201),
    ("bt601", True): (65536, 91881, 22553, 46802, 116130),
    ("bt709", False): (76309, 117489, 13975, 34925, 138438),
    ("bt709", True): (65536, 103206, 12276, 30679, 121609),
    ("bt2020", False): (76309, 110014, 12277, 42626, 140363),
    ("bt2020", True): (65536, 96639, 10784, 37444, 123299),
}
"""By matrix and full range, in 1/65536: luma; Cr of red; Cb and Cr of green (to be taken away);
Cb of blue. ITU-R BT.601-7, BT.709-6, BT.2020-2."""
_LUMA = (19595, 38470, 7471)  # of red, green and blue: BT.601's, adding up to 65536
_HALF = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanarImage:
    """A picture as a decoder leaves it."""

    format: Format
    planes: tuple[Pixels, ...]
    """Each of shape (rows, bytes), uint8, rows that do not overlap. `rgb` and `bgr`: one plane,
    three bytes a pixel. `nv12`: luma, then Cb and Cr in pairs. `yuv`: luma, Cb, Cr, the last two of
    any size."""
    matrix: Matrix = "bt601"
    full_range: bool = False
    """Luma takes values of 0 to 255, not of 16 to 235; of `gray` too."""

    def __post_init__(self) -> None:
        """Refuse planes that are none."""
        samples = SAMPLES[self.format]
        if len(self.planes) != len(samples):
            raise ValueError(f"{self.format} has {len(samples)} planes, got {len(self.planes)}")
        for plane, count in zip(self.planes, samples, strict=True):
            rows, width = plane.shape
            whole = width % count == 0 and 1 <= rows <= LARGEST and 1 <= width // count <= LARGEST
            if not whole or plane.dtype != np.uint8:
                raise ValueError(f"{plane.dtype} of shape {plane.shape} is no plane of {count}")
            if width > 1 and plane.strides[1] != 1:
                raise ValueError("the bytes of a plane's row do not lie side by side: copy it")


def resized_portably(image: PlanarImage, spec: ClipSpec) -> Pixels:
    """Return a picture at the spec's size and colour. From any thread.

    Args:
        image: Planes; they are read and not kept.
        spec: Size, colour and interpolation.

    Returns:
        Shape (height, width, channels), uint8, C-contiguous, the caller's own.
    """
    resizer = _native_resizer(spec)
    if resizer is None:
        return resized_with_numpy(image, spec)
    out = np.empty(spec.frame_shape, np.uint8)
    resizer(image.format, list(image.planes), image.matrix, image.full_range, out)
    return out


def path_taken() -> str:
    """Return what computes it here: `native avx512`, or `numpy` and why."""
    resizer = _native_resizer(ClipSpec(frames=1, height=1, width=1))
    return f"numpy ({why_not()})" if resizer is None else f"native {resizer.simd}"


class _OfThread(threading.local):
    """The compiled resizers of one thread: they keep weights and work space for the last size."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, int, str, str], Resizer] = {}


_of_thread = _OfThread()


def _native_resizer(spec: ClipSpec) -> "Resizer | None":
    module = native_module()
    if module is None:
        return None
    key = (spec.height, spec.width, spec.colour, spec.interpolation)
    if key not in _of_thread.made:
        _of_thread.made[key] = module.Resizer(*key)
    return _of_thread.made[key]


# -- the rule in NumPy -------------------------------------------------------------------------


def resized_with_numpy(image: PlanarImage, spec: ClipSpec) -> Pixels:
    """Do the same as `resized_portably`, with NumPy alone."""
    samples = SAMPLES[image.format]
    planes = image.planes
    if spec.colour == "gray" and image.format in ("nv12", "yuv"):
        planes = planes[:1]  # colours do not count
    small = [
        _resized(plane.reshape(len(plane), -1, count), spec)
        for plane, count in zip(planes, samples, strict=False)
    ]
    channels = [plane[..., i] for plane in small for i in range(plane.shape[2])]
    if image.format == "bgr":
        channels.reverse()
    if image.format in ("rgb", "bgr"):
        return np.stack([_luma(*channels)] if spec.colour == "gray" else channels, axis=-1)
    full = image.full_range
    if spec.colour == "gray" or image.format == "gray":
        gray = channels[0] if full else _clamped(_stretched(channels[0], image.matrix))
        return np.stack([gray] * spec.channels, axis=-1)
    return _rgb(channels, image.matrix, full)


def _resized(plane: Pixels, spec: ClipSpec) -> Pixels:
    """Resize a plane of shape (rows, columns, channels)."""
    rows, columns = plane.shape[:2]
    if spec.interpolation == "area" and spec.height <= rows and spec.width <= columns:
        return _area(plane, spec.height, spec.width)
    return _bilinear(plane, spec.height, spec.width)


def _area(plane: Pixels, height: int, width: int) -> Pixels:
    """Average what falls into each pixel, exactly, and round half up."""
    rows, columns, channels = plane.shape
    total = (rows // math.gcd(rows, height)) * (columns // math.gcd(columns, width))
    wide = np.uint32 if 2 * 255 * total + total < 1 << 32 else np.uint64
    sums = _area_sums(plane.reshape(rows, -1), height, np.uint32)
    # The other direction is the same with rows and columns exchanged.
    turned = np.ascontiguousarray(sums.reshape(height, columns, channels).swapaxes(0, 1))
    sums = _area_sums(turned.reshape(columns, -1), width, wide)
    means = (2 * sums + wide(total)) // wide(2 * total)
    small: Pixels = means.astype(np.uint8).reshape(width, height, channels).swapaxes(0, 1)
    return small


def _area_sums(rows: _Sums, count: int, wide: _Wide) -> _Sums:
    """Add up rows with their shares in `count` equal parts.

    With the greatest common divisor taken out, a row is `ours` units long and a part `theirs`::

        rows    |  0  |  1  |  2  |  3  |  4  |     5 rows of 3 units
        parts   |    0    |    1    |    2    |     3 parts of 5 units: 3 + 2, 1 + 3 + 1, 2 + 3
    """
    shared = math.gcd(len(rows), count)
    theirs, ours = len(rows) // shared, count // shared
    starts = np.arange(count, dtype=np.int64) * theirs
    ends = starts + theirs
    first, last = -(-starts // ours), ends // ours  # of whole rows; the last is not one of them
    # Sums of up to 257 rows of bytes fit into 16 bits, which is much faster.
    most = int((last - first).max())
    fits = rows.dtype == np.uint8 and most <= 257
    whole: _Sums = np.zeros((count, rows.shape[1]), np.uint16 if fits else wide)
    if most < count // 4:
        for k in range(most):
            parts = np.flatnonzero(first + k < last)
            if len(parts) == count:
                whole += rows[first + k]
            else:
                whole[parts] += rows[first[parts] + k]
    else:
        for i in range(count):
            np.add.reduce(rows[first[i] : last[i]], axis=0, dtype=whole.dtype, out=whole[i])
    if ours == 1:
        return whole.astype(wide)
    before = (first * ours - starts).astype(wide)
    behind = (ends - last * ours).astype(wide)
    # NumPy 1 would keep the 16 bits if one factor were a plain number.
    sums: _Sums = whole.astype(wide) * wide(ours)
    sums += before[:, None] * rows[np.maximum(first - 1, 0)]
    sums += behind[:, None] * rows[np.minimum(last, len(rows) - 1)]
    return sums


def _bilinear(plane: Pixels, height: int, width: int) -> Pixels:
    """Take the value at each pixel's centre, exactly, and round half up."""
    rows, columns = plane.shape[:2]
    above, share_below = _neighbours(rows, height)
    left, share_right = _neighbours(columns, width)
    below, right = np.minimum(above + 1, rows - 1), np.minimum(left + 1, columns - 1)
    total = 4 * height * width
    wide = np.uint32 if 2 * 255 * total + total < 1 << 32 else np.uint64
    low, late = share_below.astype(wide)[:, None, None], share_right.astype(wide)[:, None]
    high, early = wide(2 * height) - low, wide(2 * width) - late

    def at(row: npt.NDArray[np.int64]) -> _Sums:
        line = plane[row]
        sums: _Sums = line[:, left] * early + line[:, right] * late
        return sums

    sums = at(above) * high + at(below) * low
    values: Pixels = ((2 * sums + wide(total)) // wide(2 * total)).astype(np.uint8)
    return values


def _neighbours(size: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return for each of `count` centres the sample before it, and the share of the next one.

    Shares are whole numbers of 1 / (2 * count). Beyond the outermost centres the edge goes on.
    """
    at = (2 * np.arange(count, dtype=np.int64) + 1) * size - count
    at = np.clip(at, 0, 2 * count * (size - 1))
    return at // (2 * count), at % (2 * count)


def _luma(red: Pixels, green: Pixels, blue: Pixels) -> Pixels:
    parts = [w * c.astype(np.int32) for w, c in zip(_LUMA, (red, green, blue), strict=True)]
    return _clamped(parts[0] + parts[1] + parts[2])


def _stretched(luma: Pixels, matrix: Matrix) -> npt.NDArray[np.int32]:
    """Return luma of 16 to 235 as 0 to 255, in 1/65536."""
    return (luma.astype(np.int32) - 16) * _COLOUR[matrix, False][0]


def _rgb(channels: list[Pixels], matrix: Matrix, full_range: bool) -> Pixels:
    luma, cb, cr = channels
    _, cr_red, cb_green, cr_green, cb_blue = _COLOUR[matrix, full_range]
    y = luma.astype(np.int32) * 65536 if full_range else _stretched(luma, matrix)
    u, v = cb.astype(np.int32) - 128, cr.astype(np.int32) - 128
    colours = (y + cr_red * v, y - cb_green * u - cr_green * v, y + cb_blue * u)
    return np.stack([_clamped(colour) for colour in colours], axis=-1)


def _clamped(value: npt.NDArray[np.int32]) -> Pixels:
    pixels: Pixels = np.clip((value + _HALF) >> 16, 0, 255).astype(np.uint8)
    return pixels
