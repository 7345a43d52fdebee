"""`vad-run bench`."""

import errno
import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle
from vad_runtime.commands import FiniteFloat, Interrupted, deferred_interrupt
from vad_runtime.contracts.errors import InputError, VadError
from vad_runtime.engine_options import engine_options, wanted_of
from vad_runtime.files import refuse_existing
from vad_runtime.progress import progress

JSON, PAGE = "bench.json", "bench.html"
_PATH = click.Path(path_type=Path)


@click.command("bench")
@click.argument("bundle", type=_PATH)
@click.option(
    "--source",
    metavar="VIDEO",
    help="A video file or folder of frames: its clips are scored, and the whole path is measured "
    "too.  [default: clips of seeded noise]",
)
@click.option(
    "--target-ms",
    type=FiniteFloat(0, min_open=True),
    help="Longest time that a clip may take.  [default: that of vad-export plan, if there is one]",
)
@click.option("--clips", type=click.IntRange(1), help="How many clips to measure.")
@click.option(
    "--seconds",
    type=FiniteFloat(0, min_open=True),
    help="For how long to measure, where --clips does not say.  [default: 10]",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Clips before those that are measured.",
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Clips that are due at once, as of so many cameras; each waits for those before it.",
)
@click.option(
    "--hop",
    type=click.IntRange(1),
    help="Source frames from one clip to the next.  [default: the bundle's]",
)
@click.option(
    "--energy/--no-energy", default=True, show_default=True, help="Look for sensors of energy."
)
@click.option("-o", "--out", type=_PATH, help=f"Folder for {JSON} and {PAGE}.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier report there.")
@engine_options
def bench(
    bundle: Path,
    source: str | None,
    target_ms: float | None,
    clips: int | None,
    seconds: float | None,
    out: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Measure on this machine how long BUNDLE takes for a clip, and whether a target is met.

    Loading and the first clip are told apart from warm clips. Every answer is compared with the
    first one for the same clip; exit code 1 where they differ. A missed target is told and is no
    error. Ctrl-C ends the measurement; what was measured so far is reported, also where the engine
    fails on the way.
    """
    if clips is not None and seconds is not None:
        raise click.UsageError("--clips and --seconds exclude each other.")
    from vad_runtime.bench.inputs import film_path, hop_of
    from vad_runtime.bench.measure import SECONDS, Cold, Plan

    refuse_old_report(out, overwrite)
    start = time.perf_counter()
    opened = Bundle.open(bundle)
    bundle_s = time.perf_counter() - start
    if opened.manifest.features is not None and source is not None:
        raise InputError(f"{opened.name} takes features, not video. Leave --source out.")
    # Before an engine is loaded, which may take minutes.
    if opened.manifest.features is None:
        hop_of(opened.manifest, options["hop"])
    if source is not None:
        film_path(source)
    start = time.perf_counter()
    choice = open_backend(opened, options["backend"], wanted_of(options))
    cold = Cold(bundle_s=bundle_s, engine_s=time.perf_counter() - start)
    if target_ms is None and opened.manifest.plan is not None:
        target_ms = opened.manifest.plan.target_ms
    plan = Plan(
        source=source,
        clips=clips,
        seconds=seconds or SECONDS,
        warm_up=options["warm_up"],
        streams=options["streams"],
        hop=options["hop"],
        target_ms=target_ms,
    )
    try:
        found = _measured(
            opened, choice, plan, cold, energy=options["energy"], threads=options["threads"]
        )
    finally:
        choice.backend.close()
    if found is None:
        raise Interrupted
    from vad_runtime.bench.lines import lines_of

    report, failure = found
    try:
        if out is not None:
            write_report(report, out)
    finally:  # a disk that is full shall not cost what was measured
        for line in lines_of(report):
            click.echo(line)
    if out is not None:
        click.echo(f"-> {out / JSON}, {out / PAGE}")
    if failure is not None:
        raise failure
    if report["interrupted"]:
        raise Interrupted


def _measured(
    bundle: Bundle, choice: Any, plan: Any, cold: Any, *, energy: bool, threads: int | None
) -> tuple[dict[str, Any], VadError | None] | None:
    """Measure; return the report and what ended it early; None = Ctrl-C before the first clip."""
    from vad_runtime.backends.checks import usable_threads
    from vad_runtime.bench.conditions import Watch
    from vad_runtime.bench.energy import Found, Meter, find_sensors
    from vad_runtime.bench.measure import Interruptible, Measurement
    from vad_runtime.bench.nvml import board_of, gpu_index
    from vad_runtime.bench.report import report_of
    from vad_runtime.bench.sensors import SensorError

    signal = Interruptible()
    gpu = gpu_index(choice.backend.device)
    try:
        board = board_of(gpu)
    except SensorError:
        board = None  # the sensors say why
    meter = Meter(find_sensors(gpu=gpu) if energy else Found())

    def watched() -> Watch:
        return Watch(threads=usable_threads(), engine_threads=threads, board=board)

    try:
        with (
            progress("measuring, %", Measurement.total) as bar,
            deferred_interrupt(signal.stop),
        ):
            run = Measurement(bundle, choice, plan, cold, meter, signal, bar.advance)
            watch = run.run(watched)
        with closing(watch):
            if not run.found.latency_s:
                return None
            report = report_of(bundle, choice, plan, run.found, watch, meter)
        return report, run.found.failure
    finally:
        meter.close()


def refuse_old_report(folder: Path | None, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that holds a report which may not be replaced.

    Nothing is made: a measurement that fails leaves no folder.

    Raises:
        InputError: One stands there, or the folder is no place to write to.
    """
    if folder is None:
        return
    refuse_existing(folder, (JSON, PAGE), overwrite)
    # os.path never raises, unlike Path: a file in the place of a folder is told here.
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    reason = None
    if not os.path.isdir(there):  # noqa: PTH112
        reason = f"{there} is a file" if os.path.isfile(there) else f"{there} is no folder"  # noqa: PTH113
    elif not os.access(there, os.W_OK | os.X_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
    if reason is not None:
        raise InputError(f"{folder} cannot be written ({reason}). Choose another output folder.")


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write `bench.json` and `bench.html`, in place of earlier ones.

    Raises:
        InputError: The folder cannot be written.
    """
    import msgspec

    from vad_runtime.bench.html import page
    from vad_runtime.files import made_folder, whole_file

    made_folder(folder)
    with whole_file(folder / JSON) as temporary:
        temporary.write_bytes(msgspec.json.encode(report) + b"\n")
    with whole_file(folder / PAGE) as temporary:
        temporary.write_text(page(report), encoding="utf-8")
