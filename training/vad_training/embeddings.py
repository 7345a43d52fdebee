"""Embeddings of every clip of a set of videos, computed once and kept on disk.

A frozen backbone gives the same embeddings in every epoch, and it is by far the most expensive part
of training. So each video goes through it once, in eval mode; the result lies in a cache that knows
it by the backbone's weights, the form of the clips and the video's content.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vad_runtime.bundle import sha256_of_file
from vad_runtime.contracts import ClipSpec, InputError, SourceError
from vad_runtime.files import DAMAGED_NPZ, cache_folder, made_folder, whole_file
from vad_runtime.progress import progress
from vad_runtime.sources import Pixels
from vad_training.data.clips import clips_of
from vad_training.data.tools.facts import images_of
from vad_training.models.backbones.base import ClipEmbedder

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VideoEmbeddings:
    """The embeddings of one video's clips."""

    path: Path
    key: str
    """Changes with the video's content, the form of the clips and the backbone; see `video_key`.
    Empty for a video that was skipped."""
    embeddings: Embeddings
    """Shape (n, D); n is 0 for a video that was skipped."""
    first_frames: npt.NDArray[np.int64]
    """Shape (n,): number of each clip's first source frame."""
    fps: float
    """Frame rate of the video, frames a second; NaN for one that was skipped."""
    skipped: str | None = None
    """One line that says why the video gives no clips; None = it does."""


class EmbeddingCache:
    """A folder with an npz file for each video, weights and form of clip.

    Args:
        folder: Made when it is needed; None = `default_cache_folder`.

    Attributes:
        folder: See above.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_cache_folder()

    def read(self, key: str, path: Path, length: int) -> VideoEmbeddings | None:
        """Return what the cache holds under a key; None where there is nothing, or it is damaged.

        Args:
            key: See `video_key`.
            path: The video, for the result.
            length: D.
        """
        try:
            # NumPy itself would leave a damaged file open.
            with (
                self._file(key).open("rb") as stream,
                np.load(stream, allow_pickle=False) as content,
            ):
                found = VideoEmbeddings(
                    path=path,
                    key=key,
                    embeddings=content["embeddings"],
                    first_frames=content["first_frames"],
                    fps=float(content["fps"]),
                )
        except DAMAGED_NPZ:
            return None
        fits = (
            found.embeddings.dtype == np.float32
            and found.embeddings.ndim == 2
            and found.embeddings.shape[1] == length
            and found.first_frames.shape == found.embeddings.shape[:1]
        )
        return found if fits else None

    def write(self, video: VideoEmbeddings) -> None:
        """Keep a video's embeddings under its key; the file appears whole or not at all.

        Raises:
            InputError: The cache cannot be written.
        """
        try:
            made_folder(self.folder)
        except InputError:
            raise InputError(
                f"the cache {self.folder} cannot be written. Set VAD_CACHE to another folder."
            ) from None
        with whole_file(self._file(video.key)) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                embeddings=video.embeddings,
                first_frames=video.first_frames,
                fps=np.float64(video.fps),
            )

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def default_cache_folder() -> Path:
    """Return `$VAD_CACHE`, or `vad-edge/embeddings` in the user's folder for caches."""
    named = os.environ.get("VAD_CACHE")
    return Path(named) if named else cache_folder("embeddings")


def embeddings_of(
    paths: Sequence[Path],
    embedder: ClipEmbedder,
    clip: ClipSpec,
    *,
    cache: EmbeddingCache | None = None,
    batch: int = 4,
) -> list[VideoEmbeddings]:
    """Return the embeddings of every clip of some videos, from the cache where it has them.

    Each video is written to the cache as soon as it is done, so an interrupted call goes on where
    it was. The clips are those that the device would score.

    Args:
        paths: Videos or folders of frames.
        embedder: The backbone, in eval mode; it runs where its tensors are.
        clip: The form of the clips, with the hop from one to the next.
        cache: Where embeddings are kept; None = the default cache.
        batch: Clips that go through the network together.

    Returns:
        One item for each path, in order. A video that cannot be read, or is too short for a clip,
        has no embeddings and says why in `skipped`.

    Raises:
        InputError: The cache cannot be written.
        ValueError: The embedder is in training mode: its BatchNorm would drift.
    """
    cache = cache or EmbeddingCache()
    weights = embedder_key(embedder)
    found = []
    with progress("embedding, videos", len(paths)) as bar:
        for path in paths:
            found.append(_embeddings_of_one(path, embedder, clip, weights, cache, batch))
            bar.advance()
    return found


