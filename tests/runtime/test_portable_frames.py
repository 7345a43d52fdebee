"""Frames of real decoders, through the portable resizer."""

import itertools
from pathlib import Path

import av
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from helpers import assert_one_line, clip_spec, moving_blob

from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.cli import cli
from vad_runtime.contracts import ClipSpec, SourceError
from vad_runtime.sources import open_source
from vad_runtime.sources.portable import PlanarImage, path_taken, resized_with_numpy
from vad_runtime.sources.resize import planes_from_frame, resized, resizer_line

Pixels = npt.NDArray[np.uint8]

BT709, BT2020_NCL, BT2020_CL, SMPTE170M = 1, 9, 10, 6
LIMITED, FULL = 1, 2


def spec_of(height: int, width: int, colour: str = "rgb") -> ClipSpec:
    return clip_spec(height=height, width=width, colour=colour, resizer="portable")


def frame_of(form: str, height: int = 31, width: int = 45) -> av.VideoFrame:
    """A frame of noise in a pixel format."""
    frame = av.VideoFrame(width, height, form)
    rng = np.random.default_rng(1)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    return frame


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "yuv444p", "gray", "rgb24", "bgr24"])
def test_planes_are_taken_as_they_are(form: str) -> None:
    frame = frame_of(form, 32, 46)
    image = planes_from_frame(frame)
    flat = np.concatenate([plane.ravel() for plane in image.planes])
    np.testing.assert_array_equal(flat, frame.to_ndarray().ravel())
    for plane, ours in zip(frame.planes, image.planes, strict=True):
        assert np.shares_memory(np.frombuffer(plane, np.uint8), ours)


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        ("yuv420p", [(31, 45), (16, 23), (16, 23)]),
        ("nv12", [(31, 45), (16, 46)]),
        ("yuv410p", [(31, 45), (8, 12), (8, 12)]),
        ("yuv440p", [(31, 45), (16, 45), (16, 45)]),
        ("rgb24", [(31, 135)]),
    ],
)
def test_chroma_of_an_odd_size_is_rounded_up(form: str, shapes: list[tuple[int, int]]) -> None:
    assert [plane.shape for plane in planes_from_frame(frame_of(form)).planes] == shapes


@pytest.mark.parametrize("form", ["yuv420p10le", "pal8", "rgba", "yuva420p", "gray16le", "gbrp"])
def test_any_other_format_becomes_rgb_first(form: str) -> None:
    frame = frame_of(form)
    image = planes_from_frame(frame)
    assert image.format == "rgb"
    want = frame.to_ndarray(format="rgb24", threads=1).reshape(31, -1)
    np.testing.assert_array_equal(image.planes[0], want)


@pytest.mark.parametrize(
    ("tag", "matrix"),
    [
        *((BT709, "bt709"), (BT2020_NCL, "bt2020"), (BT2020_CL, "bt2020"), (SMPTE170M, "bt601")),
        *((other, "bt601") for other in (0, 2, 4, 5, 7, 8)),
    ],
)
def test_the_matrix_is_the_one_that_the_stream_names(tag: int, matrix: str) -> None:
    frame = frame_of("yuv420p")
    frame.colorspace = tag
    assert planes_from_frame(frame).matrix == matrix


@pytest.mark.parametrize(
    ("form", "tag", "full"),
    [
        ("yuv420p", 0, False),
        ("yuv420p", LIMITED, False),
        ("yuv420p", FULL, True),
        ("yuvj420p", 0, True),
        ("yuvj420p", LIMITED, True),
        ("nv12", 0, False),
        ("nv12", FULL, True),
        ("gray", 0, True),
        ("gray", FULL, True),
        ("gray", LIMITED, False),
    ],
)
def test_the_range_is_the_one_that_the_stream_names(form: str, tag: int, full: bool) -> None:
    frame = frame_of(form)
    frame.color_range = tag
    assert planes_from_frame(frame).full_range is full


