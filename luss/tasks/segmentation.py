"""Fine-tuning a segmenter on pseudo labels (PASS section 5.3.4), or on masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from luss.data.colours import apply_colours, draw_colours
from luss.data.images import Listed
from luss.data.views import Notes, cut, draw_rectangle, first_readable, read_listed, sample_generator
from luss.labels.source import LabelSource
from luss.models.segmenter import SegmentationNetwork
from luss.settings import FinetuneSettings
from luss.training.task import Progress, StepOutput, Task


@dataclass(frozen=True)
class LabelledBatch:
    """Crops with their labels as they leave the loader.

    Attributes:
        images: (B, 3, S, S) uint8.
        colours: (B, 7) colour augmentation.
        labels: (B, s, s) int64 ids, 0 = background.
        unreadable: Path and reason of images that were replaced by their successor.
    """

    images: Tensor
    colours: Tensor
    labels: Tensor
    unreadable: list[tuple[str, str]]


class LabelledCrops(Dataset[dict[str, Any]]):
    """Random crops of the images that have labels, with the same crop of the labels."""

    def __init__(
        self, image_root: Path, store: LabelSource, settings: FinetuneSettings, *, seed: int, max_pixels: int
    ) -> None:
        """The images of `store`, whose names are relative to `image_root`; those without labels (unreadable when they were made) are left out."""
        self.image_root, self.max_pixels = image_root, max_pixels
        self.store, self.settings, self.seed = store, settings, seed
        self.label_side = settings.size // settings.label_stride

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, entry = key
        generator = sample_generator(self.seed, epoch, entry)
        # The first entry from `entry` on (cyclic) whose image can be read, as `ImageSource.readable`.
        entry, image, original, unreadable = first_readable(entry, len(self), self._read)
        rectangle = draw_rectangle(generator, *original, self.settings.scale)
        flip = bool(generator.random() < 0.5)
        size = self.settings.size
        return {
            "image": cut(image, original, rectangle, size=(size, size), flip=flip),
            "colours": draw_colours(generator, self.settings.colours),
            "label": self.store.crop(entry, rectangle, size=self.label_side, flip=flip),
            "unreadable": unreadable,
        }

    def _read(self, entry: int) -> tuple[Image.Image, tuple[int, int], Notes]:
        # Unreadable images have no map, so the store's numbering is not the manifest's: images go by name.
        height, width = self.store.image_size(entry)
        path, listed = self.image_root / self.store.name(entry), Listed((width, height), None)
        image, notes = read_listed(path, listed, max_pixels=self.max_pixels)
        return image, (width, height), notes

    def collate(self, samples: list[dict[str, Any]]) -> LabelledBatch:
        """Stacks samples."""
        image, colours, label = (
            torch.from_numpy(np.stack([each[key] for each in samples])) for key in ("image", "colours", "label")
        )
        return LabelledBatch(image, colours, label.long(), [entry for each in samples for entry in each["unreadable"]])


def noise_crops(settings: FinetuneSettings, num_images: int) -> LabelledBatch:
    """A batch as the loader gives it, of noise that is all background: for trying a step before there are labels."""
    generator, side = np.random.default_rng(0), settings.size // settings.label_stride
    images = generator.integers(0, 256, (num_images, 3, settings.size, settings.size), dtype=np.uint8)
    colours = np.stack([draw_colours(generator, settings.colours) for _ in range(num_images)])
    labels = torch.zeros(num_images, side, side, dtype=torch.int64)
    return LabelledBatch(torch.from_numpy(images), torch.from_numpy(colours), labels, [])


class SegmentationTask(Task):
    """Cross-entropy between upsampled logits and labels."""

    def __init__(self, network: SegmentationNetwork, *, ignored_id: int | None = None) -> None:
        """`network` trains as a whole; positions labelled `ignored_id` count in nothing."""
        super().__init__()
        self.network = network
        self.ignored_id = ignored_id

    def prepare(self, batch: LabelledBatch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, S, S) and labels (B, s, s) on the device."""
        images = apply_colours(batch.images.to(device, non_blocking=True), batch.colours)
        return self.network.backbone.normalise(images), batch.labels.to(device, non_blocking=True)

    def forward(self, inputs: tuple[Tensor, Tensor], progress: Progress) -> StepOutput:
        """Mean cross-entropy over counted positions and C + 1 classes, without weights; scalar `pixel_accuracy` in [0, 1].

        The mean of a batch is over its own counted positions; it is 0 where there are none.
        """
        images, labels = inputs
        logits = F.interpolate(
            self.network(images).float(), size=labels.shape[1:], mode="bilinear", align_corners=False
        )
        hits = (logits.detach().argmax(dim=1) == labels).float() if progress.log else None
        if self.ignored_id is None:
            loss = F.cross_entropy(logits, labels)
            accuracy = hits.mean() if hits is not None else None
        else:
            num_counted = (labels != self.ignored_id).sum().clamp(min=1)
            loss = F.cross_entropy(logits, labels, ignore_index=self.ignored_id, reduction="sum") / num_counted
            accuracy = hits.sum() / num_counted if hits is not None else None
        return StepOutput(loss, {} if accuracy is None else {"pixel_accuracy": accuracy})
