"""The CUDA kernels without a GPU: compiled for the processor, as tests/fakes/kernels.cpp says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_CUDA = _ROOT / "runtime" / "native" / "cuda"
_FLAGS = ["-shared", "-fPIC", "-O1", "-std=c++14", "-Wall", "-Wextra", "-Werror"]


def emulated_kernels(folder: Path) -> Path:
    """Compile the kernels for the processor and return the shared object.

    Skips without a C++ compiler, fails without one under VAD_REQUIRE_NATIVE=1.
    """
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        assert os.environ.get("VAD_REQUIRE_NATIVE") != "1", "no C++ compiler"
        pytest.skip("no C++ compiler")
    library = folder / "kernels.so"
    source = Path(__file__).parent / "fakes" / "kernels.cpp"
    command = [compiler, *_FLAGS, f"-I{_CUDA}", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library
