"""Scores for the parity gate, by the device's own road.

A stretch of video is scored as `vad-run` scores a stream: a window, a hop, each frame's score from
the first clip that scores it. Where the graph takes features, each video has one score a segment.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vad_export.gate_footage import (
    STRETCH,
    clip_start,
    clips_in,
    evenly,
    features_of,
    frames_a_file,
    stretches_of,
)
from vad_export.threshold import raw_scores
from vad_runtime.backends.base import Backend
from vad_runtime.contracts import FeatureSpec, InputError, Manifest
from vad_runtime.feature_runs import truth_of_features
from vad_runtime.features import (
    CLIP,
    FeatureFile,
    VideoFeatures,
    read_fitting_features,
    scores_to_frames,
    segment_starts,
    segments_for,
)
from vad_runtime.labels import Labels
from vad_runtime.progress import progress
from vad_runtime.sources import find_sources
from vad_training.data.store import FrameStore, Segment, store_from_footage

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the footage a score comes from."""

    file: str
    first: int
    """Source frame at which the clip (or the segment) begins."""
    frame: int
    """Source frame that the score belongs to."""
    pixels: npt.NDArray[np.uint8] | None
    """The clip, shape (T, H, W, C), uint8, a copy; None where the graph takes features."""


class GateFootage(Protocol):
    """Footage that can be scored again and again, in parts without a hole inside."""

    @property
    def files(self) -> list[str]:
        """Paths of the videos (or feature files) that are scored."""

    @property
    def clips(self) -> int:
        """How many clips (or videos' features) one scoring runs the graph on."""

    @property
    def key(self) -> str:
        """Hash of which files and stretches of them are scored, 16 hexadecimal digits."""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know, for example which files could not be read and why."""

    @property
    def truth(self) -> list[Truth] | None:
        """For each part, True where a frame is anomalous; None without labels."""

    def scores(self, backend: Backend) -> list[Scores]:
        """Return the raw scores of each part; NaN where a frame has none."""

    def widened(self, part: int, scores: Scores) -> Scores:
        """Return a part's scores as one for each entry of its `truth`."""

    def place(self, part: int, index: int) -> Place:
        """Return where score `index` of a part comes from."""


