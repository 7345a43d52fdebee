"""Sources: whatever the user names becomes frames at model size, each with its time.

PyAV is imported only when a source is opened.
"""

import os
from pathlib import Path

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.errors import SourceError
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
    name: str | Path, spec: ClipSpec, *, fps: float | None = None, pictures: bool = True
) -> FrameSource:
    """Open a video file or a folder of frames.

    Args:
        name: Path of a video file (any suffix: the content decides) or of a folder of images.
        spec: Size, colour and resizer of the frames.
        fps: Frame rate of a folder of frames; None = the spec's, else 25.
        pictures: Whether `Frame.picture` will be called; without, frames at full size are freed
            as soon as they are resized.

    Raises:
        SourceError: Nothing there, not readable, or no frames in it.
    """
    path = Path(name)
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise SourceError(f"{path} cannot be opened ({error.strerror}). Check it.") from None
    if not there:
        raise SourceError(f"{path} does not exist. Check the path.")
    try:
        from vad_runtime.sources.video import FrameFolder, VideoFile
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "av":
            raise
        raise SourceError(
            "reading video needs PyAV. Install it with: pip install 'vad-edge[video]'"
        ) from None
    if not folder:
        return VideoFile(path, spec, pictures=pictures)
    images = _children(path, IMAGE_SUFFIXES)
    if not images:
        videos = len(_children(path, VIDEO_SUFFIXES))
        what = f"holds {videos} videos but no frames" if videos else "holds no frames"
        raise SourceError(f"{path} {what}. Give a video file or a folder of images.")
    return FrameFolder(path, images, spec, fps, pictures=pictures)


def find_sources(name: str | Path) -> list[Path]:
    """Return everything that can be read at or below a path, in sorted order.

    A file is itself. A folder that holds images and no videos is one source; other folders are
    searched for videos and such folders. Hidden files and folders are passed over.

    Raises:
        SourceError: Nothing is there, or a folder without videos and frames.
    """
    path = Path(name)
    # os.path and not Path: for a name that is too long or lies in a closed folder Path raises.
    if not os.path.exists(path):  # noqa: PTH110
        raise SourceError(f"{path} does not exist. Check the path.")
    if not os.path.isdir(path):  # noqa: PTH112
        return [path]
    found = _search(path, set())
    if not found:
        raise SourceError(f"{path} holds no videos and no frames. Give a folder that does.")
    return found


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
