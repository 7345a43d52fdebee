"""Bags for MIL training: the features of weakly labelled videos, 32 segments each."""

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vad_runtime.contracts import InputError
from vad_runtime.features import (
    UNREADABLE,
    find_features,
    read_features,
    segment_features,
    unit_length,
)
from vad_training.config.mil import FeaturesConfig


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Videos as bags of segments."""

    names: list[str]
    """V names, class folder first."""
    labels: npt.NDArray[np.int64]
    """Shape (V,): 0 normal, 1 anomalous somewhere."""
    features: npt.NDArray[np.float32]
    """Shape (V, S, D)."""
    frames: npt.NDArray[np.int64] | None = None
    """True number of frames, shape (V,)."""
    intervals: list[list[tuple[int, int]]] | None = None
    """Anomalous frames of each video: first and end, from 0, the end not included."""
    about: dict[str, Any] = field(default_factory=dict)
    """What computed the features, as the files say; empty where they do not."""

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, numbers: Sequence[int]) -> "FeatureSet":
        """Return the videos with these numbers, in this order; features are copied."""
        return FeatureSet(
            names=[self.names[i] for i in numbers],
            labels=self.labels[list(numbers)],
            features=self.features[list(numbers)],
            frames=None if self.frames is None else self.frames[list(numbers)],
            intervals=None if self.intervals is None else [self.intervals[i] for i in numbers],
            about=self.about,
        )

    def key(self) -> str:
        """Return a hash of names, labels and features."""
        digest = hashlib.sha256(json.dumps([self.names, self.features.shape]).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update(np.ascontiguousarray(self.features).data)
        return digest.hexdigest()


def feature_set_from_path(path: Path, config: FeaturesConfig) -> FeatureSet:
    """Read a folder tree of feature files, or one packed file.

    In a tree each file is a video, and its folder says what it is: normal where a folder or the
    name matches one of `config.normal`. A packed npz holds many videos:

    * `names` (V,), class folder first (`Abuse/Abuse001_x264`),
    * `features` (V, S, D), or `features_u8` with `scale` (V,): ``(u8 / 255)^2 * scale``,
    * perhaps `labels` (V,) of 0 and 1; else the names decide as in a tree,
    * perhaps `n_frames` (V,), and `intervals_1based` (V, K, 2): the first and last anomalous frame
      counted from 1, -1 where there is none,
    * perhaps `about`: JSON, what computed the features.

    Raises:
        InputError: Not readable, of a wrong shape, not finite, or features of different lengths.
    """
    if path.is_file() and path.suffix.lower() == ".npz" and _is_packed(path):
        return _from_packed(path, config)
    return _from_tree(path, config)


def is_normal(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a folder of a name, or the name itself, matches a pattern; case is ignored."""
    return any(
        fnmatch.fnmatchcase(part.lower(), pattern.lower())
        for part in name.split("/")
        for pattern in patterns
    )


