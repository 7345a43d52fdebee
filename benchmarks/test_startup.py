"""How long a device waits for its first score: imports, and opening a bundle, in a new process."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import artefact, clip_spec, manifest, motion_model
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.bundle import write_bundle

ROUNDS = 3

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


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a graph of a few nodes: what is measured is the engine, not the model."""
    folder = tmp_path_factory.mktemp("startup")
    graph = motion_model(folder / "motion.onnx", clip_spec())
    about = manifest(artefacts={"fp32": artefact(opset=18)})
    return write_bundle(folder / "tiny.vad", about, {"fp32": graph}).path


def child(code: str, *arguments: str | Path) -> str:
    """Run Python code in a new process; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def measured(benchmark: BenchmarkFixture, code: str, *arguments: str | Path) -> str:
    """Measure a child process; the first one, with a cold file cache, does not count."""
    answer: str = benchmark.pedantic(child, args=(code, *arguments), rounds=ROUNDS, warmup_rounds=1)
    return answer


def test_start_python(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "start-up, whole process"
    assert measured(benchmark, "print('ready')") == "ready\n"


def test_import_the_runtime(benchmark: BenchmarkFixture) -> None:
    from vad_runtime import __version__

    benchmark.group = "start-up, whole process"
    assert measured(benchmark, IMPORT) == f"{__version__} []\n"


@pytest.mark.parametrize("backend", ["fake", "onnxruntime", "openvino"])
def test_open_a_bundle(benchmark: BenchmarkFixture, bundle: Path, backend: str) -> None:
    benchmark.group = "start-up, whole process"
    assert measured(benchmark, OPEN, bundle, backend) == f"{backend} []\n"
