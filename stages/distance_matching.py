"""Distance matching: segments by the nearest neighbours of frozen features in a bank made with the masks of train-semi."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luss.benchmark.distance_matching import Bank, bank_of_image, vote_shares
from luss.clustering.neighbours import Neighbours
from luss.data.manifest import Manifest
from luss.data.resized import ResizedBatch, resized_batches
from luss.errors import LussError
from luss.labels.sampling import resize_nearest
from luss.labels.source import MaskLabels
from luss.models.backbone import Backbone
from luss.models.io import load_backbone
from luss.models.pixel_attention import upsample_to
from luss.predict import Predicted
from luss.settings import DistanceMatchingSettings
from luss.training.precision import Precision
from stages.base import CHECKPOINTS, AnyStage, BlockOf, Stage, StageContext
from stages.parts.images import num_files
from stages.parts.masks import write_splits
from stages.parts.metrics import count_splits, evaluate_splits, figures, write_metrics
from stages.parts.train_semi import semi_labels
from stages.sharded import cut


class DistanceMatching(Stage[DistanceMatchingSettings]):
    """Products: `bank.npz`, `masks/<split>/<name>.png` (ids are categories), and `metrics.json` in two forms.

    The numbers of the first form, "plain", compare ids as they are. Those of the second, `rematched`, are matched anew on the ground truth
    as the published script does.
    """

    work = "neighbours"
    by_split = True

    def __init__(
        self, name: str, block: BlockOf[DistanceMatchingSettings], manifest: AnyStage, backbone: AnyStage
    ) -> None:
        """As `Stage`; the features are those of the network that `backbone` has left."""
        super().__init__(name, block, manifest, backbone)
        self.backbone = backbone

    def run(self, context: StageContext) -> dict[str, Any]:
        """Makes the bank, the masks that are missing, and the metrics; each continues what is on disk."""
        settings = self.block(context.run)
        features = _Features(context, settings, context.of(self.backbone))
        masks = semi_labels(context)
        bank = _make_bank(context, features, masks)
        found = {"bank": len(bank), **_write_masks(context, features, bank, masks.num_classes)}
        folder, workers = context.folder / "masks", context.run.evaluate.workers
        counts = count_splits(context, folder, num_classes=masks.num_classes, workers=workers)
        plain, rematched = evaluate_splits(counts, "identity"), evaluate_splits(counts, "hungarian")
        splits = {split: metrics.to_json() for split, metrics in rematched.items()}
        facts = {"protocol": "distance_matching", "form": "plain", "rematched": {"splits": splits}}
        write_metrics(context, plain, facts)
        anew = {f"{name} rematched": value for name, value in figures(rematched).items() if name.endswith("miou")}
        return {**found, **figures(plain), **anew}


class _Features:
    """The frozen backbone: feature maps of whole images, batch by batch."""

    def __init__(self, context: StageContext, settings: DistanceMatchingSettings, folder: Path) -> None:
        self.context, self.settings = context, settings
        self.backbone: Backbone = load_backbone(folder).to(context.device).eval()
        self.precision = Precision(self.settings.precision, context.device, warn=context.reporter.warn)

    @torch.no_grad()
    def batches(self, manifest: Manifest, indices: list[int]) -> Iterator[tuple[ResizedBatch, Tensor | None]]:
        """Batches with their upsampled last maps (B, L, h, w), not normalised; None where no image of a batch could be read."""
        settings = self.settings
        for batch in resized_batches(
            manifest, indices, settings, max_pixels=self.context.run.data.max_pixels, multiple=self.backbone.multiple
        ):
            if not batch.indices:
                yield batch, None
                continue
            images = self.backbone.normalise(batch.images)
            with self.precision.autocast():
                deepest = self.backbone(images).last
            yield batch, upsample_to(deepest.float(), stride=self.backbone.stride, target=settings.target_stride)


def _make_bank(context: StageContext, features: _Features, masks: MaskLabels) -> Bank:
    """The bank, from the disk where it is there; made in parts of some images, so that a stopped try keeps what it did."""
    path = context.folder / "bank.npz"
    if path.is_file():
        return Bank.load(path)
    size = features.settings.shard_size
    folder = context.folder / CHECKPOINTS
    parts = {rows: folder / f"bank-{size}-{part:05d}.npz" for part, rows in enumerate(cut(len(masks), size))}
    context.reporter.start("image", len(masks), sum(len(rows) for rows, part in parts.items() if part.is_file()))
    done = 0
    for rows, part in parts.items():
        if not part.is_file():
            _bank_part(context, features, masks, rows).save(part)
        done += len(rows)
        context.reporter.advance(done)
    context.skipped.check(num_files(masks.manifest.folder, masks.split), context.run.data.max_skipped_share)
    bank = Bank.join([Bank.load(part) for part in parts.values()])
    if not len(bank):
        raise LussError(f"the masks of {masks.split} hold no pixel that counts: there is nothing to compare with")
    bank.save(path)
    return bank


def _bank_part(context: StageContext, features: _Features, masks: MaskLabels, rows: range) -> Bank:
    """The entries of some images, in the order of the images."""
    entries: dict[int, Bank] = {}
    for batch, maps in features.batches(masks.manifest, list(rows)):
        context.stop.check()
        for _, path, reason in batch.unreadable:
            context.skipped.add(Path(path), reason)
        if maps is not None:
            size = (maps.shape[2], maps.shape[3])
            for index, each in zip(batch.indices, maps, strict=True):
                entries[index] = bank_of_image(each, masks.grid(index, size))
    nothing = Bank(np.zeros(0, np.uint16), np.zeros((0, features.backbone.num_channels), np.float32))
    return Bank.join([nothing, *(entries[index] for index in sorted(entries))])


def _write_masks(context: StageContext, features: _Features, bank: Bank, num_classes: int) -> dict[str, Any]:
    settings = features.settings
    neighbours = Neighbours(bank.vectors, engine=settings.engine, device=str(context.device))
    ids = torch.from_numpy(bank.ids.astype(np.int64)).to(context.device)

    def segment(manifest: Manifest, indices: list[int]) -> Iterator[Predicted]:
        for batch, maps in features.batches(manifest, indices):
            for index, path, reason in batch.unreadable:
                yield Predicted(index, None, (path, reason))
            if maps is None:
                continue
            queries = F.normalize(maps, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
            cosines, places = neighbours.nearest(queries, settings.num_neighbours)
            shares = vote_shares(cosines, ids[places], num_classes=num_classes, temperature=settings.temperature)
            labels = shares.argmax(dim=1).reshape(maps.shape[0], *maps.shape[2:]).cpu().numpy().astype(np.uint16)
            for index, each in zip(batch.indices, labels, strict=True):
                width, height = manifest.size(index)
                yield Predicted(index, resize_nearest(each, (height, width)))

    return write_splits(context, segment, settings.shard_size)
