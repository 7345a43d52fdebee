"""The sources of the C++ library give the frames that Python's give: numbers, times, holes, pixels.

FFmpeg is linked there and comes in PyAV's wheel here, so the two are often of other versions. What
decodes alike in all of them is compared to the last bit.
"""

import random
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers import clip_spec, moving_blob, write_raw_h264, write_video
from helpers_native import native_program
from helpers_rtsp import Camera, marked, write_clip

from vad_runtime.contracts.clip import ClipSpec
from vad_runtime.contracts.site import Secret, StreamSettings
from vad_runtime.sources import open_source
from vad_runtime.sources.address import masked
from vad_runtime.sources.base import Frame, SourceStats
from vad_runtime.sources.connection import Image
from vad_runtime.sources.h264_loss import H264Loss
from vad_runtime.sources.live_frames import FrameMaker
from vad_runtime.sources.video import _natural

PORTABLE = clip_spec(height=48, width=64, colour="rgb", resizer="portable")
Row = tuple[int, float, bool, str, str]


@pytest.fixture(scope="module")
def probe() -> Path:
    """The program that shows what the C++ sources do."""
    program = native_program("source_probe")
    linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True)
    if "libavformat" not in linked.stdout:
        pytest.skip("this build is without FFmpeg (scripts/system-packages installs it)")
    return program


@dataclass
class Answer:
    """What the probe says of a source."""

    info: list[str]
    frames: list[Row]
    stats: list[int]
    holes: dict[str, int]
    notes: list[str]


def answer(lines: Sequence[str]) -> Answer:
    found = Answer([], [], [], {}, [])
    for what, *words in (line.split("\t") for line in lines):
        if what == "info":
            found.info = words
        elif what == "frame":
            index, time, damaged, crc, hole = words
            found.frames.append((int(index), float(time), damaged == "1", crc, hole))
        elif what == "stats":
            found.stats = [int(word) for word in words]
        elif what == "hole":
            found.holes[words[0]] = int(words[1])
        elif what == "note":
            found.notes += words
    return found


