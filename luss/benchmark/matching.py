"""The matching of clusters to categories: one to one on 1..C, background to background.

A matching is a dictionary {cluster: category}; its file is JSON, {"cluster": category, ...}, as in the benchmark's
submissions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.errors import LussError
from luss.files import read_json, write_json

Matching = dict[int, int]
"""Cluster to category: a permutation of 1..C, and 0 to 0."""


def identity(num_classes: int) -> Matching:
    """The matching for predictions whose ids are categories already."""
    return {cluster: cluster for cluster in range(num_classes + 1)}


def hungarian(cooccurrence: NDArray[np.integer], quality: NDArray[np.floating] | None = None) -> Matching:
    """The one-to-one matching under which clusters and categories occur together in the most images.

    Several matchings can reach that number, and the metrics differ among them; the published evaluator takes whichever
    its solver meets first. With `quality` the choice among them is the one of the greatest total quality, which no
    renumbering of the clusters changes.

    Example:
        >>> import luss
        >>> import numpy as np
        >>> luss.hungarian(np.array([[1, 7], [5, 2]]))  # cluster 1 is category 2
        {0: 0, 1: 2, 2: 1}

    Args:
        cooccurrence: (C, C) number of images that hold cluster i + 1 and category j + 1.
        quality: (C, C) in 0..1, by custom the IoU of cluster i + 1 and category j + 1.

    Returns:
        The matching, 0 to 0 included.
    """
    num_classes = cooccurrence.shape[0]
    assert cooccurrence.shape == (num_classes, num_classes), "the matching is one to one"
    gain = cooccurrence.astype(np.float64)
    if quality is not None:
        # C pairs of quality below 1 weigh less than one image, so the number of images decides first.
        gain = gain + quality / (num_classes + 1)
    # Imported here: SciPy takes longer to import than a worker process otherwise needs to start.
    from scipy.optimize import linear_sum_assignment

    clusters, categories = linear_sum_assignment(gain, maximize=True)
    return {0: 0} | {int(i) + 1: int(j) + 1 for i, j in zip(clusters, categories, strict=True)}


def load_matching(path: Path, num_classes: int) -> Matching:
    """Reads a matching.

    Args:
        path: JSON {"cluster": category, ...}; "0": 0 may be left out.
        num_classes: C.

    Raises:
        LussError: The file is absent, not JSON, or no one-to-one matching of 1..C.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise LussError(f'{path} must hold one JSON object, cluster to category: {{"1": 17, "2": 4, ...}}')
    try:
        return checked_matching({int(cluster): category for cluster, category in content.items()}, num_classes)
    except ValueError as error:
        raise LussError(f"{path}: {error}") from error


def save_matching(path: Path, matching: Mapping[int, int]) -> None:
    """Writes a matching that `load_matching` and the benchmark's server read, in the order of the clusters."""
    write_json(path, {str(cluster): category for cluster, category in sorted(matching.items())})


def checked_matching(matching: Mapping[int, Any], num_classes: int) -> Matching:
    """Completes a matching by 0 to 0 and makes sure that it is one.

    Raises:
        LussError: It is not one to one from 1..C to 1..C, or does not leave 0 at 0.
    """
    complete = {0: 0} | dict(matching)
    ids = list(range(num_classes + 1))
    faults = [f"cluster {cluster} is missing" for cluster in ids if cluster not in complete]
    faults += [f"cluster {cluster} is outside 0..{num_classes}" for cluster in complete if cluster not in ids]
    taken: dict[int, int] = {}
    for cluster, category in sorted(complete.items()):
        if type(category) is not int or category not in ids:
            faults.append(f"cluster {cluster} has category {category!r}, outside 0..{num_classes}")
        elif category in taken:
            faults.append(f"clusters {taken[category]} and {cluster} both have category {category}")
        else:
            taken[category] = cluster
    if complete[0] != 0:
        faults.append(f"cluster 0 is background and must keep category 0, not {complete[0]!r}")
    if faults:
        listed = "; ".join(faults[:10]) + (f"; and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise LussError(f"a matching maps clusters 1..{num_classes} one to one to categories: {listed}")
    return dict(sorted(complete.items()))
