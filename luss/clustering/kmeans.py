"""k-means over feature vectors that need not fit into memory: one loop, with faiss or torch doing the arithmetic.

Lloyd's algorithm on streamed chunks; every row is used in every iteration. The cosine metric is spherical k-means
(Dhillon and Modha, 2001): the same loop on rows of length 1, with centroids brought back to length 1 after each update.
`faiss.Kmeans` is not used: it wants all rows in memory at once, and its loop cannot be stopped, watched and continued
in the middle of a run. Its search (`faiss.knn`), where nearly all the time goes, is.

Several processes may each hold a part of the rows (`luss.processes`): every pass then ends with a sum over the processes of
(K, D) sums and counts in float64. Starts, empty clusters and results are those of one process, up to the rounding of sums.

Memory: about three chunks, the resident part of the rows, 8 bytes a row, a few (K, D) tables and, while a restart
begins, a sample of max(8 K, 8192) rows in float64.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from luss.clustering.checkpoint import CheckpointFile, LloydState, shared_state
from luss.clustering.engine import Engine, Floats
from luss.clustering.faiss_engine import EngineName, FaissEngine, choose_engine
from luss.clustering.lloyd import Lloyd, Progress
from luss.clustering.source import Features, Metric, Source
from luss.clustering.torch_engine import TorchEngine
from luss.errors import LussError
from luss.processes import Reduce, in_step
from luss.progress import Interrupted

__all__ = ["EngineName", "Features", "KMeansResult", "Metric", "Progress", "kmeans"]

_ALONE = Reduce()


@dataclass(frozen=True)
class KMeansResult:
    """The best of all restarts.

    Attributes:
        centroids: (K, D) float32; of length 1 for the cosine metric.
        assignments: (N,) int32, the nearest centroid of every row; with several processes, of this one's rows.
        objective: Mean squared Euclidean distance of a row to its centroid, smaller is better. For the cosine metric
            rows are brought to length 1 first, so that it equals 2 - 2 x the mean cosine.
        objectives: The same for each restart.
        cluster_sizes: (K,) int64 number of rows; 0 only where the data has fewer distinct rows than clusters, or in
            the very rare case that filling empty clusters did not settle.
        engine: "faiss" or "torch".
        library_version: Version of that library.
        threads: CPU threads it used.
    """

    centroids: Floats
    assignments: NDArray[np.int32]
    objective: float
    objectives: tuple[float, ...]
    cluster_sizes: NDArray[np.int64]
    engine: str
    library_version: str
    threads: int


def kmeans(
    features: Features,
    num_clusters: int,
    *,
    engine: EngineName = "auto",
    metric: Metric = "cosine",
    num_iterations: int = 20,
    num_restarts: int = 30,
    seed: int = 0,
    chunk_size: int = 65536,
    device: str = "cpu",
    initial_centroids: Floats | None = None,
    resident_bytes: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_iteration: Callable[[Progress], None] = lambda progress: None,
    reduce: Reduce = _ALONE,
) -> KMeansResult:
    """Clusters all rows, keeping the best of several restarts.

    Each restart starts from k-means++ on a sample drawn with (seed, restart), and ends after `num_iterations` updates
    or when an update changes nothing. An empty cluster moves to the row farthest from its centroid.

    Args:
        features: N rows of D finite values; with several processes, the rows of this one, possibly none.
        num_clusters: K, 1 <= K <= N.
        engine: What does the arithmetic.
        metric: "cosine" ignores the length of rows (a row of zeros is equally far from all); "euclidean" does not.
        num_iterations: Most updates of the centroids a restart, >= 0.
        num_restarts: >= 1. Raising it later continues from the checkpoint.
        seed: >= 0.
        chunk_size: Rows read and assigned at once, >= 1; changes the result by float rounding only.
        device: Where the torch engine works, for example "cuda:0".
        initial_centroids: (K, D) start instead of k-means++; allows one restart only.
        resident_bytes: How much of the rows may stay in memory between passes; None leaves it to the engine (512 MB on
            a CPU, half of the free memory of a GPU).
        checkpoint: File (.npz) for the state between iterations. A run that finds one of the same data and settings
            continues, and ends with the same bits as if never stopped; any other is replaced. It stays after the end.
        checkpoint_seconds: Least time between two writes of it.
        should_stop: Asked before every chunk.
        on_iteration: Called after every pass.
        reduce: The processes that share the work; each calls this function with the same settings. Process 0 keeps the
            checkpoint, which another number of processes or another spread of the rows cannot continue.

    Raises:
        LussError: A setting is out of range, there are fewer rows than clusters, a row holds NaN or infinity, or the
            engine is not available.
        Interrupted: `should_stop` said so, on any process. The checkpoint, if one was asked for, is written.
    """
    limits = {"num_clusters": (num_clusters, 1), "num_restarts": (num_restarts, 1), "seed": (seed, 0)}
    limits |= {"num_iterations": (num_iterations, 0), "chunk_size": (chunk_size, 1)}
    for name, (value, least) in limits.items():
        if value < least:
            raise LussError(f"k-means needs {name} of at least {least}, not {value}")
    with in_step(reduce):
        arithmetic: Engine = FaissEngine() if choose_engine(engine, device) == "faiss" else TorchEngine(device)
    source = Source(features, arithmetic, metric, chunk_size, resident_bytes, should_stop, reduce)
    _check_data(source, num_clusters, num_restarts, initial_centroids)
    settings = {
        "data": source.survey(),
        "shape": [source.num_rows, features.dim, num_clusters],
        "engine": [arithmetic.name, arithmetic.version, device],
        "rule": [metric, num_iterations, seed, chunk_size],
        "start": None if initial_centroids is None else zlib.crc32(np.ascontiguousarray(initial_centroids).data),
    }
    file = CheckpointFile(checkpoint if reduce.rank == 0 else None, json.dumps(settings), checkpoint_seconds)
    lloyd = Lloyd(source, num_clusters, num_iterations, seed, initial_centroids, on_iteration)
    state = shared_state(file.load(num_restarts, shape := (num_clusters, features.dim)), reduce, shape)
    return _best_of_restarts(lloyd, file, source, state, num_restarts)


def _best_of_restarts(
    lloyd: Lloyd, file: CheckpointFile, source: Source, state: LloydState, num_restarts: int
) -> KMeansResult:
    try:
        while len(state.objectives) < num_restarts:
            lloyd.run_restart(state, file)
        with in_step(source.reduce):
            file.write(state)
        assert state.best_centroids is not None
        # Assigning once more is cheaper than keeping the best restart's assignments in every checkpoint.
        final = lloyd.measure(state.best_centroids)
    except Interrupted:
        file.write(state)
        raise
    return KMeansResult(
        centroids=source.restore(state.best_centroids),
        assignments=final.clusters,
        objective=final.objective,
        objectives=tuple(state.objectives),
        cluster_sizes=final.counts,
        engine=source.engine.name,
        library_version=source.engine.version,
        threads=source.engine.threads,
    )


def _check_data(source: Source, num_clusters: int, num_restarts: int, initial_centroids: Floats | None) -> None:
    if source.metric not in get_args(Metric):
        raise LussError(f"metric {source.metric!r} is unknown: choose {' or '.join(get_args(Metric))}")
    if source.num_rows < num_clusters:
        raise LussError(
            f"{source.num_rows} images cannot form {num_clusters} clusters: lower num_clusters or add images"
        )
    if initial_centroids is not None:
        expected = (num_clusters, source.features.dim)
        if initial_centroids.shape != expected or not np.isfinite(initial_centroids).all():
            raise LussError(f"initial_centroids must be {expected} finite numbers, not {initial_centroids.shape}")
        if num_restarts != 1:
            raise LussError(f"initial_centroids make every restart the same: set num_restarts to 1, not {num_restarts}")
