"""Reading any picture a photo folder holds as an upright 8-bit RGB image, or saying in a few words why not.

The format is taken from the first bytes, not from the name. Pillow's `Image.open` is passed by on purpose: it warns
about, then refuses, large images by a process-wide setting, and it would try formats that no photo folder needs (EPS
runs Ghostscript). Opening the format's class directly leaves the limit to the caller and touches no global setting.
"""

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

# Importing a plug-in registers its format.
from PIL import BmpImagePlugin as _bmp  # noqa: F401
from PIL import ExifTags, Image, ImageFile
from PIL import GifImagePlugin as _gif  # noqa: F401
from PIL import JpegImagePlugin as _jpeg  # noqa: F401
from PIL import PngImagePlugin as _png  # noqa: F401
from PIL import TiffImagePlugin as _tiff  # noqa: F401
from PIL import WebPImagePlugin as _webp  # noqa: F401

from luss.errors import LussError
from luss.refusals import refuse_exhausted

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""Lower-case suffixes of files taken for images; compare with `path.suffix.lower()`."""

MAX_PIXELS = 500_000_000
"""Default limit on width x height: a decoded image of this size takes 2 GB."""

# GIF because files named .jpg on the web often are GIFs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that makes the image upright."""


class UnreadableImage(LussError):
    """An image file that cannot be read.

    Attributes:
        path: The file.
        reason: Why, in a few words on one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read as an image ({reason}): repair or remove it")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["UnreadableImage"], tuple[Path, str]]:
        """Lets the error travel between processes: the default would call the class with the message alone."""
        return UnreadableImage, (self.path, self.reason)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image that `luss` reads; hidden ones are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def read_image(path: Path, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a file as an upright RGB image; the first frame where there are several.

    EXIF orientation is applied (for PNG only when it stands before the pixels, so that `read_size` need not decode).
    Transparency is composited on white: what pictures with transparency are drawn for and what a browser shows, while
    the colours stored under transparent pixels are arbitrary. 16-bit grey is scaled (65535 becomes 255); 32-bit
    integers and floats, which have no agreed white, are stretched from their own minimum to their own maximum.

    Args:
        path: The file.
        min_side: When given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as the short side stays at
            least this many pixels; faster, and the size is then the decoder's (rounded up).
        max_pixels: Limit on width x height of the stored image.

    Returns:
        The image, mode RGB, without metadata.

    Raises:
        UnreadableImage: For every reason: absent, empty, not an image, truncated, corrupt, too large, not permitted.
            Nothing else is raised and no warning is given, but a LussError where this process may not open any more files.
    """
    with _opened(path, max_pixels) as image:
        orientation = _orientation(image)
        if min_side is not None:
            image.draft(None, (max(1, min_side), max(1, min_side)))
        image.load()
        rgb = to_rgb(image)
        upright = rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
        upright.info = {}
        return upright


def read_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Reads the size that `read_image` would give, (width, height) in pixels with the EXIF orientation applied, from the header alone.

    Raises:
        UnreadableImage: As for `read_image`, as far as the header tells.
    """
    with _opened(path, max_pixels) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Opens the header of an image; whatever fails in the body of the `with`, too, becomes UnreadableImage."""
    try:
        # A pipe named .jpg would block the open for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableImage(path, "not a file")
        with _pillow_warnings.muted(), open(path, "rb") as file:
            image = _identify(path, file)
            _check_pixels(path, image, max_pixels)
            yield image
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything: struct.error, SyntaxError, KeyError
        refuse_exhausted(error, path)
        raise UnreadableImage(path, _reason(error)) from error


def _identify(path: Path, file: IO[bytes]) -> ImageFile.ImageFile:
    prefix = file.read(16)
    if not prefix:
        raise UnreadableImage(path, "empty file")
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(prefix)
        if isinstance(accepted, str):  # Pillow was built without this format's library, and says so
            raise UnreadableImage(path, accepted)
        if accepted:
            file.seek(0)
            return factory(file, str(path))
    raise UnreadableImage(path, "not an image")


def _check_pixels(path: Path, image: ImageFile.ImageFile, max_pixels: int) -> None:
    if image.format == "TIFF" and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow refuses larger TIFFs when it decodes them; the header must give the same answer.
        max_pixels = min(max_pixels, 2 * Image.MAX_IMAGE_PIXELS)
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage(path, f"{width} x {height} pixels, above the limit of {max_pixels:,} pixels")


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 (upright) to 8."""
    if image.format == "TIFF":  # Pillow turns TIFFs itself
        return 1
    try:
        # The base class's method: PNG's own decodes all pixels in search of metadata behind them.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return int(orientation) if orientation in range(1, 9) else 1
    except Exception:  # damaged metadata does not make the pixels unreadable
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB, as `read_image` says; a new image, never the opened file itself (which keeps metadata)."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretched(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _stretched(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) numbers of any range to 0..255; not-a-number becomes the minimum, a constant image becomes 0."""
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    clean = np.nan_to_num(numbers, nan=low, posinf=high, neginf=low)
    return np.rint((clean - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)


def _reason(error: Exception) -> str:
    """An error of Pillow or the system in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())[:120]
    return words or type(error).__name__


class _PillowWarnings:
    """Mutes Pillow's warnings about odd metadata and sizes while at least one thread reads an image.

    `warnings.catch_warnings` alone is not enough: two threads that leave it in the order they entered put the filters
    back wrongly. Here the first thread in saves the filters and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._saved = warnings.catch_warnings()

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        with self._lock:
            if self._num_inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                # Pillow blames its caller (this module) for some of them.
                warnings.filterwarnings("ignore", module=r"PIL\.|luss\.data\.images")
            self._num_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                if self._num_inside == 0:
                    self._saved.__exit__(None, None, None)


_pillow_warnings = _PillowWarnings()
