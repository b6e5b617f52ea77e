"""`luss export RUN --format imagenet-s-zip`."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from running import Launcher

from luss.benchmark.evaluator import evaluate_folders


def export(luss: Launcher, run: Path, out: Path, *more: str) -> tuple[int, str]:
    outcome = luss("export", str(run), "--format", "imagenet-s-zip", "--out", str(out), *more)
    return outcome.code, outcome.output


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_archive_evaluates_to_the_runs_own_numbers(
    luss: Launcher, finished: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    code, output = export(luss, finished, tmp_path / "out.zip")
    assert code == 0, output
    assert "20 masks of validation with the matching" in output
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    found = evaluate_folders(
        tmp_path / "unpacked",
        shapes_folder / "validation-segmentation",
        num_classes=10,
        matching=tmp_path / "unpacked" / "match.json",
    ).to_json()
    own = json.loads((finished / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    assert {key: own[key] for key in found} == json.loads(json.dumps(found))


def test_the_method_is_told_from_the_settings(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    export(luss, finished, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        lines = dict(line.split(": ", 1) for line in archive.read("method.txt").decode().split("\n"))
    assert lines["Method name"] == "pass_s (tiny)"
    assert lines["Networks"] == "test_resnet"
    assert lines["Training data"] == "shapes/train"
    assert lines["Training scheme"].startswith("pass_s pretraining 2 epochs, batch 20; pixel attention 2 epochs")
    assert "k-means with 10 clusters" in lines["Method description"]


def test_the_test_split_comes_first_where_it_was_predicted(luss: Launcher, run: Path, tmp_path: Path) -> None:
    masks = run / "predict" / "masks"
    shutil.copytree(masks / "validation", masks / "test")
    next((masks / "test").rglob("*.png")).unlink()
    assert "19 masks of test" in export(luss, run, tmp_path / "out.zip")[1]
    assert "20 masks of validation" in export(luss, run, tmp_path / "out.zip", "--split", "validation")[1]
    code, output = export(luss, run, tmp_path / "out.zip", "--split", "moon")
    assert code == 2
    assert "no masks of the split 'moon'" in output


def test_a_matching_of_other_masks_is_refused(luss: Launcher, run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "predict" / "DONE.json").read_text(encoding="utf-8"))
    (run / "predict" / "DONE.json").write_text(json.dumps(record | {"id": "another"}), encoding="utf-8")
    code, output = export(luss, run, tmp_path / "out.zip")
    assert code == 2
    assert "has not evaluated its present masks" in output
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("stage", ["semi_predict", "distance_matching"])
def test_ids_that_are_categories_need_no_matching(luss: Launcher, run: Path, tmp_path: Path, stage: str) -> None:
    (run / "predict").rename(run / stage)
    shutil.rmtree(run / "evaluate")
    code, output = export(luss, run, tmp_path / "out.zip")
    assert code == 0, output
    assert "20 masks of validation without a matching" in output
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert "match.json" not in archive.namelist()
        assert "train-semi" in archive.read("method.txt").decode()


def test_a_run_without_predictions_is_told_to_go_on(luss: Launcher, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "predict")
    code, output = export(luss, run, tmp_path / "out.zip")
    assert code == 2
    assert "has no finished predictions" in output
