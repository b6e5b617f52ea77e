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
from luss.data.imagenet_s import mask_path, read_mask
from luss.data.images import read_image
from luss.data.manifest import Manifest
from luss.data.resized import ResizedBatch, num_shards, resized_batches, shard_rows
from luss.errors import LussError
from luss.files import replacing, write_json
from luss.labels.store import LabelStore
from luss.labels.threshold import auto_threshold, histogram
from luss.labels.writer import LabelRecord, LabelWriter, shard_path
from luss.models.attended import AttendedBackbone
from luss.report.contact_sheet import cluster_sheet
from luss.settings import RunSettings
from luss.training.precision import Precision
from stages.base import StageContext, fingerprint
from stages.commands.stage import stage_main
from stages.extract_features import attended
from stages.manifest import data_layout, listed_split, num_classes, train_manifest_of
from stages.sharded import Batch, Maker, ShardedStage, ShardNotes, ShardPlan, absorb_lists, make_missing


class LabelPlan(ShardPlan):
    """The shards of one label-map store."""

    def __init__(self, run: RunSettings, manifest: Manifest, folder: Path, notes: ShardNotes, identity: str) -> None:
        """Cuts a split's images.

        Args:
            run: Settings.
            manifest: The images.
            folder: Of the store.
            notes: Of the shards.
            identity: The stage's fingerprint.
        """
        self.manifest, size = manifest, run.pseudo_labels.shard_size
        ranges = [shard_rows(len(manifest), size, shard) for shard in range(num_shards(len(manifest), size))]
        super().__init__(ranges, notes)
        self.writer = LabelWriter(
            folder,
            [(rows.start, rows.stop) for rows in ranges],
            num_clusters=run.cluster.num_clusters,
            fingerprint=f"{identity}-{len(manifest)}",
        )

    def is_made(self, shard: int) -> bool:
        """Whether the store has the shard."""
        return self.writer.is_written(shard)

    def targets(self, shard: int) -> Iterable[Path]:
        """One file."""
        return [shard_path(self.writer.folder, shard)]


