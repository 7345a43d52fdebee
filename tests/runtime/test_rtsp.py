"""Real RTSP: a camera that is killed, stopped, cut, changed and lossy; no clip spans the gap.

Every picture of the camera carries its number, so what a scored clip holds is read from its pixels;
its times are asserted as well.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers import Image, assert_one_line, clip_spec, manifest
from helpers_rtsp import GOP, LOOP, Camera, marked, numbers, write_clip

from vad_runtime.bundle import Bundle
from vad_runtime.contracts.errors import SourceError
from vad_runtime.contracts.site import Secret, StreamSettings, WatchdogSettings
from vad_runtime.detector import Detector, Scores
from vad_runtime.live.base import StateChange
from vad_runtime.sources import live_frames
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.live import LiveSource, open_live
from vad_runtime.sources.prefetch import Prefetch
from vad_runtime.sources.resize import resized
from vad_runtime.windows import Clip, HoleRule

SPEC = clip_spec(frames=8, hop=4, height=48, width=64)
LONGEST_GAP_S = 0.5
"""A longer step in time is a hole: `HoleRule` at 25 frames a second."""
RESUME_S = 5.0
"""So soon after the camera's return scoring has to go on: the issue's own number."""


def pictures(video: Path, width: int, height: int) -> Iterator[Image]:
    """Yield LOOP marked pictures of a real video, from its start again at its end."""

    def images() -> Iterator[Image]:
        left = LOOP
        while left:
            with av.open(str(video)) as box:
                for frame in box.decode(video=0):
                    yield frame.reformat(width, height, "rgb24").to_ndarray()
                    left -= 1
                    if not left:
                        return

    return marked(images())


@pytest.fixture(scope="module")
def footage(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same real clip in two sizes."""
    folder = tmp_path_factory.mktemp("rtsp")
    video = data / "clips" / "car-detection.mp4"
    return [
        write_clip(folder / f"{width}x{height}", pictures(video, width, height))
        for width, height in ((320, 240), (192, 144))
    ]


@pytest.fixture
def camera(footage: list[Path]) -> Iterator[Camera]:
    """A camera that plays."""
    with Camera(footage) as running:
        yield running


@dataclass(frozen=True)
class ScoredClip:
    """What one clip held when it was scored."""

    numbers: list[int]
    pts_s: list[float]
    at_s: float


class Watch:
    """A camera that is watched in threads of its own, as in a site; the scores are of no interest.

    Args:
        url: Of the camera.
        changes: Of the settings.
    """

    def __init__(self, url: str, **changes: Any) -> None:
        watchdog = {"connect_s": 2.0, "stalled_s": 1.0} | changes.pop("watchdog", {})
        settings = StreamSettings(
            source=Secret(url), watchdog=WatchdogSettings(**watchdog), **changes
        )
        self.changes: list[StateChange] = []
        self.clips: list[ScoredClip] = []
        self.damaged = 0
        self.source = LiveSource(
            address_from_text(url), SPEC, settings, pictures=False, on_state=self.changes.append
        )
        self.frames = Prefetch(self.source, live=True)
        self.detector = Detector(manifest(clip=SPEC))
        self._times: dict[int, float] = {}
        self._thread = threading.Thread(target=self._score)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.frames.close()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _score(self) -> None:
        holes = HoleRule(25)
        for frame in self.frames:
            self._times[frame.index] = frame.pts_s
            self.damaged += frame.damaged
            steps = self.detector.feed(frame, holes.cause(frame))
            answer: Scores | None = None
            try:
                while True:
                    step = steps.send(answer)
                    answer = self._answer(step) if isinstance(step, Clip) else None
            except StopIteration:
                pass

    def _answer(self, clip: Clip) -> Scores:
        times = [self._times[index] for index in clip.indices]
        self.clips.append(ScoredClip(numbers(clip.pixels), times, time.monotonic()))
        return np.zeros((1, SPEC.frames), np.float32)

    # -- what a test asks ------------------------------------------------------------------------

    def scores(self, count: int = 5) -> float:
        """Wait until so many more clips are scored; return how long it took, seconds."""
        start, before = time.monotonic(), len(self.clips)
        until(lambda: len(self.clips) >= before + count, f"{count} clips; {self.changes}")
        return self.clips[before].at_s - start

    def states(self) -> list[str]:
        """Return the states up to now."""
        return [change.state for change in self.changes]

    def check(self, *, most_lost: int = 0) -> None:
        """Assert that no clip spans a gap, by its times and by the numbers in its pictures.

        Args:
            most_lost: So many pictures may be missing in front of a key frame, which needs none of
                them: less than what `HoleRule` calls a hole.
        """
        for clip in self.clips:
            steps = np.diff(clip.pts_s)
            assert steps.min() > 0
            assert steps.max() <= LONGEST_GAP_S, clip
            for one, other in pairwise(clip.numbers):
                missing = (other - one) % LOOP - 1
                assert 0 <= missing <= (0 if other % GOP else most_lost), clip
        for before, after in pairwise(self.clips):
            assert after.pts_s[0] > before.pts_s[0]


def until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def test_a_camera_that_is_killed_and_started_again(camera: Camera) -> None:
    with Watch(camera.url) as watch:
        watch.scores()
        camera.kill()
        until(lambda: "lost" in watch.states(), "the loss")
        camera.start(at=90)
        assert watch.scores() < RESUME_S
    watch.check()
    assert watch.states() == ["live", "lost", "live", "ended"]
    assert watch.source.stats.holes["reconnected"] == 1
    assert watch.source.stats.connections == 2


