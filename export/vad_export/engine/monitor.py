"""One fraction out of TensorRT's nested build phases, and a build that Ctrl-C can stop."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from vad_runtime.commands import INTERRUPTED, Interrupted, deferred_interrupt
from vad_runtime.progress import Progress, progress

STEPS = 1000
"""Steps of the progress bar."""

_POLL_S = 0.1
_PHASE_CHARS = 17  # with bar and ETA, a line of 80 columns is full
_T = TypeVar("_T")


class _Phase:
    """A phase that runs: how far it is, and how far its inner phases are in its present step."""

    def __init__(self, name: str, parent: "_Phase | None", steps: int) -> None:
        self.name = name
        self.parent = parent
        self.steps = max(steps, 1)
        self.done = 0
        self.inner = 0.0

    @property
    def fraction(self) -> float:
        return min((self.done + min(self.inner, 1.0)) / self.steps, 1.0)


class BuildMonitor:
    """Takes the events of an `IProgressMonitor` and keeps one fraction that only grows.

    A phase divides its part evenly among its steps; an inner phase fills the step that it was
    started in. The events may come from any thread, and one name may stand for several phases.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[_Phase] = []
        self._best = 0.0
        self._root: _Phase | None = None
        self._cancelled = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins.

        Args:
            name: Its name; may be in use already.
            parent: Name of the phase it belongs to; None = it is the whole build.
            steps: How many steps it will count.
        """
        with self._lock:
            above = None if parent is None else self._find(parent)
            phase = _Phase(name, above, steps)
            if above is None and self._root is None:
                self._root = phase
            self._open.append(phase)

    def step(self, name: str, index: int) -> bool:
        """A phase has finished its step number `index`; False asks TensorRT to stop."""
        with self._lock:
            phase = self._find(name)
            if phase is not None:
                phase.done = max(phase.done, index + 1)
                phase.inner = 0.0
                self._pass_up(phase)
            return not self._cancelled

    def finish(self, name: str) -> None:
        """A phase has ended, finished or not."""
        with self._lock:
            phase = self._find(name)
            if phase is None:
                return
            phase.done, phase.inner = phase.steps, 0.0
            self._pass_up(phase)
            self._open.remove(phase)

    def cancel(self) -> None:
        """Answer the next step with "stop"; may be called from a signal handler."""
        self._cancelled = True  # no lock: the thread that a signal interrupts may hold it

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._cancelled

    @property
    def fraction(self) -> float:
        """0 .. 1, never less than before."""
        return self._best

    @property
    def phase(self) -> str:
        """Name of the innermost phase that runs; empty before and after the build."""
        with self._lock:
            return self._open[-1].name if self._open else ""

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._open) if phase.name == name), None)

    def _pass_up(self, phase: _Phase) -> None:
        while phase.parent is not None:
            phase.parent.inner = max(phase.parent.inner, phase.fraction)
            phase = phase.parent
        if phase is self._root:
            self._best = max(self._best, phase.fraction)


class _Work(threading.Thread, Generic[_T]):
    """Runs a function and keeps its value or its exception."""

    def __init__(self, run: Callable[[], _T]) -> None:
        # A daemon: a builder that cannot be stopped must not keep the process from ending.
        super().__init__(daemon=True, name="build-engine")
        self._run = run
        self.value: _T | None = None
        self.error: BaseException | None = None
        # Not `is_alive`, which may be wrong once a Ctrl-C has cut a `join` short (3.10 to 3.12).
        self.over = threading.Event()

    def run(self) -> None:
        """Called by the thread."""
        try:
            self.value = self._run()
        except BaseException as error:  # handed over to the thread that waits
            self.error = error
        finally:
            self.over.set()


def watched(run: Callable[[], _T], monitor: BuildMonitor, label: str, *, stoppable: bool) -> _T:
    """Run a build in a thread of its own and show its progress.

    Python handles signals in the main thread and between its own steps only; a builder that ran
    there would see a Ctrl-C after the build.

    Args:
        run: The build.
        monitor: Is told by the builder where `stoppable`.
        label: For the progress bar.
        stoppable: The builder listens to the monitor. If not, Ctrl-C leaves at once, and nothing
            is shown; the builder ends with the process.

    Returns:
        What `run` returns.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; the builder has stopped where it can be stopped.
        BaseException: Whatever `run` raises.
    """
    work = _Work(run)
    try:
        if not stoppable:
            work.start()
            while not work.over.wait(_POLL_S):
                pass
        else:
            with deferred_interrupt(monitor.cancel), progress(label, STEPS) as bar:
                work.start()
                _follow(work, monitor, bar)
    except BaseException:
        atexit.register(_leave, work)
        raise
    if monitor.cancelled:
        raise Interrupted
    if work.error is not None:
        raise work.error
    return work.value  # type: ignore[return-value]  # without an error there is a value


def _leave(work: "_Work[Any]") -> None:
    """End the process at its end, where a builder that was left still runs in it.

    A builder that calls into a Python that is shutting down aborts the process with a core dump.
    """
    if not work.over.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _follow(work: "_Work[_T]", monitor: BuildMonitor, bar: Progress) -> None:
    told = 0
    while not work.over.wait(_POLL_S):
        now = int(monitor.fraction * STEPS)
        # Nothing new is told too: it keeps the clock going.
        bar.advance(now - told, _short(monitor.phase))
        told = now
    if work.error is None and not monitor.cancelled:
        bar.advance(STEPS - told)


def _short(phase: str) -> str:
    return phase if len(phase) <= _PHASE_CHARS else f"{phase[: _PHASE_CHARS - 1]}…"
