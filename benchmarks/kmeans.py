"""k-means side by side: both engines of luss, faiss's own loop, and scikit-learn's two, from one start on one data set.

    python benchmarks/kmeans.py --rows 40000 --dim 256 --clusters 200

luss reads its rows from a feature store on disk, as a run does; the others get them as one array in memory. Prints a
markdown table: seconds (best of `--repeats`), the ratio to the fastest, rows a second, peak memory of the process (the rows included), mean
squared distance, and its ratio to the best.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from memory import peak_mb, reset_peak
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from luss.clustering.kmeans import EngineName, kmeans
from luss.features.store import FeatureStore, FeatureWriter

Rows = NDArray[np.float32]


def main() -> None:
    """Parses the words, runs every contender and prints the table."""
    words = parse()
    faiss.omp_set_num_threads(words.threads)
    torch.set_num_threads(words.threads)
    rows = made_up_rows(words.rows, words.dim, words.clusters)
    start = rows[np.random.default_rng(1).choice(words.rows, words.clusters, replace=False)]
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(words.threads):
        store = stored(rows, Path(folder))
        contenders = luss_contenders(store, start, words) | peers(rows, start, words)
        measured = {name: best_time(run, words.repeats) for name, run in contenders.items()}
    figures = {
        name: (seconds, peak, objective(rows, centroids)) for name, (seconds, peak, centroids) in measured.items()
    }
    print(
        f"n = {words.rows}, d = {words.dim}, k = {words.clusters}, {words.iterations} iterations, one restart, ", end=""
    )
    print(
        f"{words.threads} threads, Python {platform.python_version()}, torch {torch.__version__}, faiss {faiss.__version__}"
    )
    print(table(figures, words.rows * words.iterations))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="number of vectors (default 40000)")
    parser.add_argument("--dim", type=int, default=256, help="length of a vector (default 256)")
    parser.add_argument("--clusters", type=int, default=200, help="number of clusters (default 200)")
    parser.add_argument("--iterations", type=int, default=20, help="Lloyd iterations (default 20)")
    parser.add_argument("--chunk-size", type=int, default=65536, help="rows luss reads at once (default 65536)")
    parser.add_argument("--stream", action="store_true", help="luss keeps no rows in memory between iterations")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for everybody (default 2)")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs each, best counts (default 1)")
    parser.add_argument("--device", default="cpu", help="device of the torch engine (default cpu)")
    return parser.parse_args()


def made_up_rows(num_rows: int, dim: int, num_clusters: int) -> Rows:
    """(n, d) overlapping groups of uneven size around k centres, centred, in float32."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((num_clusters, dim), dtype=np.float32)
    shares = random.dirichlet(np.full(num_clusters, 2.0))
    rows = centres[random.choice(num_clusters, num_rows, p=shares)]
    rows += 1.5 * random.standard_normal((num_rows, dim), dtype=np.float32)
    return rows


def stored(rows: Rows, folder: Path) -> FeatureStore:
    """A float32 feature store of the rows."""
    writer = FeatureWriter(folder, len(rows), rows.shape[1], "float32", 8192, "benchmark")
    for shard in writer.missing_shards():
        kept = writer.rows_of(shard)
        writer.write_shard(shard, rows[kept.start : kept.stop])
    return writer.finish()


def luss_contenders(store: FeatureStore, start: Rows, words: argparse.Namespace) -> dict[str, Callable[[], Rows]]:
    """Runs of luss by name; each returns its (k, d) centroids."""

    def run(engine: EngineName, device: str) -> Rows:
        return kmeans(
            store,
            len(start),
            engine=engine,
            metric="euclidean",
            num_iterations=words.iterations,
            num_restarts=1,
            chunk_size=words.chunk_size,
            device=device,
            initial_centroids=start,
            resident_bytes=0 if words.stream else None,
        ).centroids

    return {
        "luss, faiss engine": lambda: run("faiss", "cpu"),
        f"luss, torch engine on {words.device}": lambda: run("torch", words.device),
    }


def peers(rows: Rows, start: Rows, words: argparse.Namespace) -> dict[str, Callable[[], Rows]]:
    """Runs of other libraries by name; each returns its (k, d) centroids."""

    def native_faiss() -> Rows:
        # Without the limit faiss would look at 256 rows a cluster only.
        search = faiss.Kmeans(rows.shape[1], len(start), niter=words.iterations, max_points_per_centroid=len(rows))
        search.train(rows, init_centroids=start)
        return np.asarray(search.centroids)

    def scikit(method: Any, **settings: Any) -> Rows:
        fitted = method(len(start), init=start, n_init=1, max_iter=words.iterations, random_state=0, **settings).fit(
            rows
        )
        return np.asarray(fitted.cluster_centers_, dtype=np.float32)

    return {
        "faiss.Kmeans": native_faiss,
        "sklearn KMeans": lambda: scikit(KMeans, tol=0),
        "sklearn MiniBatchKMeans": lambda: scikit(MiniBatchKMeans, batch_size=4096),
    }


def best_time(run: Callable[[], Rows], repeats: int) -> tuple[float, float, Rows]:
    """Fewest seconds of several runs, the peak of the memory in MB, and the centroids of the last."""
    times = []
    reset_peak()
    for _ in range(repeats):
        begin = time.perf_counter()
        centroids = run()
        times.append(time.perf_counter() - begin)
    return min(times), peak_mb(), centroids


def objective(rows: Rows, centroids: Rows) -> float:
    """Mean squared distance of a row to the nearest centroid, by one judge for all."""
    distances, _ = faiss.knn(rows, np.ascontiguousarray(centroids), 1)
    return float(distances.mean(dtype=np.float64))


def table(figures: dict[str, tuple[float, float, float]], num_visits: int) -> str:
    """The markdown table; a rate is rows looked at in all iterations."""
    fastest = min(seconds for seconds, _, _ in figures.values())
    best = min(value for _, _, value in figures.values())
    lines = ["| | seconds | x fastest | rows/s | peak MB | objective | x best |", "|---|---|---|---|---|---|---|"]
    for name, (seconds, peak, value) in figures.items():
        lines.append(
            f"| {name} | {seconds:.2f} | {seconds / fastest:.2f} | {num_visits / seconds:,.0f} | {peak:.0f} | {value:.4f} | {value / best:.5f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
