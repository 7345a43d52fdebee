"""What the processor's multipliers give at most, measured in the same run (perf_peak.cpp)."""

import os
import shutil
import subprocess
from pathlib import Path

from perf_models import cache_folder

_SOURCE = Path(__file__).with_suffix(".cpp")


def highest(*looks: dict[str, float]) -> dict[str, float]:
    """Return the most of several looks by kind.

    Neighbours on the same cores come and go: one look saw half of what the next one did.
    """
    return {kind: max(look[kind] for look in looks) for kind in looks[0]}


def peak(threads: int, seconds: float) -> dict[str, float]:
    """Return 1e9 operations a second by kind (int8, bf16, fp32), all threads together.

    Empty where there is no compiler, and on a processor without AVX-512.

    Args:
        threads: As many as the engines take.
        seconds: For each kind.
    """
    compiler = os.environ.get("CXX", "").split() or [shutil.which("g++") or shutil.which("clang++")]
    if compiler[0] is None:
        return {}
    program = cache_folder() / "perf_peak"
    program.parent.mkdir(parents=True, exist_ok=True)
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        flags = ["-std=c++17", "-O2", "-march=native", "-pthread"]
        done = subprocess.run(
            [*compiler, *flags, str(_SOURCE), "-o", str(program)], capture_output=True, text=True
        )
        if done.returncode != 0:  # no x86-64, or a compiler that does not know this processor
            return {}
    done = subprocess.run([program, str(threads), str(seconds)], capture_output=True, text=True)
    pairs = (line.split() for line in done.stdout.splitlines())
    return {kind: float(value) for kind, value in pairs}
