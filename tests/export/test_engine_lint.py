"""`--dry-run`: what a build would refuse, found without a build."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import artefact, manifest
from helpers_engine_bundle import engine_bundle, names_in, settings
from helpers_fake_tensorrt import hide_tensorrt, use_fake, with_driver
from onnx import TensorProto, helper, numpy_helper

from vad_export.engine.lint import lint_engine
from vad_runtime.bundle import Bundle, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return engine_bundle(tmp_path_factory.mktemp("bundle"))


def lint(bundle: Bundle, folder: Path, **changes: Any) -> tuple[list[str], list[str]]:
    said: list[str] = []
    return lint_engine(bundle, settings(folder, **changes), said.append), said


def with_graph(bundle: Bundle, folder: Path, model: onnx.ModelProto, precision: str) -> Bundle:
    """Write a bundle whose graph of one precision is another."""
    files = {"fp32": bundle.file(bundle.manifest.artefacts["fp32"]), precision: folder / "x.onnx"}
    onnx.save(model, files[precision])
    entries = {
        name: artefact(file=f"model.{name}.onnx", precision=name, opset=18) for name in files
    }
    return write_bundle(folder / "other.vad", manifest(artefacts=entries), files)


def test_a_good_graph_says_what_would_be_built_and_builds_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = use_fake(monkeypatch, "rtx1.7")
    for precision in ("fp32", "fp16", "int8", "mixed"):
        found, said = lint(bundle, tmp_path / "out", precision=precision, batches=(1, 4))
        assert found == []
        (line,) = said
        assert f"model.b1-4.t8.32.{precision}.rtx1.7.1.116.sm80plus.engine" in line
        assert "batch 1, batch 4" in line
        assert "TensorRT-RTX 1.7.1.116" in line
    assert not trt.fake_records.builds
    assert names_in(tmp_path) == []


def test_without_a_library_or_a_driver_the_static_rules_are_checked(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_tensorrt(monkeypatch)
    found, said = lint(bundle, tmp_path)
    assert found == []
    assert "static rules alone" in said[0]
    assert "not installed" in said[0]
    use_fake(monkeypatch, "10.3.0")
    found, said = lint(bundle, tmp_path, dla=0)
    assert len(found) == 1
    assert "2-D" in found[0]
    assert "driver" in said[0]


def test_an_option_that_the_library_lacks_is_a_finding(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch, "rtx1.7")
    found, _ = lint(bundle, tmp_path, level=3)
    assert len(found) == 1
    assert "--opt-level" in found[0]


def test_what_the_parser_refuses_is_a_finding(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_driver(monkeypatch, integrated=True)
    for snapshot in ("8.6.1", "10.3.0", "11.4.0", "rtx1.7"):
        use_fake(monkeypatch, snapshot, refuse_operator="Conv")
        found, _ = lint(bundle, tmp_path, flavour="rtx" if "rtx" in snapshot else "tensorrt")
        assert len(found) == 1, snapshot
        assert "does not take" in found[0]


def test_a_q_dq_graph_that_breaks_a_rule_is_a_finding(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_tensorrt(monkeypatch)
    model = onnx.load(bundle.file(bundle.manifest.artefacts["int8"]))
    scale = next(n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear")
    for held in model.graph.initializer:
        if held.name == scale:
            held.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(held), scale))
    spoilt = with_graph(bundle, tmp_path, model, "int8")
    found, _ = lint(spoilt, tmp_path / "out", precision="int8")
    assert found
    assert all(line.startswith("int8: ") and "scale" in line for line in found)


def test_a_transpose_of_bytes_and_an_open_dimension_are_findings(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_tensorrt(monkeypatch)
    nodes = [
        helper.make_node("Transpose", ["clip"], ["moved"], "move", perm=[0, 4, 1, 2, 3]),
        helper.make_node("Cast", ["moved"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["score"], axes=[1, 3, 4], keepdims=0),
    ]
    shape: list[str | int] = ["N", "T", 32, 32, 1]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", "T"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found, _ = lint(with_graph(bundle, tmp_path, made, "fp16"), tmp_path, precision="fp16")
    assert len(found) == 2
    assert "'T' (number 1)" in found[0]
    assert "Transpose of uint8 (move)" in found[1]


def test_a_fixed_batch_is_built_only_as_it_is(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake(monkeypatch, "rtx1.7")
    model = onnx.load(bundle.file(bundle.manifest.artefacts["fp32"]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    fixed = with_graph(bundle, tmp_path, model, "fp16")
    assert lint(fixed, tmp_path, precision="fp16", batches=(2,))[0] == []
    found, _ = lint(fixed, tmp_path, precision="fp16", batches=(1,))
    assert len(found) == 1
    assert "--batch 2" in found[0]
