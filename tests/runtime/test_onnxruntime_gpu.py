"""ONNX Runtime on a GPU, with a stand-in that computes on the CPU and behaves as a GPU build does.

The stand-in is the real ONNX Runtime: sessions, buffers and bindings are real and in host memory.
What it changes: which providers are there and start, and CUDA graphs, which replay what was bound
when they were captured.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as real
import pytest
from helpers import assert_one_line, clip_spec, manifest, motion_model
from helpers_cuda import fake_libcuda, output_with

from vad_runtime.backends import onnxruntime_gpu as gpu_module
from vad_runtime.backends import onnxruntime_slot as slot_module
from vad_runtime.backends import onnxruntime_trt_cache as cache_module
from vad_runtime.backends.base import Options
from vad_runtime.backends.onnxruntime import OnnxRuntimeBackend
from vad_runtime.backends.onnxruntime_gpu import OnnxRuntimeCudaBackend, OnnxRuntimeTensorRtBackend
from vad_runtime.backends.onnxruntime_slot import reason_of
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import BackendError, ScoreSpec
from vad_runtime.cuda.driver import Driver, Gpu

GPU = Gpu(index=1, name="Test GPU", sm=86, memory_bytes=8 << 30, integrated=False, uuid="GPU-0001")
FP32 = Options(precision="fp32")
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
NO_CAPTURE = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as all "
    "compute graph nodes have not been partitioned to the CUDAExecutionProvider"
)


class FakeValue:
    """`OrtValue` whose device memory is host memory."""

    made: list[tuple[str, int]]

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Any, dtype: Any, device: str, index: int) -> Any:
        cls.made.append((device, index))
        return real.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)


class FakeBinding:
    """`IOBinding` that takes host memory for the GPU's."""

    def __init__(self, session: Any) -> None:
        self.real = real.IOBinding(session)
        self.values: dict[str, Any] = {}

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.values[name] = value
        self.real.bind_ortvalue_input(name, value)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self.values[name] = value
        self.real.bind_ortvalue_output(name, value)

    def bind_output(self, name: str, device: str, index: int) -> None:
        assert (device, index) == ("cuda", GPU.index)
        self.real.bind_output(name, "cpu")

    def get_outputs(self) -> list[Any]:
        return list(self.real.get_outputs())

    def addresses(self) -> dict[str, int]:
        return {name: value.data_ptr() for name, value in self.values.items()}


class FakeSession:
    """`InferenceSession` on the CPU that says it is on what starts."""

    def __init__(self, ort: "FakeOrt", file: str, settings: Any, providers: list[Any]) -> None:
        self.ort = ort
        self.graphs: dict[str, tuple[FakeBinding, dict[str, int]]] = {}
        self.counted = 0
        asked = [p if isinstance(p, tuple) else (p, {}) for p in providers]
        self.settings: dict[str, Any] = dict(asked)
        self.used = [name for name, _ in asked if name in (*ort.starts, CPU)]
        head = self.settings[asked[0][0]]
        self.capturing = head.get("enable_cuda_graph") == "1" or (
            head.get("trt_cuda_graph_enable") == "True"
        )
        if ort.load_errors:
            raise RuntimeError(ort.load_errors.pop(0))
        if self.capturing and ort.capture_error:
            raise RuntimeError(ort.capture_error)
        self.real = real.InferenceSession(file, settings, providers=[CPU], enable_fallback=0)
        self.fallback = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_providers(self) -> list[str]:
        return self.used

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
            for name, count in self.ort.nodes
        ]

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self.real)

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        if self.ort.run_error:
            raise RuntimeError(self.ort.run_error)
        graph = options.get_run_config_entry("gpu_graph_id")
        self.ort.runs.append(graph)
        if self.capturing and self.used[0] == TENSORRT:
            # TensorRT's provider knows no ids: whichever its second run has, it is captured.
            self.counted += 1
            if self.counted <= 2 or not self.ort.stale:
                self.real.run_with_iobinding(binding.real)
            return
        if not self.capturing or graph == "-1":
            self.real.run_with_iobinding(binding.real)
            return
        if graph not in self.graphs:
            self.graphs[graph] = (binding, binding.addresses())
            self.real.run_with_iobinding(binding.real)
            return
        captured, addresses = self.graphs[graph]
        # A replay works on the memory of the capture, whatever is bound now.
        assert captured is binding
        assert binding.addresses() == addresses
        if not self.ort.stale:
            self.real.run_with_iobinding(captured.real)


