"""The compiled resizer takes what a decoder gives, and refuses the rest in one line."""

import threading

import numpy as np
import numpy.typing as npt
import pytest

from vad_runtime.native import native_module

if native_module() is None:
    pytest.skip(
        "vad_runtime._native is not built; scripts/install builds it with a C++ compiler",
        allow_module_level=True,
    )

from vad_runtime._native import Resizer, usable_simd

Pixels = npt.NDArray[np.uint8]


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width), np.uint8)


def gray_result(plane: Pixels, height: int = 4, width: int = 6) -> Pixels:
    out = np.empty((height, width, 1), np.uint8)
    Resizer(height, width, "gray", "area")("gray", [plane], "bt601", True, out)
    return out


def test_each_usable_instruction_set_says_its_name_and_gives_the_same_bytes() -> None:
    assert usable_simd()[-1] == "baseline"
    assert Resizer(4, 6, "gray", "area").simd == usable_simd()[0]
    planes = [noise(50, 70), noise(25, 35), noise(25, 35)]
    results = []
    for simd in usable_simd():
        resizer = Resizer(4, 6, "rgb", "area", simd)
        assert resizer.simd == simd
        results.append(np.empty((4, 6, 3), np.uint8))
        resizer("yuv", planes, "bt709", False, results[-1])
    assert all(np.array_equal(result, results[0]) for result in results)


def test_the_environment_leaves_out_better_instruction_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VAD_SIMD", "baseline")
    assert usable_simd() == ["baseline"]
    assert Resizer(4, 6, "gray", "area").simd == "baseline"


def test_rows_may_stand_any_distance_apart_and_may_be_read_only() -> None:
    plane = noise(20, 31)
    padded = np.zeros((20, 64), np.uint8)
    padded[:, :31] = plane
    bottom_up = plane[::-1].copy()[::-1]
    frozen = plane.copy()
    frozen.flags.writeable = False
    for form in (padded[:, :31], bottom_up, frozen):
        assert np.array_equal(gray_result(form), gray_result(plane))
    every_second = np.repeat(plane, 2, axis=0)[::2]
    assert np.array_equal(gray_result(every_second), gray_result(plane))


def test_a_plane_of_one_row_may_have_any_stride() -> None:
    plane = noise(1, 12)
    strange = np.lib.stride_tricks.as_strided(plane, (1, 12), (1, 1))
    assert np.array_equal(gray_result(strange, 1), gray_result(plane, 1))


def test_one_resizer_serves_several_threads() -> None:
    resizer = Resizer(30, 40, "gray", "area")
    planes = [noise(90 + i, 160 - i) for i in range(4)]
    wanted = [gray_result(plane, 30, 40) for plane in planes]
    wrong = []

    def work(index: int) -> None:
        out = np.empty((30, 40, 1), np.uint8)
        for _ in range(200):
            resizer("gray", [planes[index]], "bt601", True, out)
            if not np.array_equal(out, wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 6, "gray", "area"), "height and width must be 1 to 65535, not 0"),
        ((4, -1, "gray", "area"), "height and width must be 1 to 65535, not -1"),
        ((4, 1 << 40, "gray", "area"), "must be 1 to 65535, not 1099511627776"),
        ((4, 6, "grey", "area"), "colour must be one of gray, rgb, not 'grey'"),
        ((4, 6, "rgb", "cubic"), "interpolation must be one of area, bilinear, not 'cubic'"),
        ((4, 6, "rgb", "area", "mmx"), "simd must be one of .*baseline, not 'mmx'"),
    ],
)
def test_a_resizer_that_cannot_be_is_refused(
    arguments: tuple[int, int, str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Resizer(*arguments)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    ("form", "planes", "matrix", "message"),
    [
        ("yuv9", [noise(8, 8)], "bt601", "format must be one of gray, rgb, .*, not 'yuv9'"),
        ("gray", [noise(8, 8)], "bt470", "matrix must be one of bt601, .*, not 'bt470'"),
        ("yuv", [noise(8, 8)], "bt601", "yuv has 3 planes, not 1"),
        ("gray", [noise(8, 8)] * 2, "bt601", "gray has 1 plane, not 2"),
        ("rgb", [noise(8, 8)], "bt601", "plane 0 must have rows of a multiple of 3 bytes, not 8"),
        ("nv12", [noise(8, 8), noise(4, 7)], "bt601", "plane 1 .* multiple of 2 bytes, not 7"),
        ("gray", [noise(0, 8)], "bt601", "plane 0 is empty"),
        ("gray", [noise(8, 0)], "bt601", "plane 0 is empty"),
        ("gray", [noise(8, 16)[:, ::2]], "bt601", "plane 0 must have the bytes of a row side by"),
        ("gray", [np.zeros((1, 65536), np.uint8)], "bt601", "width of a plane must be at most"),
    ],
)
def test_planes_that_make_no_picture_are_refused(
    form: str, planes: list[Pixels], matrix: str, message: str
) -> None:
    out = np.empty((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        Resizer(4, 6, "rgb", "area")(form, planes, matrix, False, out)  # type: ignore[arg-type]


def test_overlapping_rows_are_refused() -> None:
    rows = np.lib.stride_tricks.as_strided(noise(8, 8), (8, 8), (4, 1))
    with pytest.raises(ValueError, match="plane 0 has rows of 8 bytes and a stride of 4"):
        gray_result(rows)


def test_an_output_of_another_shape_type_or_layout_is_refused() -> None:
    resizer = Resizer(4, 6, "gray", "area")
    frozen = np.empty((4, 6, 1), np.uint8)
    frozen.flags.writeable = False
    for out in (np.empty((4, 6, 3), np.uint8), np.empty((6, 4, 1), np.uint8)):
        with pytest.raises(ValueError, match=r"out must have the shape \(4, 6, 1\)"):
            resizer("gray", [noise(8, 8)], "bt601", True, out)
    for wrong in (
        frozen,
        np.empty((4, 6), np.uint8),
        np.empty((4, 6, 1), np.int8),
        np.empty((4, 12, 1), np.uint8)[:, ::2],
    ):
        with pytest.raises(TypeError):
            resizer("gray", [noise(8, 8)], "bt601", True, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        resizer("gray", [noise(8, 8).astype(np.float32)], "bt601", True, frozen)  # type: ignore[list-item]