def split_videos(
    names: Sequence[str], labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the numbers of the training and of the validation videos, both sorted.

    Of each class (the first folder of the name, and the label) the same share is kept for
    validation, rounded so that the total over all classes fits. The same seed gives the same split.

    Raises:
        InputError: Training, or validation where the share is not 0, would miss normal or
            anomalous videos.
    """
    rng = np.random.default_rng([seed, 5])
    groups: dict[tuple[int, str], list[int]] = {}
    for number in rng.permutation(len(names)).tolist():
        name = names[number]
        folder = name.split("/")[0] if "/" in name else ""
        groups.setdefault((int(labels[number]), folder), []).append(number)
    validation: list[int] = []
    owed = {0: 0.0, 1: 0.0}
    for (label, _), numbers in sorted(groups.items()):
        # What rounding left over goes to the next class: small classes must not all round to 0.
        owed[label] += fraction * len(numbers)
        count = min(round(owed[label]), len(numbers))
        owed[label] -= count
        validation += numbers[:count]
    training = sorted(set(range(len(names))) - set(validation))
    for part, what in ((training, "training"), (validation, "validation")):
        if what == "validation" and fraction == 0:
            continue
        if {int(labels[i]) for i in part} != {0, 1}:
            raise InputError(
                f"{len(names)} videos leave no normal or no anomalous one for {what}. "
                "Give more videos, or change features.validation_fraction or features.normal."
            )
    return training, sorted(validation)


def _from_tree(path: Path, config: FeaturesConfig) -> FeatureSet:
    names: list[str] = []
    bags: list[npt.NDArray[np.float32]] = []
    frames: list[int | None] = []
    about: dict[str, Any] = {}
    for file in find_features(path, config.modality):
        video = read_features(file, config.modality)
        if bags and bags[0].shape[1] != video.features.shape[1]:
            raise InputError(
                f"{file.paths[0]} has features of length {video.features.shape[1]}, those before "
                f"of {bags[0].shape[1]}. Give features of one backbone."
            )
        if names and video.about != about:
            raise InputError(
                f"{file.paths[0]} was computed in another way than those before. "
                "Give features of one backbone and one clip, or compute them again."
            )
        about = video.about
        names.append(file.name)
        bags.append(segment_features(video.features, config.segments, normalise=config.normalise))
        frames.append(video.frames)
    known = [count for count in frames if count is not None]
    return FeatureSet(
        names=names,
        labels=_labels(names, config.normal),
        features=np.stack(bags),
        frames=np.array(known, np.int64) if len(known) == len(names) else None,
        about=about,
    )


def _is_packed(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as content:
            return "names" in content
    except (OSError, *UNREADABLE):
        return False  # read_features says what is wrong


def _from_packed(path: Path, config: FeaturesConfig) -> FeatureSet:
    if config.modality != "rgb":
        raise InputError(
            f"{path} holds one kind of features. Leave features.modality at rgb for packed files."
        )
    try:
        with np.load(path, allow_pickle=False) as content:
            names = [str(name) for name in content["names"]]
            features = _unpacked(content)
            labels = _labels(names, config.normal)
            if "labels" in content:
                labels = content["labels"].astype(np.int64)
            frames = content["n_frames"].astype(np.int64) if "n_frames" in content else None
            marks = None
            if "intervals_1based" in content:
                marks = [_intervals(row) for row in content["intervals_1based"]]
            about = json.loads(str(content["about"])) if "about" in content else {}
    except (OSError, *UNREADABLE) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{path} cannot be read ({reason}). Check the file.") from None
    count = len(names)
    if features.ndim != 3 or features.shape[0] != count or features.shape[1] != config.segments:
        raise InputError(
            f"{path} has features of shape {features.shape}, not ({count}, {config.segments}, D). "
            "Change features.segments, or the file."
        )
    if not np.isfinite(features).all():
        raise InputError(f"{path} holds NaN or infinity. Compute the features again.")
    for what, array in (("labels", labels), ("n_frames", frames), ("intervals_1based", marks)):
        if array is not None and len(array) != count:
            raise InputError(f"{path}: {len(array)} {what} for {count} videos. Correct the file.")
    if not np.isin(labels, (0, 1)).all():
        raise InputError(f"{path}: labels must be 0 (normal) or 1 (anomalous). Correct the file.")
    if not isinstance(about, dict):
        raise InputError(f"{path}: about is no JSON object. Correct the file.")
    return FeatureSet(
        names=names,
        labels=labels,
        features=unit_length(features) if config.normalise else features,
        frames=frames,
        intervals=marks,
        about=about,
    )


def _unpacked(content: Any) -> npt.NDArray[np.float32]:
    if "features" in content:
        return np.asarray(content["features"], np.float32)
    scale = content["scale"].astype(np.float32)
    features = content["features_u8"].astype(np.float32)
    # In place: a training set of UCF-Crime takes half a gigabyte.
    features /= 255
    features *= features
    features *= scale.reshape(-1, *[1] * (features.ndim - 1))
    return np.asarray(features, np.float32)


def _intervals(row: npt.NDArray[Any]) -> list[tuple[int, int]]:
    return [(int(first) - 1, int(last)) for first, last in row if first >= 1]


def _labels(names: Sequence[str], patterns: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([0 if is_normal(name, patterns) else 1 for name in names], np.int64)
