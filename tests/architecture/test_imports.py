"""Importing the runtime costs NumPy and no more, and building engines needs no ONNX package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "onnx", "cv2", "av", "openvino", "onnxruntime", "matplotlib", "cuda", "pycuda"}
NOT_ON_A_DEVICE = ["torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "scipy"]
"""What the machine that builds an engine may lack."""


def heavy(modules: str) -> set[str]:
    """The heavy libraries among the names that a process has imported."""
    names = set(modules.split())
    return HEAVY & names | {name for name in names if name.startswith("tensorrt")}


@pytest.mark.parametrize(
    "module",
    [
        "vad_runtime",
        "vad_runtime.cli",
        "vad_runtime.cuda.driver",
        "vad_runtime.engines.fit",
        "vad_export.cli",
    ],
)
def test_importing_a_command_imports_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert heavy(done.stdout) == set()


def test_everything_that_builds_engines_can_be_imported_without_onnx_and_torch() -> None:
    folder = ROOT / "export" / "vad_export"
    modules = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in sorted((folder / "engine").glob("*.py"))
    ]
    modules += [f"vad_export.commands.{name}" for name in ("build_engine", "inspect")]
    code = (
        "import importlib, sys\n"
        f"for name in {NOT_ON_A_DEVICE}: sys.modules[name] = None\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_ring_knows_the_native_module() -> None:
    # import-linter cannot tell: it sees Python files, and this module is none.
    package = ROOT / "runtime" / "vad_runtime"
    native = re.compile(r"^\s*(from|import)\s.*\b_native\b", re.MULTILINE)
    assert [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if native.search(path.read_text(encoding="utf-8"))
    ] == ["ring.py"]
