"""The native and the pure ring give the same frames, without a copy and without a leak."""

import gc
import os
import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vad_runtime import ring as ring_module
from vad_runtime.contracts.errors import BackendError
from vad_runtime.ring import FrameRing

NATIVE_IS_BUILT = ring_module._mirrored_buffer_class() is not None
NATIVE_IS_REQUIRED = os.environ.get("VAD_REQUIRE_NATIVE") == "1"

needs_native = pytest.mark.skipif(
    not NATIVE_IS_BUILT and not NATIVE_IS_REQUIRED,
    reason="vad_runtime._native is not built; scripts/install builds it with a C++ compiler",
)
both_forms = pytest.mark.parametrize(
    "native", [pytest.param(False, id="pure"), pytest.param(True, id="native", marks=needs_native)]
)


def frame(number: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


@both_forms
@pytest.mark.parametrize("length", [1, 2, 5, 16])
@pytest.mark.parametrize("shape", [(8, 16, 3), (7, 5, 3), (1, 1, 1), (64, 64, 1), (32, 17, 3)])
def test_the_last_frames_are_exactly_those_pushed(
    native: bool, length: int, shape: tuple[int, int, int]
) -> None:
    ring = FrameRing(length, shape, native=native)
    assert ring.native is native
    frames = [frame(i, shape) for i in range(3 * length + 7)]
    for i, pixels in enumerate(frames):
        ring.push(pixels)
        assert len(ring) == min(i + 1, length)
        if i + 1 >= length:
            np.testing.assert_array_equal(ring.latest(), frames[i + 1 - length : i + 1])


@needs_native
def test_native_and_pure_agree_on_random_pushes_and_clears() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        length = int(rng.integers(1, 20))
        # Any width; with heights like these, whole pages come often enough for mirrored memory.
        shape = (8 * int(rng.integers(1, 4)), int(rng.integers(1, 25)), int(rng.choice([1, 3])))
        native = FrameRing(length, shape, native=True)
        pure = FrameRing(length, shape, native=False)
        for i in range(int(rng.integers(1, 100))):
            if rng.random() < 0.02:
                native.clear()
                pure.clear()
            native.push(frame(i, shape))
            pure.push(frame(i, shape))
            assert len(native) == len(pure)
            if len(pure) == length:
                np.testing.assert_array_equal(native.latest(), pure.latest())


@both_forms
def test_nothing_changes_when_the_ring_wraps_thousands_of_times(native: bool) -> None:
    shape = (16, 16, 1)
    ring = FrameRing(3, shape, native=native)
    for i in range(20_000):
        ring.push(np.full(shape, i % 251, np.uint8))
        if i >= 2:
            assert ring.latest()[:, 5, 5, 0].tolist() == [(i - 2) % 251, (i - 1) % 251, i % 251]


@both_forms
def test_the_block_is_one_read_only_contiguous_view(native: bool) -> None:
    ring = FrameRing(4, (16, 16, 3), native=native)
    for i in range(37):
        ring.push(frame(i, (16, 16, 3)))
        if i < 3:
            continue
        block = ring.latest()
        assert block.shape == (4, 16, 16, 3)
        assert block.flags.c_contiguous
        assert not block.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            block[0, 0, 0, 0] = 1


@both_forms
def test_the_block_is_not_a_copy(native: bool) -> None:
    ring = FrameRing(4, (16, 16, 3), native=native)
    for i in range(9):
        ring.push(frame(i, (16, 16, 3)))
    assert np.shares_memory(ring.latest(), ring.latest())
    assert np.shares_memory(ring.latest(), ring._frames)


@both_forms
def test_a_block_stays_true_through_the_next_push(native: bool) -> None:
    shape = (64, 64, 1)
    ring = FrameRing(4, shape, native=native)
    for i in range(50):
        ring.push(frame(i, shape))
        if i < 3:
            continue
        block = ring.latest()
        before = block.copy()
        ring.push(frame(1000 + i, shape))
        np.testing.assert_array_equal(block, before)


@both_forms
def test_a_block_outlives_its_ring(native: bool) -> None:
    ring = FrameRing(2, (16, 16, 1), native=native)
    for i in range(8):
        ring.push(frame(i, (16, 16, 1)))
    block = ring.latest()
    del ring
    gc.collect()
    np.testing.assert_array_equal(block, [frame(6, (16, 16, 1)), frame(7, (16, 16, 1))])


@both_forms
def test_the_ring_copies_the_frame_it_is_given(native: bool) -> None:
    ring = FrameRing(1, (4, 4, 1), native=native)
    pixels = np.ones((4, 4, 1), np.uint8)
    ring.push(pixels)
    pixels[:] = 9
    assert (ring.latest() == 1).all()


@both_forms
def test_a_strided_frame_is_pushed_like_a_contiguous_one(native: bool) -> None:
    large = frame(3, (40, 60, 3))
    views = [large[4:36:4, 10:50:5, ::-1], large[8:0:-1, :8], large[:8, :8]]
    ring = FrameRing(len(views), (8, 8, 3), native=native)
    for view in views:
        ring.push(view)
    np.testing.assert_array_equal(ring.latest(), np.stack(views))


@both_forms
def test_a_ring_that_is_not_full_has_no_block(native: bool) -> None:
    ring = FrameRing(3, (8, 8, 3), native=native)
    for i in range(2):
        with pytest.raises(ValueError, match=f"holds {i} of 3 frames"):
            ring.latest()
        ring.push(frame(i, (8, 8, 3)))


@both_forms
def test_clear_forgets_every_frame(native: bool) -> None:
    ring = FrameRing(2, (8, 8, 3), native=native)
    for i in range(5):
        ring.push(frame(i, (8, 8, 3)))
    ring.clear()
    assert len(ring) == 0
    ring.push(frame(6, (8, 8, 3)))
    with pytest.raises(ValueError, match="holds 1 of 2 frames"):
        ring.latest()
    ring.push(frame(7, (8, 8, 3)))
    np.testing.assert_array_equal(ring.latest(), [frame(6, (8, 8, 3)), frame(7, (8, 8, 3))])


@both_forms
@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 8, 3), np.uint8),  # NumPy would broadcast it
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),  # NumPy would cut it to integers
        np.zeros((8, 8, 3), np.int8),
    ],
)
def test_a_frame_of_another_shape_or_type_is_refused(
    native: bool, pixels: npt.NDArray[np.uint8]
) -> None:
    ring = FrameRing(2, (8, 8, 3), native=native)
    with pytest.raises(ValueError, match=re.escape(f"{pixels.dtype} of shape {pixels.shape}")):
        ring.push(pixels)
    assert len(ring) == 0


