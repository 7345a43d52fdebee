"""NVDEC's pictures on the fake driver: runtime/native/tests/test_cuda_picture.cpp has the tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers_cuda import environment_with
from helpers_kernels import emulated_kernels
from helpers_native import native_program


def output_of(libcuda: Path, **changes: str) -> str:
    done = subprocess.run(
        [native_program("test_cuda_picture")],
        env=environment_with(libcuda, VAD_TEST_FAKE_CUDA="1", **changes),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("no FFmpeg"):
        pytest.skip(done.stdout.strip())
    return done.stdout


def test_planes_on_the_gpu_are_offered_and_downloaded_only_when_asked_for(libcuda: Path) -> None:
    assert output_of(libcuda) == "fine\n"


def test_with_kernels_small_pixels_are_made_on_the_gpu_without_a_download(
    libcuda: Path, tmp_path: Path
) -> None:
    if shutil.which("nvcc") is None:
        if os.environ.get("VAD_REQUIRE_NVCC") == "1":
            pytest.fail("VAD_REQUIRE_NVCC=1, but there is no nvcc")
        pytest.skip("needs nvcc")
    kernels = str(emulated_kernels(tmp_path))
    assert output_of(libcuda, FAKE_CUDA_KERNELS=kernels) == "kernels\nfine\n"
