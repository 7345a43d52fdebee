"""Manifest: everything a bundle says about itself, read strictly.

An unknown key, a missing key, a wrong type or a newer schema is an error, never a guess: a
detector that half-understands its settings is worse than one that does not start.
"""

import math
from typing import Annotated, Any, Literal

import msgspec

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import BundleError

SCHEMA = 1
"""The manifest schema that this version writes, and the newest that it reads."""

Precision = Literal["fp32", "bf16", "fp16", "int8", "mixed"]
"""Arithmetic of a graph; `mixed` = int8 where it is quantised, fp16 elsewhere."""

COPY = "vad_copy_"
"""How the names of a graph's convolutions begin that only copy pixels: no engine counts them as
layers. (The C++ runner has the same name in src/backends/openvino.cpp.)"""

Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ScoreSpec(_Strict, frozen=True, kw_only=True):
    """What the numbers of the output `score` belong to."""

    per: Literal["frame", "clip", "segment"]
    """`frame`: shape (N, count), one score a frame. `clip`: shape (N,), one score a clip.
    `segment`: shape (N, count), one score for each segment of a video (graphs of features)."""

    form: str
    """What is summed, for example `reconstruction` or `prediction` (docs/bundle-format.md)."""

    first: int = 0
    """Index in the clip of the first frame that is scored; those before it are context only."""

    count: int = 1
    """How many frames of the clip, or segments of the video, are scored (1 for `clip`)."""

    alpha: float | None = None
    """Weight of the prediction error against the reconstruction error, where both are summed."""


class OutputSpec(_Strict, frozen=True, kw_only=True):
    """An output of the graph beside `score`."""

    name: str
    shape: list[int | str]
    """Shape; a string is a named dynamic dimension."""
    dtype: str = "float32"
    meaning: str


class FeatureSpec(_Strict, frozen=True, kw_only=True):
    """Input of a graph that takes a whole video's precomputed features in place of a clip.

    The input is `features`, float32, shape (N, segments, size).
    """

    segments: Annotated[int, msgspec.Meta(ge=1)]
    """S, equal parts that a video is divided into; a feature is the mean over its part."""

    size: Annotated[int, msgspec.Meta(ge=1)]
    """D, length of a feature."""

    normalise: bool
    """Each segment's feature has length 1 (L2)."""

    modality: Literal["rgb", "flow", "two"] = "rgb"
    """What was looked at; `two` = rgb and flow side by side."""

    made_by: str = "unknown"
    """The network that made the features, as far as their files say."""