class FakeOrt:
    """The module `onnxruntime` of a GPU build."""

    def __init__(self) -> None:
        self.available = [TENSORRT, CUDA, CPU]
        self.starts = [TENSORRT, CUDA]
        self.cuda_version = "13.0"
        self.preload_says = ""
        self.capture_error = ""
        self.run_error = ""
        self.load_errors: list[str] = []
        self.stale = False
        self.nodes = [(CUDA, 9)]
        self.runs: list[str] = []
        self.sessions: list[FakeSession] = []
        self.session_settings: list[Any] = []
        self.severities: list[int] = []
        FakeValue.made = []
        self.OrtValue = FakeValue

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        sys.stdout.write(self.preload_says + "\n")  # as the library does

    def set_default_logger_severity(self, level: int) -> None:
        self.severities.append(level)

    def InferenceSession(  # noqa: N802 - as the library calls it
        self, file: str, settings: Any, providers: list[Any], enable_fallback: int
    ) -> FakeSession:
        assert enable_fallback == 0
        self.session_settings.append(settings)
        self.sessions.append(FakeSession(self, file, settings, providers))
        return self.sessions[-1]


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeOrt:
    """A GPU build of ONNX Runtime on a machine with two GPUs, of which the second is asked for."""
    fake = FakeOrt()
    known = Driver(cuda="13.1", kernel="590.1", gpus=(other_gpu_of(0), GPU))
    for module in (gpu_module, slot_module):
        monkeypatch.setattr(module, "ort", fake)
    monkeypatch.setattr(gpu_module, "gpu_of", lambda _device: GPU)
    for module in (gpu_module, cache_module):
        monkeypatch.setattr(module, "driver", lambda: known)
    monkeypatch.setattr(gpu_module, "tensorrt_version", lambda _folder: "100300")
    monkeypatch.setenv("VAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return fake


def other_gpu_of(index: int) -> Gpu:
    return Gpu(index=index, name="Other", sm=75, memory_bytes=1, integrated=False, uuid="GPU-0000")


Open = Callable[..., Any]


@pytest.fixture
def opened(ort: FakeOrt, tiny_bundle: Bundle) -> Iterator[Open]:
    """Opens back ends on the tiny bundle and closes them."""
    backends: list[Any] = []

    def one(engine: Any = OnnxRuntimeCudaBackend, options: Options = FP32) -> Any:
        about = tiny_bundle.manifest
        backends.append(engine(tiny_bundle.file(about.artefacts["fp32"]), about, options))
        return backends[-1]

    yield one
    for backend in backends:
        backend.close()


def clips_of(count: int, seed: int = 3) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 32, 32, 1), dtype=np.uint8)


# -- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [OnnxRuntimeCudaBackend, OnnxRuntimeTensorRtBackend])
@pytest.mark.parametrize("graphs", [True, False])
def test_scores_are_those_of_the_cpu_whatever_the_batch(
    opened: Open, tiny_bundle: Bundle, engine: Any, graphs: bool
) -> None:
    about = tiny_bundle.manifest
    cpu = OnnxRuntimeBackend(tiny_bundle.file(about.artefacts["fp32"]), about, FP32)
    backend = opened(engine, Options(precision="fp32", graphs=graphs))
    for count in (1, 3, 1, 21, 3):
        clips = clips_of(count, seed=count)
        np.testing.assert_allclose(
            backend.infer(clips)["score"], cpu.infer(clips)["score"], rtol=1e-5
        )


