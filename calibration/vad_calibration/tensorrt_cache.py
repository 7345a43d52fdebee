"""The legacy calibration cache of TensorRT up to version 10, written from our own ranges.

It is text: a line `TRT-8501-EntropyCalibration2` (version of TensorRT, algorithm) and then for each
tensor `name: 3c010a14`, the scale as the hexadecimal digits of a big-endian float32. TensorRT
multiplies the scale by a level of -127 .. 127, so scale = limit / 127.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vad_calibration.limits import LEVELS
from vad_runtime.contracts.errors import ExportError, InputError
from vad_runtime.files import whole_file

_HEADER = re.compile(r"TRT-(\d+)-([A-Za-z0-9]+)")
_LINE = re.compile(r"(.+): ([0-9a-f]{8})")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class TensorRtCache:
    """What a calibration cache says."""

    version: str
    """Of the TensorRT that wrote it, in digits: `8501` = 8.5.1."""

    algorithm: str
    """`EntropyCalibration2`, `MinMaxCalibration`, …"""

    scales: dict[str, float]
    """Scale of each tensor, exactly the float32 of the file."""

    @property
    def limits(self) -> dict[str, float]:
        """For each tensor the |x| that becomes 127."""
        return {name: scale * LEVELS for name, scale in self.scales.items()}


def tensorrt_cache_text(
    limits: Mapping[str, float],
    *,
    version: str = "8501",
    algorithm: str = "EntropyCalibration2",
) -> str:
    """Return the text of a calibration cache.

    Args:
        limits: For each tensor, by its name in the ONNX graph, the |x| that becomes 127.
        version: Of TensorRT, in digits. TensorRT reads the caches of other versions of its line.
        algorithm: Must name the calibrator that serves the cache: `EntropyCalibration2` for
            `IInt8EntropyCalibrator2`, `MinMaxCalibration` for `IInt8MinMaxCalibrator`.

    Raises:
        ExportError: There are no limits, a name cannot stand in a line, or a scale is no positive
            float32.
    """
    head = f"TRT-{version}-{algorithm}"
    if not _HEADER.fullmatch(head):
        raise ExportError(
            f"{head!r} is no first line of a TensorRT cache. Give a version such as 8501 and an "
            "algorithm such as EntropyCalibration2."
        )
    if not limits:
        raise ExportError("a TensorRT cache needs the limits of some tensors. Calibrate first.")
    return "\n".join([head, *(_line(name, limit) for name, limit in limits.items())]) + "\n"


def tensorrt_cache_from_limits(
    limits: Mapping[str, float],
    file: Path,
    *,
    version: str = "8501",
    algorithm: str = "EntropyCalibration2",
) -> None:
    """Write a calibration cache; see `tensorrt_cache_text`.

    Raises:
        ExportError: A name or a limit cannot be written.
        InputError: The file cannot be written.
    """
    text = tensorrt_cache_text(limits, version=version, algorithm=algorithm)
    with whole_file(file) as temporary:
        temporary.write_bytes(text.encode())


def read_tensorrt_cache(file: Path) -> TensorRtCache:
    """Read a calibration cache.

    Raises:
        InputError: The file is missing, damaged, or something else.
    """
    again = "Calibrate again, or give the cache that TensorRT wrote."
    try:
        lines = file.read_bytes().decode().splitlines()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). {again}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no text, so no calibration cache. {again}") from None
    head = _HEADER.fullmatch(lines[0]) if lines else None
    if head is None:
        raise InputError(f"{file} does not begin with TRT-VERSION-ALGORITHM. {again}")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        found = _LINE.fullmatch(line)
        scale = _scale_of(found[2]) if found else None
        if found is None or scale is None or found[1] in scales:
            raise InputError(
                f"{file} is damaged: line {number} is no further tensor with its scale. {again}"
            )
        scales[found[1]] = scale
    if not scales:
        raise InputError(f"{file} holds no tensor. {again}")
    return TensorRtCache(version=head[1], algorithm=head[2], scales=scales)


def _line(name: str, limit: float) -> str:
    if not name or len(name.splitlines()) != 1 or name != name.strip():
        raise ExportError(
            f"the tensor name {name!r} cannot stand in a TensorRT cache. Rename it in the graph."
        )
    scale = limit / LEVELS
    bits = struct.pack(">f", scale) if abs(scale) <= _LARGEST else b""
    if not bits or _scale_of(bits.hex()) is None:
        raise ExportError(
            f"the tensor {name} has the limit {limit}, which gives no positive float32 scale. "
            "Calibrate again."
        )
    return f"{name}: {bits.hex()}"


def _scale_of(digits: str) -> float | None:
    scale = float(struct.unpack(">f", bytes.fromhex(digits))[0])
    # A scale of 0 divides by zero in every kernel that uses it.
    return scale if math.isfinite(scale) and scale > 0 else None