class Scoring(_Strict, frozen=True, kw_only=True):
    """From the graph's raw score to an alarm. Lives outside the graph: an operator may change it.

    ``normalised = (raw - offset) / scale``, then a causal filter over the last `window` scored
    frames, then a threshold with hysteresis.
    """

    offset: float = 0.0
    """Raw score that becomes 0: the median of normal validation footage."""

    scale: Positive = 1.0
    """Raw score units per unit of normalised score."""

    smoothing: Literal["none", "mean", "median"] = "none"
    """Causal filter over the frames seen so far."""

    window: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Length of that filter in scored frames."""

    threshold: float | None = None
    """Alarm at or above this smoothed, normalised score; None = no alarms."""

    release: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    """An alarm ends when the score falls below `release * threshold`."""

    min_duration_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """An alarm is raised after the score has stayed up for this long, seconds."""

    method: str = "none"
    """How offset, scale and threshold were chosen, in words."""

    evidence: dict[str, Any] = {}
    """The figures behind that choice (quantile, number of frames and videos)."""

    def __post_init__(self) -> None:
        """Refuse NaN and infinity: JSON writes them as null, and a null threshold never alarms."""
        for name in ("offset", "scale", "threshold", "release", "min_duration_s"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"Scoring.{name} must be finite, got {value}")


class Artefact(_Strict, frozen=True, kw_only=True):
    """One file of a bundle that a back end can load."""

    file: str
    """Name inside the bundle folder; no folders, no `..`."""
    sha256: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    format: Literal["onnx"]
    precision: Precision
    opset: int | None = None
    tools: dict[str, str] = {}
    """Versions of the tools that wrote it."""
    made_from: str | None = None
    """Short name of the artefact that it was made from; None = exported from the checkpoint."""
    details: dict[str, Any] = {}
    """How it was made: passes, calibration method, what stayed in a wider precision, and why."""


class PlanChoice(_Strict, frozen=True, kw_only=True):
    """What `vad-export plan` chose on one machine, and what it measured there."""

    backend: Annotated[str, msgspec.Meta(min_length=1)]
    """Name of the back end, as `--backend` takes it."""
    precision: Precision
    """As `--precision` takes it; fp32 and bf16 both run the fp32 artefact."""
    target_ms: Positive | None
    """Longest time for a clip that was asked for, milliseconds; None = as fast as possible."""
    median_ms: Positive
    """Median time of a clip, milliseconds."""
    p95_ms: Positive
    """Time that 95 % of the clips stayed under, milliseconds."""
    cpu: str
    """Name of the processor that it was measured on."""
    threads: Annotated[int, msgspec.Meta(ge=1)]
    why: str
    """Why this one, in words."""

    def __post_init__(self) -> None:
        """Refuse NaN and infinity, which JSON would write as null."""
        for name in ("target_ms", "median_ms", "p95_ms"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"PlanChoice.{name} must be finite, got {value}")

    @property
    def artefact_precision(self) -> Precision:
        """Precision of the artefact that it runs: bf16 is arithmetic of the fp32 graph."""
        return artefact_precision(self.precision)


class Manifest(_Strict, frozen=True, kw_only=True):
    """The content of `manifest.json`."""

    schema: int = SCHEMA
    family: str
    """Model family: `stae`, `backbone-ae`, `mil`, …"""
    name: str
    clip: ClipSpec
    """Input of the graph; for a graph of features, the clip behind one feature."""
    score: ScoreSpec
    outputs: list[OutputSpec] = []
    scoring: Scoring = Scoring()
    artefacts: dict[str, Artefact]
    """Artefacts by a short name, for example `fp32`; at most one of each precision."""
    training: dict[str, Any] = {}
    """Summary of the training data and run."""
    licence: str = "unspecified"
    created: str = ""
    """ISO 8601 time of the export, UTC."""
    calibration: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    """How far the artefacts' scores are from the checkpoint's, and on which clips."""
    latency: dict[str, Any] | None = None
    features: FeatureSpec | None = None
    """The graph takes precomputed features, not clips; None = clips."""
    plan: PlanChoice | None = None
    """What `--backend auto` follows; None = nothing was planned."""

    def __post_init__(self) -> None:
        """Refuse a manifest that contradicts itself."""
        if self.score.per == "frame":
            last = self.score.first + self.score.count
            if self.score.first < 0 or self.score.count < 1 or last > self.clip.frames:
                raise ValueError(
                    f"score covers frames {self.score.first} to {last - 1}, "
                    f"but a clip has {self.clip.frames}"
                )
        if (self.score.per == "segment") != (self.features is not None):
            raise ValueError("score.per is segment exactly where the graph takes features")
        if self.features is not None and self.score.count != self.features.segments:
            raise ValueError(
                f"score.count is {self.score.count}, but there are {self.features.segments} "
                "segments"
            )
        _check_artefacts(self.artefacts)

    def artefact_of(self, precision: Precision) -> tuple[str, Artefact] | None:
        """Return short name and artefact of a precision; bf16 is arithmetic of the fp32 graph."""
        wanted = artefact_precision(precision)
        for short, artefact in self.artefacts.items():
            if artefact.precision == wanted:
                return short, artefact
        return None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the graph, without N: (T, H, W, C), or (S, D) for features."""
        if self.features is not None:
            return (self.features.segments, self.features.size)
        return self.clip.clip_shape

    @property
    def input_name(self) -> Literal["clip", "features"]:
        """Name of the graph's only input."""
        return "clip" if self.features is None else "features"


def artefact_precision(precision: Precision) -> Precision:
    """Return the precision of the artefact that computes in `precision`: fp32 for bf16."""
    return "fp32" if precision == "bf16" else precision


def _check_artefacts(artefacts: dict[str, Artefact]) -> None:
    """Refuse what would leave it open which file runs, or which file another was made from."""
    by_precision: dict[str, str] = {}
    by_file: dict[str, str] = {}
    for short, artefact in artefacts.items():
        other = by_precision.setdefault(artefact.precision, short)
        if other != short:
            raise ValueError(
                f"artefacts {other} and {short} are both {artefact.precision}, "
                "but a bundle has at most one of each precision"
            )
        other = by_file.setdefault(artefact.file, short)
        if other != short:
            raise ValueError(f"artefacts {other} and {short} are the same file {artefact.file!r}")
        if artefact.made_from == short:
            raise ValueError(f"artefact {short} says that it was made from itself")
        if artefact.made_from is not None and artefact.made_from not in artefacts:
            raise ValueError(
                f"artefact {short} was made from {artefact.made_from}, which is not there"
            )


def manifest_from_json(text: bytes, where: str) -> Manifest:
    """Read a manifest strictly.

    Args:
        text: UTF-8 JSON.
        where: Name of the file, for messages.

    Raises:
        BundleError: Not JSON, a newer schema, an unknown or missing key, a wrong type or value.
    """
    try:
        head = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: not JSON ({error}). Export the bundle again.") from None
    schema = head.get("schema") if isinstance(head, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise BundleError(f"{where}: no schema number, so no manifest. Export the bundle again.")
    if schema > SCHEMA:
        raise BundleError(
            f"{where}: manifest schema {schema}, but this vad-edge reads up to {SCHEMA}. "
            "Upgrade with: pip install -U vad-edge"
        )
    if schema < 1:
        raise BundleError(f"{where}: manifest schema {schema} never existed. Export it again.")
    try:
        manifest = msgspec.convert(head, Manifest)
        if not manifest.artefacts:
            # A manifest in memory may describe a model that runs in PyTorch; a bundle needs files.
            raise ValueError("artefacts is empty")
    except (msgspec.ValidationError, ValueError) as error:
        raise BundleError(f"{where}: {error}. Correct that key or export again.") from None
    return manifest


def json_from_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented UTF-8 JSON that ends with a newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
