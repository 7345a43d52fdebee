"""Readers of UCSD pedestrian, CUHK Avenue and ShanghaiTech: normal training videos, frame truth.

::

    UCSD original        Train/Train001/*.tif  Test/Test001/*.tif
                         Test/*.m (intervals)  or  Test/Test001_gt/*.bmp
    Avenue original      training_videos/*.avi  testing_videos/*.avi
                         ground_truth_demo/testing_label_mask/1_label.mat
    ShanghaiTech         training/videos/*.avi  testing/frames/01_0014/*.jpg
                         testing/test_frame_mask/01_0014.npy
    UCSD or Avenue       training/frames/01/*.jpg  testing/frames/01/*.jpg, and either labels.json,
    as frames            NAME.mat (intervals) or testing/masks/01/*.png
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vad_runtime.contracts import InputError
from vad_runtime.labels import Interval
from vad_training.data.table import Split
from vad_training.data.tools.layouts import (
    NORMAL,
    Found,
    Layout,
    folder_within,
    frame_folders,
    interval_from_one,
    intervals_from_masks,
    intervals_from_mat,
    intervals_of,
    loaded_mat,
    videos_in,
    visible,
    with_intervals,
)

UCSD_FPS = 10.0
"""What the field assumes for UCSD; neither the frames nor their README say it."""
SHANGHAITECH_FPS = 24.0
"""Of the training videos; the test frames come from the same cameras."""
AVENUE_FPS = 25.0
"""Of the videos, for copies that hold their frames only."""


def ucsd(root: Path) -> Layout:
    """Find the videos of UCSD Ped1 or Ped2.

    Raises:
        InputError: Another form, or truth that does not fit.
    """
    layout = Layout(label_set="UCSD frame labels", fps=UCSD_FPS)
    layout.notes.append(f"UCSD does not say its frame rate; {UCSD_FPS:g} frames/s are assumed")
    train, test = folder_within(root, "Train"), folder_within(root, "Test")
    if train is None or test is None:
        return _frame_form(root, layout, "UCSDped1 or UCSDped2, which holds Train and Test")
    layout.found = _normal(frame_folders(train))
    tests = frame_folders(test)
    scripts = [file for file in visible(test) if file.suffix == ".m"]
    if scripts:
        layout.found += with_intervals(tests, _intervals_from_script(scripts[0]), scripts[0])
        return layout
    layout.label_set = "UCSD pixel masks"
    layout.found += [_with_masks(folder, test / f"{folder.name}_gt") for folder in tests]
    return layout


def avenue(root: Path) -> Layout:
    """Find the videos of CUHK Avenue.

    Raises:
        InputError: Another form, or truth that does not fit.
    """
    layout = Layout(label_set="Avenue pixel masks (volLabel)", fps=AVENUE_FPS)
    train = folder_within(root, "training_videos")
    test = folder_within(root, "testing_videos")
    if train is None or test is None:
        layout.label_set = "Avenue frame labels"
        return _frame_form(root, layout, "the folder that holds training_videos, testing_videos")
    masks = folder_within(
        root, "ground_truth_demo/testing_label_mask", "testing_label_mask", "volLabel"
    )
    if masks is None:
        raise InputError(
            f"{root} has no ground_truth_demo/testing_label_mask. Unpack Avenue's ground truth too."
        )
    layout.found = _normal(videos_in(train))
    for video in videos_in(test):
        number = re.search(r"\d+", video.stem)
        file = masks / f"{int(number.group()) if number else video.stem}_label.mat"
        anomalous = _frames_of_volume(file)
        layout.found.append(
            Found(
                source=video,
                split="test",
                anomalies=intervals_of(anomalous),
                annotated=len(anomalous),
            )
        )
    return layout


def shanghaitech(root: Path) -> Layout:
    """Find the videos of ShanghaiTech Campus.

    Raises:
        InputError: Another form, or truth that does not fit.
    """
    layout = Layout(label_set="ShanghaiTech frame masks", fps=SHANGHAITECH_FPS)
    train = folder_within(root, "training/videos", "training/frames")
    test = folder_within(root, "testing/frames", "testing/videos")
    masks = folder_within(root, "testing/test_frame_mask", "test_frame_mask")
    if train is None or test is None or masks is None:
        raise InputError(
            f"{root} is not ShanghaiTech. Give the folder that holds training/videos, "
            "testing/frames and testing/test_frame_mask."
        )
    layout.found = _normal(videos_in(train))
    for source in videos_in(test):
        file = masks / f"{source.name if source.is_dir() else source.stem}.npy"
        try:
            values = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"the frame mask {file} cannot be read ({reason}). Complete the data set."
            ) from None
        anomalous = values.reshape(-1) != 0
        layout.found.append(
            Found(
                source=source,
                split="test",
                anomalies=intervals_of(anomalous),
                annotated=len(anomalous),
            )
        )
    return layout


def _frame_form(root: Path, layout: Layout, wanted: str) -> Layout:
    train, test = folder_within(root, "training/frames"), folder_within(root, "testing/frames")
    if train is None or test is None:
        raise InputError(f"{root} has no form that is known. Give {wanted}, or training/frames.")
    layout.found = _normal(frame_folders(train))
    tests = frame_folders(test)
    if (root / "labels.json").is_file():
        layout.found += _with_json(tests, root / "labels.json")
        return layout
    mats = [file for file in visible(root) if file.suffix == ".mat"]
    if mats:
        layout.found += with_intervals(tests, intervals_from_mat(mats[0]), mats[0])
        return layout
    masks = folder_within(root, "testing/masks")
    if masks is None:
        raise InputError(
            f"{root} has no truth: no labels.json, *.mat or testing/masks. Add one of them."
        )
    layout.label_set = layout.label_set.replace("frame labels", "pixel masks")
    layout.found += [_with_masks(folder, masks / folder.name) for folder in tests]
    return layout


def _normal(sources: list[Path]) -> list[Found]:
    split: Split = "train"
    return [Found(source=source, split=split, label=NORMAL) for source in sources]


def _with_masks(source: Path, masks: Path) -> Found:
    if not masks.is_dir():
        raise InputError(f"{source} has no masks at {masks}. Complete the data set.")
    anomalies, count = intervals_from_masks(masks)
    return Found(source=source, split="test", anomalies=anomalies, annotated=count)


def _intervals_from_script(file: Path) -> list[list[Interval]]:
    """Read lines like ``TestVideoFile{end+1}.gt_frame = [5:90, 140:200];``."""
    try:
        text = file.read_text(encoding="latin-1")
        code = re.sub(r"%.*", "", text)
        return [
            [
                interval_from_one(int(first), int(last or first))
                for first, last in re.findall(r"(\d+)(?:\s*:\s*(\d+))?", numbers)
            ]
            for numbers in re.findall(r"gt_frame\s*=\s*\[?([^\];]*)", code)
        ]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} does not hold intervals gt_frame ({error}). Copy it again."
        ) from None


def _with_json(sources: list[Path], file: Path) -> list[Found]:
    """Read ``{"01": {"n_frames": 180, "anomalous_1based_inclusive": [61, 180]}}``."""
    try:
        truth: dict[str, dict[str, Any]] = json.loads(file.read_bytes())
        return [
            Found(
                source=source,
                split="test",
                anomalies=[
                    interval_from_one(int(a), int(b))
                    for a, b in np.reshape(
                        truth[source.name]["anomalous_1based_inclusive"], (-1, 2)
                    )
                ],
                annotated=int(truth[source.name]["n_frames"]),
            )
            for source in sources
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not the truth of these test videos ({error!r}). Correct the file."
        ) from None


def _frames_of_volume(file: Path) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Return which frames of a cell array `volLabel` of masks are not empty."""
    content = loaded_mat(file)
    if "volLabel" not in content:
        raise InputError(f"{file} holds no volLabel. Copy Avenue's ground truth again.")
    cells = np.asarray(content["volLabel"], object).ravel()
    return np.array([bool(np.any(np.asarray(cell))) for cell in cells], bool)
