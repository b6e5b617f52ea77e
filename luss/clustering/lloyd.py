"""Lloyd's loop over streamed chunks, with its starting points and the care for empty clusters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from luss.clustering.checkpoint import CheckpointFile, LloydState
from luss.clustering.source import Source, unit_rows
from luss.errors import LussError

# k-means++ looks at a seeded sample of this many rows a cluster, and at least `_SAMPLE_ROWS`: on all rows it would cost
# more than the clustering.
_SAMPLE_ROWS_PER_CLUSTER = 8
_SAMPLE_ROWS = 8192
# Iterations a restart may go over its number while it still has empty clusters to fill.
_EXTRA_ITERATIONS = 10
# Squared distances below this share of a row's squared length are rounding: such a row is a copy of its centroid.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Progress:
    """Where k-means stands after one pass over all rows.

    Attributes:
        restart: The current restart, from 0.
        iteration: Updates of the centroids done in this restart before the pass, from 0.
        objective: Objective of the centroids that the pass measured.
        best_objective: Best objective of the restarts that are finished; infinite before the first one is.
        num_empty: Clusters that no row was nearest to.
    """

    restart: int
    iteration: int
    objective: float
    best_objective: float
    num_empty: int


@dataclass
class Measured:
    """One pass over all rows with fixed centroids.

    Attributes:
        objective: Mean of `distances`.
        clusters: (N,) nearest centroid of each row.
        distances: (N,) squared Euclidean distance to it.
        sums: (K, D) sums of the prepared rows by cluster.
        counts: (K,) rows by cluster.
    """

    objective: float
    clusters: NDArray[np.int32]
    distances: NDArray[np.float32]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


class Lloyd:
    """Lloyd's loop with the restarts' starting points and the care for empty clusters.

    Args:
        source: The rows.
        num_clusters: K.
        num_iterations: Most updates a restart.
        seed: With the number of a restart it fixes the start.
        initial_centroids: (K, D) start instead of k-means++, in the space of the features.
        on_iteration: Called after every pass of `run_restart`.
    """

    def __init__(
        self,
        source: Source,
        num_clusters: int,
        num_iterations: int,
        seed: int,
        initial_centroids: NDArray[np.float32] | None,
        on_iteration: Callable[[Progress], None],
    ) -> None:
        self._source = source
        self._num_clusters = num_clusters
        self._num_iterations = num_iterations
        self._seed = seed
        self._initial_centroids = initial_centroids
        self._on_iteration = on_iteration

    def run_restart(self, state: LloydState, file: CheckpointFile) -> None:
        """Finishes the restart that `state` is in and records it there.

        Raises:
            LussError: Distances overflow float32, or the disk is full.
            Interrupted: The source was asked to stop; `state` is as after the last full iteration.
        """
        restart = len(state.objectives)
        if state.centroids is None:
            state.centroids = self._start(restart)
        while True:
            measured = self.measure(state.centroids)
            num_empty = int((measured.counts == 0).sum())
            self._on_iteration(Progress(restart, state.iteration, measured.objective, state.best_objective, num_empty))
            num_filled = self._fill_empty_clusters(measured)
            updated = self._update(measured, state.centroids)
            budget = self._num_iterations + (_EXTRA_ITERATIONS if num_filled and self._num_iterations else 0)
            if state.iteration >= budget or np.array_equal(updated, state.centroids):
                break
            state.centroids = updated
            state.iteration += 1
            file.write_if_due(state)
        if measured.objective < state.best_objective:
            state.best_centroids = state.centroids
        state.objectives.append(measured.objective)
        state.centroids, state.iteration = None, 0

    def measure(self, centroids: NDArray[np.float32]) -> Measured:
        """Assigns all rows to (K, D) centroids of prepared rows, and sums them by cluster.

        Raises:
            LussError: Distances overflow float32.
            Interrupted: The source was asked to stop.
        """
        num_rows, engine = len(self._source.features), self._source.engine
        clusters = np.empty(num_rows, dtype=np.int32)
        distances = np.empty(num_rows, dtype=np.float32)
        sums = np.zeros(centroids.shape)
        for start, stop, placed in self._source.placed():
            chunk_clusters, chunk_distances = engine.assign(placed, centroids)
            # faiss marks a row that is infinitely far from all centroids by -1.
            if chunk_clusters.min() < 0 or not np.isfinite(chunk_distances).all():
                raise LussError("squares of the features overflow float32: scale the features down")
            clusters[start:stop], distances[start:stop] = chunk_clusters, chunk_distances
            sums += engine.sums(placed, chunk_clusters, self._num_clusters)
        objective = float(distances.mean(dtype=np.float64))
        counts = np.bincount(clusters, minlength=self._num_clusters).astype(np.int64)
        return Measured(objective, clusters, distances, sums, counts)

    def _start(self, restart: int) -> NDArray[np.float32]:
        """(K, D) starting centroids, a pure function of (seed, restart) and the data."""
        if self._initial_centroids is not None:
            return self._source.prepare(self._initial_centroids)
        num_rows = len(self._source.features)
        random = np.random.default_rng([self._seed, restart])
        size = min(num_rows, max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CLUSTER * self._num_clusters))
        sample = np.arange(num_rows) if size == num_rows else np.sort(random.choice(num_rows, size, replace=False))
        # float64, because scikit-learn converts float32 again for every centroid.
        rows = self._source.gather(sample).astype(np.float64)
        centroids, _ = kmeans_plusplus(rows, self._num_clusters, random_state=int(random.integers(2**31)))
        return np.asarray(centroids, dtype=np.float32)

    def _fill_empty_clusters(self, measured: Measured) -> int:
        """Moves the rows farthest from their centroids into the empty clusters of `measured`; returns how many.

        As scikit-learn does: unlike splitting a large cluster, this never raises the objective.
        """
        empty = np.flatnonzero(measured.counts == 0)
        if len(empty) == 0:
            return 0
        farthest = np.sort(np.argpartition(-measured.distances, len(empty) - 1)[: len(empty)])
        rows = self._source.gather(farthest)
        num_filled = 0
        for index, row in zip(farthest, rows, strict=True):
            donor = measured.clusters[index]
            if measured.counts[donor] < 2 or measured.distances[index] <= _ROUNDING * float(row @ row):
                continue
            cluster = empty[num_filled]
            measured.sums[donor] -= row
            measured.counts[donor] -= 1
            measured.sums[cluster] = row
            measured.counts[cluster] = 1
            num_filled += 1
        return num_filled

    def _update(self, measured: Measured, centroids: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of each cluster's rows, of length 1 for cosine; a cluster without a mean keeps its centroid."""
        means = (measured.sums / np.maximum(measured.counts, 1)[:, None]).astype(np.float32)
        usable = measured.counts > 0
        if self._source.metric == "cosine":
            usable &= np.linalg.norm(means, axis=1) > _ROUNDING
            means = unit_rows(means)
        return cast(NDArray[np.float32], np.where(usable[:, None], means, centroids))
