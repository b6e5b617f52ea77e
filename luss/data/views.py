"""Views: random crops of an image that remember where they came from.

The geometric half (crop, resize, flip) runs in the loader's workers and records its rectangle. The photometric half is only drawn here;
`luss.data.photometric` applies it to a whole batch on the training device.

Everything random about a sample is a pure function of (seed, epoch, index), so neither the number of workers nor a resume changes it.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from luss.data.images import UnreadableImage, read_image
from luss.data.manifest import Manifest
from luss.data.photometric import NO_CHANGE, draw_photometric
from luss.errors import LussError
from luss.settings import PhotometricSettings, ViewSettings

_RATIO = (3 / 4, 4 / 3)
_MAX_SUBSTITUTES = 50
Rectangle = tuple[float, float, float, float]


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of everything random about one sample of one epoch."""
    return np.random.default_rng([seed, epoch, index])


def draw_rectangle(generator: np.random.Generator, width: int, height: int, scale: tuple[float, float]) -> Rectangle:
    """A random crop (Inception's recipe): its area is a share of the image within `scale`, its aspect 3/4 to 4/3.

    After ten draws that do not fit, as with very long images, the largest centred crop within the aspect limits.

    Args:
        generator: Where randomness comes from.
        width: Of the image, pixels, >= 1.
        height: Of the image, pixels, >= 1.
        scale: Smallest and largest share of the area, in (0, 1].

    Returns:
        left, top, width, height in pixels.
    """
    log_ratio = (math.log(_RATIO[0]), math.log(_RATIO[1]))
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(*log_ratio))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(0, width - crop_width + 1))
            top = int(generator.integers(0, height - crop_height + 1))
            return left, top, crop_width, crop_height
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    crop_width, crop_height = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def cut(
    image: Image.Image, original: tuple[int, int], rectangle: Rectangle, *, size: tuple[int, int], flip: bool
) -> NDArray[np.uint8]:
    """Cuts a view out of a decoded image.

    Args:
        image: RGB, possibly decoded at a reduced size.
        original: Width and height of the image that the rectangle refers to.
        rectangle: left, top, width, height in original pixels.
        size: Width and height of the view.
        flip: Mirror left to right after cutting.

    Returns:
        (3, height, width) uint8, antialiased bilinear.
    """
    fx, fy = image.width / original[0], image.height / original[1]
    left, top, width, height = rectangle
    box = (left * fx, top * fy, min((left + width) * fx, image.width), min((top + height) * fy, image.height))
    view = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
    if flip:
        view = view[:, ::-1]
    return np.ascontiguousarray(view.transpose(2, 0, 1))


@dataclass(frozen=True)
class ViewBatch:
    """Views of B images as they leave the loader.

    Attributes:
        images: One tensor (count, B, 3, size, size) uint8 a group.
        rectangles: One tensor (count, B, 4) float32 a group, original pixels.
        flips: One tensor (count, B) bool a group.
        photometric: One tensor (count, B, P) float32 a group, see `luss.data.photometric`.
        indices: (B,) int64 manifest indices.
        unreadable: Path and reason of images that could not be read and were replaced by their successor.
    """

    images: list[Tensor]
    rectangles: list[Tensor]
    flips: list[Tensor]
    photometric: list[Tensor]
    indices: Tensor
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "ViewBatch":
        """Moves the tensors to page-locked memory (called by the loader)."""
        pinned = [[tensor.pin_memory() for tensor in group] for group in self._tensors()]
        return ViewBatch(pinned[0], pinned[1], pinned[2], pinned[3], self.indices, self.unreadable)

    def _tensors(self) -> list[list[Tensor]]:
        return [self.images, self.rectangles, self.flips, self.photometric]


