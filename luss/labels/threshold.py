"""Choosing the attention threshold tau without any label, from the histogram of the attention of the whole data set.

The published pipeline searches tau on the validation set with its ground truth. `auto_threshold` needs no ground truth:
it assumes that the attention of objects and of background are two populations and puts tau between them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from luss.errors import LussError
from luss.labels.store import LabelStore

LEVELS = 256

Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Method = Literal["otsu", "minimum_error", "triangle"]


@dataclass(frozen=True)
class AutoThreshold:
    """A threshold found without labels.

    Attributes:
        value: tau in [0, 1]; halfway between two stored levels, so no stored value equals it (except the degenerate 0).
        method: How it was found.
        separation: Otsu's separability at `value`, between-class over total variance, in [0, 1]: 0 for one value only,
            about 0.64 for one bell, above 0.8 for two clear groups. Low values say that attention does not tell objects
            from background.
        foreground_share: Share of positions that are kept.
    """

    value: float
    method: Method
    separation: float
    foreground_share: float


def histogram(store: LabelStore) -> Counts:
    """(256,) int64: how many positions of all images have each attention level round(255 a). Streams the store."""
    counts = np.zeros(LEVELS, np.int64)
    for block in store.attention_blocks():
        counts += np.bincount(block, minlength=LEVELS)
    return counts


def auto_threshold(counts: npt.ArrayLike, method: Method = "otsu") -> AutoThreshold:
    """Chooses a threshold from an attention histogram.

    Methods:
        otsu: maximises the between-class variance (Otsu 1979); exact, all splits are tried.
        minimum_error: the split whose two Gaussians, of their own variances, explain the histogram best (Kittler and
            Illingworth 1986); finds a small object population that Otsu, which prefers equal halves, cuts in two.
        triangle: the level farthest below the line from the histogram's peak to the end of its longer tail (Zack et al.
            1977); for one dominant population with a tail.

    Of equally good splits (the empty levels between two groups) the middle one is taken. A histogram with one value
    only has nothing to separate: the threshold is 0, which keeps everything, and the separation is 0.

    Args:
        counts: (256,) positions of each level, from `histogram`.
        method: See above.

    Returns:
        The threshold and what is known about it.

    Raises:
        LussError: The histogram is empty or has the wrong shape, or the method is unknown.
    """
    weights = np.asarray(counts, dtype=np.int64)
    if weights.shape != (LEVELS,) or weights.sum() == 0:
        raise LussError(f"an attention histogram has {LEVELS} levels and at least one position, got {weights.shape}")
    if method not in _SCORES:
        raise LussError(f"threshold method {method!r} is unknown: use one of {', '.join(_SCORES)}")
    shares = 1 - np.cumsum(weights)[:-1] / weights.sum()  # kept when levels 0..t are dropped, for t = 0..254
    valid = (shares > 0) & (np.cumsum(weights)[:-1] > 0)
    if not valid.any():
        return AutoThreshold(value=0.0, method=method, separation=0.0, foreground_share=1.0)
    split = _middle_of_best(np.where(valid, _SCORES[method](weights), -np.inf))
    variance = _otsu(weights)[split]
    return AutoThreshold(
        value=(split + 0.5) / 255,
        method=method,
        separation=float(variance / _total_variance(weights)),
        foreground_share=float(shares[split]),
    )


def _middle_of_best(scores: Scores) -> int:
    best = int(scores.argmax())
    last = best
    while last + 1 < len(scores) and scores[last + 1] == scores[best]:
        last += 1
    return (best + last) // 2


def _moments(weights: Counts, power: int) -> tuple[Scores, Scores]:
    """Sums of level**power over both sides of every split t = 0..254, from integers: equal splits get equal floats."""
    sums = np.cumsum(weights.astype(object) * np.arange(LEVELS).astype(object) ** power)
    return sums[:-1].astype(np.float64), (sums[-1] - sums[:-1]).astype(np.float64)


def _total_variance(weights: Counts) -> float:
    levels = np.arange(LEVELS)
    mean = np.average(levels, weights=weights)
    return float(np.average((levels - mean) ** 2, weights=weights))


def _otsu(weights: Counts) -> Scores:
    """(255,) between-class variance of every split; -inf where a side is empty."""
    (mass0, mass1), (sum0, sum1) = _moments(weights, 0), _moments(weights, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = mass0 * mass1 * (sum0 / mass0 - sum1 / mass1) ** 2 / (mass0 + mass1) ** 2
    return np.where((mass0 > 0) & (mass1 > 0), between, -np.inf)


def _minimum_error(weights: Counts) -> Scores:
    """(255,) minus Kittler and Illingworth's criterion of every split; -inf where a side is empty."""
    score = np.zeros(LEVELS - 1)
    for mass, first, second in zip(*(_moments(weights, power) for power in range(3)), strict=True):
        share = mass / weights.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            # Rounding to levels alone spreads a value by 1/12: without it a side of one level would have an error of
            # minus infinity.
            variance = np.maximum(second / mass - (first / mass) ** 2, 0) + 1 / 12
            score -= share * np.log(variance) - 2 * share * np.log(share)
    return np.where(np.isfinite(score), score, -np.inf)


def _triangle(weights: Counts) -> Scores:
    """(255,) how far the histogram at every level lies below the line from its peak to the end of its longer tail."""
    filled = np.flatnonzero(weights)
    peak = int(weights.argmax())
    end = int(filled[-1] if filled[-1] - peak >= peak - filled[0] else filled[0])
    levels = np.arange(LEVELS)
    along = (levels - peak) / (end - peak)
    depth = (1 - along) * weights[peak] + along * weights[end] - weights
    return np.where((along >= 0) & (along <= 1), depth, -np.inf)[:-1].astype(np.float64)


_SCORES = {"otsu": _otsu, "minimum_error": _minimum_error, "triangle": _triangle}
