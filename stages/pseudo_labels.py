"""Stage 5: a pixel label map for every training image, in HDF5."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from luss.benchmark.evaluator import evaluate_maps
from luss.benchmark.levels import DEFAULT_THRESHOLDS
from luss.clustering.results import read_assignments, read_centroids
from luss.data.imagenet_s import mask_path, read_mask
from luss.data.images import read_image
from luss.data.manifest import Manifest
from luss.data.resized import resized_batches
from luss.errors import LussError
from luss.files import replacing, write_json
from luss.labels.layers import current_layer
from luss.labels.source import LabelSource
from luss.labels.store import LabelStore
from luss.labels.threshold import Counts, auto_threshold, histogram
from luss.labels.writer import LabelRecord, LabelWriter, shard_path
from luss.report.contact_sheet import cluster_sheet
from luss.settings import PseudoLabelsSettings, RunSettings
from luss.training.precision import Precision
from stages.base import AnyStage, BlockOf, StageContext, StagePlace
from stages.cluster import Cluster, shown_ids
from stages.parts.images import data_layout, listed_split, num_classes, train_manifest
from stages.pixel_attention import PixelAttentionStage
from stages.sharded import Batch, Maker, ShardedStage, ShardNotes, ShardPlan, absorb_lists, cut, make_missing

# Labels with less object, or less background, than this share of all positions teach nothing.
_LEAST_SHARE = 0.001


class LabelPlan(ShardPlan):
    """The shards of one label-map store."""

    def __init__(
        self, place: StagePlace, manifest: Manifest, store: str, prefix: str, *, size: int, num_clusters: int
    ) -> None:
        """Cuts a split's images into shards of `size`; `store`: the store's folder in the stage's own, `prefix`: of the notes."""
        self.manifest = manifest
        super().__init__(cut(len(manifest), size), ShardNotes(place.folder, prefix))
        ranges, fingerprint = [(rows.start, rows.stop) for rows in self.ranges], f"{place.fingerprint}-{len(manifest)}"
        self.writer = LabelWriter(place.folder / store, ranges, num_clusters=num_clusters, fingerprint=fingerprint)

    def is_made(self, shard: int) -> bool:
        """Whether the store has the shard."""
        return self.writer.is_written(shard)

    def targets(self, shard: int) -> Iterable[Path]:
        """One file."""
        return [shard_path(self.writer.folder, shard)]


