"""TensorRT plan files as files: their header, their sidecar, their name. Needs no TensorRT.

A plan says little about itself, and TensorRT says "failed" about a wrong one, or ends the process.
So a file is looked at here first, and what it is instead of a plan has a message of its own.

Header, little endian. That TensorRT's version stands at byte 24, from 8.6 on, is NVIDIA's answer in
its issue tracker (NVIDIA/TensorRT, issue 3073). The rest was read off plans of TensorRT-RTX 1.7:

========  ================================================================================
bytes     what
========  ================================================================================
0-3       `ftrt` (TensorRT, lean and dispatch included) or `vtrt` (TensorRT for RTX)
16-23     RTX only: size of the whole plan in bytes
24-27     version, one number a byte: major, minor, patch, build
32-39     RTX only: the compute capabilities (see `TARGETS`), one a bit
========  ================================================================================

TensorRT's own plans do not say in their header which GPU they are for: the sidecar does.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vad_runtime.contracts import BackendError, EngineSidecar, PlanFamily, Precision
from vad_runtime.contracts.engine import sidecar_from_json

TARGETS = (75, 80, 86, 89, 120, 121)
"""What bits 0, 1, 2, … of the mask of a TensorRT-RTX plan stand for, as in `ComputeCapability`."""

LATER_BIT = len(TARGETS)
"""The bit after them: GPUs that came later. Set where a plan was built without named targets."""

ENGINE_FOLDER = "engines"
"""Folder of a bundle that plans lie in."""

BUILD = "vad-export build-engine BUNDLE"
"""The command to give where the bundle is not known."""

_FAMILIES: dict[bytes, PlanFamily] = {b"ftrt": "tensorrt", b"vtrt": "rtx"}
_HEADER = 40  # bytes, of the longer of the two
_HEAD = 4096  # bytes that tell a text from something else
_LONGEST_WRAPPER = 1 << 20  # metadata of a detector: names of its classes, a few KB
_ONNX_NEXT_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # ModelProto: producer_name to opset_import


@dataclass(frozen=True, kw_only=True)
class PlanHeader:
    """What a plan says about itself."""

    family: PlanFamily
    version: str
    """Of the library that built it: `10.3.0`, for TensorRT-RTX with the build: `1.7.1.116`."""
    size: int | None
    """Of the plan in bytes, as its header has it, which is the file's; None = it does not say."""
    sms: tuple[int, ...] | None
    """Compute capabilities it was built for; None = it does not say."""
    later_sms: bool
    """It also runs on GPUs that came after those."""
    offset: int = 0
    """Where the plan begins in the file, bytes: behind a wrapper that others wrote."""
    wrapper: dict[str, Any] | None = None
    """The metadata in front of it, as Ultralytics writes them; None = a plain plan."""


def read_header(file: str | Path, *, build: str = BUILD) -> PlanHeader:
    """Read the header of a plan.

    Args:
        file: A plan, plain or with Ultralytics' metadata in front.
        build: The command that builds one, for messages.

    Raises:
        BackendError: It is missing, a folder, unreadable, empty, a text, a graph, no plan, too
            short to be one, or not as long as its header says.
    """
    path = Path(file)
    try:
        # Opening a pipe would wait for whoever writes to it.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BackendError(f"{path} is no plain file, so no plan. Name a file.")
        with path.open("rb") as stream:
            total = path.stat().st_size
            head = stream.read(_HEAD)
            offset, wrapper = _wrapper(path, stream, head, total)
            stream.seek(offset)
            header = stream.read(_HEADER)
    except FileNotFoundError:
        raise BackendError(f"{path} does not exist. Build an engine with: {build}") from None
    except IsADirectoryError:
        raise BackendError(f"{path} is a folder, not a plan. Name a file in it.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise BackendError(
            f"{path} cannot be read ({reason}). Check its name and rights."
        ) from None
    family = _FAMILIES.get(header[:4])
    if family is None:
        raise BackendError(_what_else(path, head, header, wrapper is not None, build))
    if len(header) < _HEADER:
        raise BackendError(
            f"{path} has {len(header)} bytes, which is too short for a plan: it was cut off. "
            f"Copy it again, or build it with: {build}"
        )
    found = _decoded(header, family, offset, wrapper)
    _require_numbers(path, found, total - offset, build)
    return found


