"""What a clip costs: the STAE on every engine against PyTorch, and the whole road of a frame."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers import artefact, manifest, moving_blob, write_video
from pytest_benchmark.fixture import BenchmarkFixture

from vad_export.onnx_graph import onnx_from_graph
from vad_export.opset import opset_of
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options, PrecisionChoice
from vad_runtime.backends.registry import Choice
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import BackendError, ClipSpec, Scoring
from vad_runtime.detector import Detector, ScoredFrame
from vad_runtime.sources import open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_training.graphs.stae import ScoreForm, StaeScore, stae_graph
from vad_training.models.stae import STAE

CLIP = ClipSpec(frames=16, height=128, width=128, colour="gray", hop=4)
FORM = ScoreForm()
FRAMES = 48
# Of the scores themselves: the graph sums over 16,384 pixels.
TOLERANCE: dict[PrecisionChoice, float] = {"fp32": 1e-4, "bf16": 0.02}
ENGINES: list[tuple[str, PrecisionChoice]] = [
    ("openvino", "bf16"),
    ("openvino", "fp32"),
    ("onnxruntime", "fp32"),
]

Clips = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def stae() -> STAE:
    """An STAE with random weights, the same in every session."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return STAE().eval()


@pytest.fixture(scope="session")
def bundle(stae: STAE, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its bundle; parity is asserted here, by every benchmark, and not at the export."""
    folder = tmp_path_factory.mktemp("bundle")
    file = folder / "model.fp32.onnx"
    onnx_from_graph(stae_graph(stae, CLIP, FORM), file)
    about = manifest(
        clip=CLIP,
        score=FORM.score_spec(CLIP.frames),
        # Every score is above it: an alarm from the first frame to the last.
        scoring=Scoring(threshold=1e-6, method="set by hand for benchmarks"),
        artefacts={"fp32": artefact(file=file.name, opset=opset_of(file))},
    )
    return write_bundle(folder / "stae.vad", about, {"fp32": file})


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 320 x 240 H.264 clip."""
    images = moving_blob(FRAMES, height=240, width=320)
    return write_video(tmp_path_factory.mktemp("video") / "site.mp4", images)


@pytest.fixture(scope="session")
def clip(video: Path) -> Clips:
    """The first clip of the video, shape (1, 16, 128, 128, 1)."""
    frames = [frame.pixels for frame in open_source(video, CLIP, pictures=False).frames()]
    return np.ascontiguousarray(np.stack(frames[: CLIP.frames])[None])


def eager(stae: STAE) -> Callable[[Clips], Scores]:
    """Return PyTorch's way from clips to scores."""
    graph = StaeScore(stae, CLIP.frames, FORM, []).eval()

    def score(clips: Clips) -> Scores:
        with torch.inference_mode():
            return np.asarray(graph(torch.from_numpy(clips))[0].numpy(), np.float32)

    return score


@pytest.fixture(scope="session")
def expected(stae: STAE, clip: Clips) -> Scores:
    """PyTorch's scores of the clip."""
    return eager(stae)(clip)


def opened(bundle: Bundle, engine: str, precision: PrecisionChoice) -> Choice:
    """Open an engine; skip where this machine has no such arithmetic."""
    try:
        return open_backend(bundle, engine, Options(precision=precision))
    except BackendError as error:
        if precision != "bf16":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_score_one_clip(
    benchmark: BenchmarkFixture,
    bundle: Bundle,
    clip: Clips,
    expected: Scores,
    engine: str,
    precision: PrecisionChoice,
) -> None:
    benchmark.group = "STAE, one clip of 16 x 128 x 128"
    choice = opened(bundle, engine, precision)
    benchmark.extra_info["device"] = choice.backend.device
    assert precision in choice.backend.device
    answer = benchmark.pedantic(choice.backend.infer, args=(clip,), rounds=10, warmup_rounds=2)
    choice.backend.close()
    np.testing.assert_allclose(answer["score"], expected, rtol=TOLERANCE[precision])


def test_score_one_clip_with_pytorch(
    benchmark: BenchmarkFixture, stae: STAE, clip: Clips, expected: Scores
) -> None:
    benchmark.group = "STAE, one clip of 16 x 128 x 128"
    answer = benchmark.pedantic(eager(stae), args=(clip,), rounds=10, warmup_rounds=2)
    np.testing.assert_allclose(answer, expected, rtol=1e-6)
    assert answer.shape == (1, CLIP.frames)


@pytest.mark.parametrize(("engine", "precision"), [*ENGINES, ("fake", "fp32")])
def test_from_a_file_to_an_event(
    benchmark: BenchmarkFixture,
    bundle: Bundle,
    video: Path,
    expected: Scores,
    engine: str,
    precision: PrecisionChoice,
) -> None:
    benchmark.group = f"decode to event, {FRAMES} frames of 320 x 240 H.264, hop {CLIP.hop}"
    choice = opened(bundle, engine, precision)

    def road() -> tuple[Detector, list[ScoredFrame]]:
        source = open_source(video, CLIP, pictures=False)
        detector = Detector(bundle.manifest, choice.backend)
        frames = Prefetch(source)
        return detector, list(detector.run(frames, nominal_fps=source.info.fps))

    detector, scored = benchmark.pedantic(road, rounds=3, warmup_rounds=1)
    choice.backend.close()
    assert [s.frame.index for s in scored] == list(range(FRAMES))
    assert all(s.status == "scored" and s.alarm for s in scored)
    assert detector.counters.clips == 1 + (FRAMES - CLIP.frames) // CLIP.hop
    (event,) = detector.events
    assert (event.start_frame, event.end_frame) == (0, FRAMES - 1)
    if engine != "fake":
        first = [s.raw for s in scored[: CLIP.frames]]
        np.testing.assert_allclose(first, expected[0], rtol=TOLERANCE[precision])
