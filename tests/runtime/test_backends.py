"""Real engines on a real graph: same contract, same scores, same refusals."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest, motion_model
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.backends import Backend, open_backend
from vad_runtime.backends import onnxruntime as onnxruntime_module
from vad_runtime.backends import openvino as openvino_module
from vad_runtime.backends.base import Clips, Options, PrecisionChoice
from vad_runtime.backends.fake import FakeBackend
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.openvino import OpenVinoBackend
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ScoreSpec
from vad_runtime.ring import FrameRing

FP32 = Options(precision="fp32", threads=1)
ENGINES = [OpenVinoBackend, OnnxRuntimeBackend]
ALL = [*ENGINES, FakeBackend]
Open = Callable[..., Backend]


@pytest.fixture
def opened(tiny_bundle: Bundle) -> Iterator[Open]:
    """Opens back ends on the tiny bundle and closes them."""
    backends: list[Backend] = []

    def one(engine: Callable[..., Backend], options: Options = FP32) -> Backend:
        about = tiny_bundle.manifest
        backends.append(engine(tiny_bundle.file(about.artefacts["fp32"]), about, options))
        return backends[-1]

    yield one
    for backend in backends:
        backend.close()


def random_clips(count: int, seed: int = 0) -> Clips:
    """Return clips with motion of different strength."""
    rng = np.random.default_rng(seed)
    strength = rng.integers(2, 255, (count, 1, 1, 1, 1))
    return rng.integers(0, 1 + strength, (count, 8, 32, 32, 1)).astype(np.uint8)


def expected_scores(clips: Clips) -> np.ndarray:
    """Return the tiny graph's scores, worked out with numpy in double precision."""
    rng = np.random.default_rng(7)
    weight = rng.normal(0, 1, (4, 1, 3, 3, 3)).astype(np.float32).astype(np.float64)
    weight /= np.abs(weight).sum(axis=(1, 2, 3, 4), keepdims=True)
    x = np.pad(clips[..., 0] / 255.0, ((0, 0), (1, 1), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3, 3), axis=(1, 2, 3))
    filtered = np.einsum("nthwabc,kabc->nkthw", windows, weight[:, 0], optimize=True)
    d = ((filtered - filtered.mean(axis=2, keepdims=True)) ** 2).mean(axis=(1, 3, 4))
    return d / (d + 0.005)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_in_fp32_gives_the_scores_of_the_formula(
    opened: Open, engine: Callable[..., Backend]
) -> None:
    clips = random_clips(4)
    scores = opened(engine).infer(clips)["score"]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected_scores(clips), atol=1e-5)
    assert scores.max() - scores.min() > 0.05  # the clips really differ


def test_both_engines_give_the_same_scores(opened: Open) -> None:
    openvino, onnxruntime = opened(OpenVinoBackend), opened(OnnxRuntimeBackend)
    for seed in range(5):
        clips = random_clips(3, seed)
        np.testing.assert_allclose(
            openvino.infer(clips)["score"], onnxruntime.infer(clips)["score"], atol=1e-5
        )


@pytest.mark.parametrize("engine", ALL)
def test_a_batch_gives_what_its_clips_give_one_by_one(
    opened: Open, engine: Callable[..., Backend]
) -> None:
    backend, clips = opened(engine), random_clips(3)
    one_by_one = [backend.infer(clips[i : i + 1])["score"] for i in range(3)]
    np.testing.assert_array_equal(backend.infer(clips)["score"], np.concatenate(one_by_one))


@pytest.mark.parametrize("engine", ENGINES)
def test_bf16_stays_near_fp32_or_is_refused(opened: Open, engine: Callable[..., Backend]) -> None:
    try:
        backend = opened(engine, Options(precision="bf16", threads=1))
    except BackendError as error:
        assert_one_line(error, "bf16", "--precision fp32")
        return
    assert engine is OpenVinoBackend
    assert "bf16" in backend.device
    clips = random_clips(2)
    np.testing.assert_allclose(backend.infer(clips)["score"], expected_scores(clips), atol=0.05)


def test_onnxruntime_refuses_bf16(opened: Open) -> None:
    with pytest.raises(BackendError, match="no bf16 arithmetic"):
        opened(OnnxRuntimeBackend, Options(precision="bf16"))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_refuses_a_device_that_it_does_not_serve(
    opened: Open, engine: Callable[..., Backend]
) -> None:
    with pytest.raises(BackendError, match="not on cuda:0"):
        opened(engine, Options(device="cuda:0"))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_device_names_engine_precision_and_threads(
    opened: Open, engine: Callable[..., Backend]
) -> None:
    device = opened(engine).device
    assert device.startswith(("openvino 20", "onnxruntime 1."))
    assert device.endswith("fp32, 1 threads")


