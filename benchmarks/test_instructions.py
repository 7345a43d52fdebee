"""Instructions of the C++ resizer, counted by callgrind, as a share of a plain loop's.

Counts are the same in every run, so with the compiler that they were first counted with, the limit
is a twentieth above what was seen; another one may need a third more. Both sides are in one binary
and come from one compiler (resize_instructions.cpp). AVX-512 is left out, which valgrind does not
know.

What it notices, tried by making the kernels worse (GCC 12; the jobs that it concerns)::

                                                      times what was seen   noticed
    -O2 in place of -O3                               1.1 to 3.3            8 of 8 jobs
    area: the way for sizes that share no factor      3 and more            6 of 6
    area: sums across computed twice                  1.5 to 1.8            6 of 6
    area: each byte stored by itself                  1.1 to 1.4            6 of 6
    bilinear: no vectors down                         1.02 and 1.6          1 of 2
    bilinear: rows blended anew for each output       1.06 and 1.09         2 of 2

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

from vad_runtime.machine import cpu_flags

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "runtime" / "native"
KERNELS = {"resize_baseline": [], "resize_avx2": ["-mavx2"], "resize_avx512": []}
"""As runtime/native/CMakeLists.txt has them. The last is empty without its flags."""

SEEN = {
    ("baseline", "yuv", "gray", "area"): 0.095,
    ("baseline", "yuv", "rgb", "area"): 0.116,
    ("baseline", "yuv", "rgb", "bilinear"): 0.282,
    ("baseline", "rgb", "rgb", "area"): 0.089,
    ("avx2", "yuv", "gray", "area"): 0.045,
    ("avx2", "yuv", "rgb", "area"): 0.046,
    ("avx2", "yuv", "rgb", "bilinear"): 0.110,
    ("avx2", "rgb", "rgb", "area"): 0.040,
}
"""Share of the plain loop's instructions with GCC 12: kernel, source, colour, interpolation."""
SAME_COMPILER, OTHER_COMPILER = 1.05, 1.35
"""The limit / what was seen."""


def missing(what: str) -> None:
    """Skip, or fail where the count was asked for."""
    if os.environ.get("VAD_REQUIRE_VALGRIND") == "1":
        pytest.fail(f"VAD_REQUIRE_VALGRIND=1, but there is no {what}")
    pytest.skip(f"no {what}: instructions are not counted")


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    """The command that compiles; the tests skip where nothing can be counted."""
    if platform.machine() != "x86_64":
        missing("x86-64 processor, for which the limits are")
    if shutil.which("valgrind") is None:
        missing("valgrind")
    words = os.environ.get("CXX", "").split()
    found = words or [next(filter(shutil.which, ("c++", "g++", "clang++")), "")]
    if not found[0]:
        missing("C++ compiler")
    return found


@pytest.fixture(scope="module")
def slack(compiler: list[str]) -> float:
    """How far a share may lie above what was seen."""
    asked = [*compiler, "-dM", "-E", "-x", "c++", os.devnull]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    same = "#define __GNUC__ 12\n" in told and "__clang__" not in told
    return SAME_COMPILER if same else OTHER_COMPILER


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, compiler: list[str]) -> Path:
    """The resizer and the plain loop, optimised, in one binary."""
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


@pytest.mark.parametrize("job", SEEN, ids="-".join)
def test_the_kernels_take_few_instructions(
    program: Path, slack: float, job: tuple[str, ...]
) -> None:
    simd, *rest = job
    idle, _ = counted(program, "nothing", "none", *rest)
    kernel, answer = counted(program, "kernel", *job)
    if answer == "unusable":
        usable = simd == "baseline" or simd in cpu_flags()
        assert not usable, f"this processor has {simd}, but the kernel is not built"
        pytest.skip(f"this processor has no {simd}")
    plain, expected = counted(program, "plain", "none", *rest)
    assert answer == expected
    found, limit = (kernel - idle) / (plain - idle), slack * SEEN[job]
    print(f"share {found:.3f}, seen {SEEN[job]}, limit {limit:.3f}")
    assert found <= limit, f"{found:.3f} of a plain loop's instructions, more than {limit:.3f}"
