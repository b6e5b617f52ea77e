"""Reading every kind of picture a photo folder holds. Warnings are errors here, so each test checks silence too."""

import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from luss.data import images
from luss.data.formats import IMAGE_SUFFIXES
from luss.data.images import MAX_PIXELS, UnreadableImage, read_image, read_size
from luss.errors import LussError
from luss.settings import DataSettings

# Left half red, right half blue: survives JPEG, shows rotations and swapped channels.
RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(width: int = 64, height: int = 32) -> Image.Image:
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header_only(width: int, height: int) -> bytes:
    """A valid PNG header of any size, followed by next to nothing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


def close(a: tuple[int, ...] | float | None, b: tuple[int, ...], tolerance: int = 6) -> bool:
    assert isinstance(a, tuple)
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.png", "a.webp", "a.bmp", "a.tif", "a.tiff"])
def test_every_format_with_a_listed_suffix_is_read(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, two_halves())
    assert path.suffix in IMAGE_SUFFIXES
    image = read_image(path)
    assert (image.mode, image.size, read_size(path)) == ("RGB", (64, 32), (64, 32))
    assert close(image.getpixel((8, 16)), RED)
    assert close(image.getpixel((56, 16)), BLUE)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "BMP"])
def test_the_content_decides_and_not_the_suffix(tmp_path: Path, kind: str) -> None:
    assert close(read_image(save(tmp_path / "a.JPG", two_halves(), format=kind)).getpixel((8, 16)), RED)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("L", "jpg"), ("P", "png"), ("1", "png"), ("1", "tif")])
def test_grey_palette_and_black_and_white_images_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.new("L", (6, 4), 0)
    image.paste(255, (3, 0, 6, 4))
    read = read_image(save(tmp_path / f"a.{suffix}", image.convert(mode)))
    assert read.mode == "RGB"
    assert close(read.getpixel((0, 0)), (0, 0, 0), 2)
    assert close(read.getpixel((5, 3)), (255, 255, 255), 2)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_keeps_its_colours(tmp_path: Path, suffix: str) -> None:
    read = read_image(save(tmp_path / f"a.{suffix}", two_halves().convert("CMYK")))
    assert read.mode == "RGB"
    assert close(read.getpixel((8, 16)), RED, 10)
    assert close(read.getpixel((56, 16)), BLUE, 10)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_alpha_is_composited_on_white(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 128))
    image.putpixel((2, 0), (0, 0, 0, 0))
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    read = read_image(save(tmp_path / f"a.{suffix}", image, **options))
    assert [read.getpixel((x, 0)) for x in range(3)] == [(255, 0, 0), (255, 127, 127), (255, 255, 255)]


def test_grey_with_alpha_is_composited_on_white(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 0))
    read = read_image(save(tmp_path / "a.png", image))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one colour", "alpha of each colour"])
def test_a_transparent_palette_entry_becomes_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 200, 0, 9, 9, 9])
    image.putpixel((1, 0), 1)
    read = read_image(save(tmp_path / "a.png", image, transparency=transparency))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(0, 200, 0), (255, 255, 255)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
    read = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    assert np.asarray(read)[0].tolist() == [[v] * 3 for v in (0, 1, 1, 128, 255)]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_an_agreed_white_are_stretched_from_minimum_to_maximum(tmp_path: Path, dtype: type) -> None:
    read = read_image(save(tmp_path / "a.tif", Image.fromarray(np.array([[-100, 0, 100_000]], dtype=dtype))))
    assert np.asarray(read)[0, :, 0].tolist() == [0, 0, 255]


def test_images_of_wide_numbers_are_stretched_as_a_whole_whatever_is_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    values[7, 3], values[21, 2] = np.nan, np.inf
    path = save(tmp_path / "a.tif", Image.fromarray(values))
    whole = np.asarray(read_image(path))
    monkeypatch.setattr(images, "_BLOCK_PIXELS", 100)
    assert np.array_equal(np.asarray(read_image(path)), whole)
    assert (whole.min(), whole.max()) == (0, 255)


def test_a_float_image_without_one_finite_number_is_black(tmp_path: Path) -> None:
    read = read_image(save(tmp_path / "a.tif", Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32))))
    assert np.asarray(read).max() == 0


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path: Path, suffix: str, orientation: int) -> None:
    # How a camera stores the upright picture; EXIF 2.3, tag 274.
    transpose = Image.Transpose
    stored_as = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }
    upright = two_halves()
    upright.paste((0, 255, 0), (0, 16, 32, 32))
    stored = upright.transpose(stored_as[orientation]) if orientation in stored_as else upright
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    path = save(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    image = read_image(path)
    assert image.size == read_size(path) == (64, 32)
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(upright, dtype=int))
    assert difference.mean() < 12


def test_a_reader_that_applies_exif_again_does_not_turn_the_image_twice(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = read_image(save(tmp_path / "a.jpg", two_halves(), exif=exif))
    assert dict(image.getexif()) == {}
    assert image.info == {}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_the_size_is_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    decoded: list[Image.Image] = []
    path = save(tmp_path / f"a.{suffix}", two_halves())
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    assert read_size(path) == (64, 32)
    assert decoded == []


def test_an_orientation_behind_the_pixels_of_a_png_changes_neither_size_nor_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "a.png", two_halves())
    data = path.read_bytes()
    path.write_bytes(data[:-12] + png_chunk(b"eXIf", exif.tobytes()) + data[-12:])
    assert read_image(path).size == read_size(path) == (64, 32)


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_out_of_range_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / "a.jpg", two_halves(), exif=exif)
    assert read_image(path).size == read_size(path) == (64, 32)


def test_damaged_exif_does_not_make_an_image_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", two_halves(), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert read_image(path).size == read_size(path) == (64, 32)


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1), (20_000, 10), (10, 20_000)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_extreme_shapes_are_read_whole(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.new("RGB", size, RED))
    assert read_image(path, min_side=96).size == read_size(path) == size


@pytest.mark.parametrize(
    ("min_side", "size"),
    [(32, (100, 75)), (75, (100, 75)), (76, (200, 150)), (300, (400, 300)), (301, (800, 600)), (9999, (800, 600))],
)
def test_min_side_decodes_a_jpeg_at_the_smallest_scale_that_keeps_the_short_side(
    tmp_path: Path, min_side: int, size: tuple[int, int]
) -> None:
    image = read_image(save(tmp_path / "a.jpg", two_halves(800, 600)), min_side=min_side)
    assert image.size == size
    assert close(image.getpixel((4, 4)), RED)


def test_min_side_holds_after_an_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert read_image(save(tmp_path / "a.jpg", two_halves(800, 600), exif=exif), min_side=150).size == (150, 200)


@pytest.mark.parametrize("name", ["a b.png", "größe 猫 🐈.png", "-x.png", "100%.png", 'quote"s.png', "line\nbreak.png"])
def test_any_name_is_read(tmp_path: Path, name: str) -> None:
    assert read_image(save(tmp_path / name, two_halves(), format="PNG")).size == (64, 32)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    save(tmp_path / "a.png", two_halves()).rename(path)
    assert read_size(path) == (64, 32)
    path.write_bytes(b"")
    with pytest.raises(UnreadableImage, match="empty file"):
        read_image(path)


def truncated(path: Path, kind: str) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    save(path, Image.fromarray(noise), format=kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_files_of_every_format_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnreadableImage):
        read_image(truncated(tmp_path / "a.jpg", kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_bytes_give_an_image_or_unreadable_image_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    save(path, two_halves(40, 30).convert("P" if kind == "GIF" else "RGB"), format=kind)
    good = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    random = np.random.default_rng(0)
    num_read = 0
    reasons = []
    for _ in range(150):
        bad = good.copy()
        bad[random.integers(0, min(len(bad), 400), 4)] = random.integers(0, 256, 4)
        path.write_bytes(bad.tobytes())
        for read in (read_image, read_size):
            try:
                # A flipped size may ask for hundreds of megapixels, which only costs time here.
                read(path, max_pixels=1_000_000)
                num_read += 1
            except UnreadableImage as error:
                reasons.append(error.reason)
    assert 0 < num_read < 300
    assert all(0 < len(reason) < 200 and "\n" not in reason for reason in reasons)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"BM text that begins like a bitmap", ""),
    ],
)
def test_files_that_are_no_images_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (read_image, read_size):
        with pytest.raises(UnreadableImage) as caught:
            read(path)
        assert reason in caught.value.reason
        assert caught.value.reason


@pytest.mark.parametrize("read", [read_image, read_size])
def test_an_absurdly_large_image_is_refused_before_its_pixels_are_decoded(tmp_path: Path, read: Any) -> None:
    (tmp_path / "a.png").write_bytes(png_header_only(60_000, 60_000))
    with pytest.raises(UnreadableImage, match=r"60000 x 60000 pixels, above the limit of 200,000,000 pixels"):
        read(tmp_path / "a.png")


# How much memory reading takes above what Python and its libraries have taken before.
_MEASURE = """
import resource, sys
from pathlib import Path
import luss.data.images
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
luss.data.images.read_image(Path(sys.argv[1]))
before = peak()
for path in sys.argv[2:]:
    width, height = luss.data.images.read_image(Path(path)).size
    print((peak() - before) / (width * height))
