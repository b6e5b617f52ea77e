import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_evaluation import naive_boundary

from luss.benchmark.boundary import boundary, boundary_distance


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    block=st.integers(1, 150),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_boundary_pixels_are_those_whose_square_leaves_the_region(height, width, block, seed):
    ids = np.random.default_rng(seed).choice([0, 1, 300, 1000], (height // block + 1, width // block + 1))
    labels = ids.repeat(block, 0).repeat(block, 1)[:height, :width].astype(np.uint16)
    np.testing.assert_array_equal(boundary(labels), naive_boundary(labels))


def test_boundary_of_a_large_map_with_regions_on_its_border_and_one_pixel_islands():
    labels = np.zeros((200, 300), np.uint16)
    labels[:70, 120:] = 7
    labels[150:, :90] = 1000
    labels[100, 200] = 3
    labels[199, 299] = 5
    np.testing.assert_array_equal(boundary(labels), naive_boundary(labels))


def test_boundary_width_is_three_percent_of_the_diagonal_and_at_least_one_pixel():
    assert boundary_distance(375, 500) == 19
    assert boundary_distance(1, 1) == 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (40, 2), (1, 300)])
def test_an_image_thinner_than_the_square_is_all_boundary(shape):
    assert boundary(np.zeros(shape, np.uint16)).all()
