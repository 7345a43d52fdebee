"""The C++ part's CUDA on the fake driver: runtime/native/tests/test_cuda.cpp holds the tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers_cuda import environment_with
from helpers_kernels import emulated_kernels
from helpers_native import native_program


def output_of(program: Path, libcuda: Path, **changes: str) -> str:
    fake = {"VAD_TEST_CUDA": "1", "VAD_TEST_FAKE_CUDA": "1"}
    done = subprocess.run(
        [program],
        env=environment_with(libcuda, **fake, **changes),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("place", [None, "begin", "end", "instantiate"])
def test_memory_streams_graphs_and_the_ring_work_and_leave_nothing(
    place: str | None, libcuda: Path
) -> None:
    changes = {} if place is None else {"FAKE_CUDA_NO_CAPTURE": place}
    assert output_of(native_program("test_cuda"), libcuda, **changes) == "fine\n"


def test_with_kernels_a_picture_on_the_device_becomes_the_processors_bytes(
    libcuda: Path, tmp_path: Path
) -> None:
    if shutil.which("nvcc") is None:
        if os.environ.get("VAD_REQUIRE_NVCC") == "1":
            pytest.fail("VAD_REQUIRE_NVCC=1, but there is no nvcc")
        pytest.skip("needs nvcc")
    program = native_program("test_cuda")
    kernels = str(emulated_kernels(tmp_path))
    assert output_of(program, libcuda, FAKE_CUDA_KERNELS=kernels) == "kernels\nfine\n"
    # The fake has no code of such kernels: those of another GPU.
    assert output_of(program, libcuda) == "fine\n"
