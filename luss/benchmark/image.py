"""Counting one image: everything the metrics need to know about it, in a few passes over its pixels."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.boundary import boundary, boundary_distance, core, uniform, window_extreme
from luss.benchmark.counts import F_UNIT, OVERALL, QUANTITIES, Counts, Tie, num_steps, pairs_shape, pixels_shape
from luss.benchmark.levels import Levels
from luss.benchmark.tally import Integers, Tally, histogram, pack
from luss.data.imagenet_s import BACKGROUND, IGNORE
from luss.errors import LussError

Map = NDArray[np.integer]
Attention = NDArray[np.floating]

_BETA_SQUARED = 0.3
_GROUP_LIMITS = np.array([5, 25, 50], np.float32)
_MAX_ID = 65535
_ALL, _FIRST_BOUNDARY, _FIRST_INSIDE = range(3)


@dataclass(frozen=True, eq=False)
class _Regions:
    """The counted pixels of an image, as (N,) columns: pixels that agree in everything the metrics ask are one row."""

    cluster: Integers
    category: Integers
    on_boundary: Integers
    level: Integers
    count: Integers


class ImageCounter:
    """Counts images for one number of categories and one list of thresholds. Cheap to pickle, safe to share.

    Attributes:
        num_classes: C.
        thresholds: As in `Counts`.
    """

    def __init__(
        self, num_classes: int, thresholds: Sequence[float] | None = None, *, allow_foreign_ids: bool = False
    ) -> None:
        """Prepares counting.

        Args:
            num_classes: C, 1..999: ids from 1000 on mean "ignored".
            thresholds: Attention thresholds, strictly ascending; None when there is no attention.
            allow_foreign_ids: Whether predictions may hold ids above C. Such a pixel counts as foreground for the
                F-measure and as a predicted id for the image accuracy (a wrong one), misses its category's truth, and
                is no category's false positive.

        Raises:
            LussError: `num_classes` or `thresholds` is out of range.
        """
        if not 1 <= num_classes < IGNORE:
            raise LussError(f"the number of categories must lie in 1..{IGNORE - 1}, not {num_classes}")
        self.num_classes = num_classes
        self.thresholds = None if thresholds is None else tuple(float(value) for value in thresholds)
        self._allow_foreign_ids = allow_foreign_ids
        self._levels = None if self.thresholds is None else Levels(self.thresholds)

    def problems(self, prediction: Map, mask: Map, attention: Attention | None = None) -> list[str]:
        """What makes an image impossible to evaluate: sizes that differ, ids out of range, attention that is no number.

        Args:
            prediction: (H, W) cluster ids.
            mask: (H, W) category ids.
            attention: (H, W), when the counter has thresholds.

        Returns:
            One phrase a problem; empty when all is well.
        """
        found = []
        for word, values in (("prediction", prediction), ("mask", mask)):
            if values.ndim != 2 or values.size == 0 or not np.issubdtype(values.dtype, np.integer):
                return [f"the {word} is not a (H, W) array of whole numbers but {values.dtype} of shape {values.shape}"]
        if prediction.shape != mask.shape:
            found.append(f"the prediction has size {_size(prediction)} but the mask {_size(mask)} (width x height)")
        found += self._foreign("mask", mask, self.num_classes, IGNORE)
        found += self._foreign("prediction", prediction, _MAX_ID if self._allow_foreign_ids else self.num_classes)
        if (attention is None) != (self._levels is None):
            found.append("attention and thresholds belong together: give both or neither")
        elif attention is not None:
            if attention.shape != mask.shape:
                found.append(f"the attention has shape {attention.shape} but the mask {mask.shape}")
            if not np.issubdtype(attention.dtype, np.floating) or not np.isfinite(attention).all():
                found.append("the attention holds values that are not finite floating-point numbers")
        return found

    def count(self, prediction: Map, mask: Map, attention: Attention | None = None) -> Counts:
        """Counts one image.

        Args:
            prediction: (H, W) cluster ids, 0 for background.
            mask: (H, W) category ids in 0..C, and 1000 where nothing counts.
            attention: (H, W), when the counter has thresholds: pixels below a threshold become background there.

        Raises:
            LussError: See `problems`.
        """
        if found := self.problems(prediction, mask, attention):
            raise LussError("; ".join(found))
        return self.count_checked(prediction, mask, attention)

    def count_checked(self, prediction: Map, mask: Map, attention: Attention | None = None) -> Counts:
        """As `count`, for an image that `problems` finds nothing wrong with."""
        steps = num_steps(self.thresholds)
        keep = (prediction != BACKGROUND).view(np.uint8)
        level: NDArray[np.unsignedinteger] = keep
        if self._levels is not None and attention is not None:
            level = self._levels(attention) * keep
        regions, first_boundary, first_inside = _measure(prediction, mask, level, steps)
        present = np.unique(regions.category[regions.category != BACKGROUND])
        survivors = _survivors(regions, steps)
        largest, ties = _largest(*survivors, present, self.num_classes)
        return Counts(
            self.num_classes,
            self.thresholds,
            1,
            _tally_pixels((regions, first_boundary, first_inside), self.num_classes, steps),
            _cooccurrence(*survivors, present, self.num_classes),
            largest,
            _f_measure(regions, steps),
            ties,
        )

    @staticmethod
    def _foreign(word: str, ids: Map, highest: int, ignore: int | None = None) -> list[str]:
        if int(ids.min()) >= 0 and int(ids.max()) <= highest:
            return []
        foreign = np.unique(ids[(ids < 0) | (ids > highest)])
        foreign = foreign[foreign != ignore] if ignore is not None else foreign
        if foreign.size == 0:
            return []
        shown = ", ".join(str(value) for value in foreign[:5]) + (", ..." if foreign.size > 5 else "")
        return [f"the {word} holds ids outside 0..{highest}: {shown}"]


def _size(values: Map) -> str:
    return f"{values.shape[1]} x {values.shape[0]}"


def _measure(
    prediction: Map, mask: Map, level: NDArray[np.unsignedinteger], steps: int
) -> tuple[_Regions, _Regions, _Regions]:
    """Groups the counted pixels by level, by the first threshold on a boundary, and by the first one inside background.

    A surviving pixel is interior while its whole window has its cluster and survives, so up to the window's smallest
    level; a pixel set to background is interior once nothing in its window survives, so from the window's largest level
    on. Two window extremes thus give the boundaries at all thresholds.
    """
    distance = boundary_distance(*mask.shape)
    first_boundary, first_inside = np.zeros_like(level), np.full_like(level, steps)
    same = uniform(prediction, distance)
    core(first_boundary, distance)[...] = window_extreme(level, distance, np.minimum) * same
    core(first_inside, distance)[...] = window_extreme(level, distance, np.maximum)

    clusters, cluster_index = _ranks(prediction)
    categories, category_index = _ranks(mask)
    region = category_index * 2 + boundary(mask)
    cells = 2 * categories.size * (steps + 1)
    region *= steps + 1
    pair = cluster_index * cells + region

    def rows(keys: Integers, ids: Integers) -> _Regions:
        found, count = histogram(keys, ids.size * cells)
        cluster, category, on_boundary, at = np.unravel_index(found, (ids.size, categories.size, 2, steps + 1))
        counted = np.flatnonzero(categories[category] != IGNORE)
        columns = (ids[cluster], categories[category], on_boundary, at, count)
        return _Regions(*(column[counted].astype(np.int64, copy=False) for column in columns))

    background = np.zeros(1, np.int64)
    return rows(pair + level, clusters), rows(pair + first_boundary, clusters), rows(region + first_inside, background)


def _ranks(ids: Map) -> tuple[Integers, Integers]:
    """The distinct ids, ascending, and each pixel's position among them."""
    lookup = np.zeros(int(ids.max()) + 1, np.int64)
    lookup[ids] = 1
    present = np.flatnonzero(lookup)
    lookup[present] = np.arange(present.size)
    return present, lookup[ids]


