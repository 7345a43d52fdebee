"""The portable resizer gives what its rule says, to the last bit, in every form that it has."""

import itertools
import math
import subprocess
import sys
import types
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import clip_spec

import vad_runtime
from vad_runtime.contracts import ClipSpec
from vad_runtime.native import native_module
from vad_runtime.ring import FrameRing
from vad_runtime.sources import portable
from vad_runtime.sources.portable import (
    SAMPLES,
    Format,
    Matrix,
    PlanarImage,
    path_taken,
    resized_portably,
    resized_with_numpy,
)

Pixels = npt.NDArray[np.uint8]

MATRICES: dict[Matrix, tuple[Fraction, Fraction]] = {
    "bt601": (Fraction("0.299"), Fraction("0.114")),
    "bt709": (Fraction("0.2126"), Fraction("0.0722")),
    "bt2020": (Fraction("0.2627"), Fraction("0.0593")),
}
SIZES = [1, 2, 3, 4, 5, 7, 8, 12]

needs_native = pytest.mark.skipif(
    native_module() is None,
    reason="vad_runtime._native is not built; scripts/install builds it with a C++ compiler",
)


def spec_of(height: int, width: int, **changes: str) -> ClipSpec:
    return clip_spec(height=height, width=width, resizer="portable", **changes)


