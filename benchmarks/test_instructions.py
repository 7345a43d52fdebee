"""Instructions of the C++ resizer, counted by callgrind, as a share of a plain loop's.

Counts are the same in every run, so the limits can be near: a third above what was seen. Both sides
are in one binary and come from one compiler (resize_instructions.cpp). AVX-512 is left out, which
valgrind does not know.

Skips without valgrind or a compiler; fails then under VAD_REQUIRE_VALGRIND=1.
"""

import functools
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "runtime" / "native"
KERNELS = {"resize_baseline": [], "resize_avx2": ["-mavx2"], "resize_avx512": []}
"""As runtime/native/CMakeLists.txt has them. The last is empty without its flags."""

# Of the plain loop's instructions: kernel, source, colour, interpolation. What GCC 12 came to
# stands beside it.
LIMITS = {
    ("baseline", "yuv", "gray", "area"): 0.13,  # 0.095
    ("baseline", "yuv", "rgb", "area"): 0.15,  # 0.116
    ("baseline", "yuv", "rgb", "bilinear"): 0.37,  # 0.282
    ("baseline", "rgb", "rgb", "area"): 0.12,  # 0.089
    ("avx2", "yuv", "gray", "area"): 0.06,  # 0.045
    ("avx2", "yuv", "rgb", "area"): 0.06,  # 0.046
    ("avx2", "yuv", "rgb", "bilinear"): 0.15,  # 0.111
    ("avx2", "rgb", "rgb", "area"): 0.053,  # 0.040
}


def missing(what: str) -> None:
    """Skip, or fail where the count was asked for."""
    if os.environ.get("VAD_REQUIRE_VALGRIND") == "1":
        pytest.fail(f"VAD_REQUIRE_VALGRIND=1, but there is no {what}")
    pytest.skip(f"no {what}: instructions are not counted")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The resizer and the plain loop, optimised, in one binary."""
    if platform.machine() != "x86_64":
        missing("x86-64 processor, for which the limits are")
    if shutil.which("valgrind") is None:
        missing("valgrind")
    words = os.environ.get("CXX", "").split()
    compiler = words or [next(filter(shutil.which, ("c++", "g++", "clang++")), "")]
    if not compiler[0]:
        missing("C++ compiler")
    folder = tmp_path_factory.mktemp("instructions")
    flags = ["-std=c++17", "-O3", f"-I{NATIVE / 'include'}", f"-I{NATIVE / 'src'}"]
    sources = {name: (NATIVE / "src" / f"{name}.cpp", more) for name, more in KERNELS.items()}
    sources["resize"] = (NATIVE / "src" / "resize.cpp", [])
    sources["main"] = (Path(__file__).with_name("resize_instructions.cpp"), [])
    objects = []
    for name, (source, more) in sources.items():
        objects.append(folder / f"{name}.o")
        subprocess.run(
            [*compiler, *flags, *more, "-c", str(source), "-o", str(objects[-1])], check=True
        )
    subprocess.run([*compiler, *map(str, objects), "-o", str(folder / "count")], check=True)
    return folder / "count"


@functools.cache
def counted(program: Path, *arguments: str) -> tuple[int, str]:
    """Return how many instructions a run took, and what it printed."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1]), done.stdout.strip()


@pytest.mark.parametrize("job", LIMITS, ids="-".join)
def test_the_kernels_take_few_instructions(program: Path, job: tuple[str, ...]) -> None:
    simd, *rest = job
    idle, _ = counted(program, "nothing", "none", *rest)
    kernel, answer = counted(program, "kernel", *job)
    if answer == "unusable":
        pytest.skip(f"this processor has no {simd}")
    plain, expected = counted(program, "plain", "none", *rest)
    assert answer == expected
    found = (kernel - idle) / (plain - idle)
    print(f"share {found:.3f}, limit {LIMITS[job]}")
    assert found <= LIMITS[job], f"{found:.3f} of a plain loop's instructions"
