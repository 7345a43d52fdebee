"""The three things that a back end is: `device`, `infer`, `close`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.manifest import Manifest
from vad_runtime.ring import FrameRing

Clips = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]
Inputs = Clips | Features
Outputs = Mapping[str, npt.NDArray[np.float32]]
PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16", "int8", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a back end shall run. What it cannot honour it must refuse, not ignore."""

    precision: PrecisionChoice = "auto"
    """fp32, bf16: arithmetic of the fp32 graph. fp16, int8, mixed: that the graph is of this
    precision, as the registry sees to. `auto` = an fp32 graph, in bf16 where the processor has it
    and the bundle's parity report allows it."""

    threads: int | None = None
    """Processor threads for one clip; None = all that this process may use, or one where a GPU
    computes: more help only with what stays on the processor."""

    device: str = "auto"
    """`cpu`, `cuda` or `cuda:N`; `auto` = what the back end is for, on a GPU the first."""

    engine: Path | None = None
    """A TensorRT plan to run, or a folder of plans; None = those in the bundle's `engines/`."""

    rebuild: bool = False
    """Build a TensorRT plan from the bundle's graph where there is none that fits."""

    host_code: bool = False
    """Let a TensorRT plan run code of its own on the host. Only for plans that one trusts."""

    graphs: bool = True
    """Use CUDA graphs where they work."""


class Backend(Protocol):
    """Runs one graph of one bundle."""

    @property
    def device(self) -> str:
        """What really computes, for people: engine, version, processor, precision, threads."""

    def infer(self, clips: Inputs) -> Outputs:
        """Score clips, or the features of videos where the manifest has `features`.

        Args:
            clips: Shape (N, T, H, W, C), uint8, C-contiguous; or features of shape (N, S, D),
                float32, C-contiguous. Read before the call returns, never kept and never written.

        Returns:
            Output arrays by name, float32; the caller owns them. `score` is always among them.

        Raises:
            BackendError: The engine failed or its answer has another shape than the manifest's.
        """

    def close(self) -> None:
        """Free the engine. A second call does nothing."""


@runtime_checkable
class HasRing(Protocol):
    """A back end that has its clips sooner where their frames come one by one."""

    def ring(self) -> FrameRing:
        """Return an empty ring for one stream's clips; the back end owns it.

        Its `latest`, given to `infer`, needs no copy of the whole clip to where the engine runs.
        After `close` it goes on as a ring in host memory.

        Raises:
            BackendError: No memory for it.
        """


class BackendClass(Protocol):
    """How the registry makes a back end."""

    def __call__(self, file: Path, manifest: Manifest, options: Options) -> Backend:
        """Load the artefact at `file`.

        Raises:
            BackendError: The artefact does not load, or an option cannot be honoured.
        """
