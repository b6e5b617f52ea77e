"""The layout of an ImageNet-S data set on disk, and its masks.

A root holds image folders `train`, `train-semi`, `validation`, `test` and mask folders `<split>-segmentation`. Images
lie in one folder a category; the mask of `train-semi/dog/x.JPEG` is `train-semi-segmentation/dog/x.png`, an RGB PNG
whose pixel says id = R + 256 * G.
Source: Gao et al., "Large-scale Unsupervised Semantic Segmentation" (ImageNet-S), https://github.com/LUSSeg/ImageNet-S.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from luss.data.names import mask_name
from luss.errors import LussError
from luss.files import replacing

BACKGROUND = 0
"""Mask id of "other": a pixel of no category."""

IGNORE = 1000
"""Mask id of a pixel that no metric counts."""

SPLITS = ("train", "train-semi", "validation", "test")
"""Image folders that make a root an ImageNet-S root."""

MASK_FOLDER_SUFFIX = "-segmentation"


@dataclass(frozen=True)
class Layout:
    """Where the images and the masks of a data set lie.

    Attributes:
        root: The folder the layout was found in.
        images: Split name to its folder of images, in a fixed order. A plain folder has one split, "train":
            the root itself.
        masks: Split name to its folder of masks, for the splits that have one.
    """

    root: Path
    images: dict[str, Path]
    masks: dict[str, Path]

    def image_folder(self, split: str) -> Path:
        """The folder of a split's images.

        Raises:
            LussError: The data set has no such split.
        """
        try:
            return self.images[split]
        except KeyError:
            raise LussError(
                f"{self.root} has no split {split!r}: it has {', '.join(self.images)}. "
                f"Make the folder {self.root / split}, or choose one of these"
            ) from None

    def has_masks(self, split: str) -> bool:
        """Whether the split has a folder of masks."""
        return split in self.masks


def find_layout(root: Path) -> Layout:
    """Finds the splits of a data set in its folder.

    A root with at least one of the folders `SPLITS` is an ImageNet-S root. There, folders that extend a split's name
    (`train-full`, `train-extra`) are splits too. Any other root is a plain folder of images: one split, "train",
    without masks.

    Raises:
        LussError: The root is not a folder.
    """
    if not root.is_dir():
        raise LussError(f"{root} is not a folder: set data.root to the folder that holds the images")
    if not (present := [split for split in SPLITS if (root / split).is_dir()]):
        return Layout(root, {"train": root}, {})
    extended = sorted(
        folder.name
        for folder in root.iterdir()
        if folder.name.startswith(tuple(f"{split}-" for split in SPLITS))
        and folder.name not in SPLITS
        and not folder.name.endswith(MASK_FOLDER_SUFFIX)
        and folder.is_dir()
    )
    images = {split: root / split for split in [*present, *extended]}
    masks = {split: root / f"{split}{MASK_FOLDER_SUFFIX}" for split in images}
    return Layout(root, images, {split: folder for split, folder in masks.items() if folder.is_dir()})


def category_ids(folder: Path) -> dict[str, int]:
    """Numbers the categories of a split.

    Args:
        folder: An image folder with one sub-folder a category: the train split's, so that every split shares its ids.

    Returns:
        Category name to id in 1..C, by sorted name; empty for a flat folder. Hidden folders do not count. With 1000 or
        more categories the ids serve image-level scores only: in a mask, `IGNORE` has another meaning.

    Raises:
        LussError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise LussError(f"{folder} is not a folder: category names are read from the folders of images inside it")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    return {name: category for category, name in enumerate(names, start=1)}


def mask_path(layout: Layout, split: str, name: str) -> Path:
    """The mask of an image, named by its path below the split's folder ("dog/x.JPEG"); the file need not exist.

    Raises:
        LussError: The split has no masks.
    """
    if split not in layout.masks:
        raise LussError(
            f"{layout.root} has no masks for split {split!r}: "
            f"there is no folder {layout.root / (split + MASK_FOLDER_SUFFIX)}"
        )
    return layout.masks[split] / mask_name(name)


def encode_mask(ids: NDArray[np.integer]) -> Image.Image:
    """Turns ids into the RGB image that ImageNet-S stores: R = id mod 256, G = id div 256, B = 0.

    Args:
        ids: (H, W) whole numbers in 0..65535; `BACKGROUND` and `IGNORE` included.

    Raises:
        LussError: Wrong shape, not whole numbers, or an id out of range.
    """
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise LussError(f"a mask is a non-empty (H, W) array of whole numbers, not {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() > 65535:
        raise LussError(f"mask ids must lie in 0..65535, not {ids.min()}..{ids.max()}")
    pixels = np.zeros((*ids.shape, 3), dtype=np.uint8)
    pixels[..., 0] = ids & 255
    pixels[..., 1] = ids >> 8
    return Image.fromarray(pixels)


def decode_mask(image: Image.Image, *, source: str = "the mask") -> NDArray[np.uint16]:
    """Reads the ids of an ImageNet-S mask.

    Args:
        image: An RGB image, id = R + 256 * G, B = 0.
        source: What to call the image in an error: its path.

    Returns:
        (H, W) ids.

    Raises:
        LussError: The mode is not RGB, or the blue channel is used (a colour picture rather than ids).
    """
    if image.mode != "RGB":
        raise LussError(
            f"{source} has mode {image.mode}, but an ImageNet-S mask is an RGB PNG with id = R + 256 * G: "
            "write the ids with luss.data.imagenet_s.write_mask"
        )
    pixels = np.asarray(image)
    if pixels[..., 2].any():
        raise LussError(
            f"{source} uses the blue channel, which an ImageNet-S mask leaves 0: it looks like a colour picture. Write "
            "the ids with luss.data.imagenet_s.write_mask"
        )
    ids: NDArray[np.uint16] = pixels[..., 0].astype(np.uint16) | (pixels[..., 1].astype(np.uint16) << np.uint16(8))
    return ids


def read_mask(path: Path) -> NDArray[np.uint16]:
    """Reads a mask file of any size.

    Returns:
        (H, W) ids, id = R + 256 * G.

    Raises:
        LussError: The file is absent, damaged, not a PNG, not RGB, or a colour picture.
    """
    try:
        # The class rather than Image.open: that warns about masks above 89 megapixels and refuses twice as large ones.
        with open(path, "rb") as file, PngImagePlugin.PngImageFile(file, str(path)) as image:
            image.load()
            return decode_mask(image, source=str(path))
    except LussError:
        raise
    except FileNotFoundError as error:
        raise LussError(f"the mask {path} does not exist") from error
    except Exception as error:  # Pillow lets many kinds through for a damaged file: SyntaxError, struct.error, ...
        raise LussError(f"the mask {path} cannot be read as PNG ({error}): write it again as RGB PNG") from error


def write_mask(path: Path, ids: NDArray[np.integer]) -> None:
    """Writes a mask, (H, W) whole numbers in 0..65535, as RGB PNG, atomically; its folder is made when absent.

    Raises:
        LussError: The ids do not fit a mask (see `encode_mask`), or the disk is full.
    """
    image = encode_mask(ids)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
