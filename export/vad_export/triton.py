"""A model repository for the Triton inference server, from a bundle.

::

    REPO/NAME/config.pbtxt       what the model takes and gives; batching; scoring in `parameters`
    REPO/NAME/1/model.onnx       a version: the graph, or model.plan for a TensorRT engine
    REPO/NAME/2/model.onnx       the next one, beside it

A server may look at the repository at any moment, so a version appears whole or not at all: it is
copied to a name that is no number, which Triton passes over, and renamed.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from vad_export.triton_config import TritonConfig, config_text, interface_text
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import Artefact, ExportError, InputError, Precision
from vad_runtime.engines.fit import rebuild_command, require_whole
from vad_runtime.engines.plan_file import read_header, read_sidecar
from vad_runtime.files import flush_to_disk, locked, put_in_place, whole_file

CONFIG = "config.pbtxt"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FILE = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}


@dataclass(frozen=True, kw_only=True)
class TritonSettings:
    """What the model repository shall hold."""

    name: str | None = None
    """Of the model; None = the bundle's name without its ending."""

    version: int | None = None
    """Number of the version; None = the next one."""

    precision: Precision = "fp32"
    """Which graph of the bundle; a plan has its own."""

    plan: Path | None = None
    """A TensorRT plan that was built from the bundle; None = the graph, with ONNX Runtime."""

    max_batch: int = 8
    """Most clips in one run."""

    delay_ms: float = 5.0
    """How long the first clip of a batch waits for others, milliseconds."""

    overwrite: bool = False
    """Replace the version if it is there."""


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """What was written."""

    folder: Path
    """REPO/NAME."""
    version: int
    config: TritonConfig
    notes: tuple[str, ...]
    """What the operator should know, a line each."""


def triton_from_bundle(bundle: Bundle, repository: Path, settings: TritonSettings) -> TritonModel:
    """Write a version of a model into a Triton model repository.

    Args:
        bundle: An opened bundle.
        repository: Folder of models, one folder each; made if it is not there.
        settings: Which graph or plan, name, version and batching.

    Raises:
        BackendError: The plan is damaged, or is none, or has no sidecar.
        ExportError: The bundle has no such graph, or the plan is not one that Triton runs or was
            not built from this bundle.
        InputError: The name is no model name, the version is there already, the model there takes
            or gives something else, or the folder cannot be written.
    """
    name = settings.name or bundle.path.resolve().stem
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a model: letters, digits, '_', '-' and '.' only. "
            "Choose one with --name."
        )
    config, source, notes = _chosen(bundle, name, settings)
    folder = repository / name
    try:
        with _alone(folder):
            version = settings.version or _next_version(folder)
            target = folder / str(version)
            if os.path.lexists(target) and not settings.overwrite:
                raise InputError(
                    f"{target} exists already. Leave out --version, or add --overwrite."
                )
            new = not _has_same_interface(folder, config)
            _write(folder, target, source, config, new=new)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder."
        ) from None
    return TritonModel(folder=folder, version=version, config=config, notes=notes)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the model's folder and let one process at a time add a version; no trace of a failure.

    Raises:
        OSError: The folder cannot be made.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            for old in folder.glob(".*.part"):  # of an export that was killed
                shutil.rmtree(old, ignore_errors=True)
            yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):  # not empty: another process has added a version
                folder.rmdir()
        raise


def _chosen(
    bundle: Bundle, name: str, settings: TritonSettings
) -> tuple[TritonConfig, Path, tuple[str, ...]]:
    """Return the configuration, the file to copy, and notes."""
    if settings.plan is not None:
        return _of_plan(bundle, name, settings, settings.plan)
    artefact = _artefact(bundle, settings.precision)
    config = _config(
        bundle,
        name,
        "onnxruntime",
        artefact,
        max_batch=settings.max_batch,
        delay_ms=settings.delay_ms,
        # ONNX Runtime's optimiser computes fp16 graphs with Q/DQ nodes wrongly (docs/precision.md).
        optimiser=artefact.precision != "mixed",
    )
    return config, bundle.file(artefact), ()


def _artefact(bundle: Bundle, precision: Precision) -> Artefact:
    found = bundle.manifest.artefact_of(precision)
    if found is None or precision == "bf16":
        have = ", ".join(bundle.manifest.artefacts)
        way_out = f"Make one with: vad-export quantise {bundle.path} --precision {precision}"
        if precision in ("fp32", "bf16"):
            way_out = "Export the bundle again, with an fp32 graph."
        raise ExportError(f"{bundle.name} has no {precision} graph (it has: {have}). {way_out}")
    return found[1]