def test_a_camera_that_stops_without_an_error(camera: Camera) -> None:
    with Watch(camera.url) as watch:
        watch.scores()
        camera.pause()
        until(lambda: "stalled" in watch.states(), "the stall")
        time.sleep(0.5)
        camera.resume()
        assert watch.scores() < RESUME_S
    watch.check()
    assert watch.states()[:2] == ["live", "stalled"]
    assert watch.states()[-2:] == ["live", "ended"]
    assert watch.source.stats.holes["stalled"] == 1


def test_another_resolution_in_mid_stream(camera: Camera) -> None:
    with Watch(camera.url) as watch:
        watch.scores()
        camera.tell("clip 1")
        until(lambda: watch.source.info.width == 192, "the new size")
        assert watch.scores() < RESUME_S
    watch.check()
    assert watch.states() == ["live", "ended"]
    assert watch.source.stats.holes["change of resolution"] == 1


def test_a_connection_that_is_cut_in_the_middle_of_a_group_of_pictures(camera: Camera) -> None:
    with Watch(camera.url) as watch:
        watch.scores()
        until(lambda: watch.clips[-1].numbers[-1] % GOP in range(4, 7), "the middle of a group")
        camera.tell("cut")
        assert watch.scores() < RESUME_S
    watch.check()
    assert watch.states() == ["live", "lost", "live", "ended"]
    assert watch.source.stats.holes["reconnected"] == 1


def test_pictures_that_are_missing_in_the_middle_of_a_group(camera: Camera) -> None:
    with Watch(camera.url) as watch:
        watch.scores()
        camera.tell("skip 17")
        assert watch.scores() < RESUME_S
    watch.check()
    assert watch.states() == ["live", "ended"]
    assert watch.source.stats.holes["jump in time"] == 1


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_twentieth_of_the_packets_is_lost(camera: Camera, transport: str) -> None:
    with Watch(camera.url, transport=transport) as watch:
        watch.scores(2)
        camera.tell("drop 0.05")
        time.sleep(2.0)
        camera.tell("drop 0")
        assert watch.scores() < RESUME_S
    watch.check(most_lost=3)
    assert watch.damaged > 0
    assert watch.source.stats.damaged == watch.damaged
    assert watch.states() == ["live", "ended"]


def test_a_frozen_picture_is_not_scored_and_told(camera: Camera) -> None:
    with Watch(camera.url, watchdog={"frozen_s": 0.5}) as watch:
        watch.scores(2)
        camera.tell("freeze 1")
        until(lambda: watch.source.state == "frozen", "the frozen picture")
        time.sleep(0.2)  # the last clip before it
        scored = len(watch.clips)
        time.sleep(0.3)
        assert len(watch.clips) == scored
        camera.tell("freeze 0")
        assert watch.scores() < RESUME_S
    assert watch.states() == ["live", "frozen", "live", "ended"]
    assert watch.source.stats.frozen > 5


def test_decoding_that_is_too_slow_is_caught_up_by_dropping_whole_groups(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any) -> Any:
        time.sleep(0.1)
        return resized(*arguments)

    monkeypatch.setattr(live_frames, "resized", slowly)
    with Watch(camera.url, watchdog={"behind_s": 0.4}) as watch:
        until(lambda: "decoder behind" in watch.source.stats.holes, "the lag")
        monkeypatch.undo()
        assert watch.scores() < RESUME_S
        assert watch.source.behind_s < 0.4
    watch.check()
    assert watch.states() == ["live", "ended"]
    assert watch.source.stats.dropped["decoder behind"] > 3


def test_an_address_without_a_camera_is_an_error_within_the_time_for_connecting() -> None:
    start = time.monotonic()
    with pytest.raises(SourceError) as caught:
        open_live(address_from_text("rtsp://admin:hunter2@127.0.0.1:9/x"), SPEC)
    assert time.monotonic() - start < 6
    assert_one_line(caught.value, "127.0.0.1:9", "refused")
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("ctrl_c")
def test_watch_follows_a_camera_over_a_restart_until_ctrl_c(
    camera: Camera, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    log = tmp_path / "log"

    def rows() -> int:
        table = out / "scores.csv"
        return table.read_text().count("\n") if table.exists() else 0

    options = ["--no-overlay", "--no-plot", "--backend", "onnxruntime", "--threads", "1"]
    command = [sys.executable, "-m", "vad_runtime", "watch", str(tiny_bundle.path), camera.url]
    with log.open("w") as lines:
        process = subprocess.Popen(
            [*command, "-o", str(out), *options], stdout=lines, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: rows() > 20, "the first rows", 30)
        camera.kill()
        until(lambda: ": lost" in log.read_text(), "the loss")
        camera.start(at=90)
        until(lambda: log.read_text().count(": live") == 2, "the return")
        before = rows()
        until(lambda: rows() > before + 20, "more rows")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.wait()
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"]
    assert report["connections"] == 2
    assert report["holes"]["reconnected"] == 1
    assert report["window_flushes"]["reconnected"] == 1
    assert report["frames_scored"] > 30
    assert log.read_text().count(": lost") == 1
