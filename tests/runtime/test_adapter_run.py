"""Loading and running plans through the adapter, on fakes of every version."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import assert_one_line
from helpers_adapter import library
from helpers_cuda import HostCuda
from helpers_fake_tensorrt import (
    BUILDERS,
    SNAPSHOTS,
    with_driver,
    without_driver,
)
from onnx import TensorProto, helper, numpy_helper

from vad_runtime.contracts import BackendError, EngineTensor, NoDriverError
from vad_runtime.engines.adapter import Context, TensorRt

BATCHES = (1, 4)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x (N, 3) uint8 -> y (N, 3) float32 = 2 x, z (N,) float32 = sum. Do not change."""
    two = numpy_helper.from_array(np.array([2], np.float32), "two")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "two"], ["y"]),
        helper.make_node("ReduceSum", ["f", "axes"], ["z"], keepdims=0),
    ]
    clip = helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3])
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [clip], outputs, [two, axes]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = tmp_path_factory.mktemp("graph") / "double.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(autouse=True)
def _driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch)


def plan_of(lib: TensorRt, file: Path, *flags: str) -> bytes:
    """Build a plan with one profile for each of `BATCHES`."""
    builder = lib.builder()
    network = lib.network(builder)
    assert lib.parse(builder, network, file) == []
    config = lib.config(builder)
    for flag in flags:
        assert lib.set_flag(config, flag)
    for batch in BATCHES:
        lib.add_profile(builder, config, "x", (batch, 3))
    return bytes(lib.build(builder, network, config))


def loaded(lib: TensorRt, plan: bytes, **settings: Any) -> Any:
    runtime = lib.runtime(**settings)
    return lib.deserialise(runtime, memoryview(plan))


class Ready:
    """A context with memory, on one profile."""

    def __init__(self, lib: TensorRt, engine: Any, profile: int, cuda: HostCuda) -> None:
        batch = BATCHES[profile]
        self.lib = lib
        self.cuda = cuda
        self.stream = cuda.stream()
        self.clip = np.zeros((batch, 3), np.uint8)
        self.results = [np.empty((batch, 3), np.float32), np.empty(batch, np.float32)]
        self.device = [cuda.allocate(one.nbytes) for one in (self.clip, *self.results)]
        self.context: Context = lib.context(engine)
        self.context.select_profile(profile, self.stream)
        self.context.set_shape("x", self.clip.shape)
        for name, address in zip("xyz", self.device, strict=True):
            self.context.set_address(name, address)

    def enqueue(self) -> None:
        self.cuda.copy_in(self.device[0], self.clip, self.stream)
        self.context.execute(self.stream)
        for result, address in zip(self.results, self.device[1:], strict=True):
            self.cuda.copy_out(result, address, self.stream)

    def check(self) -> None:
        self.cuda.synchronise(self.stream)
        expected = 2 * self.clip.astype(np.float32)
        np.testing.assert_array_equal(self.results[0], expected)
        np.testing.assert_array_equal(self.results[1], expected.sum(1) / 2)


# -- the whole path ----------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("profile", [0, 1])
@pytest.mark.parametrize("snapshot", BUILDERS)
def test_a_plan_runs_with_each_version(
    snapshot: str, profile: int, deferred: bool, file: Path
) -> None:
    lib, cuda = library(snapshot), HostCuda(deferred=deferred)
    ready = Ready(lib, loaded(lib, plan_of(lib, file)), profile, cuda)
    ready.clip[...] = 7
    ready.enqueue()
    ready.check()
    graph = cuda.capture(ready.stream, ready.enqueue)
    assert graph is not None
    ready.clip[...] = 9
    graph.launch(ready.stream)
    ready.check()
    shape = (BATCHES[profile], 3)
    assert lib.trt.fake_records.runs == [{"x": shape}, {"x": shape}]


@pytest.mark.parametrize("flavour", ["lean", "dispatch"])
def test_the_lean_runtimes_run_compatible_plans_of_the_whole_library(
    flavour: str, file: Path
) -> None:
    plan = plan_of(library("11.4.0"), file, "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")
    lib = library("lean11.4", flavour=flavour)
    ready = Ready(lib, loaded(lib, plan), 0, HostCuda())
    ready.clip[...] = 3
    ready.enqueue()
    ready.check()


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_tensors_and_profiles_are_read_off_the_engine(snapshot: str, file: Path) -> None:
    lib = library(snapshot)
    engine = loaded(lib, plan_of(lib, file))
    assert lib.io(engine) == (
        [EngineTensor(name="x", dtype="uint8", shape=[-1, 3])],
        [
            EngineTensor(name="y", dtype="float32", shape=[-1, 3]),
            EngineTensor(name="z", dtype="float32", shape=[-1]),
        ],
    )
    assert lib.profiles(engine, "x") == [(batch, 3) for batch in BATCHES]


