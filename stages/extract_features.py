"""Stage 3: one attention-pooled vector for every training image, in a memory-mapped store."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from luss.data.resized import ResizedBatch, cropped_batches
from luss.features.layout import descriptor_widths
from luss.features.store import FeatureWriter, shard_path
from luss.files import read_json
from luss.models.attended import AttendedBackbone, load_attended
from luss.settings import RunSettings
from luss.training.precision import Precision
from stages.base import StageContext, fingerprint
from stages.commands.stage import stage_main
from stages.manifest import train_manifest_of
from stages.sharded import Batch, Maker, ShardedStage, ShardNotes, ShardPlan


def attended(context: StageContext) -> AttendedBackbone:
    """The network of stages 1 and 2 on the run's device."""
    settings = context.run.pixel_attention
    network = load_attended(
        context.of("pretrain"),
        context.of("pixel_attention"),
        shared=settings.shared,
        target_stride=settings.target_stride,
    )
    return network.to(context.device)


class FeaturePlan(ShardPlan):
    """The shards of the stores `features` and, where it is asked for, `layout`."""

    def __init__(self, run: RunSettings, run_folder: Path, folder: Path, identity: str) -> None:
        """Cuts the training images; asks for no other stage than the manifest yet."""
        self.settings, self.manifest = run.extract_features, train_manifest_of(run_folder)
        self._run_folder, self._folder, self._identity = run_folder, folder, identity
        size, count = self.settings.shard_size, len(self.manifest)
        super().__init__(
            [range(start, min(start + size, count)) for start in range(0, count, size)], ShardNotes(folder)
        )

    @cached_property
    def writers(self) -> dict[str, FeatureWriter]:
        """A writer a store, by the store's folder."""
        return {
            name: FeatureWriter(
                self._folder / name,
                len(self.manifest),
                dim,
                self.settings.dtype,
                self.settings.shard_size,
                self._identity,
            )
            for name, dim in self.dims.items()
        }

    @cached_property
    def dims(self) -> dict[str, int]:
        """Length of a vector of each store."""
        # As in `load_attended`: the published form of stage 2 has a backbone of its own.
        own = self._run_folder / "pixel_attention" / "backbone.json"
        channels = read_json(own if own.is_file() else self._run_folder / "pretrain" / "backbone.json")["channels"]
        dims = {"features": int(channels[-1])}
        if self.settings.layout_stages:
            dims["layout"] = (
                sum(descriptor_widths(self.settings.layout_stages, channels)) * self.settings.layout_grid**2
            )
        return dims

    def is_made(self, shard: int) -> bool:
        """Whether every store has the shard."""
        return all(writer.is_written(shard) for writer in self.writers.values())

    def targets(self, shard: int) -> Iterable[Path]:
        """One file a store."""
        return [shard_path(writer.folder, shard) for writer in self.writers.values()]


class ExtractFeatures(ShardedStage):
    """Product: `features/`, rows in manifest order; images that cannot be read have a row of zeros."""

    name = "extract_features"
    version = 1
    needs = ("manifest", "pretrain", "pixel_attention")

    def plan(self, run: RunSettings, run_folder: Path) -> FeaturePlan:
        """Ranges of `extract_features.shard_size` training images."""
        from stages.pipeline import STAGES

        return FeaturePlan(run, run_folder, run_folder / self.name, fingerprint(self, run, STAGES))

    def maker(self, context: StageContext, plan: FeaturePlan) -> Maker:
        """Loads the network once."""
        network = attended(context)
        precision = Precision(plan.settings.precision, context.device, warn=context.reporter.warn)

        def make(shard: int) -> Iterator[Batch]:
            rows = plan.ranges[shard]
            arrays = {name: np.zeros((len(rows), dim), dtype=plan.settings.dtype) for name, dim in plan.dims.items()}
            for batch in cropped_batches(
                plan.manifest,
                rows,
                context.run.extract_features,
                max_pixels=context.run.data.max_pixels,
                multiple=network.backbone.multiple,
            ):
                if batch.indices:
                    places = np.array(batch.indices) - rows.start
                    for name, vectors in _describe(context, network, precision, batch).items():
                        arrays[name][places] = vectors
                yield Batch.of(batch)
            for name, writer in plan.writers.items():
                writer.write_shard(shard, arrays[name])

        return make

    def join(self, context: StageContext, plan: FeaturePlan) -> dict[str, Any]:
        """Writes the stores' indices."""
        for writer in plan.writers.values():
            writer.finish()
        return {"images": len(plan.manifest), "dim": plan.dims["features"]}


def _describe(
    context: StageContext, network: AttendedBackbone, precision: Precision, batch: ResizedBatch
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """(B, D) vectors of a batch for each store."""
    settings = context.run.extract_features
    images = network.backbone.normalise(batch.images)
    with precision.autocast():
        found = {"features": network.vectors(images, pool=settings.pool)}
        if settings.layout_stages:
            found["layout"] = network.layout(
                images, settings.layout_stages, settings.layout_grid, mirror=settings.layout_mirror
            )
    return {name: vectors.float().cpu().numpy() for name, vectors in found.items()}


if __name__ == "__main__":
    stage_main("extract_features")
