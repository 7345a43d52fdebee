"""Inputs that are in memory."""

import numpy as np
import pytest
from helpers import assert_one_line

from vad_calibration import ArrayInputs, InputSet
from vad_runtime.contracts import InputError


def test_an_array_gives_its_inputs_one_at_a_time_and_again() -> None:
    array = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    inputs: InputSet = ArrayInputs(array)
    assert len(inputs) == 3
    for _ in range(2):
        given = list(inputs)
        assert [each.shape for each in given] == [(1, 2, 4)] * 3
        np.testing.assert_array_equal(np.concatenate(given), array)


def test_what_a_caller_does_to_an_input_stays_with_the_caller() -> None:
    inputs = ArrayInputs(np.zeros((2, 3), np.uint8))
    for each in inputs:
        each[:] = 7
    assert all((each == 0).all() for each in inputs)


def test_the_key_follows_from_values_type_and_shape() -> None:
    array = np.arange(8, dtype=np.uint8).reshape(2, 4)
    other = array.copy()
    other[1, 3] = 0
    same = ArrayInputs(np.asfortranarray(array))
    assert same.key == ArrayInputs(array.copy()).key
    others = [other, array.astype(np.int8), array.reshape(4, 2), array[::-1]]
    keys = {ArrayInputs(each).key for each in [array, *others]}
    assert len(keys) == 5


@pytest.mark.parametrize("shape", [(0, 4), (4,)])
def test_an_array_without_inputs_is_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        ArrayInputs(np.zeros(shape, np.float32))
    assert_one_line(caught.value, str(shape))
