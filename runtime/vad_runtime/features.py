"""Precomputed features of videos: reading them, and segments of a video from them and back.

Weakly supervised models look at a video as a bag of segments, 32 by tradition::

    frames    |----------------------------------------------| true count
    clips     [16][16][16] ...                                 n clips, one feature each
    segments  [   ][   ][    ] ...                             S, from round(linspace(0, n, S+1))

What can be read, each file holding the features of one video:

* `.npz` of `vad-train features`: `features` (n, D), `first_frames` (n,), `clip_span`, `frames`,
  `fps` and `about` (JSON). Of them only `features` must be there.
* `.npy` (n, D), or (n, crops, D), of which the mean over the crops is taken. RGB and flow lie side
  by side as `NAME_rgb.npy` and `NAME_flow.npy`, or as `rgb/NAME.npy` and `flow/NAME.npy`.
* `.txt` and `.csv`: a line for each clip or segment, numbers between blanks or commas.
"""

import json
import math
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts.errors import InputError
from vad_runtime.contracts.manifest import FeatureSpec

Modality = Literal["rgb", "flow", "two"]
"""`two`: rgb and flow side by side in one vector."""

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

FEATURE_SUFFIXES = frozenset([".npz", ".npy", ".txt", ".csv"])
CLIP = 16
"""Frames of a clip where a file does not say: those of C3D and I3D."""
UNREADABLE = (
    *(ValueError, TypeError, EOFError, KeyError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError),
)
"""What NumPy raises for a damaged or foreign file, beside OSError."""
_C3D_STEP = 17
"""See `c3d_file_starts`."""
_NUMBERS = "fiu"
"""Kinds of NumPy's types that features may have."""


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """The features of one video."""

    name: str
    features: Array
    """Shape (n, D), float32, finite, n >= 1; the caller owns it."""
    first_frames: Indices | None = None
    """Source frame at which each clip begins, shape (n,), increasing; None = not known."""
    clip_span: int | None = None
    """Source frames from a clip's first to its last frame, both counted."""
    frames: int | None = None
    """True number of frames of the video."""
    fps: float | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """What computed them; empty for foreign files."""


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """Where the features of one video lie."""

    name: str
    """Path below the folder that was searched, without suffix and modality."""
    paths: tuple[Path, ...]
    """One file, or rgb and flow."""


def find_features(folder: Path, modality: Modality = "rgb") -> list[FeatureFile]:
    """Return the feature files at or below a path, one entry a video, sorted by name.

    Hidden files and folders are passed over.

    Raises:
        InputError: Nothing is there, or the other half of a pair is missing.
    """
    if folder.is_file():
        return [
            FeatureFile(
                name=_plain_name(Path(folder.name)), paths=_pair(folder, folder.parent, modality)
            )
        ]
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Check the path.")
    found: dict[str, FeatureFile] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in FEATURE_SUFFIXES or not path.is_file():
            continue
        # `two` needs both halves and finds a video by either, so a lonely half is not passed over.
        if _half(relative) not in (None, modality) and modality != "two":
            continue
        name = _plain_name(relative)
        paths = _pair(path, folder, modality)
        if name in found and found[name].paths != paths:
            raise InputError(
                f"{folder} holds {name} twice ({found[name].paths[0].name} and {path.name}). "
                "Remove one of them."
            )
        found[name] = FeatureFile(name=name, paths=paths)
    if not found:
        raise InputError(
            f"{folder} holds no {modality} features (.npz, .npy, .txt, .csv). "
            "Make some with: vad-train features"
        )
    return [found[name] for name in sorted(found)]


def read_features(file: FeatureFile | Path, modality: Modality = "rgb") -> VideoFeatures:
    """Read the features of one video.

    Args:
        file: What `find_features` found, or the path of a file (of either half of a pair).
        modality: What is wanted. Of an npz that holds both, one half can be had.

    Raises:
        InputError: Not readable, empty, not finite, of a wrong shape, or halves that do not fit.
    """
    if isinstance(file, Path):
        file = find_features(file, modality)[0]
    read = [_read(path, file.name, modality) for path in file.paths]
    if len(read) == 1:
        return read[0]
    rgb, flow = read
    if len(rgb.features) != len(flow.features):
        raise InputError(
            f"{file.name}: {len(rgb.features)} rgb and {len(flow.features)} flow features. "
            "Compute both with the same clips."
        )
    return VideoFeatures(name=file.name, features=np.hstack([rgb.features, flow.features]))


def segment_boundaries(clips: int, segments: int = 32) -> Indices:
    """Return the clip at which each segment begins, and the end: shape (segments + 1,), int64.

    ``round(linspace(0, clips, segments + 1))``, halves to the even number. With fewer clips than
    segments some segments are empty.
    """
    boundaries: Indices = np.linspace(0, clips, segments + 1).round().astype(np.int64)
    return boundaries