@pytest.mark.parametrize("engine", ALL)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 8, 32, 32, 1), np.float32),
        np.zeros((1, 8, 32, 32, 1), np.int8),
        np.zeros((1, 7, 32, 32, 1), np.uint8),
        np.zeros((1, 8, 32, 32, 3), np.uint8),
        np.zeros((8, 32, 32, 1), np.uint8),
        np.zeros((1, 8, 32, 32, 2), np.uint8)[..., :1],
    ],
    ids=["float32", "int8", "seven frames", "rgb", "no batch", "not contiguous"],
)
def test_another_dtype_shape_or_layout_is_refused(
    opened: Open, engine: Callable[..., Backend], wrong: np.ndarray
) -> None:
    with pytest.raises(BackendError, match="clips must be C-contiguous uint8") as caught:
        opened(engine).infer(wrong)
    assert_one_line(caught.value, "(N, 8, 32, 32, 1)", str(wrong.dtype))


@pytest.mark.parametrize("engine", ALL)
def test_no_clips_give_no_scores_or_a_plain_error(
    opened: Open, engine: Callable[..., Backend]
) -> None:
    with pytest.raises(BackendError, match="got uint8"):
        opened(engine).infer(np.zeros((0, 8, 32, 32, 1), np.uint8))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_read_only_view_of_the_ring_is_taken_as_it_is(
    opened: Open, engine: Callable[..., Backend]
) -> None:
    clips = random_clips(1)
    ring = FrameRing(8, (32, 32, 1))
    for pixels in (*random_clips(1, seed=1)[0], *clips[0]):
        ring.push(pixels)
    view = ring.latest()[None]
    assert not view.flags.writeable
    before = view.copy()
    scores = opened(engine).infer(view)["score"]
    np.testing.assert_allclose(scores, expected_scores(clips), atol=1e-5)
    np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_caller_owns_the_answer(opened: Open, engine: Callable[..., Backend]) -> None:
    backend = opened(engine)
    first = backend.infer(random_clips(1))["score"]
    kept = first.copy()
    backend.infer(random_clips(1, seed=9))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("engine", ALL)
def test_a_second_close_does_nothing(opened: Open, engine: Callable[..., Backend]) -> None:
    backend = opened(engine)
    backend.close()
    backend.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x09" * 500])