def _of_plan(
    bundle: Bundle, name: str, settings: TritonSettings, plan: Path
) -> tuple[TritonConfig, Path, tuple[str, ...]]:
    header, sidecar = read_header(plan), read_sidecar(plan)
    if header.family != "tensorrt":
        raise ExportError(
            f"{plan} is a plan of TensorRT-RTX, which Triton does not run. Build one on the "
            f"server's GPU with: vad-export build-engine {bundle.path} --flavour tensorrt"
        )
    if header.offset:
        raise ExportError(
            f"{plan} has a wrapper in front of the plan, which Triton does not read. Build a plain "
            f"one with: vad-export build-engine {bundle.path}"
        )
    again = rebuild_command(bundle.path, sidecar, None)
    require_whole(plan, header, sidecar, again)
    artefact = _artefact(bundle, sidecar.precision)
    if sidecar.source_sha256 != artefact.sha256:
        raise ExportError(
            f"{plan} was built from another graph than {artefact.file} of {bundle.name}. "
            f"Build it again with: {again}"
        )
    sizes = _sizes(sidecar.batches, settings.max_batch)
    if not sizes:
        raise ExportError(
            f"{plan} runs batches of {_listed(sidecar.batches)} only, but Triton also sends single "
            f"clips. Build one with: vad-export build-engine {bundle.path} --precision "
            f"{sidecar.precision} --batch 1,2,3,4"
        )
    config = _config(
        bundle,
        name,
        "tensorrt",
        artefact,
        max_batch=len(sizes),
        delay_ms=settings.delay_ms,
        profiles=[sidecar.batches.index(size) for size in sizes],
        outputs=[tensor.name for tensor in sidecar.outputs],
        engine=f"TensorRT {sidecar.version}, SM {_listed(sidecar.sms)}",
    )
    gpus = "Ampere or later" if sidecar.hardware_compatible else f"SM {_listed(sidecar.sms)}"
    notes = [f"the server must have TensorRT {sidecar.version} and a GPU of {gpus}"]
    if sidecar.host_code:  # the lean runtime in the plan is how a later version runs it
        notes[0] = (
            f"the server must have TensorRT {sidecar.version} or a later "
            f"{sidecar.version.partition('.')[0]}.x, and be started with "
            "--backend-config=tensorrt,version-compatible=true"
        )
    left = [size for size in sidecar.batches if size not in sizes]
    if left:
        notes.append(
            f"profiles for batches of {_listed(left)} are not used: Triton sends every size up to "
            f"the largest, and each needs a profile"
        )
    return config, plan, tuple(notes)


def _sizes(batches: Sequence[int], most: int) -> list[int]:
    """Return 1, 2, 3, … as far as there is a profile for each: Triton sends any of them."""
    sizes: list[int] = []
    while len(sizes) < most and len(sizes) + 1 in batches:
        sizes.append(len(sizes) + 1)
    return sizes


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _config(
    bundle: Bundle,
    name: str,
    backend: Literal["onnxruntime", "tensorrt"],
    artefact: Artefact,
    *,
    max_batch: int,
    delay_ms: float,
    optimiser: bool = True,
    profiles: Sequence[int] = (),
    outputs: Sequence[str] | None = None,
    engine: str | None = None,
) -> TritonConfig:
    about = {
        "bundle": bundle.name,
        "artefact_sha256": artefact.sha256,
        "precision": artefact.precision,
        **({"engine": engine} if engine else {}),
        "clip": _json(bundle.manifest.clip),
        "score": _json(bundle.manifest.score),
        # Evidence is a report, not a setting.
        "scoring": _json(msgspec.structs.replace(bundle.manifest.scoring, evidence={})),
    }
    return TritonConfig(
        name=name,
        backend=backend,
        file=_FILE[backend],
        manifest=bundle.manifest,
        max_batch=max_batch,
        delay_ms=delay_ms,
        optimiser=optimiser,
        profiles=tuple(profiles),
        outputs=None if outputs is None else tuple(outputs),
        about=about,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _next_version(folder: Path) -> int:
    with contextlib.suppress(OSError):
        taken = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
        return max(taken, default=0) + 1
    return 1


def _has_same_interface(folder: Path, config: TritonConfig) -> bool:
    """Return whether there is a configuration; all versions of a model have to share it.

    Raises:
        InputError: It describes another back end, input or output.
    """
    file = folder / CONFIG
    try:
        text = file.read_text()
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file} cannot be read. Choose another model with --name.") from None
    if interface_text(config) not in text:
        raise InputError(
            f"{file} describes a model with another back end, input or outputs, and the versions "
            "of a model share one description. Choose another model with --name."
        )
    return True


def _write(folder: Path, target: Path, source: Path, config: TritonConfig, *, new: bool) -> None:
    """Put the version and the configuration in place, so that a server never sees a half."""
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=folder))
    try:
        work.chmod(0o755)  # the server may run as another user
        copy = work / config.file
        shutil.copyfile(source, copy)
        flush_to_disk(copy)
        if new:  # a version without a configuration would be guessed at
            _write_config(folder, config)
        put_in_place(work, target)
        _write_config(folder, config)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        if new:
            (folder / CONFIG).unlink(missing_ok=True)
        raise


def _write_config(folder: Path, config: TritonConfig) -> None:
    with whole_file(folder / CONFIG) as temporary:
        temporary.write_text(config_text(config))
