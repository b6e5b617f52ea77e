"""Stopping, killing and continuing k-means."""

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luss.clustering.kmeans import KMeansResult, Progress, kmeans
from luss.features.store import FeatureStore, FeatureWriter
from luss.progress import Interrupted

pytestmark = pytest.mark.slow

ENGINES = ["faiss", "torch"]
NUM_ROWS, DIM, NUM_CLUSTERS, CHUNK = 2000, 8, 25, 300


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return store(tmp_path_factory.mktemp("features"), seed=0)


def store(folder: Path, seed: int) -> FeatureStore:
    values = np.random.default_rng(seed).standard_normal((NUM_ROWS, DIM))
    writer = FeatureWriter(folder, NUM_ROWS, DIM, "float16", 512, str(seed))
    for shard in writer.missing_shards():
        rows = writer.rows_of(shard)
        writer.write_shard(shard, values[rows.start : rows.stop])
    return writer.finish()


def cluster(features: FeatureStore, **settings: Any) -> KMeansResult:
    settings = {"engine": "faiss", "num_restarts": 3, "num_iterations": 5, "chunk_size": CHUNK} | settings
    return kmeans(features, NUM_CLUSTERS, **settings)


def bits(result: KMeansResult) -> tuple[Any, ...]:
    return result.centroids.tobytes(), result.assignments.tobytes(), result.objectives, result.objective


class Countdown:
    """Says stop at the given question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_stopping_again_and_again_gives_the_same_bits_as_never_stopping(
    features: FeatureStore, tmp_path: Path, engine: Any, metric: Any
) -> None:
    whole = cluster(features, engine=engine, metric=metric)
    file, num_stops = tmp_path / "kmeans.npz", 0
    # 7 chunks a pass: 7 to look at the data, then two passes and a bit before each stop.
    while True:
        try:
            result = cluster(features, engine=engine, metric=metric, checkpoint=file, should_stop=Countdown(7 + 17))
            break
        except Interrupted:
            num_stops += 1
            assert num_stops < 30
    assert num_stops > 4
    assert bits(result) == bits(whole)


def test_a_continued_run_does_not_repeat_iterations(features: FeatureStore, tmp_path: Path) -> None:
    seen: list[Progress] = []
    settings: dict[str, Any] = {"checkpoint": tmp_path / "kmeans.npz", "on_iteration": seen.append}
    with pytest.raises(Interrupted):
        cluster(features, should_stop=Countdown(7 + 7 * 9), **settings)
    last = seen[-1]
    cluster(features, **settings)
    following = seen[seen.index(last) + 1]
    assert (last.restart, last.iteration) == (1, 2)
    assert (following.restart, following.iteration) == (1, 3)


def test_a_finished_run_only_assigns_again(features: FeatureStore, tmp_path: Path) -> None:
    first = cluster(features, checkpoint=tmp_path / "kmeans.npz")
    seen: list[Progress] = []
    again = cluster(features, checkpoint=tmp_path / "kmeans.npz", on_iteration=seen.append)
    assert seen == []
    assert bits(again) == bits(first)


def test_raising_the_number_of_restarts_continues(features: FeatureStore, tmp_path: Path) -> None:
    cluster(features, checkpoint=tmp_path / "kmeans.npz", num_restarts=2)
    seen: list[Progress] = []
    more = cluster(features, checkpoint=tmp_path / "kmeans.npz", num_restarts=4, on_iteration=seen.append)
    assert {step.restart for step in seen} == {2, 3}
    assert bits(more) == bits(cluster(features, num_restarts=4))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"metric": "euclidean"}, {"engine": "torch"}, {"num_iterations": 4}, {"num_restarts": 2}],
    ids=lambda change: next(iter(change)),
)
def test_another_setting_starts_cleanly(features: FeatureStore, tmp_path: Path, change: dict[str, Any]) -> None:
    cluster(features, checkpoint=tmp_path / "kmeans.npz")
    changed = cluster(features, checkpoint=tmp_path / "kmeans.npz", **change)
    assert bits(changed) == bits(cluster(features, **change))


def test_other_features_of_the_same_shape_start_cleanly(features: FeatureStore, tmp_path: Path) -> None:
    cluster(features, checkpoint=tmp_path / "kmeans.npz")
    others = store(tmp_path / "others", seed=1)
    assert bits(cluster(others, checkpoint=tmp_path / "kmeans.npz")) == bits(cluster(others))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: pickle.dumps({"settings": 1})])
def test_a_damaged_checkpoint_is_reported_and_replaced(features: FeatureStore, tmp_path: Path, damage: Any) -> None:
    file = tmp_path / "kmeans.npz"
    first = cluster(features, checkpoint=file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=r"kmeans\.npz is damaged"):
        again = cluster(features, checkpoint=file)
    assert bits(again) == bits(first)
    assert bits(cluster(features, checkpoint=file)) == bits(first)


def test_a_stop_while_the_data_is_checked_keeps_the_checkpoint(features: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "kmeans.npz"
    with pytest.raises(Interrupted):
        cluster(features, checkpoint=file, should_stop=Countdown(7 + 30))
    kept = file.read_bytes()
    with pytest.raises(Interrupted):
        cluster(features, checkpoint=file, should_stop=Countdown(3))
    assert file.read_bytes() == kept


def test_the_checkpoint_is_written_no_more_often_than_asked(features: FeatureStore, tmp_path: Path) -> None:
    def versions(seconds: float) -> int:
        file, seen = tmp_path / f"{seconds}.npz", set()

        def look(progress: Progress) -> None:
            if file.exists():
                seen.add(file.stat().st_mtime_ns)

        cluster(features, checkpoint=file, checkpoint_seconds=seconds, on_iteration=look)
        return len(seen)

    assert versions(0) > 8
    assert versions(1000) == 0


def slow_run(features: FeatureStore, file: Path) -> None:
    cluster(features, checkpoint=file, checkpoint_seconds=0, on_iteration=lambda progress: time.sleep(0.02))


def test_a_killed_run_continues_to_the_same_bits(features: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "kmeans.npz"
    process = multiprocessing.get_context("spawn").Process(target=slow_run, args=(features, file))
    process.start()
    for _ in wait(120):
        if file.exists():
            break
    time.sleep(0.1)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    seen: list[Progress] = []
    result = cluster(features, checkpoint=file, on_iteration=seen.append)
    assert (seen[0].restart, seen[0].iteration) != (0, 0)
    assert bits(result) == bits(cluster(features))


def wait(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.005)


@pytest.mark.parametrize("wrong", [np.nan, "text", "shape"])
def test_centroids_of_a_checkpoint_that_cannot_be_begin_anew_with_a_warning(
    features: FeatureStore, tmp_path: Path, wrong: object
) -> None:
    path = tmp_path / "kmeans.npz"
    wanted = cluster(features, checkpoint=path)
    with np.load(path, allow_pickle=False) as arrays:
        content = dict(arrays)
    centroids = content["best_centroids"]
    replaced = {"text": centroids.astype(str), "shape": centroids[:, 1:]}
    content["best_centroids"] = replaced[wrong] if isinstance(wrong, str) else np.full_like(centroids, wrong)
    np.savez(path, allow_pickle=False, **content)
    with pytest.warns(UserWarning, match="k-means starts again"):
        assert bits(cluster(features, checkpoint=path)) == bits(wanted)
