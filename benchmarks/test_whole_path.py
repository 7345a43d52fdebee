"""From a file to rows and events: what our loop costs beyond decoding and inference, and peers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from perf_models import Made, score_graph
from perf_peers import eager_of, plain_loop
from perf_ratios import Times, ratio, rounds
from perf_targets import OVERHEAD_MS, WHOLE_MOST, Target
from pytest_benchmark.fixture import BenchmarkFixture

from vad_runtime.backends import Choice, open_backend
from vad_runtime.backends.base import Options
from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import ClipSpec
from vad_runtime.runs import RunOptions, run_source
from vad_runtime.sinks.rows import read_rows
from vad_runtime.sources import open_source
from vad_runtime.windows import ClipWindow

HOP = 16
PLAIN = "OpenCV + PyTorch loop"


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


def decoded(film: Path, count: int | None = None) -> int:
    """Decode a film as the sources do, and do nothing with the pictures."""
    seen = 0
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            seen += 1
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


@pytest.mark.parametrize("scene", ["stae", "c3d"], indirect=True)
def test_from_a_file_to_rows_and_events(
    benchmark: BenchmarkFixture,
    board: Any,
    scene: tuple[Made, Bundle, Choice],
    film: Path,
    tmp_path: Path,
    full: bool,
) -> None:
    made, bundle, choice = scene
    benchmark.group = f"320 x 240 H.264 to rows and events, hop {HOP}: a round of all parts"
    spec = bundle.manifest.clip
    hop = min(HOP, spec.frames)  # a twin's clip is shorter
    clips = clips_of(film, spec, hop)
    frames = [frame.pixels for frame in open_source(film, spec, pictures=False).frames()]
    out = tmp_path / "out"
    reports: list[dict[str, Any]] = []

    def whole() -> None:
        options = RunOptions(live=False, hop=hop, overlay=False, plot=False, overwrite=True)
        reports.append(run_source(bundle, choice, film, out, options))

    def window() -> None:
        ours = ClipWindow(spec, hop=hop)
        for index, pixels in enumerate(frames):
            ours.push(index, pixels)

    def resize() -> None:
        for _ in open_source(film, spec, pictures=False).frames():
            pass

    eager = eager_of(score_graph(made.key))
    plain: list[Any] = []
    calls: dict[str, Callable[[], object]] = {
        "decode": lambda: decoded(film),
        "decode and resize": resize,
        "window": window,
        "inference": lambda: [choice.backend.infer(clip) for clip in clips],
        "whole": whole,
        PLAIN: lambda: plain.append(plain_loop(film, bundle.manifest, eager, hop)),
    }
    held: dict[str, Times] = {}

    def measure() -> None:
        held.update(rounds(calls, count=9 if full else 1, max_s=40.0, warm_up=1 if full else 0))

    benchmark.pedantic(measure, rounds=1)
    # The answer: every frame has its row, every clip was scored, and there is one long event.
    rows = read_rows(out / "scores.csv")
    assert [row.frame for row in rows] == list(range(len(frames)))
    assert reports[-1]["clips"] == len(clips)
    assert all(row.status == "scored" and row.alarm for row in rows)
    alone = choice.backend.infer(clips[0])["score"].ravel()
    first = [row.raw for row in rows[: spec.frames]]
    np.testing.assert_allclose(first, np.broadcast_to(alone, len(first)), rtol=1e-5)
    assert len(plain[-1]) == 1 + (len(frames) - spec.frames) // hop
    tell(board, made, held, len(clips), full)


def tell(board: Any, made: Made, held: dict[str, Times], clips: int, full: bool) -> None:
    """Put stages, ratios and targets on the board."""
    cpu = {name: times.cpu_ms / clips for name, times in held.items()}
    whole = held["whole"]
    rows = [
        [name, np.median(cpu[name]), np.median(times.wall_ms) / clips]
        for name, times in held.items()
    ]
    rows.append(["rest of the whole", np.median(rest(cpu)), None])
    head = ["part", "CPU ms a clip", "wall ms a clip"]
    board.table(f"{made.model.name}: from a file to rows, hop {HOP}, {clips} clips", head, rows)
    faster = ratio(held[PLAIN].wall_ms, whole.wall_ms)
    board.note(f"{made.model.name}: whole path, x {PLAIN} (wall): {faster}")
    board.data(
        path={name: times.summary() for name, times in held.items()},
        clips=clips,
        faster=faster.as_dict(),
        path_model=made.key,
    )
    if not full:
        return
    share = ratio(whole.cpu_ms, held["inference"].cpu_ms + held["decode"].cpu_ms)
    board.target(
        Target(
            name=f"{made.model.name}: CPU of the whole path / (inference + decode)",
            value=share.value,
            wanted=WHOLE_MOST,
            sense="most",
            low=share.low,
            high=share.high,
        )
    )
    board.target(
        Target(
            name=f"{made.model.name}: our own CPU time a clip",
            value=float(np.median(rest(cpu))),
            wanted=OVERHEAD_MS,
            sense="most",
            unit=" ms",
        )
    )


def rest(cpu: dict[str, Any]) -> Any:
    """Return what the whole path takes beyond decoding, resizing and inference, ms a clip."""
    return cpu["whole"] - cpu["decode and resize"] - cpu["inference"]


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
