"""Where the pictures of an event lie: known from its row alone, before there is a file."""

import time
from pathlib import Path, PurePosixPath

from vad_runtime.live.base import EventRecord

FOLDERS = ("clips", "snapshots", "films", "scores")
"""Below the data folder; what retention looks after."""

PART = ".part"
"""End of the name of a file that is not whole yet; see `salvage` for what becomes of it."""


def media_names(event: EventRecord) -> tuple[str, str]:
    """Return the paths of an event's snapshot and clip, from the data folder.

    `snapshots/2026-11-22/gate-142303-1b9f03aa.jpg` and `clips/2026-11-22/gate-142303-1b9f03aa.mp4`:
    day and time are those of the event's start by the clock on the wall of this machine; the last
    digits are those of the event's id, so that two events of one second differ.

    They depend on the id, the stream and the start only, which never change. A clip whose codec
    MP4 cannot hold is Matroska in content all the same under this name; players go by content.
    """
    started = time.localtime(event.start_s)
    folder = time.strftime("%Y-%m-%d", started)
    digits = event.id.replace("-", "")[-8:]
    name = f"{event.stream}-{time.strftime('%H%M%S', started)}-{digits}"
    return f"snapshots/{folder}/{name}.jpg", f"clips/{folder}/{name}.mp4"


def peak_name(snapshot: str) -> str:
    """Return the path of the JPEG of the event's highest score, beside the first snapshot."""
    path = PurePosixPath(snapshot)
    return str(path.with_name(f"{path.stem}-peak{path.suffix}"))


def part_name(clip: str, number: int) -> str:
    """Return the path of a clip's second and further parts: `…-part2.mp4`; 1 = the clip itself."""
    path = PurePosixPath(clip)
    return clip if number == 1 else str(path.with_name(f"{path.stem}-part{number}{path.suffix}"))


def timed_name(kind: str, stream: str, unix_s: float, suffix: str) -> str:
    """Return the path of a film or a file of scores that starts at a time."""
    started = time.localtime(unix_s)
    folder = time.strftime("%Y-%m-%d", started)
    return f"{kind}/{folder}/{stream}-{time.strftime('%H%M%S', started)}{suffix}"


def unused(path: Path) -> Path:
    """Return the path, or one beside it: `…-2.mp4` where a file of that name is there.

    In autumn an hour comes twice by the clock on the wall, and a stream may be opened twice within
    a second.
    """
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
