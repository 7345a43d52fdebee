"""ONNX from a graph in PyTorch."""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from vad_runtime.backends.checks import first_line, input_dtype
from vad_runtime.contracts import ExportError
from vad_training.graphs import ScoreGraph

OPSET = 18


def onnx_from_graph(graph: ScoreGraph, file: Path) -> None:
    """Write a graph as ONNX: `clip` (or `features`) in, `score` first out, N free.

    Args:
        graph: On the CPU, in eval mode.
        file: Written.

    Raises:
        ExportError: PyTorch could not export the model, or the graph breaks the contract.
    """
    about = graph.manifest()
    # Two inputs: an example batch of one would be taken for a constant.
    kind = torch.from_numpy(np.empty(0, input_dtype(about))).dtype
    example = torch.zeros((2, *about.input_shape), dtype=kind)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        # The exporter's own notes (torchvision is not installed, …) say nothing to a user.
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[about.input_name],
                output_names=graph.output_names,
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                verbose=False,
            )
        if program is None:
            raise ExportError("PyTorch's exporter gave no graph. Report this as a bug.")
        program.save(str(file), external_data=False)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"PyTorch could not export the model ({first_line(error)}).") from error
    finally:
        logger.setLevel(level)
    _tidy(file, about.input_name)


def _tidy(file: Path, input_name: str) -> None:
    """Drop traces of the exporting machine and check the graph."""
    graph = onnx.load(file)
    for node in graph.graph.node:
        # The exporter writes Python stack traces with absolute paths into every node.
        del node.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, file)
    first = graph.graph.input[0]
    if (
        len(graph.graph.input) != 1
        or first.name != input_name
        or graph.graph.output[0].name != "score"
    ):
        raise ExportError("the graph's input or output has another name. Report this as a bug.")
