"""Label maps as PNG files: the ids of ImageNet-S, or palette pictures that other programs show in colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luss.data.imagenet_s import write_mask
from luss.errors import LussError
from luss.export.job import FileWriter
from luss.export.labelled import LabelledImages
from luss.files import replacing
from luss.labels.palette import palette

__all__ = ["LARGEST_PALETTE_ID", "check_palette_ids", "mask_export", "write_mask", "write_palette_mask"]

LARGEST_PALETTE_ID = 255
"""A palette PNG stores one byte a pixel."""


def check_palette_ids(ids: Sequence[int]) -> None:
    """Raises LussError, which names the format png, when an id does not fit into a palette picture.

    Args:
        ids: Cluster ids that label maps may hold.
    """
    if max(ids, default=0) > LARGEST_PALETTE_ID:
        raise LussError(
            f"palette pictures hold ids up to {LARGEST_PALETTE_ID}, but there is a cluster {max(ids)}: "
            "use the format png, which holds ids up to 65535"
        )


def write_palette_mask(path: Path, ids: NDArray[np.integer[Any]]) -> None:
    """Writes a label map as a palette PNG, atomically; its folder is made when absent.

    Pixel values are the ids and the colours those of `luss.labels.palette`, the same for every file.

    Args:
        path: The file, by custom `*.png`.
        ids: (H, W) whole numbers in 0..255.

    Raises:
        LussError: An id above 255; the disk is full.
    """
    check_palette_ids([int(ids.max(initial=0))])
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(palette(LARGEST_PALETTE_ID + 1).tobytes())
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def mask_export(folder: Path, images: LabelledImages, *, coloured: bool) -> FileWriter:
    """The formats `png` and `palette` of `luss export`: `masks/<name>.png`.

    Args:
        folder: Of the export.
        images: What is exported.
        coloured: Palette pictures instead of the ids of ImageNet-S.

    Raises:
        LussError: Palette pictures cannot hold all ids.
    """
    if coloured:
        check_palette_ids(list(images.categories))
    write = write_palette_mask if coloured else write_mask
    names: dict[int, str] = {}

    def remember(index: int) -> None:
        names[index] = images.mask_name(index)

    return FileWriter(lambda index, ids: write(folder / "masks" / names.pop(index), ids), check=remember)
