"""What a stage says of results that teach nothing: clusters without images, label maps without objects, attention without contrast."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from running import Launcher, copy_until
from toy_training import Recorder

from luss.clustering.kmeans import kmeans
from luss.features.store import FeatureStore, FeatureWriter
from luss.files import read_json
from stages.cluster import write_figures
from stages.parts.training import plateau
from stages.pipeline import LABELS


def context(folder: Path) -> Any:
    return SimpleNamespace(folder=folder, reporter=Recorder(), run=SimpleNamespace(seed=0, pseudo_labels=None))


def test_clusters_that_stay_empty_are_counted_listed_and_said(tmp_path: Path) -> None:
    # Twelve images of three kinds.
    writer = FeatureWriter(tmp_path / "features", 12, 3, "float32", 12, "x")
    writer.write_shard(0, np.eye(3, dtype=np.float32)[np.arange(12) % 3])
    writer.finish()
    store, where = FeatureStore.open(tmp_path / "features"), context(tmp_path / "cluster")
    result = kmeans(store, 5, num_restarts=1, engine="torch")
    figures = write_figures(where, result, {})
    record = read_json(tmp_path / "cluster" / "cluster.json")
    empty = [cluster + 1 for cluster, size in enumerate(record["cluster_sizes"]) if size == 0]
    assert len(empty) == 2
    assert (figures["empty"], record["empty_clusters"]) == (2, empty)
    (warning,) = where.reporter.warnings
    assert f"2 of 5 clusters hold no image (id {empty[0]}, {empty[1]})" in warning
    assert "cluster.num_clusters" in warning


def test_where_no_cluster_is_empty_nothing_is_said(finished: Path) -> None:
    record = read_json(finished / "cluster" / "cluster.json")
    assert record["empty_clusters"] == [i + 1 for i, size in enumerate(record["cluster_sizes"]) if size == 0]
    assert ("empty" in record) == bool(record["empty_clusters"])


def test_labels_without_an_object_and_clusters_in_no_label_map_are_said_with_remedies(
    tmp_path: Path, luss: Launcher, config: Path, finished: Path
) -> None:
    run = copy_until(finished, tmp_path, "pseudo_labels")
    words = (f"output={run}", "pseudo_labels.threshold=1.0", "--until", "pseudo_labels")
    outcome = luss("run", str(config), *words)
    assert outcome.code == 0, outcome.output
    said = " ".join(outcome.output.split())
    assert "hardly a position is object (0.00 %)" in said
    assert "pseudo_labels.saliency above 0" in said
    assert "10 of 10 clusters are in no label map (id 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)" in said
    figures = json.loads((run / "pseudo_labels" / "DONE.json").read_text())["figures"]
    assert (figures["unused_clusters"], figures["foreground_share"]) == (10, 0.0)


@pytest.mark.parametrize(
    ("positions", "contrast", "words"),
    [
        ([0, 600, 400], False, ["the same everywhere", "every position keeps its cluster", "pixel_attention.epochs"]),
        ([0, 999, 1], True, ["nearly all positions are object (100.00 %)", "pseudo_labels.threshold"]),
        ([500, 500, 0], True, ["1 of 2 clusters are in no label map (id 2)"]),
        ([500, 300, 200], True, []),
    ],
)
def test_only_labels_that_teach_nothing_are_warned_of(
    tmp_path: Path, positions: list[int], contrast: bool, words: list[str]
) -> None:
    where = context(tmp_path)
    figures = LABELS.said_of(where, np.array(positions), contrast=contrast)
    assert figures["unused_clusters"] == positions[1:].count(0)
    assert figures["foreground_share"] == pytest.approx(1 - positions[0] / 1000)
    assert len(where.reporter.warnings) == bool(words)
    assert [word for word in words if word not in " ".join(where.reporter.warnings)] == []


def test_attention_without_contrast_has_no_threshold(tmp_path: Path) -> None:
    where = context(tmp_path)
    where.run.pseudo_labels = SimpleNamespace(threshold="auto")
    counts = np.bincount([127] * 60 + [128] * 40, minlength=256)
    found = LABELS.choose_threshold(where, counts)
    assert found == {"threshold": 0.0, "source": "auto", "used_labels": False, "method": "none", "separation": 0.0}


def test_the_figures_of_a_stage_that_ended_on_the_plateau_say_for_how_many_epochs(tmp_path: Path) -> None:
    lines = [{"epoch": epoch, "step": 20 * epoch, "swav": float(np.log(16))} for epoch in range(41)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 4')
    assert plateau(context(tmp_path), 16) == {"epochs_on_plateau": 40}
    assert plateau(context(tmp_path), 15) == {}