def _size_groups(regions: _Regions, num_classes: int) -> Integers:
    """(C + 1,) each category's size group here: ceil(100 n_c / n) <= 5, 25, 50 or more, in float32 as published."""
    covered = np.bincount(regions.category, weights=regions.count, minlength=num_classes + 1)
    percent = np.ceil(np.float32(100) * covered.astype(np.float32) / np.float32(max(1.0, covered.sum())))
    groups: Integers = np.searchsorted(_GROUP_LIMITS, percent, side="left").astype(np.int64)
    return groups


def _tally_pixels(measures: tuple[_Regions, _Regions, _Regions], num_classes: int, steps: int) -> Tally:
    shape = pixels_shape(num_classes, steps)
    groups = _size_groups(measures[_ALL], num_classes)
    present = np.unique(measures[_ALL].category)
    present_groups = np.unique(groups[present[present != BACKGROUND]])
    keys, values = [], []
    for column, rows in enumerate(measures):
        value = np.zeros((rows.count.size, QUANTITIES), np.int64)
        value[:, column] = rows.count
        value[:, column + 3] = rows.count * rows.on_boundary
        cluster = np.minimum(rows.cluster, num_classes + 1)
        background = np.flatnonzero(rows.category == BACKGROUND)
        foreground = np.flatnonzero(rows.category != BACKGROUND)
        slots = [(foreground, groups[rows.category[foreground]])]
        slots += [(background, np.full(background.size, slot)) for slot in (*present_groups, OVERALL)]
        for chosen, slot in slots:
            keys.append(pack(shape, slot, cluster[chosen], rows.category[chosen], rows.level[chosen]))
            values.append(value[chosen])
    return Tally.of(np.concatenate(keys), np.concatenate(values))