def test_a_batch_is_cut_into_powers_of_two_and_each_size_has_its_graph(
    opened: Open, ort: FakeOrt
) -> None:
    backend = opened()
    backend.infer(clips_of(21))
    ort.runs.clear()
    backend.infer(clips_of(21))
    assert ort.runs == ["16", "4", "1"]
    assert sorted(ort.sessions[0].graphs) == ["1", "16", "4"]


def test_the_buffers_are_allocated_once_and_on_the_gpu_that_was_asked_for(
    opened: Open, ort: FakeOrt
) -> None:
    backend = opened()
    for _ in range(3):
        backend.infer(clips_of(2))
    assert FakeValue.made == [("cuda", 1), ("cuda", 1)]  # batch 1 and batch 2
    assert ort.sessions[0].settings[CUDA]["device_id"] == "1"


def test_the_caller_owns_the_scores(opened: Open) -> None:
    backend = opened()
    first = backend.infer(clips_of(1, seed=1))["score"]
    kept = first.copy()
    second = backend.infer(clips_of(1, seed=2))["score"]
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 0


def test_a_graph_with_a_fixed_batch_of_one_runs_clip_by_clip(
    ort: FakeOrt, tmp_path: Path, tiny_graph: Path
) -> None:
    import onnx

    model = onnx.load(tiny_graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "model.onnx"))
    backend = OnnxRuntimeCudaBackend(tmp_path / "model.onnx", manifest(), FP32)
    ort.runs.clear()
    assert backend.infer(clips_of(3))["score"].shape == (3, 8)
    assert ort.runs == ["1", "1", "1"]


# -- what really computes ----------------------------------------------------------------------


def test_the_device_line_names_provider_gpu_precision_and_graph(opened: Open, ort: FakeOrt) -> None:
    assert opened().device == (
        f"onnxruntime {real.__version__} CUDA on cuda:1 (Test GPU, SM 86), fp32, CUDA graph"
    )
    ort.nodes = [(TENSORRT, 7), (CUDA, 2), (CPU, 1), (CUDA, 1)]
    assert opened(OnnxRuntimeTensorRtBackend).device.endswith(
        "fp32, CUDA graph, 3 of 11 nodes on CUDA, 1 of 11 nodes on CPU"
    )


def test_fp32_is_fp32_and_not_tf32(opened: Open, ort: FakeOrt) -> None:
    opened()
    assert ort.sessions[0].settings[CUDA]["use_tf32"] == "0"
    opened(OnnxRuntimeTensorRtBackend)
    assert ort.sessions[1].settings[CUDA]["use_tf32"] == "0"
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ


@pytest.mark.parametrize(("users", "seen"), [(None, "0"), ("1", "1")])
def test_tensorrt_builds_without_tf32_unless_the_user_decided_otherwise(
    opened: Open, ort: FakeOrt, monkeypatch: pytest.MonkeyPatch, users: str | None, seen: str
) -> None:
    if users is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", users)
    found: list[str | None] = []
    make = ort.InferenceSession

    def watched(*args: Any, **named: Any) -> FakeSession:
        found.append(os.environ.get("NVIDIA_TF32_OVERRIDE"))
        return make(*args, **named)

    monkeypatch.setattr(ort, "InferenceSession", watched)
    opened(OnnxRuntimeTensorRtBackend)
    assert found == [seen]
    assert os.environ.get("NVIDIA_TF32_OVERRIDE") == users


