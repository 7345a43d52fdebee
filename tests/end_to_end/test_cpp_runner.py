"""`vad-run-cpp` against `vad-run watch`: the same rows, alarms, words and exit codes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from helpers import artefact, clip_spec, manifest, motion_model, moving_blob, write_video
from helpers_native import ROOT, native_program

from vad_runtime.bundle import Bundle, rewrite_manifest, write_bundle
from vad_runtime.contracts import Scoring

BIN = Path(sys.executable).parent
PATIENCE_S = 120.0
FRAMES = 60
CLIPS = {
    "msmpeg4": "vtest.avi",
    "h264": "one-by-one-person-detection.mp4",
    "hevc": "testsrc2_h265.mp4",
    "av1": "av1_video.mkv",
}
Done = subprocess.CompletedProcess[str]
SAID_DIFFERENTLY = {"device", "machine", "versions", "wall_s", "stages", "scores_png", "resizer"}
"""Keys of a report that say how it was made, not what was found."""


@pytest.fixture(scope="module")
def runner() -> Path:
    """The program, built by the preset `dev`."""
    return native_program("vad-run-cpp")


@pytest.fixture(scope="module")
def portable_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose pixels are the same on every machine. Do not change."""
    folder = tmp_path_factory.mktemp("portable")
    clip = clip_spec(resizer="portable", hop=4)
    graph = motion_model(folder / "motion.onnx", clip)
    scoring = Scoring(
        smoothing="mean", window=3, threshold=0.05, release=0.8, method="set by hand for tests"
    )
    about = manifest(clip=clip, scoring=scoring, artefacts={"fp32": artefact(opset=18)})
    return write_bundle(folder / "motion.vad", about, {"fp32": graph}).path


