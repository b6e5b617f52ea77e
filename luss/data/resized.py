"""Whole images, resized for inference, in batches of one shape."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset

from luss.data.images import UnreadableImage
from luss.data.manifest import Manifest
from luss.data.views import ImageSource, Notes, cut
from luss.data.workers import load_batches
from luss.settings import ExtractFeaturesSettings, WholeImageSettings


def nearest_multiple(number: int, multiple: int) -> int:
    """The multiple of `multiple` that is nearest to `number`, at least one."""
    return max(1, (2 * number + multiple) // (2 * multiple)) * multiple


def target_size(
    width: int, height: int, *, short_side: int, size_multiple: int = 1, multiple: int = 1, max_aspect: float = 8.0
) -> tuple[int, int]:
    """The size an image is resized to: its short side becomes `short_side`, its aspect is kept up to rounding.

    Args:
        width, height: Of the image, pixels.
        short_side: Pixels.
        size_multiple: The long side is rounded to a multiple of this, so that images share batches; 1 keeps the aspect to the pixel.
        multiple: What the network's sides must be multiples of (`Backbone.multiple`): all three numbers are rounded to it.
        max_aspect: Longer images are squeezed to this aspect, so that a panorama does not fill the memory.

    Returns:
        (width, height), both at least the short side.
    """
    short_side = nearest_multiple(short_side, multiple)
    step = 1 if size_multiple == multiple == 1 else nearest_multiple(size_multiple, multiple)
    aspect = min(max(width, height) / min(width, height), max_aspect)
    long_side = int(short_side * aspect) if step == 1 else round(short_side * aspect / step) * step
    long_side = max(long_side, short_side)
    return (long_side, short_side) if width >= height else (short_side, long_side)


def whole_size(size: tuple[int, int], settings: WholeImageSettings, multiple: int) -> tuple[int, int]:
    """The `target_size` of an image of some width and height in a pass by these settings; `multiple` is the network's."""
    return target_size(
        *size,
        short_side=settings.short_side,
        size_multiple=settings.size_multiple,
        multiple=multiple,
        max_aspect=settings.max_aspect,
    )


def shape_batches(sizes: Sequence[tuple[int, int]], indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Groups indices whose images have the same target size into batches, in a fixed order.

    Args:
        sizes, indices: Target size and number of each image.
        batch_size: Images of the first shape a batch may hold; larger shapes keep the number of pixels about the same.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for size, index in zip(sizes, indices, strict=True):
        groups.setdefault(size, []).append(index)
    batches = []
    for size in sorted(groups):
        members = groups[size]
        # Square images set the scale: an 8 : 1 panorama counts as eight of them.
        count = max(1, batch_size * min(size) // max(size))
        batches += [members[start : start + count] for start in range(0, len(members), count)]
    return batches


@dataclass(frozen=True)
class ResizedBatch:
    """Images of one shape.

    Attributes:
        images: (B, 3, H, W) uint8.
        indices: Manifest index of each.
        unreadable: Index, path and reason of those that could not be read and are not in `images`.
        notes: On those in `images` that have something wrong with them.
    """

    images: Tensor
    indices: list[int]
    unreadable: list[tuple[int, str, str]]
    notes: Notes = field(default_factory=list)


# Index, image, and notes on it; without an image the reason.
_Sample = tuple[int, Tensor | None, Notes]


class _ResizedDataset(Dataset[_Sample]):
    def __init__(
        self, manifest: Manifest, size_of: Callable[[int], tuple[int, int]], max_pixels: int, min_side: int, crop: bool
    ) -> None:
        self.images = ImageSource([manifest], max_pixels=max_pixels, min_side=min_side)
        self.size_of, self.crop = size_of, crop

    def __getitem__(self, index: int) -> _Sample:
        try:
            image, (width, height), notes = self.images.read(index)
        except UnreadableImage as error:
            return index, None, [(str(error.path), error.reason)]
        size = self.size_of(index)
        rectangle: tuple[float, float, float, float] = (0, 0, width, height)
        if self.crop:
            # A crop that was rounded up to what the network takes may be larger than the resized image: then it is all of it.
            side = min(width, height) * min(1.0, size[0] / (self.images.min_side or size[0]))
            rectangle = ((width - side) / 2, (height - side) / 2, side, side)
        return index, torch.from_numpy(cut(image, (width, height), rectangle, size=size, flip=False)), notes


def _collate(samples: list[_Sample]) -> ResizedBatch:
    good = [(index, image) for index, image, _ in samples if image is not None]
    bad = [(index, *notes[0]) for index, image, notes in samples if image is None]
    odd = [note for _, image, notes in samples if image is not None for note in notes]
    images = torch.stack([image for _, image in good]) if good else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return ResizedBatch(images, [index for index, _ in good], bad, odd)


def resized_batches(
    manifest: Manifest, indices: Sequence[int], settings: WholeImageSettings, *, max_pixels: int, multiple: int = 1
) -> Iterator[ResizedBatch]:
    """Whole images at `target_size`, grouped into batches of one shape; the order of images is not that of `indices`.

    `multiple`: that of the network's sides, see `target_size`.
    """

    def size_of(index: int) -> tuple[int, int]:
        return whole_size(manifest.size(index), settings, multiple)

    batches = shape_batches([size_of(index) for index in indices], indices, settings.batch_size)
    dataset = _ResizedDataset(manifest, size_of, max_pixels, nearest_multiple(settings.short_side, multiple), False)
    yield from load_batches(dataset, batches, workers=settings.workers, collate=_collate)


def cropped_batches(
    manifest: Manifest, indices: Sequence[int], settings: ExtractFeaturesSettings, *, max_pixels: int, multiple: int = 1
) -> Iterator[ResizedBatch]:
    """Centre squares: the short side at `resize` pixels, of which the middle `crop` x `crop` are kept; in order of `indices`.

    `multiple`: `crop` is rounded to a multiple of it.
    """
    size, crop = settings.batch_size, nearest_multiple(settings.crop, multiple)
    batches = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
    dataset = _ResizedDataset(manifest, lambda index: (crop, crop), max_pixels, settings.resize, True)
    yield from load_batches(dataset, batches, workers=settings.workers, collate=_collate)