@contextlib.contextmanager
def opened_footage(
    manifest: Manifest, footage: Sequence[Path], count: int, labels: Labels | None = None
) -> Iterator[GateFootage]:
    """Decode footage at model size into a temporary folder, or read features.

    Args:
        manifest: Of the bundle.
        footage: From `footage_of`; feature files or folders of them where the graph takes these.
        count: Most clips to score; 0 = all. Not more files are decoded than there are stretches,
            and of each only the beginning, see `frames_a_file`.
        labels: Truth; files that it does not know are left out.

    Raises:
        InputError: Nothing to score: no footage, none of it long enough for one clip, most of the
            files broken, or no labels for any of them.
    """
    if manifest.features is not None:
        yield _FeatureFootage(manifest.features, footage, count, labels)
        return
    notes: list[str] = []
    found = [source for name in footage for source in find_sources(name)]
    sources = _labelled(found, labels, [] if labels is None else notes)
    chosen = evenly(sources, max(1, count // STRETCH)) if count else sources
    with tempfile.TemporaryDirectory(prefix="vad-verify-") as work:
        most = frames_a_file(manifest.clip, count, len(chosen))
        store = store_from_footage(chosen, manifest.clip, Path(work), most_frames=most)
        _require_most(store.skipped, len(chosen))
        notes += [f"skipped: {line}" for line in store.skipped]
        if most is not None:
            notes += _cut_short(store, most, manifest.clip.stride)
        yield _VideoFootage(manifest, store, count, labels, notes)


def _cut_short(store: FrameStore, most: int, stride: int) -> list[str]:
    """Say of which videos only the beginning was decoded."""
    rows = [0] * len(store.videos)
    for segment in store.segments:
        rows[segment.video] += segment.frames
    cut = sum(frames >= most for frames in rows)
    if not cut:
        return []
    return [
        f"of {cut} of {len(rows)} files only the first {most * stride} frames were looked at; a "
        "larger --count looks at more, --count 0 at all"
    ]


def _labelled(sources: list[Path], labels: Labels | None, notes: list[str]) -> list[Path]:
    if not sources:
        raise InputError("there is no footage to verify with. Give videos of the site.")
    if labels is None:
        return sources
    known = [source for source in sources if labels.of(source) is not None]
    if not known:
        raise InputError(
            f"{labels.label_set} has truth for none of the {len(sources)} videos. "
            "Give the labels that belong to this footage."
        )
    if len(known) < len(sources):
        notes.append(f"{len(sources) - len(known)} of {len(sources)} videos have no labels")
    return known


def _require_most(skipped: Sequence[str], files: int) -> None:
    """Refuse footage that is broken for the greater part: a gate on what is left proves little."""
    if 2 * len(skipped) > files:
        raise InputError(
            f"{len(skipped)} of {files} files cannot be used. Replace them. First: {skipped[0]}"
        )


class _VideoFootage:
    """Stretches of decoded videos.

    Source frames are counted from the rows of the store, so behind a hole in a video the frames
    that were lost there are missing from the count.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: FrameStore,
        count: int,
        labels: Labels | None,
        notes: list[str],
    ) -> None:
        self._manifest, self._store = manifest, store
        clip = manifest.clip
        self._stretches = stretches_of(store.segments, clip, count)
        self._begin: dict[int, int] = {}
        for segment in store.segments:
            self._begin.setdefault(segment.video, segment.start)
        self.notes = notes
        self.files = [store.videos[i] for i in sorted({s.video for s in self._stretches})]
        hop = clip.hop // clip.stride
        self.clips = sum(clips_in(s.frames, clip.frames, hop) for s in self._stretches)
        self.key = _key_of(
            (store.videos[s.video], self._source_frame(s, s.start), s.frames)
            for s in self._stretches
        )
        self.truth = None if labels is None else [self._truth(s, labels) for s in self._stretches]

    def scores(self, backend: Backend) -> list[Scores]:
        """See `GateFootage`."""
        return raw_scores(self._manifest, backend, self._store, self._stretches)

    def widened(self, part: int, scores: Scores) -> Scores:  # noqa: ARG002 - see `GateFootage`
        """See `GateFootage`; a row is a frame already."""
        return scores

    def place(self, part: int, index: int) -> Place:
        """See `GateFootage`."""
        stretch, clip = self._stretches[part], self._manifest.clip
        start = stretch.start + clip_start(stretch.frames, index, clip, self._manifest.score)
        return Place(
            file=self._store.videos[stretch.video],
            first=self._source_frame(stretch, start),
            frame=self._source_frame(stretch, stretch.start + index),
            pixels=np.array(self._store.frames[start : start + clip.frames]),
        )

    def _source_frame(self, stretch: Segment, row: int) -> int:
        return (row - self._begin[stretch.video]) * self._manifest.clip.stride

    def _truth(self, stretch: Segment, labels: Labels) -> Truth:
        name = self._store.videos[stretch.video]
        video = labels.of(name)
        assert video is not None  # `opened_footage` left the others out
        first, stride = self._source_frame(stretch, stretch.start), self._manifest.clip.stride
        marks = video.mask()[first : first + stretch.frames * stride : stride]
        if len(marks) < stretch.frames:
            raise InputError(
                f"{labels.label_set} says {video.frames} frames for {name}, but it has more. "
                "Give the labels that belong to this footage."
            )
        return marks


class _FeatureFootage:
    """Videos whose features are there already; a part is one video, an index one segment."""

    def __init__(
        self, spec: FeatureSpec, footage: Sequence[Path], count: int, labels: Labels | None
    ) -> None:
        self._spec = spec
        found = [file for name in footage for file in features_of(name, spec)]
        self.notes: list[str] = []
        known = [f for f in found if labels is None or truth_of_features(labels, f) is not None]
        if labels is not None and not known:
            _labelled([file.paths[0] for file in found], labels, self.notes)
        if len(known) < len(found):
            self.notes.append(f"{len(found) - len(known)} of {len(found)} videos have no labels")
        chosen = evenly(known, count) if count else known
        self._videos: list[tuple[FeatureFile, VideoFeatures]] = []
        skipped = []
        for file in chosen:
            try:
                self._videos.append((file, read_fitting_features(file, spec)))
            except InputError as error:
                skipped.append(str(error))
        _require_most(skipped, len(chosen))
        self.notes += [f"skipped: {line}" for line in skipped]
        self.files = [str(file.paths[0]) for file, _ in self._videos]
        self.clips = len(self._videos)
        self.key = _key_of(
            (str(file.paths[0]), 0, len(video.features)) for file, video in self._videos
        )
        self.truth: list[Truth] | None = None
        if labels is not None:
            truths = [truth_of_features(labels, file) for file, _ in self._videos]
            self.truth = [truth.mask() for truth in truths if truth is not None]

    def scores(self, backend: Backend) -> list[Scores]:
        """See `GateFootage`."""
        out = []
        with progress("scoring features, videos", len(self._videos)) as bar:
            for _, video in self._videos:
                bag = segments_for(video, self._spec)
                out.append(backend.infer(bag[None])["score"][0].astype(np.float64))
                bar.advance()
        return out

    def widened(self, part: int, scores: Scores) -> Scores:
        """See `GateFootage`; a segment's score holds for all of its frames."""
        assert self.truth is not None
        frames = len(self.truth[part])
        return scores_to_frames(scores, self._starts(part, frames), frames)

    def place(self, part: int, index: int) -> Place:
        """See `GateFootage`."""
        file, video = self._videos[part]
        first = int(self._starts(part, video.frames)[index])
        return Place(file=str(file.paths[0]), first=first, frame=first, pixels=None)

    def _starts(self, part: int, frames: int | None) -> npt.NDArray[np.int64]:
        video = self._videos[part][1]
        return segment_starts(
            frames or CLIP * len(video.features),
            self._spec.segments,
            first_frames=video.first_frames,
        )


def _key_of(stretches: Iterable[tuple[str, int, int]]) -> str:
    """Return a short hash of files, first frames and lengths."""
    digest = hashlib.sha256()
    for name, first, length in stretches:
        digest.update(f"{Path(name).resolve()}\0{first}\0{length}\n".encode())
    return digest.hexdigest()[:16]
