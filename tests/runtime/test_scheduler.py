"""Many streams, one engine: order, deadlines, batches, failures; in a time that the tests make."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import ListSource, assert_one_line, frame
from helpers_live import CountingBackend, World, live_manifest, pictures

from vad_runtime.contracts import BackendError, VadError
from vad_runtime.contracts.site import Secret, StreamSettings
from vad_runtime.live.engine import ERRORS_IN_A_ROW, Engine
from vad_runtime.live.events import EventTracker
from vad_runtime.live.scheduler import Scorer
from vad_runtime.live.stream import LiveStream
from vad_runtime.sources.prefetch import Prefetch

FOREVER = 3000
"""Frames: two minutes at 25 a second."""


@pytest.fixture
def world() -> World:
    return World()


def of(stream: int, count: int = FOREVER) -> list[Any]:
    """Return frames that tell which stream they are from."""
    return pictures([stream] * count)


def starts(backend: CountingBackend) -> Counter[int]:
    """Return how often a clip of each stream was run."""
    return Counter(clip[0] for clip in backend.clips)


# -- order ---------------------------------------------------------------------------------------


def test_eight_cameras_keep_their_deadlines_where_the_engine_is_fast_enough(world: World) -> None:
    backend = CountingBackend(world.clock, run_s=lambda _n: 0.018)  # of 0.16 / 8 = 0.02
    engine = world.engine(backend)
    for i in range(1, 9):
        world.camera(engine, f"s{i}", of(i), start_s=i * 0.003)
    world.run(30.0)
    assert set(starts(backend).values()) <= {186, 187}
    for stream in world.streams.values():
        seen = stream.snapshot()
        assert (seen.misses, seen.dropped) == (0, {})
        assert seen.latency.max_ms < 160
    assert engine.status().busy == pytest.approx(0.9, abs=0.02)
    assert world.said == []


def test_the_earliest_deadline_is_first_also_across_engines(world: World) -> None:
    one, two = (CountingBackend(world.clock, run_s=lambda _n: 0.05) for _ in range(2))
    first, second = world.engine(one, "one.vad"), world.engine(two, "two.vad")
    world.camera(first, "slack", of(1, 4), times=[0.0] * 4, target_ms=900.0)
    world.camera(first, "middle", of(2, 4), times=[0.0] * 4, target_ms=500.0)
    world.camera(second, "tight", of(3, 4), times=[0.0] * 4, target_ms=200.0)
    world.run(0.5)
    assert backend_order(one, two) == [3, 2, 1]


def backend_order(*backends: CountingBackend) -> list[int]:
    """Return the streams in the order in which their clips were run."""
    runs = [(at, int(run[0, 0])) for b in backends for at, run in zip(b.at, b.runs, strict=True)]
    return [stream for _, stream in sorted(runs) if stream]


def test_a_recording_that_nobody_waits_for_runs_in_the_gaps(world: World) -> None:
    backend = CountingBackend(world.clock, run_s=lambda _n: 0.03)
    engine = world.engine(backend)
    for i in (1, 2, 3):
        world.camera(engine, f"s{i}", of(i))
    recording = world.camera(engine, "file", of(9, 2000), times=[0.0] * 2000, paced=False)
    world.run(20.0)
    for i in (1, 2, 3):
        seen = world.streams[f"s{i}"].snapshot()
        assert (seen.misses, seen.dropped) == (0, {})
    seen = recording.snapshot()
    # 20 s hold 666 runs, 375 of them for the cameras; no frame of the recording is lost.
    assert seen.clips == pytest.approx(290, abs=5)
    assert (seen.dropped, seen.misses) == ({}, 0)


def test_frames_that_come_in_bursts_lose_nothing(world: World) -> None:
    backend = CountingBackend(world.clock, run_s=lambda _n: 0.02)
    engine = world.engine(backend)
    bursts = [i // 8 * 0.32 for i in range(400)]  # eight at once: the network's doing
    stream = world.camera(engine, "wifi", of(1, 400), times=bursts)
    world.camera(engine, "wire", of(2, 400))
    world.run(20.0)
    assert stream.snapshot().scored == 400
    assert stream.snapshot().dropped == {}
    assert world.streams["wire"].snapshot().misses == 0


# -- too slow ------------------------------------------------------------------------------------


def overloaded(world: World, policy: str, *, hop: int = 4, **about: Any) -> CountingBackend:
    """Run four cameras on an engine that can serve two and two thirds, for a minute."""
    backend = CountingBackend(world.clock, run_s=lambda _n: 0.06 * hop / 4)
    engine = world.engine(backend)
    for i in range(1, 5):
        settings = {"policy": policy, "about": live_manifest(hop=hop, **about)}
        world.camera(engine, f"s{i}", of(i), start_s=i * 0.01, **settings)
    world.run(60.0)
    return backend


def test_drop_oldest_shares_what_there_is_and_counts_the_rest(world: World) -> None:
    backend = overloaded(world, "drop-oldest")
    share = 60 / 0.06 / 4
    for count in starts(backend).values():
        assert count == pytest.approx(share, rel=0.05)
    for i in range(1, 5):
        seen = world.streams[f"s{i}"].snapshot()
        # Every clip that could be made is scored or counted.
        assert seen.clips + seen.dropped["late clip"] == pytest.approx(60 * 25 / 4, abs=2)
        # A clip that starts in time is one budget and the others' runs late at the worst.
        assert seen.latency.max_ms < 160 + 4 * 60
        assert seen.unscored["skipped"] == 4 * seen.dropped["late clip"]
    assert len(world.said) == 4  # one line for each stream, however many clips


def test_widen_hop_loses_no_frame_where_a_wider_hop_is_enough(world: World) -> None:
    overloaded(world, "widen-hop", hop=2, frames=8)
    for i in range(1, 5):
        seen = world.streams[f"s{i}"].snapshot()
        assert seen.dropped == {}
        assert seen.hop > 2
        assert set(seen.unscored) <= {"warm-up"}
    assert any("hop 2 -> 4" in line for line in world.said)


def test_after_the_load_is_gone_the_stream_is_told_to_be_in_time_again(world: World) -> None:
    slow_until = world.clock.now + 5
    backend = CountingBackend(
        world.clock, run_s=lambda _n: 0.5 if world.clock.now < slow_until else 0.01
    )
    stream = world.camera(world.engine(backend), "gate", of(1))
    world.run(30.0)
    assert len(world.said) == 2
    assert "behind" in world.said[0]
    assert "in time again" in world.said[1]
    assert stream.snapshot().dropped["late clip"] > 3


def test_the_policy_error_ends_the_site_with_one_line_once(world: World) -> None:
    overloaded(world, "error")
    (error,) = world.fatal
    assert_one_line(error, "s", "160 ms", "policy error")


def test_a_late_clip_without_a_newer_one_is_a_miss_and_not_a_drop(world: World) -> None:
    """Two cameras in step: the second one's clip is late before its turn has come."""
    backend = CountingBackend(world.clock, run_s=lambda _n: 0.05)
    engine = world.engine(backend)
    for name in ("gate", "yard"):
        world.camera(engine, name, of(1, 100), target_ms=20.0)
    world.run(5.0)
    for stream in world.streams.values():
        seen = stream.snapshot()
        assert (seen.misses, seen.clips, seen.dropped) == (25, 25, {})


