"""Features of a folder tree of videos, one npz a video, for MIL training.

::

    thread 1 ──clip──┐
    thread 2 ──clip──┼──► [ bounded queue ] ──► network ──► OUT/Abuse/Abuse001.npz
    thread 3 ──clip──┘                          in batches, one video's clips in each

Decoding is the costly part, and PyAV and OpenCV let other threads run meanwhile. The clips are
those that the device would score. The files are read by `vad_runtime.features`.
"""

import json
import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import ClipSpec, InputError, SourceError
from vad_runtime.features import UNREADABLE
from vad_runtime.files import made_folder, whole_file
from vad_runtime.progress import progress
from vad_runtime.sources import find_sources
from vad_training.data.clips import clips_of
from vad_training.embeddings import video_key
from vad_training.feature_network import FeatureNetwork, Inputs


@dataclass(kw_only=True)
class Extraction:
    """How an extraction ended."""

    written: list[Path] = field(default_factory=list)
    """Files of this run."""
    kept: list[Path] = field(default_factory=list)
    """Files that were finished before, with the same key."""
    skipped: list[str] = field(default_factory=list)
    """One line for each video that gave no features, with its reason."""


def extract_features(
    source: Path,
    out: Path,
    network: FeatureNetwork,
    clip: ClipSpec,
    *,
    workers: int = 2,
    batch: int = 4,
    overwrite: bool = False,
) -> Extraction:
    """Write the features of every video at or below a path; finished files are kept.

    Each file appears whole or not at all, so an extraction can be stopped at any time and started
    again. A video that cannot be read, or is too short for a clip, is no reason to stop.

    Args:
        source: A video, a folder of frames, or a folder tree of such.
        out: The features' folder; mirrors the tree.
        network: Makes the features.
        clip: Form and hop of the clips.
        workers: Threads that decode.
        batch: Clips of a video that go through the network together.
        overwrite: Replace files that were made in another way.

    Raises:
        InputError: Nothing to read, `out` cannot be written, two videos of one name, or a file in
            `out` was made in another way (without `overwrite`).
    """
    result = Extraction()
    todo = _jobs(source, out, network, clip, overwrite, result)
    decoders = _Decoders(todo, clip, network, max(1, workers), batch)
    total = len(todo) + len(result.kept)
    waiting: dict[int, list[tuple[int, Inputs]]] = {n: [] for n in range(len(todo))}
    done: dict[int, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]] = {
        n: [] for n in range(len(todo))
    }

    def embed(number: int) -> None:
        clips = waiting[number]
        if clips:
            first = np.array([first for first, _ in clips], np.int64)
            done[number].append((first, network.embed([inputs for _, inputs in clips])))
            waiting[number] = []

    with decoders, progress("features, videos", total, len(result.kept)) as bar:
        for number, item in decoders:
            if isinstance(item, _Clip):
                waiting[number].append((item.first_frame, item.inputs))
                if len(waiting[number]) == batch:
                    embed(number)
                continue
            embed(number)
            job, parts = todo[number], done.pop(number)
            if isinstance(item, _Failed):
                result.skipped.append(item.reason)
            elif not parts:
                result.skipped.append(
                    f"{job.video} holds no {clip.span} good frames in a row, which one clip needs."
                )
            else:
                _write(job, parts, item, network, clip)
                result.written.append(job.file)
            bar.advance()
    result.skipped.sort()
    return result


@dataclass(frozen=True, kw_only=True)
class _Job:
    video: Path
    file: Path
    key: str


@dataclass(frozen=True, kw_only=True)
class _Clip:
    first_frame: int
    inputs: Inputs


@dataclass(frozen=True, kw_only=True)
class _End:
    frames: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class _Failed:
    reason: str


_Item = _Clip | _End | _Failed | BaseException


class _Decoders:
    """Threads that turn videos into clips; iterating gives (number of the video, item)."""

    def __init__(
        self, jobs: list[_Job], clip: ClipSpec, network: FeatureNetwork, workers: int, batch: int
    ) -> None:
        self._jobs, self._clip, self._network = jobs, clip, network
        self._next = iter(range(len(jobs)))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._queue: queue.Queue[tuple[int, _Item]] = queue.Queue(maxsize=workers * batch)
        self._threads = [
            threading.Thread(target=self._work, name=f"vad-decode-{i}", daemon=True)
            for i in range(min(workers, len(jobs)))
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def __iter__(self) -> "_Decoders":
        self._left = len(self._jobs)
        return self

    def __next__(self) -> tuple[int, _Clip | _End | _Failed]:
        if not self._left:
            raise StopIteration
        number, item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        if not isinstance(item, _Clip):
            self._left -= 1
        return number, item

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number = next(self._next, None)
            if number is None:
                return
            try:
                self._decode(number)
            except SourceError as error:
                self._put(number, _Failed(reason=str(error)))
            except BaseException as error:  # a bug must reach the thread that waits for clips
                self._put(number, error)
                return

    def _decode(self, number: int) -> None:
        opened = clips_of(self._jobs[number].video, self._clip)
        for indices, pixels in opened:
            inputs = self._network.prepare(pixels)
            if not self._put(number, _Clip(first_frame=indices[0], inputs=inputs)):
                return
        self._put(number, _End(frames=opened.frames, fps=opened.info.fps))

    def _put(self, number: int, item: _Item) -> bool:
        """Wait for a place in the queue; False when there is nobody left to take it."""
        while not self._stop.is_set():
            try:
                self._queue.put((number, item), timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


def _jobs(
    source: Path,
    out: Path,
    network: FeatureNetwork,
    clip: ClipSpec,
    overwrite: bool,
    result: Extraction,
) -> list[_Job]:
    """Return what is to be done; notes in the result what is done and what cannot be."""
    jobs: list[_Job] = []
    files: dict[Path, Path] = {}
    made_folder(out)
    for video in find_sources(source):
        file = _file_of(video, source, out)
        if file in files:
            raise InputError(
                f"{files[file]} and {video} would both become {file}. Rename one of them."
            )
        files[file] = video
        try:
            key = video_key(video, clip, network.key)
        except OSError as error:
            result.skipped.append(f"{video} cannot be read ({error.strerror}). Check its rights.")
            continue
        if file.exists() and not overwrite and _key_of(file) != key:
            raise InputError(
                f"{file} was made from another video, backbone or clip. Add --overwrite, or name "
                "another folder."
            )
        if file.exists() and _key_of(file) == key:
            result.kept.append(file)
        else:
            jobs.append(_Job(video=video, file=file, key=key))
    return jobs


def _file_of(video: Path, source: Path, out: Path) -> Path:
    relative = video.relative_to(source) if video != source else Path(video.name)
    # A folder of frames may have a dot in its name that begins no suffix.
    name = relative.name if video.is_dir() else relative.stem
    return out / relative.with_name(f"{name}.npz")


def _key_of(file: Path) -> str | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            return str(content["key"])
    except (OSError, *UNREADABLE):
        return None


def _write(
    job: _Job,
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]],
    end: _End,
    network: FeatureNetwork,
    clip: ClipSpec,
) -> None:
    made_folder(job.file.parent)
    about = {**network.about, "clip": msgspec.to_builtins(clip)}
    with whole_file(job.file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            features=np.concatenate([features for _, features in parts]),
            first_frames=np.concatenate([first for first, _ in parts]),
            clip_span=np.int64(clip.span),
            frames=np.int64(end.frames),
            fps=np.float64(end.fps),
            about=np.array(json.dumps(about)),
            key=np.array(job.key),
        )
