"""`luss prepare imagenet-s` from the command line."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from running import Fault, Launcher

from luss.data.imagenet_s import write_mask
from luss.data.imagenet_s_build import PUBLISHED

CATEGORIES = ["n01443537", "n02099601"]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Two categories with two training images and one validation image each."""
    root = tmp_path / "imagenet"
    for place, wnid in enumerate(CATEGORIES):
        for path in (
            *(root / "train" / wnid / f"{wnid}_{number}.JPEG" for number in range(2)),
            root / "val" / wnid / f"ILSVRC2012_val_0000000{place}.JPEG",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "ImageNetS50-a0fe.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for place, wnid in enumerate(CATEGORIES):
            for name in (
                f"train-semi-segmentation/{wnid}/{wnid}_1",
                f"validation-segmentation/{wnid}/ILSVRC2012_val_0000000{place}",
            ):
                write_mask(tmp_path / "mask.png", np.full((3, 4), place + 1))
                opened.write(tmp_path / "mask.png", f"ImageNetS50/{name}.png")
    return path


def prepare(luss: Launcher, imagenet: Path, archive: Path, *more: str, fault: Fault | None = None) -> tuple[int, str]:
    outcome = luss(
        "prepare", "imagenet-s", "--imagenet", str(imagenet), "--annotations", str(archive), *more, fault=fault
    )
    return outcome.code, outcome.output


def test_a_set_is_built_and_its_counts_are_compared_with_the_published_ones(
    luss: Launcher, imagenet: Path, archive: Path, tmp_path: Path
) -> None:
    code, output = prepare(luss, imagenet, archive, "--out", str(tmp_path / "out"))
    root = tmp_path / "out" / "ImageNetS50"
    assert sorted(path.name for path in (root / "validation").rglob("*.JPEG")) == [
        f"ILSVRC2012_val_0000000{place}.JPEG" for place in range(2)
    ]
    assert (root / "train" / CATEGORIES[0] / f"{CATEGORIES[0]}_0.JPEG").is_file()
    assert code == 2
    rows = [line for line in output.splitlines() if "differs" in line]
    assert len(rows) == 6
    assert any("train-semi masks" in row and f"{PUBLISHED[50]['train-semi']}" in row and " 2 " in row for row in rows)
    assert "ImageNetS50 has no test split" in output
    assert f"data.root={root}" in output
    assert "error: ImageNetS50: numbers differ from the published ones; " in output
    assert not (tmp_path / "out" / "missing.txt").exists()


def test_what_is_missing_goes_to_a_file_which_vanishes_when_nothing_is(
    luss: Launcher, imagenet: Path, archive: Path, tmp_path: Path
) -> None:
    image = imagenet / "val" / CATEGORIES[1] / "ILSVRC2012_val_00000001.JPEG"
    image.rename(tmp_path / "away.JPEG")
    _, output = prepare(luss, imagenet, archive, "--out", str(tmp_path / "out"))
    listed = (tmp_path / "out" / "missing.txt").read_text(encoding="utf-8").splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(f"ImageNetS50/validation/{CATEGORIES[1]}/ILSVRC2012_val_00000001.JPEG\t")
    assert "missing, the first 1 of 1" in output
    assert "error: ImageNetS50: 1 files or folders are missing and numbers differ" in output
    assert listed[0].split("\t")[0] in output
    (tmp_path / "away.JPEG").rename(image)
    _, output = prepare(luss, imagenet, archive, "--out", str(tmp_path / "out"))
    assert "1 files made now" in output
    assert not (tmp_path / "out" / "missing.txt").exists()


def test_a_killed_run_is_completed_by_the_same_command(
    luss: Launcher, imagenet: Path, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _ = prepare(
        luss, imagenet, archive, "--out", str(out), "--copy", fault=Fault("os.rename", "ImageNetS50/train/", 3)
    )
    assert code == -9
    assert prepare(luss, imagenet, archive, "--out", str(out), "--copy")[0] == 2
    found = {path.relative_to(out).as_posix() for path in (out / "ImageNetS50" / "train").rglob("*") if path.is_file()}
    assert found == {f"ImageNetS50/train/{wnid}/{wnid}_{number}.JPEG" for wnid in CATEGORIES for number in range(2)}
    assert not [path for path in (out / "ImageNetS50" / "train").rglob("*") if path.is_symlink()]


def test_a_set_that_the_archive_does_not_hold_is_named(
    luss: Launcher, imagenet: Path, archive: Path, tmp_path: Path
) -> None:
    code, output = prepare(luss, imagenet, archive, "--out", str(tmp_path / "out"), "--sets", "50", "919")
    assert code == 2
    assert "holds the sets 50, not 919" in output
    assert not (tmp_path / "out" / "ImageNetS50").exists()
