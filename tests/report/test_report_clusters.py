"""The measures of clusters, and which images stand for them."""

from pathlib import Path

import numpy as np
import pytest

from luss.errors import LussError
from luss.features.store import FeatureStore, FeatureWriter
from luss.report import clusters as module
from luss.report.clusters import common_folders, measure_clusters


def store(folder: Path, rows: np.ndarray) -> FeatureStore:
    writer = FeatureWriter(folder, len(rows), rows.shape[1], "float32", 7, "test")
    for shard in range(writer.num_shards):
        writer.write_shard(shard, rows[writer.rows_of(shard).start : writer.rows_of(shard).stop])
    return writer.finish()


@pytest.fixture
def vectors(tmp_path: Path) -> tuple[FeatureStore, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 5)).astype(np.float32)
    return store(tmp_path / "features", rows), rows, generator.integers(0, 3, 40)


def test_cohesion_and_cosines_are_those_of_the_definition_whatever_the_chunks(vectors, monkeypatch) -> None:
    features, rows, assigned = vectors
    monkeypatch.setattr(module, "CHUNK", 6)
    table = measure_clusters(features, assigned, 3)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for cluster in range(3):
        own = unit[assigned == cluster]
        centre = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        np.testing.assert_allclose(table.centroids[cluster], centre, atol=1e-5)
        np.testing.assert_allclose(table.cohesion[cluster], (own @ centre).mean(), atol=1e-5)
        assert sorted(table.members(cluster)) == np.flatnonzero(assigned == cluster).tolist()
        assert (np.diff(table.cosines[table.members(cluster)]) <= 0).all()


def test_picks_are_the_nearest_the_median_and_the_farthest(tmp_path: Path) -> None:
    angles = np.linspace(0, 1.2, 41)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    table = measure_clusters(store(tmp_path, rows), np.zeros(41, np.int64), 1)
    picks = table.picks(0, 12)
    assert [pick.place for pick in picks] == ["nearest"] * 6 + ["median"] * 3 + ["farthest"] * 3
    order = table.members(0).tolist()
    assert [pick.index for pick in picks] == order[:6] + order[19:22] + order[-3:]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 9, 11, 12, 13])
def test_a_small_cluster_shows_each_of_its_images_once(tmp_path: Path, size: int) -> None:
    rows = np.random.default_rng(1).normal(size=(size, 4)).astype(np.float32)
    picks = measure_clusters(store(tmp_path, rows), np.zeros(size, np.int64), 1).picks(0, 12)
    assert len({pick.index for pick in picks}) == len(picks) == min(size, 12)
    assert [pick.cosine for pick in picks] == sorted((pick.cosine for pick in picks), reverse=True)


def test_an_empty_cluster_has_no_images_no_neighbours_and_no_cohesion(tmp_path: Path) -> None:
    table = measure_clusters(store(tmp_path, np.eye(3, dtype=np.float32)), np.array([0, 0, 2]), 3)
    assert table.picks(1, 12) == []
    assert table.cohesion[1] == 0
    assert table.similar(2)[1] == []
    assert [other for other, _ in table.similar(2)[0]] == [2]


def test_similar_clusters_come_by_the_cosine_of_their_centroids(tmp_path: Path, monkeypatch) -> None:
    rows = np.array([[1, 0, 0], [1, 0.2, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    monkeypatch.setattr(module, "_ROWS_OF_SIMILARITY", 3)
    similar = measure_clusters(store(tmp_path, rows), np.arange(4), 4).similar(2)
    assert [other for other, _ in similar[0]] == [1, 2]
    assert [other for other, _ in similar[2]] == [1, 0]
    assert similar[0][0][1] == pytest.approx(1 / np.sqrt(1.04), abs=1e-5)


def test_images_that_could_not_be_read_count_but_are_the_farthest(tmp_path: Path) -> None:
    rows = np.array([[0, 0], [1, 0], [1, 0.1]], np.float32)
    table = measure_clusters(store(tmp_path, rows), np.zeros(3, np.int64), 1)
    assert table.members(0)[-1] == 0
    assert table.cosines[0] == 0


@pytest.mark.parametrize("assigned", [[0, 1], [0, 1, 3], [0, -1, 1]])
def test_assignments_that_do_not_belong_to_the_vectors_are_refused(tmp_path: Path, assigned: list[int]) -> None:
    with pytest.raises(LussError, match="run the cluster stage again"):
        measure_clusters(store(tmp_path, np.eye(3, dtype=np.float32)), np.array(assigned), 3)


def test_folders_are_counted_by_cluster() -> None:
    assigned = np.array([0, 0, 0, 1, 1])
    found = common_folders(assigned, ["a", "a", "b", None, "b"], 3, num=2)
    assert found[0] == [("a", pytest.approx(2 / 3)), ("b", pytest.approx(1 / 3))]
    assert found[1] == [("b", 0.5)]
    assert found[2] == []


def test_without_folders_no_names_are_told() -> None:
    assert common_folders(np.array([0, 1]), [None, None], 2) == [[], []]
