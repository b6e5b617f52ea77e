import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luss.benchmark.levels import DEFAULT_THRESHOLDS, Levels
from luss.errors import LussError

number = st.floats(-2, 2, width=32)


@given(st.lists(number, min_size=1, max_size=300), st.lists(number, min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_a_level_is_the_number_of_thresholds_up_to_the_value(thresholds, values):
    thresholds = sorted({float(np.float32(value)) for value in thresholds})
    attention = np.array([*values, *thresholds], np.float32)
    expected = (attention[:, None] >= np.array(thresholds, np.float32)).sum(1)
    np.testing.assert_array_equal(Levels(thresholds)(attention), expected)


def test_the_default_grid_counts_every_float_around_its_thresholds():
    grid = np.array(DEFAULT_THRESHOLDS, np.float32)
    around = np.concatenate([grid, np.nextafter(grid, np.float32(-1)), np.nextafter(grid, np.float32(1))])
    np.testing.assert_array_equal(Levels(DEFAULT_THRESHOLDS)(around), (around[:, None] >= grid).sum(1))


def test_thresholds_closer_than_the_table_resolves_are_counted_as_well():
    thresholds = np.float32(0.5) + np.arange(20, dtype=np.float32) * np.float32(1e-6)
    values = np.linspace(0.499999, 0.50003, 500, dtype=np.float32)
    np.testing.assert_array_equal(Levels(thresholds.tolist())(values), (values[:, None] >= thresholds).sum(1))


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.5], [0.5, 0.4], [float("nan")], [0.1, float("inf")]])
def test_thresholds_that_are_not_ascending_finite_numbers_are_refused(thresholds):
    with pytest.raises(LussError, match="ascending"):
        Levels(thresholds)
