"""The TensorRT back end on fakes of every version: the graph's scores, nothing made per clip."""

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import artefact, assert_one_line, clip_spec, manifest, motion_model
from helpers_cuda import HostCuda
from helpers_engine_bundle import head_bundle
from helpers_engines import built_plan
from helpers_fake_tensorrt import BUILDERS, flavour_of, use_fake, with_driver
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.backends import open_backend
from vad_runtime.backends import tensorrt as tensorrt_module
from vad_runtime.backends.base import Backend, Clips, Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.tensorrt import TensorRtBackend
from vad_runtime.bundle import Bundle, write_bundle
from vad_runtime.contracts import BackendError, NoDriverError, ScoreSpec
from vad_runtime.detector import Detector
from vad_runtime.engines.adapter import TensorRt, found
from vad_runtime.ring import FrameRing
from vad_runtime.sources.base import Frame

FP32 = Options(precision="fp32")


class Bench:
    """A machine with a GPU, a driver and one TensorRT, all of them fakes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
        self._monkeypatch = monkeypatch
        self.bundle = bundle
        self.gpus: list[HostCuda] = []
        self.gpu_settings: dict[str, Any] = {"deferred": True}
        self.backends: list[TensorRtBackend] = []
        self.trt: Any = None
        monkeypatch.setattr(tensorrt_module, "open_cuda", self._open_cuda)

    def _open_cuda(self, gpu: Any) -> HostCuda:
        self.gpus.append(HostCuda(**self.gpu_settings))
        return self.gpus[-1]

    def has(self, snapshot: str, *, sm: int | None = None, **settings: Any) -> TensorRt:
        """Install a version, with a GPU that its plans run on."""
        sm = sm or (89 if flavour_of(snapshot) == "rtx" else 87)
        with_driver(self._monkeypatch, sm=sm, name="Fake Orin")
        self.trt = use_fake(self._monkeypatch, snapshot, sm=sm, **settings)
        return found(self.trt.fake_flavour)

    def open(self, **options: Any) -> TensorRtBackend:
        """Open the back end on the bundle."""
        about = self.bundle.manifest
        file = self.bundle.file(about.artefacts["fp32"])
        self.backends.append(
            TensorRtBackend(file, about, Options(**({"precision": "fp32"} | options)))
        )
        return self.backends[-1]

    @property
    def gpu(self) -> HostCuda:
        """The GPU as it was opened last."""
        return self.gpus[-1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, bundle_copy: Path, tmp_path: Path) -> Iterator[Bench]:
    monkeypatch.setenv("VAD_CACHE", str(tmp_path / "cache"))
    made = Bench(monkeypatch, Bundle.open(bundle_copy))
    yield made
    for backend in made.backends:
        backend.close()
    for gpu in made.gpus:
        assert gpu.closed


def random_clips(count: int, seed: int = 0) -> Clips:
    rng = np.random.default_rng(seed)
    strength = rng.integers(2, 255, (count, 1, 1, 1, 1))
    return rng.integers(0, 1 + strength, (count, 8, 32, 32, 1)).astype(np.uint8)


def reference(bundle: Bundle, clips: Clips) -> np.ndarray:
    file = bundle.file(bundle.manifest.artefacts["fp32"])
    backend = OnnxRuntimeBackend(file, bundle.manifest, Options(precision="fp32", threads=1))
    return backend.infer(clips)["score"]


# -- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", BUILDERS)
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
def test_every_version_gives_the_scores_of_the_graph(
    bench: Bench, snapshot: str, graphs: bool
) -> None:
    built_plan(bench.has(snapshot), bench.bundle, batches=(1, 4))
    backend = bench.open(graphs=graphs)
    for seed, count in enumerate((1, 4, 2, 7, 1)):
        clips = random_clips(count, seed)
        scores = backend.infer(clips)["score"]
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, reference(bench.bundle, clips), atol=1e-5)


def test_the_lean_runtime_runs_a_plan_that_a_full_tensorrt_built(bench: Bench) -> None:
    flags = ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    built_plan(bench.has("11.4.0"), bench.bundle, flags=flags)
    bench.has("lean11.4")
    backend = bench.open()
    assert backend.device.startswith("TensorRT lean runtime 11.4.0.106 on cuda:0")
    clips = random_clips(3)
    np.testing.assert_allclose(
        backend.infer(clips)["score"], reference(bench.bundle, clips), atol=1e-5
    )


def test_a_score_per_clip_has_one_number_for_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = motion_model(tmp_path / "clip.onnx", clip_spec(), answer="clip")
    about = manifest(
        score=ScoreSpec(per="clip", form="motion"), artefacts={"fp32": artefact(opset=18)}
    )
    bundle = write_bundle(tmp_path / "clip.vad", about, {"fp32": graph})
    bench = Bench(monkeypatch, bundle)
    built_plan(bench.has("10.3.0"), bundle, batches=(1, 2))
    backend = bench.open()
    clips = random_clips(5)
    scores = backend.infer(clips)["score"]
    backend.close()
    assert scores.shape == (5,)
    np.testing.assert_allclose(scores, reference(bundle, clips), atol=1e-5)


def test_a_head_of_features_runs_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = head_bundle(tmp_path)
    bench = Bench(monkeypatch, bundle)
    built_plan(bench.has("10.3.0"), bundle, batches=(1, 2))
    backend = bench.open()
    features = np.random.default_rng(1).normal(size=(3, 4, 16)).astype(np.float32)
    scores = backend.infer(features)["score"]
    backend.close()
    np.testing.assert_allclose(scores, features.mean(axis=2), atol=1e-6)


def test_scores_that_are_not_finite_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = motion_model(tmp_path / "nan.onnx", clip_spec(), answer="nan")
    bundle = write_bundle(tmp_path / "nan.vad", manifest(), {"fp32": graph})
    bench = Bench(monkeypatch, bundle)
    built_plan(bench.has("10.3.0"), bundle)
    backend = bench.open()  # the warm-up gives NaN as well, and is no reason to refuse a plan
    with pytest.raises(BackendError, match="not finite"):
        backend.infer(random_clips(1))
    backend.close()


def test_results_belong_to_the_caller(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open()
    first = backend.infer(random_clips(1, 1))["score"]
    kept = first.copy()
    second = backend.infer(random_clips(1, 2))["score"]
    backend.close()
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((1, 8, 32, 32, 1), np.float32), np.zeros((1, 7, 32, 32, 1), np.uint8)],
    ids=["float32", "seven frames"],
)
def test_another_dtype_or_shape_is_refused(bench: Bench, wrong: np.ndarray) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    with pytest.raises(BackendError, match="clips must be C-contiguous uint8"):
        bench.open().infer(wrong)


# -- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "runs"),
    [(1, [1]), (2, [4]), (4, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (11, [8, 4]), (16, [8, 8])],
)
def test_clips_take_as_few_runs_as_possible(bench: Bench, count: int, runs: list[int]) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle, batches=(4, 1, 8))
    backend = bench.open(graphs=False)
    bench.trt.fake_records.runs.clear()
    clips = random_clips(count)
    scores = backend.infer(clips)["score"]
    assert [run["clip"][0] for run in bench.trt.fake_records.runs] == runs
    np.testing.assert_allclose(scores, reference(bench.bundle, clips), atol=1e-5)


def test_the_device_names_library_gpu_precision_batches_and_graph(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle, batches=(1, 4))
    assert bench.open().device == (
        "TensorRT 10.3.0 on cuda:0 (Fake Orin, SM 87), fp32, batch 1+4, CUDA graph"
    )
    assert bench.open(graphs=False).device.endswith("no CUDA graph (switched off)")


# -- CUDA graphs and memory --------------------------------------------------------------------


def test_each_batch_is_recorded_once_and_then_replayed(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle, batches=(1, 4))
    backend = bench.open()
    bench.gpu.calls.clear()
    bench.trt.fake_records.runs.clear()
    for _ in range(3):
        backend.infer(random_clips(5))  # 4 + 1
    assert len(bench.gpu.made) == 2
    assert {call.split()[0] for call in bench.gpu.calls} == {"launch", "synchronise"}
    assert bench.trt.fake_records.runs == []  # TensorRT itself was not asked again


def test_without_capture_it_runs_directly_and_says_why(bench: Bench) -> None:
    bench.gpu_settings = {"graphs": False}
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open()
    assert backend.device.endswith("no CUDA graph (the test switched graphs off)")
    clips = random_clips(3)
    np.testing.assert_allclose(
        backend.infer(clips)["score"], reference(bench.bundle, clips), atol=1e-5
    )


def test_a_graph_that_replays_something_else_is_not_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    monkeypatch.setattr("helpers_cuda.HostGraph.launch", lambda self, stream: None)
    backend = bench.open()
    assert backend.device.endswith("no CUDA graph (replayed, it gave other numbers)")
    clips = random_clips(2)
    np.testing.assert_allclose(
        backend.infer(clips)["score"], reference(bench.bundle, clips), atol=1e-5
    )


@pytest.mark.parametrize("snapshot", ["10.3.0", "rtx1.7"])
def test_nothing_is_made_per_clip_but_the_results(bench: Bench, snapshot: str) -> None:
    built_plan(bench.has(snapshot), bench.bundle, batches=(1, 4))
    backend = bench.open()
    clips = random_clips(5)
    backend.infer(clips)
    made = bench.gpu.allocations
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(20):
            result = backend.infer(clips)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    assert bench.gpu.allocations == made
    ours = [tracemalloc.Filter(True, tensorrt_module.__file__)]
    grown = after.filter_traces(ours).compare_to(before.filter_traces(ours), "filename")
    assert sum(one.size_diff for one in grown) < 4096 + result["score"].nbytes


# -- frames that are on the GPU already --------------------------------------------------------


def pushed(ring: FrameRing, frames: Clips) -> Clips:
    for frame in frames:
        ring.push(frame)
    return ring.latest()[None]


def copied_in(gpu: HostCuda) -> int:
    return sum(int(call.split()[1]) for call in gpu.calls if call.startswith("copy_in "))


@pytest.mark.parametrize("snapshot", BUILDERS)
@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("batches", [(1, 4), (2,)], ids=str)
def test_a_clip_of_its_ring_scores_as_any_other_and_each_frame_crosses_the_bus_once(
    bench: Bench, snapshot: str, graphs: bool, batches: tuple[int, ...]
) -> None:
    built_plan(bench.has(snapshot), bench.bundle, batches=batches)
    backend = bench.open(graphs=graphs)
    ring = backend.ring()
    frames = random_clips(5, 3).reshape(40, 32, 32, 1)
    made, there = bench.gpu.allocations, copied_in(bench.gpu)
    for start in range(0, 33, 3):
        fresh = frames[start + 5 : start + 8] if start else frames[:8]
        clip = pushed(ring, fresh)
        scores = backend.infer(clip)["score"]
        same = frames[None, start : start + 8].copy()
        np.testing.assert_array_equal(clip, same)
        np.testing.assert_allclose(scores, reference(bench.bundle, same), atol=1e-5)
    assert copied_in(bench.gpu) - there == 38 * 32 * 32
    assert bench.gpu.allocations == made
    # The other way works in between, and its graph is another.
    clips = random_clips(2, 9)
    np.testing.assert_allclose(
        backend.infer(clips)["score"], reference(bench.bundle, clips), atol=1e-5
    )


def test_a_detector_feeds_the_ring_and_gives_the_scores_of_clips_from_the_host(
    bench: Bench,
) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open()
    pixels = random_clips(6, 5).reshape(48, 32, 32, 1)

    def scores(ran: Backend) -> list[float | None]:
        frames = [
            Frame(
                index=i,
                pts_s=i / 25,
                pixels=pixels[i],
                picture=lambda: pixels[0],
                hole="gap" if i == 20 else None,
                damaged=i == 33,
            )
            for i in range(len(pixels))
        ]
        detector = Detector(bench.bundle.manifest, ran, hop=2)
        return [one.raw for one in detector.run(frames, nominal_fps=25)]

    there = copied_in(bench.gpu)
    on_device = scores(backend)
    assert copied_in(bench.gpu) - there == 47 * 32 * 32  # the damaged one is in no clip
    assert sum(raw is not None for raw in on_device) > 20

    class HostOnly:
        device = "the same engine"
        infer = staticmethod(lambda clips: backend.infer(clips.copy()))
        close = staticmethod(lambda: None)

    assert scores(HostOnly()) == on_device


def test_two_streams_at_once_have_a_ring_each_and_later_ones_take_their_memory(
    bench: Bench,
) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open()
    first, second = backend.ring(), backend.ring()
    made = bench.gpu.allocations
    clips = random_clips(2, 1)
    for view, clip in [(pushed(first, clips[0]), clips[0]), (pushed(second, clips[1]), clips[1])]:
        np.testing.assert_allclose(
            backend.infer(view)["score"], reference(bench.bundle, clip[None]), atol=1e-5
        )
    assert len(bench.gpu.made) == 2  # a graph for the host's clips, one for both rings
    for _ in range(5):
        del first
        gc.collect()
        first = backend.ring()
        view = pushed(first, clips[1])
        np.testing.assert_allclose(
            backend.infer(view)["score"], reference(bench.bundle, clips[1:]), atol=1e-5
        )
    assert bench.gpu.allocations == made


def test_a_ring_outlives_its_engine_in_host_memory(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open()
    ring = backend.ring()
    clip = random_clips(1)
    view = pushed(ring, clip[0])
    backend.close()
    np.testing.assert_array_equal(view, clip)
    np.testing.assert_array_equal(pushed(ring, clip[0]), clip)
    with pytest.raises(BackendError, match=r"closed\. Open it again"):
        backend.ring()


def test_it_may_be_opened_on_one_thread_and_run_on_another(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend, clips = bench.open(), random_clips(1)
    activations, scores = bench.gpu.activations, []
    thread = threading.Thread(target=lambda: scores.append(backend.infer(clips)["score"]))
    thread.start()
    thread.join()
    assert bench.gpu.activations > activations
    np.testing.assert_allclose(scores[0], reference(bench.bundle, clips), atol=1e-5)


def test_closing_twice_is_fine_and_frees_everything(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open()
    backend.close()
    backend.close()
    assert bench.gpu.closed


@pytest.mark.parametrize("fails", [False, True], ids=["closed", "failed"])
def test_contexts_and_engine_go_before_their_gpu_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    lib = bench.has("10.3.0")
    built_plan(lib, bench.bundle, batches=(1, 4))
    bench.gpu_settings = {"graphs": False}  # what was recorded in Python would hold them
    made: list[Any] = []
    alive_at_the_end: list[int] = []

    def noted(name: str) -> None:
        make = getattr(lib, name)

        def making(*arguments: Any, **settings: Any) -> Any:
            thing = make(*arguments, **settings)
            made.append(weakref.ref(getattr(thing, "raw", thing)))
            return thing

        monkeypatch.setattr(lib, name, making)

    for name in ("deserialise", "context"):
        noted(name)
    close = HostCuda.close

    def closing(gpu: HostCuda) -> None:
        gc.collect()
        alive_at_the_end.append(sum(one() is not None for one in made))
        close(gpu)

    monkeypatch.setattr(HostCuda, "close", closing)
    bench.trt.fake_settings.execute_error = "no" if fails else ""
    if fails:
        with pytest.raises(BackendError, match="does not run"):
            bench.open()
        assert len(made) == 2
    else:
        bench.open().close()
        assert len(made) == 3
    assert alive_at_the_end[0] == 0


# -- TensorRT-RTX ------------------------------------------------------------------------------


def test_rtx_records_its_own_graphs_and_is_not_recorded_by_us(bench: Bench) -> None:
    built_plan(bench.has("rtx1.7"), bench.bundle)
    backend = bench.open()
    assert backend.device == (
        "TensorRT-RTX 1.7.1.116 on cuda:0 (Fake Orin, SM 89), fp32, batch 1, "
        "CUDA graph by the library"
    )
    assert bench.gpu.made == []
    assert bench.trt.fake_records.graph_strategies == ["WHOLE_GRAPH_CAPTURE"]
    assert "no CUDA graph" in bench.open(graphs=False).device
    assert bench.trt.fake_records.graph_strategies[1] == "DISABLED"


def test_rtx_finds_its_kernels_again_at_the_next_start(bench: Bench, tmp_path: Path) -> None:
    plan = built_plan(bench.has("rtx1.7"), bench.bundle, batches=(1, 4))
    bench.open()
    files = list((tmp_path / "cache" / "rtx").glob("*.cache"))
    assert len(files) == 1
    loaded = bench.trt.fake_records.runtime_caches
    loaded.clear()
    bench.open()
    assert len(loaded) == 2  # both contexts
    assert loaded[0] == files[0].read_bytes()[32:]
    plan.unlink()
    built_plan(found("rtx"), bench.bundle, batches=(1,))  # another plan has other kernels
    loaded.clear()
    bench.open()
    assert loaded == []


def test_kernels_that_another_gpu_has_compiled_are_left_aside(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_plan(bench.has("rtx1.7"), bench.bundle)
    bench.open()
    with_driver(monkeypatch, sm=89, name="Another GPU")
    bench.open()
    assert bench.trt.fake_records.runtime_caches == []
    bench.open()
    assert len(bench.trt.fake_records.runtime_caches) == 1


# -- refusals ----------------------------------------------------------------------------------


def test_without_a_driver_nothing_of_tensorrt_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)

    def no_gpu(device: str) -> Any:
        raise NoDriverError("No NVIDIA driver here. Install it.")

    monkeypatch.setattr(tensorrt_module, "gpu_of", no_gpu)
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NoDriverError, match="No NVIDIA driver"):
        bench.open()
    assert bench.trt.fake_records.runtimes == []


def test_without_any_library_the_pip_line_is_given(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    for name in ("tensorrt", "tensorrt_bindings"):
        bench._monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match="TensorRT is not installed") as caught:
        bench.open()
    assert_one_line(caught.value, "pip install 'vad-edge[trt]'")


def test_a_bundle_without_engines_gives_the_command_that_builds_one(bench: Bench) -> None:
    bench.has("10.3.0")
    with pytest.raises(BackendError) as caught:
        bench.open()
    command = f"vad-export build-engine {bench.bundle.path} --precision fp32"
    assert_one_line(caught.value, "engines", command)


def test_bf16_and_the_processor_are_refused(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    with pytest.raises(BackendError, match="no bf16 plans"):
        bench.open(precision="bf16")
    with pytest.raises(BackendError, match="`cpu` is no GPU"):
        bench.open(device="cpu")
    with pytest.raises(BackendError, match="no GPU cuda:3"):
        bench.open(device="cuda:3")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"load_error": "Magic tag does not match"}, "the plan cannot be loaded"),
        ({"context_error": "Out of memory"}, "no execution context"),
        ({"execute_error": "invalid address"}, "the engine does not run"),
        ({"no_runtime": True}, "makes no runtime"),
        ({"bogus": True}, "makes no runtime"),
    ],
)
def test_what_tensorrt_refuses_is_one_line_in_its_words_and_everything_is_freed(
    bench: Bench, setting: dict[str, Any], said: str
) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    for key, value in setting.items():
        setattr(bench.trt.fake_settings, key, value)
    with pytest.raises(BackendError) as caught:
        bench.open()
    words = [value for value in setting.values() if isinstance(value, str)]
    assert_one_line(caught.value, said, "TensorRT 10.3.0", *words)
    assert bench.gpu.closed


def test_a_run_that_fails_later_is_one_line(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    backend = bench.open(graphs=False)
    bench.trt.fake_settings.execute_error = "illegal memory access"
    with pytest.raises(BackendError) as caught:
        backend.infer(random_clips(1))
    assert_one_line(caught.value, "the engine does not run", "illegal memory access")


def test_a_run_that_fails_is_not_explained_by_what_failed_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)

    def refused(gpu: HostCuda, stream: int, enqueue: Any) -> None:
        bench.trt.fake_log("ERROR", "Out of memory while capturing")
        gpu.no_capture = "TensorRT refused"

    monkeypatch.setattr(HostCuda, "capture", refused)
    backend = bench.open()
    bench.trt.fake_settings.execute_error = "illegal memory access"
    with pytest.raises(BackendError, match="illegal memory access") as caught:
        backend.infer(random_clips(1))
    assert "Out of memory" not in str(caught.value)


def test_an_output_that_has_not_one_entry_for_each_clip_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its buffer would be too small, and TensorRT would write beyond it."""
    file = tmp_path / "table.onnx"
    model = onnx.load(motion_model(file, clip_spec()))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((9, 2), np.float32), "nine"))
    model.graph.node.append(helper.make_node("Identity", ["nine"], ["table"]))
    model.graph.output.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, [9, 2]))
    onnx.save(model, file)
    bundle = write_bundle(tmp_path / "table.vad", manifest(), {"fp32": file})
    bench = Bench(monkeypatch, bundle)
    built_plan(bench.has("10.3.0"), bundle, batches=(1,))
    with pytest.raises(BackendError) as caught:
        bench.open()
    assert_one_line(caught.value, "output table", "(9, 2) for 1 clips")
    assert bench.gpu.closed


