"""The softmax that everything shares, against scipy's and by hand."""

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pasta_gym.softmax import log_softmax, softmax, softmax_mean

LOGITS = arrays.arrays(np.float64, (3, 4, 2), elements=st.floats(-1e4, 1e4))


@pytest.mark.parametrize("axis", [0, 1, -1])
@given(logits=LOGITS)
def test_they_are_scipys(logits, axis):
    np.testing.assert_allclose(softmax(logits, axis), scipy.special.softmax(logits, axis), atol=1e-12)
    np.testing.assert_allclose(log_softmax(logits, axis), scipy.special.log_softmax(logits, axis), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, -1])
@given(logits=LOGITS, values=arrays.arrays(np.float64, (3, 4, 2), elements=st.floats(-5, 5)))
def test_a_mean_lies_between_its_values_and_is_weighted(logits, values, axis):
    mean = softmax_mean(values, logits, axis)
    assert (mean >= values.min(axis=axis) - 1e-9).all()
    assert (mean <= values.max(axis=axis) + 1e-9).all()
    np.testing.assert_allclose(mean, (softmax(logits, axis) * values).sum(axis=axis), atol=1e-9)


def test_by_hand():
    logits = np.log([[1.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(softmax(logits, axis=0), [[1 / 3, 0.6], [2 / 3, 0.4]])
    np.testing.assert_allclose(softmax_mean(np.array([[8.0, 4.0], [1.0, 3.0]]), logits), [5.0, 2.0])
    assert log_softmax(np.array([0.0, -2000.0]))[1] == -2000.0
    assert softmax(np.array([1000.0, 1000.0 + math.log(3)]))[1] == pytest.approx(0.75)


def test_single_precision_stays():
    logits = np.zeros((2, 3), dtype=np.float32)
    assert softmax(logits).dtype == log_softmax(logits).dtype == softmax_mean(logits, logits).dtype == np.float32
