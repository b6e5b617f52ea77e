"""The part of a report about clusters: the table that the page sorts and searches, and one script of pictures a cluster."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.clustering.results import read_assignments, read_centroids
from luss.data.categories import categories_of
from luss.data.manifest import Manifest
from luss.data.skipped import escape_path
from luss.errors import LussError
from luss.features.store import FeatureStore
from luss.files import link_or_copy, write_text
from luss.labels.palette import palette
from luss.labels.store import LabelStore
from luss.report.clusters import ClusterTable, common_folders, measure_clusters
from luss.report.pictures import PictureReader
from luss.report.source import ReportSource

NUM_SIMILAR = 5
HISTOGRAM_MAPS = 4000

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """The clusters of a run, ready to be shown.

    Attributes:
        manifest: The training images.
        assignments: (N,) cluster of each, from 0.
        table: Their measures.
        store: Label maps; None while there are none of these clusters.
    """

    manifest: Manifest
    assignments: NDArray[np.integer[Any]]
    table: ClusterTable
    store: LabelStore | None

    def largest(self, num: int | None) -> list[int]:
        """The clusters that get pictures: the `num` largest that are not empty, or all of them."""
        sizes = self.table.sizes
        order = np.argsort(-sizes, kind="stable")[: len(sizes) if num is None else num]
        return [int(cluster) for cluster in order if sizes[cluster]]


def open_gallery(source: ReportSource) -> Gallery:
    """Measures the clusters of a run.

    Raises:
        LussError: The files of the run do not belong together or are damaged.
    """
    manifest = Manifest.open(source.of("manifest") / "manifest", "train")
    # Clusters of layout descriptors are tight in the space they were found in, not in that of the pooled vectors.
    layout = source.of("cluster") / "layout"
    pooled = source.of("extract_features") / "features"
    vectors = FeatureStore.open(layout if (layout / "store.json").is_file() else pooled)
    if len(manifest) != len(vectors):
        counts = f"{len(manifest)} images but there are {len(vectors)} features"
        raise LussError(f"the manifest lists {counts}: run the stages again")
    num_clusters = len(read_centroids(source.of("cluster") / "centroids.npy"))
    assignments = read_assignments(source.of("cluster") / "assignments.npy", len(manifest), num_clusters)
    store = None
    if source.fits("pseudo_labels", "cluster"):
        # As stored: names.json edits the clusters that were found, whatever was merged since.
        store = LabelStore.open(source.of("pseudo_labels") / "labels", layer=None)
    return Gallery(manifest, assignments, measure_clusters(vectors, assignments, num_clusters), store)


def gallery_json(gallery: Gallery, source: ReportSource, shown: set[int]) -> dict[str, Any]:
    """The table of clusters as JSON values; `shown` (from 0) have pictures.

    From here on clusters count from 1, as in label maps and `names.json`.
    """
    table = gallery.table
    similar = table.similar(NUM_SIMILAR)
    folders: list[list[tuple[str, float]]] = [[] for _ in table.sizes]
    if source.folders_are_categories:
        folders = common_folders(gallery.assignments, categories_of(gallery.manifest.names()), len(table.sizes))
    colours = ["#" + bytes(colour).hex() for colour in palette(len(table.sizes) + 1)]
    return {
        "colours": colours,
        "maps": gallery.store is not None,
        "rows": [
            {
                "id": cluster + 1,
                "size": int(table.sizes[cluster]),
                "cohesion": round(float(table.cohesion[cluster]), 4),
                "similar": [[other + 1, round(cosine, 3)] for other, cosine in similar[cluster]],
                "folders": [[escape_path(name), round(share, 3)] for name, share in folders[cluster]],
                "pictures": cluster in shown,
            }
            for cluster in range(len(table.sizes))
        ],
    }


def attention_histogram(store: LabelStore, max_maps: int = HISTOGRAM_MAPS) -> dict[str, Any]:
    """How many positions have each attention level 0..255, in at most `max_maps` evenly spaced maps."""
    chosen = range(0, len(store), max(1, -(-len(store) // max_maps)))
    counts = np.zeros(256, np.int64)
    for index in chosen:
        counts += np.bincount(store.raw(index)[1].ravel(), minlength=256)
    return {"counts": counts.tolist(), "num_maps": len(chosen), "num_images": len(store)}


def write_pictures(
    gallery: Gallery,
    clusters: list[int],
    folder: Path,
    *,
    images_per_cluster: int,
    max_pixels: int,
    before: Path | None,
    on_progress: Progress,
) -> int:
    """Writes `<id>.js`, the pictures of one cluster each; those that are there already, or in `before`, are kept.

    Args:
        gallery: The clusters.
        clusters: Which of them, from 0.
        folder: Where the scripts go.
        images_per_cluster: Most images a cluster.
        max_pixels: Larger images are not read.
        before: A folder of the same scripts from an earlier report of the same results, or None.
        on_progress: Told how far it is.

    Returns:
        Number of scripts that were made anew.

    Raises:
        LussError: The label maps are damaged, or the disk is full.
    """
    reader = PictureReader(gallery.manifest, gallery.store, max_pixels)
    folder.mkdir(parents=True, exist_ok=True)
    made = 0
    for done, cluster in enumerate(clusters, start=1):
        path = folder / f"{cluster + 1}.js"
        if not path.is_file() and not _taken_over(path, before):
            pictures = [reader.picture(pick) for pick in gallery.table.picks(cluster, images_per_cluster)]
            write_text(path, f"lussReceive({cluster + 1}, {json.dumps(pictures, separators=(',', ':'))});\n")
            made += 1
        on_progress("clusters drawn", done, len(clusters))
    return made


def _taken_over(path: Path, before: Path | None) -> bool:
    old = None if before is None else before / path.name
    if old is None or not old.is_file():
        return False
    link_or_copy(old, path)
    return True
