"""Inner tensors of a graph, one input at a time."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import assert_one_line, clip_spec, motion_model
from onnx import TensorProto, helper, numpy_helper

from vad_calibration.activations import Activations, graph_without_weights, grouped
from vad_runtime.contracts import BackendError, ExportError, InputError

SPEC = clip_spec()
INNER = ["scaled", "ncthw", "filtered", "mean", "difference", "squared", "d"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return motion_model(tmp_path / "motion.onnx", SPEC)


def clip(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, *SPEC.clip_shape), np.uint8)


def fused_model(path: Path, *, kind: int = TensorProto.FLOAT, inputs: int = 1) -> Path:
    """Write a graph full of what an optimiser likes to merge: BN into Conv, ReLU, two sums."""
    rng = np.random.default_rng(3)
    dtype = helper.tensor_dtype_to_np_dtype(kind)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.uniform(0.5, 1, shape).astype(dtype), name)

    scales = ["scale", "shift", "mean", "variance"]
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Conv", ["same", "w1"], ["conv"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["conv", *scales], ["normal"]),
        helper.make_node("Relu", ["normal"], ["relu"]),
        helper.make_node("Conv", ["relu", "w2"], ["conv2"], pads=[1] * 4),
        helper.make_node("Add", ["conv2", "relu"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["end"]),
        helper.make_node("ReduceMean", ["end"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "fused",
        [helper.make_tensor_value_info(x, kind, ["N", 4, 8, 8]) for x in ("x", "y")[:inputs]],
        [helper.make_tensor_value_info("score", kind, [])],
        [weight("w1", 4, 4, 3, 3), weight("w2", 4, 4, 3, 3), *(weight(n, 4) for n in scales)],
    )
    if inputs == 2:
        nodes[0].op_type = "Add"
        nodes[0].input.append("y")
        graph.node[0].CopyFrom(nodes[0])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    return path


def reference(model: Path, tensors: list[str], name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Run the graph without any optimisation, its outputs added by the onnx library."""
    proto = onnx.load(str(model))
    for tensor in tensors:
        proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return dict(zip(tensors, session.run(tensors, {name: x}), strict=True))


def test_inner_tensors_are_those_of_a_plain_run(model: Path) -> None:
    expected = reference(model, INNER, "clip", clip())
    with Activations(model, INNER, threads=1) as activations:
        found = dict(activations.of(clip()))
    assert list(found) == INNER
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_tensors_keep_their_meaning_where_the_optimiser_could_merge_them(tmp_path: Path) -> None:
    model = fused_model(tmp_path / "fused.onnx")
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    inner = ["same", "conv", "normal", "relu", "conv2", "sum", "end"]
    expected = reference(model, inner, "x", x)
    for names in (inner, *([name] for name in inner)):
        with Activations(model, names, threads=1) as activations:
            found = dict(activations.of(x))
        assert list(found) == names
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_one_tensor_at_a_time_gives_the_same(model: Path) -> None:
    with (
        Activations(model, INNER, threads=1) as whole,
        Activations(model, INNER, threads=1, memory_bytes=1) as thin,
    ):
        assert [len(group) for group in whole.groups] == [len(INNER)]
        assert [len(group) for group in thin.groups] == [1] * len(INNER)
        for (name, values), (other, again) in zip(whole.of(clip()), thin.of(clip()), strict=True):
            assert name == other
            np.testing.assert_array_equal(values, again)


def test_a_node_that_fails_is_one_line_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = fused_model(tmp_path / "fused.onnx")
    proto = onnx.load(str(model))
    # There are not 7 x 7 places, which only shows when the node runs.
    shape = numpy_helper.from_array(np.array([7, 7], np.int64), "seven")
    proto.graph.initializer.append(shape)
    proto.graph.node.append(helper.make_node("NonZero", ["end"], ["places"]))
    proto.graph.node.append(helper.make_node("Reshape", ["places", "seven"], ["square"]))
    proto.graph.node.append(helper.make_node("Cast", ["square"], ["fails"], to=1))
    onnx.save(proto, str(model))
    with (
        Activations(model, ["relu", "fails"], threads=1) as activations,
        pytest.raises(BackendError) as error,
    ):
        list(activations.of(np.ones((1, 4, 8, 8), np.float32)))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("onnxruntime failed on fused.onnx: ")
    assert capfd.readouterr() == ("", "")


