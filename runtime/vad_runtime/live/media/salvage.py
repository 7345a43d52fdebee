r"""Films that a kill or a power cut has left unfinished: what is whole of them is kept.

An MP4 that is being written grows by fragments, and becomes an ordinary one when it is finished::

    ftyp  moov  moof mdat  moof mdat  moof md     cut off anywhere
    `------------- kept ------------'
"""

import os
from pathlib import Path
from typing import BinaryIO

import av
import av.error

from vad_runtime.live.media.names import PART, unused

FRAGMENT_S = 2.0
"""So much at most is lost of a film whose writer is killed, besides what an encoder holds back."""

FRAGMENTED = {
    # `hybrid`: a film that is finished is an ordinary MP4, which every player takes and seeks in.
    "movflags": "hybrid_fragmented+frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": str(round(FRAGMENT_S * 1e6)),
    # A fragment goes to the disk at once; else some 30 kB would wait for the next.
    "flush_packets": "1",
}
"""Options of FFmpeg's MP4 writer (since 7.1) for a film that is readable while it grows."""

_MATROSKA = b"\x1a\x45\xdf\xa3"


def salvage(part: Path) -> Path | None:
    """Give an unfinished film its final name, cut after its last whole fragment.

    Args:
        part: A file `….mp4.part` that nobody writes to any more.

    Returns:
        Its new path; None = it holds nothing that can be shown, or is no film, and stays.
    """
    film = part.with_name(part.name.removesuffix(PART))
    if film.suffix != ".mp4":
        return None
    try:
        size = _whole_bytes(part)
        if not size:
            return None
        if size < part.stat().st_size:
            about = part.stat()
            os.truncate(part, size)
            os.utime(part, ns=(about.st_atime_ns, about.st_mtime_ns))  # by which retention goes
        return part.rename(unused(film))
    except OSError:
        return None


def _whole_bytes(part: Path) -> int:
    with part.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(4)
        if head != _MATROSKA:
            return _whole_fragments(file, size)
    return size if _gives_a_packet(part) else 0


def _whole_fragments(file: BinaryIO, size: int) -> int:
    """Return where the last whole fragment ends; 0 = there is none.

    A film whose writer was killed between its last byte and its name is whole, too.
    """
    place, whole, before, seen = 0, 0, b"", set[bytes]()
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # a length of 64 bits follows
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or place + length > size:
            break
        place += length
        if (kind == b"mdat" and before == b"moof" and b"moov" in seen) or (
            kind == b"moov" and b"mdat" in seen and b"moof" not in seen
        ):
            whole = place
        seen.add(kind)
        before = kind
    return whole


def _gives_a_packet(part: Path) -> bool:
    try:
        with av.open(str(part)) as film:
            return any(packet.size > 0 for packet in film.demux(video=0))
    except (OSError, av.error.FFmpegError, IndexError, ValueError):
        return False
