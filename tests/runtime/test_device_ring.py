"""The ring with a copy on the GPU: the host's clips, and every frame over the bus once."""

import numpy as np
import pytest
from helpers_cuda import HostCuda

from vad_runtime.cuda.ring import DeviceRing
from vad_runtime.ring import FrameRing

# One whose memory can be mapped twice and one that needs two halves.
SHAPES = [(32, 32, 1), (5, 7, 3)]


class Rig:
    def __init__(self, shape: tuple[int, int, int], length: int = 4) -> None:
        self.cuda = HostCuda(deferred=True)
        self.stream = self.cuda.stream()
        self.shape = shape
        self.length = length
        self.ring = DeviceRing(self.cuda, self.stream, length, shape)
        self.clip = self.cuda.allocate(length * int(np.prod(shape)))

    def frame(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, self.shape, np.uint8)

    def gathered(self, clip: np.ndarray) -> np.ndarray:
        assert self.ring.gather(clip, self.clip)
        self.cuda.synchronise(self.stream)
        return self.cuda.view(self.clip, clip.nbytes).reshape(clip.shape).copy()

    def copied_in(self) -> int:
        return sum(int(call.split()[1]) for call in self.cuda.calls if call.startswith("copy_in "))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_device_has_every_clip_of_the_host_wherever_it_wraps(
    shape: tuple[int, int, int],
) -> None:
    rig = Rig(shape)
    for number in range(3 * rig.ring._capacity):
        rig.ring.push(rig.frame(number))
        if number < rig.length - 1:
            continue
        clip = rig.ring.latest()[None]
        expected = [rig.frame(n) for n in range(number + 1 - rig.length, number + 1)]
        np.testing.assert_array_equal(clip[0], expected)
        np.testing.assert_array_equal(rig.gathered(clip)[0], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clip_that_was_taken_before_the_ring_was_cleared_is_still_there(
    shape: tuple[int, int, int],
) -> None:
    rig = Rig(shape)
    for number in range(6):
        rig.ring.push(rig.frame(number))
    clip = rig.ring.latest()
    rig.ring.clear()
    np.testing.assert_array_equal(rig.gathered(clip), [rig.frame(n) for n in (2, 3, 4, 5)])


def test_pinned_memory_that_is_overwritten_while_copies_wait_does_no_harm() -> None:
    rig = Rig((32, 32, 1))
    for number in range(5 * rig.ring._capacity + 3):  # nobody infers and so waits
        rig.ring.push(rig.frame(number))
    last = rig.ring._pushed
    expected = [rig.frame(n) for n in range(last - rig.length, last)]
    np.testing.assert_array_equal(rig.gathered(rig.ring.latest()), expected)


def test_each_frame_crosses_the_bus_once() -> None:
    rig = Rig((32, 32, 1))
    for number in range(30):
        rig.ring.push(rig.frame(number))
        if number >= 3:
            rig.gathered(rig.ring.latest())
    assert rig.copied_in() == 30 * 32 * 32


def test_arrays_of_others_are_left_to_the_caller() -> None:
    rig = Rig((32, 32, 1))
    other = FrameRing(4, (32, 32, 1))
    for number in range(4):
        rig.ring.push(rig.frame(number))
        other.push(rig.frame(number))
    assert not rig.ring.gather(other.latest(), rig.clip)
    assert not rig.ring.gather(rig.ring.latest().copy(), rig.clip)
    assert not rig.ring.gather(rig.ring.latest()[:, ::-1], rig.clip)
    assert not rig.ring.gather(rig.ring.latest()[:, :, ::-1], rig.clip)
    assert rig.ring.gather(rig.ring.latest(), rig.clip)


def test_without_its_gpu_it_is_a_ring_in_host_memory() -> None:
    rig = Rig((32, 32, 1))
    for number in range(5):
        rig.ring.push(rig.frame(number))
    before = rig.ring.latest()
    rig.ring.detach()
    rig.cuda.close()
    np.testing.assert_array_equal(before, [rig.frame(n) for n in (1, 2, 3, 4)])
    rig.ring.push(rig.frame(5))
    np.testing.assert_array_equal(rig.ring.latest(), [rig.frame(n) for n in (2, 3, 4, 5)])
    assert not rig.ring.gather(rig.ring.latest(), rig.clip)
