"""Plan files and sidecars made by hand, and machines to compare them with. Needs no TensorRT."""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vad_runtime.contracts import EngineSidecar, EngineTensor
from vad_runtime.contracts.engine import json_from_sidecar
from vad_runtime.cuda.driver import Gpu
from vad_runtime.engines.fit import Machine
from vad_runtime.engines.plan_file import TARGETS, sidecar_path

GRAPH_SHA256 = "ab" * 32


def classic_plan(version: Sequence[int] = (10, 3, 0, 26), *, length: int = 600) -> bytes:
    """Return bytes with the header of a TensorRT plan."""
    return (b"ftrt" + bytes(20) + bytes(version)).ljust(length, b"\x5a")


def rtx_plan(
    version: Sequence[int] = (1, 7, 1, 116),
    *,
    sms: Sequence[int] = (80, 86, 89, 120, 121),
    later: bool = True,
    mask: int | None = None,
    length: int = 600,
) -> bytes:
    """Return bytes with the header of a TensorRT-RTX plan, as version 1.7 writes it."""
    bits = sum(1 << TARGETS.index(sm) for sm in sms) | (later << len(TARGETS))
    header = b"vtrt" + bytes(4) + struct.pack("<QQ", 2, length) + bytes(version) + b"vtrt"
    return (header + struct.pack("<Q", bits if mask is None else mask)).ljust(length, b"\x5a")


def wrapped(plan: bytes, about: Any) -> bytes:
    """Put metadata in front of a plan as Ultralytics does."""
    text = json.dumps(about).encode()
    return struct.pack("<i", len(text)) + text + plan


def engine_sidecar(plan: bytes, name: str = "model.engine", **changes: Any) -> EngineSidecar:
    """Return the sidecar of a plan that was built for an Orin, or for RTX where it is one."""
    rtx = plan.startswith(b"vtrt")
    about = EngineSidecar(
        file=name,
        sha256=hashlib.sha256(plan).hexdigest(),
        bytes=len(plan),
        family="rtx" if rtx else "tensorrt",
        version="1.7.1.116" if rtx else "10.3.0",
        architecture="x86_64" if rtx else "aarch64",
        sms=[80, 86, 89, 120, 121] if rtx else [87],
        later_sms=rtx,
        gpu=None if rtx else "Orin",
        cuda=None if rtx else "12.6",
        l4t=None if rtx else "36.4.0",
        precision="fp16",
        source="model.fp16.onnx",
        source_sha256=GRAPH_SHA256,
        inputs=[EngineTensor(name="clip", dtype="uint8", shape=[-1, 8, 32, 32, 1])],
        outputs=[EngineTensor(name="score", dtype="float32", shape=[-1, 8])],
        batches=[1],
    )
    return msgspec.structs.replace(about, **changes)


def write_engine(folder: Path, name: str, plan: bytes, **changes: Any) -> Path:
    """Write a plan and its sidecar; `changes` are keys of the sidecar."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(plan)
    sidecar_path(path).write_bytes(json_from_sidecar(engine_sidecar(plan, name, **changes)))
    return path


def gpu(sm: int = 87, name: str = "Orin", **changes: Any) -> Gpu:
    """Return a GPU that is not there."""
    values: dict[str, Any] = {
        "index": 0,
        "name": name,
        "sm": sm,
        "memory_bytes": 8 << 30,
        "integrated": sm == 87,
        "uuid": "GPU-00000000",
    }
    return Gpu(**{**values, **changes})


def jetson(**changes: Any) -> Machine:
    """Return a Jetson Orin with JetPack 6, as far as `changes` leave it one."""
    values: dict[str, Any] = {
        "gpu": gpu(),
        "cuda": "12.6",
        "kernel": "540.4.0",
        "l4t": "36.4.0",
        "architecture": "aarch64",
        "libraries": {"tensorrt": "10.3.0"},
        "missing": {"rtx": "TensorRT-RTX is not installed. Install it."},
    }
    return Machine(**{**values, **changes})


def desktop(**changes: Any) -> Machine:
    """Return a desktop computer with TensorRT-RTX, as far as `changes` leave it one."""
    values: dict[str, Any] = {
        "gpu": gpu(89, "GeForce RTX 4090"),
        "cuda": "13.0",
        "kernel": "580.65.06",
        "architecture": "x86_64",
        "libraries": {"rtx": "1.7.1.116"},
        "missing": {"tensorrt": "TensorRT is not installed. Install it."},
    }
    return Machine(**{**values, **changes})
