"""Readers of published annotation files, as `Labels`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from vad_runtime.contracts import InputError
from vad_runtime.labels import Interval, Labels, VideoLabels

UCF_FPS = 30.0
"""Frame rate of UCF-Crime."""


def temporal_annotation(file: Path) -> dict[str, tuple[str, list[Interval]]]:
    """Read UCF-Crime's `Temporal_Anomaly_Annotation.txt`.

    A line is ``name.mp4  Class  first last  first last``: frames from 1, both included, up to two
    intervals, -1 = none.

    Returns:
        For each video name its class and its intervals, counted from 0, both ends included.

    Raises:
        InputError: Not readable, or a malformed line; names file and line.
    """
    out: dict[str, tuple[str, list[Interval]]] = {}
    for number, line in _lines(file):
        fields = line.split()
        try:
            if len(fields) < 4 or len(fields) % 2:
                raise ValueError(f"{len(fields)} fields instead of 6")
            kind, numbers = fields[1], [int(field) for field in fields[2:]]
            intervals = [
                _interval(first, last, kind)
                for first, last in zip(numbers[::2], numbers[1::2], strict=True)
                if (first, last) != (-1, -1)
            ]
        except ValueError as error:
            raise _malformed(file, number, error) from None
        if fields[0] in out:
            raise InputError(f"{file}, line {number}: {fields[0]} stands there twice. Remove one.")
        out[fields[0]] = (kind, intervals)
    if not out:
        raise InputError(f"{file} holds no annotations. Give Temporal_Anomaly_Annotation.txt.")
    return out


def frame_counts(files: Iterable[Path]) -> dict[str, int]:
    """Read lists of frame counts: ``folder/name.mp4 876 ...`` or ``folder/name.mp4|876|...``.

    Returns:
        The true number of frames of each path, as it stands in the lists.

    Raises:
        InputError: Not readable, a malformed line, or a path with two counts.
    """
    out: dict[str, int] = {}
    for file in files:
        for number, line in _lines(file):
            fields = line.replace("|", " ").split()
            try:
                name, frames = fields[0], int(fields[1])
                if frames < 1:
                    raise ValueError(f"{frames} frames")
            except (ValueError, IndexError) as error:
                raise _malformed(file, number, error) from None
            if out.setdefault(name, frames) != frames:
                raise InputError(
                    f"{file}, line {number}: {name} has {frames} frames here and {out[name]} "
                    "above. Correct the list."
                )
    return out


def labels_from_annotation(
    annotation: Mapping[str, tuple[str, list[Interval]]],
    counts: Mapping[str, int],
    *,
    label_set: str,
    fps: float = UCF_FPS,
) -> Labels:
    """Join intervals with true frame counts.

    An interval that runs past the video's end is cut there: the published annotation of two
    videos counts one frame too many.

    Args:
        annotation: By file name, from `temporal_annotation`.
        counts: By path; a path belongs to the annotation of its file name.
        label_set: Name of the labels.
        fps: Of the videos.

    Raises:
        InputError: A path without annotation, or an interval that begins past the end.
    """
    videos = {}
    for path, frames in counts.items():
        known = annotation.get(Path(path).name)
        if known is None:
            raise InputError(f"{path} has a frame count and no annotation. Complete the lists.")
        for interval in known[1]:
            if interval.first >= frames:
                raise InputError(
                    f"{path} has {frames} frames, and its anomaly begins at {interval.first}. "
                    "Correct the lists."
                )
        videos[path] = VideoLabels(
            frames=frames,
            anomalies=[
                Interval(first=i.first, last=min(i.last, frames - 1), kind=i.kind) for i in known[1]
            ],
        )
    return Labels(schema=1, label_set=label_set, fps=fps, videos=videos)


def _interval(first: int, last: int, kind: str) -> Interval:
    if not 1 <= first <= last:
        raise ValueError(f"no interval goes from {first} to {last}")
    return Interval(first=first - 1, last=last - 1, kind=kind)


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text ({error.reason}). Give another file.") from None
    return [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _malformed(file: Path, number: int, error: Exception) -> InputError:
    return InputError(f"{file}, line {number}: {error}. Correct the line.")
