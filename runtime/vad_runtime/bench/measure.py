"""The measurement itself: cold, warm, and then clip after clip."""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vad_runtime.backends import Choice
from vad_runtime.backends.base import Inputs
from vad_runtime.bench.answers import TOLERANCE, Answers, WrongAnswerError
from vad_runtime.bench.conditions import Watch
from vad_runtime.bench.energy import Meter
from vad_runtime.bench.inputs import MOST_CLIPS, Film, noise, read_film
from vad_runtime.bench.paths import INFERENCE, WHOLE, Paths, Took
from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import VadError
from vad_runtime.contracts.manifest import Precision

SECONDS = 10.0
LEAST_CLIPS = 20
"""So many clips are measured at least, however long they take, where their number is not given."""
_ROUND_S = 1.0
"""About how much inference one round over a film shall hold."""
_LEAST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured."""

    source: str | None = None
    clips: int | None = None
    """How many clips; None = as many as fit in `seconds`."""
    seconds: float = SECONDS
    warm_up: int = 10
    streams: int = 1
    """Clips that are due at the same moment, as those of so many cameras."""
    hop: int | None = None
    target_ms: float | None = None


@dataclass(kw_only=True)
class Cold:
    """Times of what is done once, seconds."""

    bundle_s: float
    """Opening the bundle, with its hashes."""
    engine_s: float
    """Importing the engine and loading the graph."""
    first_clip_s: float = 0.0


def _column() -> "array[float]":
    """Hours of clips take 8 bytes each: the peak memory that is told is to be the bundle's."""
    return array("d")


@dataclass(kw_only=True)
class Measured:
    """Everything that was measured, raw."""

    cold: Cold
    warm_up_s: list[float] = field(default_factory=list)
    start_s: "array[float]" = field(default_factory=_column)
    """When each clip was due, seconds since the first."""
    latency_s: "array[float]" = field(default_factory=_column)
    """From the moment a clip was due to its scores: waiting for other streams is in it."""
    service_s: "array[float]" = field(default_factory=_column)
    """The engine's work for a clip alone."""
    cpu_s: "array[float]" = field(default_factory=_column)
    """Processor time of a clip, all threads together."""
    rounds: list[dict[str, Took]] = field(default_factory=list)
    frame_to_score_s: list[float] = field(default_factory=list)
    film: Film | None = None
    inputs: int = 0
    """Different clips that were scored in turn."""
    answers: Answers
    interrupted: bool = False
    failure: VadError | None = None
    """What ended the measurement early."""


