"""Segmenting images with a trained model: bounded memory, original sizes, one mask file an image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.data.imagenet_s import write_mask
from luss.data.manifest import Manifest
from luss.data.names import MaskNames
from luss.data.resized import resized_batches
from luss.models.segmenter import (
    SegmentationNetwork,
    compared_size,
    enlarged,
    label_map,
    label_map_with_confidence,
    object_logits,
)
from luss.settings import PredictSettings
from luss.training.precision import Precision

Labels = NDArray[np.uint16]
Confidence = NDArray[np.float32]


@dataclass(frozen=True)
class Predicted:
    """One image of a pass: its manifest index and label map, or why it could not be read.

    Attributes:
        index: Manifest index.
        labels: (height, width) uint16 cluster ids, 0 = background, at the image's size; None when it could not be read.
        unreadable: Path and reason then.
        notes: On images of the same batch that were read although something is wrong with them.
        confidence: (height, width) float32 in [0, 1], where it was asked for, see `segment_batch`.
    """

    index: int
    labels: Labels | None
    unreadable: tuple[str, str] | None = None
    notes: Sequence[tuple[str, str]] = ()
    confidence: Confidence | None = None


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
    with_confidence: bool = False,
    min_confidence: float = 0.0,
) -> Iterator[Predicted]:
    """Label maps of images, in batches of one shape; the order is not that of `indices`.

    Args:
        network: On the device, in eval mode.
        manifest, indices: The images, and which of them.
        settings: Sizes, batch and workers.
        device: Where to compute.
        max_image_pixels: Larger images count as unreadable.
        warn: Told when the precision is replaced.
        with_confidence, min_confidence: See `segment_batch`.
    """
    precision, multiple = Precision(settings.precision, device, warn=warn), network.backbone.multiple
    segment = partial(segment_batch, network, settings=settings, precision=precision)
    for batch in resized_batches(manifest, indices, settings, max_pixels=max_image_pixels, multiple=multiple):
        for index, path, reason in batch.unreadable:
            yield Predicted(index, None, (path, reason))
        if not batch.indices:
            continue
        sizes = [manifest.size(index)[::-1] for index in batch.indices]
        found = segment(batch.images, sizes, with_confidence=with_confidence, min_confidence=min_confidence)
        notes = batch.notes
        for index, (labels, confidence) in zip(batch.indices, found, strict=True):
            yield Predicted(index, labels, notes=notes, confidence=confidence)
            notes = []


@torch.no_grad()
def segment_batch(
    network: SegmentationNetwork,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    settings: PredictSettings,
    precision: Precision,
    *,
    with_confidence: bool = False,
    min_confidence: float = 0.0,
) -> Iterator[tuple[Labels, Confidence | None]]:
    """Segments images of one shape; their label maps come one at a time, so that only one of full size is in memory.

    Confidence is the softmax probability of the class that a pixel was given, over the logits that decided it: after `object_logits`,
    resized bilinearly. It lies in [1 / (C + 1), 1]. It says how clear the choice was, not how often such pixels are right.

    Args:
        network: On the device of `precision`, in eval mode.
        images: (B, 3, h, w) uint8.
        sizes: Height and width of each image's label map.
        settings: How logits become labels.
        precision: Number format of the network.
        with_confidence: Whether the confidence comes with the labels.
        min_confidence: Pixels below it become background (their confidence stays that of the class they had); from 0 (none) to 1.

    Yields:
        (height, width) uint16 ids, and (height, width) float32 confidence or None.
    """
    pixels = network.backbone.normalise(images)
    with precision.autocast():
        logits = network(pixels)
    logits = object_logits(logits, total_foreground=settings.total_foreground, image_weight=settings.image_weight)
    for scores, size in zip(logits, sizes, strict=True):
        small = compared_size(size, settings.max_pixels)
        confidence = None
        if with_confidence or min_confidence:
            labels, confidence = label_map_with_confidence(scores, small)
            labels[confidence < min_confidence] = 0
        else:
            labels = label_map(scores, small)
        # Ids of a photograph of 300 megapixels take 2.4 GB as int64: small ones are enlarged. torch has no index for uint16.
        narrow = torch.from_numpy(labels.cpu().numpy().astype(np.uint16).view(np.int16))
        full = enlarged(narrow, size).numpy().view(np.uint16)
        yield full, enlarged(confidence.cpu(), size).numpy() if with_confidence and confidence is not None else None


def write_masks(predictions: Iterator[Predicted], names: MaskNames, folder: Path) -> Iterator[Predicted]:
    """Writes every label map as an ImageNet-S PNG (id = R + 256 G) and passes the prediction on."""
    for prediction in predictions:
        if prediction.labels is not None:
            write_mask(folder / names[prediction.index], prediction.labels)
        yield prediction
