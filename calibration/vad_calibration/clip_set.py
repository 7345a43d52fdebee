"""Calibration sets: which clips of real footage a model's ranges are measured on."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vad_calibration.candidates import Candidate, candidates_from_footage, sha256_of
from vad_calibration.choice import Table, chosen_from_candidates, table_of
from vad_calibration.sampling import whole_clips
from vad_calibration.statistics import STATISTICS, ClipStatistics, Thumbnail, described
from vad_runtime.contracts import ClipSpec, InputError, SourceError
from vad_runtime.files import made_folder, whole_file
from vad_runtime.sources import open_source

SCHEMA = 1
SET_FILE = "calibration.json"
SHEET_FILE = "sheet.png"

_BINS = 20
_PIXELS = ("frames", "stride", "height", "width", "colour", "resizer", "interpolation")
"""The fields of a ClipSpec that pixels hang on."""
_AGAIN = "Choose clips again with: vad-export calibrate"


class ClipRecord(ClipStatistics, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One chosen clip: where it is, what it holds, why it was chosen."""

    file: str
    """Whole path of the video or folder of frames."""

    first: int
    """Number of its first source frame."""

    sha256: str
    """SHA-256, hexadecimal, of its pixels: uint8, shape (T, H, W, C), C order."""

    stratum: str
    """Bins of its motion and brightness, from still and dark, e.g. `motion 1/5, brightness 3/5`."""

    def __post_init__(self) -> None:
        """Refuse values that no clip can have."""
        if self.first < 0:
            raise ValueError(f"first must be at least 0, got {self.first}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, got {self.sha256[:80]!r}")


class Coverage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Histograms of one statistic."""

    edges: list[float]
    """Edges of the bins, rising; one more than there are bins."""

    candidates: list[int]
    """Candidates in each bin."""

    chosen: list[int]
    """Chosen clips in each bin."""

    def __post_init__(self) -> None:
        """Refuse histograms that do not fit together."""
        if not len(self.edges) - 1 == len(self.candidates) == len(self.chosen) > 0:
            raise ValueError("a histogram must have one edge more than bins, and as many counts")


class CalibrationSet(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True
):
    """The chosen clips of some footage; what `calibration.json` holds."""

    schema: int = SCHEMA
    clip: ClipSpec
    """The clips' form."""

    seed: int
    wanted: int
    """How many clips were asked for."""

    candidates: int
    """How many clips the choice was made from."""

    sources: int
    """How many videos or folders gave candidates."""

    skipped: list[str]
    """Why a source gave none, one line each."""

    clips: list[ClipRecord]
    """In order of file and first frame; at least one."""

    coverage: dict[str, Coverage]
    """Histograms of the statistics, by name."""

    def __post_init__(self) -> None:
        """Refuse a set that contradicts itself."""
        if not self.clips:
            raise ValueError("clips is empty")
        places = [(record.file, record.first) for record in self.clips]
        if any(a >= b for a, b in pairwise(places)):
            raise ValueError("clips must be in order of file and first, each once")
        if set(self.coverage) != set(STATISTICS):
            raise ValueError(f"coverage must have the keys {', '.join(STATISTICS)}")

    @property
    def key(self) -> str:
        """SHA-256, hexadecimal, of the form and the pixels of all clips; paths are not in it."""
        lines = [f"{name}={getattr(self.clip, name)}" for name in _PIXELS]
        lines += [record.sha256 for record in self.clips]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def shortfall(self) -> str | None:
        """A line for people where there are fewer clips than were asked for, else None."""
        if len(self.clips) >= self.wanted:
            return None
        return (
            f"only {len(self.clips)} clips instead of {self.wanted}: the footage holds no more "
            "that differ"
        )

    @cached_property
    def thumbnails(self) -> list[Thumbnail]:
        """Small pictures of the clips, in their order; not in the file.

        There at once for a set that was just chosen. For one that was read the footage is decoded
        again.
        """
        return [described(clip[0])[1] for clip in ClipSet(self, self.clip)]


def calibration_set_from_footage(
    sources: Sequence[Path], spec: ClipSpec, count: int, *, seed: int = 0
) -> CalibrationSet:
    """Choose clips that cover what footage holds of motion and brightness.

    One pass over the footage; memory does not grow with its length, and by about 80 KB for each
    clip that is wanted. The order of the sources does not matter. See `candidates_from_footage`
    and `chosen_from_candidates` for how. Footage with fewer clips gives all that it has
    (`CalibrationSet.shortfall`).

    Args:
        sources: Videos or folders of frames.
        spec: The clips' form; its hop is not used.
        count: How many clips, at least 1.
        seed: For places and strata.

    Raises:
        InputError: `count` is less than 1.
        SourceError: No source holds a whole clip.
    """
    if count < 1:
        raise InputError(
            f"{count} calibration clips were asked for. Ask for at least 1, for example 512."
        )
    if not sources:
        raise SourceError("there is no footage to choose clips from. Give at least one video.")
    pool = candidates_from_footage(sources, spec, count, seed=seed)
    if not pool.found:
        raise SourceError(
            f"none of the videos looked at ({len(pool.skipped)}) gives a clip. "
            f"First reason: {pool.skipped[0]}"
        )
    table = table_of([candidate.statistics for candidate in pool.found])
    choice = chosen_from_candidates(table, count, seed=seed)
    chosen = [pool.found[i] for i in choice.chosen]
    made = CalibrationSet(
        clip=spec,
        seed=seed,
        wanted=count,
        candidates=len(pool.found),
        sources=pool.sources,
        skipped=pool.skipped,
        clips=[_record(c, stratum) for c, stratum in zip(chosen, choice.strata, strict=True)],
        coverage=_coverage(table, choice.chosen),
    )
    # The slot of the cached property: the pictures are here now and would cost a second pass.
    made.__dict__["thumbnails"] = [candidate.thumbnail for candidate in chosen]
    return made