def run(program: Path, *words: str, stdin: str = "") -> list[str]:
    done = subprocess.run(
        [str(program), *words], input=stdin, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def read(
    program: Path, source: Path | str, spec: ClipSpec = PORTABLE, *, depth: int = 0, most: int = 0
) -> Answer:
    size = (str(spec.height), str(spec.width))
    how = (spec.colour, spec.resizer, spec.interpolation, str(depth), str(most))
    return answer(run(program, "frames", str(source), *size, *how))


def row(frame: Frame) -> Row:
    crc = zlib.crc32(np.ascontiguousarray(frame.pixels).tobytes())
    return (frame.index, frame.pts_s, frame.damaged, f"{crc:08x}", frame.hole or "")


def assert_same(
    program: Path, path: Path, spec: ClipSpec = PORTABLE, *, pixels: bool = True
) -> None:
    source = open_source(path, spec, pictures=False)
    rows = [row(frame) for frame in source.frames()]
    found = read(program, path, spec)
    if not pixels:
        rows, found.frames = ([(*r[:3], "", r[4]) for r in rs] for rs in (rows, found.frames))
    assert found.frames == rows
    info, stats = source.info, source.stats
    assert found.info[:2] == [info.name, info.kind]
    assert (int(found.info[3]), int(found.info[4])) == (info.width, info.height)
    assert float(found.info[5]) == pytest.approx(info.fps, rel=1e-15)
    assert int(found.info[6]) == (-1 if info.frames is None else info.frames)
    assert found.stats == [
        stats.frames,
        stats.damaged,
        stats.undecodable_packets,
        stats.timestamps_repaired,
        stats.frozen,
    ]
    assert found.holes == stats.holes
    assert found.notes == stats.notes


# -- films -------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["rgb", "gray"])
@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_a_film_gives_the_same_frames(
    probe: Path, tiny_video: Path, colour: Any, interpolation: Any
) -> None:
    spec = clip_spec(
        height=33, width=57, colour=colour, resizer="portable", interpolation=interpolation
    )
    assert_same(probe, tiny_video, spec)


@pytest.mark.parametrize(
    "name",
    [
        "Megamind_bugy.avi",
        "Arrest030_x264.mp4",
        "nasa_13013.mp4",
        "av1_video.mkv",
        "v_GGSY1Qvo990.mp4",
        "testsrc2_h265.mp4",
        "vtest.avi",
    ],
)
def test_real_films_give_the_same_frames(probe: Path, data: Path, name: str) -> None:
    # FFmpeg 5 and 8 decode MS-MPEG4 differently: single pixels, by at most 2.
    assert_same(probe, data / "clips" / name, pixels=name != "vtest.avi")


def test_surveillance_films_give_the_same_frames(probe: Path, data: Path) -> None:
    films = sorted((data / "fight").glob("*/*.mp4"))
    assert len(films) == 100
    for film in films[::9]:
        assert_same(probe, film)


def test_real_folders_of_images_give_the_same_frames(probe: Path, data: Path) -> None:
    assert_same(probe, data / "ped2" / "testing" / "frames" / "03")


def test_a_spoilt_film_has_the_same_holes(probe: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    for trial in range(6):
        film = write_video(tmp_path / f"{trial}.avi", moving_blob(60), codec="mpeg4")
        content = bytearray(film.read_bytes())
        for _ in range(12):
            content[rng.randrange(6000, len(content) - 3000)] ^= rng.randrange(1, 256)
        film.write_bytes(content)
        # What decoders conceal an error with is another matter in each version.
        source = open_source(film, PORTABLE, pictures=False)
        rows = [row(frame) for frame in source.frames()]
        found = read(probe, film)
        assert [(r[0], r[1], r[4]) for r in found.frames] == [(r[0], r[1], r[4]) for r in rows]
        assert found.stats[2:] == [
            source.stats.undecodable_packets,
            source.stats.timestamps_repaired,
            0,
        ]


def test_a_film_cut_short_says_so(probe: Path, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mkv", moving_blob(60))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert_same(probe, film)


def test_times_that_jump_are_repaired_alike(probe: Path, tmp_path: Path) -> None:
    pts = [0, 1, 2, 3, 50, 51, 52, 200, 201, 202, 203, 204]
    assert_same(probe, write_video(tmp_path / "film.mkv", moving_blob(12), pts=pts))


def test_a_change_of_size_is_a_hole(probe: Path, tmp_path: Path) -> None:
    content = b"".join(
        write_raw_h264(
            tmp_path / f"{size}.h264", moving_blob(15, height=size, width=160)
        ).read_bytes()
        for size in (120, 96)
    )
    film = tmp_path / "film.h264"
    film.write_bytes(content)
    found = read(probe, film)
    assert found.holes == {"change of resolution": 1}
    assert_same(probe, film)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv411p", "gray"])
def test_y4m_gives_the_frames_of_ffmpeg(probe: Path, tmp_path: Path, pix_fmt: str) -> None:
    film = tmp_path / "film.y4m"
    with av.open(str(film), "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 75, 51, pix_fmt
        for image in moving_blob(8, height=51, width=75):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert film.read_bytes().startswith(b"YUV4MPEG2")
    assert_same(probe, film)
    piped = subprocess.run(
        [str(probe), "frames", "-", "48", "64", "rgb", "portable", "area", "4", "0"],
        input=film.read_bytes(),
        capture_output=True,
        check=True,
    )
    assert answer(piped.stdout.decode().splitlines()).frames == read(probe, film).frames


def test_prefetching_changes_nothing(probe: Path, tiny_video: Path) -> None:
    assert read(probe, tiny_video, depth=3) == read(probe, tiny_video)


def test_swscale_gives_the_same_colours_as_in_python(probe: Path, data: Path) -> None:
    fast = clip_spec(height=112, width=112, colour="rgb", resizer="fast")
    for name in ("nasa_13013.mp4", "Arrest030_x264.mp4", "av1_video.mkv"):
        assert_same(probe, data / "clips" / name, fast)


@pytest.mark.parametrize("name", ["no.mp4", "empty", "text.mp4"])
def test_what_cannot_be_read_is_refused_in_pythons_words(
    probe: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no film\n" * 100)
    with pytest.raises(Exception, match=name) as caught:
        open_source(tmp_path / name, PORTABLE)
    words = ("48", "64", "rgb", "portable", "area", "0", "0")
    done = subprocess.run(
        [str(probe), "frames", str(tmp_path / name), *words], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"Error: {caught.value}\n"


# -- folders -----------------------------------------------------------------------------------


def test_a_folder_gives_the_same_frames(probe: Path, frame_folder: Path) -> None:
    assert_same(probe, frame_folder)


def test_an_image_that_does_not_decode_is_a_hole(probe: Path, tmp_path: Path) -> None:
    for i, image in enumerate(moving_blob(6)):
        picture = av.VideoFrame.from_ndarray(image[: 100 if i > 3 else 120], format="rgb24")
        picture.save(str(tmp_path / f"%02d_{i}.png"))
    (tmp_path / "%02d_2.png").write_bytes(b"no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert_same(probe, tmp_path)


def test_names_sort_as_in_python(probe: Path) -> None:
    rng = random.Random(3)
    names = sorted({"".join(rng.choices("aB_.01239", k=rng.randint(1, 7))) for _ in range(400)})
    ordered = sorted(names, key=lambda name: _natural(Path(name)) if name.strip(".") else [])
    names = [name for name in ordered if name.strip(".")]
    assert run(probe, "natural", stdin="\n".join(sorted(names)) + "\n") == names


# -- what cameras need ---------------------------------------------------------------------------


def test_credentials_are_hidden_as_in_python(probe: Path) -> None:
    rng = random.Random(5)
    parts = [
        "rtsp://", "http://", "admin", ":", "@", "/", "?", "&", "=", " ", '"', "'", "\\", "host",
        "password", "user-pw", "Key", "apiKey", "token", "(string)", "hun/ter2", "#", "[::1]", "x",
        ".", "-", "location", "!", "userId", "sid", "monkey", "camKey", "ß",
    ]  # fmt: skip
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 14))) for _ in range(20_000)]
    assert run(probe, "masked", stdin="\n".join(texts) + "\n") == [masked(t) for t in texts]


@pytest.mark.parametrize("options", ["bframes=3:b-pyramid=normal:ref=4", "cqm=jvt", "slices=4"])
@pytest.mark.parametrize("header", [True, False])
def test_lost_pictures_are_seen_as_in_python(probe: Path, options: str, header: bool) -> None:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 160, 120, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"preset": "veryfast", "threads": "1", "g": "20", "x264-params": options}
    if header:
        encoder.flags |= 1 << 22  # global header: no parameter sets in the packets
    packets = []
    for i, image in enumerate([*moving_blob(200), None]):
        frame = None if image is None else av.VideoFrame.from_ndarray(image, format="rgb24")
        if frame is not None:
            frame.pts, frame.time_base = i, encoder.time_base
        packets += [(bytes(p), p.is_keyframe) for p in encoder.encode(frame)]
    rng = random.Random(1)
    kept = [p for p in packets if rng.random() > 0.1]
    kept += [(rng.randbytes(40), False) for _ in range(100)]
    extra = bytes(encoder.extradata or b"") if header else b""
    numbers = H264Loss(extra or None)
    expected = [str(int(numbers.lost_before(data, key=key))) for data, key in kept]
    lines = "".join(f"{int(key)} {data.hex()}\n" for data, key in kept)
    assert run(probe, "h264", extra.hex(), stdin=lines) == expected
    assert "1" in expected


def script(seed: int) -> list[list[Any]]:
    """Return what happens to a camera with every fault that one has, at random."""
    rng = random.Random(seed)
    rate = rng.choice([8.0, 12.5, 25.0, 30.0, 50.0])
    lines: list[list[Any]] = [["connected", rng.choice([rate, 25.0, 0.0, 90000.0])]]
    pts, now, width, level = rng.uniform(0, 1e5), 100.0, 4, 0
    for _ in range(400):
        now += rng.choice([1 / rate, rng.uniform(0, 2 / rate)])
        pts += rng.choice([1 / rate] * 8 + [0.0, 2 / rate])
        if rng.random() < 0.02:
            lines += [["lost", rng.choice(["reconnected", "stalled"])], ["connected", rate]]
            now += rng.uniform(0, 5)
            pts = rng.choice([0.0, pts])
        if rng.random() < 0.01:
            pts += rng.choice([-3600.0, 3600.0, 3.0, -0.5])
        if rng.random() < 0.01:
            rate = rng.choice([12.5, 25.0, 50.0])
        if rng.random() < 0.01:
            now += 4.0  # decoding is slow
        width = rng.choice([4] * 60 + [6])
        level = level if rng.random() < 0.3 else rng.randrange(256)
        faults = [int(rng.random() < 0.02), int(rng.random() < 0.02), int(rng.random() < 0.05)]
        waited = rng.choice([None, 0.0, 0.5 / rate])
        lines.append(
            ["picture", rng.choice([pts] * 9 + [None]), now, waited, width, *faults, level]
        )
    for _ in range(40):  # frozen
        now, pts = now + 0.5, pts + 0.5
        lines.append(["picture", pts, now, None, width, 0, 0, 0, 7])
    return lines


@pytest.mark.parametrize("fps", [None, 25.0, 10.0])
def test_pictures_of_a_camera_become_the_same_frames(
    probe: Path, monkeypatch: pytest.MonkeyPatch, fps: float | None
) -> None:
    spec = clip_spec(height=2, width=2, colour="rgb", resizer="portable", fps=fps)
    monkeypatch.setattr(
        "vad_runtime.sources.live_frames.resized",
        lambda picture, spec: np.full(spec.frame_shape, picture.level, np.uint8),
    )
    for seed in range(25):
        lines = script(seed)
        expected = list(in_python(lines, spec))
        text = "".join("\t".join("-" if w is None else repr(w) if isinstance(w, float) else str(w)
                                 for w in line) + "\n" for line in lines)  # fmt: skip
        found = run(probe, "live", "-" if fps is None else str(fps), stdin=text)
        heads = [line for line in found if line.split("\t")[0] in ("frame", "say")]
        assert heads == expected


@dataclass
class Level:
    """A picture of one level of grey, as far as `FrameMaker` looks at it."""

    level: int
    width: int
    height: int = 2


def in_python(lines: list[list[Any]], spec: ClipSpec) -> Iterator[str]:
    said: list[str] = []
    settings = StreamSettings(source=Secret("rtsp://cam/1"))
    maker = FrameMaker(spec, settings, SourceStats(), pictures=False, say=said.append)
    for what, *words in lines:
        frame = None
        if what == "lost":
            maker.lost(words[0])
        elif what == "connected":
            maker.connected(words[0])
        else:
            pts, now, waited, width, lost, skipped, damaged, level = words
            picture: Any = Level(level, width)
            image = Image(
                picture=picture,
                pts_s=pts,
                damaged=bool(damaged),
                lost_packets=lost,
                skipped_packets=skipped,
            )
            frame = maker.frame(image, now, waited)
        yield from (f"say\t{line}" for line in said)
        said.clear()
        if frame is not None:
            index, time, is_damaged, crc, hole = row(frame)
            yield f"frame\t{index}\t{time:.17g}\t{int(is_damaged)}\t{crc}\t{hole}"


# -- real cameras --------------------------------------------------------------------------------


def test_a_camera_that_is_cut_goes_on_with_a_hole(probe: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", marked(moving_blob(200)))
    words = ["48", "64", "rgb", "portable", "area", "8", "60"]
    with Camera([clip]) as camera:
        with subprocess.Popen(
            [str(probe), "frames", camera.url, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if len(lines) == 20:
                    camera.tell("cut")
            said = process.stderr.read().splitlines()
        assert process.returncode == 0
    found = answer(lines)
    assert found.info[1:3] == ["live stream", "h264"]
    assert len(found.frames) == 60
    assert found.holes["reconnected"] == 1
    times = [frame[1] for frame in found.frames]
    assert times == sorted(set(times))
    assert any(": live: 160x120" in line for line in said)
    assert any(": lost: " in line for line in said)


def test_a_camera_that_is_not_there_is_refused_without_its_password(probe: Path) -> None:
    words = ["48", "64", "rgb", "portable", "area", "0", "0"]
    done = subprocess.run(
        [str(probe), "frames", "rtsp://admin:hunter2@127.0.0.1:1/x", *words],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: rtsp://***@127.0.0.1:1/x: connection refused. Check the camera and the network.\n"
    )


@pytest.mark.parametrize("format_", ["RGB", "BGR", "GRAY8", "NV12", "I420"])
def test_a_pipeline_gives_pictures_of_every_format(probe: Path, format_: str) -> None:
    linked = subprocess.run(["ldd", str(probe)], capture_output=True, text=True, check=True)
    if "libgstapp" not in linked.stdout:
        pytest.skip("this build is without GStreamer")
    grey = clip_spec(height=8, width=8, colour="gray", resizer="portable")
    caps = f"video/x-raw,format={format_},width=33,height=21,framerate=25/1"
    pipeline = f"gst: videotestsrc pattern=white num-buffers=200 ! {caps} ! appsink sync=false"
    found = read(probe, pipeline, grey, most=20)
    # The test source paints grey as it paints luma, where white is 235.
    level = 235 if format_ == "GRAY8" else 255
    white = f"{zlib.crc32(bytes([level]) * 64):08x}"
    assert [frame[3] for frame in found.frames] == [white] * 20
    assert found.frames[5][1] == pytest.approx(0.2)
    assert found.info[3:5] == ["33", "21"]


def test_a_pipeline_that_does_not_start_is_refused_in_one_line(probe: Path) -> None:
    linked = subprocess.run(["ldd", str(probe)], capture_output=True, text=True, check=True)
    if "libgstapp" not in linked.stdout:
        pytest.skip("this build is without GStreamer")
    pipeline = "gst: filesrc location=/no/such/film ! decodebin ! appsink"
    words = ("48", "64", "rgb", "portable", "area", "0", "0")
    done = subprocess.run(
        [str(probe), "frames", pipeline, *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {pipeline}: ")
    assert done.stderr.count("\n") == 1