# -- batches -------------------------------------------------------------------------------------


def gpu(world: World, backend: CountingBackend, **options: Any) -> Engine:
    return world.engine(backend, gpu=True, **({"largest_batch": 4} | options))


def test_on_a_gpu_clips_of_several_streams_run_together(world: World) -> None:
    backend = CountingBackend(world.clock, run_s=lambda n: 0.05 + 0.001 * n)
    engine = gpu(world, backend, largest_batch=8)
    for i in range(1, 9):  # 8 / 0.16 s = 50 clips a second; one at a time gives 20
        world.camera(engine, f"s{i}", of(i), start_s=i * 0.004)
    world.run(20.0)
    sizes = [len(run) for run in backend.runs if run.any()]
    assert np.mean(sizes) > 2.5
    assert max(sizes) <= 8
    for stream in world.streams.values():
        seen = stream.snapshot()
        assert (seen.misses, seen.dropped) == (0, {})
        assert seen.latency.max_ms < 160


def test_on_a_gpu_a_clip_waits_a_moment_for_that_of_a_camera_in_step_with_it(world: World) -> None:
    backend = CountingBackend(world.clock, run_s=lambda _n: 0.03)
    engine = gpu(world, backend)
    for i in (1, 2):
        world.camera(engine, f"s{i}", of(i, 100), start_s=i * 0.01)
    world.run(3.0)
    sizes = [len(run) for run in backend.runs if run.any()]
    assert sizes[1:15] == [2] * 14


