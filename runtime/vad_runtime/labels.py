"""Ground truth of videos: which frames are anomalous."""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import InputError


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anomalous frames `first` to `last`, counted from 0, both included."""

    first: int
    last: int
    kind: str = "anomaly"


class VideoLabels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Truth of one video."""

    frames: Annotated[int, msgspec.Meta(ge=1)]
    """True number of frames of the video."""
    anomalies: list[Interval]

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return shape (frames,), True where anomalous."""
        out = np.zeros(self.frames, bool)
        for interval in self.anomalies:
            out[interval.first : interval.last + 1] = True
        return out


class Labels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a `labels.json`."""

    schema: int
    label_set: str
    """Name of the labels; an evaluation prints it."""
    fps: Annotated[float, msgspec.Meta(gt=0)]
    videos: dict[str, VideoLabels]
    """Truth by path, relative to the file's folder, with `/`."""

    def of(self, source: str | Path) -> VideoLabels | None:
        """Return the truth of a source: the entry whose path is the longest tail of its path."""
        parts = Path(source).resolve().parts
        fitting = [k for k in self.videos if parts[-len(Path(k).parts) :] == Path(k).parts]
        return self.videos[max(fitting, key=len)] if fitting else None


def read_labels(path: str | Path) -> Labels:
    """Read a `labels.json` strictly.

    Raises:
        InputError: Missing, not JSON, an unknown key, an interval outside the video.
    """
    file = Path(path)
    try:
        labels = msgspec.json.decode(file.read_bytes(), type=Labels)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). Check the path.") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise InputError(f"{file} is no labels file: {error}. See docs/labels.md.") from None
    if labels.schema != 1:
        raise InputError(
            f"{file}: labels schema {labels.schema}, but this vad-edge reads 1. See docs/labels.md."
        )
    for name, video in labels.videos.items():
        for interval in video.anomalies:
            if not 0 <= interval.first <= interval.last < video.frames:
                raise InputError(
                    f"{file}: {name} has frames 0 to {video.frames - 1}, but an anomaly from "
                    f"{interval.first} to {interval.last}. Correct the file."
                )
    return labels
