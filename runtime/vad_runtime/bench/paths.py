"""The whole path from a file to scores, and each of its stages alone, in turn over one stretch.

::

    round    decode | decode and resize | window | inference | scoring | whole path    shuffled

Every pass does the same frames and clips, so processor times can be compared within a round: what
the whole path takes beyond its stages is its own overhead. The machine's ups and downs hit all
passes alike.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vad_runtime.backends.base import Backend, HasRing, Inputs, Outputs
from vad_runtime.bench.answers import Answers
from vad_runtime.bench.inputs import Film, opened
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.detector import Detector
from vad_runtime.events import AlarmState
from vad_runtime.ring import FrameRing
from vad_runtime.scoring import CausalScorer
from vad_runtime.sources import IMAGE_SUFFIXES
from vad_runtime.sources.base import Frame
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.windows import ClipWindow

DECODE, RESIZED, WINDOW, SCORING = "decode", "decode and resize", "window", "scoring"
INFERENCE, WHOLE = "inference", "whole path"


@dataclass(frozen=True, slots=True)
class Took:
    """Time of one pass: on the wall, and of all processors together."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], object]) -> Took:
    """Do a piece of work and return how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


class Paths:
    """The passes over one film.

    Args:
        film: The stretch.
        manifest: The bundle's.
        backend: Open; the caller closes it.
        answers: Takes the scores of the whole path: clip `i` is `film.clips[i]`.
        stopped: Says that the whole path is to be left in its middle.
    """

    def __init__(
        self,
        film: Film,
        manifest: Manifest,
        backend: Backend,
        answers: Answers,
        stopped: Callable[[], bool],
    ) -> None:
        self._film, self._manifest, self._stopped = film, manifest, stopped
        self._answers = answers
        timed_backend = _TimedRing if isinstance(backend, HasRing) else _Timed
        self._backend = timed_backend(backend)
        self.frame_to_score_s: list[float] = []
        """Of each clip of the whole path, from its last frame to its scores."""
        rng = np.random.default_rng(0)
        self._raw = rng.random(film.frames).tolist()

    def passes(self) -> dict[str, Callable[[], Took]]:
        """Return every pass but that of inference, by name."""
        return {
            DECODE: lambda: timed(self._decode),
            RESIZED: lambda: timed(self._resize),
            WINDOW: lambda: timed(self._push),
            SCORING: lambda: timed(self._score),
            WHOLE: self._timed_whole,
        }

    def _decode(self) -> None:
        """Decode as the sources do, and do nothing with the pictures."""
        path = Path(self._film.name)
        if path.is_dir():
            _decode_folder(path, self._film.frames)
        else:
            _decode_video(path, self._film.frames)

    def _resize(self) -> None:
        for _ in opened(self._film.name, self._manifest, self._film.frames).frames():
            pass

    def _push(self) -> None:
        window = ClipWindow(self._manifest.clip, hop=self._film.hop)
        for index, pixels in enumerate(self._film.pixels):
            window.push(index, pixels)

    def _score(self) -> None:
        scoring = self._manifest.scoring
        scorer, alarm = CausalScorer(scoring), AlarmState(scoring)
        for index, raw in enumerate(self._raw):
            alarm.update(index, index / self._film.info.fps, scorer.update(raw))

    def _timed_whole(self) -> Took:
        took = timed(self._whole)
        # Outside of the time: `score` compares no answers.
        for number, scores in enumerate(self._backend.scores):
            self._answers.check(number, scores)
        return took

    def _whole(self) -> None:
        source = opened(self._film.name, self._manifest, self._film.frames)
        frames = Prefetch(source)
        self._backend.begin()
        detector = Detector(self._manifest, self._backend, hop=self._film.hop)
        for _ in detector.run(self._backend.noted(frames), nominal_fps=source.info.fps):
            if self._stopped():
                frames.stop()
                return
        self.frame_to_score_s += self._backend.waits_s


class _Timed:
    """A back end that notes when it was given its clip's last frame, and what it answered."""

    def __init__(self, backend: Backend) -> None:
        self._inner = backend
        self.begin()

    def begin(self) -> None:
        """Forget the run before."""
        self._frame_s = 0.0
        self.waits_s: list[float] = []
        self.scores: list[Any] = []

    def noted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames on and note when each came."""
        for frame in frames:
            self._frame_s = time.perf_counter()
            yield frame

    @property
    def device(self) -> str:
        """See `Backend.device`."""
        return self._inner.device

    def infer(self, clips: Inputs) -> Outputs:
        """See `Backend.infer`."""
        out = self._inner.infer(clips)
        self.waits_s.append(time.perf_counter() - self._frame_s)
        self.scores.append(out["score"].copy())  # an engine may use its array again
        return out

    def close(self) -> None:
        """See `Backend.close`."""
        self._inner.close()


class _TimedRing(_Timed):
    """The same for a back end with a ring of its own: one for all runs, since it keeps them all."""

    _ring: FrameRing | None = None

    def ring(self) -> FrameRing:
        """See `HasRing.ring`."""
        assert isinstance(self._inner, HasRing)
        if self._ring is None:
            self._ring = self._inner.ring()
        self._ring.clear()
        return self._ring


def _decode_video(path: Path, frames: int) -> None:
    import av
    import av.error
    from av.stream import Disposition

    with av.open(str(path.absolute())) as container:
        stream = next(
            s for s in container.streams.video if not s.disposition & Disposition.attached_pic
        )
        stream.thread_type = "AUTO"
        done = 0
        for packet in container.demux(stream):
            try:
                done += len(packet.decode())
            except av.error.FFmpegError:
                continue
            if done >= frames:
                return


def _decode_folder(path: Path, frames: int) -> None:
    import av
    import av.error

    files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    for file in sorted(files, key=_natural)[:frames]:
        try:
            with file.open("rb") as stream, av.open(stream) as container:
                next(container.decode(video=0), None)
        except (av.error.FFmpegError, OSError, IndexError):
            continue


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which numbers count as numbers."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def stages(rounds: list[dict[str, Took]], film: Film) -> dict[str, Any]:
    """Return what the stages cost a clip, and the whole path against them.

    Args:
        rounds: Times of every pass, for each whole round; at least one.
        film: What they went through.
    """
    clips = len(film.clips)

    def table(of: Callable[[dict[str, Took]], float]) -> dict[str, float]:
        values = np.array([of(one) for one in rounds]) / clips * 1e3
        low, middle, high = np.percentile(values, [10, 50, 90]).tolist()
        return {"p10": low, "p50": middle, "p90": high}

    names = (DECODE, RESIZED, WINDOW, INFERENCE, SCORING, WHOLE)
    found = {
        name: {
            "cpu_ms_a_clip": table(lambda one, n=name: one[n].cpu_s),  # type: ignore[misc]
            "wall_ms_a_clip": table(lambda one, n=name: one[n].wall_s),  # type: ignore[misc]
        }
        for name in names
    }
    found["resize"] = {
        "cpu_ms_a_clip": table(lambda one: one[RESIZED].cpu_s - one[DECODE].cpu_s),
        "wall_ms_a_clip": table(lambda one: one[RESIZED].wall_s - one[DECODE].wall_s),
    }
    return {
        "frames_a_round": film.frames,
        "clips_a_round": clips,
        "rounds": len(rounds),
        "stages": found,
        "own_cpu_ms_a_clip": table(
            lambda one: one[WHOLE].cpu_s - one[INFERENCE].cpu_s - one[RESIZED].cpu_s
        ),
        "cpu_ratio": _ratio(rounds, DECODE),
        "cpu_ratio_with_resize": _ratio(rounds, RESIZED),
        "raw_s": [
            {name: {"wall": took.wall_s, "cpu": took.cpu_s} for name, took in one.items()}
            for one in rounds
        ],
    }


def _ratio(rounds: list[dict[str, Took]], decoding: str) -> dict[str, float]:
    """Return the whole path's processor time as so many times inference and decoding alone."""
    ratios = [
        one[WHOLE].cpu_s / max(one[INFERENCE].cpu_s + one[decoding].cpu_s, 1e-9) for one in rounds
    ]
    low, middle, high = np.percentile(ratios, [10, 50, 90]).tolist()
    return {"p10": low, "p50": middle, "p90": high}