@pytest.fixture(scope="module")
def published(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published STAE with portable pixels, and a threshold that its footage passes."""
    path = tmp_path_factory.mktemp("published") / "stae.vad"
    weights = data / "stae" / "model_final_checkpoint.pth"
    subprocess.run(
        [BIN / "vad-export", "onnx", weights, "-o", path, "--hop", "8"],
        check=True,
        capture_output=True,
    )
    bundle = Bundle.open(path)
    scoring = Scoring(smoothing="mean", window=5, threshold=100.0, method="set by hand for tests")
    clip = msgspec.structs.replace(bundle.manifest.clip, resizer="portable")
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, scoring=scoring, clip=clip))
    return path


def called(command: Sequence[str | Path], **more: Any) -> Done:
    """Run a command and return what it said."""
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=PATIENCE_S, **more
    )


def both(
    runner: Path, bundle: Path, source: Path, folder: Path, *options: str
) -> tuple[Path, Path, Done, Done]:
    """Watch a source with Python and with C++; both must do well."""
    ours, theirs = folder / "cpp", folder / "python"
    cpp = called([runner, bundle, source, "-o", ours, *options])
    assert cpp.returncode == 0, cpp.stderr
    assert cpp.stderr == ""
    python = called(
        [
            *(BIN / "vad-run", "watch", bundle, source, "-o", theirs, "--no-overlay", "--no-plot"),
            *options,
        ]
    )
    assert python.returncode == 0, python.stderr
    return ours, theirs, cpp, python


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of `scores.csv` as text."""
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def report(folder: Path) -> dict[str, Any]:
    """Return `report.json`."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def assert_same_findings(ours: Path, theirs: Path, *, rtol: float = 1e-6) -> None:
    """Assert that both folders hold the same: each frame within `rtol`, the same alarms."""
    rows, expected = table(ours), table(theirs)
    assert [row["frame"] for row in rows] == [row["frame"] for row in expected]
    for key in ("time_s", "alarm", "status"):
        assert [row[key] for row in rows] == [row[key] for row in expected], key
    for key in ("raw", "score"):
        given = [float(row[key] or "nan") for row in rows]
        wanted = [float(row[key] or "nan") for row in expected]
        np.testing.assert_allclose(given, wanted, rtol=rtol, atol=0.0, err_msg=key)
    one, two = report(ours), report(theirs)
    for event, other in zip(one["events"], two["events"], strict=True):
        assert event == pytest.approx(other, rel=rtol)
    for found in (one, two):
        del found["events"], found["peak"]
    for key in two.keys() - SAID_DIFFERENTLY:
        assert one.get(key) == two[key], key


# -- the same as Python ----------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CLIPS, "frames"])
def test_real_footage_gets_the_scores_and_events_of_python(
    runner: Path, published: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "frames":
        source = tmp_path / "frames"
        source.mkdir()
        found = sorted((data / "ped2" / "testing" / "frames" / "01").glob("*.jpg"))[:FRAMES]
        for image in found:
            (source / image.name).symlink_to(image)
    else:
        whole = data / "clips" / CLIPS[kind]
        source = first_packets(whole, tmp_path / f"{kind}{whole.suffix}")
    options = ("--backend", "openvino", "--precision", "fp32")
    ours, theirs, _, _ = both(runner, published, source, tmp_path, *options)
    assert len(table(ours)) >= FRAMES - 2
    assert report(ours)["clips"] > 0
    # FFmpeg's decoder of MS-MPEG4 rounds differently from release to release, and PyAV brings
    # another release than the system; of the other codecs every decoder gives the same pixels.
    assert_same_findings(ours, theirs, rtol=1e-3 if kind == "msmpeg4" else 1e-6)


def first_packets(source: Path, target: Path) -> Path:
    """Copy the first packets of a film as they are."""
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        stream = given.streams.video[0]
        copy = out.add_stream_from_template(stream, opaque=True)
        for packet in islice(given.demux(stream), FRAMES):
            packet.stream = copy
            out.mux(packet)
    return target


def test_portable_pixels_give_the_same_tables_to_the_last_byte(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    ours, theirs, cpp, python = both(runner, portable_bundle, tiny_video, tmp_path)
    for name in ("scores.csv", "scores.jsonl"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert_same_findings(ours, theirs)
    alarms = [line for line in python.stdout.splitlines() if line.startswith(("ALARM", "over"))]
    assert alarms, "the threshold of this test raises no alarm: it tests nothing"
    assert [line for line in cpp.stdout.splitlines() if line[:5] in ("ALARM", "over ")] == alarms


def test_the_first_and_the_last_line_are_those_of_python(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    options = ("--backend", "openvino", "--precision", "fp32", "--threads", "1")
    _, _, cpp, python = both(runner, portable_bundle, tiny_video, tmp_path, *options)
    first, expected = cpp.stdout.splitlines()[0], python.stdout.splitlines()[0]
    # The version of OpenVINO is written in another form by each face of it.
    assert first.split(" on ")[0] == expected.split(" on ")[0]
    assert first.split("artefact")[1] == expected.split("artefact")[1]
    last = cpp.stdout.splitlines()[-1].replace(str(tmp_path / "cpp"), "OUT")
    assert last == python.stdout.splitlines()[-1].replace(str(tmp_path / "python"), "OUT")


def test_a_report_has_every_key_that_python_writes(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    ours, theirs, _, _ = both(runner, portable_bundle, tiny_video, tmp_path)
    one, two = report(ours), report(theirs)
    assert list(one) == list(two)
    for key in ("source", "scoring", "peak", "stages"):
        assert list(one[key]) == list(two[key]), key
    for stage, counted in two["stages"].items():
        assert list(one["stages"][stage]) == list(counted), stage
        assert one["stages"][stage]["count"] == counted["count"], stage


def test_another_hop_gives_the_rows_of_python_with_that_hop(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    ours, theirs, _, _ = both(runner, portable_bundle, tiny_video, tmp_path, "--hop", "3")
    assert_same_findings(ours, theirs)
    assert report(ours)["clips"] == (60 - 8) // 3 + 2  # the last one ends with the film


def test_a_y4m_film_on_standard_input_is_read(
    runner: Path, portable_bundle: Path, tmp_path: Path
) -> None:
    film = write_y4m(tmp_path / "film.y4m", 40)
    done = called([runner, portable_bundle, film, "-o", tmp_path / "file"])
    assert done.returncode == 0, done.stderr
    with film.open("rb") as given:
        done = called([runner, portable_bundle, "-", "-o", tmp_path / "pipe"], stdin=given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file" / "scores.csv").read_bytes() == (
        tmp_path / "pipe" / "scores.csv"
    ).read_bytes()
    assert report(tmp_path / "pipe")["frames"] == 40


def write_y4m(path: Path, count: int) -> Path:
    """Write a YUV4MPEG2 film of 160 x 120."""
    path.write_bytes(b"YUV4MPEG2 W160 H120 F15:1 Ip A1:1 C420jpeg\n" + y4m_frames(count))
    return path


def y4m_frames(count: int) -> bytes:
    """Return frames of YUV4MPEG2."""
    out = b""
    for image in moving_blob(count):
        picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        out += b"FRAME\n" + picture.to_ndarray().tobytes()
    return out


# -- what goes wrong -------------------------------------------------------------------------------


def refused(done: Done, *parts: str) -> None:
    """Assert that a command ended with 1 and one line on standard error."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["BUNDLE", "FILM"], "Missing option '-o' / '--out'."),
        (["BUNDLE", "-o", "out"], "Missing argument 'SOURCE'."),
        (["-o", "out"], "Missing argument 'BUNDLE'."),
        (["BUNDLE", "FILM", "-o", "out", "more"], "Got unexpected extra argument (more)"),
        (["BUNDLE", "FILM", "-o"], "Option '-o' requires an argument."),
        (["BUNDLE", "FILM", "-o", "out", "--hopp", "3"], "No such option: --hopp"),
        (["BUNDLE", "FILM", "-o", "out", "--overwrite=1"], "does not take a value."),
        (["BUNDLE", "FILM", "-o", "out", "--hop", "0"], "0 is not in the range x>=1."),
        (["BUNDLE", "FILM", "-o", "out", "--hop", "1.5"], "'1.5' is not a valid integer."),
        (["BUNDLE", "FILM", "-o", "out", "--threads", "x"], "'x' is not a valid integer."),
        (["BUNDLE", "FILM", "-o", "out", "--fps", "nan"], "nan is not a finite number."),
        (["BUNDLE", "FILM", "-o", "out", "--fps", "0"], "0 is not in the range x>0."),
        (["BUNDLE", "FILM", "-o", "out", "--precision", "fp8"], "'fp8' is not one of"),
        (["BUNDLE", "FILM", "-o", "out", "--device", "tpu"], "'tpu' is no device."),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_what_is_wrong(
    runner: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    refused(called([runner, *arguments], cwd=tmp_path), words, "See: vad-run-cpp --help")
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_is_refused_in_the_words_of_python(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "report.json").write_text("{}")
    short = write_video(tmp_path / "short.mp4", moving_blob(5))
    for arguments in (
        [tmp_path / "none.vad", tiny_video, "-o", tmp_path / "new"],
        [portable_bundle, tmp_path / "none.mp4", "-o", tmp_path / "new"],
        [portable_bundle, tiny_video, "-o", old],
        [portable_bundle, tiny_video, "-o", tiny_video / "below"],
        [portable_bundle, short, "-o", tmp_path / "new"],
        [portable_bundle, tiny_video, "-o", tmp_path / "new", "--backend", "none"],
    ):
        done = called([runner, *arguments])
        refused(done)
        python = called([BIN / "vad-run", "watch", *arguments, "--no-overlay", "--no-plot"])
        if "none" not in arguments:  # the list of back ends is another
            assert done.stderr == python.stderr
        assert not (tmp_path / "new").exists()
        assert [file.name for file in old.iterdir()] == ["report.json"]


def test_results_are_replaced_with_overwrite(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    for name in ("scores.csv", "scores.png", "report.json"):
        (tmp_path / name).write_text("old")
    done = called([runner, portable_bundle, tiny_video, "-o", tmp_path, "--overwrite"])
    assert done.returncode == 0, done.stderr
    assert {f.name for f in tmp_path.iterdir()} == {"scores.csv", "scores.jsonl", "report.json"}
    assert report(tmp_path)["frames"] == 60


def test_a_changed_artefact_is_refused_unless_it_is_not_verified(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(portable_bundle, tmp_path / "changed.vad"))
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\x32\x00")  # an empty field that protobuf skips
    command = [runner, bundle, tiny_video, "-o", tmp_path / "out"]
    refused(called(command), "model.onnx")
    assert "model.onnx" not in called([*command, "--no-verify"]).stderr


def test_a_reader_that_leaves_ends_the_run_without_a_word(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [runner, portable_bundle, tiny_video, "-o", tmp_path / "out"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == b""


def test_a_run_without_standard_streams_writes_nothing_else_into_its_results(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    called([runner, portable_bundle, tiny_video, "-o", tmp_path / "open"])
    closed = '"$@" <&- >&- 2>&-'
    done = called(
        ["sh", "-c", closed, "sh", runner, portable_bundle, tiny_video, "-o", tmp_path / "closed"]
    )
    assert done.returncode == 0
    for name in ("scores.csv", "scores.jsonl"):
        expected = (tmp_path / "open" / name).read_bytes()
        assert (tmp_path / "closed" / name).read_bytes() == expected


# -- Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_settles_what_is_in_the_pipeline(
    runner: Path, portable_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    child = subprocess.Popen(
        [runner, portable_bundle, "-", "-o", out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    try:
        child.stdin.write(b"YUV4MPEG2 W160 H120 F15:1 Ip A1:1 C420jpeg\n" + y4m_frames(30))
        child.stdin.flush()  # and it stays open, as a camera does
        wait_for(lambda: (out / "scores.csv").exists() and rows_of(out) > 8, child)
        child.send_signal(number)
        assert child.wait(PATIENCE_S) == 130
        assert child.stderr is not None
        assert child.stderr.read() == b"Interrupted.\n"
    finally:
        child.kill()
        child.communicate()
    assert report(out)["interrupted"] is True
    rows = table(out)
    assert report(out)["frames"] == len(rows)
    assert [int(row["frame"]) for row in rows] == list(range(len(rows)))
    assert rows[-1]["status"] == "scored"  # the window was emptied into a last clip


def rows_of(folder: Path) -> int:
    """Count the rows of `scores.csv` so far."""
    return (folder / "scores.csv").read_bytes().count(b"\n") - 1


def wait_for(condition: Callable[[], bool], child: "subprocess.Popen[bytes]") -> None:
    """Wait until something is so; fail if the child ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- the package -----------------------------------------------------------------------------------


def test_the_version_names_what_this_build_runs_and_reads(runner: Path) -> None:
    lines = called([runner, "--version"]).stdout.splitlines()
    assert lines[0] == "vad-run-cpp, version 0.1.0"
    assert "openvino" in lines[1]
    assert "ffmpeg" in lines[2]
    assert "y4m" in lines[2]
    assert "baseline" in lines[3]


def test_the_help_names_every_option_that_is_taken(runner: Path) -> None:
    text = called([runner, "--help"]).stdout
    source = (ROOT / "runtime" / "native" / "app" / "options.cpp").read_text()
    names = {word for word in source.replace('"', " ").split() if word.startswith("--")}
    known = {name.strip("{},") for name in names if name.strip("{},-").replace("-", "").isalpha()}
    for name in known - {"--cuda-graphs", "--help\\n"}:
        assert name in text, name


@pytest.mark.slow
def test_the_installed_package_may_be_moved_and_built_against(
    runner: Path, portable_bundle: Path, tiny_video: Path, tmp_path: Path
) -> None:
    build = runner.parents[2]
    subprocess.run(
        ["cmake", "--install", build, "--prefix", tmp_path / "first"],
        check=True,
        capture_output=True,
    )
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    # OpenVINO's wheel lies in no place that the system searches.
    openvino = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    environment = os.environ | {"LD_LIBRARY_PATH": str(openvino / "openvino" / "libs")}
    installed = called([moved / "bin" / "vad-run-cpp", "--version"], env=environment)
    assert installed.returncode == 0, installed.stderr
    project = ROOT / "tests" / "native_consumer"
    for command in (
        ["cmake", "-S", project, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={moved}"],
        ["cmake", "--build", tmp_path / "build"],
    ):
        done = called(command, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    consumer = tmp_path / "build" / "consumer"
    done = called([consumer, portable_bundle, tiny_video], env=environment)
    assert done.stdout == "60\n", done.stderr
