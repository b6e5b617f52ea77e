"""k-means against scikit-learn, its two engines against each other, and its promises about the data it can take."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from luss.clustering.kmeans import Progress, kmeans
from luss.errors import LussError

pytestmark = pytest.mark.slow

ENGINES = ["faiss", "torch"]
METRICS = ["cosine", "euclidean"]


class Rows:
    """Features in memory that count how often each row is read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.astype(np.float32)
        self.num_reads = np.zeros(len(values), dtype=int)

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(start, len(self), chunk_size):
            self.num_reads[first : first + chunk_size] += 1
            yield first, self.values[first : first + chunk_size]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]


def blobs(num_rows: int = 1500, dim: int = 8, num_blobs: int = 12, seed: int = 0) -> np.ndarray:
    values, _ = make_blobs(num_rows, dim, centers=num_blobs, cluster_std=3.0, random_state=seed)
    return values.astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def objective_of(values: np.ndarray, centroids: np.ndarray) -> tuple[float, np.ndarray]:
    """The naive loop, in float64."""
    distances = np.stack([((values.astype(np.float64) - centroid) ** 2).sum(1) for centroid in centroids], 1)
    return float(distances.min(1).mean()), distances.argmin(1)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_start_gives_the_objective_and_clusters_of_scikit_learn(engine: Any) -> None:
    values = blobs() + 100.0
    start = values[:10]
    peer = KMeans(10, init=start, n_init=1, max_iter=12, tol=0, algorithm="lloyd").fit(values)
    ours = kmeans(
        Rows(values), 10, engine=engine, metric="euclidean", num_iterations=12, num_restarts=1, initial_centroids=start
    )
    assert ours.objective == pytest.approx(peer.inertia_ / len(values), rel=1e-4)
    assert (ours.assignments == peer.labels_).mean() > 0.999
    np.testing.assert_allclose(ours.centroids, peer.cluster_centers_, atol=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_the_two_engines_agree(metric: Any) -> None:
    faiss, torch = (
        kmeans(Rows(blobs()), 10, engine=engine, metric=metric, num_restarts=3, num_iterations=8) for engine in ENGINES
    )
    assert (faiss.engine, torch.engine) == ("faiss", "torch")
    np.testing.assert_allclose(faiss.objectives, torch.objectives, rtol=1e-4)
    assert (faiss.assignments == torch.assignments).mean() > 0.999


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_result_describes_itself_rightly(engine: Any, metric: Any) -> None:
    values = blobs()
    result = kmeans(Rows(values), 7, engine=engine, metric=metric, num_restarts=3, chunk_size=400)
    objective, nearest = objective_of(unit(values) if metric == "cosine" else values, result.centroids)
    assert result.objective == pytest.approx(objective, rel=1e-5)
    assert result.objective == min(result.objectives)
    assert (result.assignments == nearest).mean() > 0.999
    np.testing.assert_array_equal(result.cluster_sizes, np.bincount(result.assignments, minlength=7))
    assert len(result.objectives) == 3
    assert result.library_version
    assert result.threads >= 1
    assert (result.centroids.dtype, result.assignments.dtype) == (np.float32, np.int32)


def test_cosine_ignores_the_length_of_rows() -> None:
    values = blobs()
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(values), 1))
    result, scaled = (kmeans(Rows(rows), 8, num_restarts=2) for rows in (values, values * lengths))
    assert scaled.objective == pytest.approx(result.objective, rel=1e-5)
    assert (scaled.assignments == result.assignments).mean() > 0.999


def test_cosine_centroids_have_length_one_and_the_objective_is_two_minus_twice_the_mean_cosine() -> None:
    values = blobs()
    result = kmeans(Rows(values), 8, num_restarts=2)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, rtol=1e-5)
    cosines = (unit(values) * result.centroids[result.assignments]).sum(1)
    assert result.objective == pytest.approx(2 - 2 * cosines.mean(), rel=1e-4)


