"""Several processes that each read their own shards find what one process finds."""

from pathlib import Path

import numpy as np
import pytest
import several_processes
from several_processes import NUM_ROWS, Results

pytestmark = pytest.mark.slow

RUNS = [f"{engine}_{metric}" for engine in ("faiss", "torch") for metric in ("cosine", "euclidean")]
ALL = [*RUNS, "filled", "copies", "few_shards", "stopped"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    several_processes.make_stores(folder)
    return folder


@pytest.fixture(scope="module")
def alone(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return several_processes.alone(stores, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest, stores: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    number = int(request.param)
    return several_processes.together(number, stores, tmp_path_factory.mktemp("together") / str(number))


@pytest.mark.parametrize("name", ALL)
def test_all_processes_have_the_centroids_of_one(alone: Results, together: list[Results], name: str) -> None:
    for result in together:
        assert result[f"{name}_centroids"].tobytes() == together[0][f"{name}_centroids"].tobytes()
        np.testing.assert_allclose(result[f"{name}_centroids"], alone[f"{name}_centroids"], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_every_restart_reaches_the_objective_of_one_process(alone: Results, together: list[Results], name: str) -> None:
    for result in together:
        np.testing.assert_allclose(result[f"{name}_objectives"], alone[f"{name}_objectives"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_the_assignments_of_all_processes_joined_are_those_of_one(
    alone: Results, together: list[Results], name: str
) -> None:
    parts = [result[f"own_{name}_assignments"] for result in together]
    np.testing.assert_array_equal(np.concatenate(parts), alone[f"own_{name}_assignments"])
    for result in together:
        np.testing.assert_array_equal(result[f"{name}_sizes"], alone[f"{name}_sizes"])


def test_each_process_works_on_whole_shards_of_its_own(together: list[Results]) -> None:
    sizes = [len(result["own_torch_cosine_assignments"]) for result in together]
    assert sum(sizes) == NUM_ROWS
    assert all(size % several_processes.SHARD == 0 for size in sizes[:-1])
    assert max(sizes) - min(sizes) <= 2 * several_processes.SHARD
    assert sorted(np.concatenate([result["written"] for result in together])) == list(range(9))


def test_a_process_without_rows_takes_part(together: list[Results]) -> None:
    sizes = [len(result["own_few_shards_assignments"]) for result in together]
    assert sorted(sizes, reverse=True) == [250, 250, 0][: len(sizes)]


def test_empty_clusters_are_filled_from_the_rows_of_all_processes(alone: Results, together: list[Results]) -> None:
    assert alone["filled_empty"][0] == several_processes.NUM_CLUSTERS - 1
    for result in together:
        np.testing.assert_array_equal(result["filled_empty"], alone["filled_empty"])
        assert (result["filled_sizes"] > 0).all()


def test_stopping_one_process_stops_all_and_continuing_gives_the_bits_of_never_stopping(
    together: list[Results],
) -> None:
    last = len(together) - 1
    for result in together:
        assert result["num_stops"] == together[0]["num_stops"] > 2
        assert result["stopped_centroids"].shape == (several_processes.NUM_CLUSTERS, several_processes.DIM)
    assert str(together[0]["stop_message"]) == f"process {last}: k-means was asked to stop"
    # Three restarts of the same seed begin with the same two.
    np.testing.assert_array_equal(together[0]["stopped_objectives"], together[0]["torch_cosine_objectives"][:2])


def test_a_bad_row_is_named_by_its_number_among_all_rows_on_every_process(
    alone: Results, together: list[Results]
) -> None:
    assert str(alone["bad"]).startswith("LussError: the feature of row 2407 is NaN or infinite")
    for rank, result in enumerate(together):
        prefix = "" if rank == len(together) - 1 else f"process {len(together) - 1}: "
        assert str(result["bad"]) == f"LussError: {prefix}{str(alone['bad']).removeprefix('LussError: ')}"


def test_what_one_process_meets_ends_all(together: list[Results]) -> None:
    said = [str(result["met"]) for result in together]
    assert said == ["LussError: the disk is full", *["LussError: process 0: the disk is full"] * (len(together) - 1)]


def test_descriptors_are_reduced_as_by_one_process(alone: Results, together: list[Results]) -> None:
    for result in together:
        np.testing.assert_allclose(result["reduced"], alone["reduced"], atol=1e-4)
