"""The whole road of `vad-run` with a real model: real codecs, every back end, what is left behind.

One bundle of the published weights serves all tests; each run of a command is made once and read by
every test that needs it (`Runs`).
"""

import csv
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import msgspec
import pytest
from helpers import decoded_count, moving_blob, write_video

from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import Scoring

BIN = Path(sys.executable).parent
FRAMES = 60
HOP = 8
CODECS = {
    "msmpeg4": "vtest.avi",
    "h264": "one-by-one-person-detection.mp4",
    "hevc": "testsrc2_h265.mp4",
    "av1": "av1_video.mkv",
}
SOURCES = (*CODECS, "frames")
BACKENDS = ("fake", "onnxruntime", "openvino")
CAUSAL = ("frame", "time_s", "raw", "score", "alarm", "status")


def run(*command: str | Path) -> str:
    """Run an installed command as a user would; its standard output."""
    done = subprocess.run(
        [BIN / command[0], *map(str, command[1:])], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert done.stderr == ""
    return done.stdout


def first_packets(source: Path, target: Path, count: int) -> Path:
    """Copy the first packets of a video into a file of their own, as they are."""
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        stream = given.streams.video[0]
        # Opaque: PyAV would look for an encoder otherwise, and there is none called libdav1d.
        copy = out.add_stream_from_template(stream, opaque=True)
        for packet in islice(given.demux(stream), count):
            packet.stream = copy
            out.mux(packet)
    return target


def read_table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of `scores.csv` as text, without any code of ours."""
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def read_report(folder: Path) -> dict[str, Any]:
    """Return `report.json`."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@dataclass
class Runs:
    """Every run of the module, each made when it is first asked for."""

    folder: Path
    bundle: Path
    sources: dict[str, Path]
    said: dict[Path, str] = field(default_factory=dict)
    """What each run printed, by its output folder."""

    def of(self, command: str, source: str, backend: str) -> Path:
        """Return the output folder of `vad-run COMMAND` on a source, with an overlay if watched."""
        out = self.folder / f"{command}-{source}-{backend}"
        if out not in self.said:
            overlay = ["--overlay"] if (command, backend) == ("watch", "fake") else []
            self.said[out] = run(
                *("vad-run", command, self.bundle, self.sources[source], "-o", out),
                *("--backend", backend, *overlay, "--no-plot"),
                *([] if backend == "fake" else ["--precision", "fp32"]),
            )
        return out


@pytest.fixture(scope="session")
def published(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published weights, with a threshold that footage with people in it passes."""
    path = tmp_path_factory.mktemp("published") / "stae.vad"
    run(
        *("vad-export", "onnx", data / "stae" / "model_final_checkpoint.pth", "-o", path),
        *("--hop", str(HOP)),
    )
    bundle = Bundle.open(path)
    scoring = Scoring(smoothing="mean", window=5, threshold=100.0, method="set by hand for tests")
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring))
    return path


@pytest.fixture(scope="session")
def runs(data: Path, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The sources, cut to their first frames by copying packets: nothing is encoded again."""
    folder = tmp_path_factory.mktemp("road")
    sources = {}
    for codec, name in CODECS.items():
        whole = data / "clips" / name
        sources[codec] = first_packets(whole, folder / f"{codec}{whole.suffix}", FRAMES)
    sources["frames"] = folder / "frames"
    sources["frames"].mkdir()
    images = sorted((data / "ped2" / "testing" / "frames" / "01").glob("*.jpg"))[:FRAMES]
    for image in images:
        (sources["frames"] / image.name).symlink_to(image)
    return Runs(folder=folder, bundle=published, sources=sources)


def frame_count(source: Path) -> int:
    """Count the frames of a source, without any code of ours."""
    return len(list(source.iterdir())) if source.is_dir() else decoded_count(source)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_watch_gives_one_row_per_frame_at_rising_times(
    runs: Runs, source: str, backend: str
) -> None:
    out = runs.of("watch", source, backend)
    rows = read_table(out)
    assert len(rows) == frame_count(runs.sources[source])
    assert len(rows) >= FRAMES - 5
    assert [int(row["frame"]) for row in rows] == list(range(len(rows)))
    times = [float(row["time_s"]) for row in rows]
    assert times[0] == 0
    assert all(a < b for a, b in pairwise(times))
    assert {row["status"] for row in rows} == {"scored"}
    assert all(row["raw"] and row["score"] for row in rows)
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert int(row["frame"]) == line["frame"]
        assert float(row["raw"]) == pytest.approx(line["raw"], rel=1e-8)
        assert float(row["score"]) == pytest.approx(line["score"], rel=1e-8)
        assert bool(int(row["alarm"])) is line["alarm"]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_openvino_and_onnxruntime_give_the_same_scores_in_fp32(runs: Runs, source: str) -> None:
    one, other = (read_table(runs.of("watch", source, b)) for b in ("onnxruntime", "openvino"))
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a["frame"] == b["frame"]
        for column in ("raw", "score"):
            assert float(a[column]) == pytest.approx(float(b[column]), rel=1e-3), (column, a, b)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "backend"),
    [("h264", "openvino"), ("h264", "onnxruntime"), *((source, "fake") for source in SOURCES)],
)
def test_a_file_gives_the_same_rows_whether_it_is_scored_or_watched(
    runs: Runs, source: str, backend: str
) -> None:
    scored = read_table(runs.of("score", source, backend))
    watched = read_table(runs.of("watch", source, backend))
    assert len(scored) == len(watched)
    for a, b in zip(scored, watched, strict=True):
        assert [a[column] for column in CAUSAL] == [b[column] for column in CAUSAL]
    assert "offline" in scored[0]
    assert "offline" not in watched[0]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_the_overlay_decodes_with_a_frame_for_every_row(runs: Runs, source: str) -> None:
    out = runs.of("watch", source, "fake")
    assert decoded_count(out / "overlay.mp4") == len(read_table(out))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_counters_of_a_report_add_up(runs: Runs, source: str, backend: str) -> None:
    out = runs.of("watch", source, backend)
    report, rows = read_report(out), read_table(out)
    assert backend in report["device"]
    assert report["backend"] == backend
    assert {"vad-edge", "numpy", "av", "openvino", "onnxruntime"} <= set(report["versions"])
    assert report["mode"] == "watch"
    assert report["interrupted"] is False
    assert report["frames"] == len(rows)
    assert report["frames"] == report["frames_scored"] + sum(report["frames_unscored"].values())
    assert report["frames_dropped"] == report["frames_damaged"] == 0
    assert report["undecodable_packets"] == 0
    assert report["holes"] == report["window_flushes"] == {}
    assert report["notes"] == []
    # 16 frames make the first clip; the last clip ends at the last frame.
    assert report["clips"] == 1 + -(-(len(rows) - 16) // HOP)
    stages = report["stages"]
    assert stages["inference_per_clip"]["count"] == report["clips"]
    assert stages["sinks_per_frame"]["count"] == report["frames"]
    assert stages["decode_and_resize_per_frame"]["count"] == report["frames"]
    for stage in stages.values():
        ladder = [stage[key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")]
        assert ladder[0] >= 0
        assert ladder == sorted(ladder)
    alarms = [bool(int(row["alarm"])) for row in rows]
    starts = sum(on and not before for before, on in pairwise([False, *alarms]))
    assert len(report["events"]) == starts
    assert runs.said[out].count("ALARM") == starts


@pytest.mark.data
@pytest.mark.slow
def test_footage_with_people_in_it_raises_an_alarm_with_the_real_model(runs: Runs) -> None:
    # Otherwise the tests above would compare columns of zeros.
    counts = {s: len(read_report(runs.of("watch", s, "openvino"))["events"]) for s in SOURCES}
    assert any(counts.values()), counts
    assert not all(counts.values()), counts


@pytest.mark.data
@pytest.mark.slow
def test_the_first_line_says_which_back_end_runs_and_why(runs: Runs, tmp_path: Path) -> None:
    said = runs.said[runs.of("watch", "h264", "onnxruntime")].splitlines()[0]
    assert said.startswith("stae.vad: stae on onnxruntime ")
    assert "fp32" in said
    assert "(asked for)" in said
    out = tmp_path / "out"
    said = run(
        *("vad-run", "score", runs.bundle, runs.sources["h264"], "-o", out),
        *("--no-overlay", "--no-plot"),
    ).splitlines()[0]
    assert said.startswith("stae.vad: stae on openvino ")
    assert "threads" in said
    assert "(the fastest installed engine on this CPU)" in said
    assert read_report(out)["device"] in said


@pytest.mark.data
@pytest.mark.slow
def test_several_files_get_a_folder_each(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    twin = tmp_path / "copy" / "hevc.mkv"
    twin.symlink_to(runs.sources["av1"])
    given = [runs.sources["hevc"], runs.sources["frames"], twin]
    out = tmp_path / "out"
    said = run(
        *("vad-run", "score", runs.bundle, *given, "-o", out, "--backend", "fake", "--no-plot"),
    )
    assert sorted(folder.name for folder in out.iterdir()) == ["frames", "hevc", "hevc_2"]
    assert len(said.splitlines()) == 1 + len(given)
    for name, source in zip(("hevc", "frames", "hevc_2"), given, strict=True):
        assert read_report(out / name)["source"]["name"] == str(source)
        assert len(read_table(out / name)) == frame_count(source)
        assert not (out / name / "overlay.mp4").exists()  # a film is made only where asked for


@pytest.mark.data
@pytest.mark.slow
def test_the_damaged_frames_of_a_file_are_counted_and_not_scored(
    runs: Runs, tmp_path: Path
) -> None:
    whole = runs.sources["h264"]
    with av.open(str(whole)) as container:
        sizes = [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.pos]
    content = bytearray(whole.read_bytes())
    # In the middle of the video, so that whole clips fit before the damage.
    position, size, _ = sizes[len(sizes) // 2]
    for i in range(position + size // 4, position + size):
        content[i] ^= 0x5A
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    out = tmp_path / "out"
    options = ("--backend", "fake", "--overlay", "--no-plot")
    run("vad-run", "watch", runs.bundle, damaged, "-o", out, *options)
    report, rows = read_report(out), read_table(out)
    assert report["frames_damaged"] > 0
    by_status = [row for row in rows if row["status"] == "damaged"]
    assert len(by_status) == report["frames_damaged"]
    assert all(row["raw"] == row["score"] == "" for row in by_status)
    assert report["frames"] == len(rows)
    assert report["frames"] == report["frames_scored"] + sum(report["frames_unscored"].values())
    assert report["frames_scored"] >= 16
    assert decoded_count(out / "overlay.mp4") == len(rows)


def test_a_realtime_watch_takes_as_long_as_the_clip_and_drops_nothing(
    tiny_bundle: Bundle, tiny_video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(
        *("vad-run", "watch", tiny_bundle.path, tiny_video, "-o", out, "--realtime"),
        *("--backend", "fake", "--no-overlay", "--no-plot"),
    )
    report = read_report(out)
    seconds = 59 / 15  # from the first of 60 frames to the last
    assert report["realtime"] is True
    assert seconds - 0.1 <= report["wall_s"] <= seconds + 3
    assert report["frames_dropped"] == 0
    assert report["frames"] == len(read_table(out)) == 60


def test_a_watch_writes_each_row_while_it_runs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    video = write_video(tmp_path / "slow.mp4", moving_blob(40), fps=10)
    out = tmp_path / "out"
    child = subprocess.Popen(
        [
            *(BIN / "vad-run", "watch", tiny_bundle.path, video, "-o", out, "--realtime"),
            *("--backend", "fake", "--no-overlay", "--no-plot"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen = set()
    while child.poll() is None:
        if (out / "scores.csv").exists():
            seen.add((out / "scores.csv").read_bytes().count(b"\n"))
        time.sleep(0.02)
    child.communicate()
    assert child.returncode == 0
    # Header, then 40 rows; the first eight frames are settled by the first clip.
    assert len([count for count in seen if 1 < count < 41]) > 10, seen
