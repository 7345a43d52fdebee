"""Facts that are read from ONNX files without the package onnx."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import assert_one_line
from helpers_engine_bundle import LIMIT, engine_bundle
from onnx import TensorProto, helper, numpy_helper

from vad_export.engine.graph_facts import graph_facts
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import ExportError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return engine_bundle(tmp_path_factory.mktemp("facts"))


def saved(
    file: Path, nodes: list[onnx.NodeProto], shape: list[str | int | None], kind: int
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", kind, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph), file)
    return file


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mixed"])
def test_they_are_what_the_package_onnx_reads(bundle: Bundle, precision: str) -> None:
    file = bundle.file(bundle.manifest.artefacts[precision])
    facts, model = graph_facts(file), onnx.load(file)
    assert [(n.name, n.operator, n.inputs, n.outputs) for n in facts.nodes] == [
        (n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node
    ]
    assert facts.ranks == {one.name: len(one.dims) for one in model.graph.initializer}
    for name, value in facts.scales.items():
        held = next(one for one in model.graph.initializer if one.name == name)
        assert numpy_helper.to_array(held).ravel() == np.float32(value)
    assert [(i.name, i.dtype, i.shape) for i in facts.inputs] == [
        ("clip", "uint8", ("N", 8, 32, 32, 1))
    ]
    assert facts.free_batch


def test_the_ranges_of_an_int8_graph_are_found(bundle: Bundle) -> None:
    facts = graph_facts(bundle.file(bundle.manifest.artefacts["int8"]))
    # Of the convolution, and of the transpose in front of it, which moves bytes then.
    scale = pytest.approx(LIMIT / 127)
    assert facts.activation_scales() == {"scaled": scale, "ncthw": scale}
    assert not graph_facts(bundle.file(bundle.manifest.artefacts["fp32"])).activation_scales()


def test_a_convolution_over_three_dimensions_is_found_with_and_without_a_kernel_shape(
    bundle: Bundle, tmp_path: Path
) -> None:
    found = graph_facts(bundle.file(bundle.manifest.artefacts["fp32"])).three_dimensional
    assert found is not None
    assert (found.operator, found.kernel) == ("Conv", 0)
    for size in (2, 3):
        pool = helper.make_node("MaxPool", ["clip"], ["score"], "pool", kernel_shape=[2] * size)
        file = saved(tmp_path / f"{size}.onnx", [pool], [1] * (size + 2), TensorProto.FLOAT)
        node = graph_facts(file).three_dimensional
        assert (node is None) == (size == 2)


def test_a_transpose_of_bytes_is_found_also_behind_an_identity(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["clip"], ["same"]),
        helper.make_node("Transpose", ["same"], ["moved"], "move", perm=[1, 0]),
        helper.make_node("Cast", ["moved"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["score"], "fine", perm=[1, 0]),
    ]
    for kind, names in ((TensorProto.UINT8, ["move"]), (TensorProto.FLOAT, [])):
        file = saved(tmp_path / "t.onnx", nodes, ["N", 4], kind)
        assert [node.name for node in graph_facts(file).uint8_transposes] == names


def test_open_dimensions_keep_their_names(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["clip"], ["score"])
    file = saved(tmp_path / "open.onnx", [node], ["N", None, 3, "T"], TensorProto.FLOAT)
    assert graph_facts(file).inputs[0].shape == ("N", "?", 3, "T")


def test_what_is_no_graph_is_refused_in_one_line(bundle: Bundle, tmp_path: Path) -> None:
    whole = bundle.file(bundle.manifest.artefacts["fp32"]).read_bytes()
    bad = {
        "empty": b"",
        "text": b"This is a text, and no graph at all.\n" * 5,
        "zeros": bytes(500),
        "cut off": whole[:-50],
        "endless": b"\xff" * 200,
    }
    for name, content in bad.items():
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        with pytest.raises(ExportError) as error:
            graph_facts(file)
        assert_one_line(error.value, name, "no ONNX graph", "Export")
    with pytest.raises(ExportError) as error:
        graph_facts(tmp_path / "missing.onnx")
    assert_one_line(error.value, "missing.onnx", "No such file")
