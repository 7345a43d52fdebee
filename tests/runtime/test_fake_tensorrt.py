"""The fake TensorRT modules have the names of the real ones, and no others."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_fake_tensorrt import SNAPSHOTS, fake_tensorrt
from helpers_tensorrt import tensorrt_rtx

FOLDER = Path(__file__).parents[1] / "trt_api"


def api_of(snapshot: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{snapshot}.json").read_text())
    return found


def test_every_snapshot_has_a_fake() -> None:
    assert set(SNAPSHOTS) == {file.stem for file in FOLDER.iterdir()}


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_a_fake_has_exactly_the_names_of_the_snapshot(snapshot: str) -> None:
    api, trt = api_of(snapshot), fake_tensorrt(snapshot)
    ours = {"fake_settings", "fake_records", "fake_flavour", "fake_numbers"}
    names = {name for name in vars(trt) if not name.startswith("__")} - ours
    assert names == set(api["_classes"])
    for name, expected in api.items():
        if name == "_classes":
            continue
        kind = getattr(trt, name.removesuffix("::enum"))
        if name.endswith("::enum"):
            assert {key: int(kind[key]) for key in kind.__members__} == expected
        else:
            assert {key for key in vars(kind) if not key.startswith("_")} == set(expected)


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_what_is_not_in_the_snapshot_raises_and_is_named(snapshot: str) -> None:
    trt = fake_tensorrt(snapshot)
    with pytest.raises(AttributeError, match="no attribute 'IMagic'"):
        trt.IMagic  # noqa: B018
    logger = type("Log", (trt.ILogger,), {"log": lambda *_: None})()
    runtime = trt.Runtime(logger)
    with pytest.raises(AttributeError, match=r"Runtime has no attribute 'load_fast'"):
        runtime.load_fast()
    with pytest.raises(AttributeError, match=r"Runtime has no attribute 'speed'"):
        runtime.speed = 3
    assert not hasattr(trt.Runtime, "load_fast")


def test_what_the_fake_does_not_do_says_so() -> None:
    trt = fake_tensorrt("10.3.0")
    logger = type("Log", (trt.ILogger,), {"log": lambda *_: None})()
    with pytest.raises(NotImplementedError, match="load_runtime is real"):
        trt.Runtime(logger).load_runtime("lean.so")


def test_a_logger_whose_base_was_not_started_is_refused_as_by_pybind11() -> None:
    trt = fake_tensorrt("10.3.0")

    class Lazy(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called when overriding"):
        trt.Builder(Lazy())
    with pytest.raises(TypeError, match="ILogger wanted"):
        trt.Builder(object())


def test_the_snapshot_of_rtx_is_what_the_installed_one_has() -> None:
    real, api = tensorrt_rtx(), api_of("rtx1.7")
    if not real.__version__.startswith("1.7."):
        pytest.skip(f"another version: {real.__version__}")
    for name, expected in api.items():
        if name == "_classes":
            assert all(hasattr(real, one) for one in expected)
            continue
        kind = getattr(real, name.removesuffix("::enum"))
        assert all(hasattr(kind, one) for one in expected), name
