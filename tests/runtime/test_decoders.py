"""Which decoder is taken, and that the choice is never silent where it was a wish."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers import assert_one_line, moving_blob, write_video

from vad_runtime.contracts.errors import BackendError
from vad_runtime.sources import decoders
from vad_runtime.sources.address import Address
from vad_runtime.sources.decoders import hardware
from vad_runtime.sources.pyav_connection import PyavConnection, _Damage


def stream(path: Path) -> Address:
    """Return a film as if it came over the network."""
    return Address(kind="stream", text=f"file:{path}")


def test_software_is_software_everywhere() -> None:
    assert hardware("software") is None


def test_a_machine_without_a_driver_decodes_in_software_and_refuses_a_wish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoders, "driver_installed", lambda: False)
    assert hardware("auto") is None
    with pytest.raises(BackendError) as caught:
        hardware("nvdec")
    assert_one_line(caught.value, "no NVIDIA driver", "decoder auto")


def test_a_pyav_without_cuda_decodes_in_software_and_refuses_a_wish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoders, "driver_installed", lambda: True)
    monkeypatch.setattr(av.codec.hwaccel, "hwdevices_available", lambda: ["vaapi"])
    assert hardware("auto") is None
    with pytest.raises(BackendError) as caught:
        hardware("nvdec")
    assert_one_line(caught.value, "without CUDA")


def test_a_decoder_that_does_not_start_is_replaced_under_auto_and_named_under_a_wish(
    tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_(*arguments: Any, hwaccel: object = None, **options: Any) -> Any:
        if hwaccel is not None:
            raise RuntimeError("no CUDA device")
        return really_open(*arguments, **options)

    really_open = av.open
    monkeypatch.setattr(decoders, "_why_not", lambda: None)
    monkeypatch.setattr(av, "open", open_)
    connection = PyavConnection(stream(tiny_video))
    assert connection.decoder == "software h264"
    connection.close()
    with pytest.raises(BackendError) as caught:
        PyavConnection(stream(tiny_video), decoder="nvdec")
    assert_one_line(caught.value, "does not start", "decoder auto")


def test_a_real_attempt_without_a_gpu_ends_in_software(
    tiny_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decoders.driver_installed():
        pytest.skip("there is a driver here")
    monkeypatch.setattr(decoders, "_why_not", lambda: None)
    connection = PyavConnection(stream(tiny_video))
    assert connection.decoder == "software h264"
    assert sum(1 for _ in connection.images()) == 60
    with pytest.raises(BackendError) as caught:
        PyavConnection(stream(tiny_video), decoder="nvdec")
    assert_one_line(caught.value, "does not start", "decoder auto")


def test_nvdec_gives_the_pixels_of_software(tiny_video: Path) -> None:
    if decoders._why_not() is not None:
        pytest.skip("no NVIDIA decoder here")
    pictures = []
    for decoder in ("nvdec", "software"):
        connection = PyavConnection(stream(tiny_video), decoder=decoder)  # type: ignore[arg-type]
        assert connection.decoder == f"{decoder} h264"
        pictures.append([i.picture.to_ndarray(format="gray") for i in connection.images()])
    assert len(pictures[0]) == 60
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(one, other)


class Picture:
    """What `_Damage` looks at."""

    time_base = 1

    def __init__(self, pts: int, *, key: bool = False, corrupt: bool = False) -> None:
        self.pts, self.key_frame, self.is_corrupt = pts, key, corrupt


def test_damage_ends_with_a_key_frame_from_behind_it_or_after_some_time() -> None:
    damage = _Damage()
    pictures: list[Any] = [Picture(i, key=i in (2, 6), corrupt=i == 8) for i in range(10)]
    assert not damage.holds(pictures[0], 0.0)
    damage.start(4.0, 0.0)
    # Key frame 2 comes out of the decoder after packet 4 was lost: it mends nothing.
    assert [damage.holds(p, 1.0) for p in pictures[1:8]] == [True] * 5 + [False] * 2
    assert damage.holds(pictures[8], 2.0)
    assert damage.holds(pictures[9], 11.9)
    assert not damage.holds(pictures[9], 12.1)  # intra refresh: no key frame ever comes


def test_a_damaged_key_frame_mends_nothing() -> None:
    damage = _Damage()
    pictures: list[Any] = [Picture(i, key=i % 2 == 0) for i in range(5)]
    damage.start(2.0, 0.0, keys_too=True)
    assert [damage.holds(p, 1.0) for p in pictures[2:]] == [True, True, False]


def test_what_a_decoder_still_holds_when_packets_are_skipped_is_not_scored(tmp_path: Path) -> None:
    """B-frames: two old pictures come out after the skip, and the hole is around each of them."""
    film = write_video(tmp_path / "film.ts", moving_blob(60))
    connection = PyavConnection(stream(film))
    images = connection.images()
    before = [next(images) for _ in range(20)]
    connection.skip_to_key()
    after = list(images)
    first = next(i for i, image in enumerate(after) if image.key)
    assert first > 0, "nothing was left in the decoder: this test tests nothing"
    assert after[0].skipped_packets > 0
    assert all(image.damaged for image in after[:first])
    assert not any(image.damaged for image in before + after[first:])
    connection.close()


def test_a_stream_that_misses_a_part_of_a_picture_is_damaged_up_to_the_next_key_frame(
    tmp_path: Path,
) -> None:
    """MPEG-TS over UDP: the decoder paints over what is missing, and says nothing."""
    rng = np.random.default_rng(0)  # noise: pictures of many packets
    noise = [rng.integers(0, 255, (120, 160, 3), np.uint8) for _ in range(40)]
    whole = write_video(tmp_path / "film.ts", noise).read_bytes()
    packets = [whole[i : i + 188] for i in range(0, len(whole), 188)]
    # PID 256, and not the start of a picture: a large one lacks its middle.
    film = [i for i, one in enumerate(packets) if (one[1] & 0x5F, one[2]) == (1, 0)]
    lost = film[len(film) * 34 // 100]  # elsewhere the decoder mostly notices it by itself
    (tmp_path / "cut.ts").write_bytes(b"".join(packets[:lost] + packets[lost + 3 :]))
    images = list(PyavConnection(stream(tmp_path / "cut.ts")).images())
    damaged = [i for i, image in enumerate(images) if image.damaged]
    assert damaged
    assert damaged == list(range(damaged[0], damaged[-1] + 1))
    assert images[damaged[-1] + 1].key
