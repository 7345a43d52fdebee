"""The CUDA module on a real GPU, by each package that is installed."""

import importlib
import os
from collections.abc import Callable
from typing import NoReturn

import cuda_scenarios
import pytest

from vad_runtime.contracts import NoDriverError
from vad_runtime.cuda import Cuda, Gpu, open_cuda
from vad_runtime.cuda.driver import driver, free_memory, gpu_of

pytestmark = pytest.mark.cuda

PACKAGES = {"bindings": "cuda.bindings.driver", "pycuda": "pycuda.driver"}


def missing(reason: str, *, required: bool = True) -> NoReturn:
    if required and os.environ.get("VAD_REQUIRE_CUDA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    """The first GPU; skips without one, fails without one under VAD_REQUIRE_CUDA=1."""
    try:
        return gpu_of("auto")
    except NoDriverError as error:
        missing(str(error))


def opened(adapter: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    try:
        importlib.import_module(PACKAGES[adapter])
    except ImportError as error:
        missing(str(error), required=adapter == "bindings")
    monkeypatch.setenv("VAD_CUDA", adapter)
    return open_cuda(gpu)


@pytest.mark.parametrize("adapter", PACKAGES)
@pytest.mark.parametrize("scenario", cuda_scenarios.EVERYWHERE, ids=lambda s: s.__name__)
def test_it_does_on_a_gpu_what_it_does_on_the_fake_driver(
    scenario: Callable[[Cuda], None],
    adapter: str,
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = opened(adapter, gpu, monkeypatch)
    try:
        scenario(cuda)
    finally:
        cuda.close()


def test_what_the_driver_says_makes_sense(gpu: Gpu) -> None:
    said = driver()
    assert int(said.cuda.split(".")[0]) >= 11
    assert 50 <= gpu.sm <= 200
    assert gpu.name
    assert len(gpu.uuid) == len("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f")
    free, total = free_memory(gpu)
    assert 0 < free <= total
    assert abs(total - gpu.memory_bytes) < 0.1 * gpu.memory_bytes


def test_closing_gives_the_memory_back(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(nbytes: int) -> None:
        cuda = opened("bindings", gpu, monkeypatch)
        cuda.allocate(nbytes)
        cuda.close()

    use(1)
    before = free_memory(gpu)[0]
    for _ in range(5):
        use(256 << 20)
    assert before - free_memory(gpu)[0] < 256 << 20  # others use the GPU too
