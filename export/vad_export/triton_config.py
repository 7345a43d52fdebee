"""The text of Triton's `config.pbtxt`: the protobuf message `ModelConfig` in text form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vad_runtime.contracts import Manifest

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "float16": "TYPE_FP16"}


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """What a configuration says."""

    name: str
    backend: Literal["onnxruntime", "tensorrt"]
    file: str
    """Name of the model's file in the folder of a version."""
    manifest: Manifest
    max_batch: int
    delay_ms: float
    optimiser: bool = True
    """Let ONNX Runtime rewrite the graph."""
    profiles: tuple[int, ...] = ()
    """Optimisation profiles of a plan, for batches of 1, 2, 3, …"""
    outputs: tuple[str, ...] | None = None
    """Those that the model has beside `score`; None = all of the manifest."""
    about: Mapping[str, str]
    """Texts for `parameters`, which clients can ask the server for."""


def config_text(config: TritonConfig) -> str:
    """Return the whole file."""
    parts = [
        "# Written by `vad-export triton`; the next export of this model writes it again.",
        f"name: {_quoted(config.name)}",
        interface_text(config).rstrip("\n"),
        f"max_batch_size: {config.max_batch}",
    ]
    if config.max_batch > 1:
        delay_us = round(config.delay_ms * 1000)
        parts.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}")
    if config.profiles:
        listed = ", ".join(_quoted(str(profile)) for profile in config.profiles)
        parts.append(f"instance_group [ {{ count: 1 kind: KIND_GPU profile: [ {listed} ] }} ]")
    if not config.optimiser:
        # Triton's level 2 is "all optimisations off" (its README of the ONNX Runtime back end).
        parts.append("optimization { graph { level: 2 } }")
    parts += [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(text)} }} }}"
        for key, text in config.about.items()
    ]
    return "\n".join(parts) + "\n"


def interface_text(config: TritonConfig) -> str:
    """Return the part that every version of a model has to share: back end, input and outputs."""
    manifest = config.manifest
    kind = "uint8" if manifest.features is None else "float32"
    lines = [
        f"backend: {_quoted(config.backend)}",
        f"default_model_filename: {_quoted(config.file)}",
        f"input [ {_tensor(manifest.input_name, kind, manifest.input_shape)} ]",
    ]
    # A score of shape (N,) leaves no dimension beside the batch, but `dims` must not be empty:
    # clients see (N, 1), and the reshape says what the graph gives.
    score: Sequence[int] = () if manifest.score.per == "clip" else (manifest.score.count,)
    outputs = [_tensor("score", "float32", score)]
    kept = [o for o in manifest.outputs if config.outputs is None or o.name in config.outputs]
    for output in kept:
        dims = [dim if isinstance(dim, int) else -1 for dim in output.shape[1:]]
        outputs.append(_tensor(output.name, output.dtype, dims))
    lines += ["output [", ",\n".join(f"  {tensor}" for tensor in outputs), "]"]
    return "\n".join(lines) + "\n"


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> str:
    """Return one input or output; `shape` is without the batch."""
    dims = ", ".join(map(str, shape)) if shape else "1"
    reshape = "" if shape else " reshape { shape: [ ] }"
    kind = _TYPES.get(dtype, f"TYPE_{dtype.upper()}")
    return f"{{ name: {_quoted(name)} data_type: {kind} dims: [ {dims} ]{reshape} }}"


def _quoted(text: str) -> str:
    """Return a string of the text format: plain ASCII, everything else as octal bytes."""
    out = []
    for byte in text.encode():
        char = chr(byte)
        if char in '"\\':
            out.append("\\" + char)
        elif 32 <= byte < 127:
            out.append(char)
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'
