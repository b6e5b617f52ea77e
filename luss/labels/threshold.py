"""Choosing the attention threshold tau without any label, from the histogram of the attention of the whole data set.

The published pipeline searches tau on the validation set with its ground truth. `auto_threshold` needs no ground truth:
it assumes that the attention of objects and of background are two populations and puts tau between them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from luss.errors import LussError
from luss.labels.store import LabelStore

LEVELS = 256

# Values are stored as whole levels: two groups whose means lie nearer than this differ by rounding.
_LEAST_CONTRAST = 2.0

Counts = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AutoThreshold:
    """A threshold found without labels.

    Attributes:
        value: tau in [0, 1]; halfway between two stored levels, so no stored value equals it (except the degenerate 0).
        separation: Otsu's separability at `value`, between-class over total variance, in [0, 1]: 0 for one value only,
            about 0.64 for one bell, above 0.8 for two clear groups. Low values say that attention does not tell objects
            from background.
        contrast: Distance of the two groups' means, in levels; 0 where the values hold no more than rounding.
    """

    value: float
    separation: float
    contrast: float = 0.0


def histogram(store: LabelStore) -> Counts:
    """(256,) int64: how many positions of all images have each attention level round(255 a). Streams the store."""
    counts = np.zeros(LEVELS, np.int64)
    for block in store.attention_blocks():
        counts += np.bincount(block, minlength=LEVELS)
    return counts


def auto_threshold(counts: npt.ArrayLike) -> AutoThreshold:
    """Chooses the threshold of the greatest between-class variance (Otsu 1979); exact, all splits are tried.

    Of equally good splits (the empty levels between two groups) the middle one is taken. A histogram whose best groups
    differ by less than two levels has nothing to separate but rounding, which Otsu would call perfectly separated: the
    threshold is 0, which keeps everything, and separation and contrast are 0.

    Args:
        counts: (256,) positions of each level, from `histogram`.

    Raises:
        LussError: The histogram is empty or has the wrong shape.
    """
    weights = np.asarray(counts, dtype=np.int64)
    if weights.shape != (LEVELS,) or weights.sum() == 0:
        raise LussError(f"an attention histogram has {LEVELS} levels and at least one position, got {weights.shape}")
    scores = _between_variance(weights)
    if np.isneginf(scores).all():
        return AutoThreshold(value=0.0, separation=0.0)
    split, levels = _middle_of_best(scores), np.arange(LEVELS)
    below, above = (
        np.average(levels[part], weights=weights[part]) for part in (slice(split + 1), slice(split + 1, None))
    )
    if above - below < _LEAST_CONTRAST:
        return AutoThreshold(value=0.0, separation=0.0)
    total = np.average((levels - np.average(levels, weights=weights)) ** 2, weights=weights)
    return AutoThreshold((split + 0.5) / 255, float(scores[split] / total), contrast=float(above - below))


def _middle_of_best(scores: Scores) -> int:
    best = int(scores.argmax())
    last = best
    while last + 1 < len(scores) and scores[last + 1] == scores[best]:
        last += 1
    return (best + last) // 2


def _between_variance(weights: Counts) -> Scores:
    """(255,) between-class variance of every split; -inf where a side is empty."""
    (mass0, mass1), (sum0, sum1) = _moments(weights, 0), _moments(weights, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = mass0 * mass1 * (sum0 / mass0 - sum1 / mass1) ** 2 / (mass0 + mass1) ** 2
    return np.where((mass0 > 0) & (mass1 > 0), between, -np.inf)


def _moments(weights: Counts, power: int) -> tuple[Scores, Scores]:
    """Sums of level**power over both sides of every split t = 0..254, from integers: equal splits get equal floats."""
    sums = np.cumsum(weights.astype(object) * np.arange(LEVELS).astype(object) ** power)
    return sums[:-1].astype(np.float64), (sums[-1] - sums[:-1]).astype(np.float64)
