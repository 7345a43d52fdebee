"""Small graphs written as text, and what is in them. Import it as `helpers_fp16`."""

from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper, parser

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Array = npt.NDArray[Any]


def model_of(text: str, constants: dict[str, Array] | None = None) -> onnx.ModelProto:
    """Return a model from ONNX's text form; the nodes are named after their first output."""
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g {text}')
    for name, array in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **inputs: Array) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    data = model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of each tensor, by ONNX's own inference."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {t.name: t.data_type for t in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    return types


def computes_in(model: onnx.ModelProto, node: str) -> int:
    """Return the type that a node writes."""
    [found] = [n for n in model.graph.node if n.name == node]
    return types_of(model)[found.output[0]]