def segment_features(features: Array, segments: int = 32, *, normalise: bool = True) -> Array:
    """Return the features of a video's segments.

    The mean over the clips of a segment; an empty segment repeats its clip, so no clip is dropped
    and no segment is zero.

    Args:
        features: Shape (n, D), float, n >= 1.
        segments: S.
        normalise: Divide each by its L2 norm (where that is not 0).

    Returns:
        Shape (S, D), float32; the caller owns it.

    Raises:
        InputError: No clips, another shape, or a value that is not finite.
    """
    features = _checked(np.asarray(features), "features")
    boundaries = segment_boundaries(len(features), segments)
    out = np.empty((segments, features.shape[1]), np.float32)
    for k in range(segments):
        first = min(boundaries[k], len(features) - 1)
        out[k] = features[first : max(boundaries[k + 1], first + 1)].mean(axis=0)
    return unit_length(out) if normalise else out


def read_fitting_features(file: FeatureFile | Path, spec: FeatureSpec) -> VideoFeatures:
    """Read a video's features for a graph that takes them.

    Raises:
        InputError: As `read_features` says, or the features have another length than the graph's.
    """
    video = read_features(file, spec.modality)
    if video.features.shape[1] != spec.size:
        raise InputError(
            f"{video.name} has features of {video.features.shape[1]} numbers, the head takes "
            f"{spec.size}. Give features of the kind that it was trained on."
        )
    return video


def segments_for(video: VideoFeatures, spec: FeatureSpec) -> Array:
    """Return a graph's input for one video, shape (S, D), float32; the caller owns it."""
    return segment_features(video.features, spec.segments, normalise=spec.normalise)


