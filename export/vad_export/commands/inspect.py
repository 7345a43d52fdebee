"""`vad-export inspect`."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from vad_runtime.bundle import MANIFEST, Bundle
from vad_runtime.contracts import (
    BackendError,
    EngineSidecar,
    EngineTensor,
    NoDriverError,
    VadError,
)
from vad_runtime.cuda.driver import gpu_of
from vad_runtime.engines import fit as fits
from vad_runtime.engines.adapter_base import TITLES
from vad_runtime.engines.plan_file import (
    BUILD,
    ENGINE_FOLDER,
    PlanHeader,
    looks_like_onnx,
    read_header,
    read_sidecar,
)

_PATH = click.Path(path_type=Path)
_MEGA = 1e6
_LABEL = 10  # columns of "built for"
_SHORT = 12  # digits of a sha256 that tell files apart for a person


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What was found about one file."""

    path: Path
    kind: str
    """plan, graph, or unusable."""
    header: PlanHeader | None = None
    sidecar: EngineSidecar | None = None
    problems: tuple[str, ...] = ()
    """Why it is not to be used anywhere as it is, each one line."""
    differences: tuple[fits.Difference, ...] = ()
    """In what it does not go with this machine."""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        """Whether it can be run here, as far as can be known; None for a graph."""
        return None if self.kind == "graph" else not (self.problems or self.differences)


@click.command("inspect")
@click.argument("paths", nargs=-1, required=True, type=_PATH, metavar="PATH...")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="The GPU to compare with: auto, cuda or cuda:N.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, paths: tuple[Path, ...], device: str, as_json: bool) -> None:
    """Tell what engines are, where they fit, and in what they differ from this machine.

    PATH is a plan, a bundle (all plans in it), a folder of plans, or an ONNX graph. Nothing is
    loaded, so that neither a GPU nor TensorRT is needed.

    Exit code 1 where a plan does not fit here or cannot be used at all.
    """
    if device != "auto":  # one that is named has to be there
        try:
            gpu_of(device)
        except NoDriverError as error:
            step = "or leave out --device to compare the rest"
            raise NoDriverError(error.reason, step) from None
    machine = fits.this_machine(device)
    found = [one for path in paths for one in inspected(path, machine)]
    if as_json:
        click.echo(json.dumps(document_of(found, machine), indent=2))
    else:
        for one in found:
            for line in lines_of(one, machine):
                click.echo(line)
            if one.kind == "unusable":
                click.echo(f"Error: {' '.join(one.problems[0].split())}", err=True)
        for line in machine_lines(machine):
            click.echo(line)
        for path in paths:
            if not any(_belongs(one, path) for one in found):
                click.echo(
                    f"{path} holds no engine. Build one with: {_rebuild(path, None, machine)}"
                )
    if any(one.fits is False for one in found):
        ctx.exit(1)


def inspected(path: Path, machine: fits.Machine) -> Iterator[Inspected]:
    """Look at a plan, at every plan of a folder or bundle, or at a graph.

    Args:
        path: What the user named.
        machine: What to compare with.
    """
    if path.is_dir():
        plans = fits.engines_of(path)
        if (path / MANIFEST).exists() or not plans:
            try:
                Bundle.open(path, verify=False)
            except VadError as error:
                yield Inspected(path=path, kind="unusable", problems=(str(error),))
                return
            plans = fits.engines_of(path / ENGINE_FOLDER)
        for plan in plans:
            yield _plan(plan, machine)
    elif path.suffix == ".onnx" and _is_graph(path):
        yield Inspected(path=path, kind="graph")
    else:
        yield _plan(path, machine)


