"""Programs of the C++ part, built when a test asks for one."""

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def native_program(name: str, preset: str = "dev") -> Path:
    """Builds the CMake target `name` by a preset (`dev` or `dev-asan`) and returns its path.

    Skips without a C++ compiler or CMake; fails then under VAD_REQUIRE_NATIVE=1. A build that
    breaks fails the test with the compiler's words.
    """
    if not _have_tools():
        if os.environ.get("VAD_REQUIRE_NATIVE") == "1":
            pytest.fail("VAD_REQUIRE_NATIVE=1, but there is no C++ compiler, CMake or ninja")
        pytest.skip("needs a C++ compiler, CMake and ninja")
    return _built(name, preset)


@cache
def _have_tools() -> bool:
    compilers = (os.environ.get("CXX") or "c++ g++ clang++").split()
    return any(map(shutil.which, compilers)) and all(map(shutil.which, ("cmake", "ninja")))


@cache
def _built(name: str, preset: str) -> Path:
    folder = ROOT / "build" / preset
    folder.mkdir(parents=True, exist_ok=True)
    # Files of tests run side by side, and ninja takes no two builds of one folder at once.
    with (folder / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "--preset", preset, "--log-level=WARNING"],
            ["cmake", "--build", "--preset", preset, "--target", name],
        ):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode != 0:
                tail = (done.stdout + done.stderr)[-6000:]
                pytest.fail(f"{' '.join(command)} failed:\n{tail}")
    return folder / "runtime" / "native" / name