def test_cosine_equals_euclidean_on_tight_groups_of_unit_rows() -> None:
    # The spherical centroid is the mean brought to length 1: the same Voronoi cells when all groups are equally tight.
    random = np.random.default_rng(0)
    values = unit(np.repeat(np.eye(6), 50, axis=0) + random.normal(0, 0.05, (300, 6)))
    cosine, euclidean = (kmeans(Rows(values), 6, metric=metric, num_restarts=3) for metric in METRICS)
    np.testing.assert_array_equal(cosine.assignments, euclidean.assignments)
    np.testing.assert_allclose(cosine.centroids, unit(euclidean.centroids), atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_chunk_size_does_not_change_the_result(engine: Any, metric: Any) -> None:
    results = [
        kmeans(
            Rows(blobs()), 10, engine=engine, metric=metric, num_restarts=2, chunk_size=size, resident_bytes=resident
        )
        for size, resident in [(5000, None), (64, 0), (333, 16000)]
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.objectives, results[0].objectives, rtol=1e-6)
        assert (other.assignments == results[0].assignments).mean() > 0.999


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_objective_never_rises_within_a_restart(engine: Any, metric: Any) -> None:
    seen: list[Progress] = []
    kmeans(Rows(blobs()), 40, engine=engine, metric=metric, num_restarts=3, on_iteration=seen.append)
    assert {step.restart for step in seen} == {0, 1, 2}
    for before, after in pairwise(seen):
        if before.restart == after.restart:
            assert after.iteration == before.iteration + 1
            assert after.objective <= before.objective * (1 + 1e-6)


def test_every_row_is_used_in_every_pass() -> None:
    rows, passes = Rows(blobs()), []
    kmeans(rows, 5, num_restarts=2, num_iterations=3, chunk_size=100, resident_bytes=0, on_iteration=passes.append)
    # One look at the data before, one assignment after.
    np.testing.assert_array_equal(rows.num_reads, len(passes) + 2)
    assert len(passes) >= 4


def test_rows_that_fit_the_budget_are_read_from_the_features_only_twice() -> None:
    rows = Rows(blobs())
    kmeans(rows, 5, num_restarts=2, num_iterations=5, chunk_size=100, resident_bytes=700 * 8 * 4)
    np.testing.assert_array_equal(rows.num_reads[:700], 2)
    assert (rows.num_reads[700:] > 2).all()


def test_a_restart_ends_early_when_nothing_changes_any_more() -> None:
    passes: list[Progress] = []
    result = kmeans(Rows(blobs()), 3, num_restarts=1, num_iterations=500, on_iteration=passes.append)
    assert len(passes) < 100
    longer = kmeans(Rows(blobs()), 3, num_restarts=1, num_iterations=len(passes) + 5)
    assert longer.objective == result.objective


def test_zero_iterations_only_assign_to_the_start() -> None:
    values = blobs()
    result = kmeans(Rows(values), 4, metric="euclidean", num_iterations=0, num_restarts=1, initial_centroids=values[:4])
    np.testing.assert_allclose(result.centroids, values[:4], atol=1e-5)


def test_more_restarts_are_never_worse_and_differ() -> None:
    few = kmeans(Rows(blobs()), 20, num_restarts=2, num_iterations=3)
    many = kmeans(Rows(blobs()), 20, num_restarts=6, num_iterations=3)
    assert many.objectives[:2] == few.objectives
    assert many.objective <= few.objective
    assert len(set(many.objectives)) == 6


def test_the_seed_alone_decides() -> None:
    first, again, other = (kmeans(Rows(blobs()), 20, num_restarts=1, num_iterations=2, seed=seed) for seed in (1, 1, 2))
    assert first.centroids.tobytes() == again.centroids.tobytes()
    assert first.objective != other.objective


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", METRICS)
def test_empty_clusters_are_filled(engine: Any, metric: Any) -> None:
    values = blobs()
    # All but one centroid far beyond the data (or, for cosine, the same): they win no row at first.
    start = np.repeat(values[:1] if metric == "cosine" else np.full((1, 8), 1e4, dtype=np.float32), 10, axis=0)
    start[0] = values.mean(0)
    passes: list[Progress] = []
    result = kmeans(
        Rows(values),
        10,
        engine=engine,
        metric=metric,
        num_restarts=1,
        initial_centroids=start,
        on_iteration=passes.append,
    )
    assert passes[0].num_empty >= 8
    assert (result.cluster_sizes > 0).all()
    assert result.objective < passes[0].objective / 1.5


def test_an_empty_cluster_takes_the_farthest_row_from_the_cluster_that_had_it() -> None:
    values = np.array([[0, 0], [1, 0], [0, 1], [9, 9]], dtype=np.float32)
    start = np.array([[1, 1], [1000, 1000]], dtype=np.float32)
    result = kmeans(Rows(values), 2, metric="euclidean", num_iterations=1, num_restarts=1, initial_centroids=start)
    np.testing.assert_allclose(result.centroids, [[1 / 3, 1 / 3], [9, 9]], atol=1e-5)


def far_groups(number: int) -> np.ndarray:
    """30 rows at the origin, and groups of 30 copies, each twice as far away as the one before."""
    return np.repeat(np.concatenate([[0.0], 2.0 ** np.arange(number)])[:, None] * [[1.0, 0.0]], 30, axis=0)


def passes_from_one_centroid(number: int, num_iterations: int) -> tuple[list[Progress], np.ndarray]:
    """Clusters `far_groups` from a start of which all but one centroid win no row; the passes and the sizes of the clusters.

    The empty clusters all take rows of the farthest group, which are copies: one pass fills one cluster more.
    """
    start = np.full((number + 1, 2), -1e6, dtype=np.float32)
    start[0] = 0
    passes: list[Progress] = []
    result = kmeans(
        Rows(far_groups(number)),
        number + 1,
        metric="euclidean",
        num_iterations=num_iterations,
        num_restarts=1,
        initial_centroids=start,
        on_iteration=passes.append,
    )
    return passes, result.cluster_sizes


def test_a_restart_with_empty_clusters_goes_on_until_they_are_filled() -> None:
    passes, sizes = passes_from_one_centroid(5, num_iterations=1)
    assert [step.num_empty for step in passes] == [5, 4, 3, 2, 1, 0]
    assert (sizes == 30).all()


def test_empty_clusters_prolong_a_restart_by_ten_iterations_at_most() -> None:
    passes, sizes = passes_from_one_centroid(20, num_iterations=2)
    assert passes[-1].iteration == 2 + 10
    assert np.count_nonzero(sizes) == 13


def test_a_restart_without_iterations_fills_nothing() -> None:
    passes, sizes = passes_from_one_centroid(5, num_iterations=0)
    assert len(passes) == 1
    assert np.count_nonzero(sizes) == 1


@pytest.mark.parametrize("num_iterations", [1, 2, 3])
def test_a_restart_without_empty_clusters_ends_after_its_iterations(num_iterations: int) -> None:
    passes: list[Progress] = []
    kmeans(Rows(blobs()), 12, num_restarts=1, num_iterations=num_iterations, on_iteration=passes.append)
    assert {step.num_empty for step in passes} == {0}
    assert [step.iteration for step in passes] == list(range(num_iterations + 1))


def test_as_many_clusters_as_rows_fit_perfectly() -> None:
    values = blobs(40)
    result = kmeans(Rows(values), 40, metric="euclidean", num_restarts=1)
    assert result.objective < 1e-6 * values.var()
    np.testing.assert_array_equal(result.cluster_sizes, 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [0.0, 3.7])
def test_rows_that_are_all_the_same_do_not_crash(engine: Any, metric: Any, value: float) -> None:
    result = kmeans(Rows(np.full((50, 4), value)), 5, engine=engine, metric=metric, num_restarts=2)
    assert result.cluster_sizes.sum() == 50
    assert np.isfinite(result.centroids).all()
    if value:
        assert result.objective < 1e-5


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_distinct_rows_than_clusters_are_told_apart_without_loss(metric: Any) -> None:
    values = np.repeat(np.eye(4, dtype=np.float32) * 5, 25, axis=0)
    result = kmeans(Rows(values), 9, metric=metric, num_restarts=2)
    assert result.objective < 1e-6
    assert len({int(cluster) for cluster in result.assignments}) >= 4


def test_rows_of_zeros_are_taken_by_the_cosine_metric() -> None:
    values = blobs()
    values[::50] = 0
    result = kmeans(Rows(values), 6, num_restarts=1)
    assert np.isfinite(result.objective)
    assert np.isfinite(result.centroids).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_does_not_grow_with_the_number_of_rows(engine: Any) -> None:
    class Made(Rows):
        """Rows that are made when asked for: 1 MB a thousand."""

        def __init__(self, num_rows: int) -> None:
            self.num_rows = num_rows

        @property
        def dim(self) -> int:
            return 256

        def __len__(self) -> int:
            return self.num_rows

        def gather(self, indices: np.ndarray) -> np.ndarray:
            return np.sin(indices[:, None] * np.linspace(0.1, 3, 256)).astype(np.float32)

        def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
            for first in range(start, len(self), chunk_size):
                yield first, self.gather(np.arange(first, min(first + chunk_size, len(self))))

    def peak(num_rows: int) -> int:
        tracemalloc.start()
        kmeans(Made(num_rows), 4, engine=engine, num_restarts=1, num_iterations=1, chunk_size=1000, resident_bytes=0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10_000)
    # 15,000 more rows are 15 MB of features; 8 bytes a row and slack are allowed.
    assert peak(25_000) - peak(10_000) < 15_000 * 8 + 1_000_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    values = blobs()
    values[[777, 1200], 3] = bad
    with pytest.raises(LussError, match="row 777 is NaN or infinite"):
        kmeans(Rows(values), 5, chunk_size=100)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_whose_squares_overflow_are_refused(engine: Any) -> None:
    values = np.where(np.arange(20)[:, None] % 2, 1e30, -1e30) * np.ones((20, 3))
    with np.errstate(all="ignore"), pytest.raises(LussError, match="overflow"):
        kmeans(Rows(values), 1, engine=engine, metric="euclidean")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 1501}, "1500 images cannot form 1501 clusters"),
        ({"num_clusters": 0}, "num_clusters of at least 1, not 0"),
        ({"num_restarts": 0}, "num_restarts of at least 1"),
        ({"num_iterations": -1}, "num_iterations of at least 0"),
        ({"chunk_size": 0}, "chunk_size of at least 1"),
        ({"seed": -1}, "seed of at least 0"),
        ({"metric": "manhattan"}, "cosine or euclidean"),
        ({"engine": "sklearn"}, "faiss, torch, auto"),
        ({"engine": "faiss", "device": "cuda"}, "faiss engine works on the CPU"),
        ({"engine": "torch", "device": "abacus"}, "torch cannot use device 'abacus'"),
        ({"initial_centroids": np.zeros((4, 8)), "num_restarts": 1}, r"must be \(5, 8\) finite"),
        ({"initial_centroids": np.zeros((5, 8))}, "set num_restarts to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    num_clusters = settings.pop("num_clusters", 5)
    with pytest.raises(LussError, match=message):
        kmeans(Rows(blobs()), num_clusters, **settings)