NEEDED = [
    "Runtime.deserialize_cuda_engine",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.num_io_tensors",
    "ICudaEngine.get_tensor_name",
    "ICudaEngine.get_tensor_mode",
    "ICudaEngine.get_tensor_dtype",
    "ICudaEngine.get_tensor_shape",
    "ICudaEngine.get_tensor_profile_shape",
    "ICudaEngine.num_optimization_profiles",
    "IExecutionContext.set_optimization_profile_async",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_tensor_address",
    "IExecutionContext.execute_async_v3",
]


def whole_path(lib: TensorRt, plan: bytes) -> None:
    engine = loaded(lib, plan)
    lib.io(engine)
    lib.profiles(engine, "x")
    Ready(lib, engine, 1, HostCuda()).enqueue()


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_name_that_a_version_lacks_stops_the_path(snapshot: str, name: str, file: Path) -> None:
    maker = library("11.4.0" if snapshot == "lean11.4" else snapshot)
    flags = ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME") if snapshot == "lean11.4" else ()
    plan = plan_of(maker, file, *flags)
    whole_path(library(snapshot), plan)
    with pytest.raises(AttributeError, match=name.split(".")[1]):
        whole_path(library(snapshot, without=[name]), plan)


def test_the_indices_of_bindings_are_not_used_where_there_are_none(file: Path) -> None:
    for snapshot in BUILDERS[1:]:
        lib = library(snapshot)
        engine = loaded(lib, plan_of(lib, file))
        with pytest.raises(AttributeError, match="num_bindings"):
            engine.num_bindings  # noqa: B018 - 8.x only
        with pytest.raises(AttributeError, match="execute_async_v2"):
            engine.create_execution_context().execute_async_v2  # noqa: B018


# -- what only some have -----------------------------------------------------------------------


def test_rtx_makes_its_own_graphs_unless_told_not_to(file: Path) -> None:
    lib = library("rtx1.7")
    engine = loaded(lib, plan_of(lib, file))
    lib.context(engine)
    lib.context(engine, graphs=False)
    assert lib.trt.fake_records.graph_strategies == ["WHOLE_GRAPH_CAPTURE", "DISABLED"]


def test_kernels_that_rtx_has_compiled_are_kept_and_used_again(file: Path) -> None:
    lib = library("rtx1.7")
    engine = loaded(lib, plan_of(lib, file))
    data = lib.context(engine).runtime_cache_bytes()
    assert data
    lib.context(engine, runtime_cache=data)
    assert lib.trt.fake_records.runtime_caches == [data]


def test_a_damaged_runtime_cache_is_left_aside(file: Path) -> None:
    lib = library("rtx1.7")
    engine = loaded(lib, plan_of(lib, file))
    context = lib.context(engine, runtime_cache=b"junk")
    assert context.runtime_cache_bytes() == lib.context(engine).runtime_cache_bytes()


@pytest.mark.parametrize("snapshot", [name for name in BUILDERS if name != "rtx1.7"])
def test_classic_tensorrt_keeps_no_runtime_cache(snapshot: str, file: Path) -> None:
    lib = library(snapshot)
    context = lib.context(loaded(lib, plan_of(lib, file)), runtime_cache=b"x", graphs=False)
    assert context.runtime_cache_bytes() is None


@pytest.mark.parametrize("allowed", [False, True])
def test_host_code_runs_only_when_it_is_allowed(allowed: bool, file: Path) -> None:
    lib = library("10.3.0")
    plan = plan_of(lib, file, "VERSION_COMPATIBLE")  # with the lean runtime in it
    if allowed:
        assert loaded(lib, plan, host_code=True) is not None
        return
    with pytest.raises(BackendError) as error:
        loaded(lib, plan)
    assert_one_line(error.value, "getEngineHostCodeAllowed", "--host-code")


def test_host_code_that_cannot_be_allowed_is_refused() -> None:
    lib = library("10.3.0", without=["Runtime.engine_host_code_allowed"])
    with pytest.raises(BackendError) as error:
        lib.runtime(host_code=True)
    assert_one_line(error.value, "TensorRT 10.3.0", "--host-code")
    assert lib.runtime() is not None


# -- failures ----------------------------------------------------------------------------------


