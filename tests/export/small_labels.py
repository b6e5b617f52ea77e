"""A label store of a few small images for the tests of the exports."""

from pathlib import Path

import numpy as np
from PIL import Image

from luss.export.labelled import StoredLabels
from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter

NAMES = ["dog/a.jpg", "dog/a.png", "dog/b.c.png", "ünïcode/\udcff.png", "e.png", "f.png", "g.png"]
NUM_CLUSTERS = 5


def small_labels(folder: Path, *, num_clusters: int = NUM_CLUSTERS) -> StoredLabels:
    """Seven images of different sizes with labels; two share a stem, one name is not UTF-8."""
    writer = LabelWriter(folder / "labels", [(0, 4), (4, 7)], num_clusters=num_clusters, fingerprint="f")
    generator = np.random.default_rng(0)
    records = []
    for index, name in enumerate(NAMES):
        size = (16 + 3 * index, 30 - 2 * index)
        labels = generator.integers(1, NUM_CLUSTERS + 1, (4, 5)).astype(np.uint16)
        attention = generator.integers(0, 256, (4, 5)).astype(np.uint8)
        records.append(LabelRecord(name, size, labels, attention))
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    writer.write_shard(0, records[:4])
    writer.write_shard(1, records[4:])
    store = LabelStore.open(writer.finish(0.4, "auto"))
    return StoredLabels(store, folder / "images")
