"""Ranges over a calibration set: streaming, resumable, bounded."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line, clip_spec, motion_model

from vad_calibration import ranges as module
from vad_calibration.activations import Activations
from vad_calibration.histograms import BYTES, METHODS
from vad_calibration.inputs import ArrayInputs, Inputs
from vad_calibration.ranges import Ranges, ranges_from_inputs, read_ranges, write_ranges
from vad_runtime.commands import Interrupted
from vad_runtime.contracts import ExportError, InputError

SPEC = clip_spec()
TENSORS = ["scaled", "filtered", "squared"]
CLIPS = np.random.default_rng(1).integers(0, 256, (6, *SPEC.clip_shape), np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return motion_model(tmp_path / "motion.onnx", SPEC)


class Cut:
    """The same inputs as `ArrayInputs`, but the work is cut off after some of them."""

    def __init__(self, clips: np.ndarray, after: int, how: str = "error") -> None:
        self._whole = ArrayInputs(clips)
        self._after = after
        self._how = how
        self.given = 0

    @property
    def key(self) -> str:
        return self._whole.key

    def __len__(self) -> int:
        return len(self._whole)

    def __iter__(self) -> Iterator[Inputs]:
        for i, one in enumerate(self._whole):
            if i == self._after and self._how == "error":
                raise InputError("cut off")
            if i == self._after:
                os.kill(os.getpid(), signal.SIGINT)
            self.given += 1
            yield one


def all_ranges(model: Path, **options: object) -> Ranges:
    return ranges_from_inputs(model, TENSORS, ArrayInputs(CLIPS), threads=1, **options)  # type: ignore[arg-type]


def test_ranges_are_those_of_all_values_at_once(model: Path) -> None:
    ranges = all_ranges(model)
    values: dict[str, list[np.ndarray]] = {name: [] for name in TENSORS}
    with Activations(model, TENSORS, threads=1) as activations:
        for i in range(len(CLIPS)):
            for name, array in activations.of(CLIPS[i : i + 1]):
                values[name].append(array.reshape(-1))
    assert ranges.inputs == len(CLIPS)
    assert list(ranges.histograms) == TENSORS
    for name, histogram in ranges.histograms.items():
        together = np.abs(np.concatenate(values[name]))
        assert histogram.count == together.size
        assert histogram.largest == together.max()
        assert histogram.zeros == np.count_nonzero(together == 0)
    assert ranges.limits("minmax")["scaled"] == 1.0
    rank = ranges.limits("percentile", percentile=50)["filtered"]
    filtered = np.concatenate(values["filtered"])
    assert rank == pytest.approx(np.median(np.abs(filtered)), rel=1 / 256)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_limit_for_every_tensor(model: Path, method: str) -> None:
    ranges = all_ranges(model)
    limits = ranges.limits(method)  # type: ignore[arg-type]
    assert list(limits) == TENSORS
    for name, limit in limits.items():
        assert 0 < limit <= ranges.histograms[name].largest


def test_little_memory_gives_the_same_ranges(model: Path) -> None:
    assert all_ranges(model, memory_bytes=1) == all_ranges(model)


def test_the_memory_of_the_counts_does_not_depend_on_the_inputs(model: Path) -> None:
    one = ranges_from_inputs(model, TENSORS, ArrayInputs(CLIPS[:1]), threads=1)
    for ranges in (one, all_ranges(model)):
        assert [histogram.bytes for histogram in ranges.histograms.values()] == [BYTES] * 3


@pytest.mark.parametrize("after", [1, 4])
def test_work_that_was_cut_off_goes_on_and_gives_the_same_bytes(
    model: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAVE_EVERY_S", 0.0)
    state = tmp_path / "state.npz"
    with pytest.raises(InputError, match="cut off"):
        ranges_from_inputs(model, TENSORS, Cut(CLIPS, after), state=state, threads=1)
    assert read_ranges(state).inputs == after
    rest = Cut(CLIPS, -1)
    ranges = ranges_from_inputs(model, TENSORS, rest, state=state, threads=1)
    assert ranges == all_ranges(model)
    write_ranges(tmp_path / "whole.npz", all_ranges(model))
    assert state.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_state_is_not_written_for_every_input(model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    with pytest.raises(InputError, match="cut off"):
        ranges_from_inputs(model, TENSORS, Cut(CLIPS, 4), state=state, threads=1)
    assert not state.exists()


def test_ctrl_c_finishes_the_input_and_keeps_what_is_done(model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    with pytest.raises(Interrupted):
        ranges_from_inputs(model, TENSORS, Cut(CLIPS, 2, "signal"), state=state, threads=1)
    assert read_ranges(state).inputs == 3
    assert all_ranges(model, state=state) == all_ranges(model)


def test_finished_work_is_not_done_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state.npz"
    first = all_ranges(model, state=state)
    monkeypatch.setattr(module, "Activations", None)
    assert all_ranges(model, state=state) == first


@pytest.mark.parametrize("change", ["model", "tensors", "inputs", "damage", "folderless"])
def test_a_state_of_other_work_is_ignored_and_replaced(
    model: Path, tmp_path: Path, change: str
) -> None:
    state = tmp_path / "state.npz"
    clips, tensors = CLIPS, TENSORS
    if change == "model":
        other = motion_model(tmp_path / "other.onnx", SPEC, answer="clip")
        ranges_from_inputs(other, tensors, ArrayInputs(clips), state=state, threads=1)
    elif change == "tensors":
        ranges_from_inputs(model, [*tensors, "d"], ArrayInputs(clips), state=state, threads=1)
    elif change == "inputs":
        ranges_from_inputs(model, tensors, ArrayInputs(clips[:3]), state=state, threads=1)
    elif change == "damage":
        state.write_bytes(b"PK\x03\x04 what a power cut left")
    found = all_ranges(model, state=state)
    assert found == all_ranges(model)
    assert read_ranges(state) == found


def test_the_key_follows_from_model_tensors_and_inputs(model: Path, tmp_path: Path) -> None:
    def key(model: Path, tensors: list[str], clips: np.ndarray) -> str:
        return ranges_from_inputs(model, tensors, ArrayInputs(clips), threads=1).key

    other = motion_model(tmp_path / "other.onnx", SPEC, answer="clip")
    one = CLIPS[:1]
    keys = [
        key(model, TENSORS, one),
        key(other, TENSORS, one),
        key(model, TENSORS[:2], one),
        key(model, TENSORS, CLIPS[1:2]),
    ]
    assert len(set(keys)) == 4
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(model.read_bytes())
    assert key(moved, TENSORS, one) == keys[0]


def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = motion_model(tmp_path / "nan.onnx", SPEC, answer="nan")
    with pytest.raises(ExportError) as error:
        ranges_from_inputs(model, ["d", "score"], ArrayInputs(CLIPS[:1]), threads=1)
    assert_one_line(error.value, "the tensor score", "not finite")


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        all_ranges(tmp_path / "none.onnx")
    assert_one_line(error.value, "none.onnx")


def test_ranges_come_back_from_their_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "ranges.npz"
    ranges = all_ranges(model)
    write_ranges(file, ranges)
    assert read_ranges(file) == ranges
    first = file.read_bytes()
    write_ranges(file, ranges)
    assert file.read_bytes() == first


def test_a_missing_file_of_ranges_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_ranges(tmp_path / "none.npz")
    assert_one_line(error.value, "none.npz", "not there")


def test_a_file_that_cannot_be_written_is_one_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        write_ranges(tmp_path / "none" / "ranges.npz", all_ranges(model))
    assert_one_line(error.value, "ranges.npz", "cannot be written")


def test_every_cut_off_or_altered_file_is_refused_with_one_line(
    model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ranges.npz"
    write_ranges(file, all_ranges(model))
    whole = file.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError) as error:
            read_ranges(file)
        assert_one_line(error.value, "ranges.npz")


def rewritten(file: Path, **changes: object) -> None:
    with np.load(file) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    arrays.update(changes)  # type: ignore[arg-type]
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"format": np.array("vad-edge ranges 2")},
        {"format": None},
        {"key": np.array("short")},
        {"key": None},
        {"inputs": np.array(-1)},
        {"inputs": np.array(1.5)},
        {"tensors": np.array(["a", "a", "b"])},
        {"tensors": np.array(["a", "b"])},
        {"tensors": np.array([1, 2, 3])},
        {"counts": np.zeros((3, 10), np.int64)},
        {"counts": np.zeros((3, 32768), np.int64)},
        {"zeros": np.array([0, 0, -1])},
        {"largest": np.array([1.0, np.nan, 1.0])},
    ],
)
def test_a_file_with_other_contents_is_refused_with_one_line(
    model: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    file = tmp_path / "ranges.npz"
    write_ranges(file, all_ranges(model))
    rewritten(file, **changes)
    with pytest.raises(InputError) as error:
        read_ranges(file)
    assert_one_line(error.value, "ranges.npz")


def test_a_plain_array_or_a_pickle_is_no_file_of_ranges(tmp_path: Path) -> None:
    for name, array in (("a.npy", np.zeros(3)), ("b.npy", np.array([{}], object))):
        np.save(tmp_path / name, array)
        with pytest.raises(InputError) as error:
            read_ranges(tmp_path / name)
        assert_one_line(error.value, name)