@pytest.mark.parametrize("size", [(4, 65536), (65536, 4)])
def test_a_frame_that_is_too_large_is_refused_in_one_line(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(SourceError) as caught:
        resized(av.VideoFrame(width, height, "gray"), spec_of(8, 8))
    assert_one_line(caught.value, f"{width} x {height}", "65535", "--resizer fast")


def test_a_frame_that_is_stored_bottom_up_is_turned(tmp_path: Path) -> None:
    # Of a BMP the decoder keeps the file's own order, with lines of a negative length.
    image = next(iter(moving_blob(1)))
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr24")
    path = tmp_path / "1.bmp"
    with av.open(str(path), "w", format="image2") as out:
        stream = out.add_stream("bmp", rate=1)
        stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "bgr24"
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with av.open(str(path)) as container:
        read = next(container.decode(video=0))
        pixels = resized(read, spec_of(*image.shape[:2]))
    np.testing.assert_array_equal(pixels, image)


def test_the_planes_outlive_the_frame() -> None:
    frame = frame_of("yuv420p")
    want = frame.to_ndarray(format="rgb24", threads=1)
    image = planes_from_frame(frame)
    before = resized_with_numpy(image, spec_of(31, 45))
    del frame
    others = [frame_of("yuv444p") for _ in range(8)]  # would take freed memory
    np.testing.assert_array_equal(resized_with_numpy(image, spec_of(31, 45)), before)
    assert others
    assert want.shape == before.shape


@pytest.mark.parametrize("colour", ["rgb", "gray"])
def test_a_film_goes_through_the_rule_frame_by_frame(tiny_video: Path, colour: str) -> None:
    spec = spec_of(48, 64, colour)
    with av.open(str(tiny_video)) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(video=0)]
    frames = list(open_source(tiny_video, spec).frames())
    assert len(frames) == len(decoded) == 60
    for frame, planes in zip(frames, decoded, strict=True):
        y, rest = planes[:120], planes[120:].reshape(2, 60, 80)
        image = PlanarImage(format="yuv", planes=(y, rest[0], rest[1]))
        np.testing.assert_array_equal(frame.pixels, resized_with_numpy(image, spec))


def test_a_report_names_the_resizer_and_what_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_NATIVE", "0")
    assert resizer_line(spec_of(8, 8)) == "portable: numpy (VAD_NATIVE=0)"
    assert resizer_line(clip_spec(resizer="fast")) == "fast"


def test_scores_are_the_same_with_and_without_the_compiled_module(
    bundle_copy: Path, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_copy)
    clip = msgspec.structs.replace(bundle.manifest.clip, resizer="portable")
    rewrite_manifest(bundle, msgspec.structs.replace(bundle.manifest, clip=clip))
    tables, lines = [], []
    for switch in ("0", "1"):
        monkeypatch.setenv("VAD_NATIVE", switch)
        out = tmp_path / switch
        arguments = ["score", str(bundle_copy), str(tiny_video), "-o", str(out)]
        run = CliRunner().invoke(cli, [*arguments, "--no-overlay", "--no-plot"])
        assert run.exit_code == 0, run.output
        tables.append((out / "scores.csv").read_bytes())
        lines.append(msgspec.json.decode((out / "report.json").read_bytes())["resizer"])
    assert tables[0] == tables[1]
    monkeypatch.setenv("VAD_NATIVE", "1")
    assert lines == ["portable: numpy (VAD_NATIVE=0)", f"portable: {path_taken()}"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["vtest.avi", "car-detection.mp4", "Arrest030_x264.mp4"])
def test_the_three_resizers_see_the_same_picture(data: Path, name: str) -> None:
    seen = {
        (resizer, colour): first_frames(data / "clips" / name, resizer, colour)
        for resizer in ("exact", "fast", "portable")
        for colour in ("rgb", "gray")
    }
    # `exact` rounds its colours down, which is most of what is left.
    to_exact = psnr(seen["portable", "rgb"], seen["exact", "rgb"])
    assert to_exact > 42
    assert to_exact > psnr(seen["fast", "rgb"], seen["exact", "rgb"])
    assert psnr(seen["portable", "gray"], seen["exact", "gray"]) > 42
    assert psnr(seen["portable", "gray"], seen["fast", "gray"]) > 50


def first_frames(path: Path, resizer: str, colour: str) -> Pixels:
    spec = clip_spec(height=112, width=112, colour=colour, resizer=resizer)
    frames = open_source(path, spec).frames()
    return np.stack([frame.pixels for frame in itertools.islice(frames, 10)])


@pytest.mark.data
def test_a_grey_jpeg_at_its_own_size_is_what_the_decoder_gave(data: Path) -> None:
    folder = data / "ped2" / "testing" / "frames" / "01"
    first = next(iter(open_source(folder, spec_of(240, 360, "gray")).frames()))
    with av.open(str(sorted(folder.glob("*.jpg"))[0])) as container:
        want = next(container.decode(video=0)).to_ndarray()
    np.testing.assert_array_equal(first.pixels[..., 0], want)
