"""`luss report` of a prepared ImageNet-S."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from small_imagenet import DOG, FISH, TOWEL

from luss.data.imagenet_s import write_mask
from luss.errors import LussError
from stages.commands import report

OTHER = "n09999999"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three categories; the masks of validation hold one or two of them."""
    root = tmp_path / "ImageNetS919"
    images = {"train": {FISH: 5, DOG: 2, TOWEL: 2}, "train-extra": {OTHER: 3}, "validation": {FISH: 2, DOG: 1}}
    for split, categories in images.items():
        for wnid, number in categories.items():
            for index in range(number):
                path = root / split / wnid / f"{wnid}_{index}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
    mask = np.zeros((10, 20), int)
    mask[:5] = 1  # half of the image: ML
    write_mask(root / "validation-segmentation" / FISH / f"{FISH}_0.png", mask)
    both = mask.copy()
    both[9, :2] = 2  # a hundredth: S
    write_mask(root / "validation-segmentation" / FISH / f"{FISH}_1.png", both)
    ignored = np.full((10, 20), 1000)
    ignored[0] = 2
    write_mask(root / "validation-segmentation" / DOG / f"{DOG}_0.png", ignored)
    return root


def reported(data: Path, out: Path | None) -> None:
    report.main(argparse.Namespace(run=data, out=out, workers=1, clusters=None, images_per_cluster=12))


def read(folder: Path) -> dict[str, Any]:
    text = (folder / "data.js").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.removeprefix("const lussData = ").rstrip().removesuffix(";"))
    assert found == json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return found


def test_images_categories_and_masks_of_every_split_are_counted(data: Path, tmp_path: Path) -> None:
    reported(data, tmp_path / "out")
    found = read(tmp_path / "out")
    rows = {row.pop("split"): list(row.values()) for row in found["splits"]}
    # Images, categories, least, median and most images a category, masks.
    assert rows == {
        "train": [9, 3, 2, 2.0, 5, 0],
        "validation": [3, 2, 1, 1.5, 2, 3],
        "train-extra": [3, 1, 3, 3.0, 3, 0],
    }
    assert (found["categories"], found["problems"]) == (3, [])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "index.html",
        "dataset.js",
        "basics.js",
        "report.css",
    }


def test_what_the_masks_hold_is_said(data: Path, tmp_path: Path) -> None:
    reported(data, tmp_path / "out")
    masks = read(tmp_path / "out")["masks"]["validation"]
    assert (masks["masks"], masks["width"], masks["height"]) == (3, 20, 10)
    assert masks["categories_an_image"] == {"1": 2, "2": 1}
    assert masks["mean_categories_an_image"] == pytest.approx(4 / 3)
    # The dog's mask is all of what counts there.
    assert masks["size_groups"] == {"S": 1, "MS": 0, "ML": 2, "L": 1}
    assert (masks["sizes"][0], masks["sizes"][49], masks["sizes"][99], masks["objects"]) == (1, 2, 1, 4)
    assert masks["together"] == [{"names": [FISH, DOG], "masks": 1}]
    assert [row["masks"] for row in masks["categories"]] == [2, 2, 0]
    assert masks["shares"]["ignored"] == pytest.approx(100 * 180 / 600)
    assert sum(masks["shares"].values()) == pytest.approx(100)
    assert masks["where"][0][0] == 100


def test_a_damaged_mask_is_left_out_and_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "validation-segmentation" / FISH / f"{FISH}_0.png").write_bytes(b"cut")
    reported(data, tmp_path / "out")
    assert read(tmp_path / "out")["masks"]["validation"]["masks"] == 2
    assert f"left out: validation: {FISH}/{FISH}_0.png" in capsys.readouterr().out


def test_a_name_that_would_be_markup_stays_a_name(data: Path, tmp_path: Path) -> None:
    name = "</script><script>[red]"
    # Sorts before the others: ids move, and the masks still fit.
    (data / "train" / name.replace("/", "")).mkdir()
    reported(data, tmp_path / "out")
    assert "<" not in (tmp_path / "out" / "data.js").read_text(encoding="utf-8")
    assert name.replace("/", "") in [row["name"] for row in read(tmp_path / "out")["masks"]["validation"]["categories"]]


def test_a_report_is_replaced_and_nothing_else_is(data: Path, tmp_path: Path) -> None:
    reported(data, tmp_path / "out")
    reported(data, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(LussError, match="is not a report"):
        reported(data, tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ImageNetS919", "mine", "out"]


def test_without_a_folder_the_report_lies_among_the_outputs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reported(data, None)
    assert (tmp_path / "outputs" / "ImageNetS919-statistics" / "index.html").is_file()


def test_a_data_set_without_categories_is_an_error_with_the_layout(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    with pytest.raises(LussError, match="no folders of categories"):
        reported(tmp_path / "data", tmp_path / "out")
