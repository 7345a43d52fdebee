"""Sources: whatever the user names becomes frames at model size, each with its time.

PyAV is imported only when a source is opened.
"""

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import BackendError, SourceError
from vad_runtime.contracts.site import StreamSettings
from vad_runtime.sources.address import address_from_text
from vad_runtime.sources.base import Frame, FrameSource, Pixels, SourceInfo, SourceStats

__all__ = [
    "Frame",
    "FrameSource",
    "Pixels",
    "SourceInfo",
    "SourceStats",
    "find_sources",
    "open_source",
]

VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".avi",
        ".mkv",
        ".mov",
        ".m4v",
        ".webm",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".wmv",
        ".flv",
        ".3gp",
        ".ogv",
        ".h264",
        ".hevc",
    ]
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"])


def open_source(
    name: str | Path,
    spec: ClipSpec,
    *,
    fps: float | None = None,
    pictures: bool = True,
    settings: StreamSettings | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> FrameSource:
    """Open a video file, a folder of frames, what a pattern finds, or a camera.

    Args:
        name: Path of a video file (any suffix: the content decides) or of a folder of images; a
            pattern such as `clips/*.mp4`, whose videos are read one after the other, or whose
            images are frames. As a text also what `address_from_text` knows as live.
        spec: Size, colour and resizer of the frames.
        fps: Frame rate of a folder of frames; None = the spec's, else 25.
        pictures: Whether `Frame.picture` will be called; without, frames at full size are freed
            as soon as they are resized.
        settings: How a live source is read; of recordings, only the decoder is looked at.
        say: Takes lines about a live source.

    Raises:
        SourceError: Nothing there, not readable, or no frames in it.
        BackendError: A hardware decoder is asked for that cannot be had; recordings have none.
    """
    # The file system first: a file may be called whatever it likes.
    if isinstance(name, str) and not os.path.exists(name):  # noqa: PTH110 - never raises
        address = address_from_text(name)
        if address.live:
            from vad_runtime.sources.live import open_live

            return open_live(address, spec, settings, pictures=pictures, say=say)
        name = address.text
    if settings is not None and settings.decoder not in ("auto", "software"):
        raise BackendError(
            f"{name} is a recording, which is decoded in software and not by {settings.decoder}. "
            "Leave the decoder out."
        )
    path = Path(name)
    if not _is_pattern(path):
        return _open_recording(path, spec, fps, pictures)
    found = _matches(path)
    if all(match.suffix.lower() in IMAGE_SUFFIXES for match in found):
        return _decoded(path, found, spec, fps, pictures)
    recordings = find_sources(path)
    if len(recordings) == 1:
        return _open_recording(recordings[0], spec, fps, pictures)
    from vad_runtime.sources.sequence import SourceSequence

    return SourceSequence(
        str(path), recordings, lambda one: _open_recording(one, spec, fps, pictures)
    )


def _open_recording(path: Path, spec: ClipSpec, fps: float | None, pictures: bool) -> FrameSource:
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise SourceError(f"{path} cannot be opened ({error.strerror}). Check it.") from None
    if not there:
        raise SourceError(f"{path} does not exist. Check the path.")
    if not folder:
        return _decoded(path, None, spec, fps, pictures)
    images = _children(path, IMAGE_SUFFIXES)
    if not images:
        videos = len(_children(path, VIDEO_SUFFIXES))
        what = f"holds {videos} videos but no frames" if videos else "holds no frames"
        raise SourceError(f"{path} {what}. Give a video file or a folder of images.")
    return _decoded(path, images, spec, fps, pictures)


def _decoded(
    path: Path, images: list[Path] | None, spec: ClipSpec, fps: float | None, pictures: bool
) -> FrameSource:
    """Open a video file, or as a folder of frames the images of `path`."""
    try:
        from vad_runtime.sources.video import FrameFolder, VideoFile
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "av":
            raise
        raise SourceError(
            "reading video needs PyAV. Install it with: pip install 'vad-edge[video]'"
        ) from None
    if images is None:
        return VideoFile(path, spec, pictures=pictures)
    return FrameFolder(path, images, spec, fps, pictures=pictures)


def find_sources(name: str | Path) -> list[Path]:
    """Return everything that can be read at or below a path, in sorted order.

    A file is itself. A folder that holds images and no videos is one source; other folders are
    searched for videos and such folders. Hidden files and folders are passed over. Of a pattern
    everything that it matches is searched so; a pattern that finds images alone is itself a source.

    Raises:
        SourceError: Nothing is there, or a folder without videos and frames.
    """
    path = Path(name)
    if _is_pattern(path):
        matches = _matches(path)
        if all(match.suffix.lower() in IMAGE_SUFFIXES for match in matches):
            return [path]
        films = [source for match in matches for source in _below(match)]
        if not films:
            raise SourceError(f"{path} finds no videos and no folders of frames. Check it.")
        return films
    # os.path and not Path: for a name that is too long or lies in a closed folder Path raises.
    if not os.path.exists(path):  # noqa: PTH110
        raise SourceError(f"{path} does not exist. Check the path.")
    if not os.path.isdir(path):  # noqa: PTH112
        return [path]
    found = _search(path, set())
    if not found:
        raise SourceError(f"{path} holds no videos and no frames. Give a folder that does.")
    return found


def _is_pattern(path: Path) -> bool:
    """Whether it finds files by `*`, `?` or `[...]`; what exists under that name is no pattern."""
    text = str(path)
    return glob.has_magic(text) and not os.path.exists(text)  # noqa: PTH110 - never raises


def _matches(pattern: Path) -> list[Path]:
    """Return what a pattern matches, hidden names apart, in natural order."""
    try:
        found = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - Path's refuses `/…`
    except (OSError, ValueError, RecursionError, re.error) as error:
        raise SourceError(f"{pattern} is no usable pattern ({error}). Check it.") from None
    if not found:
        raise SourceError(f"{pattern} finds nothing. Check the pattern, and put it in quotes.")
    return sorted((Path(match) for match in found), key=_natural)


def _below(match: Path) -> list[Path]:
    if match.is_dir():
        return _search(match, set())
    return [match] if match.suffix.lower() in VIDEO_SUFFIXES else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which numbers count as numbers: `2.mp4` before `10.mp4`."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _search(folder: Path, visited: set[Path]) -> list[Path]:
    real = folder.resolve()
    if real in visited:  # a link that leads back
        return []
    visited.add(real)
    if _children(folder, IMAGE_SUFFIXES) and not _children(folder, VIDEO_SUFFIXES):
        return [folder]
    found = []
    for child in sorted(_visible(folder)):
        if child.is_dir():
            found += _search(child, visited)
        elif child.suffix.lower() in VIDEO_SUFFIXES:
            found.append(child)
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.iterdir() if not child.name.startswith(".")]
    except OSError as error:
        raise SourceError(
            f"{folder} cannot be read ({error.strerror}). Check its rights."
        ) from None


def _children(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(c for c in _visible(folder) if c.suffix.lower() in suffixes and c.is_file())
