"""TensorRT's legacy calibration cache."""

import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line

from vad_calibration.tensorrt_cache import (
    read_tensorrt_cache,
    tensorrt_cache_from_limits,
    tensorrt_cache_text,
)
from vad_runtime.contracts import ExportError, InputError

LIMITS = {"clip_normal": 2.5, "conv1/Relu:0": 127.0, "a name: with a colon": 1e-5}


def test_the_text_is_the_one_that_tensorrt_reads(tmp_path: Path) -> None:
    file = tmp_path / "calibration.cache"
    tensorrt_cache_from_limits({"data": 127.0, "pool": 127 * 0.0078125}, file)
    # 1.0 = 3f800000 and 2^-7 = 3c000000 as float32.
    assert file.read_bytes() == b"TRT-8501-EntropyCalibration2\ndata: 3f800000\npool: 3c000000\n"


def test_limits_come_back_to_float32(tmp_path: Path) -> None:
    file = tmp_path / "calibration.cache"
    tensorrt_cache_from_limits(LIMITS, file, version="100300", algorithm="MinMaxCalibration")
    cache = read_tensorrt_cache(file)
    assert (cache.version, cache.algorithm) == ("100300", "MinMaxCalibration")
    assert list(cache.limits) == list(LIMITS)
    for name, limit in LIMITS.items():
        assert cache.scales[name] == np.float32(limit / 127)
        assert cache.limits[name] == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("name", ["", "two\nlines", "carriage\rreturn", " space", "x\u2028y"])
def test_a_name_that_breaks_the_lines_is_refused(name: str) -> None:
    with pytest.raises(ExportError) as error:
        tensorrt_cache_text({name: 1.0})
    assert_one_line(error.value, repr(name))


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf, 1e300, 1e-60])
def test_a_limit_without_a_positive_scale_is_refused(limit: float) -> None:
    with pytest.raises(ExportError) as error:
        tensorrt_cache_text({"conv1": limit})
    assert_one_line(error.value, "conv1", str(limit))


def test_no_limits_or_a_strange_first_line_are_refused() -> None:
    with pytest.raises(ExportError) as error:
        tensorrt_cache_text({})
    assert_one_line(error.value, "Calibrate")
    with pytest.raises(ExportError) as error:
        tensorrt_cache_text({"a": 1.0}, version="8.5.1")
    assert_one_line(error.value, "TRT-8.5.1-")


def test_a_refused_cache_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        tensorrt_cache_from_limits({"a": 1.0, "b": 0.0}, tmp_path / "c.cache")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        b"data: 3f800000\n",
        b"TRT-8501-EntropyCalibration2\n",
        b"TRT-8501-EntropyCalibration2",
        b"TRT-8501-EntropyCalibration2\ndata: 3f8000\n",
        b"TRT-8501-EntropyCalibration2\ndata: 3f80000000\n",
        b"TRT-8501-EntropyCalibration2\ndata 3f800000\n",
        b"TRT-8501-EntropyCalibration2\ndata: 3f80000g\n",
        b"TRT-8501-EntropyCalibration2\n: 3f800000\n",
        b"TRT-8501-EntropyCalibration2\ndata: 3f800000\n\npool: 3f800000\n",
        b"TRT-8501-EntropyCalibration2\ndata: 3f800000\ndata: 3f800000\n",
        b"TRT-8501-EntropyCalibration2\ndata: 7fc00000\n",
        b"TRT-8501-EntropyCalibration2\ndata: 00000000\n",
        b"TRT-8501-EntropyCalibration2\ndata: bf800000\n",
    ],
)
def test_a_damaged_cache_is_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.cache"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_tensorrt_cache(file)
    assert_one_line(error.value, "bad.cache")


def test_a_cache_cut_off_inside_a_line_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.cache"
    text = tensorrt_cache_text({"data": 1.0, "pool": 2.0})
    file.write_text(text[:-4])
    with pytest.raises(InputError) as error:
        read_tensorrt_cache(file)
    assert_one_line(error.value, "line 3")


def test_a_missing_cache_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_tensorrt_cache(tmp_path / "none.cache")
    assert_one_line(error.value, "none.cache")


def test_the_digits_are_big_endian() -> None:
    line = tensorrt_cache_text({"a": 127 * 0.1}).splitlines()[1]
    (scale,) = struct.unpack(">f", bytes.fromhex(line.removeprefix("a: ")))
    assert scale == np.float32(0.1)
