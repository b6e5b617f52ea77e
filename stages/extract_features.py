"""Stage 3: one attention-pooled vector for every training image, in a memory-mapped store."""

from pathlib import Path
from typing import Any

import numpy as np

from luss.data.resized import cropped_batches, normalise
from luss.features.store import FeatureWriter
from luss.models.attended import AttendedBackbone, load_attended
from luss.training.precision import Precision
from stages.base import Stage, StageContext, fingerprint
from stages.command import stage_main
from stages.manifest import train_manifest


def attended(context: StageContext) -> AttendedBackbone:
    """The network of stages 1 and 2 on the run's device."""
    settings = context.run.pixel_attention
    network = load_attended(
        context.of("pretrain"),
        context.of("pixel_attention"),
        shared=settings.shared,
        upsample_factor=settings.upsample,
    )
    return network.to(context.device)


class ExtractFeatures(Stage):
    """Product: `features/`, rows in manifest order; images that cannot be read have a row of zeros."""

    name = "extract_features"
    version = 1
    needs = ("manifest", "pretrain", "pixel_attention")

    def run(self, context: StageContext) -> dict[str, Any]:
        """Writes the shards that are missing."""
        from stages.registry import STAGES

        settings, manifest, network = context.run.extract_features, train_manifest(context), attended(context)
        channels = network.layout_channels(settings.layout_stages)
        dims = {"features": network.backbone.num_channels}
        if channels:
            dims["layout"] = sum(channels) * settings.layout_grid**2
        writers = {
            name: FeatureWriter(
                context.folder / name,
                len(manifest),
                dim,
                settings.dtype,  # type: ignore[arg-type]
                settings.shard_size,
                fingerprint(self, context.run, STAGES),
            )
            for name, dim in dims.items()
        }
        writer = writers["features"]
        precision = Precision(settings.precision, context.device, warn=context.reporter.warn)
        missing = sorted({shard for each in writers.values() for shard in each.missing_shards()})
        done = len(manifest) - sum(len(writer.rows_of(shard)) for shard in missing)
        context.reporter.start("image", len(manifest), done)
        for shard in missing:
            rows = writer.rows_of(shard)
            arrays = {name: np.zeros((len(rows), dim), dtype=settings.dtype) for name, dim in dims.items()}
            for batch in cropped_batches(
                manifest,
                rows,
                resize=settings.resize,
                crop=settings.crop,
                batch_size=settings.batch_size,
                workers=settings.workers,
                max_pixels=context.run.data.max_pixels,
            ):
                context.stop.check()
                for _, path, reason in batch.unreadable:
                    context.skipped.add(Path(path), reason)
                if batch.indices:
                    images = normalise(
                        batch.images, context.device, mean=network.backbone.mean, std=network.backbone.std
                    )
                    places = np.array(batch.indices) - rows.start
                    with precision.autocast():
                        vectors = network.vectors(images, published=settings.published)
                        if channels:
                            layout = network.layout(images, settings.layout_stages, settings.layout_grid)
                            arrays["layout"][places] = layout.float().cpu().numpy()
                    arrays["features"][places] = vectors.float().cpu().numpy()
                done += len(batch.indices) + len(batch.unreadable)
                context.reporter.advance(done)
            for name, each in writers.items():
                each.write_shard(shard, arrays[name])
        context.skipped.check(len(manifest), context.run.data.max_skipped_share)
        for each in writers.values():
            each.finish()
        return {"images": len(manifest), "dim": network.backbone.num_channels, "skipped": context.skipped.count}


if __name__ == "__main__":
    stage_main("extract_features")