def test_a_tensor_that_is_an_output_or_asked_for_twice_comes_once(model: Path) -> None:
    with Activations(model, ["d", "score", "d"], threads=1) as activations:
        assert [name for name, _ in activations.of(clip())] == ["d", "score"]


def test_the_graphs_own_float_input_can_be_asked_for(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    with Activations(fused_model(tmp_path / "m.onnx"), ["relu", "x"], threads=1) as activations:
        found = dict(activations.of(x))
    np.testing.assert_array_equal(found["x"], x)
    assert set(found) == {"relu", "x"}


def test_the_model_stays_as_it_was_and_no_copy_is_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = model.read_bytes()
    with Activations(model, INNER, threads=1) as activations:
        assert not list(scratch.iterdir())
        assert len(dict(activations.of(clip()))) == len(INNER)
    assert model.read_bytes() == before


def test_a_tensor_that_is_not_in_the_graph_is_named(model: Path) -> None:
    with pytest.raises(ExportError) as error:
        Activations(model, ["filtered", "fltered"])
    assert_one_line(error.value, "motion.onnx", "fltered")


@pytest.mark.parametrize("tensor", ["clip", "half", "weight"])
def test_a_tensor_without_float_values_is_named(tmp_path: Path, tensor: str) -> None:
    model = motion_model(tmp_path / "motion.onnx", SPEC)
    proto = onnx.load(str(model))
    proto.graph.node.append(helper.make_node("Cast", ["d"], ["half"], to=TensorProto.FLOAT16))
    onnx.save(proto, str(model))
    with pytest.raises(ExportError) as error:
        Activations(model, [tensor])
    assert_one_line(error.value, tensor, "motion.onnx")


def test_a_graph_with_two_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as error:
        Activations(fused_model(tmp_path / "two.onnx", inputs=2), ["relu"])
    assert_one_line(error.value, "two.onnx", "x, y")


def test_a_graph_with_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    model = motion_model(tmp_path / "motion.onnx", SPEC)
    proto = onnx.load(str(model))
    proto.graph.node[3].op_type = "Warp"
    onnx.save(proto, str(model))
    with pytest.raises(BackendError) as error:
        Activations(model, ["filtered"])
    assert_one_line(error.value, "motion.onnx", "Warp")


def test_an_input_of_another_shape_is_one_line(model: Path) -> None:
    with (
        Activations(model, ["d"]) as activations,
        pytest.raises(BackendError) as error,
    ):
        list(activations.of(clip()[:, :, :5]))
    assert_one_line(error.value, "motion.onnx")


@pytest.mark.parametrize("content", [b"", b"no onnx at all", b"\x3a\x7f\x01", bytes(64)])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError) as error:
        Activations(path, ["d"])
    assert_one_line(error.value, "broken.onnx")


def test_every_cut_off_model_is_refused_with_one_line(model: Path) -> None:
    whole = model.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        model.write_bytes(whole[:size])
        with pytest.raises((ExportError, BackendError)) as error, Activations(model, ["d"]):
            raise ExportError("motion.onnx opened")  # cut between two fields: a smaller graph
        assert_one_line(error.value, "motion.onnx")


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        Activations(tmp_path / "none.onnx", ["d"])
    assert_one_line(error.value, "none.onnx")


def test_closed_activations_do_not_run(model: Path) -> None:
    activations = Activations(model, ["d"])
    activations.close()
    activations.close()
    with pytest.raises(ValueError, match="closed"):
        list(activations.of(clip()))


def test_a_graph_is_read_without_its_weights(model: Path) -> None:
    graph = graph_without_weights(model)
    expected = onnx.load(str(model)).graph
    assert len(expected.initializer) > 0
    del expected.initializer[:]
    assert graph == expected


def test_reading_a_graph_does_not_read_its_weights(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(model))
    big = np.zeros(8 << 20, np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(big, "big"))
    onnx.save(proto, str(tmp_path / "big.onnx"))
    with (tmp_path / "big.onnx").open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
    assert size > big.nbytes
    assert graph_without_weights(tmp_path / "big.onnx").ByteSize() < 10_000


def test_tensors_are_grouped_in_order_and_within_the_memory() -> None:
    sizes = {"a": 4, "b": 6, "c": 1, "d": None, "e": 50, "f": 2, "g": 8}
    assert grouped(sizes, 10) == [["a", "b"], ["c"], ["d"], ["e"], ["f", "g"]]
    assert grouped({}, 10) == []
