"""Centroids and assignments that cannot be are refused with their file and the remedy."""

from pathlib import Path

import numpy as np
import pytest

from luss.clustering.results import read_assignments, read_centroids
from luss.errors import LussError

CENTROIDS = np.ones((3, 4), np.float32)
REMEDY = r"luss run CONFIG --force cluster"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster").mkdir()
    return tmp_path / "cluster"


@pytest.mark.parametrize(
    "wrong",
    [
        CENTROIDS * np.nan,
        CENTROIDS * np.inf,
        CENTROIDS.astype(str),
        CENTROIDS.astype(int),
        CENTROIDS[:2],
        CENTROIDS[0],
        CENTROIDS[:, :2],
    ],
)
def test_centroids_that_are_no_numbers_or_of_another_shape_are_refused(folder: Path, wrong: np.ndarray) -> None:
    np.save(folder / "centroids.npy", wrong)
    with pytest.raises(LussError, match=rf"centroids\.npy is damaged .*{REMEDY}"):
        read_centroids(folder / "centroids.npy", 3, 4)


@pytest.mark.parametrize("content", [b"", b"x", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}"])
def test_a_file_that_is_no_array_is_refused(folder: Path, content: bytes) -> None:
    (folder / "centroids.npy").write_bytes(content)
    (folder / "assignments.npy").write_bytes(content)
    with pytest.raises(LussError, match=REMEDY):
        read_centroids(folder / "centroids.npy")
    with pytest.raises(LussError, match=REMEDY):
        read_assignments(folder / "assignments.npy", 1, 1)


@pytest.mark.parametrize("wrong", [[0, 1], [0, 1, 3], [0, -1, 1], [0.0, 1.0, 2.0]])
def test_assignments_to_what_there_is_not_are_refused(folder: Path, wrong: list[float]) -> None:
    np.save(folder / "assignments.npy", np.array(wrong))
    with pytest.raises(LussError, match=rf"assignments\.npy is damaged .*{REMEDY}"):
        read_assignments(folder / "assignments.npy", 3, 3)


def test_what_is_right_is_read(folder: Path) -> None:
    np.save(folder / "centroids.npy", CENTROIDS)
    np.save(folder / "assignments.npy", np.array([0, 2, 1], np.int32))
    np.testing.assert_array_equal(read_centroids(folder / "centroids.npy", 3, 4), CENTROIDS)
    np.testing.assert_array_equal(read_assignments(folder / "assignments.npy", 3, 3), [0, 2, 1])
