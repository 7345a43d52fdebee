"""Frames in, scored frames out: window, back end, scoring and events put together."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vad_runtime.backends.base import Backend, HasRing
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.events import AlarmState, Event
from vad_runtime.latency import Stage
from vad_runtime.scoring import CausalScorer, ClipMean
from vad_runtime.sources.base import FROZEN, Frame
from vad_runtime.windows import Clip, ClipWindow, HoleRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredFrame:
    """One source frame and what was found in it."""

    frame: Frame
    raw: float | None
    """The graph's score from the first clip that scored this frame; None = not scored."""
    score: float | None
    """Normalised and causally smoothed; the threshold applies to it."""
    alarm: bool
    status: str
    """`scored`, or why not: `warm-up` (too few frames for a clip), `damaged`, `between` (skipped
    by the stride), `context` (the model looks at it, but scores other frames), `skipped` (its clip
    came too late for its deadline), `frozen` (the camera repeats one picture)."""


@dataclass(kw_only=True)
class Counters:
    """What became of the frames."""

    frames: int = 0
    scored: int = 0
    clips: int = 0
    skipped_clips: int = 0
    """Clips that were due and never scored, since they were too late."""
    flushes: dict[str, int] = field(default_factory=dict)
    """How often the window was emptied, by cause."""
    unscored: dict[str, int] = field(default_factory=dict)
    """Frames without a score, by cause."""


Scores = npt.NDArray[np.float32]
"""What a back end gives for one clip, shape (1,) or (1, count)."""

Steps = Generator[Clip | ScoredFrame, Scores | None, None]
"""What becomes of a frame: clips, each of which wants its scores sent back, and settled frames."""


