"""cuda-bindings (the real package) and pycuda (a stand-in) on a fake driver, in subprocesses."""

import inspect
import json
from pathlib import Path

import cuda_scenarios
import pytest
from helpers_cuda import HostCuda, output_with

from vad_runtime.cuda import Cuda
from vad_runtime.cuda.bindings import BindingsCuda
from vad_runtime.cuda.pycuda import PyCuda

ADAPTERS = ("bindings", "pycuda")
SCENARIOS = [scenario.__name__ for scenario in cuda_scenarios.EVERYWHERE]

RUN = """
import ctypes, json, sys
import cuda_scenarios
from vad_runtime.cuda import open_cuda
from vad_runtime.cuda.driver import gpu_of
library = ctypes.CDLL("libcuda.so.1")
def count():
    kinds = "device pinned streams graphs contexts depth capturing".split()
    return {kind: library.fakeCount(kind.encode()) for kind in kinds}
"""
SCENARIO = (
    RUN
    + """
for name in %r:
    cuda = open_cuda(gpu_of("auto"))
    getattr(cuda_scenarios, name)(cuda)
    cuda.close()
    del cuda
    left = {kind: n for kind, n in count().items() if n}
    assert not left, f"{name} left {left}"
print("fine")
"""
)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_everything_works_and_nothing_is_left(adapter: str, libcuda: Path) -> None:
    assert output_with(libcuda, SCENARIO % SCENARIOS, VAD_CUDA=adapter) == "fine\n"


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("place", ["begin", "end", "instantiate"])
def test_a_driver_without_graphs_runs_the_work_directly(
    adapter: str, place: str, libcuda: Path
) -> None:
    code = SCENARIO % (["no_graphs", "copies"],)
    out = output_with(libcuda, code, VAD_CUDA=adapter, FAKE_CUDA_NO_CAPTURE=place)
    assert out == "fine\n"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_fault_on_the_gpu_is_told_and_closing_still_works(adapter: str, libcuda: Path) -> None:
    code = (
        RUN
        + """
cuda = open_cuda(gpu_of("auto"))
work = cuda_scenarios.Copies(cuda)
graph = cuda.capture(work.stream, work.enqueue)
library.fakeBreak(700)
stream = work.stream
for call in (work.enqueue, lambda: cuda.synchronise(stream), lambda: graph.launch(stream)):
    cuda_scenarios.refused(call, "failed", "illegal memory access")
cuda.close()
print("fine")
"""
    )
    assert output_with(libcuda, code, VAD_CUDA=adapter) == "fine\n"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_second_gpu_is_used_where_it_is_asked_for(adapter: str, libcuda: Path) -> None:
    code = (
        RUN
        + """
cuda = open_cuda(gpu_of("cuda:1"))
cuda_scenarios.copies(cuda)
device = ctypes.c_int()
library.cuCtxGetDevice(ctypes.byref(device))
print(device.value)
"""
    )
    out = output_with(libcuda, code, VAD_CUDA=adapter, FAKE_CUDA_GPUS="2")
    assert out == "1\n"


def test_a_steady_launch_allocates_nothing(libcuda: Path) -> None:
    code = (
        RUN
        + """
import tracemalloc
from vad_runtime.cuda import GraphCache
cuda = open_cuda(gpu_of("auto"))
work = cuda_scenarios.Copies(cuda)
graphs = GraphCache(cuda, work.stream)
def once():
    graphs.run("k", work.enqueue)
    cuda.synchronise(work.stream)
for _ in range(50):
    once()
made = library.fakeCount(b"allocations")
tracemalloc.start()
once()
before = tracemalloc.take_snapshot()
for _ in range(500):
    once()
after = tracemalloc.take_snapshot()
grown = sum(line.size_diff for line in after.compare_to(before, "filename")
            if "tracemalloc" not in line.traceback[0].filename)
print(json.dumps([library.fakeCount(b"allocations") - made, grown]))
"""
    )
    allocations, grown = json.loads(output_with(libcuda, code, VAD_CUDA="bindings"))
    assert allocations == 0
    assert grown < 2000  # bytes, after 500 launches


@pytest.mark.parametrize("adapter", [BindingsCuda, PyCuda, HostCuda])
def test_every_adapter_takes_what_the_protocol_says(adapter: type) -> None:
    names = [name for name in vars(Cuda) if not name.startswith("_")]
    methods = [name for name in names if callable(getattr(Cuda, name))]
    assert {"allocate", "capture", "close"} <= set(methods)
    for name in methods:
        asked = list(inspect.signature(getattr(Cuda, name)).parameters)
        assert list(inspect.signature(getattr(adapter, name)).parameters) == asked, name


