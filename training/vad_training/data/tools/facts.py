"""Facts about one video: size, frame rate, true number of frames, exact duration."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.sources import IMAGE_SUFFIXES, open_source

if TYPE_CHECKING:
    import av

SMALL = ClipSpec(frames=1, height=32, width=32, colour="gray", resizer="fast")
"""What frames are resized to where only their number, times or full pictures matter."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a video, or a folder of frames, is."""

    width: int
    """Columns as stored, pixels, before any rotation."""
    height: int
    """Rows as stored, pixels."""
    fps: float
    """Nominal frame rate, frames a second."""
    frames: int
    """True number of frames."""
    counted: bool
    """Whether `frames` was counted by decoding; else the container says so."""
    seconds: float
    """Exact duration; frames / fps for a folder of frames."""
    codec: str
    rotation: int
    """Counter-clockwise quarter turns, in degrees, that the file asks its player for."""
    sound: bool
    """Whether there is an audio stream."""


def facts_of(path: Path, *, fps: float | None = None, decode: bool = False) -> Facts:
    """Return the facts of a video or a folder of frames.

    The number of frames is the container's where it names one (mp4 and mov list every frame, an avi
    has a count in its header) and is counted by decoding where it does not (mkv, ts, raw
    streams). A damaged file may hold fewer frames than its header says; `decode` counts always.

    Args:
        path: Video file or folder of images.
        fps: Frame rate of a folder of frames, frames a second; None = 25.
        decode: Count the frames by decoding all of them: slow and certain.

    Raises:
        SourceError: Not readable, or nothing in it that decodes.
    """
    source = open_source(path, SMALL, fps=fps, pictures=False)
    info = source.info
    rotation, sound, length_s = (0, False, None) if path.is_dir() else _stream_facts(path)
    frames, counted = info.frames or 0, decode or info.frames is None
    if counted:
        times = [frame.pts_s for frame in source.frames()]
        frames = len(times)
        length_s = None if path.is_dir() else times[-1] + 1 / info.fps
    return Facts(
        width=info.width,
        height=info.height,
        fps=info.fps,
        frames=frames,
        counted=counted,
        seconds=frames / info.fps if length_s is None else length_s,
        codec=info.codec,
        rotation=rotation,
        sound=sound,
    )


def images_of(folder: Path) -> list[Path]:
    """Return the images that lie in a folder, sorted by name, without hidden ones."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def rotation_and_sound(path: Path) -> tuple[int, bool]:
    """Return the rotation a video asks for (degrees counter-clockwise) and whether it has sound.

    Raises:
        SourceError: Not readable.
    """
    if path.is_dir():
        return 0, False
    rotation, sound, _ = _stream_facts(path)
    return rotation, sound


def _stream_facts(path: Path) -> tuple[int, bool, float | None]:
    import av
    import av.error
    from av.stream import Disposition

    try:
        with av.open(str(path.absolute())) as container:
            stream = next(
                s for s in container.streams.video if not s.disposition & Disposition.attached_pic
            )
            length = stream.duration
            length_s = float(length * stream.time_base) if length and stream.time_base else None
            return _rotation(container.demux(stream)), bool(container.streams.audio), length_s
    except (av.error.FFmpegError, OSError, ValueError, StopIteration) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no video in it"
        raise SourceError(f"{path} is not a readable video ({reason}). Give another.") from None


def _rotation(packets: "Iterator[av.Packet[av.VideoStream]]") -> int:
    """Return the rotation that the first frame that decodes asks for."""
    import av.error

    for packet in packets:
        # Packets that do not decode are passed over, as the sources do.
        with contextlib.suppress(av.error.FFmpegError):
            for image in packet.decode():
                return round(image.rotation / 90) * 90 % 360
    return 0