"""


def test_reading_takes_the_memory_that_the_limit_is_said_to_mean(tmp_path: Path) -> None:
    side = 2000
    black, exif = np.zeros((side, side)), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    tiny = save(tmp_path / "tiny.jpg", two_halves(), exif=exif)
    # From the least to the most: the peak of a process never falls.
    paths = [
        save(tmp_path / "plain.jpg", Image.new("RGB", (side, side))),
        save(tmp_path / "turned.jpg", Image.new("RGB", (side, side)), exif=exif),
        save(tmp_path / "transparent.png", Image.new("RGBA", (side, side)), compress_level=1),
        save(tmp_path / "grey.png", Image.fromarray(black.astype(np.uint16)), compress_level=1),
        save(tmp_path / "wide.tif", Image.fromarray(black.astype(np.float32)), compression="packbits"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, [tiny, *paths])], capture_output=True, text=True, check=True
    )
    taken = [float(line) for line in done.stdout.split()]
    # Of 4 million pixels some of what is measured is the decoder's own.
    assert taken[0] < 8 + 1.5
    assert max(taken) < 13 + 2.5, taken
    assert MAX_PIXELS * 13 <= 2.6e9
    assert DataSettings().max_pixels == MAX_PIXELS


def test_max_pixels_is_a_limit_that_may_be_reached(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", two_halves(64, 32))
    assert read_image(path, max_pixels=64 * 32).size == (64, 32)
    with pytest.raises(UnreadableImage, match="above the limit"):
        read_image(path, max_pixels=64 * 32 - 1)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pillows_own_limit_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", two_halves())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path).size == read_size(path) == (64, 32)


def test_a_tiff_above_pillows_own_limit_is_refused_by_the_header_as_by_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.tif", two_halves())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)
    assert read_image(path).size == (64, 32)  # up to twice the limit Pillow only warns
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1023)
    for read in (read_image, read_size):
        with pytest.raises(UnreadableImage, match="above the limit of 2,046 pixels"):
            read(path)


def test_what_is_not_a_file_is_refused_and_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    reasons = {}
    for name in ("folder.jpg", "pipe.jpg", "dangling.jpg", "circle.jpg"):
        with pytest.raises(UnreadableImage) as caught:
            read_size(tmp_path / name)
        reasons[name] = caught.value.reason
    assert reasons["folder.jpg"] == reasons["pipe.jpg"] == "not a file"
    assert reasons["dangling.jpg"] == "no such file"
    assert "symbolic links" in reasons["circle.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", two_halves())
    path.chmod(0)
    with pytest.raises(UnreadableImage, match="no permission"):
        read_image(path)


def test_a_permission_error_of_the_system_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "a.png", two_halves())
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    monkeypatch.undo()
    assert caught.value.reason == "no permission to read it"


def test_an_unreadable_image_names_path_and_reason_and_travels_between_processes(tmp_path: Path) -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage(tmp_path / "a.jpg", "truncated")))
    assert isinstance(error, UnreadableImage)
    assert issubclass(UnreadableImage, LussError)
    assert (error.path, error.reason) == (tmp_path / "a.jpg", "truncated")
    assert str(tmp_path / "a.jpg") in str(error)
    assert "truncated" in str(error)


def test_pillows_warnings_are_muted_only_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.tif", two_halves())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path) as image:
        image.load()  # what Pillow alone does
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: read_image(path).size, range(200)))
    assert set(sizes) == {(64, 32)}
    assert warnings.filters == filters
