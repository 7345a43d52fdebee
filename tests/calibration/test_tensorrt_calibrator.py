"""Calibrator objects for TensorRT 8 to 10, against fakes with the names of the real bindings."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import assert_one_line

from vad_calibration.inputs import ArrayInputs
from vad_calibration.tensorrt_cache import tensorrt_cache_from_limits, tensorrt_cache_text
from vad_calibration.tensorrt_calibrator import calibrator_class
from vad_runtime.contracts import BackendError, InputError

NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("trt_api_names.json").read_text())
WITH = [version for version, names in NAMES.items() if names]
WITHOUT = [version for version, names in NAMES.items() if not names]
CLIPS = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 1), np.uint8)


def fake_tensorrt(version: str) -> ModuleType:
    """Return a module with the calibrators of one version, and nothing else."""
    trt = ModuleType("tensorrt")
    vars(trt)["__version__"] = version

    def made(name: str) -> type:
        def start(self: Any) -> None:
            self.started = name

        return type(name, (), {"__init__": start})

    vars(trt).update({name: made(name) for name in NAMES[version]})
    return trt


class FakeMemory:
    """Device memory in host memory: keeps what was copied where."""

    def __init__(self) -> None:
        self.rooms: dict[int, int] = {}
        self.copied: list[tuple[int, bytes]] = []

    def allocate(self, nbytes: int) -> int:
        pointer = 4096 * (1 + len(self.rooms))
        self.rooms[pointer] = nbytes
        return pointer

    def copy(self, pointer: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        assert array.nbytes <= self.rooms[pointer]
        self.copied.append((pointer, array.tobytes()))


def calibrator(version: str = "8.6.1", kind: Any = "entropy2", **options: Any) -> Any:
    made = calibrator_class(fake_tensorrt(version), kind)
    options.setdefault("memory", FakeMemory())
    return made(ArrayInputs(CLIPS), **options)


def built(calibrator: Any) -> list[int]:
    """Do what the builder does; return the addresses of the batches."""
    seen: list[int] = []
    if calibrator.read_calibration_cache() is not None:
        return seen
    while (batch := calibrator.get_batch(["clip"])) is not None:
        seen += batch
    calibrator.write_calibration_cache(memoryview(b"TRT-8601-EntropyCalibration2\nx: 3f800000\n"))
    return seen


def test_the_names_cover_every_line_of_tensorrt() -> None:
    assert WITH == ["8.6.1", "10.3.0", "10.13.3.9"]
    assert WITHOUT == ["11.4.0", "rtx1.7", "lean11.4"]


@pytest.mark.parametrize("version", WITH)
@pytest.mark.parametrize(
    ("kind", "base"), [("entropy2", "IInt8EntropyCalibrator2"), ("minmax", "IInt8MinMaxCalibrator")]
)
def test_it_is_built_on_tensorrts_own_class(version: str, kind: str, base: str) -> None:
    trt = fake_tensorrt(version)
    made = calibrator_class(trt, kind)(ArrayInputs(CLIPS), FakeMemory())  # type: ignore[arg-type]
    assert isinstance(made, getattr(trt, base))
    assert made.started == base  # the binding's own __init__ was called
    assert made.get_batch_size() == 1


@pytest.mark.parametrize("version", WITHOUT)
@pytest.mark.parametrize("kind", ["entropy2", "minmax"])
def test_a_tensorrt_without_calibrators_is_refused(version: str, kind: Any) -> None:
    with pytest.raises(BackendError) as error:
        calibrator_class(fake_tensorrt(version), kind)
    assert_one_line(error.value, version, "Q/DQ", "IInt8")


def test_every_input_goes_once_through_one_piece_of_memory() -> None:
    memory = FakeMemory()
    made = calibrator(memory=memory)
    assert built(made) == [4096] * 3
    assert memory.rooms == {4096: CLIPS[:1].nbytes}
    assert [content for _, content in memory.copied] == [clip.tobytes() for clip in CLIPS]
    assert made.failure is None
    assert len(built(made)) == 3  # a second build begins again


def test_limits_are_served_as_a_cache_without_any_memory() -> None:
    for kind, algorithm in (("entropy2", "EntropyCalibration2"), ("minmax", "MinMaxCalibration")):
        made = calibrator(kind=kind, limits={"conv": 2.0}, memory=None)
        expected = tensorrt_cache_text({"conv": 2.0}, algorithm=algorithm)
        assert made.read_calibration_cache() == expected.encode()
        assert built(made) == []
        assert made.failure is None


def test_what_tensorrt_computes_is_kept_in_the_file_and_used_again(tmp_path: Path) -> None:
    cache = tmp_path / "int8.cache"
    assert len(built(calibrator(cache=cache))) == 3
    assert cache.read_bytes() == b"TRT-8601-EntropyCalibration2\nx: 3f800000\n"
    assert [path.name for path in tmp_path.iterdir()] == ["int8.cache"]
    memory = FakeMemory()
    again = calibrator(cache=cache, memory=memory)
    assert again.read_calibration_cache() == cache.read_bytes()
    assert built(again) == []
    assert memory.copied == []


def test_without_a_file_nothing_is_read_or_written(tmp_path: Path) -> None:
    made = calibrator()
    assert made.read_calibration_cache() is None
    made.write_calibration_cache(b"anything")
    assert made.failure is None


@pytest.mark.parametrize("content", [b"", b"TRT-8501-EntropyCalibration2\nconv: 12", b"\xff"])
def test_a_damaged_cache_is_a_failure_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "int8.cache"
    cache.write_bytes(content)
    made = calibrator(cache=cache)
    assert made.read_calibration_cache() is None
    assert_one_line(made.failure, "int8.cache")
    assert made.get_batch(["clip"]) is None
    made.write_calibration_cache(b"half of it")
    assert cache.read_bytes() == content


def test_a_cache_of_another_algorithm_is_a_failure(tmp_path: Path) -> None:
    cache = tmp_path / "int8.cache"
    tensorrt_cache_from_limits({"conv": 1.0}, cache)
    made = calibrator(kind="minmax", cache=cache)
    assert made.read_calibration_cache() is None
    assert_one_line(made.failure, "int8.cache", "EntropyCalibration2", "MinMaxCalibration")


def test_an_input_that_fails_is_kept_and_no_cache_is_written(tmp_path: Path) -> None:
    class Broken(ArrayInputs):
        def __iter__(self) -> Any:
            yield CLIPS[:1]
            raise InputError("clip 2 cannot be read")

    cache = tmp_path / "int8.cache"
    made = calibrator_class(fake_tensorrt("10.3.0"))(Broken(CLIPS), FakeMemory(), cache=cache)
    assert len(built(made)) == 1
    assert isinstance(made.failure, InputError)
    assert not cache.exists()


def test_a_network_with_two_inputs_or_no_memory_is_a_failure() -> None:
    made = calibrator()
    assert made.get_batch(["clip", "flow"]) is None
    assert_one_line(made.failure, "clip, flow")
    bare = calibrator(memory=None)
    assert bare.get_batch(["clip"]) is None
    assert_one_line(bare.failure, "memory")


def test_a_cache_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    made = calibrator(cache=tmp_path / "none" / "int8.cache")
    assert len(built(made)) == 3
    assert_one_line(made.failure, "int8.cache", "cannot be written")
