"""From a file to rows, events and picture: what is ours in it, and peers."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from perf_models import Made, score_graph
from perf_peers import eager_of, plain_loop
from perf_ratios import LEAST_MOST, Times, ratio, rounds
from perf_targets import OVERHEAD_MS, WHOLE_MOST, target_of
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.backends import Choice, open_backend
from vad_runtime.backends.base import Inputs, Options, Outputs
from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import ClipSpec
from vad_runtime.runs import RunOptions, run_source
from vad_runtime.sinks.rows import read_rows
from vad_runtime.sources import open_source
from vad_runtime.windows import ClipWindow

HOP = 16
PLAIN = "OpenCV + PyTorch loop"
PACED = "inference, a rest before each clip"
BESIDE = "decode and inference at the same time, nothing else"
NO_ENGINE = "whole, with an engine that computes nothing"
NO_PICTURE = "the same without scores.png"
RESIZE = "decode and resize"
REST = "all but decoding, resizing and the engine"
SOME = 6
"""Of so many clips one is given to the engine alone: its time does not hang on the film."""
REST_S = 0.01
FRAMES = {"stae": 2600, "c3d": 900}
ONCE: dict[str, Any] = {"count": 1, "warm_up": 0}


def with_an_alarm(bundle: Bundle, folder: Path) -> Bundle:
    """Return a copy whose every score is an alarm, so that events are made."""
    path = folder / bundle.path.name
    shutil.copytree(bundle.path, path)
    opened = Bundle.open(path, verify=False)
    scoring = msgspec.structs.replace(opened.manifest.scoring, threshold=-1e9)
    return rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, scoring=scoring))


@pytest.fixture
def scene(
    made_of: Callable[[str], Made], full: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Made, Bundle, Choice]]:
    """A model's bundle and its open int8 engine."""
    made = made_of(request.param if full else "stae_twin")
    bundle = with_an_alarm(made.bundle, tmp_path)
    choice = open_backend(bundle, "openvino", Options(precision="int8"))
    yield made, bundle, choice
    choice.backend.close()


def decoded(film: Path, count: int | None = None, wait: Callable[[], object] = lambda: None) -> int:
    """Decode a film as the sources do, and do nothing with the pictures but wait after each."""
    seen = 0
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            seen += 1
            wait()
            if seen == count:
                break
    return seen


def clips_of(film: Path, spec: ClipSpec, hop: int) -> list[Any]:
    """Return every clip that the detector makes of a film."""
    window = ClipWindow(spec, hop=hop)
    found = []
    for frame in open_source(film, spec, pictures=False).frames():
        clip = window.push(frame.index, frame.pixels)
        if clip is not None:
            found.append(clip.pixels.copy())
    last = window.flush()
    return found if last is None else [*found, last.pixels.copy()]


@pytest.fixture
def long_film(scene: tuple[Made, Bundle, Choice], tmp_path: Path, full: bool, film: Path) -> Path:
    """A film drawn like `film` but longer: what is done once a film weighs less in it."""
    if not full:
        return film
    from helpers import moving_blob, write_video

    images = moving_blob(FRAMES[scene[0].key], height=240, width=320)
    return write_video(tmp_path / "long.mp4", images, fps=25)


