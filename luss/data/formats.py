"""Formats of pictures: by which endings they are found, by which first bytes they are known, and what to say of those that are not read.

Importing a plug-in of Pillow registers its format; `Image.open` is passed by (`luss.data.images` says why).
"""

import contextlib
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import IO

from PIL import BmpImagePlugin as _bmp  # noqa: F401
from PIL import GifImagePlugin as _gif  # noqa: F401
from PIL import Image, ImageFile, features
from PIL import Jpeg2KImagePlugin as _jpeg2000  # noqa: F401
from PIL import JpegImagePlugin as _jpeg  # noqa: F401
from PIL import PngImagePlugin as _png  # noqa: F401
from PIL import PpmImagePlugin as _ppm  # noqa: F401
from PIL import TiffImagePlugin as _tiff  # noqa: F401
from PIL import WebPImagePlugin as _webp  # noqa: F401

with contextlib.suppress(ImportError):  # Pillow before 11.3
    from PIL import AvifImagePlugin as _avif  # noqa: F401

_HEIF = importlib.util.find_spec("pillow_heif") is not None
_AVIF = "avif" in features.modules and features.check_module("avif")
_JPEG2000 = features.check_codec("jpg_2000")

_HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
_JPEG2000_SUFFIXES = {".jp2", ".j2k", ".jpf", ".jpx"}
# Most of them are TIFFs whose first picture is a thumbnail.
_RAW_SUFFIXES = {
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf",
    ".pef", ".raf", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
_OTHER_SUFFIXES = {".avif", ".jxl", ".jxr", ".wdp", ".psd", ".tga", ".pcx", ".exr", ".dds", ".xcf", ".svg", ".dcm"}

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"}
    | ({".avif"} if _AVIF else set())
    | (_HEIF_SUFFIXES if _HEIF else set())
    | (_JPEG2000_SUFFIXES if _JPEG2000 else set())
)  # fmt: skip
"""Lower-case suffixes of files taken for images; compare with `path.suffix.lower()`."""

PICTURE_SUFFIXES = IMAGE_SUFFIXES | _HEIF_SUFFIXES | _JPEG2000_SUFFIXES | _RAW_SUFFIXES | _OTHER_SUFFIXES
"""`IMAGE_SUFFIXES` and those of other pictures, which are not read here and are listed rather than passed by."""

# Whatever the name says: files named .jpg on the web often are GIFs, those of telephones HEIF. AVIF takes only some of the files whose
# beginning is that of HEIF too.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM")
# Beginnings of files that are not read, by their place, and what to say.
_UNREAD = (
    (4, b"ftypavi", "AVIF, which this Pillow cannot read: install a newer one"),
    (4, b"ftyp", "HEIF, which needs a plug-in: pip install 'luss[heif]'"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000, which this Pillow cannot read"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000, which this Pillow cannot read"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL, which luss does not read: convert it"),
    (0, b"\xff\x0a", "JPEG XL, which luss does not read: convert it"),
    (0, b"8BPS", "a Photoshop file, which luss does not read: convert it"),
)


class UnreadFormat(Exception):
    """A file of no format that is read; the message says of which, where that is known."""


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image that `luss` reads; hidden ones are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture, also of one that is not read here; hidden ones are not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def open_format(path: Path, file: IO[bytes]) -> ImageFile.ImageFile:
    """Opens an image by its first bytes; `path` is its name.

    Raises:
        UnreadFormat: It is of no format that is read.
        Exception: Whatever the plug-in raises for a damaged header.
    """
    prefix = file.read(16)
    if not prefix:
        raise UnreadFormat("empty file")
    if path.suffix.lower() in _RAW_SUFFIXES and not prefix.startswith(b"\xff\xd8\xff"):
        raise UnreadFormat("a raw file of a camera, which luss does not read: develop it to JPEG")
    if prefix[4:8] == b"ftyp":
        _register_heif()
    for name in _FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(prefix)
        # A text where Pillow was built without the format's library.
        if not accepted or isinstance(accepted, str):
            continue
        file.seek(0)
        try:
            return factory(file, str(path))
        except SyntaxError:
            if name != "AVIF" or prefix[8:11] == b"avi":
                raise
    for place, magic, reason in _UNREAD:
        if prefix[place : place + len(magic)] == magic:
            raise UnreadFormat(reason)
    is_other = path.suffix.lower() in PICTURE_SUFFIXES - IMAGE_SUFFIXES
    raise UnreadFormat("a picture of a format that luss does not read: convert it" if is_other else "not an image")


@cache
def _register_heif() -> None:
    """Only when a file asks for it: the plug-in takes long to import."""
    if _HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
