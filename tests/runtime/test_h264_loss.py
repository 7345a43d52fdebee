"""Lost pictures of an H.264 stream are seen in its packets, and none where nothing is lost."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from helpers import moving_blob

from vad_runtime.sources.h264_loss import H264Loss

KINDS = {
    "baseline": {"profile": "baseline", "preset": "ultrafast"},
    "b-frames": {"profile": "high", "x264-params": "bframes=3:b-pyramid=normal:ref=4"},
    "scaling lists": {"profile": "high", "x264-params": "cqm=jvt"},
    "4:4:4": {"profile": "high444", "x264-params": "bframes=0"},
    "slices": {"x264-params": "slices=4:bframes=0"},
    "fields": {"x264-params": "interlaced=1:bframes=0"},
}


def packets(options: dict[str, str], count: int = 60) -> list[tuple[bytes, bool]]:
    """Return (packet, whether pictures that follow need it) of an encoded video."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = 160, 120
    encoder.pix_fmt = "yuv444p" if options.get("profile") == "high444" else "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"preset": "veryfast", "threads": "1", "g": "20"} | options
    out = []
    for i, image in enumerate(moving_blob(count)):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = i, encoder.time_base
        out += list(encoder.encode(frame))
    out += list(encoder.encode(None))
    return [(bytes(packet), is_reference(bytes(packet))) for packet in out]


def is_reference(packet: bytes) -> bool:
    """Return nal_ref_idc of a picture's slices, as a truth value."""
    units = [unit for unit in packet.split(b"\x00\x00\x01")[1:] if unit[0] & 31 in (1, 5)]
    return units[0][0] >> 5 & 3 != 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_picture_is_seen_exactly_where_it_is_missing(kind: str) -> None:
    found = packets(KINDS[kind])
    numbers = H264Loss(None)
    assert [numbers.lost_before(data, key=b"\x00\x00\x01\x67" in data) for data, _ in found] == [
        False
    ] * len(found)
    seen = 0
    for lost in range(1, 19):
        if not found[lost][1]:
            continue
        numbers = H264Loss(None)
        there = [data for i, (data, _) in enumerate(found[:20]) if i != lost]
        seen += [
            numbers.lost_before(data, key=b"\x00\x00\x01\x67" in data) for data in there
        ].index(True) == lost
    assert seen == sum(needed for _, needed in found[1:19])
    assert seen > 3


def test_a_key_frame_needs_nothing_that_was_before_it() -> None:
    found = packets(KINDS["baseline"])
    numbers = H264Loss(None)
    there = [data for i, (data, _) in enumerate(found) if not 15 <= i < 20]
    assert not any(numbers.lost_before(data, key=b"\x00\x00\x01\x67" in data) for data in there)


def test_nothing_is_said_without_the_parameters() -> None:
    found = packets(KINDS["baseline"])[1:20]
    numbers = H264Loss(None)
    assert not any(
        numbers.lost_before(data, key=b"\x00\x00\x01\x67" in data) for data, _ in found[::3]
    )


@pytest.mark.data
def test_real_footage_has_no_picture_missing(data: Path) -> None:
    numbers, count = H264Loss(None), 0
    with av.open(str(data / "clips" / "Arrest030_x264.mp4")) as box:
        stream = box.streams.video[0]
        to_start_codes = BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in box.demux(stream):
            if packet.size and count < 500:
                for part in to_start_codes.filter(packet):
                    assert not numbers.lost_before(bytes(part), key=part.is_keyframe)
                    count += 1
    assert count == 500


def test_bytes_of_any_kind_are_taken() -> None:
    rng = np.random.default_rng(0)
    whole = packets(KINDS["scaling lists"], count=4)[0][0]
    numbers = H264Loss(None)
    numbers.lost_before(b"\x00\x00\x01\x67" + bytes(100_000), key=True)
    for _ in range(2000):
        noise = bytearray(whole[:200])
        for place in rng.integers(0, len(noise), 4):
            noise[place] = rng.integers(0, 256)
        numbers.lost_before(bytes(noise[: rng.integers(0, len(noise))]), key=True)
