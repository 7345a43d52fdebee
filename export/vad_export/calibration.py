"""A calibration folder: the inputs that ranges are measured on, and what follows from them.

::

    site.calibration/
    ├── calibration.json   which clips (features.json for a graph that takes features)
    ├── sheet.png          what they show
    ├── ranges.npz         histograms of the graph's inner tensors
    ├── tensorrt.cache     the same ranges for TensorRT 8 and 10's calibrator
    └── sensitivity.png    what each layer does to the score, if layers had to be put back
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vad_calibration import clips_from_footage
from vad_calibration.clip_set import (
    ClipSet,
    calibration_set_from_footage,
    read_calibration_set,
    write_calibration_set,
)
from vad_calibration.inputs import Inputs, InputSet
from vad_export.gate_footage import evenly, features_of, footage_of
from vad_runtime.contracts import FeatureSpec, InputError, Manifest
from vad_runtime.features import FeatureFile, read_fitting_features, segments_for
from vad_runtime.files import made_folder, whole_file
from vad_runtime.labels import Labels, read_labels

RANGES = "ranges.npz"
CACHE = "tensorrt.cache"
CHART = "sensitivity.png"
FEATURES = "features.json"

ONE_CLASS = ("stae", "backbone-ae")
"""Families that are trained on normal footage alone."""

_LABELS = "labels.json"
_OTHER_SEED = 1
"""Added to a set's seed for the clips that check what was calibrated on it."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a calibration folder gives for one model."""

    folder: Path
    inputs: InputSet
    check: Inputs
    """Other inputs of the same footage, shape (N, …)."""
    about: dict[str, Any]
    """For the manifest: kind, how many, their key, the seed."""


