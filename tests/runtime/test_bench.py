"""`vad-run bench` as a user types it."""

import html
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import manifest, moving_blob, write_video

from vad_runtime.backends import Choice, open_backend
from vad_runtime.backends.base import Inputs, Outputs
from vad_runtime.bench import inputs
from vad_runtime.bench.command import JSON, PAGE
from vad_runtime.bundle import Bundle, rewrite_manifest, write_bundle
from vad_runtime.cli import cli
from vad_runtime.commands import Interrupted
from vad_runtime.contracts.errors import BackendError, InputError, SourceError
from vad_runtime.contracts.manifest import FeatureSpec, PlanChoice, ScoreSpec

BIN = Path(sys.executable).parent


@pytest.fixture
def bench(tiny_bundle: Bundle) -> Callable[..., Result]:
    """Run the command on the tiny bundle without looking for sensors; an error is raised."""

    def run(*arguments: object, bundle: Path = tiny_bundle.path) -> Result:
        words = ["bench", bundle, "--no-energy", "--threads", "1", *arguments]
        return CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)

    return run


def report_in(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / JSON).read_text())
    return report


# -- noise ---------------------------------------------------------------------------------------


def test_a_bundle_is_measured_on_noise_and_says_that_decoding_is_not(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    done = bench("--clips", 25, "--warm-up", 3, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "seeded noise" in done.output
    assert "need --source VIDEO" in done.output
    report = report_in(tmp_path / "out")
    assert report["schema"] == 1
    assert report["interrupted"] is False
    assert report["latency"]["count"] == 25
    assert report["warm_up"]["count"] == 3
    raw = report["raw"]
    assert [len(raw[name]) for name in ("latency_ms", "engine_ms", "cpu_ms", "due_s")] == [25] * 4
    assert report["latency"]["max_ms"] == max(raw["latency_ms"])
    assert raw["latency_ms"] == raw["engine_ms"]
    assert raw["due_s"] == sorted(raw["due_s"])
    assert report["target"] is None
    assert report["path"] is None
    assert report["answers"]["checked"] == 1 + 3 + 25
    assert report["cold"]["engine_ms"] > 0
    assert report["energy"] == {"sensors": [], "unavailable": {}, "absent": []}


@pytest.mark.parametrize("film", [False, True])
def test_the_lines_can_be_pasted_as_markdown(
    bench: Callable[..., Result], tiny_video: Path, film: bool
) -> None:
    lines = bench("--clips", 5, *(["--source", tiny_video] if film else [])).output.splitlines()
    # Lines of a paragraph would flow together, and a table needs an empty line before it.
    kinds = [line[:2] if line[:2] in ("* ", "| ", "|-") else line and "text" for line in lines]
    for before, after in itertools.pairwise(kinds):
        table = {"| ", "|-"}
        assert before != "text" or after == ""
        if after in table or before in table:
            assert (before in table and after in table) or "" in (before, after)
    (head,) = [i for i, line in enumerate(lines) if line.startswith("| ms |")]
    assert {line.count("|") for line in lines[head : head + 3]} == {10}
    assert set(lines[head + 1]) <= set("|-")


def test_clips_of_several_streams_wait_for_each_other(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    done = bench("--clips", 12, "--streams", 4, "-o", tmp_path)
    assert "clip of 4 due at once" in done.output
    raw = report_in(tmp_path)["raw"]
    for first in range(0, 12, 4):
        together = slice(first, first + 4)
        assert np.cumsum(raw["engine_ms"][together]) == pytest.approx(raw["latency_ms"][together])
        assert len(set(raw["due_s"][together])) == 1


def test_a_number_of_clips_that_the_streams_do_not_divide_is_kept(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    bench("--clips", 7, "--streams", 4, "-o", tmp_path)
    assert report_in(tmp_path)["latency"]["count"] == 7


def test_a_time_is_measured_for_with_a_least_number_of_clips(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    bench("--seconds", 0.0001, "-o", tmp_path)
    assert report_in(tmp_path)["latency"]["count"] == 20


# -- target --------------------------------------------------------------------------------------


def test_a_target_that_is_missed_is_told_and_is_no_error(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    done = bench("--clips", 10, "--target-ms", 1e-6, "-o", tmp_path)
    assert done.exit_code == 0
    words = (
        "target 1e-06 ms, one clip's inference: MISSED so far (10 clips); 10 of 10 clips over it"
    )
    assert f"{words} (100.00%), max " in done.output
    told = re.search(r"run 10 from (.*) s on; at (.*), … s$", done.output, re.MULTILINE)
    assert told
    moments = told[2].split(", ")
    assert len(set(moments)) == 5  # never "0.00, 0.00"
    assert told[1] == moments[0] == f"{0:.{len(moments[0]) - 2}f}"
    target = report_in(tmp_path)["target"]
    assert target["longest_run"] == 10
    assert target["clips"] == list(range(10))
    assert target["at_s"][0] == 0


def test_a_target_that_is_met_is_told(bench: Callable[..., Result]) -> None:
    done = bench("--clips", 10, "--target-ms", 1e6)
    words = "target 1e+06 ms, one clip's inference: met so far (10 clips); 0 of 10 clips over it"
    assert words in done.output
    assert "p99 0" not in done.output
    enough = bench("--clips", 100, "--target-ms", 1e6).output
    assert "one clip's inference: met; 0 of 100 clips over it (0.00%), p99 " in enough


def test_with_a_film_the_whole_path_is_judged_too_and_each_line_names_what_it_judges(
    bench: Callable[..., Result], tiny_video: Path, tmp_path: Path
) -> None:
    words = ["--clips", 1, "--source", tiny_video, "--target-ms", 1e-6, "-o", tmp_path]
    done = bench(*words, "--streams", 2)
    report = report_in(tmp_path)
    one, whole = (line for line in done.output.splitlines() if line.startswith("* target"))
    count = report["frame_to_score"]["count"]
    assert one.startswith("* target 1e-06 ms, clip of 2 due at once: MISSED so far")
    assert whole.startswith("* target 1e-06 ms, whole path, last frame to score: MISSED so far")
    assert f"; {count} of {count} clips over it" in whole
    assert report["target_whole_path"]["count"] == count
    assert report["target"]["at_s"][0] == 0  # the passes before inference are no part of it
    page = (tmp_path / PAGE).read_text()
    assert page.count('<p class="verdict bad">target 1e-06 ms') == 2
    # One round has no spread.
    assert report["path"]["rounds"] == 1
    assert "10-90 % " not in done.output.replace("| 10-90 % |", "")
    assert "there is no spread" in page
    assert 'class="whisker"' not in page


def test_without_a_target_that_of_the_plan_is_taken(
    bench: Callable[..., Result], bundle_copy: Path
) -> None:
    opened = Bundle.open(bundle_copy)
    plan = PlanChoice(
        backend="openvino",
        precision="fp32",
        target_ms=54321.0,
        median_ms=1.0,
        p95_ms=2.0,
        cpu="any",
        threads=1,
        why="for a test",
    )
    rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, plan=plan))
    assert (
        "target 54321 ms, one clip's inference: met"
        in bench("--clips", 3, bundle=bundle_copy).output
    )
    other = bench("--clips", 3, "--target-ms", 99999, bundle=bundle_copy)
    assert "target 99999 ms, one clip's inference: met" in other.output


# -- a film --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True], ids=["video", "frames"])
def test_the_whole_path_is_measured_by_stages(
    bench: Callable[..., Result],
    tiny_video: Path,
    frame_folder: Path,
    tmp_path: Path,
    folder: bool,
) -> None:
    source = frame_folder if folder else tiny_video
    done = bench("--clips", 8, "--source", source, "--hop", 2, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    report = report_in(tmp_path)
    path = report["path"]
    expected = ["decode", "resize", "window", "inference", "scoring", "whole path"]
    for name in expected:
        assert f"| {name} |" in done.output
        assert math.isfinite(path["stages"][name]["cpu_ms_a_clip"]["p50"])
    assert "x (inference alone + decode alone)" in done.output
    one = path["raw_s"][0]
    ratios = [
        r["whole path"]["cpu"] / (r["inference"]["cpu"] + r["decode"]["cpu"]) for r in path["raw_s"]
    ]
    assert path["cpu_ratio"]["p50"] == pytest.approx(float(np.median(ratios)))
    assert set(one) == {*expected, "decode and resize"} - {"resize"}
    # Each round goes through the same clips alone and on the whole path, with the same answers.
    clips = path["clips_a_round"]
    assert report["inputs"]["clips"] == clips
    assert report["latency"]["count"] == clips * path["rounds"]
    assert report["frame_to_score"]["count"] == clips * path["rounds"]
    assert path["frames_a_round"] == (12 if folder else min(60, 8 + 2 * (clips - 1)))


def test_a_short_film_keeps_the_clip_at_its_end(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "short.mp4", moving_blob(13))
    bench("--clips", 1, "--source", film, "--hop", 4, "-o", tmp_path / "out")
    # Frames 0-7, 4-11, and the tail 5-12.
    assert report_in(tmp_path / "out")["path"]["clips_a_round"] == 3


def test_a_film_shorter_than_a_clip_is_refused(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    film = write_video(tmp_path / "short.mp4", moving_blob(5))
    with pytest.raises(SourceError, match="none of them in a row of the 8"):
        bench("--source", film)


def test_a_camera_is_refused(bench: Callable[..., Result]) -> None:
    with pytest.raises(InputError, match="a pace of its own"):
        bench("--source", "rtsp://10.0.0.5/stream1")


def test_a_film_may_be_named_as_an_address(bench: Callable[..., Result], tiny_video: Path) -> None:
    done = bench("--clips", 1, "--source", f"file://{tiny_video}")
    assert done.exit_code == 0, done.output
    assert "| decode |" in done.output


def test_a_pattern_is_refused(bench: Callable[..., Result], tiny_video: Path) -> None:
    with pytest.raises(InputError, match="is a pattern"):
        bench("--source", tiny_video.parent / "*.mp4")


def test_a_long_hop_does_not_fill_the_memory_with_frames(
    tiny_bundle: Bundle, tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_BYTES", 2 * 8 * 32 * 32 + 28 * 32 * 32)
    film = inputs.read_film(str(tiny_video), tiny_bundle.manifest, 20, 32)
    assert len(film.clips) == 2
    assert film.frames == 28


@pytest.mark.parametrize("warm_up", [0, 3])
def test_the_first_run_of_the_whole_path_is_in_no_table(
    bench: Callable[..., Result], tiny_video: Path, tmp_path: Path, warm_up: int
) -> None:
    bench("--clips", 1, "--warm-up", warm_up, "--source", tiny_video, "-o", tmp_path)
    report = report_in(tmp_path)
    clips = report["path"]["clips_a_round"]
    assert report["path"]["rounds"] == 1
    assert report["frame_to_score"]["count"] == clips
    # Of noise one and two to learn how long a clip takes; then alone and on the whole path.
    runs = 2 + (warm_up > 0)
    assert report["answers"]["checked"] == 3 + warm_up + runs * clips


def test_a_hop_that_the_stride_does_not_divide_is_refused(
    bundle_copy: Path, bench: Callable[..., Result], tiny_video: Path
) -> None:
    opened = Bundle.open(bundle_copy)
    clip = msgspec.structs.replace(opened.manifest.clip, stride=2, hop=2)
    rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, clip=clip))
    with pytest.raises(InputError, match="--hop"):
        bench("--source", tiny_video, "--hop", 3, bundle=bundle_copy)


@pytest.mark.parametrize("words", [["--source", "none.mp4"], ["--hop", 3]])
def test_what_cannot_be_measured_is_told_before_an_engine_is_loaded(
    bundle_copy: Path,
    bench: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
) -> None:
    opened = Bundle.open(bundle_copy)
    clip = msgspec.structs.replace(opened.manifest.clip, stride=2, hop=2)
    rewrite_manifest(opened, msgspec.structs.replace(opened.manifest, clip=clip))
    monkeypatch.delattr("vad_runtime.bench.command.open_backend")
    with pytest.raises((InputError, SourceError), match=r"--hop|none\.mp4 does not exist"):
        bench(*words, bundle=bundle_copy)


def test_names_that_are_no_text_can_be_reported(
    bench: Callable[..., Result], tiny_bundle: Bundle, tiny_video: Path, tmp_path: Path
) -> None:
    bundle, film = (tmp_path / os.fsdecode(name) for name in (b"b\xff.vad", b"v\xff.mp4"))
    shutil.copytree(tiny_bundle.path, bundle)
    shutil.copy(tiny_video, film)
    done = bench("--clips", 3, "--source", film, "-o", tmp_path / "out", bundle=bundle)
    assert done.exit_code == 0, done.output
    assert report_in(tmp_path / "out")["bundle"] == "b\ufffd.vad"
    assert report_in(tmp_path / "out")["inputs"]["source"].endswith("v\ufffd.mp4")


# -- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
def test_a_bundle_that_takes_features_is_measured_on_noise_alone(
    bench: Callable[..., Result],
    tiny_graph: Path,
    tiny_video: Path,
    tmp_path: Path,
    normalise: bool,
) -> None:
    about = msgspec.structs.replace(
        manifest(),
        features=FeatureSpec(segments=4, size=16, normalise=normalise),
        score=ScoreSpec(per="segment", form="mil", count=4),
    )
    bundle = write_bundle(tmp_path / "mil.vad", about, {"fp32": tiny_graph}).path
    done = bench("--clips", 5, "--backend", "fake", "-o", tmp_path / "out", bundle=bundle)
    assert done.exit_code == 0, done.output
    assert report_in(tmp_path / "out")["input_shape"] == [1, 4, 16]
    assert report_in(tmp_path / "out")["period_ms"] is None
    with pytest.raises(InputError, match="takes features, not video"):
        bench("--source", tiny_video, "--backend", "fake", bundle=bundle)


# -- answers -------------------------------------------------------------------------------------


class Drifting:
    """A back end whose answer changes behind some number of clips."""

    def __init__(self, choice: Choice, after: int, by: float) -> None:
        self._inner, self._left, self._by = choice.backend, after, by
        self.device = choice.backend.device

    def infer(self, clips: Inputs) -> Outputs:
        self._left -= 1
        scores = self._inner.infer(clips)["score"]
        return {"score": scores + np.float32(self._by if self._left < 0 else 0)}

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize(("by", "why"), [(0.5, "another score"), (math.nan, "not finite")])
def test_an_answer_that_changes_ends_the_measurement(
    bench: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tiny_video: Path,
    tmp_path: Path,
    film: bool,
    by: float,
    why: str,
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=Drifting(choice, 30, by))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    source = ["--source", tiny_video] if film else []
    with pytest.raises(BackendError, match=why):
        bench("--clips", 200, "-o", tmp_path / "out", *source)
    assert not (tmp_path / "out").exists()


class Breaks(Drifting):
    """A back end that fails behind some number of clips."""

    def infer(self, clips: Inputs) -> Outputs:
        if self._left == 0:
            raise BackendError("the GPU is lost. Restart the machine.")
        return super().infer(clips)


@pytest.mark.parametrize("film", [False, True])
def test_an_engine_that_fails_on_the_way_does_not_cost_what_was_measured(
    bench: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tiny_video: Path,
    tmp_path: Path,
    film: bool,
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=Breaks(choice, 250, 0.0))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    said: list[str] = []
    monkeypatch.setattr("vad_runtime.bench.command.click.echo", said.append)
    source = ["--source", tiny_video] if film else []
    with pytest.raises(BackendError, match="the GPU is lost"):
        bench("--clips", 5000, "-o", tmp_path / "out", *source)
    assert said[0].startswith("FAILED on the way (the GPU is lost. Restart the machine): ")
    report = report_in(tmp_path / "out")
    assert report["interrupted"] is True
    assert report["failure"] == "the GPU is lost. Restart the machine."
    assert 0 < report["latency"]["count"] < 250
    assert "the GPU is lost" in (tmp_path / "out" / PAGE).read_text()


def test_an_engine_that_fails_before_the_first_clip_leaves_nothing(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=Breaks(choice, 11, 0.0))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    with pytest.raises(BackendError, match="the GPU is lost"):
        bench("--clips", 5, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class WrongInTheRing(Drifting):
    """A back end whose answer is another where the clip is a view of a ring."""

    def infer(self, clips: Inputs) -> Outputs:
        self._left = 0 if clips.flags.writeable else -1
        self._left += 1
        return super().infer(clips)


def test_an_answer_that_is_another_on_the_whole_path_ends_the_measurement(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tiny_video: Path
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=WrongInTheRing(choice, 0, 0.5))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    with pytest.raises(BackendError, match="another score"):
        bench("--clips", 8, "--source", tiny_video)
    assert bench("--clips", 8).exit_code == 0


class OneArray(Drifting):
    """A back end that answers in the same array each time."""

    def infer(self, clips: Inputs) -> Outputs:
        scores = super().infer(clips)["score"]
        self._kept = getattr(self, "_kept", scores.copy())
        self._kept[:] = scores
        return {"score": self._kept}


def test_an_engine_may_answer_in_the_same_array_each_time(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tiny_video: Path
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=OneArray(choice, 10**9, 0.0))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    assert bench("--clips", 8, "--source", tiny_video).exit_code == 0


# -- reports and errors --------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_names_its_pictures(
    bench: Callable[..., Result], tiny_video: Path, tmp_path: Path
) -> None:
    bench("--clips", 5, "--source", tiny_video, "--target-ms", 1e-6, "-o", tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://", page)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        ET.fromstring(picture)
        assert "<title" in picture
    assert "MISSED" in page
    ET.fromstring(re.sub(r"<!doctype html>|<meta[^>]*>|<br>", "", page))


def test_text_of_the_bundle_cannot_break_the_page(
    bench: Callable[..., Result], bundle_copy: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(bundle_copy)
    named = msgspec.structs.replace(opened.manifest, name="<script>alert(1)</script>")
    rewrite_manifest(opened, named)
    bench("--clips", 2, "-o", tmp_path / "out", bundle=bundle_copy)
    assert "<script" not in (tmp_path / "out" / PAGE).read_text()


def test_an_earlier_report_is_only_replaced_when_asked(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    bench("--clips", 2, "-o", tmp_path)
    with pytest.raises(InputError, match=r"bench\.json exists already"):
        bench("--clips", 3, "-o", tmp_path)
    assert report_in(tmp_path)["latency"]["count"] == 2
    bench("--clips", 3, "-o", tmp_path, "--overwrite")
    assert report_in(tmp_path)["latency"]["count"] == 3


def test_a_folder_that_is_closed_is_refused_with_the_reason(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr("vad_runtime.bench.command.open_backend")
    # Tests may run as root, to whom no folder is closed.
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        bench("--clips", 2, "-o", tmp_path / "out")


@pytest.mark.parametrize("name", ["file", "file/below/it"])
def test_a_folder_that_cannot_be_is_refused_before_an_engine_is_loaded(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delattr("vad_runtime.bench.command.open_backend")
    with pytest.raises(InputError, match=r"cannot be written \(.*/file is a file\)"):
        bench("--clips", 2, "-o", tmp_path / name)


def test_what_was_measured_is_told_though_it_cannot_be_written(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr("vad_runtime.bench.command.write_report", full)
    said: list[str] = []
    monkeypatch.setattr("vad_runtime.bench.command.click.echo", said.append)
    with pytest.raises(InputError, match="full"):
        bench("--clips", 2, "-o", tmp_path)
    assert any(line.startswith("| inference |") for line in said)
    assert not any(line.startswith("->") for line in said)


def test_clips_and_seconds_exclude_each_other(bench: Callable[..., Result]) -> None:
    done = bench("--clips", 2, "--seconds", 3)
    assert done.exit_code == 2
    assert "exclude each other" in done.output


def test_sensors_that_are_not_there_are_one_line_and_told_one_by_one_in_the_files(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vad_runtime.bench import energy

    real = energy.find_sensors
    nvml = str(tmp_path / "libnvidia-ml.so.1")
    monkeypatch.setattr(
        energy,
        "find_sensors",
        lambda gpu: real(tmp_path, gpu=gpu, nvml=nvml, tegrastats="no-tegrastats"),
    )
    words = ["bench", str(tiny_bundle.path), "--clips", "2", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if "energy" in line)
    assert line.endswith(
        "energy: unavailable, because there is no sensor here (RAPL, INA3221, tegrastats, NVML)"
    )
    reasons = report_in(tmp_path / "out")["energy"]["unavailable"]
    assert list(reasons) == ["RAPL", "INA3221", "tegrastats", "NVML"]
    page = (tmp_path / "out" / PAGE).read_text()
    for kind, reason in reasons.items():
        assert html.escape(f"{kind}: {reason}") in page


def test_energy_is_told_for_inference_and_for_the_whole_path(
    tiny_bundle: Bundle, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vad_runtime.bench import energy

    class Busy:
        """A sensor that takes 10 W while the process computes, and nothing while it sleeps."""

        name = "fake"

        def joules(self) -> float:
            return 10.0 * time.process_time()

        def close(self) -> None:
            pass

    monkeypatch.setattr(energy, "PROOF_S", 0.05)
    monkeypatch.setattr(energy, "find_sensors", lambda **_: energy.Found(sensors=[Busy()]))
    words = ["bench", tiny_bundle.path, "--clips", 5, "--source", tiny_video, "-o", tmp_path]
    done = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    rows = report_in(tmp_path)["energy"]["sensors"]
    assert [row["what"] for row in rows] == ["inference", "whole path"]
    for row in rows:
        assert row["joules_a_clip"] > 0
        assert f"{row['joules_a_clip']:.3g} J a clip" in done.output


# -- Ctrl-C --------------------------------------------------------------------------------------


class PressesCtrlC:
    """A back end in whose n-th clip the signal comes."""

    def __init__(self, choice: Choice, number: signal.Signals, at: int) -> None:
        self._inner, self._number, self._left = choice.backend, number, at
        self.device = choice.backend.device

    def infer(self, clips: Inputs) -> Outputs:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        return self._inner.infer(clips)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("film", [False, True])
def test_an_interrupted_measurement_is_reported_as_such(
    bench: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tiny_video: Path,
    tmp_path: Path,
    film: bool,
    number: signal.Signals,
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=PressesCtrlC(choice, number, 250))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    said: list[str] = []
    monkeypatch.setattr("vad_runtime.bench.command.click.echo", said.append)
    source = ["--source", tiny_video] if film else []
    with pytest.raises(Interrupted):  # exit code 130: test_interrupt.py
        bench("--seconds", 600, "-o", tmp_path / "out", *source)
    assert said[0].startswith("INTERRUPTED: ")
    report = report_in(tmp_path / "out")
    assert report["interrupted"] is True
    assert 0 < report["latency"]["count"] <= 250
    assert (report["path"] is not None) == film
    assert "INTERRUPTED" in (tmp_path / "out" / PAGE).read_text()


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_before_the_first_clip_leaves_nothing(
    bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(*arguments: Any) -> Choice:
        choice = open_backend(*arguments)
        return replace(choice, backend=PressesCtrlC(choice, signal.SIGINT, 3))

    monkeypatch.setattr("vad_runtime.bench.command.open_backend", opened)
    with pytest.raises(Interrupted):
        bench("--warm-up", 10, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_other_commands_import_no_part_of_it() -> None:
    code = (
        "import sys, vad_runtime.cli\n"
        "print([n for n in sys.modules if n.startswith('vad_runtime.bench.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_are_one_line(tmp_path: Path) -> None:
    command = [BIN / "vad-run", "bench", str(tmp_path / "none.vad")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
