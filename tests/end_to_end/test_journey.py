"""From class folders to an alarm: the commands of docs/classes.md, with no hand edits between."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import write_video
from helpers_documents import blocks_of, run
from helpers_footage import FPS, scene, write_class_folders

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Room:
    """A folder in which the commands of the document were run, and what they have printed."""

    path: Path
    printed: str

    def rows(self, table: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file."""
        with (self.path / table).open(newline="") as stream:
            return list(csv.DictReader(stream))

    def json(self, name: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads((self.path / name).read_text())


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    """Go the whole way from class folders to alarms, once for all tests."""
    path = tmp_path_factory.mktemp("journey")
    videos = write_class_folders(path / "videos", {"walking": 10, "falling": 2, "fighting": 2})
    (videos / "walking" / "broken.mp4").write_bytes(b"no video")
    write_video(path / "quiet.mp4", scene(75 * FPS, seed=99), fps=FPS)
    blocks = [block for block in blocks_of(Path("docs/classes.md")) if block.reason is None]
    return Room(path, "".join(run(block, path) for block in blocks))


def test_the_check_names_what_cannot_be_used_and_leaves_it_out(room: Room) -> None:
    assert "unreadable: videos/walking/broken.mp4" in room.printed
    assert len(room.rows("clean.csv")) == 14


def test_no_copy_of_a_validation_or_test_clip_is_trained_on(room: Room) -> None:
    entries = room.rows("more/dataset.csv")
    split = {entry["path"]: entry["split"] for entry in entries}
    copies = [entry for entry in entries if entry["original"]]
    assert len(copies) == 6
    assert {entry["split"] for entry in copies} == {"train"}
    assert all(split[entry["original"]] == "train" for entry in copies)
    assert {e["class"] for e in entries if e["split"] != "anomaly"} == {"walking"}
    # The run has used this very split: nothing was drawn anew.
    used = room.rows("run/table.csv")
    assert sorted(e["split"] for e in used) == sorted(split.values())


def test_the_page_shows_every_picture_of_its_folder(room: Room) -> None:
    page = (room.path / "report" / "index.html").read_text()
    pictures = {file.name for file in (room.path / "report").glob("*.png")}
    assert "error_by_class.png" in pictures
    assert pictures == set(re.findall(r'<img[^>]*src="([^"]+)"', page))


def test_the_manifest_says_that_the_weights_are_random(room: Room) -> None:
    about = room.json("site.vad/manifest.json")
    assert about["family"] == "backbone-ae"
    assert about["training"]["backbone"]["weights"] == "random weights, seed 0"
    assert about["parity"]["real_clips"]


def test_the_threshold_comes_from_the_validation_clips_and_the_quiet_footage(room: Room) -> None:
    scoring = room.json("site.vad/manifest.json")["scoring"]
    evidence = scoring["evidence"]
    assert evidence["false_alarms_per_day"] == 1
    low, high = evidence["threshold_95"]
    assert low <= scoring["threshold"] <= high
    # A stretch for each of the two validation clips (not their training's) and one for quiet.mp4.
    assert evidence["stretches"] == 3


def test_an_alarm_comes_for_a_class_that_was_not_learnt(room: Room) -> None:
    assert "ALARM" in room.printed
    rows = room.rows("live/scores.csv")
    assert len(rows) == 48
    scores = [float(row["score"]) for row in rows if row["status"] == "scored"]
    assert len(scores) == 24  # the stride of 2 skips every other frame
    assert room.json("live/report.json")["notes"] == []


def test_no_alarm_comes_for_normal_footage_that_was_not_trained_on(room: Room) -> None:
    assert room.json("quiet.scores/report.json")["events"] == []