class FeatureList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `features.json` holds: the videos whose features a head is calibrated on."""

    seed: int
    footage: str
    """Where the features were looked for."""
    names: list[str]
    """Names of the videos for the ranges."""
    check: list[str]
    """Names of the videos for the check."""


class FeatureInputs:
    """The segments of precomputed features, one video at a time: an `InputSet`.

    Args:
        files: A file a video.
        spec: What the graph takes.
    """

    def __init__(self, files: Sequence[FeatureFile], spec: FeatureSpec) -> None:
        self._files = list(files)
        self._spec = spec

    @cached_property
    def key(self) -> str:
        """SHA-256, hexadecimal, of the features as the graph gets them; all are read for it."""
        digest = sha256(repr(self._spec).encode())
        for bag in self:
            digest.update(np.ascontiguousarray(bag).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._files)

    def __iter__(self) -> Iterator[Inputs]:
        """Yield arrays of shape (1, S, D), float32; the caller owns them.

        Raises:
            InputError: A file cannot be read, or holds features of another length.
        """
        spec = self._spec
        for file in self._files:
            bag = segments_for(read_fitting_features(file, spec), spec)
            yield np.ascontiguousarray(bag[None], np.float32)


def choose_inputs(
    manifest: Manifest,
    footage: Path,
    count: int,
    folder: Path,
    *,
    check: int,
    seed: int = 0,
    labels: Path | None = None,
) -> list[str]:
    """Choose a model's calibration inputs and write them down.

    Args:
        manifest: Of the bundle.
        footage: As `footage_of` takes it; feature files for a graph that takes features.
        count: How many clips, or videos of features.
        folder: The calibration folder.
        check: How many videos of features are held back for the check.
        seed: For the choice.
        labels: Truth of the footage; None = `labels.json` in its folder, if there is one. A model
            of one class is calibrated on normal footage: videos with an anomaly are left out.

    Returns:
        Lines for people: what was skipped, and whether there were fewer than asked for.

    Raises:
        InputError: Nothing to choose from, or the folder cannot be written.
    """
    if count < 1:
        raise InputError(f"{count} calibration clips were asked for. Ask for at least 1.")
    if manifest.features is not None:
        return _choose_features(manifest.features, footage, count, folder, check, seed)
    sources = footage_of(footage)
    lines: list[str] = []
    if manifest.family in ONE_CLASS:
        beside = (footage if footage.is_dir() else footage.parent) / _LABELS
        if labels is None and beside.is_file():
            labels = beside
        if labels is not None:
            sources, lines = _normal_only(sources, read_labels(labels))
        else:
            lines = [f"no {_LABELS}: all of the footage is taken for normal"]
    chosen = calibration_set_from_footage(sources, manifest.clip, count, seed=seed)
    write_calibration_set(folder, chosen)
    lines += [f"skipped: {line}" for line in chosen.skipped]
    return [*lines, chosen.shortfall] if chosen.shortfall else lines


def _normal_only(sources: Sequence[Path], labels: Labels) -> tuple[list[Path], list[str]]:
    """Return the videos without an anomaly, and a line for each that is left out."""
    normal, lines = [], []
    for source in sources:
        truth = labels.of(source)
        if truth is not None and truth.mask().any():
            lines.append(f"left out: {source} holds an anomaly, by {labels.label_set}")
        else:
            normal.append(source)
    if not normal:
        raise InputError(
            "every video of the footage holds an anomaly, and this model is calibrated on normal "
            "footage. Give other footage."
        )
    return normal, lines


def _choose_features(
    spec: FeatureSpec, footage: Path, count: int, folder: Path, check: int, seed: int
) -> list[str]:
    files = features_of(footage, spec)
    if len(files) < 2:
        raise InputError(f"{footage} holds the features of one video only. Give two or more.")
    held = min(check, len(files) // 4 or 1)
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(len(files)).tolist()
    names = [file.name for file in files]
    listing = FeatureList(
        seed=seed,
        footage=str(footage.resolve()),
        names=sorted(names[i] for i in order[held : held + count]),
        check=sorted(names[i] for i in order[:held]),
    )
    made_folder(folder)
    with whole_file(folder / FEATURES) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(listing), indent=2) + b"\n")
    have = len(listing.names)
    return [f"only {have} videos instead of {count}: there are no more"] if have < count else []


def inputs_from_folder(folder: Path, manifest: Manifest) -> InputSet:
    """Return the inputs of a calibration folder for a model; the check's are not read.

    Raises:
        InputError: As `calibration_from_folder` says.
    """
    if manifest.features is not None:
        return FeatureInputs(_listed(folder, manifest.features)[1], manifest.features)
    return ClipSet(read_calibration_set(folder), manifest.clip)


def calibration_from_folder(folder: Path, manifest: Manifest, *, check: int) -> Calibration:
    """Open a calibration folder for a model.

    Args:
        folder: Written by `choose_inputs`.
        manifest: Of the bundle.
        check: How many clips to draw for the check.

    Raises:
        InputError: The folder holds no set, one for another kind of model, or its footage is gone.
    """
    if manifest.features is not None:
        return _features_from_folder(folder, manifest.features)
    chosen = read_calibration_set(folder)
    inputs = ClipSet(chosen, manifest.clip)
    files = list(dict.fromkeys(record.file for record in chosen.clips))
    sources = [Path(file) for file in evenly(files, check)]
    sample = clips_from_footage(sources, manifest.clip, check, seed=chosen.seed + _OTHER_SEED)
    about = {
        "kind": "clips",
        "clips": len(chosen.clips),
        "videos": len(files),
        "key": chosen.key,
        "seed": chosen.seed,
        "check_clips": [f"{Path(name).name}:{first}" for name, first in sample.origins],
    }
    return Calibration(folder=folder, inputs=inputs, check=sample.clips, about=about)


def _features_from_folder(folder: Path, spec: FeatureSpec) -> Calibration:
    listing, files, held = _listed(folder, spec)
    inputs = FeatureInputs(files, spec)
    about = {
        "kind": "features",
        "videos": len(inputs),
        "key": inputs.key,
        "seed": listing.seed,
        "check_videos": listing.check,
    }
    check = np.concatenate(list(FeatureInputs(held, spec)))
    return Calibration(folder=folder, inputs=inputs, check=check, about=about)


def _listed(
    folder: Path, spec: FeatureSpec
) -> tuple[FeatureList, list[FeatureFile], list[FeatureFile]]:
    """Return what `features.json` says, and the files for the ranges and for the check."""
    file = folder / FEATURES
    again = "Choose features with: vad-export calibrate"
    try:
        listing = msgspec.json.decode(file.read_bytes(), type=FeatureList)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). {again}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}. {again}") from None
    have = {found.name: found for found in features_of(Path(listing.footage), spec)}
    missing = sorted({*listing.names, *listing.check} - set(have))
    if missing:
        raise InputError(f"{listing.footage} no longer holds {missing[0]}. {again}")
    return listing, [have[name] for name in listing.names], [have[name] for name in listing.check]