class PseudoLabelsStage(ShardedStage[PseudoLabelsSettings]):
    """Products: `labels/` (shards and `labels.h5`), `threshold.json`, `clusters.png`."""

    work = "array"
    # Every pixel has a label that counts.
    ignored_id: int | None = None

    def __init__(
        self,
        name: str,
        block: BlockOf[PseudoLabelsSettings],
        manifest: AnyStage,
        attention: PixelAttentionStage,
        clusters: Cluster,
    ) -> None:
        """As `Stage`; the network and attention are those of `attention`, the categories those of `clusters`."""
        super().__init__(name, block, manifest, attention.start_from, attention, clusters)
        self.attention, self.clusters = attention, clusters

    def num_clusters(self, run: RunSettings) -> int:
        """C."""
        return self.clusters.block(run).num_clusters

    def labels(self, context: StageContext) -> tuple[Path, LabelSource, int]:
        """As `stages.finetune.Labels`."""
        root = train_manifest(context.run_folder).image_root
        return root, LabelStore.open(context.of(self) / "labels"), self.num_clusters(context.run)

    def edits(self, run_folder: Path) -> tuple[str, str]:
        """The edits of `luss labels`: see `stages.finetune.Labels`."""
        layer = current_layer(run_folder / self.name / "labels")
        what = f"layer {layer.number}" if layer.identity else "they are as stored again"
        return layer.identity, f"the labels were edited: {what}"

    def plan(self, place: StagePlace) -> LabelPlan:
        """Ranges of `shard_size` training images."""
        return self._plan(place, train_manifest(place.run_folder), "labels", "")

    def _plan(self, place: StagePlace, manifest: Manifest, store: str, prefix: str) -> LabelPlan:
        size, num_clusters = self.block(place.run).shard_size, self.num_clusters(place.run)
        return LabelPlan(place, manifest, store, prefix, size=size, num_clusters=num_clusters)

    def maker(self, context: StageContext, plan: LabelPlan) -> Maker:
        """Loads network, centroids and the training images' clusters once."""
        path = context.of(self.clusters) / "assignments.npy"
        return self._maker(context, plan, read_assignments(path, len(plan.manifest), plan.writer.num_clusters))

    def join(self, context: StageContext, plan: LabelPlan) -> dict[str, Any]:
        """Chooses the threshold and joins the shards."""
        counts = histogram(LabelStore.open(plan.writer.finish(0.0, "given")))
        found = self.choose_threshold(context, counts)
        store = LabelStore.open(plan.writer.finish(found["threshold"], found["source"]))
        write_json(context.folder / "threshold.json", found)
        sheet = cluster_sheet(store.dominant_clusters(), _loader(plan.manifest, store), max_clusters=60)
        with replacing(context.folder / "clusters.png") as temporary:
            sheet.save(temporary, format="png")
        figures = {"maps": len(store), "threshold": found["threshold"], "threshold_source": found["source"]}
        return figures | self.said_of(context, store.cluster_positions(), contrast=found.get("method") != "none")

    def said_of(self, context: StageContext, positions: Counts, *, contrast: bool) -> dict[str, Any]:
        """Figures of the labels, and a warning where no segmenter could learn from them; `positions`: (C + 1,) of each id."""
        share = float(1 - positions[0] / positions.sum())
        unused = (np.flatnonzero(positions[1:] == 0) + 1).tolist()
        remedies = (
            f"a number as {self.name}.threshold, {self.name}.saliency above 0 (masks then show what differs from the image's border), or "
            f"{self.attention.name}.saliency.weight above 0 and more {self.attention.name}.epochs"
        )
        if not contrast:
            context.reporter.warn(
                "the attention is the same everywhere, up to rounding, so no threshold tells objects from background: every position keeps its "
                f"cluster. What helps: {remedies}"
            )
        elif not _LEAST_SHARE <= share <= 1 - _LEAST_SHARE:
            context.reporter.warn(
                f"{'nearly all positions are' if share > 0.5 else 'hardly a position is'} object ({100 * share:.2f} %). What helps: {remedies}"
            )
        if unused:
            context.reporter.warn(
                f"{len(unused)} of {len(positions) - 1} clusters are in no label map ({shown_ids(unused)}): nothing is learned of them. Lower "
                f"{self.clusters.name}.num_clusters, or the threshold"
            )
        return {"foreground_share": share, "unused_clusters": len(unused)}

    def choose_threshold(self, context: StageContext, counts: Counts) -> dict[str, Any]:
        """The threshold, where it came from, and what it was chosen by; `counts`: the histogram of the stored attention."""
        setting = self.block(context.run).threshold
        if setting == "auto":
            found = auto_threshold(counts)
            facts = {"threshold": found.value, "source": "auto", "used_labels": False}
            return facts | {"method": "otsu" if found.contrast else "none", "separation": found.separation}
        if setting == "validation":
            return self.search_threshold(context)
        return {"threshold": float(setting), "source": "given", "used_labels": False}

    def search_threshold(self, context: StageContext) -> dict[str, Any]:
        """The published search: the best mIoU on the validation masks over 0.00 to 0.80.

        Raises:
            LussError: There are no such masks, or one cannot be read.
            Interrupted: A stop was asked for.
        """
        layout = data_layout(context.run.data)
        if not layout.has_masks("validation"):
            raise LussError(
                f"pseudo_labels.threshold=validation needs the masks {layout.root / 'validation-segmentation'}: use auto, which needs none"
            )
        manifest = listed_split(context, "validation", message=context.reporter.message)
        store = self.labelled(context, manifest, "validation-labels")
        context.reporter.message("searching the threshold with the validation masks: this uses ground truth")
        largest = num_classes(self.num_clusters(context.run), layout)
        items = self.beside_masks(context, store, "validation")
        metrics = evaluate_maps(items, num_classes=largest, thresholds=DEFAULT_THRESHOLDS)
        return {
            "threshold": float(metrics.threshold or 0.0), "source": "validation", "used_labels": True, "validation_miou": metrics.miou,
        }  # fmt: skip

    def labelled(self, context: StageContext, manifest: Manifest, name: str) -> LabelStore:
        """The label maps of images that were not clustered, in the folder `name` of the stage's own; what is there is kept."""
        plan = self._plan(context, manifest, name, name.removesuffix("labels"))
        make_missing(context, plan, lambda: self._maker(context, plan, None))
        absorb_lists(context, plan)
        return LabelStore.open(plan.writer.finish(0.0, "given"))

    def beside_masks(
        self, context: StageContext, store: LabelStore, split: str
    ) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]]:
        """Label map without a threshold, mask, and attention of every image of a store, each (H, W) at the mask's size."""
        layout = data_layout(context.run.data)
        for index in range(len(store)):
            context.stop.check()
            mask = read_mask(mask_path(layout, split, store.name(index)))
            size = (mask.shape[0], mask.shape[1])
            attention = torch.from_numpy(store.raw(index)[1].astype(np.float32) / 255)
            wide = F.interpolate(attention[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
            yield store.label_map(index, size, threshold=0.0), mask, wide.numpy()

    def _maker(self, context: StageContext, plan: LabelPlan, assignments: NDArray[np.integer[Any]] | None) -> Maker:
        """Loads what labelling takes; `assignments`: (N,) cluster of each image, 0-based, None = the one nearest to its pooled vector."""
        settings = self.block(context.run)
        network = self.attention.network(context)
        path, width = context.of(self.clusters) / "centroids.npy", network.backbone.num_channels
        centroids = read_centroids(path, plan.writer.num_clusters, width)
        unit = F.normalize(torch.from_numpy(centroids), dim=1).to(context.device)
        precision = Precision(settings.precision, context.device, warn=context.reporter.warn)
        limit, multiple = context.run.data.max_pixels, network.backbone.multiple
        centre = self.attention.block(context.run).saliency.centre
        shares = {"image_weight": settings.image_weight, "saliency": settings.saliency, "centre": centre}

        def make(shard: int) -> Iterator[Batch]:
            records: dict[int, LabelRecord] = {}
            rows = plan.ranges[shard]
            for batch in resized_batches(plan.manifest, rows, settings, max_pixels=limit, multiple=multiple):
                if batch.indices:
                    own = None
                    if assignments is not None:
                        clusters = assignments[np.array(batch.indices)].astype(np.int64)
                        own = torch.from_numpy(clusters).to(context.device)
                    images = network.backbone.normalise(batch.images)
                    with precision.autocast():
                        labels, attention = network.label(images, unit, image_clusters=own, **shares)
                    ids = labels.cpu().numpy().astype(np.uint16)
                    strengths = np.rint(attention.float().cpu().numpy() * 255).astype(np.uint8)
                    for index, own_ids, strength in zip(batch.indices, ids, strengths, strict=True):
                        width, height = plan.manifest.size(index)
                        records[index] = LabelRecord(plan.manifest.name(index), (height, width), own_ids, strength)
                yield Batch.of(batch)
            plan.writer.write_shard(shard, (records[index] for index in sorted(records)))

        return make


def _loader(manifest: Manifest, store: LabelStore) -> Any:
    def load(index: int) -> tuple[Any, Any]:
        height, width = store.image_size(index)
        scale = min(1.0, 256 / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = read_image(manifest.image_root / store.name(index), min_side=64).resize((size[1], size[0]))
        return image, store.label_map(index, size)

    return load