@pytest.mark.parametrize(
    ("engine", "label"),
    [(OnnxRuntimeCudaBackend, "CUDA"), (OnnxRuntimeTensorRtBackend, "TensorRT")],
)
def test_a_silent_fall_back_to_the_processor_is_refused_with_what_is_missing(
    opened: Open, ort: FakeOrt, engine: Any, label: str
) -> None:
    ort.starts = []
    ort.preload_says = (
        "Failed to load libcublasLt.so.13: cannot open shared object file\n"
        "Failed to load /x/nvidia/libcudart.so.13: which the loader's own folders have, though\n"
        "Failed to load libcurand.so.10: cannot open shared object file\n"
        "Please follow https://example.org to install CUDA."
    )
    with pytest.raises(BackendError) as caught:
        opened(engine)
    assert_one_line(
        caught.value,
        f"asked ONNX Runtime for its {label} provider, but it would compute with {CPU}",
        f"{CPU}: libcublasLt.so.13, libcurand.so.10 cannot be loaded",
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    )


def test_without_a_reason_of_its_own_the_refusal_says_which_cuda_is_needed(
    opened: Open, ort: FakeOrt
) -> None:
    ort.starts = []
    with pytest.raises(BackendError, match="it needs CUDA 13 and cuDNN"):
        opened()


def test_a_provider_that_is_registered_while_its_libraries_are_loaded_is_found(
    opened: Open, ort: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort.available = [CPU]
    monkeypatch.setattr(ort, "preload_dlls", lambda: ort.available.insert(0, CUDA))
    assert "CUDA on cuda:1" in opened().device


def test_a_warning_of_onnxruntime_is_the_reason_and_is_not_shown(
    opened: Open, ort: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warns() -> None:
        warnings.warn("Failed to register bundled CUDA plugin EP: no cuDNN.\nmore", stacklevel=1)

    ort.starts = []
    monkeypatch.setattr(ort, "preload_dlls", warns)
    with pytest.raises(BackendError) as caught:
        opened()
    assert_one_line(caught.value, f"{CPU}: Failed to register bundled CUDA plugin EP: no cuDNN. I")


def test_nothing_of_onnxruntime_is_printed(
    opened: Open, ort: FakeOrt, capfd: pytest.CaptureFixture[str]
) -> None:
    ort.preload_says = "Skip loading CUDA and cuDNN DLLs since torch is imported."
    assert opened()._session.fallback is False
    assert ort.severities == [4, 2]
    assert capfd.readouterr() == ("", "")


# -- CUDA graphs -------------------------------------------------------------------------------


def test_a_graph_that_cannot_be_captured_is_run_without_and_the_device_line_says_why(
    opened: Open, ort: FakeOrt
) -> None:
    ort.capture_error = NO_CAPTURE
    backend = opened()
    assert len(ort.sessions) == 1  # the second; the first was refused
    assert "no CUDA graph (This session cannot use the graph capture feature as" in backend.device
    ort.runs.clear()
    backend.infer(clips_of(2))
    backend.infer(clips_of(2))
    assert set(ort.runs) == {"-1"}


@pytest.mark.parametrize("engine", [OnnxRuntimeCudaBackend, OnnxRuntimeTensorRtBackend])
def test_a_replay_that_does_not_see_new_clips_is_not_used(
    opened: Open, ort: FakeOrt, engine: Any
) -> None:
    ort.stale = True
    backend = opened(engine)
    assert "no CUDA graph (a replayed graph gave another `score` than" in backend.device
    assert not np.array_equal(
        backend.infer(clips_of(1, seed=1))["score"], backend.infer(clips_of(1, seed=2))["score"]
    )


def test_a_larger_batch_without_a_graph_is_named(opened: Open, ort: FakeOrt) -> None:
    backend = opened()
    ort.stale = True  # from now on
    assert backend.infer(clips_of(4))["score"].shape == (4, 8)
    assert backend.device.endswith("CUDA graph except for batch 4")


def test_graphs_that_are_switched_off_are_not_tried(opened: Open, ort: FakeOrt) -> None:
    backend = opened(options=Options(precision="fp32", graphs=False))
    assert ort.sessions[0].settings[CUDA]["enable_cuda_graph"] == "0"
    assert "no CUDA graph (switched off)" in backend.device
    assert set(ort.runs) == {"-1"}


def test_only_tensorrt_captures_where_tensorrt_computes(opened: Open, ort: FakeOrt) -> None:
    opened(OnnxRuntimeTensorRtBackend)
    assert ort.sessions[0].settings[TENSORRT]["trt_cuda_graph_enable"] == "True"
    assert ort.sessions[0].settings[CUDA]["enable_cuda_graph"] == "0"


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "precision", "part"),
    [
        (OnnxRuntimeCudaBackend, "bf16", "--precision fp32"),
        (OnnxRuntimeTensorRtBackend, "bf16", "--precision fp32"),
        (OnnxRuntimeCudaBackend, "int8", "slower than fp32"),
        (OnnxRuntimeCudaBackend, "mixed", "--backend tensorrt"),
    ],
)
def test_arithmetic_that_a_provider_has_not_is_refused(
    opened: Open, engine: Any, precision: Any, part: str
) -> None:
    with pytest.raises(BackendError) as caught:
        opened(engine, Options(precision=precision))
    assert_one_line(caught.value, part)


