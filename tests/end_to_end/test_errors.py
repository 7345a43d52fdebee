"""What a user can get wrong, through the installed commands: one line, exit code 1, no debris."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import moving_blob, write_video

BIN = Path(sys.executable).parent
COMMANDS = ("score", "watch")


def vad_run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the installed `vad-run` as a user would."""
    return subprocess.run(
        [BIN / "vad-run", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def assert_one_line_error(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Assert exit code 1 and nothing on stderr but one line that starts with `Error: `."""
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line


@dataclass
class Room:
    """Where one mistake is made: everything needed for a good run stands in it."""

    folder: Path
    bundle: Path
    source: Path
    out: Path

    def manifest(self, change: Callable[[str], str]) -> None:
        """Rewrite the bundle's manifest."""
        file = self.bundle / "manifest.json"
        before = file.read_text()
        after = change(before)
        assert after != before
        file.write_text(after)


@pytest.fixture
def room(tmp_path: Path, bundle_copy: Path, tiny_video: Path) -> Room:
    """A bundle that the test may spoil, a good video, and an output folder that is not there."""
    return Room(folder=tmp_path, bundle=bundle_copy, source=tiny_video, out=tmp_path / "out")


# Each mistake spoils the room, and returns options for the command line.


def missing_file(room: Room) -> list[str]:
    room.source = room.folder / "missing.mp4"
    return []


def folder_without_videos(room: Room) -> list[str]:
    room.source = room.folder / "empty"
    room.source.mkdir()
    (room.source / "notes.txt").write_text("no video\n")
    return []


def text_named_mp4(room: Room) -> list[str]:
    room.source = room.folder / "text.mp4"
    room.source.write_text("This is no video.\n" * 100)
    return []


def three_frames(room: Room) -> list[str]:
    room.source = write_video(room.folder / "short.mp4", moving_blob(3))
    return []


def flipped_bit(room: Room) -> list[str]:
    (graph,) = room.bundle.glob("*.onnx")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    return []


def unknown_key(room: Room) -> list[str]:
    room.manifest(lambda text: text.replace('"schema"', '"colour_of_box": "red", "schema"', 1))
    return []


def newer_schema(room: Room) -> list[str]:
    def change(text: str) -> str:
        return json.dumps(json.loads(text) | {"schema": 2})

    room.manifest(change)
    return []


def not_a_bundle(room: Room) -> list[str]:
    room.bundle = room.folder / "nothing.vad"
    return []


def folder_below_a_file(room: Room) -> list[str]:
    file = room.folder / "file"
    file.write_text("a file\n")
    room.out = file / "sub"
    return []


def unknown_backend(room: Room) -> list[str]:
    return ["--backend", "tensorflow"]


def hop_of_nothing(room: Room) -> list[str]:
    return ["--hop", "0"]


def hop_between_the_strides(room: Room) -> list[str]:
    def change(text: str) -> str:
        tree = json.loads(text)
        tree["clip"] |= {"stride": 2, "hop": 2}
        return json.dumps(tree)

    room.manifest(change)
    return ["--hop", "3"]


def unknown_option(room: Room) -> list[str]:
    return ["--colour", "red"]


def labels_that_are_none(room: Room) -> list[str]:
    labels = room.folder / "labels.json"
    labels.write_text('{"schema": 1}')
    return ["--labels", str(labels)]


MISTAKES: dict[Callable[[Room], list[str]], tuple[str, ...]] = {
    missing_file: ("missing.mp4", "does not exist"),
    folder_without_videos: ("empty", "holds no"),
    text_named_mp4: ("text.mp4", "Give"),
    three_frames: ("short.mp4", "3 frames", "longer video"),
    flipped_bit: (".onnx", "sha256"),
    unknown_key: ("manifest.json", "colour_of_box"),
    newer_schema: ("manifest.json", "schema 2"),
    not_a_bundle: ("nothing.vad", "does not exist"),
    folder_below_a_file: ("file", "cannot be written"),
    unknown_backend: ("tensorflow", "openvino"),
    hop_of_nothing: ("--hop", "0"),
    hop_between_the_strides: ("--hop", "3"),
    unknown_option: ("--colour",),
    labels_that_are_none: ("labels.json",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_said_in_one_line_and_leaves_nothing_behind(
    room: Room, mistake: Callable[[Room], list[str]], command: str
) -> None:
    options = mistake(room)
    done = vad_run(command, room.bundle, room.source, "-o", room.out, *options)
    assert_one_line_error(done, *MISTAKES[mistake])
    assert not room.out.exists() or not any(room.out.iterdir()), sorted(room.out.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_results_that_stand_there_are_kept_unless_overwriting_is_asked_for(
    room: Room, command: str
) -> None:
    room.out.mkdir()
    (room.out / "scores.csv").write_text("precious\n")
    done = vad_run(command, room.bundle, room.source, "-o", room.out, "--no-overlay", "--no-plot")
    assert_one_line_error(done, "scores.csv", "--overwrite")
    assert done.stdout == "", "an engine was loaded for nothing"
    assert [file.name for file in room.out.iterdir()] == ["scores.csv"]
    assert (room.out / "scores.csv").read_text() == "precious\n"
    done = vad_run(
        *(command, room.bundle, room.source, "-o", room.out),
        *("--no-overlay", "--no-plot", "--overwrite"),
    )
    assert done.returncode == 0, done.stderr
    assert (room.out / "scores.csv").read_text().startswith("frame,")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_in_the_place_of_a_result_is_said_in_one_line(room: Room, command: str) -> None:
    (room.out / "overlay.mp4").mkdir(parents=True)
    done = vad_run(command, room.bundle, room.source, "-o", room.out, "--overwrite")
    assert_one_line_error(done, "overlay.mp4")


def test_one_bad_file_among_several_does_not_cost_the_others(room: Room) -> None:
    text_named_mp4(room)
    other = write_video(room.folder / "other.mp4", moving_blob(20))
    good = write_video(room.folder / "good.mp4", moving_blob(20))
    done = vad_run(
        *("score", room.bundle, good, room.source, other, "-o", room.out),
        *("--no-overlay", "--no-plot"),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("Error: ") for line in lines), lines
    assert any("text.mp4" in line for line in lines)
    assert "1 of 3" in lines[-1]
    assert sorted(folder.name for folder in room.out.iterdir()) == ["good", "other"]
    for name in ("good", "other"):
        assert {file.name for file in (room.out / name).iterdir()} == {
            "scores.csv",
            "scores.jsonl",
            "report.json",
        }


def test_a_labels_file_without_the_video_is_no_error(room: Room) -> None:
    labels = room.folder / "labels.json"
    labels.write_text(
        json.dumps(
            {
                "schema": 1,
                "label_set": "of others",
                "fps": 15,
                "videos": {"other.mp4": {"frames": 5, "anomalies": []}},
            }
        )
    )
    done = vad_run(
        *("score", room.bundle, room.source, "-o", room.out, "--labels", labels, "--no-overlay")
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.data
@pytest.mark.parametrize("command", COMMANDS)
def test_broken_time_stamps_are_repaired_and_counted(room: Room, data: Path, command: str) -> None:
    video = data / "clips" / "Megamind_bugy.avi"
    done = vad_run(command, room.bundle, video, "-o", room.out, "--no-overlay", "--no-plot")
    assert done.returncode == 0, done.stderr
    report = json.loads((room.out / "report.json").read_text())
    assert report["timestamps_repaired"] > 0
    assert report["frames"] == 270
    with (room.out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(270))
    times = [float(row["time_s"]) for row in rows]
    assert all(a < b for a, b in pairwise(times))
