"""Outlines of a mask as polygons along the edges of its pixels.

No dependency of luss traces outlines, and the pixel edges of a mask are a short exercise: every horizontal and vertical
piece of boundary is directed so that the mask lies to its right, and pieces are chained, turning right where two pixels
touch at a corner, so that polygons of 4-connected regions stay apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Polygon = NDArray[np.float64]
"""(P, 2) corners x, y in pixels, a pixel (row, column) covering [column, column + 1] x [row, row + 1]; not closed."""

# Where a piece of boundary begins (x, y) and the sign of its direction.
_Start = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """A 4-connected region of a mask.

    Attributes:
        outline: Its outer boundary, clockwise on the screen.
        holes: Boundaries of its holes, counter-clockwise.
    """

    outline: Polygon
    holes: list[Polygon] = field(default_factory=list)


def regions(mask: NDArray[np.bool_]) -> list[Region]:
    """Traces every region of an (H, W) mask, in the order of their first pixels.

    Filling every outline and emptying its holes gives the mask back.
    """
    numbers, count = ndimage.label(mask)
    found: list[tuple[list[Polygon], list[Polygon]]] = [([], []) for _ in range(count)]
    for loop in _loops(mask):
        (x0, y), (x1, _), *_ = loop
        # A pixel of the mask, to the right of the first piece of its boundary.
        region = int(numbers[(y, x0) if x1 > x0 else (y - 1, x1)]) - 1
        corners = np.array(loop, np.float64)
        found[region][0 if signed_area(corners) > 0 else 1].append(corners)
    return [Region(outlines[0], holes) for outlines, holes in found]


def signed_area(polygon: Polygon) -> float:
    """Area in square pixels; positive when the corners run clockwise on the screen (y down)."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def simplify(polygon: Polygon, tolerance: float) -> Polygon:
    """Leaves out corners while the outline stays within a distance of all of them (Douglas and Peucker 1973).

    Args:
        polygon: Corners.
        tolerance: Greatest distance in pixels; 0 leaves everything as it is.

    Returns:
        At least three of the corners, in their order.
    """
    if tolerance <= 0 or len(polygon) <= 4:
        return polygon
    # A closed line has no ends: it is cut at two corners that are far from each other.
    far = int(((polygon - polygon[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([polygon, polygon[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    waiting = [(0, far), (far, len(polygon))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            keep[first + 1 + worst] = True
            waiting += [(first, first + 1 + worst), (first + 1 + worst, last)]
    kept = polygon[keep[:-1]]
    return kept if len(kept) >= 3 else polygon


def joined(region: Region, tolerance: float = 0.0) -> Polygon:
    """A region as one polygon, `simplify`-d: each hole is joined to the outline by a seam of no width, there and back."""
    path = simplify(region.outline, tolerance)
    for hole in region.holes:
        inner = simplify(hole, tolerance)
        distances, nearest = (np.atleast_1d(found) for found in cKDTree(path).query(inner))
        there = int(distances.argmin())
        here = int(nearest[there])
        round_trip = np.concatenate([inner[there:], inner[: there + 1]])
        path = np.concatenate([path[: here + 1], round_trip, path[here:]])
    return path


def _distances(points: Polygon, start: Any, end: Any) -> NDArray[np.float64]:
    """(P,) distances of points from the stretch between two points."""
    along = end - start
    length = float(along @ along)
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.linalg.norm(points - (start + share[:, None] * along), axis=1)  # type: ignore[no-any-return]


def _loops(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Closed chains of corners (x, y), the mask to the right of every piece; each begins with a horizontal piece."""
    # Start and direction (+1 right or down, -1 left or up) to end. Right of "right" is below, right of "down" is left.
    across: dict[_Start, tuple[int, int]] = {}
    for y, x0, x1, below in _runs(mask):
        across[(x0, y, 1) if below else (x1, y, -1)] = (x1, y) if below else (x0, y)
    down: dict[_Start, tuple[int, int]] = {}
    for x, y0, y1, right in _runs(mask.T):
        down[(x, y1, -1) if right else (x, y0, 1)] = (x, y0) if right else (x, y1)
    loops = []
    while across:
        first = piece = next(reversed(across))
        corners: list[tuple[int, int]] = []
        while piece in across:
            corners.append(piece[:2])
            end = across.pop(piece)
            corners.append(end)
            # A right turn where there are two ways: it stays with the same pixel.
            turn = piece[2] if (*end, piece[2]) in down else -piece[2]
            end = down.pop((*end, turn))
            onward = (*end, -turn)
            piece = onward if onward in across or onward == first else (*end, turn)
        loops.append(corners)
    return loops


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, bool]]:
    """Straight pieces of boundary between rows: row below it, first and last corner, whether the mask is below it."""
    steps = np.diff(mask.astype(np.int8), axis=0, prepend=0, append=0)
    sides = np.pad(steps, ((0, 0), (1, 1)))
    starts = np.argwhere((steps != 0) & (steps != sides[:, :-2]))
    stops = np.argwhere((steps != 0) & (steps != sides[:, 2:]))
    below = steps[starts[:, 0], starts[:, 1]] > 0
    columns = (starts[:, 0], starts[:, 1], stops[:, 1] + 1, below)
    yield from zip(*(column.tolist() for column in columns), strict=True)
