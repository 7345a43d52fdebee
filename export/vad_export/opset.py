"""Facts about ONNX files that need no PyTorch."""

from pathlib import Path

import onnx


def opset_of(file: Path) -> int:
    """Return the version of the default operator set of an ONNX file."""
    graph = onnx.load(file, load_external_data=False)
    return next(int(e.version) for e in graph.opset_import if e.domain in ("", "ai.onnx"))
