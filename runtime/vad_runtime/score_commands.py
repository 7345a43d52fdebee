"""`vad-run score` and `vad-run watch`: files as fast as possible, and a source as it comes."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import click

from vad_runtime.backends import Choice, open_backend
from vad_runtime.bundle import Bundle
from vad_runtime.commands import FiniteFloat, Interrupted
from vad_runtime.contracts.errors import InputError, VadError
from vad_runtime.contracts.site import Decoder, Secret, StreamSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.engine_options import engine_options, wanted_of
from vad_runtime.feature_runs import run_features
from vad_runtime.features import FeatureFile, find_features
from vad_runtime.labels import Labels, read_labels
from vad_runtime.progress import progress
from vad_runtime.runs import RunOptions, refuse_old_results, require_video, run_source
from vad_runtime.sinks.plot import NO_MATPLOTLIB, plot_available
from vad_runtime.sources import find_sources
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.base import LIVE

_PATH = click.Path(path_type=Path)


def _output_options(command: Any) -> Any:
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace results in the output folder."),
        click.option(
            "--labels",
            "labels_file",
            type=_PATH,
            help="A labels.json; the truth is shaded in scores.png.",
        ),
        click.option(
            "--fps",
            type=FiniteFloat(0, min_open=True),
            help="For frame folders, and features that say none.",
        ),
        click.option(
            "--hop",
            type=click.IntRange(1),
            help="Source frames from one clip to the next.  [default: the bundle's]",
        ),
        click.option("--plot/--no-plot", default=True, help="Write scores.png.", show_default=True),
        click.option(
            "--overlay/--no-overlay",
            default=False,
            show_default=True,
            help="Write overlay.mp4: may take more time than the scores.",
        ),
    ):
        command = option(command)
    return command


@click.command("score")
@click.argument("bundle", type=_PATH)
@click.argument("files", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--out", type=_PATH, required=True, help="Output folder.")
@click.option(
    "--offline/--no-offline",
    default=True,
    show_default=True,
    help="Add the papers' score, which needs the whole video: mean over clips, min-max, median 17.",
)
@_output_options
@engine_options
def score(bundle: Path, files: tuple[Path, ...], out: Path, offline: bool, **options: Any) -> None:
    """Score FILES with BUNDLE as fast as possible.

    A file is a video, a folder of frames, or a folder that holds such. With one, its results stand
    in OUT; with several, each has its own folder there. A bundle of a head alone takes the features
    of videos instead: files of vad-train features, .npy, .txt or .csv, or folders of such.
    """
    opened = Bundle.open(bundle)
    jobs = _jobs(opened, files)
    run_options = _run_options(options, live=False, offline=offline)
    folders = _folders([name for name, _ in jobs], out)
    if len(jobs) == 1:
        refuse_old_results(folders[0], run_options.overwrite)  # before an engine is loaded
    choice = _opened_backend(opened, options)
    failed = 0
    try:
        with progress("scoring", len(jobs) if len(jobs) > 1 else None) as bar:
            for (_, run), folder in zip(jobs, folders, strict=True):
                try:
                    report = run(opened, choice, folder, run_options)
                except VadError as error:
                    if len(jobs) == 1:
                        raise
                    # The other files are still worth scoring.
                    failed += 1
                    click.echo(f"Error: {error}", err=True)
                    continue
                bar.advance()
                click.echo(_summary(report, folder))
    finally:
        choice.backend.close()
    if failed:
        raise InputError(f"{failed} of {len(jobs)} files could not be scored. See the lines above.")


@click.command("watch")
@click.argument("bundle", type=_PATH)
@click.argument("source")
@click.option("-o", "--out", type=_PATH, help="Output folder.  [default: SOURCE's name + .watch]")
@click.option(
    "--decoder",
    type=click.Choice(get_args(Decoder)),
    default="auto",
    show_default=True,
    help="Of a camera or stream. nvdec: on the GPU; gstreamer: OpenCV's. auto: nvdec where FFmpeg "
    "and a driver offer it.",
)
@click.option(
    "--transport",
    type=click.Choice(["tcp", "udp"]),
    default="tcp",
    show_default=True,
    help="Of an rtsp:// stream.",
)
@click.option(
    "--realtime",
    is_flag=True,
    help="Pace by the frames' times, as a camera would; frames are dropped when we are too slow.",
)
@_output_options
@engine_options
def watch(bundle: Path, source: str, out: Path | None, realtime: bool, **options: Any) -> None:
    """Watch SOURCE with BUNDLE: print alarms as they come, write each row as it is settled.

    SOURCE is a video, a folder of frames, a camera (/dev/video0), a stream (rtsp://, http://, …) or
    a pipeline ('gst: …'). A camera has to be there at the start; one that is lost later is sought
    again, for ever. vad-run site runs many, also such as are still off, and stores and sends
    alarms.

    Ctrl-C ends the watch; rows, overlay and report are complete up to there.
    """
    opened = Bundle.open(bundle)
    require_video(opened)
    address = address_from_text(source)
    camera = StreamSettings(
        source=Secret(source),
        decoder=cast(Decoder, options["decoder"]),
        transport=options["transport"],
    )
    run_options = replace(
        _run_options(options, live=True, realtime=realtime), camera=camera, say=click.echo
    )
    # A pipeline may be longer than a file's name.
    live_name = re.sub(r"[^\w.-]+", "_", str(address), flags=re.ASCII)[:100].strip("_")
    name = live_name if address.live else Path(source).name
    folder = out or Path(f"{name}.watch")
    refuse_old_results(folder, run_options.overwrite)  # before an engine is loaded
    choice = _opened_backend(opened, options)
    try:
        report = run_source(opened, choice, source, folder, run_options, _Announcer())
    finally:
        choice.backend.close()
    click.echo(_summary(report, folder))
    if report["interrupted"]:
        raise Interrupted


class _Announcer:
    """Prints a line when an alarm starts and one when it ends."""

    def __init__(self) -> None:
        self._alarm = False
        self._since_s = 0.0

    def __call__(self, scored: ScoredFrame) -> None:
        time_s = scored.frame.pts_s
        if scored.alarm and not self._alarm:
            self._since_s = time_s
            click.echo(f"ALARM  {time_s:8.2f} s  frame {scored.frame.index}  {scored.score:.2f}")
        elif self._alarm and not scored.alarm:
            click.echo(f"over   {time_s:8.2f} s  after {time_s - self._since_s:.2f} s")
        self._alarm = scored.alarm


_Run = Callable[[Bundle, Choice, Path, RunOptions], dict[str, Any]]


def _jobs(bundle: Bundle, files: tuple[Path, ...]) -> list[tuple[str, _Run]]:
    """Return what is to be scored: a name for its results, and how it is run."""
    spec = bundle.manifest.features
    if spec is not None:
        videos = [video for file in files for video in find_features(file, spec.modality)]
        return [(Path(v.name).name, partial(_run_features, file=v)) for v in videos]
    sources = [source for file in files for source in find_sources(file)]
    names = [source.stem if source.is_file() else source.name for source in sources]
    runs = [partial(_run_video, source=source) for source in sources]
    return list(zip(names, runs, strict=True))


def _run_video(
    bundle: Bundle, choice: Choice, folder: Path, options: RunOptions, *, source: Path
) -> dict[str, Any]:
    return run_source(bundle, choice, source, folder, options)


def _run_features(
    bundle: Bundle, choice: Choice, folder: Path, options: RunOptions, *, file: FeatureFile
) -> dict[str, Any]:
    return run_features(bundle, choice, file, folder, options)


def _folders(names: list[str], out: Path) -> list[Path]:
    """Return one output folder per source; equal names get a number."""
    if len(names) == 1:
        return [out]
    used: set[str] = set()
    folders = []
    for stem in names:
        name, number = stem, 2
        while name in used:
            name, number = f"{stem}_{number}", number + 1
        used.add(name)
        folders.append(out / name)
    return folders


def _run_options(
    options: dict[str, Any], *, live: bool, realtime: bool = False, offline: bool = False
) -> RunOptions:
    labels_file: Path | None = options["labels_file"]
    labels: Labels | None = read_labels(labels_file) if labels_file else None
    return RunOptions(
        live=live,
        realtime=realtime,
        offline=offline,
        hop=options["hop"],
        fps=options["fps"],
        overlay=options["overlay"],
        plot=options["plot"],
        labels=labels,
        overwrite=options["overwrite"],
    )


def _opened_backend(bundle: Bundle, options: dict[str, Any]) -> Choice:
    choice = open_backend(bundle, options["backend"], wanted_of(options))
    click.echo(f"{bundle.name}: {bundle.manifest.name} on {choice.line}")
    if options["plot"] and not plot_available():
        click.echo(f"no scores.png: {NO_MATPLOTLIB}", err=True)
    return choice


def _short(source: dict[str, Any]) -> str:
    """Return the name of a source: of a file its last part."""
    name: str = source["name"]
    return name if source["kind"] == LIVE else Path(name).name


def _summary(report: dict[str, Any], folder: Path) -> str:
    peak = report["peak"]
    top = f", peak {peak['score']:.2f} at {peak['time_s']:.2f} s" if peak else ""
    lost = report["frames_dropped"] + report["frames_damaged"]
    holes = f", {lost} frames lost" if lost else ""
    line = (
        f"{_short(report['source'])}: {report['frames']} frames, "
        f"{report['clips']} clips, {len(report['events'])} alarms{top}{holes} -> {folder}"
    )
    return "\n".join([line, *(f"  note: {note}" for note in report["notes"])])
