"""Public data sets: every folder form becomes a table and labels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import assert_one_line, moving_blob, write_video

from vad_runtime.contracts import InputError
from vad_runtime.labels import read_labels
from vad_training.data.table import read_table
from vad_training.data.tools import KINDS
from vad_training.data.tools.entries import (
    entries_from_folder,
    grouped,
    groups_from_options,
    long_enough,
)
from vad_training.data.tools.facts import facts_of
from vad_training.data.tools.importing import Imported, import_dataset, write_imported


def frames(folder: Path, count: int, suffix: str = "png") -> Path:
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        cv2.imwrite(str(folder / f"{i:03}.{suffix}"), np.full((16, 16, 3), 10 * i, np.uint8))
    return folder


def masks(folder: Path, anomalous: list[int], suffix: str = "bmp") -> None:
    folder.mkdir(parents=True)
    for i, value in enumerate(anomalous, start=1):
        mask = np.zeros((16, 16), np.uint8)
        mask[3, 4] = 255 * value
        cv2.imwrite(str(folder / f"{i:03}.{suffix}"), mask)


def video(path: Path, count: int = 6, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, moving_blob(count, height=32, width=48), **options)  # type: ignore[arg-type]


def truth(imported: Imported) -> dict[str, list[tuple[int, int]]]:
    assert imported.labels is not None
    return {
        name: [(i.first, i.last) for i in labels.anomalies]
        for name, labels in imported.labels.videos.items()
    }


def splits(imported: Imported) -> dict[str, tuple[str, str]]:
    return {entry.path.name: (entry.label, entry.split) for entry in imported.entries}


def ucsd_tree(root: Path) -> Path:
    frames(root / "Train" / "Train001", 4, "tif")
    frames(root / "Test" / "Test001", 6, "tif")
    frames(root / "Test" / "Test002", 5, "tif")
    return root


def test_the_original_ucsd_form_takes_its_intervals_from_the_script(tmp_path: Path) -> None:
    root = ucsd_tree(tmp_path / "UCSDped9")
    masks(root / "Test" / "Test001_gt", [0, 0, 0, 0, 0, 1])  # the script counts, and no test video
    (root / "Test" / "UCSDped9.m").write_text(
        "TestVideoFile = {};\n"
        "TestVideoFile{end+1}.gt_frame = [2:3, 5:6]; % not 1:6\n"
        "TestVideoFile{end+1}.gt_frame = [];\n"
    )
    (root / "Test" / "._UCSDped9.m").write_bytes(b"\0")
    imported = import_dataset("ucsd", root)
    assert truth(imported) == {"Test/Test001": [(1, 2), (4, 5)], "Test/Test002": []}
    assert splits(imported) == {
        "Train001": ("normal", "train"),
        "Test001": ("anomalous", "test"),
        "Test002": ("normal", "test"),
    }
    assert imported.labels is not None
    assert imported.labels.fps == 10
    assert any("frame rate" in note for note in imported.notes)
    assert not any("frame rate" in n for n in import_dataset("ucsd", root, fps=12).notes)


def test_without_a_script_ucsd_takes_its_masks(tmp_path: Path) -> None:
    root = ucsd_tree(tmp_path / "ped")
    masks(root / "Test" / "Test001_gt", [0, 1, 1, 0, 0, 1])
    with pytest.raises(InputError) as error:
        import_dataset("ucsd", root)
    assert_one_line(error.value, "Test002", "masks")
    masks(root / "Test" / "Test002_gt", [0] * 5)
    assert truth(import_dataset("ucsd", root)) == {
        "Test/Test001": [(1, 2), (5, 5)],
        "Test/Test002": [],
    }


def test_a_script_of_another_length_is_refused(tmp_path: Path) -> None:
    root = ucsd_tree(tmp_path / "ped")
    (root / "Test" / "a.m").write_text("TestVideoFile{end+1}.gt_frame = [2:3];\n")
    with pytest.raises(InputError) as error:
        import_dataset("ucsd", root)
    assert_one_line(error.value, "1 test videos", "2 are there")


@pytest.mark.parametrize("form", ["json", "mat", "masks"])
def test_the_frame_form_reads_any_of_its_three_truths(tmp_path: Path, form: str) -> None:
    import scipy.io

    root = tmp_path / "ped2"
    frames(root / "training" / "frames" / "01", 3)
    frames(root / "testing" / "frames" / "01", 6)
    if form == "json":
        content = {"01": {"n_frames": 6, "anomalous_1based_inclusive": [2, 4]}}
        (root / "labels.json").write_text(json.dumps(content))
    elif form == "mat":
        cells = np.empty((1, 1), object)
        cells[0, 0] = np.array([[2], [4]])
        scipy.io.savemat(root / "ped2.mat", {"gt": cells})
    else:
        masks(root / "testing" / "masks" / "01", [0, 1, 1, 1, 0, 0], "png")
    assert truth(import_dataset("ucsd", root)) == {"testing/frames/01": [(1, 3)]}


def test_a_truth_longer_than_the_video_is_cut_and_said(tmp_path: Path) -> None:
    root = tmp_path / "ped2"
    frames(root / "training" / "frames" / "01", 3)
    frames(root / "testing" / "frames" / "01", 6)
    content = {"01": {"n_frames": 8, "anomalous_1based_inclusive": [2, 8]}}
    (root / "labels.json").write_text(json.dumps(content))
    imported = import_dataset("ucsd", root)
    assert truth(imported) == {"testing/frames/01": [(1, 5)]}
    assert any("speaks of 8" in note for note in imported.notes)
    assert any("runs past frame 5" in note for note in imported.notes)


def test_avenue_reads_the_cells_of_its_masks(tmp_path: Path) -> None:
    import scipy.io

    root = tmp_path / "Avenue"
    video(root / "training_videos" / "01.avi", codec="mpeg4")
    video(root / "testing_videos" / "01.avi", codec="mpeg4", fps=25)
    cells = np.empty((1, 6), object)
    for i in range(6):
        cells[0, i] = np.zeros((4, 4), np.uint8)
    cells[0, 2][1, 1] = 1
    folder = root / "ground_truth_demo" / "testing_label_mask"
    folder.mkdir(parents=True)
    scipy.io.savemat(folder / "1_label.mat", {"volLabel": cells})
    imported = import_dataset("avenue", root)
    assert truth(imported) == {"testing_videos/01.avi": [(2, 2)]}
    assert imported.labels is not None
    assert imported.labels.fps == 25
    (folder / "1_label.mat").write_bytes(b"no mat")
    with pytest.raises(InputError) as error:
        import_dataset("avenue", root)
    assert_one_line(error.value, "1_label.mat")


def test_shanghaitech_reads_its_frame_masks(tmp_path: Path) -> None:
    root = tmp_path / "shanghaitech"
    video(root / "training" / "videos" / "01_001.avi", codec="mpeg4")
    frames(root / "testing" / "frames" / "01_0014", 5, "jpg")
    folder = root / "testing" / "test_frame_mask"
    folder.mkdir()
    np.save(folder / "01_0014.npy", np.array([0, 0, 1, 1, 0], np.uint8))
    imported = import_dataset("shanghaitech", root)
    assert truth(imported) == {"testing/frames/01_0014": [(2, 3)]}
    assert imported.labels is not None
    assert imported.labels.fps == 24


def test_ucf_crime_splits_by_its_lists_and_a_part_of_it_is_enough(tmp_path: Path) -> None:
    root = tmp_path / "ucf"
    video(root / "Videos" / "Abuse" / "Abuse028_x264.mp4", 30)
    video(root / "Videos" / "Abuse" / "Abuse001_x264.mp4")
    video(root / "Videos" / "Training_Normal_Videos_Anomaly" / "Normal_Videos001_x264.mp4")
    video(root / "Videos" / "Normal_Videos_event" / "Normal_Videos001_x264.mp4")
    video(root / "Videos" / "Testing_Normal_Videos_Anomaly" / "Normal_Videos_003_x264.mp4")
    (root / "Videos" / "Abuse" / "Abuse002_x264.mp4").write_bytes(b"broken")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "Temporal_Anomaly_Annotation.txt").write_text(
        "Abuse028_x264.mp4  Abuse  5  9  21  40  \n"
        "Arson001_x264.mp4  Arson  5  9  -1  -1  \n"
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  \n"
    )
    (lists / "Anomaly_Train.txt").write_text(
        "Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n"
    )
    with pytest.raises(InputError) as error:
        import_dataset("ucf-crime", root)
    assert_one_line(error.value, "Temporal_Anomaly_Annotation.txt", "--annotations")
    imported = import_dataset("ucf-crime", root, annotations=lists)
    assert truth(imported) == {
        "Videos/Abuse/Abuse028_x264.mp4": [(4, 8), (20, 29)],
        "Videos/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4": [],
    }
    found = {f"{e.path.parent.name}/{e.path.name}": (e.label, e.split) for e in imported.entries}
    assert found == {
        "Abuse/Abuse028_x264.mp4": ("Abuse", "test"),
        "Abuse/Abuse001_x264.mp4": ("Abuse", "train"),
        "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4": ("Normal", "train"),
        "Normal_Videos_event/Normal_Videos001_x264.mp4": ("Normal", ""),
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4": ("Normal", "test"),
    }
    assert len(imported.skipped) == 1
    assert "Abuse002" in imported.skipped[0]
    assert any("1 of the 3 annotated" in note for note in imported.notes)


def test_ucf_sports_takes_one_video_of_each_numbered_folder(tmp_path: Path) -> None:
    root = tmp_path / "ucf_sports_actions" / "ucf action"
    video(root / "Diving-Side" / "001" / "a.avi", codec="mpeg4")
    frames(root / "Diving-Side" / "001" / "jpeg", 3)
    frames(root / "Run-Side" / "001", 3, "jpg")
    (root / "Run-Side" / "002").mkdir()
    imported = import_dataset("ucf-sports", tmp_path)
    assert [(e.label, e.path.relative_to(root).as_posix()) for e in imported.entries] == [
        ("Diving-Side", "Diving-Side/001/a.avi"),
        ("Run-Side", "Run-Side/001"),
    ]
    assert imported.labels is None
    assert any("002" in note for note in imported.notes)


def test_what_is_written_reads_back_and_finds_the_truth_of_each_video(tmp_path: Path) -> None:
    root = ucsd_tree(tmp_path / "ped")
    (root / "Test" / "a.m").write_text(
        "T{end+1}.gt_frame = [2:3];\nT{end+1}.gt_frame = [1:5];\n", encoding="utf-8"
    )
    out = tmp_path / "deep" / "out"
    written = write_imported(import_dataset("ucsd", root), out)
    assert [file.name for file in written] == ["dataset.csv", "labels.json"]
    labels = read_labels(out / "labels.json")
    tests = [entry for entry in read_table(out / "dataset.csv") if entry.split == "test"]
    assert [sum(labels.of(e.path).mask()) for e in tests] == [2, 5]  # type: ignore[union-attr]
    assert sorted(child.name for child in out.iterdir()) == ["dataset.csv", "labels.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_another_form_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError) as error:
        import_dataset(kind, tmp_path)
    assert_one_line(error.value, str(tmp_path))


def test_a_file_without_a_frame_count_is_counted_by_decoding(tmp_path: Path) -> None:
    film = video(tmp_path / "a.mkv", 9, fps=10)
    facts = facts_of(film)
    assert (facts.frames, facts.counted) == (9, True)
    assert facts.seconds == pytest.approx(0.9, abs=1e-6)
    film = video(tmp_path / "a.mp4", 9, fps=10)
    assert (facts_of(film).frames, facts_of(film).counted) == (9, False)
    assert facts_of(film, decode=True).counted


def test_sub_classes_are_grouped_and_short_videos_named(tmp_path: Path) -> None:
    video(tmp_path / "walk" / "a.mp4", 15)
    video(tmp_path / "stroll" / "b.mp4", 29)
    video(tmp_path / "fall" / "c.mp4", 30)
    entries = grouped(entries_from_folder(tmp_path), groups_from_options(["walking=walk,stroll"]))
    assert [entry.label for entry in entries] == ["fall", "walking", "walking"]
    kept, dropped = long_enough(entries, 1.95)
    assert [entry.path.name for entry in kept] == ["c.mp4"]  # 29 frames are 1.933 s, not 2 s
    assert len(dropped) == 2
    assert "1.933 s" in dropped[0]
    with pytest.raises(InputError) as error:
        grouped(entries, {"nobody": "x"})
    assert_one_line(error.value, "nobody", "fall, walking")
    for wrong in ("a", "a=", "=b"):
        with pytest.raises(InputError, match="NEW=OLD1"):
            groups_from_options([wrong])


@pytest.mark.data
def test_the_real_ped2_has_its_published_numbers(data: Path) -> None:
    imported = import_dataset("ucsd", data / "ped2")
    assert imported.labels is not None
    videos = imported.labels.videos
    assert len(videos) == 12
    assert sum(v.frames for v in videos.values()) == 2010
    assert sum(int(v.mask().sum()) for v in videos.values()) == 1648
    assert sum(entry.split == "train" for entry in imported.entries) == 16
    assert not imported.skipped


@pytest.mark.data
def test_the_intervals_and_the_masks_of_the_real_ped2_agree(data: Path, tmp_path: Path) -> None:
    for name in ("training", "testing", "ped2.mat"):
        (tmp_path / name).symlink_to(data / "ped2" / name)
    from_mat = truth(import_dataset("ucsd", tmp_path))
    (tmp_path / "ped2.mat").unlink()
    from_masks = truth(import_dataset("ucsd", tmp_path))
    assert from_mat == from_masks == truth(import_dataset("ucsd", data / "ped2"))


@pytest.mark.data
def test_the_real_ucf_crime_annotation_finds_a_real_video(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Videos" / "Arrest"
    folder.mkdir(parents=True)
    (folder / "Arrest030_x264.mp4").symlink_to(data / "clips" / "Arrest030_x264.mp4")
    imported = import_dataset("ucf-crime", tmp_path, annotations=data / "ucf_crime")
    assert [(e.label, e.split) for e in imported.entries] == [("Arrest", "test")]
    assert any("289 of the 290" in note for note in imported.notes)
