"""Everything that scores the same clip: this project's engines and those of others, side by side.

Each is a function of a clip. All take uint8 clips and give the score: what a user would have to
write around an engine belongs to it.
"""

import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from perf_models import Made, score_graph

from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options, PrecisionChoice
from vad_runtime.backends.checks import first_line, usable_threads
from vad_runtime.contracts import BackendError
from vad_runtime.contracts.manifest import Manifest

Clips = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[np.float32]]
Score = Callable[[Clips], Arrays]

EAGER = "PyTorch eager fp32"
COMPILED = "torch.compile fp32"
NNCF = "OpenVINO int8 by NNCF"
OURS: dict[str, tuple[str, PrecisionChoice]] = {
    "vad-edge OpenVINO int8": ("openvino", "int8"),
    "vad-edge OpenVINO bf16": ("openvino", "bf16"),
    "vad-edge OpenVINO fp32": ("openvino", "fp32"),
    "vad-edge ONNX Runtime int8": ("onnxruntime", "int8"),
    "vad-edge ONNX Runtime fp32": ("onnxruntime", "fp32"),
}
INT8, BF16 = "vad-edge OpenVINO int8", "vad-edge OpenVINO bf16"
PLAIN_ORT = "ONNX Runtime fp32, plain"

# Largest difference of a score / the largest score, and least cosine of an embedding. These are
# drawn weights: what int8 does to a trained model, docs/results/int8_fidelity.md says.
LIMITS = {"fp32": (1e-3, 0.9999), "bf16": (0.02, 0.999), "int8": (0.15, 0.95)}


@dataclass
class Engines:
    """Opened engines by name, and why others are missing. Close it."""

    scores: dict[str, Score] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def add(self, name: str, precision: str, score: Score, close: Callable[[], Any]) -> None:
        """Take an engine."""
        self.scores[name], self.precisions[name] = score, precision
        self._stack.callback(close)

    def close(self) -> None:
        """Let go of all of them."""
        self.scores.clear()
        self._stack.close()


def engines_of(made: Made, *, compiled: bool, threads: int | None = None) -> Engines:
    """Open every engine and peer of a model.

    Args:
        made: The model.
        compiled: Also `torch.compile`, which takes up to minutes.
        threads: For all of them; None = all that this process may use.
    """
    threads = threads or usable_threads()
    found = Engines()
    for name, (engine, precision) in OURS.items():
        options = Options(precision=precision, threads=threads)
        try:
            backend = open_backend(made.bundle, engine, options).backend
        except BackendError as error:
            found.missing[name] = first_line(error)
            continue
        found.notes[name] = backend.device
        found.add(name, precision, backend.infer, backend.close)
    _add_nncf(found, made, threads)
    score, session_close = plain_onnxruntime(made, threads)
    found.add(PLAIN_ORT, "fp32", score, session_close)
    _add_pytorch(found, made, threads, compiled=compiled)
    return found


def _add_nncf(found: Engines, made: Made, threads: int) -> None:
    if made.nncf is None:
        found.missing[NNCF] = "nncf was not installed when the bundle was made: pip install nncf"
        return
    from vad_runtime.backends.openvino import OpenVinoBackend

    options = Options(precision="int8", threads=threads)
    try:
        backend = OpenVinoBackend(made.nncf, made.bundle.manifest, options)
    except BackendError as error:
        found.missing[NNCF] = first_line(error)
        return
    found.notes[NNCF] = backend.device
    found.add(NNCF, "int8", backend.infer, backend.close)


def plain_onnxruntime(made: Made, threads: int) -> tuple[Score, Callable[[], None]]:
    """Return ONNX Runtime as its documentation shows it: a session, and `run`."""
    import onnxruntime

    entry = made.bundle.manifest.artefacts["fp32"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    held = [
        onnxruntime.InferenceSession(
            str(made.bundle.file(entry)), options, providers=["CPUExecutionProvider"]
        )
    ]
    names = [output.name for output in held[0].get_outputs()]
    feed = made.bundle.manifest.input_name

    def score(clips: Clips) -> Arrays:
        return dict(zip(names, held[0].run(None, {feed: clips}), strict=True))

    return score, held.clear


def _add_pytorch(found: Engines, made: Made, threads: int, *, compiled: bool) -> None:
    import torch

    torch.set_num_threads(threads)
    graph = score_graph(made.key)
    found.add(EAGER, "fp32", eager_of(graph), lambda: None)
    if not compiled:
        found.missing[COMPILED] = "left out of a run that measures nothing"
        return
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        found.missing[COMPILED] = "no C++ compiler"
        return
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        # Without `freezing`: it gives the STAE another score.
        # For this size alone: PyTorch 2.13 fails on SlowFast with sizes left open.
        score = eager_of(graph, torch.compile(graph.module, dynamic=False))
        try:
            score(made.clips()[:1])
        except RuntimeError as error:
            found.missing[COMPILED] = f"it does not compile: {first_line(error)}"
            return
    found.notes[COMPILED] = f"compiled in {time.perf_counter() - begun:.0f} s"
    found.add(COMPILED, "fp32", score, torch.compiler.reset)


def eager_of(graph: Any, module: Any = None) -> Score:
    """Return PyTorch's way from clips to outputs."""
    import torch

    run = graph.module if module is None else module
    names = graph.output_names

    def score(clips: Clips) -> Arrays:
        with torch.inference_mode():
            values = run(torch.from_numpy(clips))
        return dict(zip(names, (value.numpy() for value in values), strict=True))

    return score


def require_same(name: str, found: Arrays, want: Arrays, precision: str) -> dict[str, Any]:
    """Compare an answer with PyTorch's; return the differences.

    Raises:
        AssertionError: It is another answer.
    """
    from precision_parts import compared

    differences = compared(found, want)
    most, least = LIMITS[precision]
    assert differences["finite"], name
    assert differences["difference"] <= most, (name, differences)
    assert differences["cosine"] is None or differences["cosine"] >= least, (name, differences)
    return differences


def plain_loop(video: Path, manifest: Manifest, score: Score, hop: int) -> list[Any]:
    """Score a film as the source projects do: OpenCV, a list of frames, and the model in PyTorch.

    Returns:
        The scores of each clip.
    """
    import cv2

    spec = manifest.clip
    scores, frames = [], []
    capture = cv2.VideoCapture(str(video))
    while True:
        more, picture = capture.read()
        if not more:
            break
        code = cv2.COLOR_BGR2GRAY if spec.channels == 1 else cv2.COLOR_BGR2RGB
        small = cv2.resize(cv2.cvtColor(picture, code), (spec.width, spec.height))
        frames.append(small.reshape(spec.frame_shape))
        if len(frames) == spec.frames:
            scores.append(score(np.stack(frames)[None])["score"])
            frames = frames[hop:]
    capture.release()
    return scores
