"""Outlines of masks: filling them gives the mask back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from luss.export.contours import Polygon, joined, regions, signed_area, simplify


def filled(polygon: Polygon, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside by the even-odd rule."""
    inside = np.zeros(shape, bool)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crossed = (rows >= min(y0, y1)) & (rows < max(y0, y1))
            inside ^= crossed & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    return inside


@settings(max_examples=80, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_filling_the_polygons_of_any_mask_gives_the_mask_back(mask: NDArray[np.bool_]) -> None:
    found = np.zeros(mask.shape, bool)
    for region in regions(mask):
        own = filled(joined(region), mask.shape)
        assert not (found & own).any()
        found |= own
    np.testing.assert_array_equal(found, mask)


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (6, 6)))
def test_every_four_connected_region_has_one_outline(mask: NDArray[np.bool_]) -> None:
    found = regions(mask)
    assert len(found) == ndimage.label(mask)[1]
    assert all(signed_area(region.outline) > 0 for region in found)
    assert all(signed_area(hole) < 0 for region in found for hole in region.holes)


def test_pixels_that_touch_at_a_corner_are_two_regions() -> None:
    first, second = regions(np.eye(2, dtype=bool))
    assert sorted(map(tuple, first.outline.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(map(tuple, second.outline.tolist())) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_ring_has_a_hole_and_straight_edges_have_corners_only() -> None:
    mask = np.ones((5, 7), bool)
    mask[2, 2:5] = False
    (region,) = regions(mask)
    assert (len(region.outline), [len(hole) for hole in region.holes]) == (4, [4])
    assert signed_area(region.outline) + sum(map(signed_area, region.holes)) == mask.sum()


def test_simplifying_never_leaves_a_corner_farther_away_than_the_tolerance() -> None:
    mask = np.hypot(*(np.mgrid[:60, :60] - 29.5)) < 25
    (region,) = regions(mask)
    simple = simplify(region.outline, 0.75)
    assert len(simple) < 0.6 * len(region.outline)
    ends = np.roll(simple, -1, axis=0)
    for corner in region.outline:
        along = ends - simple
        share = np.clip(((corner - simple) * along).sum(axis=1) / (along**2).sum(axis=1), 0, 1)
        assert np.linalg.norm(simple + share[:, None] * along - corner, axis=1).min() <= 0.75 + 1e-9
    overlap = filled(simple, mask.shape)
    assert (overlap & mask).sum() / (overlap | mask).sum() > 0.97


@pytest.mark.parametrize("side", [1, 2])
def test_the_smallest_regions_survive_simplifying(side: int) -> None:
    mask = np.zeros((8, 8), bool)
    mask[3 : 3 + side, 3 : 3 + side] = True
    assert len(joined(regions(mask)[0], 0.75)) == 4
