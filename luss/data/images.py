"""Reading any picture a photo folder holds as an upright 8-bit RGB image, or saying in a few words why not.

The format is taken from the first bytes, not from the name. Pillow's `Image.open` is passed by on purpose: it warns
about, then refuses, large images by a process-wide setting, and it would try formats that no photo folder needs (EPS
runs Ghostscript). Opening the format's class directly leaves the limit to the caller and touches no global setting.
"""

import contextlib
import io
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from luss.data.formats import UnreadFormat, open_format
from luss.data.rescue import rescued
from luss.errors import LussError
from luss.refusals import refuse_exhausted
from luss.settings.run import MAX_PIXELS

# Pixels whose numbers are widened at the same time.
_BLOCK_PIXELS = 1 << 20

T = TypeVar("T", covariant=True)

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


@dataclass(frozen=True)
class Listed:
    """What was known of a file when it was listed.

    Attributes:
        size: (width, height) of the upright image.
        num_bytes: Of the file; None where nobody wrote it down.
    """

    size: tuple[int, int]
    num_bytes: int | None


def read_image(path: Path, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a file as an upright RGB image; the first frame where there are several.

    EXIF orientation is applied (for PNG only when it stands before the pixels, so that `read_size` need not decode).
    Transparency is composited on white: what pictures with transparency are drawn for and what a browser shows, while
    the colours stored under transparent pixels are arbitrary. 16-bit grey is scaled (65535 becomes 255); 32-bit
    integers and floats, which have no agreed white, are stretched from their own minimum to their own maximum. Pixels
    that are all there are read whatever the metadata around them are like (`luss.data.rescue`).

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
    return read_noted(path, min_side=min_side, max_pixels=max_pixels)[0]


def read_noted(
    path: Path, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS, listed: Listed | None = None
) -> tuple[Image.Image, str]:
    """Reads a file as `read_image` does, and says what is wrong with it although it can be read.

    Args:
        path, min_side, max_pixels: See `read_image`.
        listed: What the file was like when it was listed. One that has other pixels now is unreadable; one of other bytes alone may
            have been mended, and is noted.

    Returns:
        The image, and the note; empty where all is well.

    Raises:
        UnreadableImage: As `read_image`; the number of pixels has changed.
    """

    def read(image: ImageFile.ImageFile, reduce: bool) -> Image.Image:
        orientation = _orientation(image)
        if listed is not None:
            _check_unchanged(path, _upright_size(image), listed)
        if min_side is not None and reduce:
            image.draft(None, (max(1, min_side), max(1, min_side)))
        image.load()
        rgb = to_rgb(image)
        upright = rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
        upright.info = {}
        return upright

    found = _read(path, max_pixels, read, _same)
    note = found.note
    if listed is not None and listed.num_bytes not in (None, found.num_bytes):
        changed = f"{_CHANGED}: {listed.num_bytes:,} bytes then, {found.num_bytes:,} now{_RESCAN}"
        note = f"{note}; {changed}" if note else changed
    return found.value, note


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file tell.

    Attributes:
        size: (width, height) in pixels that `read_image` would give, with the EXIF orientation applied.
        num_bytes: Of the file.
        note: What is wrong with the file although it can be read; empty where nothing was seen.
    """

    size: tuple[int, int]
    num_bytes: int
    note: str = ""


def read_header(path: Path, max_pixels: int = MAX_PIXELS, *, whole: bool = False) -> Header:
    """Reads what there is to know about a file from its header alone; `whole`: decodes it, too, to find what is wrong behind it.

    Raises:
        UnreadableImage: As for `read_image`, as far as the header (or the whole) tells.
    """

    def read(image: ImageFile.ImageFile, reduce: bool) -> tuple[tuple[int, int], Image.Image]:
        size = _upright_size(image)
        if whole:
            if reduce:
                # A JPEG at an eighth of its size still has all its bytes read.
                image.draft(None, (1, 1))
            image.load()
        return size, image

    found = _read(path, max_pixels, read, lambda one, other: not whole or _same(one[1], other[1]))
    return Header(found.value[0], found.num_bytes, found.note)


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def read_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Reads the size that `read_image` would give, (width, height) in pixels with the EXIF orientation applied, from the header alone.

    Raises:
        UnreadableImage: As for `read_image`, as far as the header tells.
    """
    return read_header(path, max_pixels).size


class Reader(Protocol[T]):
    """What is done with an open image; `reduce`: whether it may be decoded smaller than it is."""

    def __call__(self, image: ImageFile.ImageFile, reduce: bool) -> T:
        """What was asked for."""


@dataclass(frozen=True)
class _Read(Generic[T]):
    value: T
    num_bytes: int
    note: str = ""


def _read(
    path: Path,
    max_pixels: int,
    read: Reader[T],
    same: Callable[[T, T], bool],
) -> _Read[T]:
    """What `read` finds in the open image; where it fails, in what `rescued` makes of the file. Whatever fails becomes UnreadableImage."""
    try:
        status = path.stat()
        # A pipe named .jpg would block the open for ever.
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(path, "not a file")
        with _pillow_warnings.muted(), open(path, "rb") as file:
            try:
                return _Read(_read_from(path, file, max_pixels, partial(read, reduce=True)), status.st_size)
            except UnreadableImage:
                raise
            # A damaged file makes Pillow raise nearly anything: struct.error, SyntaxError, KeyError.
            except Exception as error:
                if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.strerror):
                    raise
                found = _read_rescued(path, file, max_pixels, read, same)
                if found is None:
                    raise
                return _Read(found, status.st_size, f"{_reason(error)}; all pixels are there")
    except UnreadableImage:
        raise
    except Exception as error:
        refuse_exhausted(error, path)
        raise UnreadableImage(path, _reason(error)) from error


