"""Small ONNX graphs, and what an exact pass may do to them.

Graphs  `make`, `of_clips`, `conv`, `drawn`
Passes  `changed`, `unchanged`
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from vad_export.passes import PASSES

RNG = np.random.default_rng(0)
Node = tuple[str, list[str], str, dict[str, Any]]
TO_PIXELS: list[Node] = [
    ("Transpose", ["clip"], "turned", {"perm": [0, 4, 1, 2, 3]}),
    ("Cast", ["turned"], "x", {"to": TensorProto.FLOAT}),
]


def drawn(*shape: int) -> np.ndarray:
    """Return normal random float32."""
    return RNG.normal(0, 1, shape).astype(np.float32)


def make(
    nodes: Sequence[Node],
    constants: dict[str, np.ndarray],
    shape: Sequence[int],
    *,
    outputs: Sequence[str] = ("y",),
    source: str = "x",
    dtype: int = TensorProto.FLOAT,
    rank: int = 5,
    batch: int | str = "N",
    opset: int = 18,
) -> onnx.ModelProto:
    """Return a checked model; its one input has a free first dimension unless told otherwise."""
    graph = helper.make_graph(
        [
            helper.make_node(kind, inputs, [output], name=f"n_{output}", **attributes)
            for kind, inputs, output, attributes in nodes
        ],
        "test",
        [helper.make_tensor_value_info(source, dtype, [batch, *shape])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, [None] * rank) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def of_clips(
    nodes: Sequence[Node],
    constants: dict[str, np.ndarray],
    *,
    colours: int = 3,
    outputs: Sequence[str] = ("y",),
    rank: int = 5,
) -> onnx.ModelProto:
    """Return a model of uint8 clips (N, 4, 6, 8, colours); `x` is float32, channels second."""
    return make(
        [*TO_PIXELS, *nodes],
        constants,
        (4, 6, 8, colours),
        outputs=outputs,
        source="clip",
        dtype=TensorProto.UINT8,
        rank=rank,
    )


def run(model: onnx.ModelProto, count: int = 2) -> list[np.ndarray]:
    """Return the outputs for `count` drawn inputs, without ONNX Runtime's own optimiser."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (source,) = session.get_inputs()
    rng, shape = np.random.default_rng(1), (count, *source.shape[1:])
    pixels = source.type == "tensor(uint8)"
    value = rng.integers(0, 256, shape, np.uint8) if pixels else rng.normal(0, 1, shape)
    value = value if pixels else value.astype(np.float32)
    return list(session.run(None, {source.name: value}))


def changed(
    name: str, model: onnx.ModelProto, *, places: int = 1, counts: Sequence[int] = (1, 3)
) -> Counter[str]:
    """Assert that a pass changes so many places exactly; return how often each operator is left.

    Args:
        name: In `PASSES`.
        model: Edited in place.
        places: How many places it shall find.
        counts: Numbers of inputs, N, that the answers are compared for.
    """
    before = [run(model, count) for count in counts]
    assert PASSES[name](model) == places
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    for count, old in zip(counts, before, strict=True):
        for a, b in zip(old, run(model, count), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(b, a, rtol=0, atol=2e-6 * np.abs(a).max())
    assert PASSES[name](model) == 0, "a second run finds something"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    return Counter(node.op_type for node in model.graph.node)


def unchanged(name: str, model: onnx.ModelProto) -> None:
    """Assert that a pass leaves a model byte for byte as it is."""
    before = model.SerializeToString(deterministic=True)
    assert PASSES[name](model) == 0
    assert model.SerializeToString(deterministic=True) == before


def conv(source: str = "x", *, output: str = "y", weight: str = "w", **attributes: Any) -> Node:
    """Return a convolution without a bias."""
    return ("Conv", [source, weight], output, attributes)
