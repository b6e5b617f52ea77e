"""Masks of the evaluated splits: their shards, who makes them, and the contact sheets."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from luss.data.imagenet_s import read_mask
from luss.data.images import read_image
from luss.data.manifest import Manifest
from luss.data.names import MaskNames
from luss.files import replacing, write_json
from luss.predict import Predicted, write_masks
from luss.report.contact_sheet import cluster_sheet
from stages.base import MASKS, StageContext, StagePlace
from stages.parts.images import evaluated_manifests
from stages.sharded import CHECKSUMS, Batch, Maker, ShardNotes, ShardPlan, absorb_lists, cut, make_missing

MASKS_RECORD = "masks.json"

Segment = Callable[[Manifest, list[int]], Iterator[Predicted]]
"""Gives the label maps of images of a manifest, in any order."""


class MaskPlan(ShardPlan):
    """The masks of all evaluated splits, cut into ranges of images; no range holds images of two splits.

    A mask is a file, so nothing of a shard shows that it is complete but the note that is written last.
    """

    def __init__(self, place: StagePlace, size: int) -> None:
        """Cuts the images, which are listed here if they are not yet, into shards of `size`."""
        self.folder = place.folder / MASKS
        self.manifests = evaluated_manifests(place)
        self._fingerprint = place.fingerprint
        self.splits: list[str] = []
        ranges: list[range] = []
        for split, manifest in self.manifests.items():
            own = cut(len(manifest), size)
            ranges += own
            self.splits += [split] * len(own)
        super().__init__(ranges, ShardNotes(place.folder))

    @cached_property
    def names(self) -> dict[str, MaskNames]:
        """The mask files of each split."""
        return {split: MaskNames(manifest) for split, manifest in self.manifests.items()}

    def identity(self, shard: int) -> dict[str, Any]:
        """Split, images and fingerprint."""
        return {"split": self.splits[shard], **super().identity(shard), "fingerprint": self._fingerprint}

    def is_made(self, shard: int) -> bool:
        """Whether the shard's note is there and means these images."""
        note = self.notes.read_made(shard)
        return all(note.get(key) == value for key, value in self.identity(shard).items())

    def targets(self, shard: int) -> Iterable[Path]:
        """A mask an image."""
        split = self.splits[shard]
        return (self.folder / split / self.names[split][index] for index in self.ranges[shard])

    def checksums(self, shard: int) -> dict[str, str]:
        """One of all masks of the shard: see `masks_checksum`."""
        split = self.splits[shard]
        masks = (path for path in self.targets(shard) if path.is_file())
        return {f"{MASKS}/{split}": masks_checksum(self.folder / split, masks)}


def write_splits(context: StageContext, segment: Segment, size: int) -> dict[str, Any]:
    """Writes the masks of every evaluated split that are missing, and a contact sheet a split, for a stage that is not sharded.

    Args:
        context: Of the stage; masks go to `masks/<split>` in its folder.
        segment: Gives the label maps of images of a manifest, in any order.
        size: Images after which a killed process continues.

    Returns:
        The number of images of each split, and of those that could not be read.
    """
    plan = MaskPlan(context, size)
    make_missing(context, plan, lambda: mask_maker(plan, segment))
    absorb_lists(context, plan)
    return join_masks(context, plan)


def mask_maker(plan: MaskPlan, segment: Segment) -> Maker:
    """Makes all masks of a shard anew, those included that a killed process has written: so batches, and with them bits, are the same."""

    def make(shard: int) -> Iterator[Batch]:
        split = plan.splits[shard]
        predictions = segment(plan.manifests[split], list(plan.ranges[shard]))
        for prediction in write_masks(predictions, plan.names[split], plan.folder / split):
            yield Batch(1, [*prediction.notes, *([prediction.unreadable] if prediction.unreadable else [])])

    return make


def masks_checksum(folder: Path, masks: Iterable[Path]) -> str:
    """32 hexadecimal digits that differ where the name below `folder` or the content of a mask does, in any order; "0" of none.

    That of two sets together is their exclusive or: so each shard's is taken when it is made, and no mask is read twice.
    """
    found = 0
    for path in masks:
        found ^= xxhash.xxh3_128_intdigest(
            path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes()
        )
    return f"{found:x}"


def _write_record(context: StageContext, plan: MaskPlan) -> None:
    """Writes the checksum of all masks of each split, from what their makers have noted."""
    found = dict.fromkeys(plan.manifests, 0)
    for shard, split in enumerate(plan.splits):
        noted = plan.notes.read_made(shard).get(CHECKSUMS) or plan.checksums(shard)
        found[split] ^= int(noted[f"{MASKS}/{split}"], 16)
    write_json(context.folder / MASKS_RECORD, {split: f"{value:x}" for split, value in found.items()})


def join_masks(context: StageContext, plan: MaskPlan) -> dict[str, Any]:
    """Writes a contact sheet a split, and the masks' checksums; returns the numbers of images."""
    _write_record(context, plan)
    for split, manifest in plan.manifests.items():
        path = context.folder / f"clusters-{split}.png"
        _write_sheet(manifest, plan.names[split], plan.folder / split, path)
        if sentence := plan.names[split].sentence():
            context.reporter.message(f"{split}: {sentence}")
    return {split: len(manifest) for split, manifest in plan.manifests.items()}


def _write_sheet(manifest: Manifest, names: MaskNames, folder: Path, path: Path) -> None:
    """A contact sheet of at most 2,000 images' masks, a row a cluster."""
    step = max(1, len(manifest) // 2000)
    shown = [i for i in range(0, len(manifest), step) if (folder / names[i]).is_file()]
    dominant = np.zeros(len(shown), np.int64)
    for place, index in enumerate(shown):
        counts = np.bincount(read_mask(folder / names[index]).ravel())
        counts[0] = 0
        dominant[place] = counts.argmax()

    def load(place: int) -> tuple[Any, Any]:
        index = shown[place]
        return read_image(manifest.path(index), min_side=64), read_mask(folder / names[index])

    sheet = cluster_sheet(dominant, load, max_clusters=60)
    with replacing(path) as temporary:
        sheet.save(temporary, format="png")
