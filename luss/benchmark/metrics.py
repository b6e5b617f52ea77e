"""From counts to the benchmark's numbers: mIoU, boundary mIoU, image accuracy, F-measure, size groups, threshold curve.

Source: Gao et al., "Large-scale Unsupervised Semantic Segmentation", and its published evaluator, which this agrees
with to 1e-5 percentage points; `docs/benchmark.md` has the formulas and where the two differ.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from luss.benchmark.counts import GROUPS, Counts
from luss.benchmark.matching import Matching, checked_matching, identity
from luss.benchmark.reader import CountsReader, Scores
from luss.benchmark.tally import Integers
from luss.errors import LussError

MatchingChoice = Literal["hungarian", "identity"] | Mapping[int, int]
"""A matching, or the way to find one."""


@dataclass(frozen=True)
class CurvePoint:
    """The metrics at one threshold, in percent."""

    threshold: float
    miou: float
    image_accuracy: float
    f_measure: float


@dataclass(frozen=True)
class Metrics:
    """The result of an evaluation, in percent.

    Attributes:
        miou: Mean IoU over background and all categories.
        boundary_miou: Mean boundary IoU over the same.
        image_accuracy: Share of images whose largest predicted category is in the mask.
        f_measure: Mean over images of the F-measure of foreground against background.
        ious: IoU of 0..C, the categories of the masks.
        boundary_ious: Boundary IoU of 0..C.
        groups: "miou" and "boundary_miou" by size group S, MS, ML, L; None for a group that no image has.
        matching: Cluster to category, 0 to 0 included; with more clusters than categories, numbers above C stand for none.
        num_images: Images evaluated.
        threshold: The attention threshold the numbers hold for: the best mIoU's, the lowest of equals; None without
            attention.
        curve: One point a threshold, in ascending order; None without attention.
    """

    miou: float
    boundary_miou: float
    image_accuracy: float
    f_measure: float
    ious: list[float]
    boundary_ious: list[float]
    groups: dict[str, dict[str, float | None]]
    matching: Matching
    num_images: int
    threshold: float | None = None
    curve: list[CurvePoint] | None = None

    def to_json(self) -> dict[str, Any]:
        """The metrics as JSON values; `threshold` and `curve` only when there was attention."""
        values = asdict(self)
        values["matching"] = {str(cluster): category for cluster, category in self.matching.items()}
        if self.curve is None:
            del values["threshold"], values["curve"]
        return values


def evaluate(counts: Counts, matching: MatchingChoice = "hungarian", *, num_categories: int | None = None) -> Metrics:
    """Turns counts into metrics; with thresholds, at the one of the best mIoU.

    With more clusters than categories the means are over background and the categories, as the protocol's: clusters that are matched to no
    category are wrong pixels of what they cover.

    Args:
        counts: Counts of all images.
        matching: "hungarian" finds the best matching (at each threshold anew), "identity" takes cluster ids as
            categories, a dictionary is applied as it is.
        num_categories: Categories of the masks, where predictions hold more ids than these; None = as many as counted.

    Raises:
        LussError: No image was counted, or the matching is none.
    """
    if counts.num_images == 0:
        raise LussError("there is no image to evaluate: the folder of masks holds none")
    reader, scored = CountsReader(counts), slice((num_categories or counts.num_classes) + 1)
    fixed = fixed_matching(matching, counts.num_classes)
    matchings: list[Matching] = []
    mious: list[float] = []
    for step, pixels in enumerate(reader.pixel_tables()):
        matchings.append(reader.best_matching(step, pixels) if fixed is None else fixed)
        mious.append(100 * float(reader.ious(pixels, matchings[step])[scored].mean()))
    # Equal thresholds may differ by rounding when their matchings do.
    best = int(np.argmax(np.array(mious) >= max(mious) - 1e-9))
    curve = None
    if counts.thresholds is not None:
        curve = [
            CurvePoint(threshold, mious[step], reader.image_accuracy(step, matchings[step]), reader.f_measure(step))
            for step, threshold in enumerate(counts.thresholds)
        ]
    return _metrics_at(reader, best, matchings[best], curve, scored)


def fixed_matching(matching: MatchingChoice, num_classes: int) -> Matching | None:
    """The matching that a choice fixes before anything is counted; None when it is to be found.

    Raises:
        LussError: The choice is no one-to-one matching, or an unknown word.
    """
    if isinstance(matching, Mapping):
        return checked_matching(matching, num_classes)
    if matching == "hungarian":
        return None
    if matching == "identity":
        return identity(num_classes)
    raise LussError(f"the matching must be hungarian, identity or a file, not {matching!r}")


def _metrics_at(
    reader: CountsReader, step: int, matching: Matching, curve: list[CurvePoint] | None, scored: slice
) -> Metrics:
    overall = reader.tables(step)
    ious, boundary_ious = overall.ious(matching)[scored], overall.boundary_ious(matching)[scored]
    groups: dict[str, dict[str, float | None]] = {"miou": {}, "boundary_miou": {}}
    for slot, name in enumerate(GROUPS):
        group = reader.tables(step, slot)
        groups["miou"][name] = _mean_present(group.ious(matching), group.truth)
        groups["boundary_miou"][name] = _mean_present(group.boundary_ious(matching), group.boundary_truth)
    return Metrics(
        miou=100 * float(ious.mean()),
        boundary_miou=100 * float(boundary_ious.mean()),
        image_accuracy=reader.image_accuracy(step, matching),
        f_measure=reader.f_measure(step),
        ious=(100 * ious).tolist(),
        boundary_ious=(100 * boundary_ious).tolist(),
        groups=groups,
        matching=matching,
        num_images=reader.counts.num_images,
        threshold=None if curve is None else curve[step].threshold,
        curve=curve,
    )


def _mean_present(ious: Scores, truth: Integers) -> float | None:
    """Mean IoU in percent over the categories that the masks hold; None when they hold none."""
    present = truth > 0
    return 100 * float(ious[present].mean()) if present.any() else None