def _decoded(
    header: bytes, family: PlanFamily, offset: int, wrapper: dict[str, Any] | None
) -> PlanHeader:
    numbers = [str(number) for number in header[24:28]]
    if family == "tensorrt":
        # The library's own `__version__` has three numbers on a Jetson and four in a wheel.
        return PlanHeader(
            family=family,
            version=".".join(numbers[:3]),
            size=None,
            sms=None,
            later_sms=False,
            offset=offset,
            wrapper=wrapper,
        )
    (size,) = struct.unpack_from("<Q", header, 16)
    (mask,) = struct.unpack_from("<Q", header, 32)
    return PlanHeader(
        family=family,
        version=".".join(numbers),
        size=size,
        sms=_targets(mask),
        later_sms=bool(mask >> LATER_BIT & 1),
        offset=offset,
        wrapper=wrapper,
    )


def _require_numbers(path: Path, header: PlanHeader, length: int, build: str) -> None:
    """Refuse a header whose numbers cannot be right; `length` = bytes of the plan in the file."""
    again = f"Copy it again, or build it with: {build}"
    if set(header.version) <= {"0", "."}:
        raise BackendError(f"{path} names no version in its header: it is damaged. {again}")
    if header.size is None or header.size == length:
        return
    if length < header.size:
        raise BackendError(
            f"{path} was cut off: {length} of its {header.size} bytes are there. {again}"
        )
    raise BackendError(f"{path} has {length} bytes, its header says {header.size}. {again}")


def _targets(mask: int) -> tuple[int, ...] | None:
    if mask == 0 or mask >> (LATER_BIT + 1):
        return None  # a later TensorRT-RTX counts its targets in another way: claim nothing
    return tuple(sm for bit, sm in enumerate(TARGETS) if mask >> bit & 1)


def _wrapper(
    path: Path, stream: BinaryIO, head: bytes, total: int
) -> tuple[int, dict[str, Any] | None]:
    """Return where the plan begins, and the metadata in front of it.

    Ultralytics writes the length of a JSON text (signed, 4 bytes), the text, and then the plan.
    """
    if len(head) < 5 or head[4:5] != b"{":
        return 0, None
    (length,) = struct.unpack_from("<i", head)
    if not 2 <= length <= min(_LONGEST_WRAPPER, total - 4):
        return 0, None
    stream.seek(4)
    try:
        found = json.loads(stream.read(length))
    except (ValueError, RecursionError):
        raise BackendError(
            f"{path} begins like an engine of Ultralytics, but its metadata are damaged. "
            "Export it again there."
        ) from None
    return 4 + length, found


def _what_else(path: Path, head: bytes, header: bytes, wrapped: bool, build: str) -> str:
    """Return the message about a file that is no plan."""
    if not head:
        return f"{path} is empty, not a plan. Build it with: {build}"
    if wrapped:
        return f"{path} has metadata of Ultralytics and no plan behind them. Export it again there."
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of Git LFS, not the plan itself. Get it with: git lfs pull"
    if looks_like_onnx(head):
        return (
            f"{path} is an ONNX graph, not a plan, whatever its name says. "
            f"Engines are built from bundles: {build}"
        )
    if _is_text(head):
        if path.name.endswith(".engine.json"):
            return f"{path} is the sidecar of an engine. Name the engine: {path.name[:-5]}"
        return f"{path} is a text file, not a plan. Build an engine with: {build}"
    if header[1:4] == b"trt":
        return (
            f"{path} is a plan of a TensorRT that this vad-edge does not know (it begins with "
            f"{header[:4]!r}). Build it with: {build}"
        )
    return f"{path} is no TensorRT plan (it begins with {head[:4]!r}). Build one with: {build}"


