"""Stage 4: k-means over the feature vectors finds the categories."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.clustering.agreement import clustering_accuracy, normalized_mutual_information
from luss.clustering.kmeans import KMeansResult, Progress, kmeans
from luss.data.categories import categories_of, numbered_categories
from luss.data.manifest import Manifest
from luss.features.layout import descriptor_widths, reduce_descriptors
from luss.features.store import FeatureStore, Share
from luss.files import keep_lines, replacing, write_json
from luss.models.io import backbone_channels
from luss.processes import Reduce, in_step
from luss.settings import ClusterSettings, RunSettings
from stages.base import CHECKPOINTS, AnyStage, BlockOf, Stage, StageContext
from stages.extract_features import ExtractFeatures
from stages.parts.images import EMBEDDED, data_layout, train_manifest

_CHUNK = 65536


class Cluster(Stage[ClusterSettings]):
    """Products: `centroids.npy` (C x L), `assignments.npy` (N, 0-based), `cluster.json`.

    Several processes (torchrun) each read the feature shards of their own share; centroids are the sums of all.
    """

    seeded = True
    distributed = True
    work = "threads"

    def __init__(
        self, name: str, block: BlockOf[ClusterSettings], manifest: AnyStage, features: ExtractFeatures
    ) -> None:
        """As `Stage`; `features` has left the vectors."""
        super().__init__(name, block, manifest, features)
        self.features = features

    def run(self, context: StageContext) -> dict[str, Any]:
        """Runs every restart that is missing and keeps the best one."""
        settings = self.block(context.run)
        reduce = Reduce(context.device)
        vectors = FeatureStore.open(context.of(self.features) / "features")
        share = vectors.share(reduce.rank, reduce.world_size)
        store = self.described(context, reduce) if settings.layout_dim else vectors
        result = self.clustered(context, Share(store, share), reduce)
        assignments = write_assignments(context.folder, result.assignments, len(vectors), reduce)
        centroids = result.centroids
        if settings.layout_dim:
            centroids = mean_vectors(Share(vectors, share), result.assignments, settings.num_clusters, reduce)
        if reduce.rank > 0:
            return {}
        with replacing(context.folder / "centroids.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, centroids)
        return write_figures(context, result, agreement(context.run, train_manifest(context.run_folder), assignments))

    def clustered(self, context: StageContext, rows: Share, reduce: Reduce) -> KMeansResult:
        """k-means over the rows of all processes, continued from its checkpoint."""
        settings = self.block(context.run)
        total = settings.num_restarts * settings.num_iterations
        context.reporter.start("iteration", total, 0)

        first = True

        def report(progress: Progress) -> None:
            nonlocal first
            if first and reduce.rank == 0:
                # Lines that were written after the checkpoint that is continued.
                position = (progress.restart, progress.iteration)
                log = context.folder / "metrics.jsonl"
                keep_lines(log, lambda line: (line["restart"], line["iteration"]) < position)
            first = False
            done = progress.restart * settings.num_iterations + progress.iteration
            context.reporter.advance(min(done, total), objective=progress.objective)
            context.reporter.metrics(
                {"restart": progress.restart, "iteration": progress.iteration, "objective": progress.objective}
            )

        return kmeans(
            rows,
            settings.num_clusters,
            engine=settings.engine,
            metric=settings.metric,
            num_iterations=settings.num_iterations,
            num_restarts=settings.num_restarts,
            seed=context.run.seed,
            chunk_size=settings.chunk_size,
            device=str(context.device),
            checkpoint=context.folder / CHECKPOINTS / "kmeans.npz",
            should_stop=lambda: bool(context.stop),
            on_iteration=report,
            reduce=reduce,
        )

    def described(self, context: StageContext, reduce: Reduce) -> FeatureStore:
        """The reduced layout descriptors."""
        settings, extraction = self.block(context.run), self.features.block(context.run)
        channels = backbone_channels(context.of(self.features.attention.start_from))
        return reduce_descriptors(
            FeatureStore.open(context.of(self.features) / "layout"),
            context.folder / "layout",
            channels=descriptor_widths(extraction.layout_stages, channels),
            weights=settings.layout_weights,
            grid=extraction.layout_grid,
            dim=settings.layout_dim,
            whitening=settings.whitening,
            check=context.stop.check,
            reduce=reduce,
        )


def write_assignments(folder: Path, own: NDArray[np.int32], num_rows: int, reduce: Reduce) -> NDArray[np.integer[Any]]:
    """Writes `assignments.npy`: each process its part `own`, (n,) clusters of its rows, which process 0 joins.

    Returns:
        (num_rows,) clusters of all rows, mapped from the file; on other processes than 0 only `own`.
    """
    path = folder / "assignments.npy"
    parts = [folder / CHECKPOINTS / f"assignments-{rank:05d}.npy" for rank in range(reduce.world_size)]
    with in_step(reduce), replacing(parts[reduce.rank]) as temporary, open(temporary, "wb") as file:
        np.save(file, own)
    if reduce.rank > 0:
        return own
    with replacing(path) as temporary, open(temporary, "wb") as file:
        # Not through a memory map: on a full disk that kills the process.
        shape = {"descr": "<i4", "fortran_order": False, "shape": (num_rows,)}
        np.lib.format.write_array_header_1_0(file, shape)
        for part in parts:
            file.write(np.load(part, allow_pickle=False).data)
    assignments: NDArray[np.integer[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    return assignments


def mean_vectors(
    vectors: Share, assignments: NDArray[np.integer[Any]], num_clusters: int, reduce: Reduce
) -> NDArray[np.float32]:
    """The mean attention-pooled vector of each cluster: what positions are compared with when clusters come from descriptors.

    Args:
        vectors: (n, L) of this process.
        assignments: (n,) their clusters.
        num_clusters: C.
        reduce: The processes.

    Returns:
        (C, L) means over the rows of all processes; 0 for an empty cluster.
    """
    total = np.zeros((num_clusters, vectors.dim))
    with in_step(reduce):
        for start, rows in vectors.chunks(_CHUNK):
            np.add.at(total, assignments[start : start + len(rows)], rows)
    counts = reduce.sum(np.bincount(assignments, minlength=num_clusters).astype(np.float64))
    return (reduce.sum(total) / np.maximum(counts, 1)[:, None]).astype(np.float32)


def write_figures(context: StageContext, result: KMeansResult, agreed: dict[str, float]) -> dict[str, Any]:
    """Writes `cluster.json`; returns the figures for the screen."""
    sizes = result.cluster_sizes
    empty = (np.flatnonzero(sizes == 0) + 1).tolist()
    figures: dict[str, Any] = {"objective": result.objective, "smallest": int(sizes.min()), "largest": int(sizes.max())}
    if empty:
        figures["empty"] = len(empty)
        context.reporter.warn(
            f"{len(empty)} of {len(sizes)} clusters hold no image ({shown_ids(empty)}): fewer vectors than that differ from each other. Lower "
            f"{context.folder.name}.num_clusters"
        )
    figures |= agreed
    record = {
        **figures,
        "empty_clusters": empty,
        "objectives": list(result.objectives),
        "cluster_sizes": sizes.tolist(),
        "engine": result.engine,
        "library_version": result.library_version,
        "threads": result.threads,
        "seed": context.run.seed,
    }
    write_json(context.folder / "cluster.json", record)
    return figures


def shown_ids(ids: list[int]) -> str:
    """The first ids of clusters, as label maps number them, for a line on the screen."""
    return f"id {', '.join(map(str, ids[:10]))}{', ...' if len(ids) > 10 else ''}"


def agreement(run: RunSettings, manifest: Manifest, assignments: Any) -> dict[str, float]:
    """NMI and accuracy against the folder names, in [0, 1]; nothing where these are no categories."""
    labels = known_categories(run, manifest)
    if labels is None:
        return {}
    nmi = normalized_mutual_information(assignments, labels)
    return {"nmi": nmi, "accuracy": clustering_accuracy(assignments, labels)}


def known_categories(run: RunSettings, manifest: Manifest) -> NDArray[np.int32] | None:
    """(N,) number of each image's category, its folder; None unless the data has ImageNet-S's layout and every image lies in a folder."""
    layout = data_layout(run.data)
    if layout.images.get("train") == layout.root and run.data.root != EMBEDDED:
        return None
    labels, _ = numbered_categories(categories_of(manifest.names()), len(manifest))
    return None if (labels < 0).any() else labels
