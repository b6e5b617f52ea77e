"""Sound pixels between damaged metadata are read, with a note; a file that lacks pixels is not."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luss.data.images import UnreadableImage, read_header, read_image

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))


def encoded(kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    PIXELS.save(data, kind, **options)
    return data.getvalue()


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def with_chunk(*parts: bytes) -> bytes:
    """A PNG with more chunks before its pixels."""
    data = encoded("PNG")
    return data[:33] + b"".join(parts) + data[33:]


def with_segment(marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    data = encoded("JPEG")
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body + data[2:]


def with_webp_metadata() -> bytes:
    """A WebP whose last chunk, of metadata, was cut off."""
    return encoded("WEBP", lossless=True, exif=b"Exif\0\0" + bytes(100))[:-40]


ODD = {
    "PNG: wrong sum of a text": (encoded("PNG"), with_chunk(chunk(b"tEXt", b"a\0b", 5))),
    "PNG: short gamma": (encoded("PNG"), with_chunk(chunk(b"gAMA", b"1"))),
    "PNG: animation without frames": (encoded("PNG"), with_chunk(chunk(b"acTL", b""))),
    "PNG: text of 3 MB in few bytes": (
        encoded("PNG"),
        with_chunk(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 << 20)))),
    ),
    "JPEG: half of a profile": (encoded("JPEG"), with_segment(0xE2, b"ICC_PROFILE\0\x01")),
    "JPEG: half of Photoshop's": (encoded("JPEG"), with_segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04")),
    "JPEG: short JFIF": (encoded("JPEG"), with_segment(0xE0, b"JFIF")),
    "JPEG: short Adobe": (encoded("JPEG"), with_segment(0xEE, b"Adobe")),
    "JPEG: no end": (encoded("JPEG"), encoded("JPEG")[:-2]),
    "JPEG: half of its end": (encoded("JPEG"), encoded("JPEG")[:-1]),
    "progressive JPEG: no end": (encoded("JPEG", progressive=True), encoded("JPEG", progressive=True)[:-2]),
    "WebP: cut off in its metadata": (encoded("WEBP", lossless=True), with_webp_metadata()),
}


@pytest.mark.parametrize("kind", ODD)
def test_all_pixels_are_read_whatever_is_wrong_around_them(tmp_path: Path, kind: str) -> None:
    sound, odd = ODD[kind]
    (tmp_path / "sound").write_bytes(sound)
    (tmp_path / "odd").write_bytes(odd)
    with pytest.raises(Exception), Image.open(tmp_path / "odd") as image:  # noqa: B017, PT011  (what Pillow alone does)
        image.load()
    assert read_image(tmp_path / "odd").tobytes() == read_image(tmp_path / "sound").tobytes()
    assert read_image(tmp_path / "odd", min_side=8).size == PIXELS.size
    header = read_header(tmp_path / "odd", whole=True)
    assert header.size == PIXELS.size
    assert "all pixels are there" in header.note
    assert read_header(tmp_path / "sound", whole=True).note == ""


def test_the_orientation_survives(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "x.jpg").write_bytes(encoded("JPEG", exif=exif)[:-2])
    assert read_image(tmp_path / "x.jpg").size == read_header(tmp_path / "x.jpg").size == PIXELS.size[::-1]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [3, 5, 9, 100, 1000])
def test_a_jpeg_that_lacks_pixels_is_refused_however_few(tmp_path: Path, missing: int, progressive: bool) -> None:
    data = encoded("JPEG", progressive=progressive, quality=95)
    (tmp_path / "x.jpg").write_bytes(data[: -2 - missing])
    for min_side in (None, 4):
        with pytest.raises(UnreadableImage, match="truncated"):
            read_image(tmp_path / "x.jpg", min_side=min_side)
    with pytest.raises(UnreadableImage, match="truncated"):
        read_header(tmp_path / "x.jpg", whole=True)


@pytest.mark.parametrize(("kind", "missing"), [("PNG", 40), ("WEBP", 40), ("BMP", 8), ("TIFF", 8), ("GIF", 40)])
def test_other_formats_that_lack_pixels_are_refused_too(tmp_path: Path, kind: str, missing: int) -> None:
    (tmp_path / "x").write_bytes(encoded(kind)[:-missing])
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "x")


def test_damaged_pixels_of_a_png_are_refused(tmp_path: Path) -> None:
    data = bytearray(with_chunk(chunk(b"gAMA", b"1")))
    data[-200] ^= 0xFF
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UnreadableImage):
        read_image(tmp_path / "x.png")
