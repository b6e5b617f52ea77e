"""Stage 4: k-means over the feature vectors finds the categories."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.clustering.agreement import clustering_accuracy, normalized_mutual_information
from luss.clustering.kmeans import Progress, kmeans
from luss.data.manifest import Manifest
from luss.features.layout import NUM_ORIENTATIONS, reduce_descriptors
from luss.features.store import FeatureStore
from luss.files import read_json, replacing, write_json
from luss.settings import RunSettings
from stages.base import CHECKPOINTS, Stage, StageContext
from stages.command import stage_main
from stages.manifest import EMBEDDED, data_layout, train_manifest


class Cluster(Stage):
    """Products: `centroids.npy` (C x L), `assignments.npy` (N, 0-based), `cluster.json`."""

    name = "cluster"
    version = 1
    needs = ("manifest", "extract_features")
    seeded = True

    def run(self, context: StageContext) -> dict[str, Any]:
        """Runs every restart that is missing and keeps the best one."""
        settings, manifest = context.run.cluster, train_manifest(context)
        vectors = FeatureStore.open(context.of("extract_features") / "features")
        store = self.described(context) if settings.layout_dim else vectors
        total = settings.num_restarts * settings.num_iterations
        context.reporter.start("iteration", total, 0)

        def report(progress: Progress) -> None:
            done = progress.restart * settings.num_iterations + progress.iteration
            context.reporter.advance(min(done, total), objective=progress.objective)
            context.reporter.metrics(
                {"restart": progress.restart, "iteration": progress.iteration, "objective": progress.objective}
            )

        result = kmeans(
            store,
            settings.num_clusters,
            engine=settings.engine,  # type: ignore[arg-type]
            metric=settings.metric,  # type: ignore[arg-type]
            num_iterations=settings.num_iterations,
            num_restarts=settings.num_restarts,
            seed=context.run.seed,
            chunk_size=settings.chunk_size,
            device=str(context.device),
            checkpoint=context.folder / CHECKPOINTS / "kmeans.npz",
            should_stop=lambda: bool(context.stop),
            on_iteration=report,
        )
        centroids = (
            mean_vectors(vectors, result.assignments, settings.num_clusters)
            if settings.layout_dim
            else result.centroids
        )
        for name, array in (("centroids", centroids), ("assignments", result.assignments)):
            with replacing(context.folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, array)
        sizes = result.cluster_sizes
        figures: dict[str, Any] = {
            "objective": result.objective,
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
            **agreement(context.run, manifest, result.assignments),
        }
        write_json(
            context.folder / "cluster.json",
            {
                **figures,
                "objectives": list(result.objectives),
                "cluster_sizes": sizes.tolist(),
                "engine": result.engine,
                "library_version": result.library_version,
                "threads": result.threads,
                "seed": context.run.seed,
            },
        )
        return figures

    def described(self, context: StageContext) -> FeatureStore:
        """The reduced layout descriptors."""
        settings, extraction = context.run.cluster, context.run.extract_features
        backbone = read_json(context.of("pretrain") / "backbone.json")
        widths = [NUM_ORIENTATIONS, *backbone["channels"]]
        return reduce_descriptors(
            FeatureStore.open(context.of("extract_features") / "layout"),
            context.folder / "layout",
            channels=[widths[stage] for stage in extraction.layout_stages],
            weights=settings.layout_weights,
            grid=extraction.layout_grid,
            dim=settings.layout_dim,
            whitening=settings.whitening,
            check=context.stop.check,
        )


def mean_vectors(
    vectors: FeatureStore, assignments: NDArray[np.integer[Any]], num_clusters: int
) -> NDArray[np.float32]:
    """(C, L) mean attention-pooled vector of each cluster: what positions are compared with when clusters come from descriptors."""
    total = np.zeros((num_clusters, vectors.dim))
    for start, rows in vectors.chunks(65536):
        np.add.at(total, assignments[start : start + len(rows)], rows)
    counts = np.bincount(assignments, minlength=num_clusters)
    return (total / np.maximum(counts, 1)[:, None]).astype(np.float32)


def agreement(run: RunSettings, manifest: Manifest, assignments: Any) -> dict[str, float]:
    """NMI and accuracy against the folder names, in [0, 1]; nothing unless the data has ImageNet-S's layout."""
    layout = data_layout(run.data)
    if layout.images.get("train") == layout.root and run.data.root != EMBEDDED:
        return {}
    categories = [manifest.category(index) for index in range(len(manifest))]
    if any(category is None for category in categories):
        return {}
    _, labels = np.unique(np.array(categories), return_inverse=True)
    return {
        "nmi": normalized_mutual_information(assignments, labels),
        "accuracy": clustering_accuracy(assignments, labels),
    }


if __name__ == "__main__":
    stage_main("cluster")