# -- pycuda ------------------------------------------------------------------------------------


def test_pycuda_uses_the_callers_context_and_leaves_it_current(libcuda: Path) -> None:
    code = (
        RUN
        + """
import pycuda.driver as theirs
theirs.init()
context = theirs.Device(0).make_context()
cuda = open_cuda(gpu_of("auto"))
assert count()["contexts"] == 0, "the primary context was retained"
cuda_scenarios.cache(cuda)
current = ctypes.c_void_p()
library.cuCtxGetCurrent(ctypes.byref(current))
assert current.value == context.handle
cuda.close()
library.cuCtxGetCurrent(ctypes.byref(current))
assert current.value == context.handle
assert theirs.Context.get_current() == context
int(theirs.mem_alloc(10))
context.pop()
left = {kind: n for kind, n in count().items() if n}
assert not left, left
assert "pycuda.autoinit" not in sys.modules
print(cuda.name)
"""
    )
    assert output_with(libcuda, code, VAD_CUDA="pycuda") == "pycuda 2026.1\n"


def test_a_pycuda_context_on_another_gpu_is_not_taken(libcuda: Path) -> None:
    code = (
        RUN
        + """
import pycuda.driver as theirs
theirs.init()
context = theirs.Device(0).make_context()
cuda = open_cuda(gpu_of("cuda:1"))
print(count()["contexts"])
cuda_scenarios.copies(cuda)
cuda.close()
context.pop()
"""
    )
    assert output_with(libcuda, code, VAD_CUDA="pycuda", FAKE_CUDA_GPUS="2") == "1\n"


def test_pycuda_that_is_not_closed_does_not_end_the_process(libcuda: Path) -> None:
    code = (
        RUN + 'cuda = open_cuda(gpu_of("auto")); work = cuda_scenarios.copies(cuda); print("end")'
    )
    assert output_with(libcuda, code, VAD_CUDA="pycuda") == "end\n"


# -- which of them -----------------------------------------------------------------------------

CHOICE = """
import sys
from vad_runtime.contracts import VadError
from vad_runtime.cuda import open_cuda
from vad_runtime.cuda.driver import gpu_of
for name in {missing!r}:
    sys.modules[name] = None
try:
    print(open_cuda(gpu_of("auto")).name.split()[0])
except VadError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("missing", "named", "answer"),
    [
        ([], "", "cuda-bindings"),
        ([], "pycuda", "pycuda"),
        ([], "bindings", "cuda-bindings"),
        (["cuda.bindings.driver"], "", "pycuda"),
    ],
)
def test_cuda_bindings_is_taken_unless_another_is_named_or_it_is_missing(
    missing: list[str], named: str, answer: str, libcuda: Path
) -> None:
    out = output_with(libcuda, CHOICE.format(missing=missing), VAD_CUDA=named)
    assert out == f"{answer}\n"


def test_without_any_of_them_one_line_says_how_to_install_one(libcuda: Path) -> None:
    both = ["cuda.bindings.driver", "pycuda.driver"]
    out = output_with(libcuda, CHOICE.format(missing=both))
    assert out.startswith("BackendError No CUDA for Python: cuda-bindings is not installed")
    assert "pycuda is not installed" in out
    assert "pip install 'vad-edge[cuda]'" in out
    assert out.count("\n") == 1


def test_the_one_that_is_named_is_not_replaced_by_another(libcuda: Path) -> None:
    code = CHOICE.format(missing=["pycuda.driver"])
    out = output_with(libcuda, code, VAD_CUDA="pycuda")
    assert out.startswith("BackendError No CUDA for Python: pycuda is not installed")
    assert "cuda-bindings" not in out


def test_a_package_that_does_not_load_is_told_apart_from_a_missing_one(
    libcuda: Path, tmp_path: Path
) -> None:
    package = tmp_path / "pycuda"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "driver.py").write_text("raise ImportError('libcurand.so.10: cannot open')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + CHOICE.format(missing=[])
    out = output_with(libcuda, code, VAD_CUDA="pycuda")
    assert "pycuda is installed but does not load (libcurand.so.10: cannot open)" in out


def test_another_name_is_refused(libcuda: Path) -> None:
    out = output_with(libcuda, CHOICE.format(missing=[]), VAD_CUDA="cupy")
    assert out == (
        "ConfigError VAD_CUDA=cupy is neither bindings nor pycuda. Correct or unset it.\n"
    )
