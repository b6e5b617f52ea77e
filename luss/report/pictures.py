"""The pictures of a report: a small JPEG and the stored label map of an image, packed so that a page opened from a disk may read them.

Pages opened as files may not read the pixels of other files, so pictures travel as text inside a script: the JPEG as base64, cluster ids as
runs, attention as base64 bytes. The page then makes the mask at any threshold as `luss.labels.sampling` does.
"""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luss.data.images import UnreadableImage, read_image
from luss.data.manifest import Manifest
from luss.data.skipped import escape_path
from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.report.clusters import Pick

SIDE = 160
JPEG_QUALITY = 78
# A stored map has about 1400 positions; more than this would make the page heavy without showing more.
MAX_POSITIONS = 1 << 13


@dataclass(frozen=True)
class PictureReader:
    """Reads what a report shows of an image: its file if it has at most `max_pixels` pixels, its label map where there are maps."""

    manifest: Manifest
    store: LabelStore | None
    max_pixels: int

    def picture(self, pick: Pick) -> dict[str, Any]:
        """One picture as JSON values.

        Returns:
            name, place, cosine; jpeg (base64), width and height in pixels, or problem (why it could not be read); map, see `packed_map`,
            where the image has one.
        """
        name = self.manifest.name(pick.index)
        found: dict[str, Any] = {"name": escape_path(name), "place": pick.place, "cosine": round(pick.cosine, 4)}
        try:
            image = read_image(self.manifest.path(pick.index), min_side=SIDE, max_pixels=self.max_pixels)
            small = thumbnail(image)
        except UnreadableImage as error:
            return found | {"problem": error.reason}
        found |= {"width": small.width, "height": small.height, "jpeg": _base64(_jpeg(small))}
        place = self._place(pick.index, name)
        if self.store is not None and place is not None:
            found["map"] = packed_map(*self.store.raw(place))
        return found

    def _place(self, index: int, name: str) -> int | None:
        """Where the store has the image: at its own index unless earlier ones could not be read; None when it is not there."""
        if self.store is None:
            return None
        if index < len(self.store) and self.store.name(index) == name:
            return index
        try:
            return self.store.index_of(name)
        except LussError:
            return None


def thumbnail(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The image with its longer side at `side` pixels at most; small images stay as they are."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def packed_map(labels: NDArray[np.uint16], attention: NDArray[np.uint8]) -> dict[str, Any]:
    """A stored label map as JSON values.

    Args:
        labels: (h, w) cluster ids.
        attention: (h, w) in 0..255.

    Returns:
        rows, columns; ids as [id, length, id, length, ...] along the rows; attention as base64, a byte a position. Larger maps than
        `MAX_POSITIONS` keep every second, third, ... row and column.
    """
    step = math.ceil(math.sqrt(labels.size / MAX_POSITIONS))
    kept = tuple(slice(min(step // 2, extent - 1), None, step) for extent in labels.shape)
    labels, attention = labels[kept], attention[kept]
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return {
        "rows": labels.shape[0],
        "columns": labels.shape[1],
        "ids": np.stack([flat[starts].astype(np.int64), lengths], axis=1).ravel().tolist(),
        "attention": _base64(np.ascontiguousarray(attention).tobytes()),
    }


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return stream.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