def embed_batch(embedder: ClipEmbedder, clips: Pixels) -> Embeddings:
    """Return embeddings, (N, D), of clips of shape (N, T, H, W, 3), uint8.

    Raises:
        ValueError: The embedder, or a part of it, is in training mode.
    """
    if any(module.training for module in embedder.modules()):
        raise ValueError("the embedder is in training mode; its BatchNorm would drift")
    with torch.inference_mode():
        device = embedder.get_buffer("mean").device
        embeddings: Embeddings = embedder(torch.from_numpy(clips).to(device)).cpu().numpy()
        return embeddings


def embedder_key(embedder: ClipEmbedder) -> str:
    """Return the SHA-256 of a backbone: of its weights and of what it does to frames.

    Of the tensors themselves, so that a network read from a run folder is known as the one that
    was read from the published file, and one that was trained further is not.
    """
    spec = embedder.spec
    digest = hashlib.sha256(repr((spec.name, embedder.clip_frames, spec.preprocess)).encode())
    for name, tensor in [*embedder.named_parameters(), *embedder.named_buffers()]:
        plain = tensor.detach().cpu().numpy()
        digest.update(f"{name} {plain.dtype} {plain.shape}\n".encode())
        digest.update(plain.tobytes())
    return digest.hexdigest()


def video_key(path: Path, clip: ClipSpec, weights: str) -> str:
    """Return what a video's embeddings are known by: they change only when this does.

    Args:
        path: A video or folder of frames.
        clip: The form of the clips.
        weights: See `embedder_key`.

    Raises:
        OSError: The video cannot be read.
    """
    form = [
        *(clip.frames, clip.stride, clip.hop, *clip.frame_shape, clip.resizer, clip.interpolation),
        # A folder of frames has no frame rate of its own.
        clip.fps if path.is_dir() else None,
    ]
    digest = hashlib.sha256(repr((weights, form)).encode())
    digest.update(content_hash(path).encode())
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content; of a folder, of its images' names and contents.

    Raises:
        OSError: It cannot be read.
    """
    if not path.is_dir():
        return sha256_of_file(path)
    digest = hashlib.sha256()
    for image in images_of(path):
        digest.update(f"{image.name}\0{sha256_of_file(image)}\n".encode())
    return digest.hexdigest()


def _embeddings_of_one(
    path: Path,
    embedder: ClipEmbedder,
    clip: ClipSpec,
    weights: str,
    cache: EmbeddingCache,
    batch: int,
) -> VideoEmbeddings:
    length = embedder.spec.embedding
    try:
        key = video_key(path, clip, weights)
        found = cache.read(key, path, length)
        if found is None:
            found = _computed(path, key, embedder, clip, batch)
            if found.skipped is None:
                cache.write(found)
        return found
    except SourceError as error:
        return _skipped(path, length, str(error))
    except OSError as error:
        return _skipped(path, length, f"{path} cannot be read ({error.strerror}). Check the path.")


def _computed(
    path: Path, key: str, embedder: ClipEmbedder, clip: ClipSpec, batch: int
) -> VideoEmbeddings:
    opened = clips_of(path, clip)
    first_frames: list[int] = []
    waiting: list[Pixels] = []
    done: list[Embeddings] = []
    for indices, pixels in opened:
        first_frames.append(indices[0])
        waiting.append(pixels)
        if len(waiting) == batch:
            done.append(embed_batch(embedder, np.stack(waiting)))
            waiting.clear()
    if waiting:
        done.append(embed_batch(embedder, np.stack(waiting)))
    if not done:
        reason = f"{path} holds no {clip.span} good frames in a row, which one clip needs."
        return _skipped(path, embedder.spec.embedding, f"{reason} Give a longer video.")
    return VideoEmbeddings(
        path=path,
        key=key,
        embeddings=np.concatenate(done),
        first_frames=np.array(first_frames, np.int64),
        fps=opened.info.fps,
    )


def _skipped(path: Path, length: int, reason: str) -> VideoEmbeddings:
    return VideoEmbeddings(
        path=path,
        key="",
        embeddings=np.zeros((0, length), np.float32),
        first_frames=np.zeros(0, np.int64),
        fps=float("nan"),
        skipped=reason,
    )
