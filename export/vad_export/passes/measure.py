"""Scores and speed of two versions of a graph."""

import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vad_runtime.backends.base import Backend, Inputs, Options
from vad_runtime.contracts import Manifest

_FP32 = Options(precision="fp32", threads=1)
"""One thread: its processor time is what the graph costs, whatever else the machine does."""

_SECONDS = 2.5
_LEAST_ROUNDS = 5
_MOST_ROUNDS = 200


def scores_of(
    file: Path, manifest: Manifest, inputs: Inputs, engine: str = "onnxruntime"
) -> npt.NDArray[np.float64]:
    """Return the scores of an ONNX file in an engine's fp32, shape (N,) or (N, count).

    Args:
        file: The graph.
        manifest: Its input and outputs.
        inputs: All are scored.
        engine: `onnxruntime` or `openvino`.

    Raises:
        BackendError: The graph does not load or run.
    """
    backend = _backend(file, manifest, Options(precision="fp32"), engine)
    try:
        return np.asarray(backend.infer(inputs)["score"], np.float64)
    finally:
        backend.close()


def timing_engine() -> str:
    """Return the back end that times are taken in: openvino where it is installed."""
    return "openvino" if find_spec("openvino") is not None else "onnxruntime"


def speedups(before: Path, after: Path, manifest: Manifest, inputs: Inputs) -> list[float]:
    """Return how many times faster `after` is, once a round, on the first input.

    Both graphs are loaded in this process and run by turns, so that what slows the machine down
    slows both of them. Rounds go on for about 2.5 s, but there are at least five.

    Args:
        before: ONNX file.
        after: ONNX file.
        manifest: Of both.
        inputs: At least one input; only the first is used.

    Raises:
        BackendError: A graph does not load or run.
    """
    engines: list[Backend] = []
    try:
        for file in (before, after):
            engines.append(loaded(file, manifest))
        # The first run of each also sets up memory, so this aims a little low.
        warm = sum(_seconds(engine, inputs[:1]) for engine in engines)
        rounds = int(min(max(_SECONDS / max(warm, 1e-6), _LEAST_ROUNDS), _MOST_ROUNDS))
        times = [[_seconds(engine, inputs[:1]) for engine in engines] for _ in range(rounds)]
    finally:
        for engine in engines:
            engine.close()
    return [old / max(new, 1e-9) for old, new in times]


def loaded(file: Path, manifest: Manifest, options: Options = _FP32) -> Backend:
    """Return an ONNX file in the engine that times are taken in; the caller closes it.

    Args:
        file: The graph.
        manifest: Its input and outputs.
        options: fp32 on one thread unless told otherwise.

    Raises:
        BackendError: The graph does not load.
    """
    return _backend(file, manifest, options, timing_engine())


def _backend(file: Path, manifest: Manifest, options: Options, engine: str) -> Backend:
    # The engines are heavy imports.
    if engine == "openvino":
        from vad_runtime.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(file, manifest, options)
    from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(file, manifest, options)


def _seconds(engine: Backend, clip: Inputs) -> float:
    start = time.process_time()
    engine.infer(clip)
    return time.process_time() - start