class ViewDataset(Dataset[dict[str, Any]]):
    """Samples are addressed by (epoch, index) and hold every view of one image."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        groups: Sequence[ViewSettings],
        photometric: PhotometricSettings,
        *,
        seed: int,
        max_pixels: int,
    ) -> None:
        """Args:
        manifests: One or more; indices run through them one after another.
        groups: The view groups a method asked for.
        photometric: Colour augmentation to draw for each view.
        seed: Of the run.
        max_pixels: Larger images are unreadable.
        """
        self.images = ImageSource(manifests, max_pixels=max_pixels)
        self.groups = list(groups)
        self.photometric = photometric
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        generator = sample_generator(self.seed, epoch, index)
        index, image, original, unreadable = self.images.readable(index)
        views: list[list[NDArray[np.uint8]]] = []
        rectangles, flips, photometric = [], [], []
        for group in self.groups:
            views.append([])
            for _ in range(group.count):
                rectangle = draw_rectangle(generator, *original, group.scale)
                flip = bool(generator.random() < 0.5) and group.augment
                views[-1].append(cut(image, original, rectangle, size=(group.size, group.size), flip=flip))
                rectangles.append(rectangle)
                flips.append(flip)
                photometric.append(draw_photometric(generator, self.photometric if group.augment else NO_CHANGE))
        return {
            "views": [np.stack(group) for group in views],
            "rectangles": np.array(rectangles, dtype=np.float32),
            "flips": np.array(flips),
            "photometric": np.stack(photometric),
            "index": index,
            "unreadable": unreadable,
        }

    def collate(self, samples: list[dict[str, Any]]) -> ViewBatch:
        """Stacks samples into a `ViewBatch`."""
        bounds = np.cumsum([0] + [group.count for group in self.groups])

        def grouped(name: str) -> list[Tensor]:
            stacked = torch.from_numpy(np.stack([sample[name] for sample in samples], axis=1))
            return [stacked[a:b] for a, b in itertools.pairwise(bounds)]

        return ViewBatch(
            images=[
                torch.from_numpy(np.stack([sample["views"][g] for sample in samples], axis=1))
                for g in range(len(self.groups))
            ],
            rectangles=grouped("rectangles"),
            flips=grouped("flips"),
            photometric=grouped("photometric"),
            indices=torch.tensor([sample["index"] for sample in samples]),
            unreadable=[entry for sample in samples for entry in sample["unreadable"]],
        )


class ImageSource:
    """The images of several manifests under one numbering; replaces unreadable ones by their successors."""

    def __init__(self, manifests: Sequence[Manifest], *, max_pixels: int, min_side: int | None = None) -> None:
        """`min_side`: decoders may reduce an image as long as its short side keeps this many pixels."""
        self.manifests = list(manifests)
        self.max_pixels = max_pixels
        self.min_side = min_side
        self._starts = np.cumsum([0] + [len(manifest) for manifest in self.manifests])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[Manifest, int]:
        """The manifest of an index and the index in it."""
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.manifests[which], index - int(self._starts[which])

    def read(self, index: int) -> tuple[Image.Image, tuple[int, int]]:
        """The decoded image and its original (width, height).

        Raises:
            UnreadableImage: It cannot be decoded.
        """
        manifest, row = self.locate(index)
        image = read_image(manifest.path(row), min_side=self.min_side, max_pixels=self.max_pixels)
        return image, manifest.size(row)

    def readable(self, index: int) -> tuple[int, Image.Image, tuple[int, int], list[tuple[str, str]]]:
        """The first image from `index` on that can be read; see `first_readable`."""
        return first_readable(index, len(self), self.read)


def first_readable(
    index: int, num_images: int, read: Callable[[int], tuple[Image.Image, tuple[int, int]]]
) -> tuple[int, Image.Image, tuple[int, int], list[tuple[str, str]]]:
    """Replaces an image that cannot be read by the next one that can, so that a batch keeps its size.

    Args:
        index: Where to begin, 0 to num_images - 1; after the last comes the first.
        num_images: How many there are.
        read: Gives the image and its original (width, height), or raises `UnreadableImage`.

    Returns:
        The index found, the image, its original size, and path and reason of the images that could not be read.

    Raises:
        LussError: Many images in a row cannot be read, as when a disk was unmounted.
    """
    unreadable: list[tuple[str, str]] = []
    for step in range(min(_MAX_SUBSTITUTES, num_images)):
        candidate = (index + step) % num_images
        try:
            image, original = read(candidate)
        except UnreadableImage as error:
            unreadable.append((str(error.path), error.reason))
            continue
        return candidate, image, original, unreadable
    raise LussError(
        f"{len(unreadable)} images in a row cannot be read, the first is {unreadable[0][0]} ({unreadable[0][1]}): "
        "is the folder still mounted?"
    )


def epoch_order(num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation that depends only on (seed, epoch)."""
    return np.random.default_rng([seed, epoch, 0x0DE5]).permutation(num_images)


class BatchOrder:
    """The batches of one epoch for one process, from a given step on: lists of (epoch, index).

    The global batch of a step is the same whatever the number of processes: process r takes the r-th part of each micro-batch.
    """

    def __init__(
        self,
        num_images: int,
        *,
        seed: int,
        epoch: int,
        batch_size: int,
        accumulate: int,
        rank: int,
        world_size: int,
        start: int,
    ) -> None:
        """`start`: the first step of the epoch that is still to do."""
        self.num_images, self.seed, self.epoch = num_images, seed, epoch
        self.batch_size, self.accumulate = batch_size, accumulate
        self.rank, self.world_size, self.start = rank, world_size, start

    def __len__(self) -> int:
        return (self.num_images // self.batch_size - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.num_images, seed=self.seed, epoch=self.epoch)
        micro = self.batch_size // self.accumulate
        share = micro // self.world_size
        for step in range(self.start, self.num_images // self.batch_size):
            for part in range(self.accumulate):
                first = step * self.batch_size + part * micro + self.rank * share
                yield [(self.epoch, int(index)) for index in order[first : first + share]]
