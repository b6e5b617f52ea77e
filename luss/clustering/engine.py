"""What k-means asks of an engine: the nearest centroid of every row of a chunk, and the sums of rows by cluster."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]
"""Vectors, or one number for each."""

# What an engine on a CPU lets k-means keep in memory: small data is then read and converted once.
CPU_RESIDENT_BYTES = 1 << 29
# The sparse product converts its rows to float64: in blocks, so that a large chunk is not held twice over.
_BLOCK = 4096


class Engine(Protocol):
    """The arithmetic of one Lloyd iteration on one chunk; the loop, the data and the random numbers belong to `kmeans`.

    "Placed" is a chunk in the form the engine works on (an array, a tensor on a device). Every method must give the
    same bits when it is asked again with the same arguments.

    Attributes:
        name: "faiss" or "torch".
        version: Version of that library.
        threads: CPU threads it uses.
        resident_bytes: How many bytes of placed chunks it is reasonable to keep between passes.
    """

    name: str
    version: str
    threads: int
    resident_bytes: int

    def place(self, rows: Floats) -> Any:
        """Brings (n, D) rows to where the engine works."""

    def assign(self, placed: Any, centroids: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The nearest of (K, D) centroids for each placed row.

        Returns:
            (n,) cluster 0 <= k < K, and (n,) squared Euclidean distance to its centroid, >= 0.
        """

    def sums(self, placed: Any, clusters: NDArray[np.int64], num_clusters: int) -> NDArray[np.float64]:
        """(K, D) sums of the placed rows by cluster; `clusters` is (n,)."""


def sum_by_cluster(rows: Floats, clusters: NDArray[np.int64], num_clusters: int) -> NDArray[np.float64]:
    """Sums rows by cluster on the CPU, in float64 and always in the order of the rows.

    A sparse product, because it is several times faster than `numpy.add.at` and `numpy.add.reduceat`.

    Args:
        rows: (n, D).
        clusters: (n,) with 0 <= cluster < `num_clusters`.
        num_clusters: K.

    Returns:
        (K, D) sums; 0 for a cluster without rows.
    """
    total = np.zeros((num_clusters, rows.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        one_hot = sparse.csc_array(
            (np.ones(len(block)), clusters[start : start + _BLOCK], np.arange(len(block) + 1)),
            shape=(num_clusters, len(block)),
        )
        total += one_hot @ block
    return total
