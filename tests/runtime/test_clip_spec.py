"""ClipSpec refuses what no clip can have."""

from typing import Any

import msgspec
import pytest
from helpers import assert_one_line, clip_spec

from vad_runtime.contracts import ClipSpec


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"frames": 0}, "0"),
        ({"frames": -3}, "-3"),
        ({"stride": 0}, "0"),
        ({"hop": 0}, "0"),
        ({"height": 0}, "0"),
        ({"width": -1}, "-1"),
        ({"stride": 2, "hop": 3}, "3"),
        ({"stride": 4, "hop": 2}, "2"),
        ({"colour": "bgr"}, "bgr"),
        ({"resizer": "nearest"}, "nearest"),
        ({"fps": 0.0}, "0"),
        ({"fps": -25.0}, "-25"),
        ({"fps": float("nan")}, "nan"),
        ({"fps": float("inf")}, "inf"),
    ],
)
def test_nonsense_is_refused_with_the_field_and_the_value_in_the_message(
    change: dict[str, Any], value: str
) -> None:
    with pytest.raises(ValueError, match="ClipSpec") as caught:
        clip_spec(**change)
    assert_one_line(caught.value, list(change)[-1], value)


def test_the_portable_resizer_takes_both_interpolations_and_fast_only_area() -> None:
    for interpolation in ("area", "bilinear"):
        spec = clip_spec(resizer="portable", interpolation=interpolation)
        assert msgspec.convert(msgspec.to_builtins(spec), ClipSpec) == spec
    with pytest.raises(ValueError, match="area"):
        clip_spec(resizer="fast", interpolation="bilinear")


@pytest.mark.parametrize("side", ["height", "width"])
def test_the_portable_resizer_has_a_largest_size(side: str) -> None:
    assert clip_spec(resizer="portable", **{side: 65535})
    assert clip_spec(resizer="fast", **{side: 65536})
    with pytest.raises(ValueError, match="ClipSpec") as caught:
        clip_spec(resizer="portable", **{side: 65536})
    assert_one_line(caught.value, side, "65536", "portable")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        clip_spec(depth=3)
    with pytest.raises(msgspec.ValidationError, match="depth"):
        msgspec.convert({"frames": 1, "height": 1, "width": 1, "depth": 1}, ClipSpec)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        clip_spec().frames = 3  # type: ignore[misc]


@pytest.mark.parametrize(("colour", "channels"), [("gray", 1), ("rgb", 3)])
def test_shapes_follow_from_the_fields(colour: str, channels: int) -> None:
    spec = clip_spec(frames=5, height=24, width=40, colour=colour)
    assert spec.channels == channels
    assert spec.frame_shape == (24, 40, channels)
    assert spec.clip_shape == (5, 24, 40, channels)


@pytest.mark.parametrize(
    ("frames", "stride", "span"), [(1, 1, 1), (1, 7, 1), (8, 1, 8), (4, 2, 7), (16, 4, 61)]
)
def test_the_span_counts_the_first_and_the_last_frame(frames: int, stride: int, span: int) -> None:
    assert clip_spec(frames=frames, stride=stride, hop=stride).span == span


def test_equal_specs_are_equal_and_hash_alike() -> None:
    assert clip_spec() == clip_spec()
    assert hash(clip_spec()) == hash(clip_spec())
    assert clip_spec(hop=2) != clip_spec()
