"""The sidecar of a TensorRT plan: what it is, what it was made from, and where it may run.

A plan is a plain file, so that trtexec and DeepStream read it too; what it does not say about
itself stands beside it in `PLAN.engine.json`. Without its sidecar a plan is not loaded.
"""

from typing import Annotated, Any, Literal

import msgspec

from vad_runtime.contracts.errors import BackendError
from vad_runtime.contracts.manifest import Precision

ENGINE_SCHEMA = 1
"""The sidecar schema that this version writes, and the newest that it reads."""

PlanFamily = Literal["tensorrt", "rtx"]
"""Which library's plans: TensorRT (lean and dispatch included) or TensorRT for RTX."""


class EngineTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input or output of a plan."""

    name: str
    dtype: str
    """As NumPy calls it: `uint8`, `float32`."""
    shape: list[int]
    """-1 = the batch."""


class EngineSidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `PLAN.engine.json`."""

    schema: int = ENGINE_SCHEMA
    file: str
    """Name of the plan, beside the sidecar."""
    sha256: str
    """Of the plan."""
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    family: PlanFamily
    version: str
    """Of the library that built it, as its `__version__` says: `10.3.0`, `1.7.1.116`."""
    architecture: str
    """Processor of the machine it is for: `x86_64`, `aarch64`."""
    sms: list[int]
    """Compute capabilities it was built for: [87]; several for TensorRT-RTX."""
    later_sms: bool = False
    """It also runs on GPUs that came after these (TensorRT-RTX without named targets)."""
    gpu: str | None = None
    """Name of the GPU it was built on; None = built without one (TensorRT-RTX)."""
    cuda: str | None = None
    """Newest CUDA version that the driver of the build machine knew: `12.6`; None = no driver."""
    l4t: str | None = None
    """Jetson Linux of the build machine: `36.4.0`; None = no Jetson."""
    version_compatible: bool = False
    """The lean runtime of its version loads it; with `host_code`, later versions of the same major
    version do so too."""
    hardware_compatible: bool = False
    """GPUs from Ampere on run it, not only those it was built on."""
    host_code: bool = False
    """It carries code for the host (a lean runtime), which is run only when that is allowed."""
    precision: Precision
    """Of the graph that it was built from."""
    source: str
    """File name of that graph."""
    source_sha256: str
    inputs: list[EngineTensor]
    outputs: list[EngineTensor]
    batches: list[int]
    """One optimisation profile each, in this order: how many inputs run at once."""
    options: dict[str, Any] = {}
    """As they were asked for: workspace, level, TF32, DLA, …"""
    build: dict[str, Any] = {}
    """What was measured: seconds, peak memory, layers, and versions of the tools."""
    created: str = ""
    """ISO 8601 time of the build, UTC."""


def sidecar_from_json(text: bytes, where: str) -> EngineSidecar:
    """Read a sidecar strictly.

    Args:
        text: UTF-8 JSON.
        where: Name of the file, for messages.

    Raises:
        BackendError: Not JSON, a newer schema, an unknown or missing key, a wrong type.
    """
    again = "Build the engine again with: vad-export build-engine"
    try:
        head = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendError(f"{where}: not JSON ({error}). {again}") from None
    schema = head.get("schema") if isinstance(head, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise BackendError(f"{where}: no schema number, so no sidecar of an engine. {again}")
    if schema > ENGINE_SCHEMA:
        raise BackendError(
            f"{where}: engine schema {schema}, but this vad-edge reads up to {ENGINE_SCHEMA}. "
            "Upgrade with: pip install -U vad-edge"
        )
    try:
        return msgspec.convert(head, EngineSidecar)
    except (msgspec.ValidationError, ValueError) as error:
        raise BackendError(f"{where}: {error}. {again}") from None


def json_from_sidecar(sidecar: EngineSidecar) -> bytes:
    """Return the sidecar as indented UTF-8 JSON that ends with a newline."""
    return msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