def random_image(
    rng: np.random.Generator,
    form: Format,
    height: int,
    width: int,
    *,
    chroma: tuple[int, int] = (2, 2),
    matrix: Matrix = "bt601",
    full_range: bool = False,
) -> PlanarImage:
    """A picture of noise; chroma planes are the given times smaller, rounded up."""
    less = (-(-height // chroma[0]), -(-width // chroma[1]))
    sizes = [(height, width), less, less]
    planes = tuple(
        rng.integers(0, 256, (rows, columns * count), np.uint8)
        for (rows, columns), count in zip(sizes, SAMPLES[form], strict=False)
    )
    return PlanarImage(format=form, planes=planes, matrix=matrix, full_range=full_range)


# -- the rule, once more, in fractions ---------------------------------------------------------


def rounded(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def shares_of_area(size: int, count: int) -> list[dict[int, Fraction]]:
    """For each output what each sample adds to it, in samples."""
    shares = []
    for i in range(count):
        start, end = Fraction(i * size, count), Fraction((i + 1) * size, count)
        shares.append(
            {
                k: Fraction(min(end, k + 1) - max(start, k)) * count / size
                for k in range(size)
                if k + 1 > start and k < end
            }
        )
    return shares


def shares_of_centres(size: int, count: int) -> list[dict[int, Fraction]]:
    shares = []
    for i in range(count):
        at = (i + Fraction(1, 2)) * size / count - Fraction(1, 2)
        at = min(max(at, Fraction(0)), Fraction(size - 1))
        left = math.floor(at)
        shares.append({left: 1 - (at - left)})
        if at != left:
            shares[-1][left + 1] = at - left
    return shares


def brute_plane(plane: Pixels, spec: ClipSpec) -> Pixels:
    rows, columns = plane.shape
    shrinks = spec.height <= rows and spec.width <= columns
    shares = shares_of_area if spec.interpolation == "area" and shrinks else shares_of_centres
    down, across = shares(rows, spec.height), shares(columns, spec.width)
    return np.array(
        [
            [
                rounded(
                    sum(
                        (
                            int(plane[y, x]) * a * b
                            for (y, a), (x, b) in itertools.product(v.items(), h.items())
                        ),
                        Fraction(0),
                    )
                )
                for h in across
            ]
            for v in down
        ],
        np.uint8,
    )


def brute_colour(matrix: Matrix, full: bool) -> list[int]:
    """Coefficients in 1/65536: luma; Cr of red; Cb, Cr of green, taken away; Cb of blue."""
    red, blue = MATRICES[matrix]
    green = 1 - red - blue
    luma = Fraction(1) if full else Fraction(255, 219)
    chroma = Fraction(1) if full else Fraction(255, 224)
    return [
        rounded(65536 * value)
        for value in (
            luma,
            2 * (1 - red) * chroma,
            2 * (1 - blue) * blue / green * chroma,
            2 * (1 - red) * red / green * chroma,
            2 * (1 - blue) * chroma,
        )
    ]


def byte(value: int) -> int:
    return min(max((value + 32768) // 65536, 0), 255)


def brute_pixel(image: PlanarImage, colour: str, values: list[int]) -> list[int]:
    luma, cr_red, cb_green, cr_green, cb_blue = brute_colour(image.matrix, image.full_range)
    if image.format in ("rgb", "bgr"):
        red, green, blue = values if image.format == "rgb" else values[::-1]
        gray = byte(19595 * red + 38470 * green + 7471 * blue)
        return [gray] if colour == "gray" else [red, green, blue]
    y = luma * (values[0] - (0 if image.full_range else 16))
    if colour == "gray" or image.format == "gray":
        return [byte(y)] * (1 if colour == "gray" else 3)
    u, v = values[1] - 128, values[2] - 128
    return [byte(y + cr_red * v), byte(y - cb_green * u - cr_green * v), byte(y + cb_blue * u)]


def brute(image: PlanarImage, spec: ClipSpec) -> Pixels:
    """The whole rule, sample by sample."""
    small = [
        brute_plane(plane[:, i::count], spec)
        for plane, count in zip(image.planes, SAMPLES[image.format], strict=True)
        for i in range(count)
    ]
    return np.array(
        [
            [
                brute_pixel(image, spec.colour, [int(plane[y, x]) for plane in small])
                for x in range(spec.width)
            ]
            for y in range(spec.height)
        ],
        np.uint8,
    )


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_every_small_size_is_resized_exactly_and_rounded_half_up(interpolation: str) -> None:
    rng = np.random.default_rng(3)
    for rows, columns, height, width in itertools.product(SIZES, SIZES, [1, 3, 4, 7], [1, 2, 5, 8]):
        spec = spec_of(height, width, colour="gray", interpolation=interpolation)
        image = random_image(rng, "gray", rows, columns, full_range=True)
        # Two grey levels next to each other give a lot of halves.
        halves = PlanarImage(format="gray", planes=(image.planes[0] % 2 + 7,), full_range=True)
        for one in (image, halves):
            np.testing.assert_array_equal(resized_with_numpy(one, spec), brute(one, spec))


@pytest.mark.parametrize("form", SAMPLES)
@pytest.mark.parametrize("colour", ["gray", "rgb"])
@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_every_format_matrix_and_range_follows_the_rule(
    form: Format, colour: str, interpolation: str
) -> None:
    rng = np.random.default_rng(4)
    for matrix, full, chroma in itertools.product(MATRICES, [True, False], [(2, 2), (1, 2)]):
        for rows, columns in ((9, 11), (6, 8), (3, 3)):
            image = random_image(
                rng, form, rows, columns, chroma=chroma, matrix=matrix, full_range=full
            )
            spec = spec_of(4, 5, colour=colour, interpolation=interpolation)
            np.testing.assert_array_equal(resized_with_numpy(image, spec), brute(image, spec))


def test_the_table_of_colours_is_that_of_the_standards() -> None:
    for (matrix, full), found in portable._COLOUR.items():
        assert list(found) == brute_colour(matrix, full)
    assert set(portable._COLOUR) == set(itertools.product(MATRICES, [True, False]))


@pytest.mark.parametrize("full", [True, False])
def test_every_colour_lies_within_one_level_of_the_standard(full: bool) -> None:
    levels = np.arange(0, 256, 5, np.uint8)
    y, u, v = np.meshgrid(levels, levels, levels, indexing="ij")
    planes = tuple(plane.reshape(52, -1) for plane in (y, u, v))
    spec = spec_of(*planes[0].shape, colour="rgb")
    for matrix, (red, blue) in MATRICES.items():
        kr, kb = float(red), float(blue)
        image = PlanarImage(format="yuv", planes=planes, matrix=matrix, full_range=full)
        luma = (planes[0] - (0.0 if full else 16.0)) * (1 if full else 255 / 219)
        cb, cr = ((plane - 128.0) * (1 if full else 255 / 224) for plane in planes[1:])
        r, b = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
        g = (luma - kr * r - kb * b) / (1 - kr - kb)
        want = np.clip(np.stack([r, g, b], axis=-1), 0, 255)
        assert np.abs(resized_with_numpy(image, spec) - want).max() < 0.51


# -- what follows from the rule ----------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_plain_surface_stays_as_it_is(interpolation: str, level: int) -> None:
    plane = np.full((431, 777), level, np.uint8)
    image = PlanarImage(format="gray", planes=(plane,), full_range=True)
    for height, width in ((64, 64), (431, 777), (500, 20), (1, 1)):
        spec = spec_of(height, width, colour="gray", interpolation=interpolation)
        assert np.unique(resized_with_numpy(image, spec)).tolist() == [level]


def test_a_picture_of_the_models_size_keeps_its_values() -> None:
    image = random_image(np.random.default_rng(5), "rgb", 30, 40)
    for interpolation in ("area", "bilinear"):
        small = resized_with_numpy(
            image, spec_of(30, 40, colour="rgb", interpolation=interpolation)
        )
        np.testing.assert_array_equal(small, image.planes[0].reshape(30, 40, 3))


@pytest.mark.parametrize("size", [(65535, 3), (3, 65535), (2160, 4093)])
def test_sums_of_the_largest_pictures_do_not_overflow(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    plane = rng.integers(250, 256, size, np.uint8)
    image = PlanarImage(format="gray", planes=(plane,), full_range=True)
    total = int(plane.sum(dtype=np.uint64))
    mean = resized_with_numpy(image, spec_of(1, 1, colour="gray"))
    assert mean.item() == (2 * total + plane.size) // (2 * plane.size)
    odd = resized_with_numpy(image, spec_of(2, 2, colour="gray"))
    assert odd.min() >= 250


def test_bytes_beside_a_row_do_not_count() -> None:
    rng = np.random.default_rng(7)
    image = random_image(rng, "yuv", 33, 47)
    spec = spec_of(16, 16, colour="rgb")
    want = resized_with_numpy(image, spec)
    for step in (1, -1):  # also stored bottom up
        padded = []
        for plane in image.planes:
            memory = rng.integers(0, 256, (len(plane), plane.shape[1] + 13), np.uint8)
            memory[::step, : plane.shape[1]] = plane
            padded.append(memory[::step, : plane.shape[1]])
        other = PlanarImage(format="yuv", planes=tuple(padded))
        np.testing.assert_array_equal(resized_with_numpy(other, spec), want)
        np.testing.assert_array_equal(resized_portably(other, spec), want)


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        ("gray", [(4, 4), (4, 4)]),
        ("yuv", [(4, 4)]),
        ("rgb", [(4, 4)]),
        ("nv12", [(4, 4), (2, 3)]),
        ("gray", [(0, 4)]),
        ("gray", [(4, 65536)]),
    ],
)
def test_planes_that_are_none_are_refused(form: Format, shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="plane"):
        PlanarImage(format=form, planes=tuple(np.zeros(shape, np.uint8) for shape in shapes))


def test_planes_whose_bytes_do_not_lie_side_by_side_are_refused() -> None:
    wide = np.zeros((4, 8), np.uint8)
    for plane in (wide[:, ::2], wide[:, ::-1]):
        with pytest.raises(ValueError, match="side by side"):
            PlanarImage(format="gray", planes=(plane,))
    assert PlanarImage(format="gray", planes=(wide[::-2, :5],)).planes[0].shape == (2, 5)
    assert PlanarImage(format="gray", planes=(wide[:, ::8],)).planes[0].shape == (4, 1)


class _Legacy(np.ndarray[Any, Any]):
    """An array as of NumPy 1: a single number never makes the type of an array wider."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [int(one) if isinstance(one, np.generic) else np.asarray(one) for one in inputs]
        if "out" in options:
            options["out"] = tuple(np.asarray(one) for one in options["out"])
        result = getattr(ufunc, method)(*plain, **options)
        return inputs[0] if "out" in options else result.view(_Legacy)


def test_sums_are_wide_enough_by_the_rules_of_numpy_1_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = random_image(np.random.default_rng(8), "gray", 1079, 64)
    spec = spec_of(112, 48)
    want = resized_with_numpy(image, spec)
    zeros = np.zeros
    monkeypatch.setattr(np, "zeros", lambda *given: zeros(*given).view(_Legacy))
    np.testing.assert_array_equal(np.asarray(resized_with_numpy(image, spec)), want)


# -- which form runs ---------------------------------------------------------------------------


@needs_native
def test_the_compiled_form_is_taken_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAD_NATIVE", raising=False)
    from vad_runtime._native import usable_simd

    assert path_taken() == f"native {usable_simd()[0]}"
    monkeypatch.setattr(portable, "resized_with_numpy", None)
    image = random_image(np.random.default_rng(8), "yuv", 40, 60)
    assert resized_portably(image, spec_of(8, 8, colour="rgb")).shape == (8, 8, 3)


@needs_native
def test_compiled_and_numpy_agree_for_every_instruction_set() -> None:
    from vad_runtime._native import Resizer, usable_simd

    rng = np.random.default_rng(9)
    for simd in usable_simd():
        for _ in range(150):
            form: Format = rng.choice(list(SAMPLES))
            image = random_image(
                rng,
                form,
                *rng.integers(1, 200, 2).tolist(),
                chroma=tuple(rng.integers(1, 5, 2).tolist()),
                matrix=rng.choice(list(MATRICES)),
                full_range=bool(rng.integers(2)),
            )
            if form == "nv12":
                image = random_image(rng, form, *image.planes[0].shape)
            spec = spec_of(
                *rng.integers(1, 80, 2).tolist(),
                colour=rng.choice(["gray", "rgb"]),
                interpolation=rng.choice(["area", "bilinear"]),
            )
            out = np.empty(spec.frame_shape, np.uint8)
            resizer = Resizer(spec.height, spec.width, spec.colour, spec.interpolation, simd)
            resizer(form, list(image.planes), image.matrix, image.full_range, out)
            np.testing.assert_array_equal(out, resized_with_numpy(image, spec), f"{simd} {spec}")


def test_vad_native_0_takes_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAD_NATIVE", "0")
    assert path_taken() == "numpy (VAD_NATIVE=0)"
    image = random_image(np.random.default_rng(8), "nv12", 40, 60)
    spec = spec_of(8, 8, colour="rgb")
    np.testing.assert_array_equal(resized_portably(image, spec), resized_with_numpy(image, spec))


def test_a_module_that_was_compiled_before_the_resizer_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VAD_NATIVE", raising=False)
    old = types.ModuleType("vad_runtime._native")
    old.MirroredBuffer = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vad_runtime._native", old)
    monkeypatch.setattr(vad_runtime, "_native", old, raising=False)
    assert path_taken() == "numpy (the compiled module is too old: reinstall vad-edge)"
    image = random_image(np.random.default_rng(8), "nv12", 40, 60)
    spec = spec_of(8, 8, colour="rgb")
    np.testing.assert_array_equal(resized_portably(image, spec), resized_with_numpy(image, spec))
    assert not FrameRing(2, (32, 32, 1)).native


def test_without_the_compiled_module_numpy_does_it_and_says_so() -> None:
    # What a wheel without a compiler is: the package without that one file.
    code = (
        "import os, sys; sys.modules['vad_runtime._native'] = None\n"
        "os.environ.pop('VAD_NATIVE', None)\n"
        "from vad_runtime.sources.portable import *\n"
        "from vad_runtime.contracts import ClipSpec\n"
        "import numpy as np\n"
        "image = PlanarImage(format='gray', planes=(np.full((9, 9), 50, np.uint8),))\n"
        "spec = ClipSpec(frames=1, height=3, width=3, resizer='portable')\n"
        "print(path_taken(), resized_portably(image, spec).max())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "numpy (no compiled module) 40", run.stderr