def _survivors(regions: _Regions, steps: int) -> tuple[Integers, Integers]:
    """Size of each cluster at each threshold.

    Returns:
        (K,) foreground ids that survive somewhere, ascending, and (K, B) counted pixels.
    """
    rows = np.flatnonzero(regions.level > 0)
    clusters, index = np.unique(regions.cluster[rows], return_inverse=True)
    sizes = np.zeros((clusters.size, steps + 1), np.int64)
    np.add.at(sizes, (index, regions.level[rows]), regions.count[rows])
    above = sizes.sum(axis=1, keepdims=True) - np.cumsum(sizes, axis=1)
    return clusters, above[:, :steps]


def _cooccurrence(clusters: Integers, sizes: Integers, present: Integers, num_classes: int) -> Tally:
    own = clusters <= num_classes
    shape = pairs_shape(num_classes, sizes.shape[1])
    highest = (sizes[own] > 0).sum(axis=1)
    keys = pack(shape, clusters[own, None], present[None], highest[:, None]).ravel()
    return Tally.of(keys, np.ones((keys.size, 1), np.int64))


def _largest(clusters: Integers, sizes: Integers, present: Integers, num_classes: int) -> tuple[Tally, Counter[Tie]]:
    """The largest cluster at each threshold, as runs of thresholds with the same one (or the same tie)."""
    ties: Counter[Tie] = Counter()
    keys: list[Integers] = []
    signs: list[Integers] = []
    steps = sizes.shape[1]
    if clusters.size and present.size:
        winners = (sizes == sizes.max(axis=0)) & (sizes > 0)
        starts = [0, *(np.flatnonzero((winners[:, 1:] != winners[:, :-1]).any(axis=0)) + 1).tolist(), steps]
        shape = pairs_shape(num_classes, steps)
        for first, end in itertools.pairwise(starts):
            # The lowest id wins a tie, so an id above C loses against any other.
            tied = clusters[winners[:, first] & (clusters <= num_classes)]
            if tied.size > 1:
                ties[first, end, tuple(tied.tolist()), tuple(present.tolist())] += 1
            for cluster in tied.tolist() if tied.size == 1 else []:
                keys += [pack(shape, cluster, present, first), pack(shape, cluster, present, end)]
                signs += [np.ones(present.size, np.int64), np.full(present.size, -1)]
    if not keys:
        return Tally.empty(1), ties
    return Tally.of(np.concatenate(keys), np.concatenate(signs)[:, None]), ties


def _f_measure(regions: _Regions, steps: int) -> Integers:
    """(B,) F-measure of foreground against background at each threshold, beta squared 0.3, in units of 1 / `F_UNIT`."""
    truth = regions.category != BACKGROUND
    by_level = np.zeros((2, steps + 1), np.int64)
    np.add.at(by_level, (truth.astype(np.int64), regions.level), regions.count)
    above = by_level.sum(axis=1, keepdims=True) - np.cumsum(by_level, axis=1)
    hits, predicted = above[1, :steps], above[:, :steps].sum(axis=0)
    precision = hits / (predicted + 1e-20)
    recall = hits / (by_level[1].sum() + 1e-20)
    score = (1 + _BETA_SQUARED) * precision * recall / (_BETA_SQUARED * precision + recall + 1e-20)
    units: Integers = np.rint(score * F_UNIT).astype(np.int64)
    return units