def test_each_stream_of_a_batch_gets_its_own_scores(world: World) -> None:
    engine = gpu(world, CountingBackend(world.clock))
    for i in range(1, 4):
        world.camera(engine, f"s{i}", pictures([10 * i + j for j in range(8)]))
    world.run(1.0)
    for i in range(1, 4):
        assert [one.raw for one in world.scored[f"s{i}"]] == [10 * i + j for j in range(8)]


def test_a_batch_that_fails_is_tried_smaller(world: World) -> None:
    backend = CountingBackend(world.clock)
    backend.errors = lambda run: BackendError("no memory") if len(backend.runs[run]) > 2 else None
    engine = gpu(world, backend)
    for i in range(1, 5):
        world.camera(engine, f"s{i}", of(i, 100))
    world.run(5.0)
    assert max(len(run) for run in backend.runs[6:]) <= 2
    assert all(stream.snapshot().clips > 20 for stream in world.streams.values())
    assert not engine.failed


# -- what fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", ["source", "tracker"])
def test_a_stream_that_dies_does_not_touch_the_others(world: World, bug: str) -> None:
    def alone() -> CountingBackend:
        lonely = World()
        backend = CountingBackend(lonely.clock, run_s=lambda _n: 0.02)
        lonely.camera(lonely.engine(backend), "well", of(1, 100))
        lonely.run(5.0)
        return backend

    def explode(*_scored: object) -> None:
        raise ZeroDivisionError("ours")

    backend = CountingBackend(world.clock, run_s=lambda _n: 0.02)
    engine = world.engine(backend)
    world.camera(engine, "well", of(1, 100))
    items = [*of(2, 6), RuntimeError("torn")] if bug == "source" else of(2, 100)
    ill = world.camera(engine, "ill", items)
    if bug == "tracker":
        ill._tracker.update = explode  # type: ignore[assignment]
    world.run(5.0)
    well = world.streams["well"].snapshot()
    assert (well.scored, well.misses, well.dropped) == (100, 0, {})
    assert starts(backend)[1] == starts(alone())[1]
    assert ill.ended
    assert world.ended[0] == "ill"
    assert ("torn" if bug == "source" else "ours") in ill.snapshot().state_reason
    assert world.scorer.error == ""


def test_a_callback_that_fails_is_told_and_counted_and_scoring_goes_on(world: World) -> None:
    def full(_scored: object) -> None:
        raise OSError("disk")

    engine = world.engine(CountingBackend(world.clock))
    stream = world.camera(engine, "gate", of(1, 20), on_scored=full)
    world.run(2.0)
    seen = stream.snapshot()
    assert (seen.scored, seen.dropped, seen.state_reason) == (20, {"callback failed": 20}, "")
    (line,) = world.said
    assert_one_line(VadError(line), "gate", "OSError: disk")


def test_an_engine_that_fails_for_a_while_costs_its_clips_and_no_more(world: World) -> None:
    failing = range(3, 8)
    backend = CountingBackend(
        world.clock, errors=lambda run: BackendError("out of memory.") if run in failing else None
    )
    engine = world.engine(backend)
    stream = world.camera(engine, "gate", of(1, 100))
    world.run(5.0)
    seen = stream.snapshot()
    assert seen.dropped == {"engine error": 5}
    assert seen.clips == 20
    assert engine.status().errors == 5
    assert engine.status().trouble == ""
    assert [line.split(": ")[1].split()[0] for line in world.said] == ["out", "works"]