def test_too_little_memory_is_one_line_and_everything_is_freed(bench: Bench) -> None:
    bench.gpu_settings = {"memory": 1000}
    built_plan(bench.has("10.3.0"), bench.bundle)
    with pytest.raises(BackendError, match="OUT_OF_MEMORY"):
        bench.open()
    assert bench.gpu.closed


@pytest.mark.parametrize("snapshot", [name for name in BUILDERS if name != "rtx1.7"])
def test_code_for_the_host_runs_only_when_asked(bench: Bench, snapshot: str) -> None:
    lib = bench.has(snapshot)
    plan = built_plan(lib, bench.bundle, flags=["VERSION_COMPATIBLE"])
    with pytest.raises(BackendError, match="code that runs on the host") as caught:
        bench.open()
    assert_one_line(caught.value, str(plan), "--host-code")
    assert bench.gpus == []
    backend = bench.open(host_code=True)
    assert bench.trt.fake_records.runtimes[-1].engine_host_code_allowed is True
    backend.infer(random_clips(1))
    plan.unlink()
    built_plan(lib, bench.bundle)
    bench.open()
    assert bench.trt.fake_records.runtimes[-1].engine_host_code_allowed is False


def test_a_plan_for_another_kind_of_clip_is_refused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = clip_spec(width=64)
    other = write_bundle(
        tmp_path / "wide.vad",
        manifest(clip=wide),
        {"fp32": motion_model(tmp_path / "wide.onnx", wide)},
    )
    digest = bench.bundle.manifest.artefacts["fp32"].sha256
    lib = bench.has("10.3.0")
    built_plan(lib, other, folder=bench.bundle.path / "engines", source_sha256=digest)
    with pytest.raises(BackendError, match="the manifest says uint8") as caught:
        bench.open()
    assert_one_line(caught.value, "model.engine takes a clip of uint8 (N, 8, 32, 64, 1)")
    assert bench.gpu.closed


