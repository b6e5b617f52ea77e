"""Colours for clusters: distinct for thousands of ids, the same in every run and every picture."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from luss.errors import LussError

Colours = npt.NDArray[np.uint8]


def palette(num: int) -> Colours:
    """One colour for every id below `num`.

    Ids take successive points of the additive recurrence R3 (Roberts 2018, "The unreasonable effectiveness of
    quasirandom sequences") in hue, saturation and brightness: neighbours in number are far apart in colour, and a
    longer palette begins with the shorter one. Distinct for at least 4096 ids.

    Example:
        >>> import luss
        >>> luss.palette(3).tolist()
        [[0, 0, 0], [189, 37, 203], [55, 71, 152]]

    Args:
        num: Number of ids including 0, >= 1.

    Returns:
        (num, 3) uint8 RGB; id 0, the background, is black and no other id is.
    """
    root = 1.2207440846057596  # x**4 = x + 1
    points = np.arange(num)[:, None] * (1 / root ** np.arange(1, 4)) % 1
    hue, saturation, brightness = points[:, 0], 0.45 + 0.55 * points[:, 1], 0.55 + 0.45 * points[:, 2]
    sector = (np.array([5, 3, 1]) + hue[:, None] * 6) % 6  # the usual HSV to RGB formula, for R, G and B at once
    fall = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    colours: Colours = np.rint(255 * brightness[:, None] * (1 - saturation[:, None] * fall)).astype(np.uint8)
    colours[0] = 0
    return colours


def colourise(label_map: npt.ArrayLike, *, ignore: int | None = None) -> Colours:
    """Paints a label map.

    Args:
        label_map: (H, W) integer ids >= 0.
        ignore: An id to be painted white (1000 in ImageNet-S ground truth), if any.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    ids = np.asarray(label_map)
    colours = palette(int(ids.max(initial=0)) + 1)
    if ignore is not None and ignore < len(colours):
        colours[ignore] = 255
    painted: Colours = colours[ids]
    return painted


def overlay(
    image: Image.Image,
    label_map: npt.ArrayLike,
    alpha: float = 0.5,
    *,
    outline: bool = False,
    ignore: int | None = None,
) -> Image.Image:
    """Lays the colours of a label map over its image; the background stays as it is.

    Example:
        >>> import luss
        >>> image = Image.open("photos/a.jpg")
        >>> label_map = luss.Segmenter.load("outputs/demo")(image).label_maps[0]
        >>> luss.overlay(image, label_map, outline=True).size == image.size
        True

    Args:
        image: The image, any mode.
        label_map: (H, W) integer ids of the image's size.
        alpha: Share of the colour, 0..1.
        outline: Whether the first and last pixels of every region take the colour undiluted, so that masks stand out on
            images of any colour.
        ignore: An id to be painted white, if any.

    Returns:
        An RGB image of the same size.

    Raises:
        LussError: The sizes differ.
    """
    ids = np.asarray(label_map)
    if ids.shape != (image.height, image.width):
        raise LussError(
            f"a label map of {ids.shape[1]} x {ids.shape[0]} does not fit an image of {image.width} x {image.height}: "
            "read the map at the image's size"
        )
    pixels = np.array(image.convert("RGB"))
    painted = ids > 0
    share = np.full((np.count_nonzero(painted), 1), alpha)
    if outline:
        share[_borders(ids)[painted]] = 1
    mixed = (1 - share) * pixels[painted] + share * colourise(ids[painted][None], ignore=ignore)[0]
    pixels[painted] = np.rint(mixed).astype(np.uint8)
    return Image.fromarray(pixels)


def _borders(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Pixels with another id directly beside, above or below them."""
    found = np.zeros(ids.shape, bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return found
