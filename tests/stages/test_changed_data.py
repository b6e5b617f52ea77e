"""Data that move, change or disappear under a finished run: what is noticed, what is said, and what is not done again."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from running import ORDER, Launcher


class Moved:
    """A copy of the finished run over a copy of its data, which lie elsewhere."""

    def __init__(self, luss: Launcher, config: Path, finished: Path, shapes: Path, folder: Path) -> None:
        self.luss, self.config, self.run, self.data = luss, config, folder / "run", folder / "data"
        shutil.copytree(finished, self.run)
        shutil.copytree(shapes, self.data)

    def __call__(self, *words: str) -> str:
        """`luss run` over the moved data; what it printed."""
        outcome = self.luss("run", str(self.config), f"output={self.run}", f"data.root={self.data}", *words)
        assert "Traceback" not in outcome.output, outcome.output
        return outcome.output

    def status(self) -> str:
        """`luss status`, in one line."""
        return " ".join(self.luss("status", str(self.run)).output.replace("│", " ").split())

    def ids(self) -> dict[str, str]:
        """The identity of every stage's result."""
        return {stage: json.loads((self.run / stage / "DONE.json").read_text())["id"] for stage in ORDER}

    def image(self, split: str) -> Path:
        """An image of a split."""
        return sorted((self.data / split).rglob("*.jpg"))[0]


@pytest.fixture
def moved(luss: Launcher, config: Path, finished: Path, shapes_folder: Path, tmp_path: Path) -> Moved:
    return Moved(luss, config, finished, shapes_folder, tmp_path)


def skipped(stage: Path) -> dict[str, str]:
    with open(stage / "skipped.csv", encoding="utf-8", newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def test_data_that_were_moved_are_listed_anew_and_nothing_else_is_done_again(moved: Moved) -> None:
    before = moved.ids()
    output = moved()
    assert "manifest: runs anew (data.root" in output
    assert all(f"{stage}: done (" in output for stage in ORDER[1:])
    assert moved.ids() == before
    facts = json.loads((moved.run / "manifest" / "manifest" / "train.json").read_text())
    assert facts["image_root"] == str(moved.data / "train")
    # Other files under the same names are other data.
    for image in (moved.data / "train").rglob("*.jpg"):
        with Image.open(image) as picture:
            picture.convert("L").save(image)
    assert "manifest: done in" in moved("--rescan", "--until", "manifest")
    assert "pretrain stale manifest was run again" in moved.status()


def test_images_that_came_later_are_said_until_they_are_listed(moved: Moved) -> None:
    moved("--until", "manifest")
    assert "not those that were listed" not in moved.status()
    shutil.copy(moved.image("train"), moved.image("train").with_name("new.jpg"))
    said = f"warning: the images in {moved.data}/train are not those that were listed (at least 1 more, 0 fewer)"
    assert said in moved.status()
    assert said in " ".join(moved("--until", "manifest").split())
    assert "run if images differ" in moved("--rescan", "--dry-run")
    output = moved("--rescan", "--until", "manifest")
    assert "images 61" in output
    status = moved.status()
    assert "not those that were listed" not in status
    assert "pretrain stale manifest was run again" in status


def test_other_images_to_evaluate_leave_what_was_learned(moved: Moved) -> None:
    before = moved.ids()
    moved.image("validation").unlink()
    moved("--until", "manifest")
    status = moved.status()
    assert "finetune done" in status
    assert "predict stale manifest was run again" in status
    assert moved.ids() == before


def test_a_rescan_that_finds_the_same_images_leaves_everything_done(moved: Moved) -> None:
    moved("--until", "manifest")
    output = moved("--rescan")
    assert "manifest: runs anew (forced)" in output
    assert all(f"{stage}: done (" in output for stage in ORDER[1:])


def test_images_that_have_changed_since_they_were_listed_are_listed_with_the_remedy(moved: Moved) -> None:
    moved("--until", "manifest")
    other, mended = sorted((moved.data / "validation").rglob("*.jpg"))[:2]
    for image, more in ((other, 5), (mended, 0)):
        with Image.open(image) as picture:
            size = picture.size
            picture.resize((size[0] + more, size[1])).save(image, quality=50)
    output = moved("--force", "predict", "data.max_skipped_share=0.5", "--until", "predict")
    assert "predict: done in" in output
    assert "skipped 1, read with a note in skipped.csv 1" in output
    reasons = skipped(moved.run / "predict")
    assert re.match(r"changed since it was listed: \d+ x \d+ pixels then, \d+ x \d+ now", reasons[other.name])
    assert reasons[mended.name].startswith("read all the same: changed since it was listed: ")
    assert all("--rescan lists the images anew" in reasons[image.name] for image in (other, mended))
    masks = {path.stem for path in (moved.run / "predict" / "masks" / "validation").rglob("*.png")}
    assert mended.stem in masks
    assert other.stem not in masks
    assert "more than data.max_skipped_share=0.01 allows" in " ".join(moved("--force", "predict").split())


def test_a_mask_that_was_deleted_is_named_with_the_remedy(moved: Moved, luss: Launcher, tmp_path: Path) -> None:
    moved("--until", "manifest")
    mask = sorted((moved.run / "predict" / "masks" / "validation").rglob("*.png"))[3]
    mask.unlink()
    output = " ".join(moved("--force", "evaluate").split())
    assert f"{mask}, which predict has made, is gone: run it again (luss run ... --force predict)" in output
    export = ["export", str(moved.run), "--split", "validation", "--format", "png", "--out", str(tmp_path / "out")]
    outcome = luss(*export)
    assert outcome.code == 2
    assert f"{mask} is gone: run predict again" in " ".join(outcome.output.split())


def test_a_damaged_manifest_is_named_with_the_remedy_and_listed_anew_by_it(moved: Moved) -> None:
    moved("--until", "manifest")
    table = moved.run / "manifest" / "manifest" / "train.tsv"
    data = bytearray(table.read_bytes())
    start = data.index(b"\n", 100) + 1
    data[start : start + 20] = b"\xff" * 20
    table.write_bytes(data)
    output = moved("--force", "extract_features", "--until", "extract_features")
    assert f"{table} is damaged" in output
    assert "--force manifest" in output
    assert "manifest: done in" in moved("--force", "manifest", "--until", "manifest")
    assert "pretrain done" in moved.status()


def test_a_folder_whose_name_is_not_utf8_is_listed_and_shown(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / "run"
    shutil.copytree(shapes_folder, data)
    (data / "train" / os.fsdecode(b"\xff")).mkdir()
    shutil.copy(
        sorted((data / "train").rglob("*.jpg"))[0], data / "train" / os.fsdecode(b"\xff") / os.fsdecode(b"\xfe.jpg")
    )
    for _ in range(2):
        outcome = luss("run", str(config), f"output={run}", f"data.root={data}", "--until", "manifest")
        assert outcome.code == 0, outcome.output
    assert "manifest: done" in outcome.output
    status = luss("status", str(run))
    assert status.code == 0, status.output
    assert "done" in status.output
    assert json.loads((run / "manifest" / "DONE.json").read_text())["settings"]["data.root"] == str(data)
    refused = luss("run", str(config), f"output={tmp_path / os.fsdecode(bytes([0xFC]))}", f"data.root={data}")
    assert refused.code == 2
    assert r"\udcfc, a name that is not UTF-8" in refused.output
