"""Reading counts at any threshold: dense tables over clusters and categories, and the scores that follow from them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.counts import F_UNIT, OVERALL, Counts, num_steps, pairs_shape, pixels_shape
from luss.benchmark.matching import Matching, hungarian
from luss.benchmark.tally import Integers

Scores = NDArray[np.float64]
"""IoU of 0..C, in 0..1."""


def _clusters_by_category(matching: Matching) -> Integers:
    """(C + 1,) the cluster of each category."""
    order = np.zeros(len(matching), np.int64)
    for cluster, category in matching.items():
        order[category] = cluster
    return order


def matched_ious(shared: Integers, predicted: Integers, truth: Integers, matching: Matching) -> Scores:
    """IoU of each category; 0 for one that neither side holds.

    Args:
        shared: (C + 2, C + 1) pixels of cluster i and category j.
        predicted: (C + 2,) pixels of cluster i.
        truth: (C + 1,) pixels of category j.
        matching: Cluster to category.
    """
    order = _clusters_by_category(matching)
    hits = shared[order, np.arange(order.size)]
    scores: Scores = hits / (predicted[order] + truth - hits + 1e-10)
    return scores


@dataclass(frozen=True, eq=False)
class Tables:
    """Counts at one threshold by cluster and category: pixels, those on cluster boundaries, on both boundaries."""

    pixels: Integers
    boundary: Integers
    shared_boundary: Integers
    truth: Integers
    boundary_truth: Integers

    def ious(self, matching: Matching) -> Scores:
        """(C + 1,) IoU of each category."""
        return matched_ious(self.pixels, self.pixels.sum(axis=1), self.truth, matching)

    def boundary_ious(self, matching: Matching) -> Scores:
        """(C + 1,) boundary IoU of each category."""
        return matched_ious(self.shared_boundary, self.boundary.sum(axis=1), self.boundary_truth, matching)


class CountsReader:
    """Counts unpacked once, read at any threshold."""

    def __init__(self, counts: Counts) -> None:
        """Unpacks the counts."""
        self.counts = counts
        self._num_steps = num_steps(counts.thresholds)
        self._slot, self._cluster, self._category, self._level = counts.pixels.unpack(
            pixels_shape(counts.num_classes, self._num_steps)
        )
        self._pairs = counts.cooccurrence.unpack(pairs_shape(counts.num_classes, self._num_steps))
        self._largest = counts.largest.unpack(pairs_shape(counts.num_classes, self._num_steps))
        # Background is counted once for all images and once more for each size group of its image.
        self._all_rows = np.flatnonzero((self._slot == OVERALL) | (self._category > 0))
        self._truth = self._by_category(self._all_rows, 0)

    def pixel_tables(self) -> Iterator[Integers]:
        """Pixels of cluster and category over all images, one threshold after the other.

        Yields:
            (C + 2, C + 1), the same array each time, valid until the next.
        """
        table = self._dense(self._all_rows, 0)
        by_level = self._all_rows[np.argsort(self._level[self._all_rows], kind="stable")]
        ends = np.searchsorted(self._level[by_level], np.arange(self._num_steps), side="right")
        start = 0
        for end in ends:
            # A threshold moves the pixels of one level from their clusters to background.
            dropped = by_level[start:end]
            np.subtract.at(
                table, (self._cluster[dropped], self._category[dropped]), self.counts.pixels.values[dropped, 0]
            )
            table[0] += self._by_category(dropped, 0)
            start = end
            yield table

    def best_matching(self, step: int, pixels: Integers) -> Matching:
        """The matching of the most common images, and of the best mIoU among those; `pixels` is the table of threshold `step`."""
        num_classes = self.counts.num_classes
        cluster, category, level = self._pairs
        images = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        alive = level > step
        np.add.at(images, (cluster[alive], category[alive]), self.counts.cooccurrence.values[alive, 0])
        own = pixels[:-1]
        union = own.sum(axis=1, keepdims=True) + self._truth - own
        return hungarian(images[1:, 1:], (own / (union + 1e-10))[1:, 1:])

    def ious(self, pixels: Integers, matching: Matching) -> Scores:
        """(C + 1,) IoU of each category, from the pixels at a threshold."""
        return matched_ious(pixels, pixels.sum(axis=1), self._truth, matching)

    def image_accuracy(self, step: int, matching: Matching) -> float:
        """Percentage of images whose largest cluster's category is in the mask; of equals, the lowest category's."""
        cluster, category, since = self._largest
        matched = np.array([matching[index] for index in range(len(matching))])
        correct = (since <= step) & (matched[cluster] == category)
        num_correct = int(self.counts.largest.values[correct, 0].sum())
        for (first, end, tied, present), number in self.counts.ties.items():
            if first <= step < end and min(matching[index] for index in tied) in present:
                num_correct += number
        return 100 * num_correct / self.counts.num_images

    def f_measure(self, step: int) -> float:
        """Mean F-measure of the images in percent."""
        return 100 * int(self.counts.f_measure[step]) / (F_UNIT * self.counts.num_images)

    def tables(self, step: int, slot: int | None = None) -> Tables:
        """The tables at a threshold, over all images or for the size group of the given position."""
        rows = self._all_rows if slot is None else np.flatnonzero(self._slot == slot)
        return Tables(
            self._pixels(step, rows),
            self._boundary(step, rows, 0),
            self._boundary(step, rows, 3),
            self._by_category(rows, 0),
            self._by_category(rows, 3),
        )

    def _pixels(self, step: int, rows: Integers) -> Integers:
        """(C + 2, C + 1): a cluster keeps the pixels above the threshold, background gets all others."""
        above = self._level[rows] > step
        table = self._dense(rows[above], 0)
        table[0] += self._by_category(rows[~above], 0)
        return table

    def _boundary(self, step: int, rows: Integers, column: int) -> Integers:
        """(C + 2, C + 1): see `Counts.pixels`; column 0 for all pixels, 3 for those on the boundary of the mask."""
        begun = rows[self._level[rows] <= step]
        dropped = self._dense(begun, column)
        table = self._dense(begun, column + 1) - dropped
        # Background starts as what clusters have dropped, and stops being boundary where nothing is left around it.
        table[0] = dropped.sum(axis=0) - self._by_category(begun, column + 2)
        return table

    def _dense(self, rows: Integers, column: int) -> Integers:
        shape = (self.counts.num_classes + 2, self.counts.num_classes + 1)
        table = np.zeros(shape, np.int64)
        np.add.at(table, (self._cluster[rows], self._category[rows]), self.counts.pixels.values[rows, column])
        return table

    def _by_category(self, rows: Integers, column: int) -> Integers:
        table = np.zeros(self.counts.num_classes + 1, np.int64)
        np.add.at(table, self._category[rows], self.counts.pixels.values[rows, column])
        return table
