"""What ONNX Runtime's TensorRT provider needs around it: the library, a cache, true fp32."""

import contextlib
import ctypes
import hashlib
import importlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vad_runtime.bundle import sha256_of_graph
from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.cuda.driver import Gpu, driver
from vad_runtime.files import cache_folder

_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


def tensorrt_version(folder: Path) -> str:
    """Load the TensorRT that a provider was linked with, and return its version.

    Args:
        folder: Where the provider's library lies.

    Returns:
        As its `getInferLibVersion` has it, `100300` for 10.3.0; `unknown` where the provider does
        not say what it wants.

    Raises:
        BackendError: That TensorRT is not here.
    """
    try:
        content = (folder / "libonnxruntime_providers_tensorrt.so").read_bytes()
    except OSError:
        return "unknown"
    found = re.search(rb"libnvinfer\.so\.(\d+)", content)
    if found is None:
        return "unknown"
    name, major = found[0].decode(), found[1].decode()
    # pip puts TensorRT where the loader does not look. Importing it loads it for ONNX Runtime too.
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        importlib.import_module("tensorrt")
    try:
        return str(ctypes.CDLL(name).getInferLibVersion())
    except (OSError, AttributeError) as error:
        raise BackendError(
            f"onnxruntime-tensorrt needs TensorRT {major}, which does not load ({error}). Install "
            f"it with: pip install 'tensorrt=={major}.*'"
        ) from None


def engine_cache(file: Path, manifest: Manifest, gpu: Gpu, versions: Sequence[str]) -> Path:
    """Return the folder for a graph's engines, made where it was not there.

    The provider names an engine after the graph and its nodes, and not after the weights, so
    everything that an engine depends on is in the name of its folder.

    Args:
        file: The graph.
        manifest: Its manifest, which knows its hash.
        gpu: What it runs on.
        versions: Of the libraries that build and run it.

    Raises:
        BackendError: It cannot be made.
    """
    known = driver()
    facts = [
        sha256_of_graph(file, manifest),
        gpu.uuid,
        gpu.name,
        str(gpu.sm),
        known.cuda,
        str(known.kernel),
        *versions,
    ]
    facts.append(os.environ.get(_OVERRIDE, "0"))  # see fp32_stays_fp32
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]
    folder = cache_folder("onnxruntime-trt") / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"{folder} cannot be made ({error.strerror}), and onnxruntime-tensorrt keeps its "
            "engines there. Name a folder that can be written: VAD_CACHE=FOLDER"
        ) from None
    return folder


def cleared(folder: Path) -> bool:
    """Remove the engines of a cache; return whether there were any."""
    engines = [*folder.glob("*.engine"), *folder.glob("*.profile"), *folder.glob("*.timing")]
    for engine in engines:
        engine.unlink(missing_ok=True)
    return bool(engines)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build into a cache.

    Raises:
        BackendError: The folder cannot be written.
    """
    import fcntl  # POSIX, as everything with a GPU here

    try:
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise BackendError(
            f"{folder} cannot be written ({error.strerror}). "
            "Name a folder that can: VAD_CACHE=FOLDER"
        ) from None
    with lock:  # closing it gives the lock back
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def fp32_stays_fp32() -> Iterator[None]:
    """Keep TensorRT from rounding fp32 to TF32 in what is built inside.

    The provider has no setting for it. NVIDIA's libraries all read this variable (TensorRT
    Developer Guide, "TF32"). A user's own value is kept.
    """
    if _OVERRIDE in os.environ:
        yield
        return
    os.environ[_OVERRIDE] = "0"
    try:
        yield
    finally:
        os.environ.pop(_OVERRIDE, None)
