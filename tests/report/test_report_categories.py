"""IoUs and confusions of categories."""

from pathlib import Path

import numpy as np
import pytest
from report_run import make_run

from luss.data.imagenet_s import IGNORE, write_mask
from luss.errors import LussError
from luss.files import read_json
from luss.report.categories import category_rows, confusion_json, count_confusion


def write(root: Path, name: str, ids: list[list[int]]) -> None:
    write_mask(root / "a" / f"{name}.png", np.array(ids, np.uint16))


def test_pixels_are_counted_by_cluster_and_category_but_ignored_ones_are_not(tmp_path: Path) -> None:
    write(tmp_path / "found", "x", [[0, 1, 2, 9]])
    write(tmp_path / "true", "x", [[0, 2, 2, IGNORE]])
    write(tmp_path / "found", "y", [[9, 0]])
    write(tmp_path / "true", "y", [[1, 1]])
    confusion = count_confusion(tmp_path / "found", tmp_path / "true", 2)
    assert confusion.pixels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    assert (confusion.num_counted, confusion.num_images) == (2, 2)


def test_of_many_images_evenly_spaced_ones_are_counted(tmp_path: Path) -> None:
    for index in range(10):
        write(tmp_path / "found", str(index), [[index % 2]])
        write(tmp_path / "true", str(index), [[1]])
    told: list[tuple[int, int]] = []
    confusion = count_confusion(
        tmp_path / "found", tmp_path / "true", 1, max_images=4, on_progress=lambda *done: told.append(done)
    )
    assert confusion.num_counted == 4
    assert confusion.num_images == 10
    assert told[-1] == (4, 4)


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    write(tmp_path / "found", "x", [[0, 1]])
    write(tmp_path / "true", "x", [[0]])
    with pytest.raises(LussError, match=r"x\.png has another size"):
        count_confusion(tmp_path / "found", tmp_path / "true", 2)


def test_rows_name_background_categories_and_matched_clusters(tmp_path: Path) -> None:
    source = make_run(tmp_path)
    content = read_json(source.of("evaluate") / "metrics.json")
    rows = category_rows(content["splits"]["validation"], content["categories"])
    assert [row["name"] for row in rows] == ["background", "ant", "bee", "cat"]
    assert [row["cluster"] for row in rows] == [0, 1, 2, 3]
    assert rows[3]["iou"] == 100
    assert rows[2]["iou"] == pytest.approx(50)


def test_shares_are_of_the_true_pixels_and_follow_the_matching() -> None:
    pixels = np.array([[8, 0, 5], [0, 0, 15], [2, 10, 0], [0, 0, 0]])
    from luss.report.categories import Confusion

    found = confusion_json(Confusion(pixels, 3, 3), {"0": 0, "1": 2, "2": 1}, 3)
    assert found["shares"][0] == [[0, 0.8], [1, 0.2]]
    assert found["shares"][1] == [[1, 1.0]]
    assert found["shares"][2] == [[2, 0.75], [0, 0.25]]
    assert found["matrix"] == [[800, 200, 0], [0, 1000, 0], [250, 0, 750]]


def test_a_matrix_of_very_many_categories_is_left_out() -> None:
    from luss.report.categories import MAX_MATRIX, Confusion

    num = MAX_MATRIX + 1
    pixels = np.zeros((num + 1, num), np.int64)
    found = confusion_json(Confusion(pixels, 1, 1), {str(i): i for i in range(num)}, num)
    assert found["matrix"] is None
    assert len(found["shares"]) == num
