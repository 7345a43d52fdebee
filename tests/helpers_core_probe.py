"""What the tests of the C++ core share: its probe program, and a manifest with every key."""

import subprocess
from typing import Any

import msgspec
from helpers_native import native_program

WHOLE: dict[str, Any] = {
    "schema": 1,
    "family": "stae",
    "name": "gate",
    "clip": {
        **{"frames": 8, "stride": 2, "hop": 4, "height": 32, "width": 48, "colour": "rgb"},
        **{"resizer": "exact", "interpolation": "bilinear", "fps": 25.0},
    },
    "score": {"per": "frame", "form": "reconstruction", "first": 4, "count": 4, "alpha": 0.5},
    "outputs": [{"name": "map", "shape": ["N", 8, 4], "dtype": "float32", "meaning": "where"}],
    "scoring": {
        **{"offset": 0.25, "scale": 2.0, "smoothing": "median", "window": 9, "threshold": 3.5},
        **{"release": 0.8, "min_duration_s": 1.5, "method": "quantile"},
        "evidence": {"quantile": 0.999, "frames": 1200, "videos": ["a", None]},
    },
    "artefacts": {
        "fp32": {
            **{"file": "model.onnx", "sha256": "00", "bytes": 10, "format": "onnx"},
            **{"precision": "fp32", "opset": 18, "tools": {"torch": "2"}, "made_from": None},
            "details": {"passes": 3},
        },
        "small": {
            **{"file": "model.int8.onnx", "sha256": "11", "bytes": 4, "format": "onnx"},
            **{"precision": "int8", "opset": None, "tools": {}, "made_from": "fp32"},
            "details": {},
        },
    },
    "training": {"epochs": 3},
    "licence": "MIT",
    "created": "2026-01-01T00:00:00Z",
    "calibration": {},
    "parity": {"bf16_allowed": True},
    "latency": None,
    "features": None,
    "plan": {
        **{"backend": "openvino", "precision": "bf16", "target_ms": None, "median_ms": 3},
        **{"p95_ms": 4.5, "cpu": "a processor", "threads": 2, "why": "fastest"},
    },
}
"""A manifest that has every key and is valid."""


def asked(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what C++ says to each case (runtime/native/tests/core_probe.cpp): `answer` or `error`.

    The program is built with sanitizers; whatever they find fails the test.
    """
    lines = b"".join(msgspec.json.encode(case) + b"\n" for case in cases)
    answers = [msgspec.json.decode(line) for line in answered(lines).splitlines()]
    assert len(answers) == len(cases)
    return answers


def answered(lines: bytes) -> bytes:
    """Return the lines that the probe program writes for these."""
    probe = native_program("core_probe", "dev-asan")
    done = subprocess.run([probe], input=lines, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return done.stdout


def as_64_bits(value: Any) -> Any:
    """Return what C++ makes of a value: whole numbers beyond 64 bits become doubles."""
    if isinstance(value, dict):
        return {key: as_64_bits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_64_bits(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return float(value)
    return value