class Detector:
    """Follows one stream: frames in, scored frames out.

    Each frame comes out once, in order, as soon as it is settled. Its score is that of the first
    clip that scores it, so a score never changes later and does not depend on whether the source
    is a file or live.

    `run` does all of it for one stream. Where many streams share an engine, `feed` and `end` leave
    the engine to the caller: each clip is handed out, and the caller decides when it is scored.

    Args:
        manifest: The bundle's manifest.
        backend: An open back end, which `run` uses; the caller closes it.
        hop: Source frames from one clip to the next; None = the manifest's.
        clip_means: Collects every clip's scores for the offline column, if given.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend | None = None,
        *,
        hop: int | None = None,
        clip_means: ClipMean | None = None,
    ) -> None:
        self._spec = manifest.clip
        self._score = manifest.score
        self._backend = backend
        ring = backend.ring() if isinstance(backend, HasRing) else None
        self._window = ClipWindow(manifest.clip, hop=hop, ring=ring)
        self._scorer = CausalScorer(manifest.scoring)
        self._alarm = AlarmState(manifest.scoring)
        self._clip_means = clip_means
        self._pending: deque[Frame] = deque()
        self._last_in_clip: int | None = None
        self._last_skipped = -1
        """Index of the last frame of a clip that was not scored."""
        self.counters = Counters()
        self.infer_stage = Stage()
        self.events: list[Event] = []

    @property
    def hop(self) -> int:
        """Source frames from one clip to the next; may be changed between two frames."""
        return self._window.hop

    @hop.setter
    def hop(self, hop: int) -> None:
        self._window.hop = hop

    @property
    def empty(self) -> bool:
        """Whether no frame has come since the last hole."""
        return self._window.empty

    def run(self, frames: Iterable[Frame], *, nominal_fps: float | None) -> Iterator[ScoredFrame]:
        """Score a stream of frames.

        Args:
            frames: In order; `nominal_fps` frames a second as a rule.
            nominal_fps: Decides which step in time is a hole; see `HoleRule`.

        Yields:
            Every frame once, in order.

        Raises:
            BackendError: The back end failed.
        """
        holes = HoleRule(nominal_fps)
        try:
            for frame in frames:
                yield from self._answered(self.feed(frame, holes.cause(frame)))
            yield from self._answered(self.end())
        finally:
            # A source that fails, or a caller that stops, must not lose an alarm that is on.
            self._end_alarm()

    def _answered(self, steps: Steps) -> Iterator[ScoredFrame]:
        assert self._backend is not None, "run needs a back end"
        scores: Scores | None = None
        while True:
            try:
                step = steps.send(scores)
            except StopIteration:
                return
            scores = None
            if isinstance(step, ScoredFrame):
                yield step
                continue
            with self.infer_stage.timed():
                scores = self._backend.infer(step.pixels)["score"]

    def feed(self, frame: Frame, hole: str | None) -> Steps:
        """Take the next frame.

        Args:
            frame: The frame behind the one before. The last generator must be used up.
            hole: Why no clip may hold both; None = nothing is missing. See `HoleRule`.

        Yields:
            Settled frames, and clips: the caller sends back the scores of a clip, or None where it
            was not scored, which counts it as skipped. A clip's pixels are valid until then.
        """
        self.counters.frames += 1
        if hole is not None:
            yield from self._flush(hole)
        if frame.damaged:
            yield self._settle(frame, None, "frozen" if frame.hole == FROZEN else "damaged")
            return
        clip = self._window.push(frame.index, frame.pixels)
        self._pending.append(frame)
        if clip is not None:
            yield from self._use(clip)

    def end(self, cause: str | None = None) -> Steps:
        """Settle what is left, and end an alarm that is on. Yields as `feed` does.

        Args:
            cause: Why the window is emptied where the stream may go on; None = it is over.
        """
        yield from self._flush(cause)

    def _flush(self, cause: str | None) -> Steps:
        if cause is not None and not self._window.empty:
            self.counters.flushes[cause] = self.counters.flushes.get(cause, 0) + 1
        clip = self._window.flush()
        if clip is not None:
            yield from self._use(clip)
        while self._pending:
            frame = self._pending.popleft()
            status = "warm-up"
            if self._last_in_clip is not None:
                status = "context" if frame.index <= self._last_in_clip else "between"
            yield self._settle(frame, None, self._unscored(frame, status))
        self._last_in_clip = None
        self._last_skipped = -1
        self._scorer.reset()
        self._end_alarm()

    def _end_alarm(self) -> None:
        event = self._alarm.end()
        if event is not None:
            self.events.append(event)

    def _use(self, clip: Clip) -> Steps:
        scores = yield clip
        if scores is None:
            yield from self._skip(clip)
            return
        self.counters.clips += 1
        if self._score.per == "clip":
            values = {index: float(scores[0]) for index in clip.indices}
        else:
            indices = clip.indices[self._score.first : self._score.first + self._score.count]
            values = dict(zip(indices, scores[0].tolist(), strict=True))
        if self._clip_means is not None:
            self._clip_means.add(list(values), np.array(list(values.values()), np.float32))
        self._last_in_clip = clip.indices[-1]
        last, seen = max(values), set(clip.indices)
        while self._pending and self._pending[0].index <= last:
            frame = self._pending.popleft()
            status = "context" if frame.index in seen else "between"
            yield self._settle(frame, values.get(frame.index), self._unscored(frame, status))

    def _skip(self, clip: Clip) -> Steps:
        """Settle the frames of a clip that no later one can hold; the others may yet be scored."""
        self.counters.skipped_clips += 1
        self._last_skipped = clip.indices[-1]
        gone = self._window.hop // self._spec.stride
        first_kept = clip.indices[gone] if gone < len(clip.indices) else clip.indices[-1] + 1
        while self._pending and self._pending[0].index < first_kept:
            yield self._settle(self._pending.popleft(), None, "skipped")

    def _unscored(self, frame: Frame, status: str) -> str:
        """Return the status of a frame without a score: a skipped clip is the stronger reason."""
        return "skipped" if frame.index <= self._last_skipped else status

    def _settle(self, frame: Frame, raw: float | None, status: str) -> ScoredFrame:
        if raw is None:
            self.counters.unscored[status] = self.counters.unscored.get(status, 0) + 1
            return ScoredFrame(
                frame=frame, raw=None, score=None, alarm=self._alarm.active, status=status
            )
        self.counters.scored += 1
        score = self._scorer.update(raw)
        event = self._alarm.update(frame.index, frame.pts_s, score)
        if event is not None:
            self.events.append(event)
        return ScoredFrame(
            frame=frame, raw=raw, score=score, alarm=self._alarm.active, status="scored"
        )
