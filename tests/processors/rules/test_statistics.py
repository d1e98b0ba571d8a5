"""Bounds of a share: wide for few, narrow for many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.rules.statistics import wilson_bounds


@pytest.mark.parametrize(("n", "lower", "upper"), [(5, 23, 88), (10, 31, 83), (100, 50, 69)])
def test_sixty_percent_of_few_may_be_nearly_anything(n, lower, upper):
    """The usual table of 60 % observed, in whole percent."""
    bounds = wilson_bounds(np.array([60.0]), np.array([n]))

    assert [lower, upper] == [round(float(bound[0])) for bound in bounds]


def test_no_data_has_no_bounds():
    """Neither a null value nor an n of 0."""
    lower, upper = wilson_bounds(np.array([np.nan, 50.0]), np.array([5, 0]))

    assert np.isnan([lower, upper]).all()


@given(st.floats(0, 100), st.integers(1, 10**9))
def test_the_value_lies_between_its_bounds(value, n):
    """And they lie between 0 and 100."""
    lower, upper = (float(b[0]) for b in wilson_bounds(np.array([value]), np.array([n])))

    assert 0 <= lower <= value + 1e-9
    assert value - 1e-9 <= upper <= 100
