"""Lloyd's loop over streamed chunks, with its starting points and the care for empty clusters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from luss.clustering.checkpoint import CheckpointFile, LloydState
from luss.clustering.engine import Floats
from luss.clustering.source import Source, unit_rows
from luss.errors import LussError
from luss.processes import in_step

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
        objective: Mean over all rows of the squared Euclidean distance to the nearest centroid.
        clusters: (n,) nearest centroid of each row of this process.
        distances: (n,) squared Euclidean distance to it.
        sums: (K, D) sums of all prepared rows by cluster.
        counts: (K,) rows of all processes by cluster.
    """

    objective: float
    clusters: NDArray[np.int32]
    distances: Floats
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Lloyd:
    """Lloyd's loop with the restarts' starting points and the care for empty clusters; the settings are those of `kmeans`."""

    source: Source
    num_clusters: int
    num_iterations: int
    seed: int
    initial_centroids: Floats | None
    on_iteration: Callable[[Progress], None]

    def run_restart(self, state: LloydState, file: CheckpointFile) -> None:
        """Finishes the restart that `state` is in and records it there.

        Raises:
            LussError: Distances overflow float32, or the disk is full.
            Interrupted: The source was asked to stop; `state` is as after the last full iteration.
        """
        restart = len(state.objectives)
        if state.centroids is None:
            # The same bits on every process, whatever their processors make of the same arithmetic.
            state.centroids = self.source.reduce.broadcast(self._start(restart))
        while True:
            measured = self.measure(state.centroids)
            num_empty = int((measured.counts == 0).sum())
            self.on_iteration(Progress(restart, state.iteration, measured.objective, state.best_objective, num_empty))
            num_filled = self._fill_empty_clusters(measured)
            updated = self._update(measured, state.centroids)
            budget = self.num_iterations + (_EXTRA_ITERATIONS if num_filled and self.num_iterations else 0)
            if state.iteration >= budget or np.array_equal(updated, state.centroids):
                break
            state.centroids = updated
            state.iteration += 1
            with in_step(self.source.reduce):
                file.write_if_due(state)
        if measured.objective < state.best_objective:
            state.best_centroids = state.centroids
        state.objectives.append(measured.objective)
        state.centroids, state.iteration = None, 0

    def measure(self, centroids: Floats) -> Measured:
        """Assigns all rows to (K, D) centroids of prepared rows, and sums them by cluster.

        Raises:
            LussError: Distances overflow float32.
            Interrupted: The source was asked to stop.
        """
        source, engine = self.source, self.source.engine
        num_rows = len(source.features)
        clusters = np.empty(num_rows, dtype=np.int32)
        distances = np.empty(num_rows, dtype=np.float32)
        sums = np.zeros(centroids.shape)
        with in_step(source.reduce):
            for start, stop, placed in source.placed():
                chunk_clusters, chunk_distances = engine.assign(placed, centroids)
                # faiss marks a row that is infinitely far from all centroids by -1.
                if chunk_clusters.min() < 0 or not np.isfinite(chunk_distances).all():
                    raise LussError("squares of the features overflow float32: scale the features down")
                clusters[start:stop], distances[start:stop] = chunk_clusters, chunk_distances
                sums += engine.sums(placed, chunk_clusters, self.num_clusters)
        counts = np.bincount(clusters, minlength=self.num_clusters)
        total = np.concatenate([counts, [distances.sum(dtype=np.float64)]])
        total, sums = source.reduce.sum(total), source.reduce.sum(sums)
        return Measured(float(total[-1] / source.num_rows), clusters, distances, sums, total[:-1].astype(np.int64))

    def _start(self, restart: int) -> Floats:
        """(K, D) starting centroids, a pure function of (seed, restart) and the data; only process 0's count."""
        if self.initial_centroids is not None:
            return self.source.prepare(self.initial_centroids)
        num_rows = self.source.num_rows
        random = np.random.default_rng([self.seed, restart])
        size = min(num_rows, max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CLUSTER * self.num_clusters))
        sample = np.arange(num_rows) if size == num_rows else np.sort(random.choice(num_rows, size, replace=False))
        gathered = self.source.gather(sample)
        if self.source.reduce.rank > 0:
            return np.empty((self.num_clusters, gathered.shape[1]), dtype=np.float32)
        # float64, because scikit-learn converts float32 again for every centroid.
        rows = gathered.astype(np.float64)
        centroids, _ = kmeans_plusplus(rows, self.num_clusters, random_state=int(random.integers(2**31)))
        return np.asarray(centroids, dtype=np.float32)

    def _fill_empty_clusters(self, measured: Measured) -> int:
        """Moves the rows farthest from their centroids into the empty clusters of `measured`; returns how many.

        As scikit-learn does: unlike splitting a large cluster, this never raises the objective.
        """
        empty = np.flatnonzero(measured.counts == 0)
        if len(empty) == 0:
            return 0
        indices, distances, clusters = self._farthest(measured, len(empty))
        rows = self.source.gather(indices)
        num_filled = 0
        for donor, distance, row in zip(clusters, distances, rows, strict=True):
            if measured.counts[donor] < 2 or distance <= _ROUNDING * float(row @ row):
                continue
            cluster = empty[num_filled]
            measured.sums[donor] -= row
            measured.counts[donor] -= 1
            measured.sums[cluster] = row
            measured.counts[cluster] = 1
            num_filled += 1
        return num_filled

    def _farthest(self, measured: Measured, number: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.int32]]:
        """The `number` rows of all processes that are farthest from their centroids.

        Returns:
            (n,) ascending indices among the rows of all processes, their distances and clusters.
        """
        # Those of all are among the farthest of each.
        own = farthest(measured.distances, number)
        parts = (own + self.source.first_row, measured.distances[own], measured.clusters[own])
        indices, distances, clusters = (np.concatenate(self.source.reduce.gather(part)) for part in parts)
        chosen = farthest(distances, number)
        return indices[chosen], distances[chosen], clusters[chosen]

    def _update(self, measured: Measured, centroids: Floats) -> Floats:
        """The mean of each cluster's rows, of length 1 for cosine; a cluster without a mean keeps its centroid."""
        means = (measured.sums / np.maximum(measured.counts, 1)[:, None]).astype(np.float32)
        usable = measured.counts > 0
        if self.source.metric == "cosine":
            usable &= np.linalg.norm(means, axis=1) > _ROUNDING
            means = unit_rows(means)
        updated = np.where(usable[:, None], means, centroids)
        return cast(Floats, self.source.reduce.broadcast(updated))


def farthest(distances: Floats, number: int) -> NDArray[np.int64]:
    """Ascending positions of the `number` largest of (n,) distances, all if there are fewer; the first of equals."""
    number = min(number, len(distances))
    if number == 0:
        return np.empty(0, dtype=np.int64)
    least = np.partition(distances, len(distances) - number)[len(distances) - number]
    above = np.flatnonzero(distances > least)
    equal = np.flatnonzero(distances == least)[: number - len(above)]
    return np.sort(np.concatenate([above, equal]))
