"""How long a device waits for its first score: imports, and opening a bundle, in a new process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import artefact, clip_spec, manifest, motion_model, moving_blob, write_video
from perf_children import ran, vad_run
from perf_models import Made
from perf_targets import FIRST_SCORE_S, HELP_S, Target
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.bundle import write_bundle
from vad_runtime.sinks.rows import read_rows

ROUNDS = 5

OPEN = """
import sys
from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle
choice = open_backend(Bundle.open(sys.argv[1]), sys.argv[2])
print(choice.name, [m for m in ("torch", "onnx", "cv2", "av", "matplotlib") if m in sys.modules])
choice.backend.close()
"""
IMPORT = """
import sys
import vad_runtime
print(vad_runtime.__version__, [m for m in ("av", "cv2", "openvino", "torch") if m in sys.modules])
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a graph of a few nodes: what is measured is the engine, not the model."""
    folder = tmp_path_factory.mktemp("startup")
    graph = motion_model(folder / "motion.onnx", clip_spec())
    about = manifest(artefacts={"fp32": artefact(opset=18)})
    return write_bundle(folder / "tiny.vad", about, {"fp32": graph}).path


def measured(benchmark: BenchmarkFixture, full: bool, *command: str | Path) -> str:
    """Measure a child process; the first one, with a cold file cache, does not count."""
    benchmark.group = "start-up, whole process"
    rounds, warm_up = (ROUNDS, 1) if full else (1, 0)
    done = benchmark.pedantic(ran, args=command, rounds=rounds, warmup_rounds=warm_up)
    return str(done.output)


def python(code: str, *arguments: str | Path) -> list[str | Path]:
    """Return the command that runs a piece of Python."""
    return [sys.executable, "-c", code, *arguments]


def test_start_python(benchmark: BenchmarkFixture, full: bool) -> None:
    assert measured(benchmark, full, *python("print('ready')")) == "ready\n"


def test_import_the_runtime(benchmark: BenchmarkFixture, full: bool) -> None:
    from vad_runtime import __version__

    assert measured(benchmark, full, *python(IMPORT)) == f"{__version__} []\n"


@pytest.mark.parametrize("backend", ["fake", "onnxruntime", "openvino"])
def test_open_a_bundle(benchmark: BenchmarkFixture, bundle: Path, backend: str, full: bool) -> None:
    assert measured(benchmark, full, *python(OPEN, bundle, backend)) == f"{backend} []\n"


def test_help(benchmark: BenchmarkFixture, board: Any, full: bool) -> None:
    benchmark.group = "start-up, whole process"
    done = benchmark.pedantic(vad_run, args=("--help",), rounds=9 if full else 1)
    assert "Usage: vad-run" in done.output
    if full:
        median_s = benchmark.stats.stats.median
        board.target(
            Target(name="vad-run --help", value=median_s, wanted=HELP_S, sense="most", unit=" s")
        )


def test_score_one_clip_and_end(
    benchmark: BenchmarkFixture,
    board: Any,
    made_of: Callable[[str], Made],
    tmp_path: Path,
    full: bool,
) -> None:
    """The first score comes a little before the end: this is more than the wait for it."""
    benchmark.group = "start-up, whole process"
    made = made_of("stae" if full else "stae_twin")
    spec = made.bundle.manifest.clip
    film = write_video(tmp_path / "clip.mp4", moving_blob(spec.frames, height=240, width=320))
    words = ["score", made.bundle.path, film, "-o", tmp_path / "out", "--overwrite"]
    words += ["--precision", "int8", "--backend", "openvino", "--no-overlay", "--no-plot"]
    benchmark.pedantic(vad_run, args=words, rounds=ROUNDS if full else 1, warmup_rounds=1)
    rows = read_rows(tmp_path / "out" / "scores.csv")
    assert len(rows) == spec.frames
    assert all(row.status == "scored" for row in rows)
    if full:
        board.target(
            Target(
                name="vad-run score of one STAE clip, from the shell's prompt to the next",
                value=benchmark.stats.stats.median,
                wanted=FIRST_SCORE_S,
                sense="most",
                unit=" s",
            )
        )
