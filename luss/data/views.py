"""Views: random crops of an image that remember where they came from.

Crops, flips and masks are made in the loader's workers; a view's colours are only drawn there, and `luss.data.colours` applies them to a
whole batch on the training device. One form goes from the loader to the loss: `Views`, a stacked tensor a group.

Everything random about a sample is a pure function of (seed, epoch, index), so neither the number of workers nor a resume changes it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from luss.data.colours import apply_colours, draw_colours
from luss.data.images import Listed, UnreadableImage, read_noted
from luss.data.manifest import Manifest
from luss.data.masks import draw_masks
from luss.data.skipped import READ_WITH_NOTE
from luss.errors import LussError
from luss.settings import ViewSettings

_RATIO = (3 / 4, 4 / 3)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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
        width, height: Of the image, pixels, >= 1.
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
    image: Image.Image,
    original: tuple[int, int],
    rectangle: Rectangle,
    *,
    size: tuple[int, int],
    flip: bool,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> NDArray[np.uint8]:
    """Cuts a view out of a decoded image.

    Args:
        image: RGB, possibly decoded at a reduced size.
        original: Width and height of the image that the rectangle refers to.
        rectangle: left, top, width, height in original pixels.
        size: Width and height of the view.
        flip: Mirror left to right after cutting.
        interpolation: Of the resize, which is antialiased.

    Returns:
        (3, height, width) uint8.
    """
    fx, fy = image.width / original[0], image.height / original[1]
    left, top, width, height = rectangle
    box = (left * fx, top * fy, min((left + width) * fx, image.width), min((top + height) * fy, image.height))
    view = np.asarray(image.resize(size, _FILTERS[interpolation], box=box))
    if flip:
        view = view[:, ::-1]
    return np.ascontiguousarray(view.transpose(2, 0, 1))


@dataclass(frozen=True)
class ViewGroup:
    """The V views of one group, of each of B images.

    Attributes:
        images: (V, B, 3, S, S); uint8 from the loader, the network's input after `Views.prepared`.
        rectangles: (V, B, 4) float32 left, top, width, height of each crop, in pixels of the original images.
        flips: (V, B) bool, mirrored left to right.
        colours: (V, B, 7) float32, see `luss.data.colours`; always on the CPU.
        masks: (V, B, h, w) bool, True = a hidden patch; None where the group has none.
    """

    images: Tensor
    rectangles: Tensor
    flips: Tensor
    colours: Tensor
    masks: Tensor | None = None

    def flat(self) -> Tensor:
        """(V * B, 3, S, S), views one after another; no copy."""
        return self.images.flatten(0, 1)

    @property
    def count(self) -> int:
        """V."""
        return len(self.images)


@dataclass(frozen=True)
class Views:
    """Views of the same B images.

    Attributes:
        groups: In the order in which the method asked for them.
        indices: (B,) int64 manifest indices of the images.
        sizes: (B, 2) int64 width and height of the original images.
        unreadable: Path and reason of images that could not be read and were replaced by their successor.
    """

    groups: tuple[ViewGroup, ...]
    indices: Tensor
    sizes: Tensor
    unreadable: list[tuple[str, str]]

    def _mapped(self, change: Callable[[Tensor], Tensor], *, but: str = "") -> "Views":
        def mapped(group: ViewGroup) -> ViewGroup:
            parts = {name: part for name, part in vars(group).items() if part is not None and name != but}
            return replace(group, **{name: change(part) for name, part in parts.items()})

        return replace(self, groups=tuple(map(mapped, self.groups)))

    def pin_memory(self) -> "Views":
        """Moves the tensors to page-locked memory (called by the loader)."""
        return self._mapped(torch.Tensor.pin_memory)

    def prepared(self, device: torch.device, normalise: Callable[[Tensor], Tensor]) -> "Views":
        """On a device, in their colours, as a network wants them: `normalise` takes (N, 3, S, S) float32 in [0, 1]."""
        moved, groups = self._mapped(lambda tensor: tensor.to(device, non_blocking=True), but="colours"), []
        for group in moved.groups:
            coloured = apply_colours(group.flat(), group.colours.flatten(0, 1))
            groups.append(replace(group, images=normalise(coloured).view(group.images.shape)))
        return replace(moved, groups=tuple(groups))


class ViewDataset(Dataset[dict[str, Any]]):
    """Samples are addressed by (epoch, index) and hold every view of one image."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        groups: Sequence[ViewSettings],
        *,
        seed: int,
        max_pixels: int,
        patch: int = 16,
    ) -> None:
        """Makes the view groups that a method asked for of the images of one or more manifests; indices run through one after another.

        Images of more than `max_pixels` are unreadable; `patch` is the side of the patches that masks hide, pixels.
        """
        self.images = ImageSource(manifests, max_pixels=max_pixels)
        self.groups = list(groups)
        self.seed, self.patch = seed, patch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        generator = sample_generator(self.seed, epoch, index)
        index, image, original, unreadable = self.images.readable(index)
        return {**self._sample(generator, image, original), "index": index, "unreadable": unreadable}

    def _sample(self, generator: np.random.Generator, image: Image.Image, original: tuple[int, int]) -> dict[str, Any]:
        groups = [self._views(generator, image, original, group) for group in self.groups]
        # Masks are drawn last: a learner's views are the same with and without them.
        masks = [self._masks(generator, group) for group in self.groups]
        return {"groups": groups, "masks": masks, "size": original}

    def noise(self, num_images: int) -> Views:
        """A batch as the loader gives it, of noise: for trying a step before there are images."""
        generator = np.random.default_rng(self.seed)
        image = Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        samples = [self._sample(generator, image, image.size) for _ in range(num_images)]
        return self.collate([{**sample, "index": index, "unreadable": []} for index, sample in enumerate(samples)])

    def _masks(self, generator: np.random.Generator, group: ViewSettings) -> NDArray[np.bool_] | None:
        grid = (group.size // self.patch, group.size // self.patch)
        return draw_masks(generator, grid, group.mask, count=group.count) if group.mask else None

    def _views(
        self, generator: np.random.Generator, image: Image.Image, original: tuple[int, int], group: ViewSettings
    ) -> list[NDArray[Any]]:
        """Images (V, 3, S, S), rectangles (V, 4), flips (V,) and colours (V, 7) of one group."""
        views, rectangles, flips, colours = [], [], [], []
        for _ in range(group.count):
            rectangle = draw_rectangle(generator, *original, group.scale)
            flip = bool(generator.random() < group.flip)
            size = (group.size, group.size)
            views.append(cut(image, original, rectangle, size=size, flip=flip, interpolation=group.interpolation))
            rectangles.append(rectangle)
            flips.append(flip)
            colours.append(draw_colours(generator, group.colours))
        return [np.stack(views), np.array(rectangles, dtype=np.float32), np.array(flips), np.stack(colours)]

    def collate(self, samples: list[dict[str, Any]]) -> Views:
        """Stacks samples."""

        def stacked(arrays: Sequence[NDArray[Any]]) -> Tensor:
            return torch.from_numpy(np.stack(arrays, axis=1))

        groups = []
        for place in range(len(self.groups)):
            parts = zip(*(sample["groups"][place] for sample in samples), strict=True)
            images, rectangles, flips, colours = map(stacked, parts)
            masks = [sample["masks"][place] for sample in samples]
            hidden = None if masks[0] is None else stacked(masks)
            groups.append(ViewGroup(images, rectangles, flips, colours, hidden))
        return Views(
            groups=tuple(groups),
            indices=torch.tensor([sample["index"] for sample in samples]),
            sizes=torch.tensor([sample["size"] for sample in samples]),
            unreadable=[entry for sample in samples for entry in sample["unreadable"]],
        )


Notes = list[tuple[str, str]]
"""Path and note of images that were read although something is wrong with them; none for most."""


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

    def read(self, index: int) -> tuple[Image.Image, tuple[int, int], Notes]:
        """The decoded image, its original (width, height), and what is wrong with it although it was read.

        Raises:
            UnreadableImage: It cannot be decoded, or has another size than when it was listed.
        """
        manifest, row = self.locate(index)
        listed = manifest.listed(row)
        image, notes = read_listed(manifest.path(row), listed, min_side=self.min_side, max_pixels=self.max_pixels)
        return image, listed.size, notes

    def readable(self, index: int) -> tuple[int, Image.Image, tuple[int, int], list[tuple[str, str]]]:
        """The first image from `index` on that can be read; see `first_readable`."""
        return first_readable(index, len(self), self.read)


def read_listed(
    path: Path, listed: Listed, *, min_side: int | None = None, max_pixels: int
) -> tuple[Image.Image, Notes]:
    """`read_noted` with the note as lists of skipped files hold it."""
    image, note = read_noted(path, min_side=min_side, max_pixels=max_pixels, listed=listed)
    return image, [(str(path), f"{READ_WITH_NOTE}{note}")] if note else []


def first_readable(
    index: int, num_images: int, read: Callable[[int], tuple[Image.Image, tuple[int, int], Notes]]
) -> tuple[int, Image.Image, tuple[int, int], list[tuple[str, str]]]:
    """Replaces an image that cannot be read by the next one that can, so that a batch keeps its size.

    Args:
        index: Where to begin, 0 to num_images - 1; after the last comes the first.
        num_images: How many there are.
        read: Gives the image, its original (width, height) and notes on it, or raises `UnreadableImage`.

    Returns:
        The index found, the image, its original size, and path and reason of the images that could not be read, or that were read with a
        note (`luss.data.skipped.READ_WITH_NOTE`).

    Raises:
        LussError: Many images in a row cannot be read, as when a disk was unmounted.
    """
    unreadable: list[tuple[str, str]] = []
    for step in range(min(_MAX_SUBSTITUTES, num_images)):
        candidate = (index + step) % num_images
        try:
            image, original, notes = read(candidate)
        except UnreadableImage as error:
            unreadable.append((str(error.path), error.reason))
            continue
        return candidate, image, original, unreadable + notes
    raise LussError(
        f"{len(unreadable)} images in a row cannot be read, the first is {unreadable[0][0]} ({unreadable[0][1]}): "
        "is the folder still mounted?"
    )
