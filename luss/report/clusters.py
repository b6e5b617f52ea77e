"""How tight and how alike the found clusters are, and which of their images show it best.

Two passes over the feature store and a few bytes an image in memory: 4 for the cluster, 4 for the cosine, 8 for the order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from luss.clustering.source import unit_rows
from luss.data.categories import numbered_categories
from luss.errors import LussError
from luss.features.store import FeatureStore

CHUNK = 16384
_ROWS_OF_SIMILARITY = 1024


@dataclass(frozen=True)
class Pick:
    """An image that stands for its cluster.

    Attributes:
        index: Manifest index.
        place: nearest, median or farthest, as seen from the centroid.
        cosine: To the centroid, -1..1.
    """

    index: int
    place: str
    cosine: float


@dataclass(frozen=True, eq=False)
class ClusterTable:
    """The clusters of a run. Here clusters count from 0, as in `assignments.npy`.

    Attributes:
        sizes: (C,) images of each cluster.
        cohesion: (C,) mean cosine of a cluster's vectors to its centroid, -1..1; 0 for an empty one.
        centroids: (C, L) mean direction of each cluster's vectors, of length 1; zeros for an empty one.
        cosines: (N,) float32 cosine of each image to its cluster's centroid.
        order: (N,) images by cluster, the nearest to its centroid first.
        starts: (C + 1,) where each cluster begins in `order`.
    """

    sizes: NDArray[np.int64]
    cohesion: NDArray[np.float64]
    centroids: NDArray[np.float32]
    cosines: NDArray[np.float32]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def members(self, cluster: int) -> NDArray[np.int64]:
        """Manifest indices of a cluster's images, the nearest to its centroid first."""
        return self.order[self.starts[cluster] : self.starts[cluster + 1]]

    def picks(self, cluster: int, num: int) -> list[Pick]:
        """The images to show: half of them the nearest, a quarter around the median, a quarter the farthest.

        Args:
            cluster: From 0.
            num: Most images, >= 1. A smaller cluster shows each of its images once.

        Returns:
            By falling cosine.
        """
        members = self.members(cluster)
        far, middle = num // 4, num // 4
        near = min(num - far - middle, len(members))
        far = min(far, len(members) - near)
        middle = min(middle, len(members) - near - far)
        start = min(max((len(members) - middle) // 2, near), len(members) - far - middle)
        end = len(members) - far
        groups = {"nearest": members[:near], "median": members[start : start + middle], "farthest": members[end:]}
        return [Pick(int(at), place, float(self.cosines[at])) for place, group in groups.items() for at in group]

    def similar(self, num: int) -> list[list[tuple[int, float]]]:
        """For each cluster the `num` others of the most similar centroids, as (cluster, cosine), the most similar first."""
        found: list[list[tuple[int, float]]] = []
        filled = self.sizes > 0
        for first in range(0, len(self.sizes), _ROWS_OF_SIMILARITY):
            cosines = self.centroids[first : first + _ROWS_OF_SIMILARITY] @ self.centroids.T
            cosines[:, ~filled] = -np.inf
            cosines[np.arange(len(cosines)), first + np.arange(len(cosines))] = -np.inf
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :num]
            for row, others in enumerate(best):
                own = filled[first + row]
                found.append([(int(c), float(cosines[row, c])) for c in others if own and np.isfinite(cosines[row, c])])
        return found


def measure_clusters(vectors: FeatureStore, assignments: NDArray[np.integer[Any]], num_clusters: int) -> ClusterTable:
    """Measures the clusters in two passes over the vectors that they were found in.

    Args:
        vectors: N vectors; those that are zero (images that could not be read) have cosine 0.
        assignments: (N,) cluster of each, 0..C - 1.
        num_clusters: C.

    Raises:
        LussError: The assignments do not belong to the vectors.
    """
    assigned = np.asarray(assignments, dtype=np.int32)
    if assigned.shape != (len(vectors),) or assigned.min() < 0 or assigned.max() >= num_clusters:
        raise LussError(
            f"cluster/assignments.npy holds {assigned.shape} entries for {len(vectors)} vectors and {num_clusters} clusters: "
            "run the cluster stage again"
        )
    sums = np.zeros((num_clusters, vectors.dim))
    for start, rows in vectors.chunks(CHUNK):
        unit, own = unit_rows(rows), assigned[start : start + len(rows)]
        chosen = csr_matrix((np.ones(len(own), np.float32), (own, np.arange(len(own)))), shape=(num_clusters, len(own)))
        sums += chosen @ unit
    centroids = unit_rows(sums.astype(np.float32))
    cosines = np.empty(len(vectors), np.float32)
    for start, rows in vectors.chunks(CHUNK):
        own = assigned[start : start + len(rows)]
        cosines[start : start + len(rows)] = np.einsum("nl,nl->n", unit_rows(rows), centroids[own])
    sizes = np.bincount(assigned, minlength=num_clusters)
    total = np.bincount(assigned, weights=cosines, minlength=num_clusters)
    return ClusterTable(
        sizes=sizes,
        cohesion=total / np.maximum(sizes, 1),
        centroids=centroids,
        cosines=cosines,
        order=np.lexsort((-cosines, assigned)),
        starts=np.concatenate([[0], np.cumsum(sizes)]),
    )


def common_folders(
    assignments: NDArray[np.integer[Any]], categories: Iterable[str | None], num_clusters: int, num: int = 3
) -> list[list[tuple[str, float]]]:
    """For each cluster its `num` most frequent folder names and their share of its images, 0..1, the greatest first.

    Args:
        assignments: (N,) cluster of each image, from 0.
        categories: Folder name of each image in the same order; None for none. Read once.
        num_clusters: C.
        num: Most names a cluster.
    """
    numbered, names = numbered_categories(categories, len(assignments))
    if not names:
        return [[] for _ in range(num_clusters)]
    known = numbered >= 0
    pairs = np.bincount(
        np.asarray(assignments, np.int64)[known] * len(names) + numbered[known], minlength=num_clusters * len(names)
    ).reshape(num_clusters, len(names))
    sizes = np.bincount(assignments, minlength=num_clusters)
    best = np.argsort(-pairs, axis=1, kind="stable")[:, :num]
    return [[(names[k], float(pairs[c, k] / sizes[c])) for k in row if pairs[c, k]] for c, row in enumerate(best)]
