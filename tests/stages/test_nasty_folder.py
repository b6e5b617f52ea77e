"""A folder of images as people have them, without labels and with files that nobody can read, through every stage."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nasty_folder import nasty_folder
from running import ORDER, Launcher
from tiny_run import write_tiny_config

from luss.data.imagenet_s import read_mask
from luss.features.store import FeatureStore
from luss.labels.store import LabelStore

NUM_CLUSTERS = 3
# Two batches of seven: every listed image is read. A header tells nothing about the rest of a file: this one is found when it is read.
TRUNCATED = "bad truncated.jpg"
CHANGES = f"""
data: {{max_skipped_share: 0.5}}
pretrain: {{epochs: 1, batch_size: 7, method: {{clustering: {{num_prototypes: 4}}}}}}
pixel_attention: {{epochs: 1, batch_size: 7}}
extract_features: {{shard_size: 5}}
cluster: {{num_clusters: {NUM_CLUSTERS}}}
pseudo_labels: {{shard_size: 5}}
finetune: {{epochs: 1, batch_size: 7}}
predict: {{shard_size: 5}}
"""


@dataclass(frozen=True)
class NastyRun:
    """A finished run over the folder.

    Attributes:
        folder: Of the run.
        output: What it printed.
        good: (width, height) of each readable file, upright, by its relative path.
        bad: A word of the reason for each other.
    """

    folder: Path
    output: str
    good: dict[str, tuple[int, int]]
    bad: dict[str, str]

    def skipped(self, stage: str) -> dict[str, str]:
        """The reasons in a stage's list, by file name."""
        with open(self.folder / stage / "skipped.csv", encoding="utf-8", newline="") as file:
            return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def nasty(luss: Launcher, tmp_path_factory: pytest.TempPathFactory) -> NastyRun:
    """Every stage, in a few seconds."""
    folder = tmp_path_factory.mktemp("nasty")
    good, bad = nasty_folder(folder / "photos")
    config = write_tiny_config(folder / "nasty.yaml", folder / "unused", CHANGES)
    outcome = luss("run", str(config), f"output={folder / 'run'}", f"data.root={folder / 'photos'}")
    assert outcome.code == 0, outcome.output
    return NastyRun(folder / "run", outcome.output, good, bad)


@pytest.mark.parametrize("stage", ORDER)
def test_every_stage_ends(nasty: NastyRun, stage: str) -> None:
    assert (nasty.folder / stage / "DONE.json").is_file()


def test_every_readable_image_has_a_pseudo_label_of_its_own_upright_size(nasty: NastyRun) -> None:
    store = LabelStore.open(nasty.folder)
    found = {}
    for index in range(len(store)):
        labels = store.label_map(index)
        assert labels.max() <= NUM_CLUSTERS
        # Every position has a cluster; only the threshold makes background.
        assert set(np.unique(store.label_map(index, threshold=0.0))) <= set(range(1, NUM_CLUSTERS + 1))
        found[store.name(index)] = (labels.shape[1], labels.shape[0])
    assert found == nasty.good


def test_every_readable_image_has_a_mask_of_its_own_upright_size_and_no_other_file_has(nasty: NastyRun) -> None:
    folder = nasty.folder / "predict" / "masks" / "train"
    masks = {path.relative_to(folder).as_posix(): read_mask(path) for path in folder.rglob("*.png")}
    assert all(mask.max() <= NUM_CLUSTERS for mask in masks.values())
    sizes = {name: (mask.shape[1], mask.shape[0]) for name, mask in masks.items()}
    assert sizes == {Path(name).with_suffix(".png").as_posix(): size for name, size in nasty.good.items()}


def test_what_the_header_gives_away_is_listed_by_the_manifest_with_a_reason(nasty: NastyRun) -> None:
    listed = nasty.skipped("manifest")
    assert listed.keys() == nasty.bad.keys() - {TRUNCATED}
    assert all(listed[name] and nasty.bad[name] in listed[name] for name in listed)


@pytest.mark.parametrize("stage", ["pretrain", "pixel_attention", "extract_features", "pseudo_labels", "predict"])
def test_a_truncated_image_is_listed_by_each_stage_that_reads_it(nasty: NastyRun, stage: str) -> None:
    listed = nasty.skipped(stage)
    assert listed.keys() == {TRUNCATED}
    assert nasty.bad[TRUNCATED] in listed[TRUNCATED]


def test_each_readable_image_has_a_vector_and_the_truncated_one_a_row_of_zeros(nasty: NastyRun) -> None:
    store = FeatureStore.open(nasty.folder / "extract_features" / "features")
    lengths = np.linalg.norm(store.read(0, len(store)), axis=1)
    assert sorted(np.round(lengths, 3).tolist()) == [0.0] + [1.0] * len(nasty.good)


def test_without_masks_nothing_is_evaluated(nasty: NastyRun) -> None:
    assert json.loads((nasty.folder / "evaluate" / "metrics.json").read_text(encoding="utf-8")) == {"splits": {}}
    assert "no masks were found: there is nothing to evaluate" in nasty.output
    assert "mIoU" not in nasty.output
    figures = json.loads((nasty.folder / "cluster" / "cluster.json").read_text(encoding="utf-8"))
    assert not {"nmi", "accuracy"} & set(figures)
