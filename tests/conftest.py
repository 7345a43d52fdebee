"""Fixtures of all tests. Helper functions are in helpers.py."""

import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from helpers import artefact, clip_spec, manifest, motion_model, moving_blob, real_data, write_video
from helpers_cuda import fake_libcuda
from helpers_order import put_slow_files_first
from helpers_weights import i3d_weights_file

from vad_runtime.bundle import Bundle, write_bundle


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files with the most slow tests first where files of tests run side by side.

    One of them at the end would keep one worker busy and leave the others nothing to do.
    """
    if hasattr(config, "workerinput"):
        put_slow_files_first(items)


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data (see its README); skips without it, fails under VAD_REQUIRE_DATA=1."""
    folder = real_data()
    if folder is None:
        pytest.skip("the real data is not there; set VAD_DATA")
    return folder


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as at a terminal: workers of the test run, and shells' `&`, ignore it otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fake NVIDIA driver for subprocesses; skips without a C compiler."""
    return fake_libcuda(tmp_path_factory.mktemp("libcuda"))


@pytest.fixture(scope="session")
def i3d_weights() -> Path:
    """The real I3D Kinetics-400 checkpoint; skips without it, fails under VAD_REQUIRE_DATA=1."""
    return i3d_weights_file()


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of H.264, 160 x 120 at 15 fps, of a textured square that moves. Do not change."""
    return write_video(tmp_path_factory.mktemp("video") / "tiny.mp4", moving_blob(60))


@pytest.fixture(scope="session")
def frame_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 PNG frames, 160 x 120, named 1.png to 12.png. Do not change."""
    folder = tmp_path_factory.mktemp("frames")
    for i, image in enumerate(moving_blob(12), start=1):
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture.save(str(folder / f"{i}.png"))
    return folder


@pytest.fixture(scope="session")
def tiny_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX graph that keeps the contract: 8 grey 32 x 32 frames to 8 scores. Do not change."""
    return motion_model(tmp_path_factory.mktemp("graph") / "motion.onnx", clip_spec())


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_graph: Path) -> Bundle:
    """A whole bundle around `tiny_graph`, with a threshold. Do not change: copy it."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.vad"
    about = manifest(artefacts={"fp32": artefact(opset=18)})
    return write_bundle(path, about, {"fp32": tiny_graph})


@pytest.fixture
def bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """The folder of a bundle that the test may spoil."""
    import shutil

    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy.vad"))