def unit_length(features: Array) -> Array:
    """Return features (..., D) divided by their L2 norms; what is 0 stays 0."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), np.float32)


def segment_starts(
    frames: int, segments: int = 32, *, first_frames: Indices | None = None
) -> Indices:
    """Return the frame at which each segment's score begins, shape (segments,), int64.

    Args:
        frames: True number of frames of the video.
        segments: S.
        first_frames: Frame at which each clip begins, shape (n,); None = clips of 16 frames one
            after another.
    """
    if first_frames is None:
        first_frames = np.arange(max(frames // CLIP, 1), dtype=np.int64) * CLIP
    boundaries = segment_boundaries(len(first_frames), segments)[:-1]
    starts: Indices = first_frames[np.minimum(boundaries, len(first_frames) - 1)]
    return starts


def c3d_file_starts(frames: int, segments: int = 32) -> Indices:
    """Return the segments' first frames for features made from steps of 17 frames.

    So were the circulating C3D features of UCF-Crime made: with ``L = (frames + 1) // 17`` and
    ``m = max(L // segments, 1)`` segment k covers the frames ``17 m k`` to ``17 m (k + 1) - 1``.
    For scores of those files alone: it drops tail clips, which nothing of ours does.
    """
    steps = max((frames + 1) // _C3D_STEP // segments, 1)
    return np.arange(segments, dtype=np.int64) * _C3D_STEP * steps


def scores_to_frames(
    scores: npt.ArrayLike, starts: npt.ArrayLike, frames: int
) -> npt.NDArray[np.float64]:
    """Return a score for each frame of a video.

    A segment's score holds from its first frame to that of the next segment; the last one holds to
    the end. What begins past the end has no frames.

    Args:
        scores: Shape (S,).
        starts: Shape (S,), not decreasing: `segment_starts` or `c3d_file_starts`.
        frames: True number of frames of the video.

    Returns:
        Shape (frames,), float64; the caller owns it.

    Raises:
        InputError: Not as many scores as segments, or no frames.
    """
    scores, starts = np.asarray(scores, np.float64), np.asarray(starts, np.int64)
    if scores.ndim != 1 or scores.shape != starts.shape or not len(scores):
        raise InputError(
            f"scores of shape {scores.shape} do not fit segments of shape {starts.shape}. "
            "Give one score a segment."
        )
    if frames < 1:
        raise InputError(f"a video of {frames} frames has no scores. Check the frame count.")
    # Of several segments that share a clip the last one counts: the one that is not empty.
    place = np.searchsorted(starts, np.arange(frames), side="right") - 1
    return scores[np.maximum(place, 0)]


def _read(path: Path, name: str, modality: Modality) -> VideoFeatures:
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return _read_npz(path, name, modality)
        if suffix == ".npy":
            with warnings.catch_warnings():
                # Files of Python 2 are as good; NumPy's advice to save them again is not ours.
                warnings.simplefilter("ignore", UserWarning)
                array = np.load(path, allow_pickle=False)
        else:
            array = _read_text(path, "," if suffix == ".csv" else None)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{path} holds no features ({reason}). Compute them again.") from None
    if array.ndim == 3 and array.shape[1] and array.dtype.kind in _NUMBERS:
        array = array.mean(axis=1)
    return VideoFeatures(name=name, features=_checked(array, str(path)))


def _read_npz(path: Path, name: str, modality: Modality) -> VideoFeatures:
    with np.load(path, allow_pickle=False) as content:
        features = _checked(content["features"], str(path))
        about = json.loads(str(content["about"])) if "about" in content else {}
        first = content["first_frames"].astype(np.int64) if "first_frames" in content else None
        span = int(content["clip_span"]) if "clip_span" in content else None
        frames = int(content["frames"]) if "frames" in content else None
        fps = float(content["fps"]) if "fps" in content else None
    if not isinstance(about, dict):
        raise ValueError("about is no JSON object")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"a frame rate of {fps}")
    have = about.get("modality", "rgb")
    if have == "two" and modality != "two":
        half = features.shape[1] // 2
        features = features[:, :half] if modality == "rgb" else features[:, half:]
    elif have != modality:
        raise InputError(
            f"{path} holds {have} features, not {modality}. Compute them with: "
            f"vad-train features --modality {modality}"
        )
    if first is not None and (first.shape != features.shape[:1] or (np.diff(first) < 0).any()):
        raise InputError(f"{path}: first_frames do not fit its features. Compute them again.")
    return VideoFeatures(
        name=name,
        features=np.ascontiguousarray(features),
        first_frames=first,
        clip_span=span,
        frames=frames,
        fps=fps,
        about=about,
    )


def _read_text(path: Path, delimiter: str | None) -> npt.NDArray[Any]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    rows = [line.replace(",", " ").split() if delimiter else line.split() for line in lines]
    if rows and not (rows[0] and _is_number(rows[0][0])):  # the column names of a table
        rows = rows[1:]
    return np.array(rows, np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked(array: npt.NDArray[Any], where: str) -> Array:
    """Return features as float32 of shape (n, D)."""
    if array.dtype.kind not in _NUMBERS:
        raise InputError(f"{where} holds {array.dtype}, not numbers. Give features of one video.")
    if array.ndim != 2 or not array.size:
        raise InputError(
            f"{where} has shape {array.shape}, not (clips, dimension). Give features of one video."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise InputError(
            f"{where}: row {bad[0]} holds NaN or infinity. Compute the features again."
        )
    return array


def _half(path: Path) -> str | None:
    """Return which half of a pair a file's name makes it; None = it is no half."""
    for half in get_args(Modality)[:2]:
        if path.stem.lower().endswith(f"_{half}") or half in map(str.lower, path.parts[:-1]):
            return str(half)
    return None


def _plain_name(path: Path) -> str:
    """Return a name in which the two halves of a pair agree."""
    parts = [part for part in path.parts[:-1] if part.lower() not in ("rgb", "flow")]
    stem = path.stem
    for ending in ("_rgb", "_flow"):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
    return "/".join([*parts, stem])


def _pair(path: Path, root: Path, modality: Modality) -> tuple[Path, ...]:
    """Return the files of a video's modality, given one of them and the folder searched."""
    if path.suffix.lower() == ".npz":
        return (path,)
    if modality == "two":
        return _other(path, root, "rgb"), _other(path, root, "flow")
    return (_other(path, root, modality),)


def _other(path: Path, root: Path, wanted: str) -> Path:
    """Return the wanted half of the pair that a file belongs to."""
    have = next((h for h in ("rgb", "flow") if path.stem.lower().endswith(f"_{h}")), None)
    if have is not None:
        # As long as the ending: a name may hold `_rgb` elsewhere too.
        other = path.with_name(f"{path.stem[: -len(have)]}{wanted}{path.suffix}")
    else:
        # The searched folder may itself be a half; what lies above it says nothing.
        parts = list(path.parts)
        places = range(max(len(root.parts) - 1, 0), len(parts) - 1)
        halves = [i for i in places if parts[i].lower() in ("rgb", "flow")]
        if not halves:
            if wanted == "rgb":
                return path
            raise InputError(f"{path} has no {wanted} features beside it. Name it NAME_rgb.npy.")
        if parts[halves[-1]].lower() == wanted:
            return path
        parts[halves[-1]] = wanted
        other = Path(*parts)
    if not other.is_file():
        raise InputError(f"{other} is not there, but {path.name} is. Give rgb and flow features.")
    return other
