"""How well found clusters agree with known labels. Only for data that has labels; nothing here is used to train."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

from luss.errors import LussError


def clustering_accuracy(assignments: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> float:
    """Share of images whose cluster is matched to their category under the best one-to-one matching (Hungarian method).

    Clusters and categories may differ in number; images in a cluster left without a category count as wrong.

    Args:
        assignments: (N,) cluster of each image; any integers.
        labels: (N,) category of each image; any integers.

    Returns:
        Accuracy, 0 < a <= 1.

    Raises:
        LussError: The two differ in length, or are empty.
    """
    _check(assignments, labels)
    clusters, cluster_of = np.unique(assignments, return_inverse=True)
    categories, category_of = np.unique(labels, return_inverse=True)
    shape = (len(clusters), len(categories))
    counts = np.bincount(cluster_of * shape[1] + category_of, minlength=shape[0] * shape[1]).reshape(shape)
    matched = linear_sum_assignment(counts, maximize=True)
    return float(counts[matched].sum() / len(labels))


def normalized_mutual_information(assignments: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> float:
    """Mutual information of clusters and categories over the mean of their entropies.

    Unlike accuracy it does not favour as many clusters as categories, but it rises with their number even at random.

    Args:
        assignments: (N,) cluster of each image; any integers.
        labels: (N,) category of each image; any integers.

    Returns:
        0 (independent) to 1 (the same partition).

    Raises:
        LussError: The two differ in length, or are empty.
    """
    _check(assignments, labels)
    return float(normalized_mutual_info_score(labels, assignments))


def _check(assignments: NDArray[np.integer[Any]], labels: NDArray[np.integer[Any]]) -> None:
    if len(assignments) != len(labels):
        raise LussError(f"{len(assignments)} assignments do not fit {len(labels)} labels: one of each an image")
    if len(labels) == 0:
        raise LussError("there are no labelled images to compare clusters with: leave the comparison out")
