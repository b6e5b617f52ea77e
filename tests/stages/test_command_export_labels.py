"""`luss export` of labels on a finished run, end to end: other splits, edits, bad input, and training on the labels."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from running import Fault, Launcher
from safetensors import safe_open

from luss.data.imagenet_s import read_mask
from luss.export.standalone_dataset import PseudoLabelDataset
from luss.labels.layers import Edits
from luss.labels.store import LabelStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_on_labels.py"


def test_an_export_holds_the_current_edits_and_names(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    LabelStore.open(run).layers.add(Edits(threshold=0.3, merge=((1, 2),), drop=(4,), names={1: "dog"}))
    store = LabelStore.open(run)
    assert luss("export", str(run), "--format", "png", "--out", str(tmp_path / "png")).code == 0
    for index in (0, 17, 59):
        mask = read_mask((tmp_path / "png" / "masks" / store.name(index)).with_suffix(".png"))
        np.testing.assert_array_equal(mask, store.label_map(index))
        assert not np.isin(mask, [2, 4]).any()
    card = (tmp_path / "png" / "README.md").read_text(encoding="utf-8")
    assert "clusters 1, 2 are one, 1" in card
    assert "dropped, now background: 4" in card
    assert "| 1 | dog |" in card
    assert luss("export", str(run), "--format", "coco", "--out", str(tmp_path / "coco")).code == 0
    coco = COCO(tmp_path / "coco" / "annotations.json")
    assert {category["id"]: category["name"] for category in coco.cats.values()}[1] == "dog"
    assert sorted(coco.cats) == [1, 3, 5, 6, 7, 8, 9, 10]


def test_another_layer_does_not_mix_with_a_half_written_export(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ["export", str(run), "--format", "png", "--out", str(tmp_path / "out")]
    luss(*words, fault=Fault("os.rename", "masks/star"))
    LabelStore.open(run).layers.add(Edits(drop=(1,)))
    outcome = luss(*words)
    assert (outcome.code, "holds another export (edits differ)" in outcome.output) == (2, True)


def test_other_splits_are_the_predicted_masks(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    words = ["--format", "png", "--split", "validation", "--out", str(tmp_path / "out")]
    outcome = luss("export", str(finished), *words)
    assert outcome.code == 0, outcome.output
    masks = finished / "predict" / "masks" / "validation"
    names = [path.relative_to(masks) for path in masks.rglob("*.png")]
    assert len(names) == 20
    for name in names:
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / name), read_mask(masks / name))
    assert "a network, trained on the pseudo labels" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_masks_of_a_stale_stage_are_exported_with_a_warning(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    LabelStore.open(run).layers.add(Edits(drop=(1,)))
    words = ["--format", "png", "--split", "validation", "--out", str(tmp_path / "out")]
    outcome = luss("export", str(run), *words)
    assert outcome.code == 0
    assert "predict is stale" in outcome.output
    assert "predict is stale" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "png", "--split", "test"], "there are no masks of split 'test': give one of train, validation"),
        (["--format", "torch", "--split", "validation"], "holds the pseudo labels of the training images"),
    ],
)
def test_a_split_that_is_not_there_is_refused(
    luss: Launcher, finished: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    outcome = luss("export", str(finished), *words, "--out", str(tmp_path / "out"))
    assert (outcome.code, message in outcome.output) == (2, True)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_and_a_folder_in_use_are_refused(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "pseudo_labels" / "DONE.json").unlink()
    outcome = luss("export", str(run), "--format", "png", "--out", str(tmp_path / "out"))
    assert (outcome.code, "pseudo_labels is not done" in outcome.output) == (2, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    outcome = luss("export", str(finished), "--format", "png", "--out", str(tmp_path / "mine"))
    assert (outcome.code, "holds other files" in outcome.output) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_example_trains_another_network_on_the_exported_labels(
    luss: Launcher, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert luss("export", str(finished), "--format", "torch", "--out", str(tmp_path / "labels")).code == 0
    data = PseudoLabelDataset(tmp_path / "labels")
    store = LabelStore.open(finished)
    np.testing.assert_array_equal(data[3][1].numpy(), store.label_map(3))
    monkeypatch.setattr(sys, "path", list(sys.path))
    example = runpy.run_path(str(EXAMPLE))
    out = tmp_path / "student.safetensors"
    words = "--model test_resnet --epochs 1 --max-steps 2 --size 32 --batch-size 16 --workers 0"
    share = example["main"]([str(tmp_path / "labels"), *words.split(), "--out", str(out)])
    assert 0 <= share <= 1
    assert "epoch 1 of 1: loss " in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        assert file.metadata() == {"model": "test_resnet", "num_classes": "11"}
        assert file.get_tensor("head.3.weight").shape[0] == 11


def test_the_record_of_an_export_says_what_it_is(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    words = ["export", str(finished), "--format", "palette", "--out", str(tmp_path / "out")]
    assert "exported" in luss(*words).output
    assert "was complete already" in luss(*words).output
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["complete"], record["images"], record["skipped"]) == (True, 60, 0)
    assert record["identity"]["labels"] == json.loads((finished / "pseudo_labels" / "DONE.json").read_text())["id"]
    store = LabelStore.open(finished)
    assert sum(record["pixels"]) == sum(np.prod(store.image_size(index)) for index in range(60))


def replace_in(path: Path, before: str, after: str) -> None:
    path.write_text(path.read_text().replace(before, after))


def test_images_are_taken_from_where_the_run_listed_them_else_from_its_data_else_a_person_is_asked(
    luss: Launcher, finished: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    words = ["export", str(run), "--format", "webdataset", "--out"]
    root = shapes_folder / "train"
    replace_in(run / "manifest" / "manifest" / "train.json", str(shapes_folder), "/gone")
    # The list was edited on purpose.
    replace_in(run / "manifest" / "DONE.json", '"checksums"', '"of_old"')
    outcome = luss(*words, str(tmp_path / "data"))
    assert (outcome.code, f"60 images of train (images from {root})" in outcome.output) == (0, True), outcome.output
    for path in run.rglob("*.yaml"):
        replace_in(path, str(shapes_folder), "/gone")
    outcome = luss(*words, str(tmp_path / "asked"))
    assert (outcome.code, "give the folder that holds them with --images" in outcome.output) == (2, True)
    assert not (tmp_path / "asked").exists()
    outcome = luss(*words, str(tmp_path / "given"), "--images", str(root))
    assert outcome.code == 0, outcome.output
    assert (tmp_path / "given" / "train-000000.tar").read_bytes() == (
        tmp_path / "data" / "train-000000.tar"
    ).read_bytes()