_CHANGED = "changed since it was listed"
_RESCAN = " (luss run with --rescan lists the images anew)"


def _read_from(path: Path, file: IO[bytes], max_pixels: int, read: Callable[[ImageFile.ImageFile], T]) -> T:
    try:
        image = open_format(path, file)
    except UnreadFormat as error:
        raise UnreadableImage(path, str(error)) from None
    _check_pixels(path, image, max_pixels)
    return read(image)


def _read_rescued(
    path: Path,
    file: IO[bytes],
    max_pixels: int,
    read: Reader[T],
    same: Callable[[T, T], bool],
) -> T | None:
    """What is read from a file whose metadata or end are left out; None where pixels are missing too."""
    file.seek(0)
    try:
        found = [
            _read_from(path, io.BytesIO(data), max_pixels, partial(read, reduce=False)) for data in rescued(file.read())
        ]
    except Exception:  # the first error says what is wrong with the file
        return None
    return found[0] if found and all(same(found[0], other) for other in found[1:]) else None


def _check_unchanged(path: Path, size: tuple[int, int], listed: Listed) -> None:
    if size != listed.size:
        then, now = (f"{width} x {height}" for width, height in (listed.size, size))
        raise UnreadableImage(path, f"{_CHANGED}: {then} pixels then, {now} now{_RESCAN}")


def _check_pixels(path: Path, image: ImageFile.ImageFile, max_pixels: int) -> None:
    if image.format == "TIFF" and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow refuses larger TIFFs when it decodes them; the header must give the same answer.
        max_pixels = min(max_pixels, 2 * Image.MAX_IMAGE_PIXELS)
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadableImage(path, f"{width} x {height} pixels, above the limit of {max_pixels:,} pixels")


def _upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


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
        return _grey(np.asarray(image), lambda rows: (rows.astype(np.uint32) * 255 + 32767) // 65535)
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _stretched(values: NDArray[np.generic]) -> Image.Image:
    """(H, W) numbers of any range as grey 0..255; not-a-number becomes the minimum, a constant image becomes 0."""
    ends = [(float(found.min()), float(found.max()))
            for rows in _blocks(values) if (found := rows[np.isfinite(rows)]).size]  # fmt: skip
    low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 0.0)

    def stretch(rows: NDArray[np.generic]) -> NDArray[np.generic]:
        clean = np.nan_to_num(rows.astype(np.float64), nan=low, posinf=high, neginf=low)
        return np.rint((clean - low) * (255.0 / ((high - low) or 1.0)))

    return _grey(values, stretch)


def _grey(values: NDArray[np.generic], scale: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Image.Image:
    """(H, W) numbers as an RGB image; `scale` brings rows of them to 0..255, few at a time: wide numbers of all would take six images' memory."""
    grey = np.empty(values.shape, np.uint8)
    for rows, target in zip(_blocks(values), _blocks(grey), strict=True):
        target[...] = scale(rows)
    return Image.fromarray(grey).convert("RGB")


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of (H, W) numbers, some rows each."""
    count = max(1, _BLOCK_PIXELS // max(1, values.shape[1]))
    return (values[start : start + count] for start in range(0, len(values), count))


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
