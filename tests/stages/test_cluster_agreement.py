"""What the cluster stage says about its clusters where the data set has categories."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from luss.clustering.agreement import clustering_accuracy, normalized_mutual_information
from luss.data.manifest import Manifest
from luss.settings import RunSettings
from stages.cluster import agreement

NUM_CATEGORIES = 7


def listed(folder: Path, names: list[str]) -> Manifest:
    """A manifest of images that nobody needs to look at."""
    lines = [f"{index}\t4\t4\t{name}\n".encode() for index, name in enumerate(names)]
    head = b"id\twidth\theight\tpath\n"
    (folder / "train.tsv").write_bytes(head + b"".join(lines))
    np.save(folder / "train.offsets.npy", np.cumsum([len(head), *map(len, lines[:-1])]).astype(np.uint64))
    num_bytes = len(head) + sum(map(len, lines))
    return Manifest(folder, "train", image_root=folder, num_images=len(names), num_bytes=num_bytes)


@pytest.fixture
def run(tmp_path: Path) -> RunSettings:
    """Of a data set with the folders of ImageNet-S."""
    (tmp_path / "data" / "train").mkdir(parents=True)
    settings = RunSettings(name="x")
    settings.data.root = str(tmp_path / "data")
    return settings


def test_clusters_are_compared_with_the_folders_of_the_images(run: RunSettings, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, NUM_CATEGORIES, 300)
    clusters = np.where(np.arange(300) % 3 == 0, 0, labels)
    # Their order is not that of the numbers.
    manifest = listed(tmp_path, [f"{'gfedcba'[label]}/{index}.jpg" for index, label in enumerate(labels)])
    found = agreement(run, manifest, clusters)
    assert found["accuracy"] == clustering_accuracy(clusters, labels)
    assert found["nmi"] == pytest.approx(normalized_mutual_information(clusters, labels), rel=1e-12)


def test_images_outside_the_folders_leave_nothing_to_compare_with(run: RunSettings, tmp_path: Path) -> None:
    assert agreement(run, listed(tmp_path, ["a/0.jpg", "1.jpg", "b/2.jpg"]), np.zeros(3, np.int32)) == {}


def test_comparing_takes_some_bytes_an_image_however_long_the_names_are(
    run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num = 20_000
    manifest = listed(tmp_path, [f"{index % NUM_CATEGORIES}{'long' * 40}/{index}.jpg" for index in range(num)])
    # What the measures themselves take is not the question.
    monkeypatch.setattr("stages.cluster.clustering_accuracy", lambda assignments, labels: 0.0)
    monkeypatch.setattr("stages.cluster.normalized_mutual_information", lambda assignments, labels: 0.0)
    tracemalloc.start()
    try:
        agreement(run, manifest, np.zeros(num, np.int32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * num
