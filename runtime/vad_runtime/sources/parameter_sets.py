"""The parameter sets that H.264 and H.265 cameras repeat before their key frames."""

import re

_START = re.compile(b"\0\0\1")
_LONGEST = 4096  # parameter sets stand first and are far shorter

_SETS = {"h264": (7, 8), "hevc": (33, 32, 34)}
"""NAL unit types of the sets, that with the picture size first (ITU-T H.264 table 7-1, H.265 table
7-1)."""


def parameter_sets(codec: str, data: bytes) -> tuple[bytes, bytes]:
    """Return what a packet in Annex B form says of the stream.

    Args:
        codec: FFmpeg's name.
        data: A packet.

    Returns:
        The sequence parameter set, which holds the picture size, and all sets with start codes, as
        an extradata; each is empty where it is not there whole (another codec, another form, not
        repeated).
    """
    wanted = _SETS.get(codec)
    head = data[:_LONGEST]
    if wanted is None or not head.startswith((b"\0\0\1", b"\0\0\0\1")):
        return b"", b""
    starts = [match.end() for match in _START.finditer(head)]
    sps, sets, seen = b"", b"", set()
    for start, following in zip(starts, [*starts[1:], len(head) + 3], strict=True):
        unit = head[start : following - 3].rstrip(b"\0")
        kind = _kind(codec, unit)
        if kind not in wanted:
            continue
        sets += b"\0\0\0\1" + unit
        seen.add(kind)
        if kind == wanted[0]:
            sps = unit
    return sps, sets if seen == set(wanted) else b""


def _kind(codec: str, unit: bytes) -> int:
    if not unit:
        return -1
    return unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F
