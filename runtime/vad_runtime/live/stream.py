"""One stream of a site: from the reader's queue to events, without the engine."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import InputError, VadError
from vad_runtime.contracts.manifest import Manifest
from vad_runtime.contracts.site import StreamSettings
from vad_runtime.detector import Detector, ScoredFrame, Steps
from vad_runtime.latency import Stage
from vad_runtime.live.base import EventChange, StateChange, StreamState
from vad_runtime.live.batching import Pending, Waiting
from vad_runtime.live.contained import Contained
from vad_runtime.live.deadlines import LatePolicy, longest_hop, target_s
from vad_runtime.live.events import EventTracker, site_scoring
from vad_runtime.live.gauges import StreamGauges
from vad_runtime.live.reader import Reader, queue_depth
from vad_runtime.live.status import StreamStatus
from vad_runtime.sources.address import masked
from vad_runtime.sources.base import FASTER, Frame, FrameSource
from vad_runtime.sources.pace import Pace
from vad_runtime.windows import Clip, HoleRule

__all__ = ["LiveStream", "queue_depth"]

_FALLBACK_FPS = 25.0
_TICK_S = 1.0
_AT_ONCE = 64
_WITHOUT_FRAMES: frozenset[StreamState] = frozenset({"stalled", "lost", "refused"})


class LiveStream:
    """Follows one camera: takes its frames, hands out clips, settles frames, follows its events.

    ::

        reader's queue ──► advance ──► pending clip ──► (an engine) ──► answer ──► tracker, sinks
        frames behind the pending clip wait in the queue, since the clip is a view of the ring

    The scorer's thread calls everything except `snapshot` and `state_changed`, which any thread
    may call; callbacks run in the scorer's thread and must not block.

    Args:
        name: The stream's.
        settings: From the site file.
        manifest: Of the bundle that scores it.
        reader: Not started yet; the engine that the stream is added to starts and closes it.
        tracker: Of this stream only.
        source: What the reader reads, for its counters.
        decode: The stage timer that the reader fills.
        address: Where it comes from, without credentials.
        bundle: Name of the bundle.
        paced: It is a camera, or a recording that is read like one; otherwise nothing has a
            deadline, and its clips run when nothing else is due.
        pace: Leaves out frames of a recording that is faster than the model's footage; a
            `LiveSource` does that itself.
        on_change: Takes what the tracker tells, and the frame that caused it; None = time did.
        on_scored: Takes every settled frame.
        on_ended: Is told that no frame will come: the recording is over, or `error` says why.
        say: Takes a line for the log.
        clock: Monotonic seconds.
        wall: Unix seconds.

    Raises:
        InputError: The hop does not suit the bundle.
    """

    def __init__(
        self,
        name: str,
        settings: StreamSettings,
        manifest: Manifest,
        reader: Reader,
        *,
        tracker: EventTracker,
        source: FrameSource,
        decode: Stage | None = None,
        address: str = "",
        bundle: str = "",
        paced: bool = True,
        pace: Pace | None = None,
        on_change: Callable[[EventChange, ScoredFrame | None], None] = lambda _change, _frame: None,
        on_scored: Callable[[ScoredFrame], None] = lambda _scored: None,
        on_ended: "Callable[[LiveStream], None]" = lambda _stream: None,
        say: Callable[[str], None] = lambda _line: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.settings, self.manifest, self.reader = name, settings, manifest, reader
        self._source, self._address, self._bundle = source, address, bundle
        self._tracker, self._paced, self._pace = tracker, paced, pace
        self._on_change, self._on_scored, self._on_ended = on_change, on_scored, on_ended
        self._clock, self._wall = clock, wall
        self._gauges = gauges = StreamGauges(decode or Stage(), clock=clock, wall=wall)
        self._contained = Contained(name, say, lambda: gauges.dropped("callback failed"))
        scoring = site_scoring(manifest.scoring, settings.events)
        self._threshold = scoring.threshold
        about = msgspec.structs.replace(manifest, scoring=scoring)
        try:
            self._detector = Detector(about, hop=settings.hop)
        except ValueError as error:
            raise InputError(f"{name}: {error}. Give another hop.") from None
        hop, longest = self._detector.hop, longest_hop(manifest, self._detector.hop)
        self._policy = LatePolicy(name, settings.policy, hop=hop, longest=longest, say=say)
        self._holes: HoleRule | None = None
        self._holes_fps = 0.0
        self.pending: Pending | None = None
        """The clip that waits for an engine."""
        self._steps: Steps | None = None
        self._fed: Frame | None = None
        self._hole_due = False
        self._finishing = False
        self._too_fast = 0
        """Frames that the pace left out."""
        self._no_frames_for: str | None = None
        self._ticked_s = clock()
        self.judged = False
        """Whether the policy was asked about the pending clip."""
        self.stopping: str | None = None
        """`ended_by` of an open event, once the stream is being taken away."""
        self.ended = False
        """Whether every frame is settled and no more will come."""
        self.settled = True
        """False where frames were left without a verdict when it ended."""
        self.error: BaseException | None = None
        """Why it ended, if not by the end of a recording or by `stop`."""

    # -- the scorer's thread ---------------------------------------------------------------------

    def advance(self) -> None:
        """Take frames from the queue until a clip is due, or nothing is there.

        Raises:
            Exception: The detector or the tracker has a bug.
        """
        if not self.ended:
            self._tick()
        for _ in range(_AT_ONCE):
            if self.pending is not None or self.ended:
                return
            try:
                frame = self.reader.poll()
            except Exception as error:  # whatever the source met: the other streams go on
                self.error = error
                self._finish()
                return
            if frame is None:
                self._nothing_there()
                return
            self._take(frame)

    def waiting(self) -> "Waiting[LiveStream] | None":
        """Return the pending clip as the engine's order needs it; None = there is none."""
        pending = self.pending
        if pending is None:
            return None
        urgency_s = pending.deadline_s - self._policy.head_start * pending.target_s
        deadline_s, since_s = pending.deadline_s, pending.since_s
        return Waiting(item=self, deadline_s=deadline_s, urgency_s=urgency_s, since_s=since_s)

    def late(self, now_s: float) -> bool:
        """Skip the pending clip if it is too late and a newer one can be had; return whether.

        Raises:
            VadError: The policy is `error`, and this is what ends the site.
        """
        pending = self.pending
        if pending is None or self.judged or now_s <= pending.deadline_s:
            return False
        if self.reader.waiting < self._detector.hop:
            return False  # late, but nothing is gained by leaving it out
        self.judged = True
        verdict = self._policy.judge(now_s, target_s=pending.target_s)
        if verdict == "error":
            raise self._policy.error(pending.target_s)
        self._detector.hop = self._policy.hop
        if verdict == "skip":
            self.skip("late clip")
        return verdict == "skip"

    def skip(self, cause: str) -> None:
        """Leave the pending clip out, counted under `cause`."""
        self.pending = None
        self._gauges.dropped(cause)
        self._drive(None)

    def answer(self, scores: npt.NDArray[np.float32] | None, took_s: float) -> None:
        """Take the scores of the pending clip.

        Args:
            scores: As `Detector.feed` wants them; None = the engine failed.
            took_s: How long the engine took, seconds.
        """
        pending = self.pending
        assert pending is not None
        if scores is None:
            self.skip("engine error")
            return
        self.pending = None
        now = self._clock()
        self._gauges.ran(took_s, now - pending.due_from_s, missed=now > pending.deadline_s)
        self._drive(scores)
        self._policy.scored(now)
        self._detector.hop = self._policy.hop

    def may_bring_a_clip(self, now_s: float) -> bool:
        """Return whether a clip may come at any moment: frames come, and none is pending."""
        return not self.ended and self.pending is None and now_s - self._gauges.arrived_s < 1.0

    def broken(self, error: BaseException) -> None:
        """Give the stream up after an exception that is a bug of ours, and end its open event."""
        self.error = error
        self.cut_off()

    def cut_off(self) -> None:
        """Settle nothing more, and end the open event."""
        self.settled, self.pending, self._steps = False, None, None
        self._over()

    # -- frames ----------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        if frame.arrived_s is None:
            frame = replace(frame, arrived_s=self._clock())
        assert frame.arrived_s is not None
        self._gauges.arrived(frame.arrived_s)
        if self._gauges.state == "connecting":  # a recording: a camera says its state itself
            self._gauges.set_state("live", "")
        if self._pace is not None:
            if frame.hole is not None or frame.damaged:
                self._pace.restart()
            if not self._pace.keep(frame.pts_s):
                self._too_fast += 1
                return
        hole = self._hole_rule(frame).cause(frame)
        self._fed, self._hole_due = frame, hole is not None
        self._steps = self._detector.feed(frame, hole)
        self._drive(None)

    def _hole_rule(self, frame: Frame) -> HoleRule:
        """Return the rule for the camera's rate, which is known, and may change, at a hole."""
        if self._holes is None or frame.hole is not None:
            fps = self._fps()
            if self._holes is None or fps != self._holes_fps:
                self._holes, self._holes_fps = HoleRule(fps), fps
        return self._holes

    def _fps(self) -> float:
        """Return the frames a second that the model is to see."""
        camera, trained = self._source.info.fps, self.manifest.clip.fps
        fps = camera if camera > 0 else _FALLBACK_FPS
        return min(fps, trained) if trained is not None and self.settings.fps == "adapt" else fps

    def _nothing_there(self) -> None:
        if self.reader.ended or self.stopping is not None:
            self._finish()
            return
        cause, self._no_frames_for = self._no_frames_for, None
        if cause is None:
            return
        # The camera is gone: what it showed last is scored now, and not when it comes back.
        self._fed, self._hole_due = None, True
        self._steps = self._detector.end(cause)
        self._drive(None)

    def _finish(self) -> None:
        self._fed, self._hole_due, self._finishing = None, False, True
        self._steps = self._detector.end()
        self._drive(None)

    def _drive(self, scores: npt.NDArray[np.float32] | None) -> None:
        """Go on with what the last frame caused, until a clip is due or all of it is done."""
        steps = self._steps
        assert steps is not None
        while True:
            try:
                step = steps.send(scores)
            except StopIteration:
                break
            scores = None
            if isinstance(step, Clip):
                self._wait_for(step)
                return
            self._settled(step)
        self._steps = None
        self._detector.events.clear()  # the tracker has them; this list would grow for ever
        self._tell_hole()
        if self._finishing:
            self._over()

    def _wait_for(self, clip: Clip) -> None:
        now = self._clock()
        fed, due_from = self._fed, now
        if fed is not None and fed.index == clip.indices[-1] and fed.arrived_s is not None:
            due_from = fed.arrived_s
        target = self._target_s()
        self.judged = False
        self.pending = Pending(
            clip=clip,
            due_from_s=due_from,
            target_s=target,
            deadline_s=due_from + target if self._paced else float("inf"),
            since_s=now,
        )

    def _settled(self, scored: ScoredFrame) -> None:
        frame = scored.frame
        if self._fed is not None and frame.index >= self._fed.index:
            self._tell_hole()
        assert frame.arrived_s is not None
        if scored.score is not None:
            self._gauges.scored(frame.arrived_s, scored.score)
        unix_s = self._wall() - (self._clock() - frame.arrived_s)
        self._tell(self._tracker.update(scored, unix_s), scored)
        self._contained(partial(self._on_scored, scored))

    def _tell_hole(self) -> None:
        if self._hole_due:
            self._hole_due = False
            self._tell(self._tracker.hole(self._wall()), None)

    def _tick(self) -> None:
        now = self._clock()
        if now - self._ticked_s >= _TICK_S:
            self._ticked_s = now
            self._tell(self._tracker.tick(), None)

    def _tell(self, changes: list[EventChange], scored: ScoredFrame | None) -> None:
        for change in changes:
            if change.kind == "started":
                self._gauges.event_started(change.event.start_s)
            self._contained(partial(self._on_change, change, scored))

    def _over(self) -> None:
        if self.ended:
            return
        self.ended = True
        reason = ""
        if self.error is not None:
            kind = "" if isinstance(self.error, VadError) else f"{type(self.error).__name__}: "
            reason = masked(" ".join(f"{kind}{self.error}".split()))
        self._gauges.set_state("ended", reason)
        try:
            whole = self._finishing and self.error is None and not self.reader.stopped
            by = self.stopping or ("end" if whole else "stop")
            self._tell(self._tracker.stop(self._wall(), by), None)
        finally:
            self._on_ended(self)

    # -- any thread ------------------------------------------------------------------------------

    def state_changed(self, change: StateChange) -> None:
        """Take the state that the camera's source tells, in any thread."""
        if self.ended:
            return
        self._gauges.set_state(change.state, change.reason)
        self._no_frames_for = change.state if change.state in _WITHOUT_FRAMES else None

    def snapshot(self) -> StreamStatus:
        """Return how the stream is, in any thread."""
        counters, source, info = self._detector.counters, self._source, self._source.info
        fields, stats = self._gauges.fields(), source.stats
        unscored = counters.unscored.copy()
        if self._too_fast:
            unscored[FASTER] = self._too_fast
        for cause, count in stats.dropped.copy().items():
            # What a fast camera brings too much of is left out by intent, and not lost.
            (unscored if cause == FASTER else fields["dropped"])[cause] = count
        if self.reader.dropped:
            fields["dropped"]["queue full"] = self.reader.dropped
        if fields["camera_fps"]:  # frames come; what was measured before a loss is no rate now
            fields["camera_fps"] = getattr(source, "camera_fps", 0) or fields["camera_fps"]
        return StreamStatus(
            **fields,
            name=self.name,
            source=self._address,
            bundle=self._bundle,
            decoder=getattr(source, "decoder", ""),
            width=info.width,
            height=info.height,
            frames=counters.frames,
            scored=counters.scored,
            clips=counters.clips,
            connections=stats.connections,
            holes=counters.flushes.copy(),
            unscored=unscored,
            policy=self.settings.policy,
            hop=self._detector.hop,
            target_ms=round(self._target_s() * 1e3, 3),
            threshold=self._threshold,
            alarm=self._tracker.alarm,
            events=self._tracker.events,
        )

    def _target_s(self) -> float:
        return target_s(self.settings.target_ms, hop=self._detector.hop, fps=self._fps())
