"""One source through one bundle, with everything it leaves behind in a folder."""

import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from vad_runtime.backends import Choice
from vad_runtime.bundle import Bundle
from vad_runtime.commands import deferred_interrupt
from vad_runtime.contracts.errors import InputError, SourceError
from vad_runtime.contracts.site import StreamSettings
from vad_runtime.detector import Counters, Detector, ScoredFrame
from vad_runtime.files import made_folder, refuse_existing, whole_file
from vad_runtime.labels import Labels, VideoLabels
from vad_runtime.latency import Stage
from vad_runtime.live.base import StateChange
from vad_runtime.machine import library_versions, machine_facts
from vad_runtime.scoring import ClipMean, offline_scores
from vad_runtime.sinks import (
    NO_MATPLOTLIB,
    Row,
    RowWriter,
    open_overlay,
    plot_available,
    row_from_scored,
    save_plot,
)
from vad_runtime.sources import open_source
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.base import BEHIND, LIVE, FrameSource
from vad_runtime.sources.prefetch import DEPTH, Prefetch, depth_of
from vad_runtime.sources.resize import resizer_line

if TYPE_CHECKING:
    from vad_runtime.sinks.overlay import OverlayWriter
    from vad_runtime.sources.live import LiveSource

_ROWS_KEPT_LIVE = 100_000
_LEAST_COVERAGE = 0.8
RESULTS = ("scores.csv", "scores.jsonl", "scores.png", "overlay.mp4", "report.json")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a source is run."""

    live: bool
    """`watch`: rows appear on disk as they are settled, and Ctrl-C leaves what there is."""
    realtime: bool = False
    """Pace by the frames' times; a pipeline that is too slow then loses frames, counted."""
    hop: int | None = None
    fps: float | None = None
    """Frame rate of a folder of frames."""
    camera: StreamSettings | None = None
    """How a live source is read; None = as in a site file that says nothing."""
    say: Callable[[str], None] = lambda _: None
    """Takes a line for each change of a live source's state."""
    overlay: bool = False
    """Write the film. It may cost more than all the rest."""
    plot: bool = True
    offline: bool = False
    """Add the offline column: needs the whole video, so it is not for `live`."""
    labels: Labels | None = None
    overwrite: bool = False


def run_source(
    bundle: Bundle,
    choice: Choice,
    source_name: str | Path,
    folder: Path,
    options: RunOptions,
    on_frame: Callable[[ScoredFrame], None] = lambda _: None,
) -> dict[str, Any]:
    """Score one source and write tables, picture, overlay and report into `folder`.

    Args:
        bundle: The opened bundle.
        choice: Its open back end.
        source_name: A video file or a folder of frames; where `options.live` says so, also what
            `vad_runtime.sources.address` knows as live, as a text.
        folder: Made if missing.
        options: What to write, and how.
        on_frame: Is called with every settled frame.

    Returns:
        The report, as written to `report.json`.

    Raises:
        InputError: The folder cannot be written or holds results already, or the bundle takes
            features.
        SourceError: The source cannot be read or is shorter than one clip; nothing is left behind.
    """
    require_video(bundle)
    decode = Stage()
    source = _opened(source_name, bundle, options, decode)
    truth = options.labels.of(source_name) if options.labels else None
    try:
        with result_folder(folder, overwrite=options.overwrite):
            if options.live:
                remove_results(folder)
                run = _Run(bundle, choice, source, folder, options, truth, on_frame, decode)
                return run.execute()
            with whole_results(folder) as work:
                run = _Run(bundle, choice, source, work, options, truth, on_frame, decode)
                return run.execute()
    finally:
        if source.info.kind == LIVE:  # one that failed before it was read is still connected
            cast("LiveSource", source).stop()


def _opened(name: str | Path, bundle: Bundle, options: RunOptions, decode: Stage) -> FrameSource:
    clip = bundle.manifest.clip
    address = address_from_text(name) if isinstance(name, str) else None
    if address is None or not address.live:
        pictures, settings = options.overlay, options.camera
        return open_source(name, clip, fps=options.fps, pictures=pictures, settings=settings)
    from vad_runtime.sources.live import open_live

    def tell(change: StateChange) -> None:
        reason = f": {change.reason}" if change.reason else ""
        options.say(f"{address}: {change.state}{reason}")

    return open_live(
        address,
        clip,
        options.camera,
        pictures=options.overlay,
        on_state=tell,
        say=options.say,
        stage=decode,  # the reader's would hold the wait for the camera
    )


