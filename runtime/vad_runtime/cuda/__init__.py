"""CUDA from Python: the driver probe, device memory, streams and graphs behind one small face.

`vad_runtime.cuda.driver` asks whether there is a GPU and needs no package. `open_cuda` gives a GPU
to work with, by cuda-bindings or pycuda; nothing of these is imported before.
"""

import importlib
import os
from typing import cast

from vad_runtime.contracts.errors import BackendError, ConfigError
from vad_runtime.cuda.base import Bytes, Cuda, Graph
from vad_runtime.cuda.driver import Gpu
from vad_runtime.cuda.graphs import GraphCache

__all__ = ["Bytes", "Cuda", "Gpu", "Graph", "GraphCache", "open_cuda"]

_INSTALL = "Install it with: pip install 'vad-edge[cuda]'"

# VAD_CUDA, the module, its class, and what people call the package. The first that loads is taken.
_BINDINGS = {
    "bindings": ("vad_runtime.cuda.bindings", "BindingsCuda", "cuda-bindings"),
    "pycuda": ("vad_runtime.cuda.pycuda", "PyCuda", "pycuda"),
}


def open_cuda(gpu: Gpu) -> Cuda:
    """Return a GPU to work with; the caller closes it.

    `VAD_CUDA=bindings` or `VAD_CUDA=pycuda` names the package to use. Otherwise it is
    cuda-bindings, and pycuda where only that is installed. A program that has a pycuda context of
    its own should set `VAD_CUDA=pycuda`: that context is used then, while cuda-bindings would make
    the GPU's primary context current in its place.

    Args:
        gpu: As `gpu_of` gives it.

    Raises:
        ConfigError: VAD_CUDA names something else.
        BackendError: None is installed, the one named does not load, or CUDA refused.
    """
    named = os.environ.get("VAD_CUDA") or None
    if named is not None and named not in _BINDINGS:
        raise ConfigError(f"VAD_CUDA={named} is neither bindings nor pycuda. Correct or unset it.")
    whys = []
    for choice in _BINDINGS if named is None else (named,):
        module, factory, package = _BINDINGS[choice]
        try:
            return cast(Cuda, getattr(importlib.import_module(module), factory)(gpu))
        except ModuleNotFoundError as error:
            whys.append(f"{package} is not installed (no module {error.name})")
        except (ImportError, OSError) as error:
            reason = (str(error).splitlines() or [""])[0]
            whys.append(f"{package} is installed but does not load ({reason})")
    raise BackendError(f"No CUDA for Python: {'; '.join(whys)}. {_INSTALL}")