def test_a_file_that_is_no_graph_is_refused_in_one_line(
    tmp_path: Path, engine: Callable[..., Backend], content: bytes
) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(content)
    with pytest.raises(BackendError, match=r"cannot load broken\.onnx") as caught:
        engine(file, manifest(), FP32)
    assert_one_line(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_half_a_graph_is_refused_in_one_line(
    tiny_graph: Path, tmp_path: Path, engine: Callable[..., Backend]
) -> None:
    whole = tiny_graph.read_bytes()
    file = tmp_path / "half.onnx"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackendError, match=r"cannot load half\.onnx") as caught:
        engine(file, manifest(), FP32)
    assert_one_line(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_score_that_is_not_finite_is_refused(
    tmp_path: Path, engine: Callable[..., Backend]
) -> None:
    file = motion_model(tmp_path / "nan.onnx", clip_spec(), answer="nan")
    backend = engine(file, manifest(), FP32)
    with pytest.raises(BackendError, match="not finite") as caught:
        backend.infer(random_clips(1))
    assert_one_line(caught.value, "--precision fp32")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_score_of_another_shape_than_the_manifest_says_is_refused(
    tiny_graph: Path, engine: Callable[..., Backend]
) -> None:
    claims = manifest(score=ScoreSpec(per="frame", form="motion", first=4, count=4))
    backend = engine(tiny_graph, claims, FP32)
    with pytest.raises(BackendError, match=r"shape \(1, 8\), the manifest says \(1, 4\)"):
        backend.infer(random_clips(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_without_a_score_is_refused(tmp_path: Path, engine: Callable[..., Backend]) -> None:
    file = motion_model(tmp_path / "other.onnx", clip_spec(), output="loss")
    with pytest.raises(BackendError, match="score") as caught:
        engine(file, manifest(), FP32).infer(random_clips(1))
    assert_one_line(caught.value, "loss")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_for_another_clip_is_refused(
    tmp_path: Path, engine: Callable[..., Backend]
) -> None:
    file = motion_model(tmp_path / "large.onnx", clip_spec(height=48))
    with pytest.raises(BackendError) as caught:
        engine(file, manifest(), FP32).infer(random_clips(1))
    assert_one_line(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_that_scores_whole_clips_gives_one_score_a_clip(
    tmp_path: Path, engine: Callable[..., Backend]
) -> None:
    file = motion_model(tmp_path / "clip.onnx", clip_spec(), answer="clip")
    about = manifest(score=ScoreSpec(per="clip", form="motion"))
    scores = engine(file, about, FP32).infer(random_clips(3))["score"]
    assert scores.shape == (3,)


def test_the_fake_back_end_measures_motion_and_nothing_else() -> None:
    about = manifest(clip=clip_spec(frames=3))
    clip = np.zeros((1, 3, 32, 32, 1), np.uint8)
    clip[0, 1], clip[0, 2] = 10, 14
    scores = FakeBackend(Path("unused"), about, FP32).infer(clip)["score"]
    np.testing.assert_array_equal(scores, [[10, 10, 4]])


# -- precision ---------------------------------------------------------------------------------


def quantised_graph(path: Path, *, half: bool) -> Path:
    """Write two convolutions, the second of them quantised; one score a clip."""
    rng = np.random.default_rng(0)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    real = helper.tensor_dtype_to_np_dtype(kind)
    values = {
        "one_255th": np.array(1 / 255, real),
        "first": rng.normal(0, 0.2, (16, 1, 3, 3, 3)).astype(real),
        "second": rng.integers(-127, 128, (16, 16, 3, 3, 3)).astype(np.int8),
        "second_scale": np.full(16, 0.01, real),
        "second_zero": np.zeros(16, np.int8),
        "scale": np.array(0.02, real),
        "zero": np.array(0, np.int8),
        "over": np.array([1, 2, 3, 4]),
    }
    nodes = [
        helper.make_node("Transpose", ["clip"], ["ncthw"], perm=[0, 4, 1, 2, 3]),
        helper.make_node("Cast", ["ncthw"], ["grey"], to=kind),
        helper.make_node("Mul", ["grey", "one_255th"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "first"], ["a"], pads=[1] * 6),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["second", "second_scale", "second_zero"], ["w"]),
        helper.make_node("Conv", ["d", "w"], ["e"], pads=[1] * 6),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("ReduceMean", ["f", "over"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["score"], to=TensorProto.FLOAT),
    ]
    nodes[7].attribute.append(helper.make_attribute("axis", 0))
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, ["N", 8, 32, 32, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_a_quantised_graph_gives_near_scores_on_both_and_openvino_counts_its_int8_layers(
    tmp_path: Path, precision: Any
) -> None:
    file = quantised_graph(tmp_path / "q.onnx", half=precision == "mixed")
    about = manifest(score=ScoreSpec(per="clip", form="mean"))
    options = Options(precision=precision, threads=1)
    first, second = OpenVinoBackend(file, about, options), OnnxRuntimeBackend(file, about, options)
    assert f"{precision} (1 of 2 layers; the rest in " in first.device
    clips = random_clips(4)
    scores = first.infer(clips)["score"]
    np.testing.assert_allclose(scores, second.infer(clips)["score"], rtol=0.02)
    assert scores.max() > 1.05 * scores.min() > 0


@pytest.mark.parametrize(
    ("capable", "expected"),
    [
        (["FP32", "INT8"], {"int8": "the rest in fp32", "mixed": "the rest in fp32"}),
        (["FP32", "INT8", "BF16"], {"int8": "the rest in bf16", "mixed": "the rest in bf16"}),
    ],
)
def test_what_is_not_quantised_is_bf16_only_where_the_processor_has_it(
    tiny_graph: Path, monkeypatch: pytest.MonkeyPatch, capable: list[str], expected: dict[str, str]
) -> None:
    hints = []

    class Core:
        """Says what a processor can do, and notes what it is asked for."""

        def __init__(self) -> None:
            self.real = real_core()

        def get_property(self, device: str, name: str) -> object:
            if name == "OPTIMIZATION_CAPABILITIES":
                return capable
            return self.real.get_property(device, name)

        def read_model(self, file: str) -> object:
            return self.real.read_model(file)

        def compile_model(self, model: object, device: str, config: dict[str, object]) -> object:
            hints.append(config["INFERENCE_PRECISION_HINT"])
            return self.real.compile_model(
                model, device, config | {"INFERENCE_PRECISION_HINT": "f32"}
            )

    real_core = openvino_module._core
    monkeypatch.setattr(openvino_module, "_core", Core)
    for precision, says in expected.items():
        backend = OpenVinoBackend(
            tiny_graph,
            manifest(),
            Options(precision=precision, threads=1),  # type: ignore[arg-type]
        )
        # Nothing in this graph is quantised, and the line does not claim that it is.
        assert f"{precision} (0 of 1 layers; {says})" in backend.device
        assert hints.pop() == ("bf16" if says.endswith("bf16") else "f32")
    fp16 = OpenVinoBackend(tiny_graph, manifest(), Options(precision="fp16", threads=1))
    assert "fp16 graph computed in fp32, 1 threads" in fp16.device
    assert hints == ["f32"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "mixed"])
def test_onnxruntime_optimises_all_but_mixed_graphs(
    tiny_graph: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    levels = []
    session = onnxruntime_module.ort.InferenceSession

    def noted(file: str, settings: Any, providers: list[str]) -> object:
        levels.append(settings.graph_optimization_level)
        return session(file, settings, providers=providers)

    monkeypatch.setattr(onnxruntime_module.ort, "InferenceSession", noted)
    backend = OnnxRuntimeBackend(tiny_graph, manifest(), Options(precision=precision, threads=1))
    level = onnxruntime_module.ort.GraphOptimizationLevel
    off = precision == "mixed"
    assert levels == [level.ORT_DISABLE_ALL if off else level.ORT_ENABLE_ALL]
    assert ("optimiser off" in backend.device) == off
    assert precision in backend.device


def test_the_fake_back_end_gives_the_same_scores_in_every_precision() -> None:
    clips = random_clips(2)
    exact = FakeBackend(Path("unused"), manifest(), FP32).infer(clips)["score"]
    for precision in get_args(PrecisionChoice):
        backend = FakeBackend(Path("unused"), manifest(), Options(precision=precision))
        np.testing.assert_array_equal(backend.infer(clips)["score"], exact)


def test_a_score_that_shares_its_tensor_with_another_name_is_found(tmp_path: Path) -> None:
    # A cast from float to float is optimised away, and its input and output become one tensor.
    file = quantised_graph(tmp_path / "q.onnx", half=False)
    about = manifest(score=ScoreSpec(per="clip", form="mean"))
    for engine in ENGINES:
        assert engine(file, about, FP32).infer(random_clips(1))["score"].shape == (1,)


def test_a_name_with_spaces_and_umlauts_loads(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle.path, tmp_path / "Tür 1 %d.vad")
    for name in ("openvino", "onnxruntime"):
        choice = open_backend(Bundle.open(folder), name, FP32)
        assert choice.artefact == "fp32"
        choice.backend.close()
    assert artefact().file == "model.onnx"


_CTRL_C_AFTER_TWO_ENGINES = """
import gc, signal, sys
from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle
bundle = Bundle.open(sys.argv[1])
first, second = open_backend(bundle, "openvino"), open_backend(bundle, "openvino")
first.backend.close()
del first
gc.collect()
second.backend.close()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_is_handled_after_engines_were_closed(tiny_bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CTRL_C_AFTER_TWO_ENGINES, tiny_bundle.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "handled\n", (done.returncode, done.stderr)
    assert done.returncode == 0


AFFINITY = """
import contextlib, os, sys, threading
from pathlib import Path
import numpy as np
from vad_runtime.backends import open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle

bundle, engine, threads = sys.argv[1:]
choice = open_backend(Bundle.open(bundle), engine, Options(precision="fp32", threads=int(threads)))
clips = np.zeros((1, *choice.backend._manifest.input_shape), np.uint8)
seen, over = set(), threading.Event()

def watch():
    while not over.is_set():
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                seen.add(frozenset(os.sched_getaffinity(int(thread.name))))

watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(100):
    choice.backend.infer(clips)
over.set()
watcher.join()
print(seen == {frozenset(os.sched_getaffinity(0))}, len(seen) > 0)
"""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_thread_is_held_on_a_processor(tiny_bundle: Bundle, engine: str, threads: int) -> None:
    """Each process would begin with the same one, so two runs of one thread would share it."""
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one processor")
    # In a process of its own: threads of other tests' engines would be seen too.
    done = subprocess.run(
        [sys.executable, "-c", AFFINITY, tiny_bundle.path, engine, str(threads)],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True True\n", done.stderr


def test_an_engine_tells_nobody_of_itself(tmp_path: Path) -> None:
    """`import openvino` alone sends an event, unless CI is set, and leaves an identity."""
    told = ("CI", "TF_BUILD", "JENKINS_URL")
    environment = {name: value for name, value in os.environ.items() if name not in told}
    code = (
        "import sys, vad_runtime.backends.openvino;"
        "print(sys.modules['openvino_telemetry'], 'openvino' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("None True\n", "")
    assert list(tmp_path.iterdir()) == []
