"""Regions for RBDC and TBDC: what a detector reports, and the truth from pixel masks."""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError
from vad_training.evaluation import source_of
from vad_training.metrics.regions import Detection, RegionMetrics, TrueRegion, iou, region_metrics

REGIONS = "regions.jsonl"
"""Optional, beside `scores.csv`: a line ``{"frame": 0, "box": [left, top, right, bottom],
"score": 0.5}`` for each region; pixels of the full picture, right and bottom exclusive."""

Mask = npt.NDArray[np.bool_]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    frame: Annotated[int, msgspec.Meta(ge=0)]
    box: tuple[float, float, float, float]
    score: float


def measured_regions(folder: Path, masks: Path) -> RegionMetrics:
    """Return RBDC and TBDC of the results below a folder.

    Args:
        folder: Results; each video has a `regions.jsonl` beside its `report.json`.
        masks: For each video a folder with the name of the video (with or without its suffix):
            one picture a frame in natural order, anomalous pixels not black.

    Raises:
        InputError: No results, a video without regions or masks, or a file that cannot be read.
    """
    detections: list[Detection] = []
    truth: list[TrueRegion] = []
    frames = 0
    reports = sorted(folder.rglob("report.json"))
    if not reports:
        raise InputError(f"{folder} holds no report.json. Run vad-run score with -o {folder}.")
    for report in reports:
        name = Path(source_of(report)).name
        pictures = masks_of(masks, name)
        detections += read_regions(report.parent / REGIONS, name)
        truth += true_regions(pictures, name)
        frames += len(pictures)
    if not truth:
        raise InputError(f"{masks} marks no region in any frame. Give masks of anomalous frames.")
    return region_metrics(detections, truth, frames)


def read_regions(file: Path, video: str) -> list[Detection]:
    """Read a `regions.jsonl`.

    Raises:
        InputError: Not readable, or a malformed line; names it.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}). RBDC and TBDC need a model that reports "
            "regions; evaluate without --masks."
        ) from None
    out = []
    for number, text in enumerate(lines, start=1):
        try:
            line = msgspec.json.decode(text, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{file}, line {number}: {error}. Correct the line.") from None
        box = np.array(line.box, np.float64)
        if (box[2:] < box[:2]).any():
            raise InputError(
                f"{file}, line {number}: the box is not left, top, right, bottom. Correct the line."
            )
        out.append(Detection(frame=(video, line.frame), area=box, score=line.score))
    return out


def masks_of(folder: Path, video: str) -> list[Mask]:
    """Read the masks of one video, shape (H, W) each, one a frame.

    Raises:
        InputError: No folder of that name, or a picture that cannot be read.
    """
    import cv2

    for name in (video, Path(video).stem):
        if (folder / name).is_dir():
            break
    else:
        raise InputError(f"{folder} has no masks of {video}. Give the folder of mask folders.")
    out = []
    # 2.png before 10.png
    for file in sorted((folder / name).glob("*.png"), key=lambda f: (len(f.name), f.name)):
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise InputError(f"{file} cannot be read as a picture. Replace it.")
        out.append(np.asarray(picture) > 0)
    if not out:
        raise InputError(f"{folder / name} holds no PNG masks. Give one for each frame.")
    return out


def true_regions(masks: list[Mask], video: str) -> list[TrueRegion]:
    """Return the connected components of each frame's mask as boxes, linked to tracks.

    A component goes on the track of the component in the frame before that it overlaps most; one
    that overlaps none, or whose track another has taken, begins a track.
    """
    import cv2

    out: list[TrueRegion] = []
    before: list[TrueRegion] = []
    tracks = 0
    for frame, mask in enumerate(masks):
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        boxes = [
            np.array([left, top, left + width, top + height], np.float64)
            for left, top, width, height, _ in stats[1:].tolist()  # 0 is the background
        ]
        pairs = [
            (iou(box, old.area), number, old.track)
            for number, box in enumerate(boxes)
            for old in before
        ]
        given: dict[int, object] = {}
        for overlap, number, track in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap > 0 and number not in given and track not in given.values():
                given[number] = track
        now = []
        for number, box in enumerate(boxes):
            if number not in given:
                given[number] = (video, tracks)
                tracks += 1
            now.append(TrueRegion(frame=(video, frame), area=box, track=given[number]))
        out += now
        before = now
    return out
