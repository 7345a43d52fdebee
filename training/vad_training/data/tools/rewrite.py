"""Turns one video into another, frame by frame; every tool that writes films goes through here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.files import whole_file
from vad_runtime.sources import Pixels, open_source
from vad_runtime.sources.prefetch import Prefetch
from vad_training.data.tools.facts import SMALL, rotation_and_sound
from vad_training.data.tools.mp4 import Mp4Writer


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What is not in the film."""

    sound: bool
    """Whether there was sound, which is dropped."""
    notes: list[str]
    """One line for each other loss, for example frames that do not decode."""


def rewrite(
    source: Path,
    target: Path,
    change: Callable[[Pixels], Pixels] | None = None,
    *,
    fps: float | None = None,
) -> Rewritten:
    """Write a video or a folder of frames as an mp4, upright, without sound.

    Every frame that decodes is kept with its own time, so frame rate, number of frames and a
    variable frame rate survive. `target` appears whole or not at all; its folder is made.

    Args:
        source: Video file or folder of images.
        target: The mp4 to write.
        change: Gets each upright picture, shape (rows, columns, 3), uint8 RGB, and returns the
            one to write; all must have one size.
        fps: Frame rate of a folder of frames, frames a second; None = 25.

    Raises:
        SourceError: The source cannot be read, or its pictures change their size.
        InputError: The target cannot be written.
    """
    turn, sound = rotation_and_sound(source)
    opened = open_source(source, SMALL, fps=fps)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target.parent} cannot be made ({error.strerror}). Choose another place."
        ) from None
    with whole_file(target) as temporary:
        frames = iter(Prefetch(opened, depth=8))
        first = next(frames)
        picture = _changed(first.picture(), turn, change)
        size = picture.shape
        with Mp4Writer(temporary, size[1], size[0], opened.info.fps) as writer:
            writer.write(picture, first.pts_s)
            for frame in frames:
                picture = _changed(frame.picture(), turn, change)
                if picture.shape != size:
                    raise SourceError(
                        f"{source} changes its size at frame {frame.index}. Cut it there."
                    )
                writer.write(picture, frame.pts_s)
    stats = opened.stats
    notes = [f"{source}: {line}" for line in stats.notes]
    lost = stats.undecodable_packets
    if lost:
        notes.append(f"{source}: {lost} frames do not decode and are not in the film")
    if stats.damaged:
        notes.append(f"{source}: {stats.damaged} frames are damaged")
    return Rewritten(sound=sound, notes=notes)


def _changed(picture: Pixels, turn: int, change: Callable[[Pixels], Pixels] | None) -> Pixels:
    if turn:
        picture = np.ascontiguousarray(np.rot90(picture, turn // 90))
    return picture if change is None else change(picture)
