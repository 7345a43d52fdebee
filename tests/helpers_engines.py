"""Plans for tests that run them: built with a (fake) library through the adapter, with sidecars."""

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vad_runtime.bundle import Bundle
from vad_runtime.contracts import EngineSidecar, Precision
from vad_runtime.contracts.engine import json_from_sidecar
from vad_runtime.engines.adapter import TensorRt
from vad_runtime.engines.plan_file import read_header, sidecar_path


def built_plan(
    lib: TensorRt,
    bundle: Bundle,
    *,
    batches: Sequence[int] = (1,),
    precision: Precision = "fp32",
    flags: Sequence[str] = (),
    name: str = "model.engine",
    folder: Path | None = None,
    **changes: Any,
) -> Path:
    """Build a bundle's graph and write plan and sidecar.

    Args:
        lib: What builds.
        bundle: Whose graph.
        batches: One profile each.
        precision: Of the graph.
        flags: Builder flags to set.
        name: File name of the plan.
        folder: Where to; None = the bundle's `engines/`.
        changes: Keys of the sidecar to say something else.

    Returns:
        The plan.
    """
    found = bundle.manifest.artefact_of(precision)
    assert found is not None
    artefact = found[1]
    builder = lib.builder()
    network = lib.network(builder)
    assert lib.parse(builder, network, bundle.file(artefact)) == []
    config = lib.config(builder)
    for flag in flags:
        assert lib.set_flag(config, flag)
    for batch in batches:
        shape = (batch, *bundle.manifest.input_shape)
        lib.add_profile(builder, config, bundle.manifest.input_name, shape)
    inputs, outputs = lib.tensors_of(network)
    plan = bytes(lib.build(builder, network, config))
    place = folder or bundle.path / "engines"
    place.mkdir(parents=True, exist_ok=True)
    path = place / name
    path.write_bytes(plan)
    header = read_header(path)
    about: dict[str, Any] = {
        "file": name,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "bytes": len(plan),
        "family": header.family,
        "version": lib.version,
        "architecture": platform.machine(),
        "sms": list(header.sms or (lib.trt.fake_settings.sm,)),
        "later_sms": header.later_sms,
        "version_compatible": "VERSION_COMPATIBLE" in flags,
        "host_code": "VERSION_COMPATIBLE" in flags and "EXCLUDE_LEAN_RUNTIME" not in flags,
        "precision": precision,
        "source": artefact.file,
        "source_sha256": artefact.sha256,
        "inputs": inputs,
        "outputs": outputs,
        "batches": list(batches),
    }
    sidecar_path(path).write_bytes(json_from_sidecar(EngineSidecar(**(about | changes))))
    return path
