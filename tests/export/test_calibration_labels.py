"""Models of one class are calibrated on normal footage, as far as labels say which that is."""

import json
from pathlib import Path

import msgspec
import pytest
from helpers import assert_one_line, manifest
from helpers_precision import SPEC, footage

from vad_calibration.clip_set import read_calibration_set
from vad_export.calibration import choose_inputs
from vad_runtime.contracts import InputError, Manifest


def about(family: str) -> Manifest:
    return msgspec.structs.replace(manifest(clip=SPEC), family=family)


def labelled(folder: Path, **anomalies: list[tuple[int, int]]) -> Path:
    """Write footage with a labels.json; by video its anomalous frames."""
    footage(folder, videos=2)
    videos = {
        f"{name}.mp4": {
            "frames": 40,
            "anomalies": [{"kind": "fall", "first": a, "last": b} for a, b in found],
        }
        for name, found in anomalies.items()
    }
    text = {"schema": 1, "label_set": "by hand", "fps": 15, "videos": videos}
    (folder / "labels.json").write_text(json.dumps(text))
    return folder


def files_of(folder: Path) -> set[str]:
    return {Path(clip.file).name for clip in read_calibration_set(folder).clips}


@pytest.mark.parametrize(
    ("family", "used"), [("stae", {"day0.mp4"}), ("mil", {"day0.mp4", "day1.mp4"})]
)
def test_videos_with_an_anomaly_are_left_out_for_one_class(
    tmp_path: Path, family: str, used: set[str]
) -> None:
    site = labelled(tmp_path / "site", day0=[], day1=[(3, 9)])
    lines = choose_inputs(about(family), site, 4, tmp_path / "set", check=2)
    assert files_of(tmp_path / "set") == used
    assert [line.split(" holds")[0] for line in lines if line.startswith("left out")] == [
        f"left out: {site / 'day1.mp4'}"
    ] * (family == "stae")


def test_other_labels_may_be_named(tmp_path: Path) -> None:
    site = labelled(tmp_path / "site", day0=[], day1=[])
    other = labelled(tmp_path / "other", day0=[(0, 5)], day1=[]) / "labels.json"
    choose_inputs(about("stae"), site, 4, tmp_path / "set", check=2, labels=other)
    assert files_of(tmp_path / "set") == {"day1.mp4"}


def test_footage_without_a_normal_video_is_refused(tmp_path: Path) -> None:
    site = labelled(tmp_path / "site", day0=[(0, 1)], day1=[(2, 3)])
    with pytest.raises(InputError) as error:
        choose_inputs(about("backbone-ae"), site, 4, tmp_path / "set", check=2)
    assert_one_line(error.value, "every video of the footage holds an anomaly")
    assert not (tmp_path / "set").exists()
