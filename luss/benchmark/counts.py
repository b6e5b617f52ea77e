"""What an evaluation keeps of the images: counts that hold every metric before the matching, at every threshold.

Counts of parts of a data set add up, whatever the parts and their order, so workers share the load and the matching is
found and applied afterwards. Nothing but whole numbers is kept: the sum of F-measures is in fixed point, so that not
even rounding depends on the order.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from luss.benchmark.tally import Integers, Tally
from luss.errors import LussError

GROUPS = ("S", "MS", "ML", "L")
"""Size groups: a category covers up to 5 %, 25 %, 50 % or more of an image's counted pixels."""

OVERALL = len(GROUPS)
"""Slot of the background pixels of all images; a background pixel lies in each of its image's size groups as well."""

QUANTITIES = 6
"""Columns of `Counts.pixels`, see there."""

F_UNIT = 1 << 40
"""Fixed-point unit of F-measure sums: an error below 1e-12 an image, room for 8 million images."""

Tie = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""(first threshold, end threshold, tied clusters, categories of the image)."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Mergeable counts of a set of images.

    A pixel's level is the number of thresholds it survives: at threshold k it keeps its cluster when its level is above
    k, and is background otherwise. Without attention there is one threshold, which everything but predicted background
    survives.

    The keys of `pixels` are (slot, cluster, category, level): slot = size group of the category, for category 0 each
    group of its image and `OVERALL`; cluster C + 1 stands for all ids above C. Its columns count, for all pixels and
    then for those on the boundary of the mask only: pixels by level; pixels by the first threshold at which they are on
    their cluster's boundary; pixels by the first threshold at which they are inside background rather than on its
    boundary (under cluster 0).

    Attributes:
        num_classes: C; category ids are 1..C, 0 is background.
        thresholds: The B attention thresholds, ascending; None without attention (then B = 1).
        num_images: Images counted.
        pixels: Keys as above.
        cooccurrence: Keys (cluster, category, level), images that hold both; level = the highest of the cluster's
            pixels.
        largest: Keys (cluster, category, threshold k), change at k of the number of images whose largest cluster is
            this one and whose mask holds the category.
        f_measure: (B,) sums of the images' F-measures in units of 1 / `F_UNIT`.
        ties: Images whose largest clusters are equal in size, which the matching must decide.
    """

    num_classes: int
    thresholds: tuple[float, ...] | None
    num_images: int
    pixels: Tally
    cooccurrence: Tally
    largest: Tally
    f_measure: Integers
    ties: Counter[Tie] = field(default_factory=Counter)

    @classmethod
    def empty(cls, num_classes: int, thresholds: tuple[float, ...] | None = None) -> Self:
        """Counts of no image."""
        steps = np.zeros(num_steps(thresholds), np.int64)
        return cls(num_classes, thresholds, 0, Tally.empty(QUANTITIES), Tally.empty(1), Tally.empty(1), steps)

    @classmethod
    def merge(cls, parts: Iterable["Counts"]) -> Self:
        """Adds up counts; at least one.

        Raises:
            LussError: The parts differ in their number of categories or their thresholds.
        """
        parts = list(parts)
        first = parts[0]
        if any((part.num_classes, part.thresholds) != (first.num_classes, first.thresholds) for part in parts):
            raise LussError(
                "counts of different category numbers or thresholds cannot be merged: count all images alike"
            )
        ties: Counter[Tie] = Counter()
        for part in parts:
            ties.update(part.ties)
        return cls(
            first.num_classes,
            first.thresholds,
            sum(part.num_images for part in parts),
            Tally.merge(part.pixels for part in parts),
            Tally.merge(part.cooccurrence for part in parts),
            Tally.merge(part.largest for part in parts),
            np.sum([part.f_measure for part in parts], axis=0, dtype=np.int64),
            ties,
        )


def num_steps(thresholds: tuple[float, ...] | None) -> int:
    """B, the number of thresholds counted: 1 without attention."""
    return 1 if thresholds is None else len(thresholds)


def pixels_shape(num_classes: int, steps: int) -> tuple[int, int, int, int]:
    """Dimensions of the keys of `Counts.pixels`: slots, clusters, categories, levels."""
    return (OVERALL + 1, num_classes + 2, num_classes + 1, steps + 1)


def pairs_shape(num_classes: int, steps: int) -> tuple[int, int, int]:
    """Dimensions of the keys of `Counts.cooccurrence` and `Counts.largest`: clusters, categories, levels."""
    return (num_classes + 1, num_classes + 1, steps + 1)


class Accumulator:
    """Adds up many counts, merging rarely enough that the work stays near linear."""

    def __init__(self, start: Counts) -> None:
        """Starts from counts, by custom `Counts.empty(...)`."""
        self._total = start
        self._pending: list[Counts] = []
        self._num_pending = 0

    def add(self, counts: Counts) -> None:
        """Adds the counts of some images."""
        self._pending.append(counts)
        self._num_pending += 1 + len(counts.pixels)
        if self._num_pending > max(len(self._total.pixels), 1 << 14):
            self._flush()

    def total(self) -> Counts:
        """The sum of everything added."""
        self._flush()
        return self._total

    def _flush(self) -> None:
        self._total = Counts.merge([self._total, *self._pending])
        self._pending.clear()
        self._num_pending = 0
