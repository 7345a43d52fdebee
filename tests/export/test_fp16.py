"""FP16 graphs: what changes, what stays in FP32, and that the scores stay."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import assert_one_line, clip_spec
from helpers_fp16 import FLOAT, HALF, computes_in, model_of, run, types_of
from onnx import TensorProto, helper

from vad_calibration import clips_from_footage
from vad_export.fp16 import RULES, fp16_from_model
from vad_export.onnx_graph import onnx_from_graph
from vad_runtime.backends.base import Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend
from vad_runtime.contracts import ExportError, Manifest
from vad_training.graphs.stae import ScoreForm, stae_graph
from vad_training.models.stae import STAE


@pytest.fixture(scope="module")
def stae(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """An STAE with drawn weights, 16 grey 32 x 32 frames. Do not change."""
    torch.manual_seed(0)
    graph = stae_graph(STAE().eval(), clip_spec(frames=16), ScoreForm(), outputs=["latent"])
    file = tmp_path_factory.mktemp("stae") / "model.onnx"
    onnx_from_graph(graph, file)
    return file, graph.manifest()


# -- a whole model -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [OnnxRuntimeBackend, OpenVinoBackend])
def test_an_fp16_graph_of_the_stae_keeps_its_scores_within_a_percent(
    stae: tuple[Path, Manifest], engine: type, tmp_path: Path, tiny_video: Path
) -> None:
    file, manifest = stae
    made = tmp_path / "fp16.onnx"
    onnx.save(fp16_from_model(onnx.load(file)).model, made)
    clips = clips_from_footage([tiny_video], manifest.clip, 2).clips
    scores = []
    for graph in (file, made):
        backend = engine(graph, manifest, Options(precision="fp32", threads=1))
        scores.append(backend.infer(clips)["score"])
        backend.close()
    assert scores[1].dtype == np.float32
    np.testing.assert_allclose(scores[1], scores[0], rtol=0.01)
    assert np.abs(scores[1] - scores[0]).max() > 0  # it is another arithmetic


def test_the_weights_halve_the_file(stae: tuple[Path, Manifest]) -> None:
    model = onnx.load(stae[0])
    made = fp16_from_model(model).model
    assert made.ByteSize() < 0.52 * model.ByteSize()
    large = [t for t in made.graph.initializer if np.prod(t.dims) > 100]
    assert {t.data_type for t in large if t.data_type != TensorProto.INT64} == {HALF}


def test_input_and_outputs_keep_their_names_and_types(stae: tuple[Path, Manifest]) -> None:
    model = onnx.load(stae[0])
    made = fp16_from_model(model).model
    assert list(made.graph.input) == list(model.graph.input)
    assert list(made.graph.output) == list(model.graph.output)
    assert types_of(made)["latent"] == FLOAT
    assert types_of(made)["latent_fp16"] == HALF


def test_the_given_model_is_not_changed_and_the_answer_is_always_the_same(
    stae: tuple[Path, Manifest],
) -> None:
    model = onnx.load(stae[0])
    before = model.SerializeToString(deterministic=True)
    made = [fp16_from_model(model).model.SerializeToString(deterministic=True) for _ in range(2)]
    assert model.SerializeToString(deterministic=True) == before
    assert made[0] == made[1]


def test_every_kept_node_has_a_rule_with_a_meaning(stae: tuple[Path, Manifest]) -> None:
    result = fp16_from_model(onnx.load(stae[0]))
    assert set(result.kept) <= {node.name for node in result.model.graph.node}
    assert set(result.kept.values()) <= set(RULES)
    assert set(result.kept.values()) == {"normalisation", "large_reduction"}
    for name in result.kept:
        assert computes_in(result.model, name) == FLOAT
    convolutions = [n.name for n in result.model.graph.node if n.op_type.startswith("Conv")]
    assert len(convolutions) == 9
    assert {computes_in(result.model, name) for name in convolutions} == {HALF}


def test_a_float_input_stays_a_float_input() -> None:
    model = model_of(
        "(float[N,4,8] features) => (float[N,4,2] score) { score = MatMul(features, w) }",
        {"w": np.ones((8, 2), np.float32)},
    )
    made = fp16_from_model(model).model
    assert made.graph.input[0].type.tensor_type.elem_type == FLOAT
    x = np.full((1, 4, 8), 0.5, np.float32)
    np.testing.assert_array_equal(run(made, features=x)[0], np.full((1, 4, 2), 4, np.float32))


# -- choices and operators ---------------------------------------------------------------------


def test_a_node_that_the_caller_wants_kept_stays_fp32(stae: tuple[Path, Manifest]) -> None:
    model = onnx.load(stae[0])
    [first, second, *_] = [n.name for n in model.graph.node if n.op_type == "Conv"]
    result = fp16_from_model(model, keep=[second])
    assert result.kept[second] == "asked"
    assert computes_in(result.model, second) == FLOAT
    assert computes_in(result.model, first) == HALF
    [node] = [n for n in result.model.graph.node if n.name == second]
    assert types_of(result.model)[node.input[1]] == FLOAT


def test_a_node_to_keep_that_is_not_there_is_one_line(stae: tuple[Path, Manifest]) -> None:
    with pytest.raises(ExportError) as caught:
        fp16_from_model(onnx.load(stae[0]), keep=["no_such_node"])
    assert_one_line(caught.value, "no_such_node")


def test_an_operator_that_fp16_cannot_have_is_kept_rather_than_broken() -> None:
    # HannWindow has float outputs without float inputs; Resize takes its scales in float32 only.
    model = model_of(
        """(float[N,1,64,512] x) => (float[N,1,128,512] y) {
        window = HannWindow(size)
        a = Mul(x, window)
        b = Relu(a)
        c = Resize <mode = "nearest"> (b, , scales)
        y = Relu(c)
        }""",
        {"size": np.int64(512), "scales": np.array([1, 1, 2, 1], np.float32)},
    )
    result = fp16_from_model(model)
    assert result.kept == {"window": "no_fp16"}
    assert types_of(result.model)["scales"] == FLOAT
    assert computes_in(result.model, "c") == HALF
    x = np.random.default_rng(0).normal(size=(1, 1, 64, 512)).astype(np.float32)
    np.testing.assert_allclose(run(result.model, x=x)[0], run(model, x=x)[0], atol=3e-3)


def test_an_unknown_operator_is_kept_with_casts_around_it() -> None:
    model = model_of("(float[N,128,256] x) => (float[N,128,256] y) { a = Relu(x) y = Relu(a) }")
    model.graph.node.insert(1, helper.make_node("Special", ["a"], ["s"], "s", domain="ours"))
    model.graph.node[2].input[0] = "s"
    model.opset_import.append(helper.make_opsetid("ours", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("s", FLOAT, ["N", 128, 256]))
    result = fp16_from_model(model)
    assert result.kept == {"s": "no_fp16"}
    order = [n.op_type for n in result.model.graph.node]
    assert order == ["Cast", "Relu", "Cast", "Special", "Cast", "Relu", "Cast"]


def test_what_a_branch_reads_stays_fp32() -> None:
    model = model_of(
        """(float[N,128,256] x, bool b) => (float[N,128,256] y) {
        a = Relu(x)
        c = Relu(a)
        d = If (b) <
            then_branch = t () => (float[N,128,256] p) { p = Mul(c, two) },
            else_branch = e () => (float[N,128,256] q) { q = Neg(c) }
        >
        y = Relu(d)
        }""",
        {"two": np.float32(2)},
    )
    result = fp16_from_model(model)
    assert result.kept == {"c": "subgraph", "d": "subgraph"}
    x = np.full((1, 128, 256), 1.5, np.float32)
    for b, want in ((True, 3.0), (False, 0.0)):
        assert (run(result.model, x=x, b=np.array(b))[0] == want).all()


def test_constants_in_nodes_are_converted_too() -> None:
    model = model_of(
        """(float[N,128,256] x) => (float[N,128,256] y) {
        c = Constant <value = float {0.5}> ()
        a = Mul(x, c)
        y = Relu(a)
        }"""
    )
    result = fp16_from_model(model)
    assert not result.kept
    assert types_of(result.model)["c"] == HALF
    assert (run(result.model, x=np.ones((1, 128, 256), np.float32))[0] == 0.5).all()


# -- Q/DQ --------------------------------------------------------------------------------------


def quantised(scale: float = 0.02, keep: bool = False) -> onnx.ModelProto:
    """Return a graph with one convolution in INT8: activations and weights behind Q/DQ."""
    rng = np.random.default_rng(0)
    return model_of(
        """(float[N,8,64,64] x) => (float[N,8,64,64] y) {
        a = Relu(x)
        a8 = QuantizeLinear(a, a_scale, zero)
        aq = DequantizeLinear(a8, a_scale, zero)
        wq = DequantizeLinear <axis = 0> (w8, w_scale, zeros)
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (aq, wq, bias)
        d = Relu(aq)
        s = Add(c, d)
        y = Relu(s)
        }""",
        {
            "a_scale": np.float32(scale),
            "zero": np.int8(0),
            "w8": rng.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8),
            "w_scale": np.full(8, 0.003, np.float32),
            "zeros": np.zeros(8, np.int8),
            "bias": np.zeros(8, np.float32),
        },
    )


def test_a_qdq_graph_gets_fp16_scales_and_keeps_its_int8_weights() -> None:
    model = quantised()
    result = fp16_from_model(model)
    made = result.model
    assert not result.kept
    assert made.opset_import[0].version == 19
    types = types_of(made)
    assert types["w8"] == TensorProto.INT8
    assert types["a_scale"] == types["w_scale"] == types["aq"] == types["wq"] == HALF
    x = np.random.default_rng(1).normal(size=(1, 8, 64, 64)).astype(np.float32)
    want, found = run(model, x=x)[0], run(made, x=x)[0]
    # A value beside a rounding edge may fall to its other side, so the mean is what counts.
    assert np.abs(found - want).mean() < 0.005 * np.abs(want).mean()


def test_a_kept_convolution_gets_its_own_dequantisation_and_no_cast() -> None:
    result = fp16_from_model(quantised(), keep=["c"])
    assert result.kept == {"c": "asked", "wq": "asked"}
    by_output = {n.output[0]: n for n in result.model.graph.node}
    conv = by_output["c"]
    assert [by_output[name].op_type for name in conv.input[:2]] == ["DequantizeLinear"] * 2
    types = types_of(result.model)
    assert {types[name] for name in conv.input} == {FLOAT}
    assert types["aq"] == HALF  # for the other reader


def test_a_scale_that_fp16_does_not_hold_keeps_the_layer_in_fp32() -> None:
    result = fp16_from_model(quantised(scale=1e-7))
    assert {result.kept[name] for name in ("a8", "aq", "c")} == {"quantisation_scale"}
    assert types_of(result.model)["a_scale"] == FLOAT


def test_a_qdq_graph_of_an_old_opset_is_raised_by_the_converter() -> None:
    model = quantised()
    model.opset_import[0].version = 17
    assert fp16_from_model(model).model.opset_import[0].version == 19