def _record(candidate: Candidate, stratum: str) -> ClipRecord:
    return ClipRecord(
        file=candidate.file,
        first=candidate.first,
        sha256=candidate.sha256,
        stratum=stratum,
        **msgspec.structs.asdict(candidate.statistics),
    )


def _coverage(table: Table, chosen: list[int]) -> dict[str, Coverage]:
    coverage = {}
    for column, name in enumerate(STATISTICS):
        values = table[:, column]
        low, high = float(values.min()), float(values.max())
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        coverage[name] = Coverage(
            edges=edges.tolist(),
            candidates=np.histogram(values, edges)[0].tolist(),
            chosen=np.histogram(values[chosen], edges)[0].tolist(),
        )
    return coverage


class ClipSet:
    """The clips of a calibration set, decoded again: an `InputSet`.

    ::

        for clip in ClipSet(chosen, bundle.manifest.clip):   # shape (1, T, H, W, C), uint8
            ...

    Each file is decoded once for an iteration, in order, and one clip is in memory at a time. A
    clip whose pixels are not those that were chosen is an error, never passed on.

    Args:
        chosen: The set.
        spec: The form that is wanted; hop and fps do not matter.

    Raises:
        InputError: The set's clips have another form.
    """

    def __init__(self, chosen: CalibrationSet, spec: ClipSpec) -> None:
        differ = [n for n in _PIXELS if getattr(chosen.clip, n) != getattr(spec, n)]
        if differ:
            has = ", ".join(f"{name} {getattr(chosen.clip, name)}" for name in differ)
            wants = ", ".join(f"{name} {getattr(spec, name)}" for name in differ)
            raise InputError(
                f"the calibration set has clips of {has}, but the model takes {wants}. Choose "
                "clips for this model with: vad-export calibrate"
            )
        self._chosen = chosen

    @property
    def key(self) -> str:
        """SHA-256, hexadecimal, of the form and the pixels of all clips."""
        return self._chosen.key

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._chosen.clips)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield clips of shape (1, T, H, W, C), uint8, C-contiguous; the caller owns them.

        Raises:
            SourceError: A file is missing, cannot be read, or no longer gives its clips.
        """
        groups = [
            (file, list(records))
            for file, records in groupby(self._chosen.clips, key=lambda record: record.file)
        ]
        for file, _ in groups:  # at once, not after an hour
            if not Path(file).exists():
                raise SourceError(
                    f"{file}, which the calibration set needs, does not exist. Put it back, or "
                    "choose clips again with: vad-export calibrate"
                )
        for file, records in groups:
            yield from _clips_of(file, records, self._chosen.clip)


def _clips_of(
    file: str, records: list[ClipRecord], spec: ClipSpec
) -> Iterator[npt.NDArray[np.uint8]]:
    wanted = iter(records)
    due: ClipRecord | None = next(wanted)
    try:
        with closing(whole_clips(open_source(file, spec, pictures=False), spec)) as walk:
            for clip in walk:
                if due is None or clip.indices[0] > due.first:
                    break
                if clip.indices[0] < due.first:
                    continue
                pixels = clip.pixels.copy()
                if sha256_of(pixels) != due.sha256:
                    break
                due = next(wanted, None)
                yield pixels
    except SourceError as error:
        raise SourceError(f"the calibration set needs a file that fails: {error}") from None
    if due is not None:
        raise SourceError(
            f"{file} no longer gives the clip at frame {due.first} that was chosen: the file "
            f"changed, or is decoded differently here. {_AGAIN}"
        )


def write_calibration_set(folder: Path, chosen: CalibrationSet) -> None:
    """Write a set as `calibration.json` and `sheet.png`, each whole or not at all.

    Args:
        folder: Made where it does not exist; earlier files of these names are replaced.
        chosen: The set.

    Raises:
        InputError: A file cannot be written, or matplotlib is missing.
        SourceError: The set was read from a file and its footage is not there any more.
    """
    from vad_calibration.sheet import save_sheet

    made_folder(folder)
    save_sheet(chosen, folder / SHEET_FILE)
    with whole_file(folder / SET_FILE) as temporary:
        text = msgspec.json.format(msgspec.json.encode(chosen), indent=2)
        temporary.write_bytes(text + b"\n")


def read_calibration_set(folder: Path) -> CalibrationSet:
    """Read a set that `write_calibration_set` wrote.

    Raises:
        InputError: No such file, not JSON, a newer schema, an unknown or missing key, a wrong
            value.
    """
    file = folder / SET_FILE
    try:
        head = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file} does not exist. Make one with: vad-export calibrate") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). {_AGAIN}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error}). {_AGAIN}") from None
    schema = head.get("schema") if isinstance(head, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InputError(f"{file}: no schema number, so no calibration set. {_AGAIN}")
    if schema > SCHEMA:
        raise InputError(
            f"{file}: schema {schema}, but this vad-edge reads up to {SCHEMA}. "
            "Upgrade with: pip install -U vad-edge"
        )
    try:
        return msgspec.convert(head, CalibrationSet)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"{file}: {error}. Correct that key. {_AGAIN}") from None
