"""A data set with masks and a few unreadable images: everything is done with the others, and the numbers say so."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from running import Launcher

from luss.config import load_config
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from stages.parts.images import list_images
from stages.pipeline import MANIFEST
from stages.running.state import States


def cut(root: Path, split: str, places: Sequence[int], *, keep: float) -> list[str]:
    """Cuts pictures of a split off; returns their names."""
    paths = sorted((root / split).rglob("*.jpg"))
    for place in places:
        content = paths[place].read_bytes()
        paths[place].write_bytes(content[: int(len(content) * keep)])
    return [paths[place].relative_to(root / split).with_suffix("").as_posix() for place in places]


@pytest.fixture(scope="module")
def photos(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training pictures and a validation picture break off in the middle, a test picture has no header."""
    root = tmp_path_factory.mktemp("cut") / "photos"
    shutil.copytree(shapes_folder, root)
    cut(root, "train", (5, 25, 45), keep=0.4)
    cut(root, "validation", (3,), keep=0.4)
    cut(root, "test", (0,), keep=0.01)
    return root


@pytest.fixture(scope="module")
def words(config: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    run = tmp_path_factory.mktemp("cut-run") / "run"
    return [
        str(config),
        f"data.root={photos}",
        f"output={run}",
        "data.max_skipped_share=0.06",
        "pseudo_labels.threshold=validation",
    ]


@pytest.fixture(scope="module")
def run(luss: Launcher, words: list[str]) -> Path:
    """A run whose threshold is searched with the validation masks: 3 of 60 and 1 of 20 images are within the limit, 4 of 20 are not."""
    outcome = luss("run", *words)
    assert outcome.code == 0, outcome.output
    folder = Path(words[2].removeprefix("output="))
    (folder / "output.txt").write_text(outcome.output, encoding="utf-8")
    return folder


def metrics(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "evaluate" / "metrics.json").read_text(encoding="utf-8")))


def test_an_image_that_cannot_be_read_is_left_out_of_the_evaluation_which_says_so(run: Path) -> None:
    assert metrics(run)["num_images"] == 19
    assert "1 of 20 masks of validation are left out" in " ".join(
        (run / "output.txt").read_text(encoding="utf-8").split()
    )


def test_a_split_that_is_evaluated_later_makes_nothing_stale_although_it_has_unreadable_images(
    run: Path, luss: Launcher, words: list[str]
) -> None:
    trained = (run / "finetune" / "model.safetensors").stat().st_mtime_ns
    outcome = luss("run", *words, "data.evaluate=[validation,test]")
    assert outcome.code == 0, outcome.output
    assert "finetune: done" in outcome.output
    assert (run / "finetune" / "model.safetensors").stat().st_mtime_ns == trained
    assert "1 of 20 masks of test are left out" in " ".join(outcome.output.split())
    assert {split: found["num_images"] for split, found in metrics(run)["splits"].items()} == {
        "validation": 19,
        "test": 19,
    }


def test_more_missing_predictions_than_images_may_be_unreadable_are_an_error(
    run: Path, luss: Launcher, words: list[str], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    skipped = SkippedFiles(copy / "predict" / "skipped.csv")
    for path in sorted((copy / "predict" / "masks" / "validation").rglob("*.png"))[:2]:
        path.unlink()
        skipped.add(Path("/photos/validation", path.parent.name, f"{path.stem}.jpg"), "truncated")
    outcome = luss.stage(
        "evaluate", *words[:2], f"output={copy}", *words[3:], "data.evaluate=[validation,test]", "--force"
    )
    assert outcome.code == 2
    assert "3 of 20 masks of validation have no prediction" in " ".join(outcome.output.split())


def test_an_image_without_a_mask_is_left_out(
    photos: Path, luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run, root = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(photos, root)
    masks = sorted((root / "validation-segmentation").rglob("*.png"))
    masks[-1].unlink()
    words = (
        str(config),
        f"data.root={root}",
        f"output={run}",
        "data.max_skipped_share=0.06",
        "pretrain.epochs=0",
        "pixel_attention.epochs=0",
    )
    outcome = luss("run", *words)
    assert outcome.code == 0, outcome.output
    assert "1 images of validation have no mask and are left out" in " ".join(outcome.output.split())
    assert metrics(run)["num_images"] == 18


def test_a_split_with_too_many_unreadable_images_is_refused_with_its_own_numbers(
    config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    root, lists = tmp_path / "photos", tmp_path / "lists"
    for split, places in (("train", (0, 1)), ("validation", (2, 3, 4))):
        shutil.copytree(shapes_folder / split, root / split)
        cut(root, split, places, keep=0.01)
    run = load_config(config, [f"data.root={root}", f"output={tmp_path / 'run'}", "data.max_skipped_share=0.1"])
    place, skipped = States(run).place(MANIFEST), SkippedFiles(tmp_path / "skipped.csv")
    # 2 of 60 are within the limit; 3 of 20 are not.
    assert len(list_images(place, root / "train", lists, "train", skipped, print)) == 58
    with pytest.raises(LussError, match=r"^3 of 20 image files \(15\.0%\) could not be used"):
        list_images(place, root / "validation", lists, "validation", skipped, print)
    assert skipped.count == 5
    assert [path.stem for path in lists.glob("*.json")] == ["train"]
