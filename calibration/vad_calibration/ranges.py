"""Ranges of a graph's inner tensors over a calibration set.

The memory that this takes does not grow with the number of inputs.
"""

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vad_calibration.activations import MEMORY_BYTES, Activations
from vad_calibration.histograms import BINS, MagnitudeHistogram, Method, limit_of
from vad_calibration.inputs import InputSet
from vad_runtime.bundle import sha256_of_file
from vad_runtime.commands import Interrupted, deferred_interrupt
from vad_runtime.contracts.errors import ExportError, InputError, VadError
from vad_runtime.files import DAMAGED_NPZ, whole_file
from vad_runtime.progress import progress

_FORMAT = "vad-edge ranges 1"
_SAVE_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What was seen in the tensors of one model for one set of inputs."""

    key: str
    """SHA-256, hexadecimal, of the model's file, the tensors' names and the inputs' key."""

    inputs: int
    """How many inputs the histograms have counted."""

    histograms: dict[str, MagnitudeHistogram]
    """One for each tensor, by its name in the graph."""

    def limits(self, method: Method, *, percentile: float = 99.99) -> dict[str, float]:
        """Return for each tensor the |x| that becomes 127; see `limit_of`."""
        return {
            name: limit_of(histogram, method, percentile=percentile)
            for name, histogram in self.histograms.items()
        }