class PseudoLabelsStage(ShardedStage):
    """Products: `labels/` (shards and `labels.h5`), `threshold.json`, `clusters.png`."""

    name = "pseudo_labels"
    version = 1
    needs = ("manifest", "pretrain", "pixel_attention", "cluster")

    def plan(self, run: RunSettings, run_folder: Path) -> LabelPlan:
        """Ranges of `pseudo_labels.shard_size` training images."""
        return self._plan(run, run_folder, train_manifest_of(run_folder), "labels", "")

    def _plan(self, run: RunSettings, run_folder: Path, manifest: Manifest, store: str, prefix: str) -> LabelPlan:
        from stages.pipeline import STAGES

        folder = run_folder / self.name
        return LabelPlan(run, manifest, folder / store, ShardNotes(folder, prefix), fingerprint(self, run, STAGES))

    def maker(self, context: StageContext, plan: LabelPlan) -> Maker:
        """Loads network, centroids and the training images' clusters once."""
        path = context.of("cluster") / "assignments.npy"
        return label_maker(context, plan, np.load(path, mmap_mode="r", allow_pickle=False))

    def join(self, context: StageContext, plan: LabelPlan) -> dict[str, Any]:
        """Chooses the threshold and joins the shards."""
        store = LabelStore.open(plan.writer.finish(0.0, "given", False))
        found = self.choose_threshold(context, store)
        source = found["source"]
        store = LabelStore.open(plan.writer.finish(found["threshold"], source, source == "validation"))
        write_json(context.folder / "threshold.json", found)
        sheet = cluster_sheet(store.dominant_clusters(), _loader(plan.manifest, store), max_clusters=60)
        with replacing(context.folder / "clusters.png") as temporary:
            sheet.save(temporary, format="png")
        counts = histogram(store)
        level = int(np.ceil(found["threshold"] * 255))
        return {
            "maps": len(store),
            "threshold": found["threshold"],
            "threshold_source": source,
            "foreground_share": float(counts[level:].sum() / counts.sum()),
        }

    def choose_threshold(self, context: StageContext, store: LabelStore) -> dict[str, Any]:
        """The threshold, where it came from, and what it was chosen by."""
        setting = context.run.pseudo_labels.threshold
        if setting == "auto":
            found = auto_threshold(histogram(store), context.run.pseudo_labels.threshold_method)
            return {
                "threshold": float(found.value), "source": "auto", "used_labels": False, "method": found.method,
                "separation": float(found.separation),
            }  # fmt: skip
        if setting == "validation":
            return self.search_threshold(context)
        return {"threshold": float(setting), "source": "given", "used_labels": False}

    def search_threshold(self, context: StageContext) -> dict[str, Any]:
        """The published search: the best mIoU on the validation masks over 0.00 to 0.80."""
        layout = data_layout(context.run.data)
        if not layout.has_masks("validation"):
            raise LussError(
                f"pseudo_labels.threshold=validation needs the masks {layout.root / 'validation-segmentation'}: use auto, which needs none"
            )
        message = context.reporter.message
        manifest = listed_split(context.run, context.run_folder, "validation", stop=context.stop, message=message)
        plan = self._plan(context.run, context.run_folder, manifest, "validation-labels", "validation-")
        make_missing(context, plan, lambda: label_maker(context, plan, None))
        absorb_lists(context, plan)
        store = LabelStore.open(plan.writer.finish(0.0, "given", False))
        context.reporter.message("searching the threshold with the validation masks: this uses ground truth")

        def items() -> Iterator[tuple[Any, Any, Any]]:
            for index in range(len(store)):
                context.stop.check()
                mask = read_mask(mask_path(layout, "validation", store.name(index)))
                size = (mask.shape[0], mask.shape[1])
                attention = torch.from_numpy(store.raw(index)[1].astype(np.float32) / 255)
                wide = F.interpolate(attention[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
                yield store.label_map(index, size, threshold=0.0), mask, wide.numpy()

        metrics = evaluate_maps(items(), num_classes=num_classes(context.run, layout), thresholds=DEFAULT_THRESHOLDS)
        return {
            "threshold": float(metrics.threshold or 0.0), "source": "validation", "used_labels": True, "validation_miou": metrics.miou,
        }  # fmt: skip


def label_maker(context: StageContext, plan: LabelPlan, assignments: NDArray[np.integer[Any]] | None) -> Maker:
    """Loads what labelling takes.

    Args:
        context: Of the stage.
        plan: The shards.
        assignments: (N,) cluster of each image, 0-based; None = the one nearest to its pooled vector.
    """
    settings, network = context.run.pseudo_labels, attended(context)
    centroids = np.load(context.of("cluster") / "centroids.npy", allow_pickle=False)
    unit = F.normalize(torch.from_numpy(centroids), dim=1).to(context.device)
    precision = Precision(settings.precision, context.device, warn=context.reporter.warn)

    def make(shard: int) -> Iterator[Batch]:
        records: dict[int, LabelRecord] = {}
        for batch in resized_batches(
            plan.manifest,
            plan.ranges[shard],
            settings,
            max_pixels=context.run.data.max_pixels,
            multiple=network.backbone.multiple,
        ):
            if batch.indices:
                own = None
                if assignments is not None:
                    own = torch.from_numpy(assignments[np.array(batch.indices)].astype(np.int64))
                with precision.autocast():
                    found = _label_batch(context, network, unit, batch, own)
                records.update((index, _record(plan.manifest, index, *maps)) for index, maps in found.items())
            yield Batch.of(batch)
        plan.writer.write_shard(shard, (records[index] for index in sorted(records)))

    return make


def _label_batch(
    context: StageContext,
    network: AttendedBackbone,
    centroids: torch.Tensor,
    batch: ResizedBatch,
    own: torch.Tensor | None,
) -> dict[int, tuple[NDArray[np.uint16], NDArray[np.uint8]]]:
    """Cluster ids 1..C and attention (0..255) of every image of a batch, by manifest index."""
    settings = context.run.pseudo_labels
    images = network.backbone.normalise(batch.images)
    labels, attention = network.label(
        images,
        centroids,
        image_clusters=None if own is None else own.to(context.device),
        image_weight=settings.image_weight,
        saliency=settings.saliency,
        centre=context.run.pixel_attention.saliency.centre,
    )
    ids = labels.cpu().numpy().astype(np.uint16)
    strength = np.rint(attention.float().cpu().numpy() * 255).astype(np.uint8)
    return {index: (ids[place], strength[place]) for place, index in enumerate(batch.indices)}


def _record(manifest: Manifest, index: int, ids: NDArray[np.uint16], strength: NDArray[np.uint8]) -> LabelRecord:
    width, height = manifest.size(index)
    return LabelRecord(manifest.name(index), (height, width), ids, strength)


def _loader(manifest: Manifest, store: LabelStore) -> Any:
    def load(index: int) -> tuple[Any, Any]:
        height, width = store.image_size(index)
        scale = min(1.0, 256 / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        image = read_image(manifest.image_root / store.name(index), min_side=64).resize((size[1], size[0]))
        return image, store.label_map(index, size)

    return load


if __name__ == "__main__":
    stage_main("pseudo_labels")