def test_an_onnxruntime_for_the_cpu_is_refused(opened: Open, ort: FakeOrt) -> None:
    ort.available = [CPU]
    with pytest.raises(BackendError) as caught:
        opened()
    assert_one_line(caught.value, "no CUDA provider", "pip install 'vad-edge[gpu]'")
    assert ort.sessions == []


def test_an_onnxruntime_for_a_newer_cuda_than_the_driver_knows_is_refused(
    opened: Open, ort: FakeOrt
) -> None:
    ort.cuda_version = "14.0"
    with pytest.raises(BackendError) as caught:
        opened()
    assert_one_line(caught.value, "for CUDA 14", "driver knows only 13.1", "Update the driver")


def test_the_driver_is_asked_before_onnxruntime(
    tiny_bundle: Bundle, ort: FakeOrt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_device: str) -> Gpu:
        raise BackendError("No NVIDIA driver here.")

    monkeypatch.setattr(gpu_module, "gpu_of", none)
    monkeypatch.setattr(ort, "get_available_providers", lambda: pytest.fail("asked first"))
    monkeypatch.setattr(ort, "preload_dlls", lambda: pytest.fail("loaded first"))
    about = tiny_bundle.manifest
    with pytest.raises(BackendError, match="No NVIDIA driver"):
        OnnxRuntimeCudaBackend(tiny_bundle.file(about.artefacts["fp32"]), about, FP32)


def test_without_a_driver_the_refusal_is_one_line_and_no_crash(tiny_bundle: Bundle) -> None:
    code = (
        "import sys; from vad_runtime.bundle import Bundle; "
        "from vad_runtime.backends import open_backend; from vad_runtime.contracts import *\n"
        "for name in ('onnxruntime-cuda', 'onnxruntime-tensorrt'):\n"
        "    try: open_backend(Bundle.open(sys.argv[1]), name)\n"
        "    except NoDriverError as error: print(error)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle.path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("driver" in line and "--backend openvino" in line for line in lines)


def test_with_a_driver_and_an_onnxruntime_for_the_cpu_the_package_to_install_is_named(
    tmp_path: Path,
) -> None:
    if CUDA in real.get_available_providers():
        pytest.skip("this onnxruntime has a CUDA provider")
    code = (
        "from vad_runtime.backends.onnxruntime_gpu import OnnxRuntimeCudaBackend as Backend\n"
        "from vad_runtime.contracts import BackendError\n"
        "try: Backend.require('cuda:0')\n"
        "except BackendError as error: print(error)\n"
    )
    said = output_with(fake_libcuda(tmp_path), code)
    assert len(said.splitlines()) == 1
    assert "has no CUDA provider" in said
    assert "pip install 'vad-edge[gpu]'" in said


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("CUDA failure 2: out of memory ; GPU=1 ; hostname=x ; file=/a.cc", "Free memory"),
        ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : kernel broke", "failed: kernel broke. Try"),
    ],
)
def test_a_failed_run_is_one_line_with_a_way_out(
    opened: Open, ort: FakeOrt, reason: str, part: str
) -> None:
    backend = opened()
    ort.run_error = reason
    with pytest.raises(BackendError) as caught:
        backend.infer(clips_of(1))
    assert_one_line(caught.value, part, "--device cpu")
    assert "hostname" not in str(caught.value)