class Idle:
    """An engine that rests and then answers: what is left of a run is decoding, resizing and ours.

    It rests about as long as an engine takes. Frames then wait for it, as they do for an engine;
    beside one that answers at once it would wait for each frame, and be woken for each.
    """

    device = "none"

    def __init__(self, answer: Outputs) -> None:
        self._answer = answer

    def infer(self, _: Inputs) -> Outputs:
        """Return the same answer to every clip."""
        time.sleep(REST_S)
        return self._answer

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("scene", ["stae", "c3d"], indirect=True)
def test_from_a_file_to_rows_and_events(
    benchmark: BenchmarkFixture,
    board: Any,
    scene: tuple[Made, Bundle, Choice],
    long_film: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    """What `vad-run score` does by default, and its parts."""
    made, bundle, choice = scene
    benchmark.group = f"320 x 240 H.264 to rows, events and picture, hop {HOP}: a round of all"
    spec = bundle.manifest.clip
    hop = min(HOP, spec.frames)  # a twin's clip is shorter
    clips = clips_of(long_film, spec, hop)
    frames = [frame.pixels for frame in open_source(long_film, spec, pictures=False).frames()]
    out = tmp_path / "out"
    reports: list[dict[str, Any]] = []
    idle = replace(choice, backend=Idle(choice.backend.infer(clips[0])))

    def run(engine: Choice, *, plot: bool = True) -> Callable[[], None]:
        # As `vad-run score` has them where nothing is said.
        options = RunOptions(live=False, offline=True, hop=hop, plot=plot, overwrite=True)
        return lambda: reports.append(run_source(bundle, engine, long_film, out, options))

    own_s: list[float] = []

    def without_picture() -> None:
        begun = time.thread_time()
        run(idle, plot=False)()
        own_s.append(time.thread_time() - begun)

    def window() -> None:
        ours = ClipWindow(spec, hop=hop)
        for index, pixels in enumerate(frames):
            ours.push(index, pixels)

    def resize() -> None:
        for _ in open_source(long_film, spec, pictures=False).frames():
            pass

    def paced() -> None:
        for clip in some:
            time.sleep(REST_S)
            choice.backend.infer(clip)

    def beside() -> None:
        # As far ahead of the engine as a run's queue lets the decoder be, about.
        ahead = threading.Semaphore(2 * hop)
        seen: list[int] = []
        count = min(len(some) * hop, len(frames))
        decoder = threading.Thread(
            target=lambda: seen.append(decoded(long_film, count, ahead.acquire))
        )
        decoder.start()
        for clip in some:
            choice.backend.infer(clip)
            ahead.release(hop)
        decoder.join()
        assert seen == [count]

    some = clips[:: SOME if full else 1]
    calls: dict[str, Callable[[], object]] = {
        "decode": lambda: decoded(long_film),
        RESIZE: resize,
        "window": window,
        "inference": lambda: [choice.backend.infer(clip) for clip in some],
        PACED: paced,
        BESIDE: beside,
        "whole": run(choice),
        NO_ENGINE: run(idle),
        NO_PICTURE: without_picture,
    }
    held: dict[str, Times] = {}
    run(idle)()  # matplotlib's import is no part of a film's

    def measure() -> None:
        limits: dict[str, Any] = (
            {"count": 8, "max_s": 30.0, "least": 6, "warm_up": 0} if full else ONCE
        )
        held.update(rounds(calls, **limits))

    benchmark.pedantic(measure, rounds=1)
    # The answer: every frame has its row, every clip was scored, and there is one long event.
    assert all(report["clips"] == len(clips) for report in reports)
    run(choice)()
    assert reports[-1]["scores_png"] == "written"
    assert sorted(file.name for file in out.iterdir()) == [
        "report.json",
        "scores.csv",
        "scores.jsonl",
        "scores.png",
    ]
    rows = read_rows(out / "scores.csv")
    assert [row.frame for row in rows] == list(range(len(frames)))
    assert all(row.status == "scored" and row.alarm for row in rows)
    alone = choice.backend.infer(clips[0])["score"].ravel()
    first = [row.raw for row in rows[: spec.frames]]
    np.testing.assert_allclose(first, np.broadcast_to(alone, len(first)), rtol=1e-5)
    for name in ("inference", PACED, BESIDE):
        held[name] = scaled(held[name], len(clips) / len(some))
    tell(board, made, held, len(clips), full=full, own_ms=np.array(own_s) * 1e3 / len(clips))


def scaled(times: Times, factor: float) -> Times:
    """Return what so many times as much work takes."""
    return Times(wall_ms=times.wall_ms * factor, cpu_ms=times.cpu_ms * factor)


def tell(
    board: Any, made: Made, held: dict[str, Times], clips: int, *, full: bool, own_ms: Any
) -> None:
    """Put stages, ratios and targets on the board."""
    cpu = {name: times.cpu_ms / clips for name, times in held.items()}
    picture = held[NO_ENGINE].cpu_ms - held[NO_PICTURE].cpu_ms
    rows = [
        [name, np.median(cpu[name]), np.median(times.wall_ms) / clips]
        for name, times in held.items()
    ]
    rows.append(["our own thread of it", np.median(own_ms), None])
    rest = cpu[NO_PICTURE] - cpu[RESIZE]
    spread = f"{np.median(rest):.2f} ({rest.min():.2f} to {rest.max():.2f}, {LEAST_MOST})"
    rows.append([REST, spread, None])
    head = ["part", "CPU ms a clip", "wall ms a clip"]
    title = f"{made.model.name}: from a file to rows and picture, hop {HOP}, {clips} clips"
    board.table(title, head, rows)
    board.note(
        f"{made.model.name}: scores.png takes {np.median(picture):.0f} ms of CPU a film "
        "where matplotlib is imported already"
    )
    board.data(
        path={name: times.summary() for name, times in held.items()},
        clips=clips,
        picture_ms=float(np.median(picture)),
        rest_ms=rest.tolist(),
        path_model=made.key,
    )
    if not full:
        return
    others = {
        "(inference with its rests + decode)": held[PACED].cpu_ms + held["decode"].cpu_ms,
        f"({BESIDE})": held[BESIDE].cpu_ms,
    }
    for what, cpu_ms in others.items():
        share = ratio(held["whole"].cpu_ms, cpu_ms)
        board.note(f"{made.model.name}: CPU of the whole path / {what}: {share}, {share.kind}")
    share = ratio(held["whole"].cpu_ms, held["inference"].cpu_ms + held["decode"].cpu_ms)
    name = f"{made.model.name}: CPU of the whole path / (inference + decode)"
    board.target(target_of(name, share, wanted=WHOLE_MOST, sense="most"))
    name = f"{made.model.name}: our own thread's CPU time a clip, scores.png apart"
    own = ratio(own_ms, np.ones(len(own_ms)))
    board.target(target_of(name, own, wanted=OVERHEAD_MS, sense="most", unit=" ms"))


@pytest.mark.parametrize("scene", ["stae", "c3d"], indirect=True)
def test_the_loop_of_the_source_projects(
    benchmark: BenchmarkFixture,
    board: Any,
    scene: tuple[Made, Bundle, Choice],
    film: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    """The same film by OpenCV and PyTorch: a short one, since PyTorch takes its time."""
    made, bundle, choice = scene
    benchmark.group = f"a short film of 320 x 240, hop {HOP}: ours and {PLAIN}"
    spec = bundle.manifest.clip
    hop = min(HOP, spec.frames)
    options = RunOptions(live=False, offline=True, hop=hop, overwrite=True)
    eager = eager_of(score_graph(made.key))
    plain: list[Any] = []
    reports: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: reports.append(run_source(bundle, choice, film, tmp_path / "out", options)),
        PLAIN: lambda: plain.append(plain_loop(film, bundle.manifest, eager, hop)),
    }
    held: dict[str, Times] = {}
    calls["ours"]()  # matplotlib's import

    def measure() -> None:
        limits: dict[str, Any] = (
            {"count": 3, "max_s": 5.0, "least": 2, "warm_up": 0} if full else ONCE
        )
        held.update(rounds(calls, **limits))

    benchmark.pedantic(measure, rounds=1)
    assert len(plain[-1]) == 1 + (reports[-1]["frames"] - spec.frames) // hop
    assert 0 <= reports[-1]["clips"] - len(plain[-1]) <= 1  # ours scores the tail as well
    faster = ratio(held[PLAIN].wall_ms, held["ours"].wall_ms)
    board.note(
        f"{made.model.name}: whole path with scores.png, x {PLAIN} (wall): {faster}, {faster.kind}"
    )
    board.data(
        loops={name: times.summary() for name, times in held.items()},
        faster=faster.as_dict(),
        path_model=made.key,
    )


def test_scoring_a_film_that_nothing_decodes(
    benchmark: BenchmarkFixture, made_of: Callable[[str], Made], full: bool
) -> None:
    """Detector, events and rows alone, with a back end that only looks for motion."""
    from helpers import frame_stream

    from vad_runtime.backends.fake import FakeBackend
    from vad_runtime.detector import Detector

    benchmark.group = "window, scoring and events of 400 frames, hop 8, no network"
    bundle = made_of("stae_twin").bundle
    spec = bundle.manifest.clip
    frames = frame_stream(spec, 400)
    entry = bundle.manifest.artefacts["fp32"]
    backend = FakeBackend(bundle.file(entry), bundle.manifest, Options())

    def go() -> list[Any]:
        return list(Detector(bundle.manifest, backend, hop=8).run(frames, nominal_fps=25))

    scored = benchmark.pedantic(go, rounds=10 if full else 1, warmup_rounds=1)
    assert len(scored) == len(frames)
    assert all(one.status == "scored" for one in scored)
