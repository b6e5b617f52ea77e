"""The submission archive: what is in it, that it is always the same, and that it can be evaluated."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from luss.benchmark.evaluator import evaluate_folders
from luss.benchmark.matching import load_matching
from luss.data.imagenet_s import read_mask, write_mask
from luss.errors import LussError
from luss.export.imagenet_s_zip import METHOD_KEYS, method_text, write_submission

METHOD = {key: f"the {key.lower()}" for key in METHOD_KEYS}
NUM_CLASSES = 3


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Random predictions of six images in two categories."""
    random = np.random.default_rng(0)
    for number in range(6):
        ids = random.integers(0, NUM_CLASSES + 1, (12, 15))
        write_mask(tmp_path / "masks" / f"n0{number % 2}" / f"x{number}.png", ids)
    return tmp_path / "masks"


def truth(masks: Path, folder: Path) -> Path:
    """Masks in which cluster 1 is category 2, cluster 2 is 3 and cluster 3 is 1, with some noise."""
    random = np.random.default_rng(1)
    for path in sorted(masks.rglob("*.png")):
        ids = np.array([0, 2, 3, 1])[read_mask(path)]
        noise = random.integers(0, NUM_CLASSES + 1, ids.shape)
        write_mask(folder / path.relative_to(masks), np.where(random.random(ids.shape) < 0.3, noise, ids))
    return folder


def test_masks_lie_at_the_root_beside_the_method_and_the_matching(masks: Path, tmp_path: Path) -> None:
    count = write_submission(tmp_path / "a.zip", masks, method=METHOD, matching={0: 0, 2: 1, 1: 2, 3: 3})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert names == [
            *(f"n0{category}/x{number}.png" for category in (0, 1) for number in range(category, 6, 2)),
            "method.txt",
            "match.json",
        ]
        assert count == 6
        assert archive.testzip() is None
        for name in names[:-2]:
            assert archive.read(name) == (masks / name).read_bytes()
        assert archive.read("match.json") == b'{"0": 0, "1": 2, "2": 1, "3": 3}'


def test_the_method_has_six_lines_in_order_and_no_line_break_at_its_end(masks: Path, tmp_path: Path) -> None:
    method = METHOD | {"Method description": " several\n  lines\r\n of text "}
    write_submission(tmp_path / "a.zip", masks, method=method)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        lines = archive.read("method.txt").decode().split("\n")
    assert [line.partition(": ")[0] for line in lines] == [
        "Method name",
        "Training data",
        "Training scheme",
        "Networks",
        "Paper/Project link",
        "Method description",
    ]
    assert lines[-1] == "Method description: several lines of text"


def test_a_method_without_one_of_the_keys_is_an_error() -> None:
    with pytest.raises(ValueError, match="Networks"):
        method_text({key: "" for key in METHOD_KEYS if key != "Networks"})


def test_the_bytes_depend_on_nothing_but_the_content(masks: Path, tmp_path: Path) -> None:
    write_submission(tmp_path / "a.zip", masks, method=METHOD, matching={0: 0, 1: 2, 2: 1, 3: 3})
    for number, path in enumerate(masks.rglob("*.png")):
        os.utime(path, (number * 1e6, number * 1e6))
        path.chmod(0o600)
    write_submission(tmp_path / "b.zip", masks, method=METHOD, matching={3: 3, 2: 1, 1: 2, 0: 0})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_unpacked_archive_evaluates_to_the_same_numbers(masks: Path, tmp_path: Path) -> None:
    categories = truth(masks, tmp_path / "truth")
    own = evaluate_folders(masks, categories, num_classes=NUM_CLASSES)
    write_submission(tmp_path / "a.zip", masks, method=METHOD, matching=own.matching)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert load_matching(tmp_path / "unpacked" / "match.json", NUM_CLASSES) == own.matching == {0: 0, 1: 2, 2: 3, 3: 1}
    again = evaluate_folders(
        tmp_path / "unpacked", categories, num_classes=NUM_CLASSES, matching=tmp_path / "unpacked" / "match.json"
    )
    assert again.to_json() == own.to_json()


def test_without_a_matching_there_is_no_match_json(masks: Path, tmp_path: Path) -> None:
    write_submission(tmp_path / "a.zip", masks, method=METHOD)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert "match.json" not in archive.namelist()


def test_hidden_files_stay_out(masks: Path, tmp_path: Path) -> None:
    (masks / "n00" / ".x0.png.12.partial").write_bytes(b"half")
    (masks / ".DS_Store").write_bytes(b"")
    assert write_submission(tmp_path / "a.zip", masks, method=METHOD) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.png", "does not lie in a category's folder"), ("n00/deep/x.png", "is no mask"), ("n00/x.npy", "is no mask")],
)
def test_what_has_no_place_in_the_archive_is_named_and_the_old_file_stays(
    masks: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "a.zip").write_bytes(b"old")
    (masks / name).parent.mkdir(exist_ok=True)
    (masks / name).write_bytes(b"")
    with pytest.raises(LussError, match=message):
        write_submission(tmp_path / "a.zip", masks, method=METHOD)
    assert (tmp_path / "a.zip").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "masks"]


def test_absent_and_empty_folders_of_masks_are_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"masks .*gone does not exist"):
        write_submission(tmp_path / "a.zip", tmp_path / "gone", method=METHOD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LussError, match="empty holds no masks"):
        write_submission(tmp_path / "a.zip", tmp_path / "empty", method=METHOD)
    with pytest.raises(LussError, match="empty is a folder"):
        write_submission(tmp_path / "empty", tmp_path / "empty", method=METHOD)
