"""Reading a label map at any set of image rows and columns: nearest labels, bilinear attention, one threshold."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.float64]
Id = TypeVar("Id", bound=np.integer[Any])

# Full-size attention is built some rows at a time, so that a 100-megapixel photograph needs no more than its uint16
# result.
BLOCK_PIXELS = 1 << 18


def centres(start: float, extent: float, *, num: int, image_extent: int, grid_extent: int) -> Positions:
    """Where the centres of `num` equal steps along one axis fall on a feature grid.

    Args:
        start: First edge of the interval, in image pixels.
        extent: Length of the interval, in image pixels.
        num: Number of steps.
        image_extent: Length of the image along the axis, in pixels.
        grid_extent: Length of the feature grid along the axis, in positions; it covers the whole image.

    Returns:
        (num,) float64 grid coordinates: position k covers [k, k + 1).
    """
    # Multiplied before it is divided: whole numbers then stay whole, and no centre falls on the wrong side of a border.
    return (start + (np.arange(num) + 0.5) * extent / num) * grid_extent / image_extent


def sample(
    labels: npt.NDArray[np.uint16],
    attention: npt.NDArray[np.uint8],
    rows: Positions,
    columns: Positions,
    level: np.float32,
) -> npt.NDArray[np.uint16]:
    """Samples a label map at the points rows x columns.

    Args:
        labels: (h, w) cluster ids.
        attention: (h, w) attention in 0..255.
        rows: (H,) grid coordinates as made by `centres`; outside the grid the nearest edge counts.
        columns: (W,) grid coordinates.
        level: Threshold in units of `attention`.

    Returns:
        (H, W) uint16: the id of the position that holds the point; 0 where the bilinear attention is strictly below
        `level`.
    """
    found = nearest(labels, rows, columns)
    if level <= 0:
        return found
    step = max(1, BLOCK_PIXELS // len(columns))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        found[part][bilinear(attention, rows[part], columns) < level] = 0
    return found


def nearest(ids: npt.NDArray[Id], rows: Positions, columns: Positions) -> npt.NDArray[Id]:
    """The ids of the positions of a (h, w) map that hold the points rows x columns; outside the map the nearest edge counts."""
    return ids[_holding(rows, ids.shape[0])][:, _holding(columns, ids.shape[1])]


def resize_nearest(ids: npt.NDArray[Id], size: tuple[int, int]) -> npt.NDArray[Id]:
    """An id map at another size: each pixel takes the id below its centre (torch's `nearest-exact`).

    Args:
        ids: (h, w).
        size: Height and width of the result.
    """
    rows, columns = (
        centres(0, extent, num=num, image_extent=extent, grid_extent=extent)
        for num, extent in zip(size, ids.shape, strict=True)
    )
    return nearest(ids, rows, columns)


def _holding(positions: Positions, size: int) -> npt.NDArray[np.intp]:
    return np.clip(np.floor(positions), 0, size - 1).astype(np.intp)


def bilinear(values: npt.NDArray[np.uint8], rows: Positions, columns: Positions) -> npt.NDArray[np.float32]:
    """The values of a (h, w) map at the points rows x columns, between them linearly; outside the map the nearest edge counts."""
    low, high, weight = _neighbours(rows, values.shape[0])
    across = _between(values[low].astype(np.float32), values[high].astype(np.float32), weight[:, None])
    low, high, weight = _neighbours(columns, values.shape[1])
    return _between(across[:, low], across[:, high], weight)


def _between(low: Any, high: Any, weight: Any) -> npt.NDArray[np.float32]:
    # low + w (high - low), not (1 - w) low + w high: where both are equal the result is equal to them to the bit, which
    # is what makes a threshold at exactly that value strict.
    high -= low
    high *= weight
    high += low
    return high  # type: ignore[no-any-return]


def _neighbours(
    positions: Positions, size: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """The two positions around each point and the weight of the second; values sit at the centres k + 0.5."""
    place = np.clip(positions - 0.5, 0, size - 1)
    low = np.floor(place).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), (place - low).astype(np.float32)
