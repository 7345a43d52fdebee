"""The ONNX file: the contract of every exported graph."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers import clip_spec

from vad_export.onnx_graph import OPSET, onnx_from_graph
from vad_export.opset import opset_of
from vad_runtime.contracts import ExportError
from vad_training.graphs.stae import ScoreForm, StaeScore, stae_graph
from vad_training.models.stae import STAE

CLIP = clip_spec()
FORM = ScoreForm(form="both", alpha=0.5)
OUTPUTS = ["latent", "reconstruction", "prediction"]


@pytest.fixture(scope="module")
def model() -> STAE:
    torch.manual_seed(0)
    return STAE().eval()


@pytest.fixture(scope="module")
def exported(model: STAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The largest graph there is: both decoders, two encodings, every optional output."""
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx_from_graph(stae_graph(model, CLIP, FORM, outputs=OUTPUTS), file)
    return file


@pytest.fixture(scope="module")
def session(exported: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])


def clips(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 16, 32, 32, 1), np.uint8)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_the_graph_passes_the_checker_and_has_the_opset_that_it_promises(exported: Path) -> None:
    graph = onnx.load(exported)
    onnx.checker.check_model(graph, full_check=True)
    assert opset_of(exported) >= OPSET >= 18
    assert [(e.domain, e.version) for e in graph.opset_import] == [("", opset_of(exported))]


def test_the_input_is_uint8_with_a_free_batch_and_nothing_else_free(exported: Path) -> None:
    graph = onnx.load(exported).graph
    (clip,) = graph.input
    assert clip.name == "clip"
    assert clip.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    batch, *rest = dimensions(clip)
    assert isinstance(batch, str)
    assert rest == [16, 32, 32, 1]


def test_the_outputs_are_the_score_and_then_what_was_asked_for(exported: Path) -> None:
    graph = onnx.load(exported).graph
    assert [o.name for o in graph.output] == ["score", *OUTPUTS]
    assert {o.type.tensor_type.elem_type for o in graph.output} == {onnx.TensorProto.FLOAT}
    shapes = [dimensions(o)[1:] for o in graph.output]
    assert shapes == [[8], [64, 1, 4, 4], [1, 8, 32, 32], [1, 8, 32, 32]]
    assert all(isinstance(dimensions(o)[0], str) for o in graph.output)


def test_the_file_says_nothing_about_the_machine(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (
        bytes(Path(__file__).parents[2]),
        b"site-packages",
        b"/home",
        b"/usr",
        b".py",
        b"vad_export",
        b"/tmp",
    ):
        assert trace not in content, trace
    assert not [f.name for f in exported.parent.iterdir() if f != exported]  # no external data


def test_the_answers_are_pytorchs(model: STAE, session: ort.InferenceSession) -> None:
    batch = clips(2)
    answers = session.run(None, {"clip": batch})
    with torch.inference_mode():
        wanted = StaeScore(model, 8, FORM, OUTPUTS)(torch.from_numpy(batch))
    for name, answer, want in zip(["score", *OUTPUTS], answers, wanted, strict=True):
        scale = want.abs().max().item()
        np.testing.assert_allclose(answer, want.numpy(), atol=1e-5 * scale, rtol=0, err_msg=name)


def test_a_batch_of_three_is_three_batches_of_one(session: ort.InferenceSession) -> None:
    batch = clips(3)
    together = session.run(None, {"clip": batch})
    for i in range(3):
        alone = session.run(None, {"clip": batch[i : i + 1]})
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[i : i + 1], one, rtol=1e-5, atol=1e-6)


def test_the_same_model_gives_the_same_file_and_the_model_stays_as_it_was(
    model: STAE, exported: Path, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    onnx_from_graph(stae_graph(model, CLIP, FORM, outputs=OUTPUTS), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training


def test_a_model_that_cannot_be_exported_is_one_line(
    model: STAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise torch.onnx.OnnxExporterError("no translation for aten::magic\n\nlong report")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError) as caught:
        onnx_from_graph(stae_graph(model, CLIP, FORM), tmp_path / "x.onnx")
    assert str(caught.value) == (
        "PyTorch could not export the model (no translation for aten::magic)."
    )
    assert not (tmp_path / "x.onnx").exists()
