"""Stage 3: one attention-pooled vector for every training image, in a memory-mapped store."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.data.resized import ResizedBatch, cropped_batches
from luss.features.layout import descriptor_widths
from luss.features.store import FeatureWriter, shard_path
from luss.models.attended import AttendedBackbone
from luss.models.io import backbone_channels
from luss.settings import ExtractFeaturesSettings
from luss.training.precision import Precision
from stages.base import AnyStage, BlockOf, StageContext, StagePlace
from stages.parts.images import train_manifest
from stages.pixel_attention import PixelAttentionStage
from stages.sharded import Batch, Maker, ShardedStage, ShardNotes, ShardPlan, cut


class FeaturePlan(ShardPlan):
    """The shards of the stores `features` and, where it is asked for, `layout`."""

    def __init__(self, place: StagePlace, settings: ExtractFeaturesSettings, attention: PixelAttentionStage) -> None:
        """Cuts the training images; asks for no other stage than the manifest yet. Vectors are pooled with `attention`."""
        self.settings, self.manifest = settings, train_manifest(place.run_folder)
        self._place, self._attention = place, attention
        super().__init__(cut(len(self.manifest), settings.shard_size), ShardNotes(place.folder))

    @cached_property
    def writers(self) -> dict[str, FeatureWriter]:
        """A writer a store, by the store's folder."""
        num_rows, folder = len(self.manifest), self._place.folder
        rest = (self.settings.dtype, self.settings.shard_size, self._place.fingerprint)
        return {name: FeatureWriter(folder / name, num_rows, dim, *rest) for name, dim in self.dims.items()}

    @cached_property
    def dims(self) -> dict[str, int]:
        """Length of a vector of each store."""
        # As in `load_attended`: the published form of stage 2 has a backbone of its own.
        stages = (self._attention, self._attention.start_from)
        own, first = map(self._place.of, stages)
        channels = backbone_channels(own if (own / "backbone.json").is_file() else first)
        dims = {"features": int(channels[-1])}
        if self.settings.layout_stages:
            widths = descriptor_widths(self.settings.layout_stages, channels)
            dims["layout"] = sum(widths) * self.settings.layout_grid**2
        return dims

    def is_made(self, shard: int) -> bool:
        """Whether every store has the shard."""
        return all(writer.is_written(shard) for writer in self.writers.values())

    def targets(self, shard: int) -> Iterable[Path]:
        """One file a store."""
        return [shard_path(writer.folder, shard) for writer in self.writers.values()]


class ExtractFeatures(ShardedStage[ExtractFeaturesSettings]):
    """Product: `features/`, rows in manifest order; images that cannot be read have a row of zeros."""

    work = "array"

    def __init__(
        self, name: str, block: BlockOf[ExtractFeaturesSettings], manifest: AnyStage, attention: PixelAttentionStage
    ) -> None:
        """As `Stage`; the vectors are those of the network that `attention` was learned over, pooled with it."""
        super().__init__(name, block, manifest, attention.start_from, attention)
        self.attention = attention

    def plan(self, place: StagePlace) -> FeaturePlan:
        """Ranges of `shard_size` training images."""
        return FeaturePlan(place, self.block(place.run), self.attention)

    def maker(self, context: StageContext, plan: FeaturePlan) -> Maker:
        """Loads the network once."""
        network = self.attention.network(context)
        precision = Precision(plan.settings.precision, context.device, warn=context.reporter.warn)
        limit, multiple = context.run.data.max_pixels, network.backbone.multiple

        def make(shard: int) -> Iterator[Batch]:
            rows = plan.ranges[shard]
            arrays = {name: np.zeros((len(rows), dim), dtype=plan.settings.dtype) for name, dim in plan.dims.items()}
            for batch in cropped_batches(plan.manifest, rows, plan.settings, max_pixels=limit, multiple=multiple):
                if batch.indices:
                    places = np.array(batch.indices) - rows.start
                    for name, vectors in _describe(network, plan.settings, precision, batch).items():
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
    network: AttendedBackbone, settings: ExtractFeaturesSettings, precision: Precision, batch: ResizedBatch
) -> dict[str, NDArray[np.float32]]:
    """(B, D) vectors of a batch for each store."""
    images = network.backbone.normalise(batch.images)
    with precision.autocast():
        found = {"features": network.vectors(images, pool=settings.pool)}
        if settings.layout_stages:
            stages, grid = settings.layout_stages, settings.layout_grid
            found["layout"] = network.layout(images, stages, grid, mirror=settings.layout_mirror)
    return {name: vectors.float().cpu().numpy() for name, vectors in found.items()}
