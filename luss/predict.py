"""Segmenting images with a trained model: bounded memory, original sizes, one mask file an image."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray

from luss.data.imagenet_s import write_mask
from luss.data.manifest import Manifest
from luss.data.resized import normalise, resized_batches
from luss.models.segmenter import SegmentationNetwork, bounded_label_map, object_logits
from luss.settings import PredictSettings
from luss.training.precision import Precision


@dataclass(frozen=True)
class Predicted:
    """One image of a pass: its manifest index and label map, or why it could not be read.

    Attributes:
        index: Manifest index.
        labels: (height, width) uint16 cluster ids, 0 = background, at the image's size; None when it could not be read.
        unreadable: Path and reason then.
    """

    index: int
    labels: NDArray[np.uint16] | None
    unreadable: tuple[str, str] | None = None


@torch.no_grad()
def predict_images(
    network: SegmentationNetwork,
    manifest: Manifest,
    indices: Sequence[int],
    settings: PredictSettings,
    *,
    device: torch.device,
    max_image_pixels: int,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[Predicted]:
    """Label maps of images, in batches of one shape; the order is not that of `indices`.

    Args:
        network: On the device, in eval mode.
        manifest: The images.
        indices: Which of them.
        settings: Sizes, batch and workers.
        device: Where to compute.
        max_image_pixels: Larger images count as unreadable.
        warn: Told when the precision is replaced.
    """
    precision = Precision(settings.precision, device, warn=warn)
    backbone = network.backbone
    for batch in resized_batches(
        manifest,
        indices,
        short_side=settings.short_side,
        size_multiple=settings.size_multiple,
        max_aspect=settings.max_aspect,
        batch_size=settings.batch_size,
        workers=settings.workers,
        max_pixels=max_image_pixels,
    ):
        for index, path, reason in batch.unreadable:
            yield Predicted(index, None, (path, reason))
        if not batch.indices:
            continue
        images = normalise(batch.images, device, mean=backbone.mean, std=backbone.std)
        with precision.autocast():
            logits = network(images)
        logits = object_logits(logits, total_foreground=settings.total_foreground, image_weight=settings.image_weight)
        for index, scores in zip(batch.indices, logits, strict=True):
            width, height = manifest.size(index)
            labels = bounded_label_map(scores, (height, width), max_pixels=settings.max_pixels)
            yield Predicted(index, labels.cpu().numpy().astype(np.uint16))


def mask_name(name: str) -> str:
    """The mask's file of an image: `dog/x.JPEG` -> `dog/x.png`."""
    return str(PurePosixPath(name).with_suffix(".png"))


class MaskNames:
    """The mask's file of every image of a manifest: by `mask_name`, except for images that would share one.

    A folder may hold `x.jpg` and `x.png`: their masks are `x.jpg.png` and `x.png.png`. Keeps 8 bytes for each such name.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Reads all names once."""
        self._manifest = manifest
        hashes = np.fromiter((_hash(mask_name(name)) for name in manifest.names()), np.uint64, len(manifest))
        values, counts = np.unique(hashes, return_counts=True)
        self._shared = values[counts > 1]

    def __getitem__(self, index: int) -> str:
        """The file, relative to the folder of masks, with forward slashes."""
        name = self._manifest.name(index)
        usual = mask_name(name)
        return f"{name}.png" if len(self._shared) and np.uint64(_hash(usual)) in self._shared else usual


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def write_masks(predictions: Iterator[Predicted], names: MaskNames, folder: Path) -> Iterator[Predicted]:
    """Writes every label map as an ImageNet-S PNG (id = R + 256 G) and passes the prediction on."""
    for prediction in predictions:
        if prediction.labels is not None:
            write_mask(folder / names[prediction.index], prediction.labels)
        yield prediction
