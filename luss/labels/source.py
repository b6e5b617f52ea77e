"""What fine-tuning learns from: pseudo labels or masks, behind one interface."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from luss.data.imagenet_s import IGNORE, Layout, mask_path, read_mask
from luss.data.manifest import Manifest
from luss.data.views import Rectangle
from luss.errors import LussError
from luss.labels.sampling import centres, nearest, resize_nearest


class LabelSource(Protocol):
    """Labelled images under one numbering; `luss.labels.store.LabelStore` is one too. Picklable for loader workers."""

    def __len__(self) -> int:
        """Number of labelled images."""

    def name(self, index: int) -> str:
        """The image's path below the image root, with forward slashes."""

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the original image in pixels."""

    def crop(self, index: int, rectangle: Rectangle, *, size: int, flip: bool = False) -> npt.NDArray[np.uint16]:
        """(size, size) ids of a crop view, sampled at the centres of its pixels; `rectangle` is left, top, width, height in pixels."""


class MaskLabels(LabelSource):
    """The mask files of a split, read one at a time when they are asked for."""

    def __init__(self, manifest: Manifest, layout: Layout, split: str, *, num_classes: int) -> None:
        """Opens nothing yet.

        Args:
            manifest: The split's images.
            layout: The data set.
            split: Which has masks.
            num_classes: C; a mask may hold 0..C and 1000 (ignored).
        """
        self.manifest, self.layout, self.split, self.num_classes = manifest, layout, split, num_classes

    def __len__(self) -> int:
        return len(self.manifest)

    def name(self, index: int) -> str:
        return self.manifest.name(index)

    def image_size(self, index: int) -> tuple[int, int]:
        width, height = self.manifest.size(index)
        return height, width

    def mask(self, index: int) -> npt.NDArray[np.uint16]:
        """The whole mask of an image: (H, W) ids in 0..C, and 1000.

        Raises:
            LussError: The mask is missing or damaged, of another size than the image, or holds other ids.
        """
        path = mask_path(self.layout, self.split, self.name(index))
        ids = read_mask(path)
        height, width = self.image_size(index)
        if ids.shape != (height, width):
            raise LussError(
                f"the mask {path} is {ids.shape[1]} x {ids.shape[0]}, but its image is {width} x {height}: give the mask of this image"
            )
        strange = ids[(ids > self.num_classes) & (ids != IGNORE)]
        if strange.size:
            raise LussError(
                f"the mask {path} holds the id {int(strange[0])}, but there are {self.num_classes} categories: ids are "
                f"0..{self.num_classes}, and {IGNORE} where nothing counts"
            )
        return ids

    def crop(self, index: int, rectangle: Rectangle, *, size: int, flip: bool = False) -> npt.NDArray[np.uint16]:
        """See `LabelSource.crop`; errors as `mask`."""
        ids = self.mask(index)
        left, top, width, height = rectangle
        rows = centres(top, height, num=size, image_extent=ids.shape[0], grid_extent=ids.shape[0])
        columns = centres(left, width, num=size, image_extent=ids.shape[1], grid_extent=ids.shape[1])
        return nearest(ids, rows, columns[::-1] if flip else columns)

    def grid(self, index: int, size: tuple[int, int]) -> npt.NDArray[np.uint16]:
        """The whole mask at (height, width) grid positions, by nearest neighbour at their centres; errors as `mask`."""
        return resize_nearest(self.mask(index), size)
