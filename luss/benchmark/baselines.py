"""Predictions that need no segmentation, to show what a number means: nothing at all, a box in the middle, the whole image."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.counts import Accumulator, Counts
from luss.benchmark.image import ImageCounter, Map
from luss.data.imagenet_s import BACKGROUND, IGNORE
from luss.errors import LussError

BOX_AREA = 0.5
"""Share of the image that the centred box covers: photographs of one object leave about half to the background."""

BACKGROUND_ONLY, CENTRED_BOX, WHOLE_IMAGE, ORACLE_BOX = "background", "centred_box", "whole_image", "oracle_box"

TITLES = {
    BACKGROUND_ONLY: "everything background",
    CENTRED_BOX: "centred box of the image's cluster",
    WHOLE_IMAGE: "whole image its cluster",
    ORACLE_BOX: "centred box of the true category (uses ground truth)",
}
"""The simple baselines, and what a table calls them."""

NEED_CLUSTERS = (CENTRED_BOX, WHOLE_IMAGE)
"""Those that need the cluster of each image."""


def centred_box(label: int, height: int, width: int) -> NDArray[np.uint16]:
    """(H, W) ids: `label` in a box in the middle, at least one pixel, and 0 around it.

    The box has the aspect of the image (`height` and `width` in pixels, >= 1) and `BOX_AREA` of its area, as nearly as whole pixels allow.
    """
    labels = np.full((height, width), BACKGROUND, np.uint16)
    rows, columns = (max(1, round(extent * math.sqrt(BOX_AREA))) for extent in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    labels[top : top + rows, left : left + columns] = label
    return labels


def largest_category(mask: Map) -> int:
    """The category that covers most of a mask, the lowest of equals; 0 when it holds none."""
    counted = mask[(mask != IGNORE) & (mask != BACKGROUND)]
    return int(np.bincount(counted).argmax()) if counted.size else BACKGROUND


def baseline_prediction(name: str, mask: Map, cluster: int) -> NDArray[np.uint16]:
    """What a simple baseline predicts for an image.

    Args:
        name: A key of `TITLES`.
        mask: (H, W) true ids; only `ORACLE_BOX` looks at more than its size.
        cluster: The image's cluster 1..C, 0 when it has none.

    Returns:
        (H, W) ids.
    """
    height, width = mask.shape
    if name == CENTRED_BOX:
        return centred_box(cluster, height, width)
    if name == ORACLE_BOX:
        return centred_box(largest_category(mask), height, width)
    return np.full((height, width), cluster if name == WHOLE_IMAGE else BACKGROUND, np.uint16)


def count_baselines(
    items: Iterable[tuple[str, Map, int]], names: Iterable[str], *, num_classes: int
) -> dict[str, Counts]:
    """Counts simple baselines, several in one pass over the masks.

    Args:
        items: What to call the image in an error, its mask (H, W), and its cluster 1..C (0 for none). Read once, one at a time.
        names: Keys of `TITLES`.
        num_classes: C.

    Returns:
        The counts of each baseline, for `luss.benchmark.metrics.evaluate`.

    Raises:
        LussError: A mask holds ids outside 0..C and 1000.
    """
    counter = ImageCounter(num_classes)
    totals = {name: Accumulator(Counts.empty(num_classes)) for name in names}
    for image, mask, cluster in items:
        for name, total in totals.items():
            try:
                total.add(counter.count(baseline_prediction(name, mask, cluster), mask))
            except LussError as error:
                raise LussError(f"{image}: {error}") from error
    return {name: total.total() for name, total in totals.items()}
