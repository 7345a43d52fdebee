"""A calibrator object for TensorRT 8 to 10: the way to INT8 before Q/DQ graphs.

TensorRT 11, TensorRT-RTX and the lean runtime have no calibrators: INT8 comes from the Q/DQ graph
there. The module `tensorrt` is handed in, and device memory comes from the caller, so this needs
neither of them to be imported.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vad_calibration.inputs import Inputs, InputSet
from vad_calibration.tensorrt_cache import read_tensorrt_cache, tensorrt_cache_text
from vad_runtime.contracts.errors import BackendError, InputError, VadError
from vad_runtime.files import whole_file

Kind = Literal["entropy2", "minmax"]

_BASES: Mapping[str, tuple[str, str]] = {
    "entropy2": ("IInt8EntropyCalibrator2", "EntropyCalibration2"),
    "minmax": ("IInt8MinMaxCalibrator", "MinMaxCalibration"),
}


class DeviceMemory(Protocol):
    """The two things that a calibrator needs of a GPU."""

    def allocate(self, nbytes: int) -> int:
        """Return the address of `nbytes` bytes on the device; the memory object frees them."""

    def copy(self, pointer: int, array: npt.NDArray[Any]) -> None:
        """Copy a C-contiguous array to the device and wait until it is there."""


def calibrator_class(trt: ModuleType, kind: Kind = "entropy2") -> type[Any]:
    """Return a calibrator class built on TensorRT's own.

    Objects are made with `(inputs, memory, *, cache=None, limits=None)`:

    * inputs: An `InputSet`, one input a batch.
    * memory: A `DeviceMemory`; None where `limits` or a cache is there and no batch is needed.
    * cache: A file; what is in it is used, and what TensorRT computes is written to it.
    * limits: For each tensor the |x| that becomes 127. They are served as a cache, so TensorRT
      runs nothing and needs no memory; they go before the file.

    TensorRT swallows what a calibrator raises, so look at `failure` after the build: an exception,
    or None. After a failure no cache is written.

    Args:
        trt: The module `tensorrt`, versions 8 to 10.
        kind: `entropy2` for `IInt8EntropyCalibrator2`, `minmax` for `IInt8MinMaxCalibrator`.

    Raises:
        BackendError: This TensorRT has no such base class.
    """
    name, algorithm = _BASES[kind]
    base: Any = getattr(trt, name, None)
    if base is None:
        version = getattr(trt, "__version__", "of unknown version")
        raise BackendError(
            f"{trt.__name__} {version} has no {name}: its INT8 comes from the Q/DQ graph. "
            "Build the int8 artefact of the bundle instead."
        )

    class Calibrator(base):  # type: ignore[misc]
        """See `calibrator_class`."""

        def __init__(
            self,
            inputs: InputSet,
            memory: DeviceMemory | None = None,
            *,
            cache: Path | None = None,
            limits: Mapping[str, float] | None = None,
        ) -> None:
            base.__init__(self)  # not super(): the binding asks for this very call
            self._feed = _Feed(inputs, memory)
            self._cache = _Cache(cache, limits, algorithm)
            self.failure: Exception | None = None

        def get_batch_size(self) -> int:
            """Return 1: inputs come one at a time."""
            return 1

        def get_batch(self, names: Sequence[str], *_: Any) -> list[int] | None:
            """Copy the next input to the device and return its address; None at the end."""
            if self.failure is not None:
                return None
            try:
                return self._feed.next(names)
            except Exception as error:  # it would be lost in TensorRT's C++ code
                self.failure = error
                return None

        def read_calibration_cache(self, *_: Any) -> bytes | None:
            """Return the cache that the limits or the file give, or None."""
            try:
                return self._cache.read()
            except VadError as error:
                self.failure = error
                return None

        def write_calibration_cache(self, cache: Any, *_: Any) -> None:
            """Write what TensorRT has computed, whole or not at all."""
            if self.failure is not None:
                return
            try:
                self._cache.write(bytes(cache))
            except VadError as error:
                self.failure = error

    return Calibrator


class _Feed:
    """Gives one input after the other through one piece of device memory."""

    def __init__(self, inputs: InputSet, memory: DeviceMemory | None) -> None:
        self._inputs = inputs
        self._memory = memory
        self._left: Iterator[Inputs] | None = None
        self._pointer = self._room = 0

    def next(self, names: Sequence[str]) -> list[int] | None:
        if len(names) != 1:
            raise BackendError(
                f"the network has {len(names)} inputs ({', '.join(names)}). "
                "Calibration needs a network with one."
            )
        if self._memory is None:
            raise BackendError(
                "calibration needs device memory for its inputs. "
                "Give a memory object, or the limits of a finished calibration."
            )
        if self._left is None:
            self._left = iter(self._inputs)
        one = next(self._left, None)
        if one is None:
            self._left = None  # a second build begins again
            return None
        array = np.ascontiguousarray(one)
        if array.nbytes > self._room:
            self._pointer = int(self._memory.allocate(array.nbytes))
            self._room = array.nbytes
        self._memory.copy(self._pointer, array)
        return [self._pointer]


class _Cache:
    """Serves limits or a file as a cache, and writes the file."""

    def __init__(
        self, file: Path | None, limits: Mapping[str, float] | None, algorithm: str
    ) -> None:
        self._file = file
        self._text = None if limits is None else tensorrt_cache_text(limits, algorithm=algorithm)
        self._algorithm = algorithm

    def read(self) -> bytes | None:
        if self._text is not None:
            return self._text.encode()
        if self._file is None or not self._file.is_file():
            return None
        found = read_tensorrt_cache(self._file)
        if found.algorithm != self._algorithm:
            raise InputError(
                f"{self._file} comes from {found.algorithm}, this calibrator is "
                f"{self._algorithm}. Give its own cache, or another file."
            )
        return self._file.read_bytes()

    def write(self, cache: bytes) -> None:
        if self._file is not None:
            with whole_file(self._file) as temporary:
                temporary.write_bytes(cache)
