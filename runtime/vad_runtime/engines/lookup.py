"""Which plan shall run a bundle here, and building one with `vad-export` where none fits."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import click

from vad_runtime.bundle import sha256_of_graph
from vad_runtime.commands import INTERRUPTED, Interrupted
from vad_runtime.contracts import BackendError, EngineSidecar, Manifest, Precision
from vad_runtime.engines.fit import (
    Fit,
    Machine,
    engines_of,
    find_engine,
    rebuild_command,
    require_fit,
)
from vad_runtime.engines.plan_file import ENGINE_FOLDER, read_header, read_sidecar

_PATIENCE_S = 30.0  # a builder lets go between two steps


def plan_for(
    file: Path,
    manifest: Manifest,
    precision: Precision,
    machine: Machine,
    *,
    engine: Path | None = None,
    rebuild: bool = False,
) -> Fit:
    """Return the plan that runs a bundle's graph on this machine.

    Args:
        file: The graph, in the bundle.
        manifest: Of the bundle.
        precision: Of the graph.
        machine: Where it shall run.
        engine: A plan, or a folder of plans; None = the bundle's `engines/`.
        rebuild: Build one where there is none that fits.

    Raises:
        BackendError: There is none, none fits, or the build failed.
    """
    place = engine or file.parent / ENGINE_FOLDER
    command = rebuild_command(file.parent, _former(place, precision), precision, machine)
    digest = sha256_of_graph(file, manifest)
    try:
        if engine is None or engine.is_dir():
            return find_engine(place, precision, digest, machine, command)
        return _named(engine, precision, digest, machine, command)
    except BackendError as error:
        if not rebuild:
            raise
        click.echo(f"{str(error).partition('. ')[0]}. Building one: {command}", err=True)
    folder = place if engine is None or engine.is_dir() else engine.parent
    _build(command, folder)
    return find_engine(folder, precision, digest, machine, command)


def _named(plan: Path, precision: Precision, digest: str, machine: Machine, command: str) -> Fit:
    header = read_header(plan, build=command)  # what is no plan at all is said before all else
    sidecar = read_sidecar(plan, header=header, build=command)
    if sidecar.precision != precision:
        raise BackendError(
            f"{plan} was built from the {sidecar.precision} graph, and {precision} was asked for. "
            f"Use --precision {sidecar.precision}, or build one with: {command}"
        )
    return require_fit(plan, machine, source_sha256=digest, rebuild=command)


def _former(place: Path, precision: Precision) -> EngineSidecar | None:
    """Return the sidecar of a plan whose settings a new one should have."""
    for plan in engines_of(place) if place.is_dir() else [place]:
        with contextlib.suppress(BackendError):
            sidecar = read_sidecar(plan)
            if sidecar.precision == precision:
                return sidecar
    return None


def _build(command: str, folder: Path) -> None:
    """Run a build in a process of its own and show what it tells of its progress.

    It cannot be a call: the runtime does not know the packages that build. And a builder that
    crashes takes only its own process with it.

    Raises:
        BackendError: The build failed; the message is the builder's own.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; the builder was ended in good order.
        Interrupted: It came to the builder alone.
    """
    words = shlex.split(command)
    arguments = [word for word in words[1:] if word != "--overwrite"]
    whole = [sys.executable, "-m", "vad_export", *arguments, "-o", str(folder), "--overwrite"]
    with subprocess.Popen(
        whole,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # `-m` would look in the working folder first (Python 3.10 still does).
        env=os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            reason = _told(process.stdout)
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    if code == 0:
        return
    if code == INTERRUPTED:  # Ctrl-C reached it and not us, as under nohup
        raise Interrupted
    if not reason:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        reason = f"the build ended with {how}. Try it alone: {command}"
    raise BackendError(f"no engine was built: {reason}")


def _told(lines: IO[str]) -> str:
    """Pass a process's lines on to the user; return its error, which is ours to say."""
    reason = ""
    for line in lines:
        if line.startswith("Error: "):
            reason = line.removeprefix("Error: ").strip()
        else:
            click.echo(line.rstrip("\n"), err=True)
    return reason


def _end(process: "subprocess.Popen[str]") -> None:
    """End a builder in good order. It may have got the same Ctrl-C and be ending already."""
    if process.stdout is not None:
        process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    for stop in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