def test_a_file_that_is_no_graph_is_one_line(ort: FakeOrt, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"never a graph")
    with pytest.raises(BackendError) as caught:
        OnnxRuntimeCudaBackend(tmp_path / "model.onnx", manifest(), FP32)
    assert_one_line(caught.value, "onnxruntime-cuda cannot load model.onnx")


def test_a_graph_for_other_clips_is_refused(ort: FakeOrt, tmp_path: Path) -> None:
    file = motion_model(tmp_path / "model.onnx", clip_spec(frames=4))
    with pytest.raises(BackendError, match="Export the bundle again"):
        OnnxRuntimeCudaBackend(file, manifest(), FP32)


def test_a_score_of_another_shape_or_nan_is_refused(ort: FakeOrt, tmp_path: Path) -> None:
    file = motion_model(tmp_path / "nan.onnx", clip_spec(), answer="nan")
    with pytest.raises(BackendError, match="not finite"):
        OnnxRuntimeCudaBackend(file, manifest(), FP32).infer(clips_of(1))
    file = motion_model(tmp_path / "clip.onnx", clip_spec(), answer="clip")
    with pytest.raises(BackendError, match="a score of shape"):
        OnnxRuntimeCudaBackend(file, manifest(), FP32).infer(clips_of(1))
    per_clip = manifest(score=ScoreSpec(per="clip", form="motion"))
    assert OnnxRuntimeCudaBackend(file, per_clip, FP32).infer(clips_of(3))["score"].shape == (3,)


def test_clips_of_another_form_are_refused(opened: Open) -> None:
    with pytest.raises(BackendError, match="must be C-contiguous uint8"):
        opened().infer(np.zeros((1, 8, 32, 32, 1), np.float32))


# -- TensorRT's cache --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "fp16", "int8", "optimised"),
    [
        ("fp32", "False", "False", True),
        ("fp16", "True", "False", True),
        ("int8", "False", "True", False),
        ("mixed", "True", "True", False),
    ],
)
def test_tensorrt_takes_the_types_that_the_graph_has(
    opened: Open, ort: FakeOrt, precision: Any, fp16: str, int8: str, optimised: bool
) -> None:
    backend = opened(OnnxRuntimeTensorRtBackend, Options(precision=precision))
    found = ort.sessions[0].settings[TENSORRT]
    assert (found["trt_fp16_enable"], found["trt_int8_enable"]) == (fp16, int8)
    level = ort.session_settings[0].graph_optimization_level
    assert (level != real.GraphOptimizationLevel.ORT_DISABLE_ALL) == optimised
    assert precision in backend.device