def _is_graph(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return looks_like_onnx(stream.read(16))
    except OSError:
        return False


def _plan(path: Path, machine: fits.Machine) -> Inspected:
    bundle = _bundle_of(path)
    former = None
    with contextlib.suppress(BackendError):  # a damaged plan may have a sidecar that says how
        former = read_sidecar(path)
    build = _rebuild(bundle.path, former, machine) if bundle else BUILD
    try:
        header = read_header(path, build=build)
    except BackendError as error:
        return Inspected(path=path, kind="unusable", problems=(str(error),))
    try:
        sidecar = read_sidecar(path, header=header, build=build)
    except BackendError as error:
        return Inspected(path=path, kind="plan", header=header, problems=(str(error),))
    problems = []
    rebuild = _rebuild(bundle.path if bundle else None, sidecar, machine)
    try:
        fits.require_whole(path, header, sidecar, rebuild)
    except BackendError as error:
        problems.append(str(error))
    graphs = [artefact.sha256 for artefact in bundle.manifest.artefacts.values()] if bundle else []
    if bundle is not None and sidecar.source_sha256 not in graphs:
        problems.append(
            f"{path} was built from another {sidecar.source} than {bundle.path} holds now. "
            f"Build it again with: {rebuild}"
        )
    return Inspected(
        path=path,
        kind="plan",
        header=header,
        sidecar=sidecar,
        problems=tuple(problems),
        differences=tuple(fits.differences(sidecar, machine)),
        notes=tuple(fits.notes(sidecar, machine)),
    )


def _bundle_of(plan: Path) -> Bundle | None:
    """Return the bundle in whose `engines` a plan lies; None = it lies elsewhere."""
    folder = plan.absolute().parent
    if folder.name != ENGINE_FOLDER or not (folder.parent / MANIFEST).exists():
        return None
    # As the user wrote it, so that the command to type is short.
    named = plan.parent.parent if plan.parent.name == ENGINE_FOLDER else folder.parent
    try:
        return Bundle.open(named, verify=False)
    except VadError:
        return None


def _rebuild(bundle: Path | None, sidecar: EngineSidecar | None, machine: fits.Machine) -> str:
    return fits.rebuild_command(bundle or "BUNDLE", sidecar, None, machine)


def _belongs(one: Inspected, path: Path) -> bool:
    return one.path == path or path in one.path.parents


def lines_of(one: Inspected, machine: fits.Machine) -> list[str]:
    """Return what was found about a file, for people."""
    if one.kind == "unusable":
        return []
    if one.kind == "graph":
        size = one.path.stat().st_size / _MEGA
        return [f"{one.path}: an ONNX graph, {size:.1f} MB. Engines are built from it: {BUILD}", ""]
    assert one.header is not None
    rows = [("plan", _header_words(one.path, one.header))]
    if one.header.wrapper is not None:
        about = ", ".join(
            f"{key} {one.header.wrapper[key]}"
            for key in ("description", "task", "version", "imgsz", "batch")
            if key in one.header.wrapper
        )
        rows.append(("wrapped", f"metadata of Ultralytics in front ({about or 'no known keys'})"))
    if one.sidecar is not None:
        rows += _sidecar_rows(one.sidecar)
    rows += [("problem", problem) for problem in one.problems]
    rows += [("differs", str(difference)) for difference in one.differences]
    rows += [("note", note) for note in one.notes]
    told = "" if machine.gpu else ", as far as can be told without a GPU"
    rows.append(("here", f"fits{told}" if one.fits else "does not fit"))
    return [str(one.path), *(f"  {label.ljust(_LABEL)} {text}" for label, text in rows), ""]


def _header_words(path: Path, header: PlanHeader) -> str:
    words = f"{TITLES[header.family]} {header.version}, {path.stat().st_size / _MEGA:.1f} MB"
    if header.sms is not None:
        later = " and later" if header.later_sms else ""
        words += f", SM {', '.join(map(str, header.sms))}{later}"
    return words


def _sidecar_rows(sidecar: EngineSidecar) -> list[tuple[str, str]]:
    later = " and later" if sidecar.later_sms else ""
    built_for = f"SM {', '.join(map(str, sidecar.sms))}{later}, {sidecar.architecture}"
    built_on = ", ".join(
        words
        for words in (
            sidecar.gpu or "a machine without a GPU",
            f"driver for CUDA {sidecar.cuda}" if sidecar.cuda else "",
            f"Jetson Linux {sidecar.l4t}" if sidecar.l4t else "",
        )
        if words
    )
    able = [
        words
        for words, is_so in (
            ("the lean runtime loads it", sidecar.version_compatible),
            ("later versions load it", sidecar.version_compatible and sidecar.host_code),
            ("GPUs from Ampere on run it", sidecar.hardware_compatible),
            ("carries host code", sidecar.host_code),
        )
        if is_so
    ]
    rows = [
        ("built for", ", ".join([built_for, *able])),
        ("built on", f"{built_on}{f', {sidecar.created}' if sidecar.created else ''}"),
        ("made from", f"{sidecar.source} ({sidecar.precision}), {sidecar.source_sha256[:_SHORT]}…"),
        ("in", _tensors(sidecar.inputs)),
        ("out", _tensors(sidecar.outputs)),
        ("batch", ", ".join(map(str, sidecar.batches))),
    ]
    for label, values in (("options", sidecar.options), ("build", sidecar.build)):
        if words := _listed(values):
            rows.append((label, words))
    return rows


def _listed(values: Mapping[str, Any]) -> str:
    """Return what was set, for people; what was left alone is left out."""
    words = []
    for key, value in values.items():
        if value is None or value is False or value == [] or value == {}:
            continue
        name = key.replace("_", " ")
        if isinstance(value, dict):
            words.append(_listed(value))
        elif value is True:
            words.append(name)
        elif name.endswith(" bytes") and isinstance(value, int):
            words.append(f"{name.removesuffix(' bytes')} {value / _MEGA:.0f} MB")
        elif isinstance(value, list):
            words.append(f"{name} {' '.join(map(str, value))}")
        else:
            words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(filter(None, words))


def _tensors(tensors: Sequence[EngineTensor]) -> str:
    return "; ".join(
        f"{tensor.name} {tensor.dtype} "
        f"({', '.join('N' if size == -1 else str(size) for size in tensor.shape)})"
        for tensor in tensors
    )


def machine_lines(machine: fits.Machine) -> list[str]:
    """Return what the plans were compared with, for people."""
    libraries = [f"{TITLES[flavour]} {version}" for flavour, version in machine.libraries.items()]
    rows = [", ".join([machine.architecture, *(libraries or ["no TensorRT"])])]
    if machine.gpu is not None:
        rows.append(f"cuda:{machine.gpu.index} {machine.gpu.name}, SM {machine.gpu.sm}")
        rows.append(f"driver for CUDA {machine.cuda}")
    else:
        rows.append("no GPU here to compare with")
    if machine.l4t is not None:
        rows.append(f"Jetson Linux {machine.l4t}")
    return [f"this machine: {'; '.join(rows)}"]


def document_of(found: Sequence[Inspected], machine: fits.Machine) -> dict[str, Any]:
    """Return what was found as one JSON document (`files` and `machine`)."""
    return {
        "files": [
            {
                "path": str(one.path),
                "kind": one.kind,
                "header": asdict(one.header) if one.header else None,
                "sidecar": msgspec.to_builtins(one.sidecar) if one.sidecar else None,
                "problems": list(one.problems),
                "differences": [asdict(difference) for difference in one.differences],
                "notes": list(one.notes),
                "fits": one.fits,
            }
            for one in found
        ],
        "machine": asdict(machine),
    }
