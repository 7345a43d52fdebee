"""Importing torchvision beside a PyTorch that its compiled operators do not fit."""

import os
import subprocess
import sys
from pathlib import Path

_FAKE = """
import torch
from torchvision import extension
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold): return dets
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold): return dets
"""
_COMPILED = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl(name, lambda dets, scores, iou_threshold: dets + 1, "CPU")
"""


def run_with_torchvision(folder: Path, package: str, extension: str, script: str) -> str:
    """Run a script in a new Python that finds a torchvision made of these two modules."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(package)
    (folder / "torchvision" / "extension.py").write_text(extension)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_DECLARE = """
import torch
from vad_training.models import operators
try:
    operators.declare_torchvision_operators()
    operators.declare_torchvision_operators()
    import torchvision
    print("declared", len(operators._declared))
    print(torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5).tolist())
except Exception as error:
    print(type(error).__name__, error)
"""


def test_operators_that_exist_are_left_alone(tmp_path: Path) -> None:
    said = run_with_torchvision(tmp_path, _FAKE, _COMPILED, _DECLARE)
    assert said.splitlines() == ["declared 0", "[[1.0, 1.0, 1.0, 1.0]]"]


def test_operators_that_do_not_fit_are_declared_and_refuse_to_run(tmp_path: Path) -> None:
    counting = "print('extension')"
    said = run_with_torchvision(tmp_path, _FAKE, counting, _DECLARE).splitlines()
    assert said[:3] == ["extension", "extension", "declared 1"]  # the second try starts anew
    assert said[3].startswith(
        "RuntimeError torchvision's compiled operators (nms, qnms) do not fit"
    )
    assert len(said) == 4


def test_another_fault_of_torchvision_is_not_hidden(tmp_path: Path) -> None:
    said = run_with_torchvision(tmp_path, "raise RuntimeError('other CUDA version')", "", _DECLARE)
    assert said.splitlines() == ["RuntimeError other CUDA version"]