@pytest.mark.parametrize(
    ("length", "shape"), [(0, (8, 8, 3)), (-1, (8, 8, 3)), (2, (8, 0, 3)), (2, (8, 8))]
)
def test_a_ring_of_nothing_is_refused(length: int, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FrameRing(length, shape)


@needs_native
def test_the_native_ring_is_taken_where_it_can_be_had() -> None:
    assert FrameRing(16, (224, 224, 3)).native
    assert FrameRing(16, (224, 224, 3), native=False).native is False


@needs_native
def test_a_frame_size_that_wastes_memory_takes_the_pure_ring_and_says_so() -> None:
    assert FrameRing(16, (225, 225, 3)).native is False
    with pytest.raises(BackendError, match=r"Frames of 151875 bytes .*native=False"):
        FrameRing(16, (225, 225, 3), native=True)


def test_a_required_extension_that_is_missing_is_an_error_with_a_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # None makes the import fail as if the extension had not been built.
    monkeypatch.setitem(sys.modules, "vad_runtime._native", None)
    assert FrameRing(2, (8, 8, 3)).native is False
    with pytest.raises(BackendError, match=r"no native extension .* C\+\+ compiler"):
        FrameRing(2, (8, 8, 3), native=True)


@needs_native
def test_memory_the_kernel_refuses_is_no_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        page_size = staticmethod(lambda: 4096)

        def __init__(self, size: int) -> None:
            raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(ring_module, "_mirrored_buffer_class", lambda: Refusing)
    assert FrameRing(2, (64, 64, 1)).native is False
    with pytest.raises(BackendError, match="Cannot allocate memory"):
        FrameRing(2, (64, 64, 1), native=True)


@needs_native
@pytest.mark.parametrize("pages", [-1, 0, 0.5, 1.25])
def test_mirrored_memory_is_whole_pages(pages: float) -> None:
    from vad_runtime._native import MirroredBuffer

    size = int(pages * MirroredBuffer.page_size())
    with pytest.raises(ValueError, match=f"multiple of the page size .* not {size}"):
        MirroredBuffer(size)


@needs_native
def test_both_halves_of_mirrored_memory_are_the_same() -> None:
    from vad_runtime._native import MirroredBuffer

    buffer = MirroredBuffer(2 * MirroredBuffer.page_size())
    array = buffer.array
    assert array.shape == (2 * buffer.capacity,)
    assert array.flags.writeable
    assert not array.any()
    array[: buffer.capacity] = frame(1, (1, 1, buffer.capacity))[0, 0]
    np.testing.assert_array_equal(array[buffer.capacity :], array[: buffer.capacity])
    array[-1] ^= 255
    assert array[buffer.capacity - 1] == array[-1]
    with pytest.raises(OSError, match="Cannot allocate memory"):
        MirroredBuffer(1 << 61)


@needs_native
def test_thousands_of_rings_leak_no_file_and_no_mapping() -> None:
    def ring_maps() -> int:
        return Path("/proc/self/maps").read_text().count("vad-ring")

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()
    maps, files = ring_maps(), open_files()
    for i in range(5000):
        ring = FrameRing(2, (64, 64, 1), native=True)
        ring.push(np.full((64, 64, 1), i % 256, np.uint8))
    assert ring_maps() == maps + 2  # the last one is alive: its two halves
    del ring
    gc.collect()
    assert ring_maps() == maps
    assert open_files() == files
