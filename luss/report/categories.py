"""IoU of every category and what is taken for what, where masks exist."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.folders import find_pairs
from luss.data.imagenet_s import IGNORE, read_mask
from luss.errors import LussError

MAX_IMAGES = 4000
MAX_MATRIX = 120


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by found cluster and true category.

    Attributes:
        pixels: (C + 2, C + 1) int64 pixels of cluster i and category j; the last row holds ids above C.
        num_counted: Images counted.
        num_images: Images with a mask.
    """

    pixels: NDArray[np.int64]
    num_counted: int
    num_images: int


def count_confusion(
    predictions: Path,
    masks: Path,
    num_classes: int,
    *,
    max_images: int = MAX_IMAGES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Confusion:
    """Counts pixels of predictions against masks; evenly spaced images where there are more than `max_images`.

    Args:
        predictions: Folder of predicted ids.
        masks: Folder of true ids; `IGNORE` is not counted.
        num_classes: C.
        max_images: Most images to read.
        on_progress: Called with (images done, images to do).

    Raises:
        LussError: A folder is absent, a file cannot be read, or the sizes of a pair differ.
    """
    pairs, _ = find_pairs(predictions, masks)
    chosen = pairs[:: max(1, -(-len(pairs) // max_images))]
    total = np.zeros((num_classes + 2) * (num_classes + 1), np.int64)
    for done, pair in enumerate(chosen, start=1):
        found, true = read_mask(pair.prediction), read_mask(pair.mask)
        if found.shape != true.shape:
            raise LussError(f"{pair.prediction} has another size than its mask {pair.mask}")
        counted = (true != IGNORE) & (true <= num_classes)
        cluster = np.minimum(found[counted], num_classes + 1).astype(np.int64)
        total += np.bincount(cluster * (num_classes + 1) + true[counted], minlength=total.size)
        on_progress(done, len(chosen))
    return Confusion(total.reshape(num_classes + 2, num_classes + 1), len(chosen), len(pairs))


def category_rows(metrics: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a category, background first: id, name, iou, boundary_iou (percent) and the cluster matched to it (None without one)."""
    cluster_of = {category: int(cluster) for cluster, category in metrics["matching"].items()}
    return [
        {
            "id": category,
            "name": "background" if category == 0 else names[category - 1] if category <= len(names) else str(category),
            "iou": round(iou, 2),
            "boundary_iou": round(metrics["boundary_ious"][category], 2),
            "cluster": cluster_of.get(category),
        }
        for category, iou in enumerate(metrics["ious"])
        if category <= len(names) or not names
    ]


def confusion_json(confusion: Confusion, matching: dict[str, int], num_shown: int) -> dict[str, Any]:
    """What a page shows of a confusion, after the matching.

    Args:
        confusion: The counts.
        matching: Cluster to category, as in `metrics.json`.
        num_shown: Categories 0..num_shown - 1 exist.

    Returns:
        num_counted, num_images; shares: for each category [[found category, share], ...], the five greatest; matrix: shares in permille,
        true category by found category, for at most `MAX_MATRIX` categories, else None.
    """
    order = np.zeros(num_shown, np.int64)
    for cluster, category in matching.items():
        if category < num_shown:
            order[category] = int(cluster)
    truth = confusion.pixels.sum(axis=0)[:num_shown]
    shares = confusion.pixels[order][:, :num_shown].T / np.maximum(truth, 1)[:, None]
    best = np.argsort(-shares, axis=1, kind="stable")[:, :5]
    return {
        "num_counted": confusion.num_counted,
        "num_images": confusion.num_images,
        "shares": [
            [[int(j), round(float(row[j]), 4)] for j in places if row[j] >= 0.0005]
            for row, places in zip(shares, best, strict=True)
        ],
        "matrix": np.rint(1000 * shares).astype(int).tolist() if num_shown <= MAX_MATRIX else None,
    }
