"""Ten thousand random pictures: the C++ under AddressSanitizer and NumPy give the same bytes."""

import subprocess

import numpy as np
import numpy.typing as npt
import pytest
from helpers_native import native_program

from vad_runtime.contracts import ClipSpec
from vad_runtime.sources.portable import SAMPLES, PlanarImage, resized_with_numpy

CASES, SEED = 10_000, 20261122


def mixed(counter: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood 2014) of counters."""
    z = (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def plane_of(case: dict[str, str], index: int) -> npt.NDArray[np.uint8]:
    """The bytes of a plane, drawn again from the line that describes the case."""
    width, height = map(int, case["planes"].split(",")[index].partition("@")[0].split("x"))
    row = width * SAMPLES[case["format"]][index]  # type: ignore[index]
    start = int(case["seed"]) + (index << 32)
    at = np.arange(start, start + height * row, dtype=np.uint64)
    pixels = (mixed(at) >> np.uint64(56)).astype(np.uint8).reshape(height, row)
    if case["pixels"] == "edges":
        pixels = np.where(pixels < 128, np.uint8(0), np.uint8(255))
    return pixels if case["pixels"] != "white" else np.full_like(pixels, 255)


def fnv1a(data: bytes) -> int:
    """FNV-1a of 64 bits (Fowler, Noll, Vo)."""
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return digest


def digest_with_numpy(case: dict[str, str]) -> int:
    count = len(case["planes"].split(","))
    image = PlanarImage(
        format=case["format"],  # type: ignore[arg-type]
        planes=tuple(plane_of(case, i) for i in range(count)),
        matrix=case["matrix"],  # type: ignore[arg-type]
        full_range=case["range"] == "full",
    )
    height, width = map(int, case["target"].split("x"))
    spec = ClipSpec(
        frames=1,
        height=height,
        width=width,
        colour=case["colour"],  # type: ignore[arg-type]
        resizer="portable",
        interpolation=case["interpolation"],  # type: ignore[arg-type]
    )
    return fnv1a(resized_with_numpy(image, spec).tobytes())


@pytest.mark.slow
def test_compiled_under_a_sanitizer_and_numpy_give_the_same_bytes() -> None:
    program = native_program("fuzz_resize", "dev-asan")
    done = subprocess.run([program, str(CASES), str(SEED)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == CASES
    seen: dict[str, set[str]] = {}
    for line in lines:
        case = dict(word.split("=", 1) for word in line.split())
        assert digest_with_numpy(case) == int(case["digest"], 16), line
        for key in ("format", "matrix", "range", "colour", "interpolation", "pixels"):
            seen.setdefault(key, set()).add(case[key])
    # The cases are what they are meant to be: nothing is left out.
    assert seen["format"] == set(SAMPLES)
    sizes = {key: len(values) for key, values in seen.items() if key != "format"}
    assert sizes == {"matrix": 3, "range": 2, "colour": 2, "interpolation": 2, "pixels": 3}