def test_a_plan_without_a_score_is_refused(bench: Bench, tmp_path: Path) -> None:
    graph = motion_model(tmp_path / "other.onnx", clip_spec(), output="anomaly")
    other = write_bundle(tmp_path / "other.vad", manifest(), {"fp32": graph})
    digest = bench.bundle.manifest.artefacts["fp32"].sha256
    lib = bench.has("10.3.0")
    built_plan(lib, other, folder=bench.bundle.path / "engines", source_sha256=digest)
    with pytest.raises(BackendError, match="no output called score, but anomaly"):
        bench.open()


@pytest.mark.parametrize(
    "name", ["execute_async_v3", "set_tensor_address", "set_optimization_profile_async"]
)
def test_a_name_that_a_version_lacks_breaks_the_path(bench: Bench, name: str) -> None:
    """What these tests are worth: a fake without one of the real names does not run."""
    built_plan(bench.has("10.3.0"), bench.bundle)
    kind = bench.trt.IExecutionContext
    bench._monkeypatch.delattr(kind, name)
    with pytest.raises(AttributeError, match=f"IExecutionContext has no attribute '{name}'"):
        bench.open()


# -- which plan --------------------------------------------------------------------------------


def test_a_plan_may_lie_elsewhere_and_be_named(bench: Bench, tmp_path: Path) -> None:
    plan = built_plan(bench.has("10.3.0"), bench.bundle, folder=tmp_path / "plans")
    choice = open_backend(bench.bundle, "auto", Options(engine=plan))
    assert choice.name == "tensorrt"
    assert choice.backend.device.startswith("TensorRT 10.3.0 on cuda:0")
    choice.backend.close()
    folder = open_backend(bench.bundle, "tensorrt", Options(engine=plan.parent))
    folder.backend.close()
    with pytest.raises(BackendError, match="does not exist"):
        bench.open(engine=tmp_path / "none.engine")


