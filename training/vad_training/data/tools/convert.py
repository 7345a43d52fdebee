"""`vad-train data convert`: any video to an H.264 mp4."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vad_runtime.contracts import InputError, SourceError
from vad_runtime.files import made_folder
from vad_runtime.progress import progress
from vad_runtime.sources import find_sources
from vad_training.data.tools.entries import require_new
from vad_training.data.tools.rewrite import rewrite


@dataclass(kw_only=True)
class Converted:
    """What a conversion did."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    """Were there already."""
    broken: list[str] = field(default_factory=list)
    """One line for each source that could not be converted: which and why."""
    with_sound: int = 0
    """How many had sound, which is dropped."""
    notes: list[str] = field(default_factory=list)
    """What else is not in the films, for example frames that do not decode."""


def convert_folder(
    folder: Path, out: Path, *, overwrite: bool = False, fps: float | None = None
) -> Converted:
    """Write every video and folder of frames below `folder` as an mp4 at the same place in `out`.

    Two videos that differ in their suffix alone keep it: `a.avi.mp4` and `a.mov.mp4`.

    Args:
        folder: What to convert; a single video is possible.
        out: Output folder, outside of `folder`.
        overwrite: Replace what is there; else it is left alone.
        fps: Frame rate of folders of frames, frames a second; None = 25.

    Raises:
        InputError: Nothing to convert, or `out` lies in `folder`, holds what is to be read, or
            cannot be written.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out} lies in {folder}. Choose an output folder outside of it.")
    sources = find_sources(folder)
    base = folder if folder.is_dir() else folder.parent
    plain = [_target(source, base, out, keep=False) for source in sources]
    times = Counter(plain)
    targets = [
        _target(source, base, out, keep=True) if times[target] > 1 else target
        for source, target in zip(sources, plain, strict=True)
    ]
    require_new(targets, overwrite=True, sources=sources)
    made_folder(out)
    done = Converted()
    with progress("converting, videos", len(sources)) as bar:
        for source, target in zip(sources, targets, strict=True):
            if target.exists() and not overwrite:
                done.skipped.append(target)
            else:
                try:
                    film = rewrite(source, target, fps=fps)
                    done.notes += film.notes
                    done.with_sound += film.sound
                    done.written.append(target)
                except SourceError as error:
                    done.broken.append(str(error))
            bar.advance()
    return done


def _target(source: Path, base: Path, out: Path, *, keep: bool) -> Path:
    # A folder of frames that is itself what was named lies at no place below it.
    relative = source.relative_to(base) if source != base else Path(source.resolve().name)
    name = source.name if keep or source.is_dir() else source.stem
    return out / relative.with_name(f"{name or relative.name}.mp4")
