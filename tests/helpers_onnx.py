"""Export of a module to ONNX, compared with ONNX Runtime."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn


def assert_export_agrees(module: nn.Module, example: Tensor, folder: Path) -> None:
    """Export with the new exporter at opset 18, and compare the answers to `example`."""
    file = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, opset_version=18, verbose=False
        )
    program.save(str(file), external_data=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    [answer] = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    with torch.inference_mode():
        expected = module(example).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