def test_a_named_plan_of_another_precision_is_refused(bench: Bench, tmp_path: Path) -> None:
    lib = bench.has("10.3.0")
    plan = built_plan(lib, bench.bundle, folder=tmp_path / "plans", precision="fp32")
    sidecar = Path(f"{plan}.json")
    sidecar.write_text(sidecar.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))
    with pytest.raises(BackendError, match="from the fp16 graph, and fp32 was asked") as caught:
        bench.open(engine=plan)
    assert_one_line(caught.value, "--precision fp16")


def test_a_plan_for_another_gpu_is_refused_before_tensorrt_sees_it(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle)
    bench.has("10.3.0", sm=86)
    with pytest.raises(BackendError, match="SM") as caught:
        bench.open()
    assert_one_line(caught.value, "87", "86", "vad-export build-engine")
    assert bench.trt.fake_records.runtimes == []
    assert bench.gpus == []


def test_a_plan_of_a_graph_that_was_replaced_is_refused(bench: Bench) -> None:
    built_plan(bench.has("10.3.0"), bench.bundle, source_sha256="ab" * 32)
    with pytest.raises(BackendError, match="built from another") as caught:
        bench.open()
    assert_one_line(caught.value, "vad-export build-engine")
    assert bench.trt.fake_records.runtimes == []