class Interruptible:
    """Says whether Ctrl-C came; `stop` is what the signal calls."""

    def __init__(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        """End the measurement behind the clip that runs."""
        self.stopped = True


def precision_of(choice: Choice, bundle: Bundle) -> Precision:
    """Return the arithmetic that a back end says it computes in."""
    precision = bundle.manifest.artefacts[choice.artefact].precision
    bf16 = precision == "fp32" and ", bf16" in choice.backend.device
    return "bf16" if bf16 else precision


class Measurement:
    """One run of `vad-run bench`.

    Args:
        bundle: Opened.
        choice: Its open back end; the caller closes it.
        plan: What to do.
        cold: What opening them took.
        meter: Energy sensors; the caller closes it.
        signal: Ends the measurement early.
        advance: Is called with how many steps of `total` were done.
    """

    total = 100
    """Steps of a whole measurement, for a progress bar."""

    def __init__(
        self,
        bundle: Bundle,
        choice: Choice,
        plan: Plan,
        cold: Cold,
        meter: Meter,
        signal: Interruptible,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._bundle, self._backend, self._plan = bundle, choice.backend, plan
        self._meter, self._signal, self._advance = meter, signal, advance
        answers = Answers(TOLERANCE[precision_of(choice, bundle)], choice.name)
        self.found = Measured(cold=cold, answers=answers)
        self._inputs: list[Inputs] = noise(bundle.manifest)
        self._turn = 0
        self._told = 0
        self._busy_s = 0.0
        self._first_s = 0.0

    def run(self, watch: Callable[[], Watch]) -> Watch:
        """Measure everything.

        Args:
            watch: Begins to look at the machine's conditions; called behind the warm-up.

        Raises:
            BackendError: The engine failed or gave another answer than before.
            SourceError: The film cannot be read.
        """
        # With the engine loaded, and nothing computed yet.
        self._meter.rest(stopped=self._is_stopped)
        self.found.cold.first_clip_s = self._clip(0).wall_s
        if self._plan.source is not None:
            self._read_film(self._plan.source)
        self.found.inputs = len(self._inputs)
        for number in range(self._plan.warm_up):
            if self._signal.stopped:
                break
            self.found.warm_up_s.append(self._clip(number % len(self._inputs)).wall_s)
        film, paths = self.found.film, None
        if film is not None:
            paths = self._warm_paths(film)
        if not self._signal.stopped:
            self._meter.prove(lambda: self._clip(0), stopped=self._is_stopped)
        watched = watch()
        try:
            self._measure(paths)
        except BaseException:
            watched.close()
            raise
        self.found.interrupted = self._signal.stopped or self.found.failure is not None
        return watched

    def _measure(self, paths: Paths | None) -> None:
        try:
            if paths is None:
                with self._meter.measuring(INFERENCE):
                    while not self._enough():
                        self._due_together()
            else:
                self._rounds(paths)
        except WrongAnswerError:
            raise  # the times before it mean nothing
        except VadError as error:
            # An engine or a disk that fails after hours shall not cost what was measured.
            if not self.found.latency_s:
                raise
            self.found.failure = error

    def _is_stopped(self) -> bool:
        return self._signal.stopped

    def _read_film(self, source: str) -> None:
        # The first run may take much longer than the others, and a round shall not be endless.
        clip_s = min(self._clip(0).wall_s for _ in range(2))
        clips = int(np.clip(_ROUND_S / max(clip_s, 1e-6), 4, MOST_CLIPS))
        film = read_film(source, self._bundle.manifest, self._plan.hop, clips)
        self.found.film, self._inputs = film, film.clips
        self.found.answers.forget()

    def _clip(self, number: int) -> Took:
        """Score a clip, and look at its scores outside of the time."""
        wall, cpu = time.perf_counter(), time.process_time()
        scores = self._backend.infer(self._inputs[number])["score"]
        took = Took(time.perf_counter() - wall, time.process_time() - cpu)
        self.found.answers.check(number, scores)
        return took

    def _due_together(self) -> Took:
        """Score a clip of each stream, all due now; return what it took together."""
        now = time.perf_counter()
        if not self.found.start_s:
            self._first_s = now
        due = now - self._first_s
        waited_s = cpu_s = 0.0
        for stream in range(self._plan.streams):
            if self._signal.stopped or (stream and self._reached()):
                break
            took = self._clip((self._turn + stream) % len(self._inputs))
            waited_s, cpu_s = waited_s + took.wall_s, cpu_s + took.cpu_s
            self.found.start_s.append(due)
            self.found.latency_s.append(waited_s)
            self.found.service_s.append(took.wall_s)
            self.found.cpu_s.append(took.cpu_s)
            self._busy_s += took.wall_s
            self._tell()
        self._turn += 1
        return Took(waited_s, cpu_s)

    def _warm_paths(self, film: Film) -> Paths:
        """Return the passes, behind a first run of the whole path that is in no table.

        It makes the ring, and on a GPU it records its graph.
        """
        paths = Paths(
            film,
            self._bundle.manifest,
            self._backend,
            self.found.answers,
            self._is_stopped,
        )
        if self._plan.warm_up and not self._signal.stopped:
            paths.passes()[WHOLE]()
            paths.frame_to_score_s.clear()
        return paths

    def _rounds(self, paths: Paths) -> None:
        signal = self._signal
        # The list itself: what is in it by then counts, however the rounds end.
        self.found.frame_to_score_s = paths.frame_to_score_s
        passes = paths.passes() | {INFERENCE: self._inference}
        shuffled = np.random.default_rng(0)
        names = sorted(passes)
        while not self._enough():
            done: dict[str, Took] = {}
            for name in shuffled.permutation(names).tolist():
                if signal.stopped:
                    break
                with self._meter.measuring(name):
                    done[name] = passes[name]()
                if name != INFERENCE:
                    self._busy_s += done[name].wall_s
                    self._tell()
            if len(done) == len(passes) and not signal.stopped:
                self.found.rounds.append(done)

    def _inference(self) -> Took:
        """Score every clip of the film once, each stream's in turn."""
        wall_s = cpu_s = 0.0
        film_clips = len(self._inputs)
        before = len(self.found.service_s)
        while len(self.found.service_s) - before < film_clips and not self._signal.stopped:
            took = self._due_together()
            wall_s, cpu_s = wall_s + took.wall_s, cpu_s + took.cpu_s
        # With several streams a few clips more may have been scored than the film has.
        share = film_clips / max(len(self.found.service_s) - before, 1)
        return Took(wall_s * share, cpu_s * share)

    def _reached(self) -> bool:
        """Whether all clips that were asked for are done; with a film whole rounds count."""
        wanted = self._plan.clips
        return (
            wanted is not None and self.found.film is None and len(self.found.latency_s) >= wanted
        )

    def _enough(self) -> bool:
        done = len(self.found.latency_s)
        if self._signal.stopped:
            return True
        if self._plan.clips is not None:
            return done >= self._plan.clips
        whole = self.found.film is None or len(self.found.rounds) >= _LEAST_ROUNDS
        return self._busy_s >= self._plan.seconds and done >= LEAST_CLIPS and whole

    def _tell(self) -> None:
        share = (
            len(self.found.latency_s) / self._plan.clips
            if self._plan.clips is not None
            else self._busy_s / self._plan.seconds
        )
        steps = min(int(share * self.total), self.total)
        if steps > self._told:
            self._advance(steps - self._told)
            self._told = steps


def clips_done(found: Measured) -> dict[str, int]:
    """Return how many clips went through what the energy is told of."""
    whole = 0 if found.interrupted else len(found.frame_to_score_s)
    return {INFERENCE: len(found.service_s), WHOLE: whole}