def test_scores_that_are_no_numbers_are_an_error_of_the_engine_and_no_silence(
    world: World,
) -> None:
    class Broken(CountingBackend):
        def infer(self, clips: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[np.float32]]:
            scores = super().infer(clips)["score"]
            return {"score": np.where(scores == 7, np.float32("nan"), scores)}

    engine = world.engine(Broken(world.clock))
    stream = world.camera(engine, "gate", pictures([1] * 8 + [7] * 4 + [1] * 8))
    world.run(2.0)
    assert stream.snapshot().dropped == {"engine error": 1}
    assert "not finite" in world.said[0]
    assert stream.snapshot().clips == 4


def test_an_engine_that_only_fails_is_opened_anew(world: World) -> None:
    dead = CountingBackend(world.clock, errors=lambda _run: BackendError("device lost."))
    fresh = CountingBackend(world.clock, device="fresh")
    engine = world.engine(dead, reopen=lambda: fresh)
    stream = world.camera(engine, "gate", of(1))
    world.run(3.4)
    assert engine.failed
    assert len(dead.runs) == ERRORS_IN_A_ROW
    assert "20 errors in a row" in engine.status().trouble
    world.run(1.5)
    settle(engine)
    world.run(2.0)
    assert dead.closed
    assert engine.status().trouble == ""
    assert engine.status().device == "fresh"
    assert fresh.clips
    assert stream.snapshot().dropped["engine failed"] > 0
    assert len(world.said) == 3  # fails, has failed, works again


def settle(engine: Engine) -> None:
    """Let the engine's own thread, which opens it anew, come to its end."""
    if engine._retry is not None:
        engine._retry.join(5.0)


def test_an_engine_that_cannot_be_opened_is_tried_ever_more_rarely(world: World) -> None:
    tries: list[float] = []

    def reopen() -> CountingBackend:
        tries.append(world.clock.now)
        raise BackendError("no device. Plug it in.")

    dead = CountingBackend(world.clock, errors=lambda _run: ValueError("lost"))
    engine = world.engine(dead, reopen=reopen)
    world.camera(engine, "gate", of(1, 7000))
    for _ in range(1000):
        world.run(0.25)
        settle(engine)
    assert 7 <= len(tries) <= 15  # 1, 2, 4 … 60 s, each by half at the least
    assert "no device" in engine.status().trouble
    assert len(world.said) == 2
    assert "ValueError: lost" in world.said[0]


def test_a_recording_waits_for_an_engine_that_has_failed(world: World) -> None:
    dead = CountingBackend(world.clock, errors=lambda _run: BackendError("lost."))
    engine = world.engine(dead, reopen=lambda: CountingBackend(world.clock))
    stream = world.camera(engine, "file", of(1, 200), times=[0.0] * 200, paced=False)
    world.run(0.5)
    assert engine.failed
    world.run(1.5)
    settle(engine)
    world.run(1.0)
    assert stream.snapshot().dropped == {"engine error": ERRORS_IN_A_ROW - 1}
    assert stream.snapshot().scored >= 4 * (50 - ERRORS_IN_A_ROW)


def test_a_run_that_hangs_shows_in_the_status(world: World) -> None:
    said = {}

    def look(_count: int) -> float:
        world.clock.now += 100
        said["trouble"] = engine.status().trouble
        return 0.0

    engine = world.engine(CountingBackend(world.clock, run_s=look))
    world.camera(engine, "gate", of(1, 8))
    world.run(1.0)
    assert "100 s" in said["trouble"]
    assert engine.status().trouble == ""


# -- with threads --------------------------------------------------------------------------------


class Slow:
    """A back end that may be held."""

    device = "slow"

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.closed = False

    def infer(self, clips: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[np.float32]]:
        assert self.free.wait(30)
        return {"score": clips[:, :, 0, 0, 0].astype(np.float32)}

    def close(self) -> None:
        self.closed = True


def camera_frames(value: int, gone: threading.Event) -> Any:
    """Yield frames, 200 a second, until told to stop."""
    for i in range(100_000):
        if gone.wait(0.005):
            return
        yield frame(i, np.full((2, 2, 1), value, np.uint8), fps=200)