def require_video(bundle: Bundle) -> None:
    """Refuse a bundle whose graph takes the features of a whole video.

    Raises:
        InputError: It does.
    """
    if bundle.manifest.features is not None:
        raise InputError(
            f"{bundle.name} scores precomputed features of whole videos, not frames. "
            f"Use: vad-run score {bundle.name} FEATURES"
        )


@contextmanager
def result_folder(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """Make the folder for results; remove it again if nothing was left in it.

    Raises:
        InputError: The folder cannot be written or holds results already.
    """
    refuse_old_results(folder, overwrite)
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    made_folder(folder)
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read what we print has left
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder."
        ) from None
    finally:
        for path in made:
            with suppress(OSError):  # what holds results stays
                path.rmdir()


@contextmanager
def whole_results(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder; its files become the results of `folder` together, at the end."""
    with tempfile.TemporaryDirectory(prefix=".vad-run-", dir=folder) as name:
        work = Path(name)
        yield work
        # Nothing can fail any more.
        remove_results(folder)
        for file in sorted(work.iterdir()):
            file.replace(folder / file.name)


def refuse_old_results(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds results, unless they may be replaced.

    Raises:
        InputError: Results stand there and may not be replaced, or cannot be.
    """
    refuse_existing(folder, RESULTS, overwrite)


def remove_results(folder: Path) -> None:
    """Remove what an earlier run has left.

    Raises:
        OSError: A file cannot be removed.
    """
    for name in RESULTS:
        (folder / name).unlink(missing_ok=True)


class _Run:
    """One run, from the first frame to the report."""

    def __init__(
        self,
        bundle: Bundle,
        choice: Choice,
        source: FrameSource,
        folder: Path,
        options: RunOptions,
        truth: VideoLabels | None,
        on_frame: Callable[[ScoredFrame], None],
        decode: Stage,
    ) -> None:
        self._bundle, self._choice, self._source = bundle, choice, source
        self._folder, self._options, self._truth = folder, options, truth
        self._on_frame = on_frame
        self._scoring = bundle.manifest.scoring
        self._means = ClipMean() if options.offline else None
        try:
            self._detector = Detector(
                bundle.manifest, choice.backend, hop=options.hop, clip_means=self._means
            )
        except ValueError as error:
            raise InputError(f"--hop: {error}. Give another.") from None
        self._decode, self._sinks = decode, Stage()
        # A camera never ends: the picture shows the last hour or so, the tables hold everything.
        self._rows: deque[Row] = deque(maxlen=_ROWS_KEPT_LIVE if options.live else None)
        self._peak: Row | None = None
        self._interrupted = False
        self._camera = source.info.kind == LIVE
        paced = options.realtime or self._camera
        self._frames = Prefetch(
            source,
            depth=DEPTH if paced else depth_of(source.info, pictures=options.overlay),
            realtime=options.realtime and not self._camera,
            live=self._camera,
            stage=None if self._camera else decode,
        )
        self._table = RowWriter(folder, live=options.live, offline=options.offline)
        self._overlay: OverlayWriter | None = None

    def execute(self) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            if self._options.overlay:
                film = self._folder / "overlay.mp4"
                self._overlay = open_overlay(film, self._source.info, self._scoring)
            self._stream()
            self._wall_s = time.perf_counter() - start
            return self._finish()
        except BaseException:
            self._table.discard(rows_too=self._detector.counters.scored == 0)
            if self._overlay is not None:
                self._overlay.discard()
            raise

    def _stream(self) -> None:
        fps = None if self._camera else self._source.info.fps
        scored_frames = self._detector.run(self._frames, nominal_fps=fps)
        # Ctrl-C ends a watch as the end of the source would: what is in the pipeline is settled.
        guard = deferred_interrupt(self._interrupt) if self._options.live else nullcontext()
        with guard:
            for scored in scored_frames:
                begun = time.perf_counter()
                row = row_from_scored(scored)
                self._rows.append(row)
                self._note_peak(row)
                if self._options.live:
                    self._table.write(row)
                if self._overlay is not None:
                    self._overlay.write(scored)
                self._sinks.add(time.perf_counter() - begun)
                self._on_frame(scored)
        if self._detector.counters.clips == 0 and not self._interrupted:
            frames = self._detector.counters.frames
            need = self._bundle.manifest.clip.span
            raise SourceError(
                f"{self._source.info.name} has {frames} frames, none of them in a row of the "
                f"{need} that one clip needs. Give a longer video."
            )

    def _interrupt(self) -> None:
        self._interrupted = True
        self._frames.stop()

    def _note_peak(self, row: Row) -> None:
        best = self._peak.score if self._peak is not None else None
        if row.score is not None and (best is None or row.score > best):
            self._peak = row

    def _finish(self) -> dict[str, Any]:
        if self._means is not None:
            offline = offline_scores(self._means.values(self._rows[-1].frame + 1)).tolist()
            self._rows = deque(
                msgspec.structs.replace(
                    row, offline=None if math.isnan(offline[row.frame]) else offline[row.frame]
                )
                for row in self._rows
            )
        if not self._options.live:
            for row in self._rows:
                self._table.write(row)
        self._table.close()
        if self._overlay is not None:
            self._overlay.close()
        report = self._report(self._plot())
        with whole_file(self._folder / "report.json") as temporary:
            text = msgspec.json.format(msgspec.json.encode(report), indent=2)
            temporary.write_bytes(text + b"\n")
        return report

    def _plot(self) -> str | None:
        if not self._options.plot:
            return "not asked for"
        if not plot_available():
            return NO_MATPLOTLIB
        truth = self._truth
        save_plot(
            self._folder / "scores.png",
            list(self._rows),
            self._scoring,
            title=f"{Path(self._source.info.name).name} scored by {self._bundle.name}",
            label_set=self._options.labels.label_set if self._options.labels else None,
            truth=truth.mask() if truth is not None else None,
            events=self._detector.events,
        )
        return None

    def _report(self, no_plot: str | None) -> dict[str, Any]:
        counters, stats = self._detector.counters, self._source.stats
        best = self._peak
        return {
            "schema": 1,
            "bundle": self._bundle.name,
            "model": self._bundle.manifest.name,
            "device": self._choice.line,
            "backend": self._choice.name,
            "machine": machine_facts(),
            "versions": library_versions(),
            "mode": "watch" if self._options.live else "score",
            "realtime": self._options.realtime and not self._camera,
            "interrupted": self._interrupted,
            "source": asdict(self._source.info),
            "resizer": resizer_line(self._bundle.manifest.clip),
            "frames": counters.frames,
            "frames_scored": counters.scored,
            "frames_unscored": counters.unscored,
            "frames_dropped": self._frames.dropped + stats.dropped.get(BEHIND, 0),
            "frames_dropped_by_source": stats.dropped,
            "connections": stats.connections,
            "frames_damaged": stats.damaged,
            "undecodable_packets": stats.undecodable_packets,
            "timestamps_repaired": stats.timestamps_repaired,
            "holes": stats.holes,
            "window_flushes": counters.flushes,
            "notes": [*stats.notes, *_coverage(counters, self._bundle.manifest.clip.stride)],
            "clips": counters.clips,
            "scoring": self._scoring,
            "peak": None if best is None else {"time_s": best.time_s, "score": best.score},
            "events": [asdict(event) for event in self._detector.events],
            "wall_s": round(self._wall_s, 4),
            "stages": {
                "decode_and_resize_per_frame": self._decode.summary(),
                "inference_per_clip": self._detector.infer_stage.summary(),
                "sinks_per_frame": self._sinks.summary(),
            },
            "scores_png": no_plot or "written",
        }


def _coverage(counters: Counters, stride: int) -> list[str]:
    """Return a line when much of the source could not be scored: a detector that sleeps.

    What the model's stride skips is seen all the same: every `stride`-th frame is as good as all.
    """
    share = counters.scored / max(counters.frames, 1)
    if share * stride >= _LEAST_COVERAGE:
        return []
    causes = ", ".join(f"{count} {cause}" for cause, count in counters.unscored.items())
    return [f"only {share:.0%} of the frames could be scored ({causes})"]
