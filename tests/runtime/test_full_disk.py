"""A disk that is full: room is made, or a file is given up; nothing else suffers."""

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from helpers import moving_blob, write_video

from vad_runtime.contracts.manifest import Scoring
from vad_runtime.contracts.site import MediaSettings, RetentionSettings
from vad_runtime.detector import ScoredFrame
from vad_runtime.live.base import EventChange, EventRecord
from vad_runtime.live.media import media_names
from vad_runtime.live.media.disk import new_file
from vad_runtime.live.media.recorder import MediaRecorder
from vad_runtime.live.media.retention import Retention
from vad_runtime.sources.base import Frame, SourceInfo
from vad_runtime.sources.connection import PacketInfo, StreamTemplate
from vad_runtime.sources.packets import PacketRing

SIZE = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


class LimitedDisk:
    """Lets `os.write` fail as on a disk of so many bytes; counts what lies in a folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._write = os.write
        self.size = size
        self.error = errno.ENOSPC

    def free(self, _: Path | None = None) -> int:
        used = sum(p.stat().st_size for p in self._folder.rglob("*") if p.is_file())
        return max(0, self.size - used)

    def write(self, handle: int, data: memoryview) -> int:
        free = self.free()
        if free == 0:
            raise OSError(self.error, os.strerror(self.error))
        return self._write(handle, data[:free])


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LimitedDisk:
    disk = LimitedDisk(tmp_path, 3 << 20)
    monkeypatch.setattr("vad_runtime.live.media.disk.os.write", disk.write)
    return disk


def keeper(folder: Path, disk: LimitedDisk) -> Retention:
    return Retention(folder, RetentionSettings(free_gb=0.0), say=pytest.fail, free=disk.free)


def old_files(folder: Path, count: int, size: int = 1 << 20) -> list[Path]:
    paths = [folder / "clips" / "old" / f"{i}.mp4" for i in range(count)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (1000 + i, 1000 + i))
    return paths


def test_the_oldest_file_makes_room_for_a_new_one(tmp_path: Path, limited: LimitedDisk) -> None:
    old = old_files(tmp_path, 3)
    content = os.urandom(1_500_000)
    with new_file(tmp_path / "clips" / "new" / "a.mp4", keeper(tmp_path, limited)) as file:
        file.write(content)
    assert (tmp_path / "clips" / "new" / "a.mp4").read_bytes() == content
    assert [path.exists() for path in old] == [False, False, True]


def test_a_file_is_given_up_when_nothing_is_left_to_remove(
    tmp_path: Path, limited: LimitedDisk
) -> None:
    def fail() -> None:
        with new_file(tmp_path / "clips" / "new" / "a.mp4", keeper(tmp_path, limited)) as file:
            file.write(b"x" * (4 << 20))

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_disk_that_fails_otherwise_costs_no_old_files(
    tmp_path: Path, limited: LimitedDisk
) -> None:
    old = old_files(tmp_path, 3)
    limited.error = errno.EIO

    def fail() -> None:
        with new_file(tmp_path / "clips" / "new" / "a.mp4", keeper(tmp_path, limited)) as file:
            file.write(b"x" * 1000)

    with pytest.raises(OSError, match="Input/output"):
        fail()
    assert all(path.exists() for path in old)


# -- the whole thread on a real disk ---------------------------------------------------------------


def info() -> SourceInfo:
    return SourceInfo(
        name="a", kind="live stream", codec="h264", width=160, height=120, fps=15, frames=None
    )


def packets_of(path: Path, at_s: float) -> tuple[StreamTemplate, list[PacketInfo]]:
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        template = StreamTemplate(
            codec="h264",
            extradata=stream.codec_context.extradata,
            width=160,
            height=120,
            fps=15.0,
            time_base=(1, 90000),
        )
        packets = [
            PacketInfo(
                data=bytes(packet),
                pts_s=float((packet.pts or 0) * packet.time_base),
                dts_s=float((packet.dts or 0) * packet.time_base),
                key=packet.is_keyframe,
                arrived_s=at_s + i / 15,
            )
            for i, packet in enumerate(p for p in film.demux(stream) if p.size)
        ]
    return template, packets


def record(number: int, start_s: float, end_s: float | None = None) -> EventRecord:
    return EventRecord(
        id=f"01930e2a-7c4d-7b1e-9c55-{number:012x}",
        site="depot",
        stream="gate",
        start_s=start_s,
        end_s=end_s,
        peak_s=start_s,
        peak_score=2.0,
        threshold=1.0,
        reason="score of site.vad",
        start_frame=1,
        end_frame=None,
    )


def noisy(number: int) -> ScoredFrame:
    rng = np.random.default_rng(number)
    picture = rng.integers(0, 256, (480, 640, 3), np.uint8)
    frame = Frame(index=number, pts_s=0.0, pixels=picture, picture=lambda: picture)
    return ScoredFrame(frame=frame, raw=2.0, score=2.0, alarm=True, status="scored")


def eventually(what: Callable[[], bool], seconds: float = 8.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not what():
        time.sleep(0.02)
    return what()


def test_on_a_small_disk_new_pictures_push_out_old_ones_and_every_clip_decodes(
    small_disk: Path, tmp_path: Path
) -> None:
    film = write_video(tmp_path / "film.mp4", moving_blob(60))
    template, packets = packets_of(film, time.monotonic() - 7.0)
    ring = PacketRing(60.0)
    for packet in packets:
        ring.add(packet)
    media = MediaRecorder(
        small_disk,
        MediaSettings(pre_s=4.0, post_s=0.0),
        RetentionSettings(free_gb=0.0),
        say=pytest.fail,
    )
    media.stream_opened(
        "gate", ring=ring, template=lambda: template, info=info, scoring=Scoring(threshold=1.0)
    )
    wall = time.time()
    for i in range(40):  # 40 snapshots of 300 kB are three disks full
        begun = record(i, wall - 4.0 + i / 1000)
        media.event(EventChange(kind="started", event=begun), noisy(i))
        ended = msgspec.structs.replace(begun, end_s=begun.start_s)
        media.event(EventChange(kind="ended", event=ended))
        assert eventually(lambda: media.health().details["clips"] == i + 1)  # noqa: B023 - now
    media.close()
    health = media.health()
    assert health.details["given_up"] == 0
    assert health.details["snapshots"] == 40
    assert health.details["removed"] > 20
    last = record(39, wall - 4.0 + 39 / 1000)
    assert (small_disk / media_names(last)[0]).is_file()
    clips = list(small_disk.rglob("*.mp4"))
    assert clips
    for clip in clips:
        with av.open(str(clip)) as shown:
            assert sum(1 for _ in shown.decode(video=0)) > 15
    assert not list(small_disk.rglob("*.part"))


def test_a_clip_that_finds_no_room_is_given_up_and_the_next_one_is_written(
    tmp_path: Path, limited: LimitedDisk
) -> None:
    film = write_video(tmp_path.parent / f"{tmp_path.name}.mp4", moving_blob(60))
    template, packets = packets_of(film, time.monotonic() - 7.0)
    ring = PacketRing(60.0)
    for packet in packets:
        ring.add(packet)
    lines: list[str] = []
    media = MediaRecorder(
        tmp_path,
        MediaSettings(pre_s=4.0, post_s=0.0, snapshots=False),
        RetentionSettings(free_gb=0.0),
        say=lines.append,
    )
    media.stream_opened(
        "gate", ring=ring, template=lambda: template, info=info, scoring=Scoring(threshold=1.0)
    )
    limited.size = 20_000  # some packets, and then no more

    def happens(number: int) -> EventRecord:
        start_s = time.time() - 4.0
        begun = record(number, start_s)
        media.event(EventChange(kind="started", event=begun))
        media.event(EventChange(kind="ended", event=record(number, start_s, start_s + 0.5)))
        return begun

    lost = happens(1)
    assert eventually(lambda: media.health().details["given_up"] == 1)
    assert not (tmp_path / media_names(lost)[1]).exists()
    assert not list(tmp_path.rglob("*.part"))
    limited.size = 10_000_000
    kept = happens(2)
    assert eventually((tmp_path / media_names(kept)[1]).exists)
    media.close()
    assert media.health().ok
    assert len(lines) == 2


def test_a_disk_filled_by_others_is_told_once_and_is_no_trouble_for_long(
    small_disk: Path,
) -> None:
    lines: list[str] = []
    media = MediaRecorder(
        small_disk, MediaSettings(clips=False), RetentionSettings(free_gb=0.0), say=lines.append
    )
    media.stream_opened(
        "gate", ring=None, template=lambda: None, info=info, scoring=Scoring(threshold=1.0)
    )
    ballast = small_disk / "theirs"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 65536)
            except OSError:
                break
    began = time.monotonic()
    for i in range(10):
        media.event(EventChange(kind="started", event=record(i, 1.8e9 + i)), noisy(i))
    told_s = time.monotonic() - began
    assert eventually(lambda: media.health().details["given_up"] == 10)
    assert told_s < 1.0  # the scorer does not wait for the disk
    health = media.health()
    assert not health.ok
    assert "No space left" in health.trouble
    assert "10 files" in health.trouble
    ballast.unlink()
    media.event(EventChange(kind="started", event=record(99, 1.8e9 + 99)), noisy(99))
    assert eventually(lambda: media.health().ok)
    media.close()
    assert len(lines) == 2
    assert "gate cannot be written" in lines[0]
    assert "10 files were lost" in lines[1]
    assert media.health().details["snapshots"] == 1