def live(engine: Engine, name: str, value: int = 9, **options: Any) -> LiveStream:
    """Add a stream with real threads, whose every frame is above the threshold."""
    about = live_manifest(threshold=5.0)
    gone = threading.Event()
    source = ListSource(camera_frames(value, gone), fps=200)
    source.stop = gone.set  # type: ignore[attr-defined]
    reader = Prefetch(source, live=True, on_item=engine.wake)
    settings = StreamSettings(source=Secret("x"))
    stream = LiveStream(
        name,
        settings,
        about,
        reader,
        tracker=EventTracker("site", name, about.scoring, settings.events, "test"),
        source=source,
        **options,
    )
    engine.add(stream)
    return stream


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "too slow"
        time.sleep(0.005)


def vad_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("vad-")}


def test_streams_come_and_go_while_others_run() -> None:
    changes: list[Any] = []
    backend = Slow()
    engine = Engine("site.vad", backend)
    stays = live(engine, "stays", value=1)
    for turn in range(3):
        goes = live(engine, "goes", on_change=lambda change, _scored: changes.append(change))
        with pytest.raises(ValueError, match="goes"):
            live(engine, "goes")
        until(lambda one=goes: one.snapshot().events == 1)  # type: ignore[misc]
        assert sorted(engine.status().streams) == ["goes", "stays"]
        assert engine.remove("goes", by="stop", timeout_s=20)
        assert engine.status().streams == ["stays"]
        assert [(c.kind, c.event.ended_by) for c in changes[2 * turn :]] == [
            ("started", None),
            ("ended", "stop"),
        ]
    before = stays.snapshot().scored
    until(lambda: stays.snapshot().scored > before)
    assert engine.remove("nobody")
    assert engine.close(timeout_s=20)
    assert engine.close()
    assert backend.closed
    assert stays.ended
    assert stays.settled
    assert not vad_threads() & {"vad-scorer", "vad-source"}


def test_taking_a_stream_away_is_bounded_where_the_engine_hangs() -> None:
    backend = Slow()
    engine = Engine("site.vad", backend)
    live(engine, "gate")
    until(lambda: engine.status().clips > 0)
    backend.free.clear()
    time.sleep(0.1)
    start_s = time.monotonic()
    assert not engine.remove("gate", timeout_s=0.5)
    assert time.monotonic() - start_s < 8
    backend.free.set()
    until(lambda: not engine.status().streams)
    assert engine.close(timeout_s=20)
    assert backend.closed


def test_a_back_end_that_another_thread_still_uses_is_not_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CountingBackend(world.clock)
    engine = world.engine(backend)
    monkeypatch.setattr(world.scorer, "detach", lambda *_: False)  # a run hangs
    assert not engine.close(timeout_s=0.1)
    assert not backend.closed, "that could crash the process"


def test_a_callback_may_not_wait_for_its_own_thread() -> None:
    engine = Engine("site.vad", Slow())
    caught: list[Exception] = []

    def remove(stream: LiveStream) -> None:
        try:
            engine.remove(stream.name)
        except RuntimeError as error:
            caught.append(error)

    stream = live(engine, "gate", on_ended=remove)
    until(lambda: stream.snapshot().frames > 0)
    assert engine.close(timeout_s=20)
    assert len(caught) <= 1  # the name was taken out by `close` already, or the call is refused


def test_a_scorer_that_dies_of_a_bug_says_so_and_can_be_closed() -> None:
    said: list[str] = []
    scorer = Scorer(say=said.append)
    engine = Engine("site.vad", Slow(), scorer=scorer)
    scorer._request(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    stream = live(engine, "gate")
    until(lambda: scorer.error != "")
    assert "ZeroDivisionError" in engine.status().trouble
    assert_one_line(VadError(said[0]), "Restart")
    assert not engine.close(timeout_s=5)  # its frames were never settled
    assert stream.ended
    assert scorer.close()


def test_an_engine_that_never_had_a_stream_can_be_closed() -> None:
    backend = Slow()
    scorer = Scorer()
    assert Engine("site.vad", backend, scorer=scorer).close()
    assert backend.closed
    assert scorer.close()
    with pytest.raises(RuntimeError, match="closed"):
        live(Engine("late.vad", Slow(), scorer=scorer), "gate")
