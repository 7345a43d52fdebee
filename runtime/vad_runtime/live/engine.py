"""One bundle's engine, shared by streams: it runs clips, and survives its own failures."""

import random
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vad_runtime.backends.base import Backend
from vad_runtime.backends.checks import first_line
from vad_runtime.contracts.errors import BackendError, VadError
from vad_runtime.live.batching import RunTimes
from vad_runtime.live.meters import BusyGauge
from vad_runtime.live.scheduler import Scorer
from vad_runtime.live.status import EngineStatus
from vad_runtime.live.stream import LiveStream
from vad_runtime.windows import Clip

Scores = npt.NDArray[np.float32]

ERRORS_IN_A_ROW = 20
"""After so many failed runs the engine has failed and is opened anew."""
HANGS_S = 30.0
"""A run that takes so long is reported as hanging."""
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_RUNS_BEFORE_LARGER = 1000


class Engine:
    """A back end and the streams that it serves.

    A run that fails costs its clips, which are counted, and the next clip is tried as before. After
    20 failures in a row the engine has `failed`: its clips are left out without trying, and the
    back end is opened anew in a thread of its own, after 1 s and up to 60 s between two tries.

    `add`, `remove`, `close` and `status` may be called from any thread, but not from a callback of
    a stream; the rest belongs to the scorer's thread.

    Args:
        name: Of the bundle.
        backend: Open; the engine closes it.
        gpu: Clips of several streams are run together.
        largest_batch: Most clips in one run on a GPU.
        scorer: The thread that works for it. Engines that share a processor share one, so that one
            clip runs at a time; None = one of its own.
        reopen: Opens the back end anew after it failed; None = the old one is tried again.
        say: Takes a line for the log.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        gpu: bool = False,
        largest_batch: int = 8,
        scorer: Scorer | None = None,
        reopen: Callable[[], Backend] | None = None,
        say: Callable[[str], None] = lambda _line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._backend: Backend | None = backend
        self._device = backend.device
        self._largest = self.largest = largest_batch if gpu else 1
        self._own_scorer = scorer is None
        self._scorer = scorer if scorer is not None else Scorer(say=say, clock=clock)
        self._reopen, self._say, self._clock = reopen, say, clock
        self.streams: dict[str, LiveStream] = {}
        """Only the scorer's thread changes it."""
        self._added: dict[str, LiveStream] = {}
        """As the callers of `add` and `remove` see it."""
        self.times = RunTimes()
        self._stack: npt.NDArray[np.uint8] | None = None
        self._busy = BusyGauge(clock())
        self._running_since_s: float | None = None
        self._warm = False
        self._clips = self._errors = self._errors_in_a_row = self._good_in_a_row = 0
        self._trouble = ""
        self.failed = False
        """Whether clips are left out without trying."""
        self._retry_s, self._retry_at_s = _FIRST_RETRY_S, 0.0
        self._retry: threading.Thread | None = None
        self._lock = threading.Lock()
        self._reopened: Backend | None = None
        self._closed = False
        self._scorer.attach(self)

    # -- any thread ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Say that a stream has frames: `on_item` of its `Prefetch`."""
        self._scorer.wake()

    def add(self, stream: LiveStream) -> None:
        """Take a stream and start its reader, also while others run.

        Raises:
            ValueError: A stream of this name is there already.
            RuntimeError: The engine is closed, or its reader was started before.
        """
        with self._lock:
            if stream.name in self._added:
                raise ValueError(f"{stream.name} is there already")
            self._scorer.add(self, stream)
            self._added[stream.name] = stream
        stream.reader.start()

    def remove(self, name: str, *, by: str = "stop", timeout_s: float = 10.0) -> bool:
        """Take a stream away: stop its reader, score what it has read, end its open event.

        Args:
            name: The stream's; one that is not there has been removed already.
            by: `ended_by` of its open event.
            timeout_s: Longest time for all of it; then what is left is dropped.

        Returns:
            Whether all went well. False: something hangs; the stream is cut off all the same.
        """
        return self._remove([name], by, timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take all streams away and close the back end; a second call does nothing.

        Returns:
            Whether all went well; otherwise something hangs, and is left behind.
        """
        if self._closed:
            return True
        deadline_s = time.monotonic() + timeout_s
        well = self._remove(list(self._added), "stop", timeout_s)
        self._closed = True
        left_s = max(1.0, deadline_s - time.monotonic())
        idle = self._scorer.detach(self, left_s)
        if self._own_scorer:
            idle = self._scorer.close(left_s) and idle
        if self._retry is not None:
            self._retry.join(left_s)
            idle = idle and not self._retry.is_alive()
        if not idle:
            return False  # closing what another thread still uses could crash the process
        for backend in (self._take_reopened(), self._backend):
            if backend is not None:
                backend.close()
        self._backend = None
        return well

    def _remove(self, names: Sequence[str], by: str, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            streams = [self._added.pop(name) for name in names if name in self._added]
        for stream in streams:  # all at once, then one after another: each may need a while
            stream.reader.stop()
        # Half the time is for the readers: one that hangs must leave some for settling.
        closed = [
            stream.reader.close(max(0.0, deadline_s - timeout_s / 2 - time.monotonic()))
            for stream in streams
        ]
        settled = self._scorer.remove(self, streams, by, max(0.1, deadline_s - time.monotonic()))
        return all(closed) and settled

    def status(self) -> EngineStatus:
        """Return how it is."""
        since, now = self._running_since_s, self._clock()
        trouble = self._scorer.error or self._trouble
        if since is not None and now - since > HANGS_S:
            trouble = f"one run has been going on for {now - since:.0f} s: the engine hangs"
        return EngineStatus(
            bundle=self.name,
            device=self._device,
            streams=sorted(self.streams.copy()),
            clips=self._clips,
            errors=self._errors,
            busy=round(self._busy.value(now), 3),
            trouble=trouble,
        )

    # -- the scorer's thread ---------------------------------------------------------------------

    def warm_up(self, stream: LiveStream) -> None:
        """Run once before the first real clip: engines do a part of their work only then."""
        if self._warm or self.failed:
            return
        self._warm = True
        shape = stream.manifest.clip.clip_shape
        for count in sorted({1, self.largest}):
            blank = np.zeros((count, *shape), np.uint8)
            self._infer(blank)  # compiles, allocates
            if self.largest > 1:  # only batches need to know how long they take
                start_s = self._clock()
                if self._infer(blank) is not None:
                    self.times.add(count, self._clock() - start_s)

    def run(self, clips: Sequence[Clip]) -> list[Scores | None]:
        """Score clips of several streams together.

        Returns:
            For each clip what `Detector.feed` wants, or None where the engine failed.
        """
        start_s = self._clock()
        scores = self._infer(clips[0].pixels if len(clips) == 1 else self._stacked(clips))
        end_s = self._clock()
        if scores is None:
            # Together they may be too much for the device, or one of them alone is the trouble.
            self.largest = max(1, len(clips) // 2)
            return [None] * len(clips)
        self.times.add(len(clips), end_s - start_s)
        self._clips += len(clips)
        self._good_in_a_row += 1
        if self.largest < self._largest and self._good_in_a_row % _RUNS_BEFORE_LARGER == 0:
            self.largest = min(2 * self.largest, self._largest)
        return [scores[i : i + 1] for i in range(len(clips))]

    def _stacked(self, clips: Sequence[Clip]) -> npt.NDArray[np.uint8]:
        shape = clips[0].pixels.shape[1:]
        if self._stack is None:
            self._stack = np.empty((self._largest, *shape), np.uint8)
        for place, clip in zip(self._stack, clips, strict=False):
            place[...] = clip.pixels[0]
        return self._stack[: len(clips)]

    def _infer(self, pixels: npt.NDArray[np.uint8]) -> Scores | None:
        backend = self._backend
        if backend is None:
            return None
        start_s = self._running_since_s = self._clock()
        try:
            scores: Scores = backend.infer(pixels)["score"]
            if not np.isfinite(scores).all():  # no threshold would ever be reached
                raise BackendError("the scores are not finite: try another precision.")
        except Exception as error:  # also a library's own: one bad clip must not end a site
            self._note_error(error)
            return None
        finally:
            self._running_since_s = None
            self._busy.add(start_s, self._clock())
        if self._errors_in_a_row:
            self._say(f"engine {self.name}: works again after {self._errors_in_a_row} errors")
        self._errors_in_a_row, self._trouble = 0, ""
        self._retry_s = _FIRST_RETRY_S
        return scores

    def _note_error(self, error: Exception) -> None:
        self._errors += 1
        self._errors_in_a_row += 1
        self._good_in_a_row = 0
        reason = _reason(error)
        if self._errors_in_a_row == 1:
            self._say(f"engine {self.name}: {reason} The clip is left out; trying on.")
        self._trouble = f"{self._errors_in_a_row} errors in a row, the last: {reason}"
        if self._errors_in_a_row % ERRORS_IN_A_ROW == 0:
            self.failed = True
            self._retry_at_s = self._clock() + self._wait_s()
            self._say(
                f"engine {self.name}: failed {self._errors_in_a_row} times in a row; nothing is "
                "scored until it is opened again"
            )

    def _wait_s(self) -> float:
        """Return the wait before the next try; jitter, since sites share GPUs."""
        wait_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _LONGEST_RETRY_S)
        return wait_s * random.uniform(0.5, 1.0)

    def tick(self, now_s: float) -> None:
        """Go on with opening a failed back end anew."""
        if not self.failed or self._closed:
            return
        fresh = self._take_reopened()
        if fresh is not None:
            self._backend, self._device = fresh, fresh.device
            self._back()
        elif self._retry is None and now_s >= self._retry_at_s:
            if self._reopen is None:
                self._back()
                return
            self._retry = threading.Thread(target=self._open, name="vad-reopen", daemon=True)
            self._retry.start()
        elif self._retry is not None and not self._retry.is_alive():
            self._retry = None
            if self._reopened is None:
                self._retry_at_s = now_s + self._wait_s()

    def _back(self) -> None:
        """Try again: the next failure but 20 in a row makes it failed once more."""
        self.failed, self._warm, self.largest = False, False, self._largest
        self._errors_in_a_row -= self._errors_in_a_row % ERRORS_IN_A_ROW
        self._retry = None

    def _open(self) -> None:
        """Close the old back end first: the device may not have room for two."""
        old, self._backend = self._backend, None
        try:
            if old is not None:
                old.close()
            assert self._reopen is not None
            fresh = self._reopen()
        except Exception as error:
            self._trouble = f"cannot be opened again: {_reason(error)}"
            return
        finally:
            self._scorer.wake()
        with self._lock:
            self._reopened = fresh
        self._scorer.wake()

    def _take_reopened(self) -> Backend | None:
        with self._lock:
            fresh, self._reopened = self._reopened, None
        return fresh


def _reason(error: Exception) -> str:
    text = first_line(error)
    return text if isinstance(error, VadError) else f"{type(error).__name__}: {text}"