def test_the_engines_of_other_graphs_gpus_and_versions_are_never_taken(
    opened: Open, ort: FakeOrt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def folder() -> str:
        found: str = ort.sessions[-1].settings[TENSORRT]["trt_engine_cache_path"]
        return found

    opened(OnnxRuntimeTensorRtBackend)
    folders = [folder()]
    assert folders[0].startswith(str(tmp_path / "cache" / "onnxruntime-trt"))
    opened(OnnxRuntimeTensorRtBackend)
    assert folder() == folders[0]
    monkeypatch.setattr(gpu_module, "tensorrt_version", lambda _folder: "100400")
    opened(OnnxRuntimeTensorRtBackend)
    folders.append(folder())
    monkeypatch.setattr(gpu_module, "gpu_of", lambda _device: other_gpu_of(1))
    opened(OnnxRuntimeTensorRtBackend)
    folders.append(folder())
    # The same nodes with other numbers: the provider itself would take the engine of before.
    file = motion_model(tmp_path / "model.onnx", clip_spec(), answer="nan")
    OnnxRuntimeTensorRtBackend(file, manifest(), FP32)
    folders.append(folder())
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")  # rounds fp32; those engines are not fp32's
    OnnxRuntimeTensorRtBackend(file, manifest(), FP32)
    folders.append(folder())
    assert len(set(folders)) == 5


def test_half_an_engine_of_a_killed_build_is_removed_and_built_again(
    opened: Open, ort: FakeOrt
) -> None:
    backend = opened(OnnxRuntimeTensorRtBackend, Options(precision="fp32", graphs=False))
    folder = Path(ort.sessions[0].settings[TENSORRT]["trt_engine_cache_path"])
    (folder / "TensorrtExecutionProvider_0.engine").write_bytes(b"half")
    ort.load_errors = ["could not deserialize engine"]
    backend = opened(OnnxRuntimeTensorRtBackend, Options(precision="fp32", graphs=False))
    assert backend.infer(clips_of(1))["score"].shape == (1, 8)
    assert not list(folder.glob("*.engine"))
    ort.load_errors = ["broken for another reason"]
    with pytest.raises(BackendError, match="broken for another reason"):
        opened(OnnxRuntimeTensorRtBackend, Options(precision="fp32", graphs=False))


def test_a_cache_that_cannot_be_written_is_one_line(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAD_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendError) as caught:
        opened(OnnxRuntimeTensorRtBackend)
    assert_one_line(caught.value, "cannot be made", "VAD_CACHE=FOLDER")


def test_a_tensorrt_that_is_not_here_is_named_with_its_version(tmp_path: Path) -> None:
    assert cache_module.tensorrt_version(tmp_path) == "unknown"
    library = tmp_path / "libonnxruntime_providers_tensorrt.so"
    library.write_bytes(b"\0libnvinfer_plugin.so\0libnvinfer.so.98\0")
    with pytest.raises(BackendError) as caught:
        cache_module.tensorrt_version(tmp_path)
    assert_one_line(caught.value, "needs TensorRT 98", "pip install 'tensorrt==98.*'")
    library.write_bytes(b"nothing of the kind")
    assert cache_module.tensorrt_version(tmp_path) == "unknown"


@pytest.mark.usefixtures("ort")
def test_the_tensorrt_provider_is_not_promised_where_its_tensorrt_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(_folder: Path) -> str:
        raise BackendError("onnxruntime-tensorrt needs TensorRT 10. Install it.")

    assert OnnxRuntimeTensorRtBackend.require("auto") == GPU
    monkeypatch.setattr(gpu_module, "tensorrt_version", missing)
    assert OnnxRuntimeCudaBackend.require("auto") == GPU
    with pytest.raises(BackendError, match="needs TensorRT 10"):
        OnnxRuntimeTensorRtBackend.require("auto")


def test_a_file_system_without_locks_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with cache_module.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_two_processes_do_not_build_into_one_cache_at_once(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n"
        "    except BlockingIOError: print('locked')\n"
    )

    def state() -> str:
        command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with cache_module.locked(tmp_path):
        assert state() == "locked"
    assert state() == "free"


# -- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model failed.\nsecond line",
            "Load model failed",
        ),
        (
            "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void "
            "onnxruntime::python::Register(PySessionOptions&, const Options&) Please install it.",
            "Please install it",
        ),
        ("", "RuntimeError"),
    ],
)
def test_source_files_and_codes_are_taken_off_a_message(said: str, reason: str) -> None:
    assert reason_of(RuntimeError(said)) == reason
