"""What one process computes and several must compute together: k-means and the PCA of descriptors over one feature store.

`together(number, folder)` forks processes from a server that has imported everything; each leaves its results in FOLDER/RANK.npz.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fork_server import CONTEXT, start_server
from two_at_once import join

from luss import processes
from luss.clustering.kmeans import KMeansResult, Progress, kmeans
from luss.errors import LussError
from luss.features.layout import reduce_descriptors
from luss.features.store import FeatureStore, FeatureWriter, Share
from luss.processes import Reduce, in_step
from luss.progress import Interrupted

NUM_ROWS, DIM, NUM_CLUSTERS, CHUNK, SHARD = 2600, 8, 24, 150, 300
CHANNELS, GRID = (9, 4), 2
SECONDS = 240.0

Results = dict[str, np.ndarray]


def make_stores(folder: Path) -> None:
    """The stores that all processes read: blobs, descriptors, one with a bad row, one of two shards, one of copies."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(30, DIM)) * 2
    blobs = centres[random.integers(0, 30, NUM_ROWS)] + random.normal(size=(NUM_ROWS, DIM))
    _store(folder / "blobs", blobs, SHARD)
    _store(folder / "few_shards", blobs[:500], 250)
    # A row that is not finite cannot be written: it is damaged afterwards, in the last shard.
    _store(folder / "bad", blobs, SHARD)
    last = np.load(folder / "bad" / "shard-00008.npy", mmap_mode="r+", allow_pickle=False)
    last[7, 3] = np.nan
    last.flush()
    _store(folder / "copies", np.repeat(np.eye(DIM)[:5] * 3, 60, axis=0), 50)
    descriptors = random.random((NUM_ROWS, sum(CHANNELS) * GRID**2)) * random.random(sum(CHANNELS) * GRID**2)
    _store(folder / "layout", descriptors, SHARD)


def _store(folder: Path, values: np.ndarray, shard_size: int) -> None:
    writer = FeatureWriter(folder, *values.shape, "float32", shard_size, "made")
    for shard in writer.missing_shards():
        rows = writer.rows_of(shard)
        writer.write_shard(shard, values[rows.start : rows.stop])
    writer.finish()


@dataclass
class Work:
    """One process's part of all that is compared."""

    folder: Path
    reduce: Reduce
    results: Results = field(default_factory=dict)

    def __call__(self, own: Path) -> Results:
        """Everything; files of this number of processes go to `own`."""
        for metric in ("cosine", "euclidean"):
            for engine in ("faiss", "torch"):
                self.keep(f"{engine}_{metric}", self.cluster("blobs", metric=metric, engine=engine, num_restarts=3))
        # All but one centroid far beyond the data: they win no row at first.
        start = np.full((NUM_CLUSTERS, DIM), 1e4, dtype=np.float32)
        start[0] = 0
        progress: list[Progress] = []
        filled = self.cluster(
            "blobs", metric="euclidean", num_restarts=1, initial_centroids=start, on_iteration=progress.append
        )
        self.keep("filled", filled)
        self.results["filled_empty"] = np.array([step.num_empty for step in progress])
        self.keep("copies", self.cluster("copies", clusters=8))
        self.keep("few_shards", self.cluster("few_shards"))
        self.results["bad"] = np.array(self.told(lambda: self.cluster("bad")))
        self.stops(own)
        self.disk_full(own)
        store = reduce_descriptors(
            FeatureStore.open(self.folder / "layout"), own / "reduced", channels=CHANNELS, weights=(2.0, 1.0), grid=GRID,
            dim=6, whitening=0.5, reduce=self.reduce,
        )  # fmt: skip
        self.results["reduced"] = store.read(0, len(store))
        self.results["written"] = np.array([shard for shard in range(9) if shard * SHARD in self.rows(store)])
        return self.results

    def rows(self, store: FeatureStore) -> range:
        return store.share(self.reduce.rank, self.reduce.world_size)

    def cluster(self, name: str, *, clusters: int = NUM_CLUSTERS, **settings: Any) -> KMeansResult:
        store = FeatureStore.open(self.folder / name)
        settings = {"engine": "torch", "num_restarts": 2, "num_iterations": 6, "chunk_size": CHUNK} | settings
        return kmeans(Share(store, self.rows(store)), clusters, reduce=self.reduce, **settings)

    def keep(self, name: str, result: KMeansResult) -> None:
        self.results[f"{name}_centroids"] = result.centroids
        self.results[f"own_{name}_assignments"] = result.assignments
        self.results[f"{name}_objectives"] = np.array(result.objectives)
        self.results[f"{name}_sizes"] = result.cluster_sizes

    def told(self, work: Callable[[], object]) -> str:
        try:
            work()
        except (LussError, Interrupted) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    def stops(self, own: Path) -> None:
        """The last process is asked to stop again and again; the others learn it from it."""
        last, stops = self.reduce.rank == self.reduce.world_size - 1, 0
        share = len(self.rows(FeatureStore.open(self.folder / "blobs")))
        per_pass = -(-share // CHUNK)
        while True:
            # A look at the data, then two passes and a bit.
            left = iter(range(3 * per_pass + 2))
            try:
                result = self.cluster(
                    "blobs",
                    checkpoint=own / "stops.npz",
                    resident_bytes=0,
                    should_stop=lambda left=left: last and next(left, None) is None,  # type: ignore[misc]
                )
                break
            except Interrupted as error:
                stops += 1
                self.results["stop_message"] = np.array(str(error))
                assert stops < 40
        self.results["num_stops"] = np.array(stops)
        self.keep("stopped", result)

    def disk_full(self, own: Path) -> None:
        """What process 0 alone meets ends all."""

        def meet() -> None:
            with in_step(self.reduce):
                if self.reduce.rank == 0:
                    raise LussError("the disk is full")

        self.results["met"] = np.array(self.told(meet))


def alone(folder: Path, own: Path) -> Results:
    """The results of one process."""
    return Work(folder, Reduce())(own)


def together(number: int, folder: Path, own: Path) -> list[Results]:
    """The results of each of several processes."""
    own.mkdir()
    start_server()
    several = [CONTEXT.Process(target=_one, args=(folder, own, rank, number)) for rank in range(number)]
    for process in several:
        process.start()
    for process in several:
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in several] == [0] * number
    results = []
    for rank in range(number):
        with np.load(own / f"{rank}.npz", allow_pickle=False) as arrays:
            results.append(dict(arrays))
    return results


def _one(folder: Path, own: Path, rank: int, number: int) -> None:
    join(own, rank, number)
    results = Work(folder, Reduce("cpu"))(own)
    np.savez(own / f"{rank}.npz", allow_pickle=False, **results)
    processes.stop()