def looks_like_onnx(head: bytes) -> bool:
    """Tell an ONNX graph by its first bytes: `ir_version`, then one of the fields that follow."""
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 0x20 and head[2] in _ONNX_NEXT_FIELDS


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and len(head) == _HEAD  # a character cut in two
    return True


def sidecar_path(plan: str | Path) -> Path:
    """Return where the sidecar of a plan lies: `PLAN.json`, beside it."""
    path = Path(plan)
    return path.with_name(f"{path.name}.json")


def read_sidecar(
    plan: str | Path, *, header: PlanHeader | None = None, build: str = BUILD
) -> EngineSidecar:
    """Read the sidecar of a plan.

    Args:
        plan: The plan.
        header: What `read_header` gave; a plan that others wrote gets another message.
        build: The command that builds one, for messages.

    Raises:
        BackendError: There is none, or it cannot be read or understood.
    """
    path = sidecar_path(plan)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if header is not None and header.wrapper is not None:
            raise BackendError(
                f"{plan} is an engine that Ultralytics wrote, and vad-run runs engines of its "
                f"bundles only. Build one with: {build}"
            ) from None
        raise BackendError(
            f"{plan} has no sidecar ({path.name}), so nothing says what it was made from and where "
            f"it may run. Copy both files, or build it with: {build}"
        ) from None
    except OSError as error:
        raise BackendError(f"{path} cannot be read ({error.strerror}). Check its rights.") from None
    return sidecar_from_json(text, str(path))


def engine_name(
    *,
    stem: str,
    batches: Sequence[int],
    clip_shape: tuple[int, int, int] | None = None,
    features: tuple[int, int] | None = None,
    precision: Precision,
    family: PlanFamily,
    version: str,
    sms: Sequence[int],
    later_sms: bool = False,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
) -> str:
    """Return the file name of a plan, which says where it fits.

    For example `model.b1.t16.112.fp16.trt10.3.0.sm87.engine`,
    `model.b1-4.t16.112x160.int8.rtx1.7.1.116.sm80plus.engine` and
    `head.b1.s32.2048.fp32.trt10.3.0vc.sm86.engine`.

    Args:
        stem: Name of the graph, without its endings.
        batches: Clips that one inference takes, one number for each optimisation profile.
        clip_shape: Frames, height and width of a clip, pixels.
        features: In place of a clip: segments of a video, and numbers in each one's feature.
        precision: Of the graph.
        family: Whose plan it is.
        version: Of the library that builds it.
        sms: Compute capabilities it is built for; at least one.
        later_sms: It also runs on GPUs that came after those.
        version_compatible: The lean runtime loads it too.
        hardware_compatible: GPUs from Ampere on run it.

    Raises:
        ValueError: Neither a clip nor features, or both; no batch; no compute capability.
    """
    if (clip_shape is None) == (features is None):
        raise ValueError("a plan takes either clips or features")
    if not batches or not (sms or hardware_compatible):
        raise ValueError("a plan has a batch and a compute capability")
    if clip_shape is not None:
        frames, height, width = clip_shape
        shape = f"t{frames}.{height}" if height == width else f"t{frames}.{height}x{width}"
    else:
        assert features is not None
        shape = f"s{features[0]}.{features[1]}"
    if hardware_compatible:
        where = "sm80plus"
    else:
        where = f"sm{min(sms)}plus" if later_sms else "sm" + "-".join(map(str, sorted(sms)))
    library = f"{'trt' if family == 'tensorrt' else 'rtx'}{version}"
    library += "vc" if version_compatible else ""
    batch = "b" + "-".join(map(str, batches))
    return ".".join([stem, batch, shape, precision, library, where, "engine"])
