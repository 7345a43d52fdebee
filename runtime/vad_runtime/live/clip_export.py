"""Pictures of past events in one folder that can be handed on: `vad-run export-clips`."""

import contextlib
import html
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from vad_runtime.contracts.errors import InputError
from vad_runtime.files import PRIVATE_FILE, private_folder, put_in_place
from vad_runtime.live.base import EventRecord
from vad_runtime.live.media import part_name, peak_name
from vad_runtime.when import duration, iso, local
from vad_runtime.words import counted

INDEX, TABLE = "index.html", "events.csv"
_MOST_PARTS = 9
_MARK = '<meta name="generator" content="vad-run export-clips">'


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export holds."""

    events: int
    files: int
    bytes: int
    missing: int
    """Clips and snapshots that the rows name and the data folder does not hold (any more)."""


def require_free_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder for an export before any work is done.

    Raises:
        InputError: Something stands there that is not empty, and either is no earlier export or may
            not be replaced.
    """
    if not os.path.lexists(folder):
        return
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder, so it is left alone. Name another.")
        if not any(folder.iterdir()):
            return
        with (folder / INDEX).open("rb") as page:
            ours = _MARK.encode() in page.read(1000)
    except FileNotFoundError:
        ours = False
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}). Name another.") from None
    if not ours:
        raise InputError(f"{folder} holds other things than an export. Name another folder.")
    if not overwrite:
        raise InputError(f"{folder} exists already. Name another folder or add --overwrite.")


def export_clips(
    events: Sequence[EventRecord],
    data: Path,
    folder: Path,
    *,
    table: str,
    title: str,
    overwrite: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> Exported:
    """Copy clips and snapshots, and write a table and a page of pictures, whole or not at all.

    The site may run meanwhile: what its retention removes before it is copied counts as missing.

    Args:
        events: What to export, in the order of the page.
        data: The site's data folder.
        folder: Made new; an earlier export there is replaced at the end if `overwrite` is given.
        table: Content of `events.csv`.
        title: Heading of the page.
        overwrite: Replace an earlier export.
        advance: Called after each event.

    Raises:
        InputError: The folder is not free, or cannot be written (a full disk, say).
    """
    folder = folder.absolute()
    require_free_folder(folder, overwrite=overwrite)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    cards, files, size, missing = [], 0, 0, 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir(mode=0o750)
        for event in events:
            there = []
            for name, promised in _names(event):
                copied = _copied(name, data, work)
                if copied is not None:
                    there.append(name)
                    files, size = files + 1, size + copied
                elif promised:
                    missing += 1
            cards.append(_card(event, there))
            advance()
        for name in (TABLE, INDEX):
            (work / name).touch(PRIVATE_FILE)
        (work / TABLE).write_text(table, encoding="utf-8", newline="")
        (work / INDEX).write_text(_page(title, cards), encoding="utf-8")
        put_in_place(work, folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder."
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(events=len(events), files=files, bytes=size, missing=missing)


def media_file(name: str | None, data: Path) -> Path | None:
    """Return the file that a row names, or None where the data folder does not hold it.

    A name that leads out of the folder, or to something that is no plain file, is not followed: the
    database may be damaged, or another's.
    """
    if name is None:
        return None
    parts = PurePosixPath(name).parts
    try:
        if not parts or parts[0] == "/" or ".." in parts:
            return None
        file = data.joinpath(*parts)
        inside = file.resolve().is_relative_to(data.resolve())
        return file if inside and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a circle of links
        return None


def _names(event: EventRecord) -> Iterator[tuple[str, bool]]:
    """Give the names of an event's files, and whether its row promises that there is one."""
    with contextlib.suppress(ValueError):  # a damaged row: no name of a file
        if event.snapshot is not None:
            yield event.snapshot, True
            yield peak_name(event.snapshot), False
    with contextlib.suppress(ValueError):
        if event.clip is not None:
            yield event.clip, True
            for number in range(2, _MOST_PARTS + 1):
                yield part_name(event.clip, number), False


def _copied(name: str, data: Path, work: Path) -> int | None:
    """Copy one file to the same name below `work`; return its size, None where it is not there."""
    source = media_file(name, data)
    if source is None:
        return None
    target = work / name
    if target.exists():  # two rows that name one file
        return 0
    private_folder(target.parent)
    try:
        shutil.copyfile(source, target)
        shutil.copystat(source, target)
        return target.stat().st_size
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return None


def _card(event: EventRecord, there: Sequence[str]) -> str:
    def link(name: str, text: str) -> str:
        return f'<a href="{html.escape(quote(name))}">{text}</a>'

    words = html.escape(f"{event.stream}, {local(event.start_s)}")
    pictures = [name for name in there if name.endswith(".jpg")]
    films = [name for name in there if name not in pictures]
    shown = '<div class="none">no picture</div>'
    if pictures:
        source = html.escape(quote(pictures[0]))
        shown = f'<img src="{source}" alt="{words}" loading="lazy">'
    if films:
        shown = link(films[0], shown)
    links = [link(name, "clip" if i == 1 else f"part {i}") for i, name in enumerate(films, start=1)]
    links += [link(name, "peak") for name in pictures[1:]]
    lasted = "still going on" if event.end_s is None else duration(event.end_s - event.start_s)
    facts = html.escape(
        f"{lasted}, peak {event.peak_score:.2f} (alarm at {event.threshold:.2f}), {event.reason}"
    )
    return (
        f'<figure id="{html.escape(event.id)}">{shown}<figcaption><b>{words}</b><br>'
        f"{facts}<br>{' '.join(links) or 'no clip'}</figcaption></figure>"
    )


def _page(title: str, cards: Sequence[str]) -> str:
    heading, number = html.escape(title), counted(len(cards), "event")
    body = "\n".join(cards) or "<p>No events.</p>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{_MARK}
<meta name="viewport" content="width=device-width">
<title>{heading}</title>
<style>
body {{ font: 14px/1.4 sans-serif; margin: 1.5em; background: #fff; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 1.2em }}
figure {{ margin: 0; border: 1px solid #ccc; padding: .5em; overflow-wrap: anywhere }}
img, .none {{ width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: #eee }}
.none {{ display: grid; place-items: center; color: #666 }}
</style>
</head>
<body>
<h1>{heading}</h1>
<p>{number}; written {html.escape(iso(time.time()))}. <a href="{TABLE}">{TABLE}</a></p>
<main>
{body}
</main>
</body>
</html>
"""
