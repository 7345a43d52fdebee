"""What calibration runs a graph on: inputs that come one at a time, again and again the same."""

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from vad_runtime.backends.base import Inputs
from vad_runtime.contracts import InputError

__all__ = ["ArrayInputs", "InputSet", "Inputs"]


class InputSet(Protocol):
    """Inputs of a graph, one at a time; every iteration gives the same ones in the same order."""

    @property
    def key(self) -> str:
        """SHA-256, hexadecimal, of everything that the inputs follow from."""

    def __len__(self) -> int:
        """Return how many inputs an iteration gives."""

    def __iter__(self) -> Iterator[Inputs]:
        """Yield arrays of one input each, shape (1, …), C-contiguous; the caller owns them."""


class ArrayInputs:
    """Inputs that are in memory already.

    Args:
        array: Shape (N, …), N at least 1: uint8 clips or float32 features. Kept, not copied where
            it is C-contiguous, and never written.

    Raises:
        InputError: There is no input in it.
    """

    def __init__(self, array: Inputs) -> None:
        if array.ndim < 2 or not len(array):
            raise InputError(
                f"an array of shape {array.shape} holds no inputs. Give one of shape (N, ...) with "
                "at least one input."
            )
        self._array = np.ascontiguousarray(array)

    @property
    def key(self) -> str:
        """SHA-256, hexadecimal, of the array's type, shape and bytes."""
        digest = hashlib.sha256(f"{self._array.dtype.str} {self._array.shape}".encode())
        digest.update(self._array.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return N."""
        return len(self._array)

    def __iter__(self) -> Iterator[Inputs]:
        """Yield copies of shape (1, …), C-contiguous; the caller owns them."""
        for i in range(len(self._array)):
            yield self._array[i : i + 1].copy()