def ranges_from_inputs(
    model: Path,
    tensors: Sequence[str],
    inputs: InputSet,
    *,
    state: Path | None = None,
    threads: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Ranges:
    """Run a model on every input and count what its tensors hold.

    Memory: the model in ONNX Runtime, one input, at most `memory_bytes` of tensors (or one tensor)
    and 256 KiB of counts a tensor. Counts are whole numbers, so work that was cut off and resumed
    gives the same ranges, bit for bit.

    Args:
        model: ONNX file with its weights inside and one input.
        tensors: Names of float32 tensors of the graph.
        inputs: What to run it on.
        state: Where to keep what is done, about every 30 seconds, on Ctrl-C or SIGTERM, and at the
            end; a later call with the same model, tensors and inputs goes on from there. What else
            is in the file is overwritten.
        threads: For ONNX Runtime; None = all that this process may use.
        memory_bytes: How many bytes of tensors may exist at once.

    Raises:
        InputError: The model cannot be read, or the state not written.
        ExportError: A tensor is not in the graph, not float32, or holds a value that is not finite.
        BackendError: ONNX Runtime failed.
        Interrupted: Ctrl-C or SIGTERM came; the state is written.
    """
    names = list(dict.fromkeys(tensors))
    key = _key_of(model, names, inputs)
    ranges = _from_state(state, key, names, len(inputs))
    if ranges is not None and ranges.inputs == len(inputs):
        return ranges
    if ranges is None:
        fresh = {name: MagnitudeHistogram() for name in names}
        ranges = Ranges(key=key, inputs=0, histograms=fresh)
    with Activations(model, names, threads=threads, memory_bytes=memory_bytes) as activations:
        ranges = _counted(activations, inputs, ranges, state)
    if state is not None:
        write_ranges(state, ranges)
    return ranges


def _counted(
    activations: Activations, inputs: InputSet, ranges: Ranges, state: Path | None
) -> Ranges:
    """Count the inputs that `ranges` has not counted yet, into its own histograms."""
    asked: list[bool] = []
    saved = time.monotonic()
    done = ranges.inputs
    with (
        deferred_interrupt(lambda: asked.append(True)),
        progress("calibrate", len(inputs), done) as shown,
    ):
        for one in islice(inputs, done, None):
            try:
                for name, values in activations.of(one):
                    ranges.histograms[name].add(values, tensor=f"the tensor {name}")
            except ExportError as error:
                raise ExportError(f"input {done + 1} of {len(inputs)}: {error}") from None
            done += 1
            ranges = Ranges(key=ranges.key, inputs=done, histograms=ranges.histograms)
            shown.advance()
            if state is not None and (asked or time.monotonic() - saved >= _SAVE_EVERY_S):
                write_ranges(state, ranges)
                saved = time.monotonic()
            if asked:
                raise Interrupted
    return ranges


def write_ranges(file: Path, ranges: Ranges) -> None:
    """Write ranges as a compressed `.npz`; equal ranges give equal bytes.

    Raises:
        InputError: The file cannot be written.
    """
    histograms = list(ranges.histograms.values())
    counts = np.zeros((len(histograms), BINS), np.int64)
    for row, histogram in zip(counts, histograms, strict=True):
        row[:] = histogram.counts
    with whole_file(file) as temporary, temporary.open("wb") as out:
        np.savez_compressed(
            out,
            format=np.array(_FORMAT),
            key=np.array(ranges.key),
            inputs=np.array(ranges.inputs, np.int64),
            tensors=np.array(list(ranges.histograms), np.str_),
            counts=counts,
            zeros=np.array([histogram.zeros for histogram in histograms], np.int64),
            largest=np.array([histogram.largest for histogram in histograms], np.float64),
        )


def read_ranges(file: Path) -> Ranges:
    """Read what `write_ranges` has written.

    Raises:
        InputError: The file is missing, damaged, or something else.
    """
    again = "Calibrate again, or give the file that calibration wrote."
    if not file.is_file():
        raise InputError(f"{file} is not there. {again}")
    try:
        # NumPy leaves a damaged file open, so it gets one that we close.
        with file.open("rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile) or "format" not in loaded:
                raise InputError(f"{file} holds no ranges. {again}")
            with closing(loaded):
                if str(loaded["format"]) != _FORMAT:
                    raise InputError(f"{file} is not of the form {_FORMAT!r}. {again}")
                return _ranges_from_arrays(loaded)
    except DAMAGED_NPZ:
        raise InputError(f"{file} is damaged, or no file of ranges. {again}") from None


def _ranges_from_arrays(loaded: "np.lib.npyio.NpzFile") -> Ranges:
    """Check every array; a ValueError or KeyError says that the file is damaged."""
    tensors, counts = loaded["tensors"], loaded["counts"]
    zeros, largest, inputs = loaded["zeros"], loaded["largest"], loaded["inputs"]
    key = str(loaded["key"])
    names = [str(name) for name in tensors.reshape(-1)]
    shapes = (tensors.shape, zeros.shape, largest.shape, inputs.shape, loaded["key"].shape)
    if shapes != ((len(names),), (len(names),), (len(names),), (), ()):
        raise ValueError("other shapes")
    kinds = [array.dtype for array in (zeros, largest, inputs)]
    kinds_fit = kinds == [np.int64, np.float64, np.int64] and tensors.dtype.kind == "U"
    if not kinds_fit or counts.shape != (len(names), BINS):
        raise ValueError("other types")
    if len(set(names)) != len(names) or inputs < 0 or len(key) != 64:
        raise ValueError("other values")
    histograms = {
        name: MagnitudeHistogram.from_counts(row, int(zero), float(most))
        for name, row, zero, most in zip(names, counts, zeros, largest, strict=True)
    }
    return Ranges(key=key, inputs=int(inputs), histograms=histograms)


def _from_state(state: Path | None, key: str, names: Sequence[str], inputs: int) -> Ranges | None:
    """Return what an earlier call has done of the same work; None = nothing that can be used."""
    if state is None:
        return None
    try:
        ranges = read_ranges(state)
    except VadError:
        return None
    fits = ranges.key == key and list(ranges.histograms) == names and ranges.inputs <= inputs
    return ranges if fits else None


def _key_of(model: Path, names: Sequence[str], inputs: InputSet) -> str:
    try:
        digest = sha256_of_file(model)
    except OSError as error:
        raise InputError(f"{model} cannot be read ({error.strerror}). Give an ONNX file.") from None
    return hashlib.sha256("\n".join([digest, inputs.key, *names]).encode()).hexdigest()
