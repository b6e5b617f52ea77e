"""Contact sheets: many small pictures in labelled rows of one image, for a first look at what a run has found."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from luss.labels.palette import overlay
from luss.labels.sampling import resize_nearest

Loader = Callable[[int], tuple[Image.Image, npt.NDArray[np.integer]]]

_PAPER, _INK, _EMPTY = (255, 255, 255), (40, 40, 40), (238, 238, 238)
_GAP = 4
_TITLE_HEIGHT = 18
_FONT_SIZE = 12


def contact_sheet(
    rows: Iterable[tuple[str, Iterable[Image.Image]]], *, tile: int = 96, columns: int | None = None
) -> Image.Image:
    """Lays out rows of images under their titles.

    Images are taken one at a time and shrunk at once, so rows may be generators over any number of large files.

    Args:
        rows: Title and images of every row. Images keep their aspect and are centred in their tile.
        tile: Side of a tile in pixels.
        columns: Tiles a row, further images are left out; None is as many as the longest row has.

    Returns:
        An RGB image; without rows, a small blank one.
    """
    strips = [(title, [_fitted(image, tile) for image in islice(images, columns)]) for title, images in rows]
    columns = columns or max((len(tiles) for _, tiles in strips), default=1) or 1
    width, row_height = columns * (tile + _GAP) + _GAP, _TITLE_HEIGHT + tile + _GAP
    sheet = Image.new("RGB", (width, max(1, len(strips)) * row_height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for row, (title, tiles) in enumerate(strips):
        top = row * row_height + _GAP
        draw.text((_GAP, top), _shortened(title, draw, font, width - 2 * _GAP), fill=_INK, font=font)
        for column, picture in enumerate(tiles):
            left = _GAP + column * (tile + _GAP)
            sheet.paste(picture, (left, top + _TITLE_HEIGHT))
    return sheet


def cluster_sheet(
    clusters: npt.ArrayLike,
    load: Loader,
    *,
    num_samples: int = 8,
    max_clusters: int = 40,
    tile: int = 96,
    alpha: float = 0.5,
) -> Image.Image:
    """A row of sample images with their masks for every discovered cluster, the largest cluster first.

    Args:
        clusters: (N,) cluster id of every image, 0 for none: assignments, or `LabelStore.dominant_clusters()`.
        load: Given an image's number, returns the image and its (H, W) label map; called for the shown images only.
        num_samples: Images a row, drawn at random without repetition, the same in every call.
        max_clusters: Most rows.
        tile: Side of a tile in pixels.
        alpha: Share of the mask's colour, 0..1.

    Returns:
        An RGB image.
    """
    ids = np.asarray(clusters)
    sizes = np.bincount(ids, minlength=1)
    sizes[0] = 0
    largest = [int(cluster) for cluster in np.argsort(-sizes, kind="stable")[:max_clusters] if sizes[cluster]]
    titles = [f"cluster {cluster}: {sizes[cluster]} image{'s' if sizes[cluster] != 1 else ''}" for cluster in largest]
    samples = (_samples(ids, cluster, load, num_samples, tile, alpha) for cluster in largest)
    rows = zip(titles, samples, strict=True)
    return contact_sheet(rows, tile=tile, columns=num_samples)


def _samples(
    ids: npt.NDArray[np.integer], cluster: int, load: Loader, num: int, tile: int, alpha: float
) -> Iterator[Image.Image]:
    members = np.flatnonzero(ids == cluster)
    # Seeded by the cluster, so that a row does not depend on the rows above it.
    generator = np.random.default_rng((0, cluster))
    for index in np.sort(generator.choice(members, min(num, len(members)), replace=False)):
        image, label_map = load(int(index))
        small = _shrunk(image, tile)
        yield overlay(small, resize_nearest(label_map, (small.height, small.width)), alpha, outline=True)


def _shrunk(image: Image.Image, tile: int) -> Image.Image:
    """The image scaled to fit a tile; small images are enlarged."""
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _fitted(image: Image.Image, tile: int) -> Image.Image:
    small = _shrunk(image, tile)
    square = Image.new("RGB", (tile, tile), _EMPTY)
    square.paste(small, ((tile - small.width) // 2, (tile - small.height) // 2))
    return square


def _shortened(
    title: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """The title on one line of `width` pixels, in ASCII: Pillow's own font has little more, names may hold anything."""
    title = " ".join(title.encode("ascii", "replace").decode().split())
    if draw.textlength(title, font) <= width:
        return title
    while title and draw.textlength(title + "...", font) > width:
        title = title[:-1]
    return title + "..."
