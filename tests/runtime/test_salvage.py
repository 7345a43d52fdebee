"""What is left of a film when its writer is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from helpers import moving_blob, write_video

from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import MediaSettings, RetentionSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.media.films import HourlyFilm
from vad_runtime.live.media.recorder import MediaRecorder
from vad_runtime.live.media.retention import Retention
from vad_runtime.live.media.salvage import FRAGMENTED, salvage
from vad_runtime.sources.base import Frame, SourceInfo

FPS = 15

KILLED = """
import sys, threading, time
from pathlib import Path
import av
from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import MediaSettings, RetentionSettings
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.media import media_names
from vad_runtime.live.media.recorder import MediaRecorder
from vad_runtime.sources.base import SourceInfo
from vad_runtime.sources.connection import PacketInfo, StreamTemplate
from vad_runtime.sources.packets import PacketRing

info = SourceInfo(
    name="cam", kind="live stream", codec="h264", width=160, height=120, fps=15, frames=None
)
ring, now = PacketRing(60.0), time.monotonic()
with av.open(sys.argv[1]) as film:
    stream = film.streams.video[0]
    context = stream.codec_context
    template = StreamTemplate(
        codec=context.name, extradata=context.extradata, width=context.width,
        height=context.height, fps=15.0, time_base=(1, 90000),
    )
    for i, packet in enumerate(p for p in film.demux(stream) if p.size):
        ring.add(PacketInfo(
            data=bytes(packet), pts_s=float(packet.pts * packet.time_base),
            dts_s=float(packet.dts * packet.time_base), key=packet.is_keyframe,
            arrived_s=now - 8.0 + i / 15,
        ))
media = MediaRecorder(
    Path(sys.argv[2]), MediaSettings(), RetentionSettings(free_gb=0.0), say=print
)
media.stream_opened(
    "gate", ring=ring, template=lambda: template, info=lambda: info,
    scoring=Scoring(threshold=1.2),
)
event = EventRecord(
    id="01930e2a-7c4d-7b1e-9c55-00001b9f03aa", site="depot", stream="gate",
    start_s=time.time() - 3.0, end_s=None, peak_s=time.time(), peak_score=2.3, threshold=1.2,
    reason="score of site.vad", start_frame=1, end_frame=None,
)
media.event(EventChange(kind="started", event=event))
print(media_names(event)[1], flush=True)
time.sleep(60)
"""


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as film:
        return list(film.decode(video=0))


def restarted(folder: Path) -> list[str]:
    lines: list[str] = []
    MediaRecorder(folder, MediaSettings(), RetentionSettings(free_gb=0.0), say=lines.append).close()
    return lines


def test_the_clip_of_an_event_survives_kill_9_under_the_name_in_its_row(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", moving_blob(8 * FPS))
    data = tmp_path / "data"
    data.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(film), str(data)], stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout is not None
            name = writer.stdout.readline().strip()
            part = data / f"{name}.part"
            end = time.monotonic() + 20
            while not (part.exists() and b"moof" in part.read_bytes()):
                assert time.monotonic() < end
                time.sleep(0.05)
        finally:
            os.kill(writer.pid, signal.SIGKILL)
    lines = restarted(data)
    images = decoded(data / name)
    assert len(images) >= 2 * FPS
    assert images[0].key_frame
    assert not any(image.is_corrupt for image in images)
    assert lines == ["media: unfinished files of an earlier run: kept what is whole of 1"]


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An MP4 of ten seconds as it is before it is finished."""
    path = tmp_path_factory.mktemp("salvage") / "film.mp4"
    seen = b""
    with av.open(str(path), "w", options=FRAGMENTED) as film:
        stream = film.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for picture in moving_blob(10 * FPS):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        seen = path.read_bytes()
    assert len(decoded(path)) == 10 * FPS
    done = path.read_bytes()
    assert done.index(b"mdat") < done.index(b"moof")  # finished, it is an ordinary film
    assert seen.index(b"mdat") > seen.index(b"moof")
    return seen


def test_every_frame_decodes_of_a_film_that_is_cut_off_anywhere(
    growing: bytes, tmp_path: Path
) -> None:
    starts = [at.start() - 4 for at in re.finditer(b"moof", growing)]
    ends = [*starts[1:], len(growing)]
    assert len(ends) > 8
    cuts = {end + more for end in [20, 100, *starts, *ends] for more in (-90, -1, 0, 5, 12, 170)}
    for cut in sorted(cut for cut in cuts if 0 <= cut <= len(growing)):
        part = tmp_path / f"{cut}.mp4.part"
        part.write_bytes(growing[:cut])
        os.utime(part, (1e9, 1e9))
        whole = sum(end <= cut for end in ends)
        kept = salvage(part)
        if not whole:
            assert kept is None
            assert part.exists()
            continue
        assert kept == tmp_path / f"{cut}.mp4"
        images = decoded(kept)
        assert len(images) == 12 * whole  # a key frame each twelve
        assert not any(image.is_corrupt for image in images)
        assert kept.stat().st_mtime == 1e9  # its age is that of the film


def test_a_film_that_was_killed_before_it_got_its_name_is_whole(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "film.mp4", moving_blob(20)).rename(tmp_path / "a.mp4.part")
    taken = tmp_path / "a.mp4"
    taken.write_bytes(b"somebody else's")
    kept = salvage(whole)
    assert kept == tmp_path / "a-2.mp4"
    assert len(decoded(kept)) == 20
    assert taken.read_bytes() == b"somebody else's"


@pytest.mark.parametrize("cut", [0.6, 0.01])
def test_a_matroska_film_is_kept_where_it_gives_a_picture(tmp_path: Path, cut: float) -> None:
    film = write_video(tmp_path / "film.mkv", moving_blob(40))
    part = tmp_path / "a.mp4.part"
    part.write_bytes(film.read_bytes()[: round(film.stat().st_size * cut)])
    kept = salvage(part)
    assert (kept is not None) == (cut == 0.6)
    assert kept is None or decoded(kept)


def test_a_piece_of_an_hourly_film_is_kept_and_what_holds_nothing_goes(tmp_path: Path) -> None:
    info = SourceInfo(
        name="cam", kind="live stream", codec="h264", width=160, height=120, fps=FPS, frames=None
    )
    film = HourlyFilm(
        tmp_path,
        "gate",
        lambda: info,
        Scoring(threshold=1.2),
        retention=Retention(tmp_path, RetentionSettings(free_gb=0.0), say=pytest.fail),
    )
    for i, picture in enumerate(moving_blob(12 * FPS)):
        frame = Frame(
            index=i,
            pts_s=i / FPS,
            pixels=picture[::4, ::4],
            picture=lambda picture=picture: picture,  # type: ignore[misc]
        )
        film.write(ScoredFrame(frame=frame, raw=0.1, score=0.1, alarm=False, status="scored"))
    (part,) = tmp_path.rglob("*.mp4.part")
    left = part.read_bytes()
    film.close()
    (done,) = tmp_path.rglob("*.mp4")
    done.unlink()
    part.write_bytes(left)
    for name in ("empty.mp4", "half.jpg"):
        part.with_name(f"{name}.part").write_bytes(b"half")
    assert restarted(tmp_path) == [
        "media: unfinished files of an earlier run: kept what is whole of 1, "
        "removed 2 that held nothing"
    ]
    assert len(decoded(done)) >= 2 * FPS
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [done]
