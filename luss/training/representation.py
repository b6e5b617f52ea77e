"""Batches of views on the training device."""

from collections.abc import Callable

import torch

from luss.data.photometric import apply_photometric
from luss.data.views import ViewBatch
from luss.methods.base import Views


def view_preparer(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[ViewBatch, torch.device], Views]:
    """A function that moves a batch to a device and applies its colour augmentation there.

    Args:
        mean: RGB mean the backbone expects, in [0, 1].
        std: RGB standard deviation.
    """

    def prepare(batch: ViewBatch, device: torch.device) -> Views:
        groups = []
        for images, parameters in zip(batch.images, batch.photometric, strict=True):
            count = images.shape[0]
            flat = images.to(device, non_blocking=True).flatten(0, 1)
            views = apply_photometric(flat, parameters.flatten(0, 1), mean=mean, std=std)
            groups.append(list(views.contiguous(memory_format=torch.channels_last).chunk(count)))
        return Views(
            groups=groups,
            rectangles=[list(group.to(device)) for group in batch.rectangles],
            flips=[list(group.to(device)) for group in batch.flips],
            indices=batch.indices,
        )

    return prepare
