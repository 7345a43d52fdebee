"""Importing the runtime costs NumPy and no more."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "onnx", "cv2", "av", "openvino", "onnxruntime", "matplotlib"}


@pytest.mark.parametrize("module", ["vad_runtime", "vad_runtime.cli"])
def test_importing_the_runtime_imports_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()


def test_only_the_ring_knows_the_native_module() -> None:
    # import-linter cannot tell: it sees Python files, and this module is none.
    package = ROOT / "runtime" / "vad_runtime"
    native = re.compile(r"^\s*(from|import)\s.*\b_native\b", re.MULTILINE)
    assert [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if native.search(path.read_text(encoding="utf-8"))
    ] == ["ring.py"]
