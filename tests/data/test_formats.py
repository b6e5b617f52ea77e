"""Which files are taken for images, which for pictures that are not read here, and what is said of these."""

from pathlib import Path

import pytest
from PIL import Image

from luss.data import formats
from luss.data.formats import IMAGE_SUFFIXES, PICTURE_SUFFIXES, is_image, is_picture
from luss.data.images import UnreadableImage, read_image, read_size

SIZE = (40, 24)


def saved(path: Path, kind: str, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (200, 30, 30)).save(path, format=kind, **options)
    return path


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (".jpe", "JPEG"), (".jfif", "JPEG"), (".gif", "GIF"), (".dib", "DIB"), (".ppm", "PPM"), (".jp2", "JPEG2000"), (".avif", "AVIF"),
        (".TIF", "TIFF"), (".JFIF", "JPEG"),
    ],
)  # fmt: skip
def test_endings_that_cameras_and_programs_write_are_read(tmp_path: Path, ending: str, kind: str) -> None:
    path = saved(tmp_path / f"x{ending}", "BMP" if kind == "DIB" else kind)
    assert is_image(path.name)
    assert read_image(path).size == read_size(path) == SIZE
    red, green, _ = read_image(path).getpixel((9, 9))  # type: ignore[misc]
    assert red > 180
    assert green < 60


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif").getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_pictures_of_telephones_are_read_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path / "x.jpg", kind, exif=exif.tobytes())
    assert read_size(path) == read_image(path).size == (SIZE if orientation == 1 else SIZE[::-1])


def test_without_the_plug_in_a_picture_of_a_telephone_is_no_image_and_the_reason_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = saved(tmp_path / "x.heic", "HEIF")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setattr(formats, "_register_heif", lambda: None)
    with pytest.raises(UnreadableImage, match=r"HEIF, which needs a plug-in: pip install 'luss\[heif\]'"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.jxl", b"\xff\x0a" + bytes(30), "JPEG XL"),
        ("x.psd", b"8BPS" + bytes(30), "Photoshop"),
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "of a format that luss does not read"),
    ],
)
def test_other_pictures_are_known_by_name_and_refused_with_a_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_picture(name)
    assert not is_image(name)
    with pytest.raises(UnreadableImage, match=reason):
        read_size(tmp_path / name)


def test_a_raw_file_is_not_read_as_its_thumbnail(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="raw file of a camera"):
        read_size(saved(tmp_path / "x.NEF", "TIFF"))
    # What is a JPEG under that name is one.
    assert read_size(saved(tmp_path / "y.dng", "JPEG")) == SIZE


def test_what_is_read_is_a_picture_and_documents_are_none() -> None:
    assert IMAGE_SUFFIXES < PICTURE_SUFFIXES
    assert not any(
        map(is_picture, ["a.txt", "a.pdf", "a.json", "a.mp4", "jpg", ".jpg", ".hidden.heic", "a.jpg.zip", "a.ico"])
    )