def test_a_plan_of_another_version_is_refused_with_the_reason(file: Path) -> None:
    plan = plan_of(library("10.3.0"), file)
    with pytest.raises(BackendError) as error:
        loaded(library("10.13.3.9"), plan)
    assert_one_line(error.value, "TensorRT 10.13.3.9 says", "10.3.0.26", "vad-export build-engine")


def test_a_plan_for_another_gpu_is_refused_with_the_reason(file: Path) -> None:
    plan = plan_of(library("10.3.0", sm=86), file)
    with pytest.raises(BackendError) as error:
        loaded(library("10.3.0", sm=87), plan)
    assert_one_line(error.value, "expecting compute 8.6 got compute 8.7", "compute capability")


@pytest.mark.parametrize("snapshot", BUILDERS)
def test_what_is_no_plan_is_refused_with_the_reason(snapshot: str) -> None:
    with pytest.raises(BackendError) as error:
        loaded(library(snapshot), b"no plan at all, but quite some bytes" * 10)
    assert_one_line(error.value, "the plan cannot be loaded", "Magic tag", "vad-export inspect")


def test_a_context_without_memory_is_refused_with_the_reason(file: Path) -> None:
    lib = library("10.3.0", context_error="Error Code 1: Cuda Runtime (out of memory)")
    engine = loaded(lib, plan_of(lib, file))
    with pytest.raises(BackendError) as error:
        lib.context(engine)
    assert_one_line(error.value, "no execution context", "memory ran out")


def test_a_run_that_tensorrt_refuses_is_an_error(file: Path) -> None:
    lib = library("10.3.0")
    ready = Ready(lib, loaded(lib, plan_of(lib, file)), 0, HostCuda())
    lib.trt.fake_settings.execute_error = "Error Code 1: Cuda Runtime (an illegal memory access)"
    with pytest.raises(BackendError) as error:
        ready.context.execute(ready.stream)
    assert_one_line(error.value, "the engine does not run", "illegal memory access")


def test_shapes_profiles_and_names_that_do_not_exist_are_refused(file: Path) -> None:
    lib = library("10.3.0")
    context = lib.context(loaded(lib, plan_of(lib, file)))
    with pytest.raises(BackendError, match=r"input x cannot have shape \(9, 3\)"):
        context.set_shape("x", (9, 3))
    with pytest.raises(BackendError, match="profile 2 cannot be used"):
        context.select_profile(2, 1)
    with pytest.raises(BackendError, match="tensor nobody"):
        context.set_address("nobody", 1)
    lib.fresh_log()
    with pytest.raises(BackendError, match="Address is not set"):
        context.execute(1)


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_no_runtime_is_made_without_a_driver(
    snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_driver(monkeypatch)
    lib = library(snapshot)
    with pytest.raises(NoDriverError):
        lib.runtime()
    assert lib.trt.fake_records.runtimes == []  # the real one would crash at the next call


def test_a_runtime_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(BackendError) as error:
        library("lean11.4", no_runtime=True).runtime()
    assert_one_line(error.value, "makes no runtime", "cudaError 35", "driver")


@pytest.mark.parametrize(
    ("snapshot", "flavour"), [("lean11.4", "lean"), ("lean11.4", "dispatch"), ("11.4.0", "")]
)
def test_a_runtime_that_a_driver_too_old_makes_bogus_is_neither_used_nor_freed(
    snapshot: str, flavour: str
) -> None:
    lib = library(snapshot, flavour=flavour, bogus=True)
    with pytest.raises(BackendError) as error:
        lib.runtime()
    assert_one_line(error.value, "makes no runtime", "cudaError 35", "driver")
    gc.collect()
    # Not `isinstance`: it asks every object, and PyTorch's deprecated ones warn when asked.
    assert any(type(thing) is lib.trt.Runtime for thing in gc.get_objects())


def test_a_context_goes_before_its_runtime_cache_and_its_settings(file: Path) -> None:
    lib = library("rtx1.7")
    context = lib.context(loaded(lib, plan_of(lib, file)))
    gone: list[str] = []
    for name, thing in (
        ("context", context.raw),
        ("settings", context._config),
        ("cache", context._cache),
        ("engine", context._engine),
    ):
        weakref.finalize(thing, gone.append, name)
    context._config._cache = None  # or the settings would hold it
    context.raw._engine = thing = None
    del context
    assert gone[0] == "context"
    assert gone.index("engine") == 3


def test_a_context_knows_the_shapes_of_its_outputs(file: Path) -> None:
    lib = library("10.3.0")
    context = lib.context(loaded(lib, plan_of(lib, file)))
    _, (output, *_) = lib.io(context._engine)
    assert context.shape(output.name)[0] == -1
    context.set_shape("x", (1, 3))
    assert context.shape(output.name)[0] == 1
