"""Region boundaries of label maps in a time that hardly depends on their width, for every region at once.

A region's boundary is the region minus its erosion by a square of 2d + 1 pixels; outside the image is no region. So a
pixel is interior exactly when the square around it lies inside the image and holds one label, which needs no loop over
regions.
Source: Cheng et al., "Boundary IoU" (CVPR 2021), in the form of the ImageNet-S evaluation.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

DISTANCE_RATIO = 0.03
"""Boundary width as a share of the image's diagonal."""

Combine = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def boundary_distance(height: int, width: int) -> int:
    """Boundary width d in pixels: 3 % of the diagonal, rounded, at least 1 (19 for 500 x 375)."""
    return max(1, round(DISTANCE_RATIO * math.hypot(height, width)))


def boundary(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Marks the boundary pixels of every region of a label map.

    Args:
        labels: (H, W); each value is a region, 0 and 1000 included.

    Returns:
        (H, W), true within d pixels (chessboard distance) of another label or of the outside.
    """
    height, width = labels.shape
    distance = boundary_distance(height, width)
    marks = np.ones((height, width), np.bool_)
    core(marks, distance)[...] = ~uniform(labels, distance)
    return marks


def core(values: NDArray[Any], distance: int) -> NDArray[Any]:
    """A view of the pixels whose window lies inside the image: (max(0, H - 2d), max(0, W - 2d))."""
    height, width = values.shape
    return values[distance : max(distance, height - distance), distance : max(distance, width - distance)]


def uniform(labels: NDArray[np.integer], distance: int) -> NDArray[np.bool_]:
    """Whether the window around each core pixel holds one label.

    Args:
        labels: (H, W).
        distance: d >= 1; the window has 2d + 1 pixels a side.

    Returns:
        The shape of `core(labels, distance)`.
    """
    if core(labels, distance).size == 0:
        return np.zeros(core(labels, distance).shape, np.bool_)
    across = labels[:, 1:] != labels[:, :-1]
    # Rows of one label each form a window of one label when its middle column has one.
    down = labels[1:, distance:-distance] != labels[:-1, distance:-distance]
    changes_across = _slide(_slide(across, 2 * distance, 1, np.logical_or), 2 * distance + 1, 0, np.logical_or)
    same: NDArray[np.bool_] = ~(changes_across | _slide(down, 2 * distance, 0, np.logical_or))
    return same


def window_extreme(values: NDArray[Any], distance: int, combine: Combine) -> NDArray[Any]:
    """The smallest or largest value in the window around each core pixel.

    Args:
        values: (H, W).
        distance: d >= 1; the window has 2d + 1 pixels a side.
        combine: `np.minimum` or `np.maximum`.

    Returns:
        The shape of `core(values, distance)`.
    """
    inner = core(values, distance)
    if inner.size == 0:
        return inner.copy()
    side = 2 * distance + 1
    return _slide(_slide(values, side, 1, combine), side, 0, combine)


def _slide(values: NDArray[Any], length: int, axis: int, combine: Combine) -> NDArray[Any]:
    """Combines every `length` neighbours along an axis, which shrinks by `length - 1`.

    Windows of doubling length: log2(length) passes, each a vectorised operation on small numbers.
    """
    reach = 1
    while reach < length:
        step = min(reach, length - reach)
        kept = values.shape[axis] - step
        head = values[:kept] if axis == 0 else values[:, :kept]
        tail = values[step:] if axis == 0 else values[:, step:]
        values = combine(head, tail)
        reach += step
    return values
