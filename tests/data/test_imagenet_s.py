"""The ImageNet-S layout and its masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luss.data.imagenet_s import (
    BACKGROUND,
    IGNORE,
    category_ids,
    decode_mask,
    encode_mask,
    find_layout,
    mask_path,
    read_mask,
    write_mask,
)
from luss.errors import LussError


def make_folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def test_a_mask_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ids = np.array([[BACKGROUND, 1, 255], [256, 919, IGNORE]], dtype=np.uint16)
    write_mask(tmp_path / "dog" / "a.png", ids)
    back = read_mask(tmp_path / "dog" / "a.png")
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, ids)


def test_a_mask_file_is_an_rgb_png_with_the_low_byte_in_red_and_the_high_byte_in_green(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[IGNORE, 300]], dtype=np.int64))
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [(232, 3, 0), (44, 1, 0)]


def test_encoding_and_decoding_keep_every_16_bit_id() -> None:
    ids = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(decode_mask(encode_mask(ids)), ids)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_a_mask_of_another_mode_is_refused_by_file_and_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "grey mask.png"
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(LussError, match=rf"grey mask\.png has mode {mode}.*RGB PNG.*write_mask"):
        read_mask(path)


def test_a_colour_picture_is_not_taken_for_a_mask(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "overlay.png")
    with pytest.raises(LussError, match=r"overlay\.png uses the blue channel"):
        read_mask(tmp_path / "overlay.png")


def test_a_jpeg_is_not_taken_for_a_mask_because_its_ids_are_blurred(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "mask.png", format="JPEG")
    with pytest.raises(LussError, match=r"mask\.png cannot be read as PNG"):
        read_mask(tmp_path / "mask.png")


def test_a_missing_and_a_truncated_mask_are_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"gone\.png does not exist"):
        read_mask(tmp_path / "gone.png")
    write_mask(tmp_path / "half.png", np.random.default_rng(0).integers(0, 900, (50, 50)))
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:2000])
    with pytest.raises(LussError, match=r"half\.png cannot be read"):
        read_mask(tmp_path / "half.png")


@pytest.mark.parametrize(
    "ids",
    [np.zeros((2, 2)), np.zeros((2, 2, 3), int), np.full((2, 2), -1), np.full((2, 2), 65536), np.zeros((0, 2), int)],
    ids=["floats", "three axes", "negative", "above 16 bits", "empty"],
)
def test_ids_that_do_not_fit_a_mask_are_refused_and_leave_no_file(tmp_path: Path, ids: np.ndarray) -> None:
    with pytest.raises(LussError, match="mask"):
        write_mask(tmp_path / "a.png", ids)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask(tmp_path / "a.png", np.full((2, 2), 7))

    def fail_half_way(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError("cable pulled")

    monkeypatch.setattr(Image.Image, "save", fail_half_way)
    with pytest.raises(OSError, match="cable"):
        write_mask(tmp_path / "a.png", np.full((2, 2), 8))
    monkeypatch.undo()
    assert read_mask(tmp_path / "a.png").max() == 7
    assert len(list(tmp_path.iterdir())) == 1


def test_masks_above_pillows_size_limit_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mask(tmp_path / "a.png", np.full((30, 40), 5))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_mask(tmp_path / "a.png").shape == (30, 40)


def test_the_splits_and_mask_folders_that_exist_are_found(tmp_path: Path) -> None:
    make_folders(tmp_path, "train", "train-semi", "train-semi-segmentation", "validation", "train-extra", "notes")
    layout = find_layout(tmp_path)
    assert layout.images == {name: tmp_path / name for name in ("train", "train-semi", "validation", "train-extra")}
    assert layout.masks == {"train-semi": tmp_path / "train-semi-segmentation"}
    assert layout.has_masks("train-semi")
    assert not layout.has_masks("validation")


def test_a_folder_without_splits_is_one_train_split(tmp_path: Path) -> None:
    make_folders(tmp_path, "holiday", "train-semi-segmentation")
    layout = find_layout(tmp_path)
    assert (layout.images, layout.masks) == ({"train": tmp_path}, {})


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"nowhere is not a folder.*data\.root"):
        find_layout(tmp_path / "nowhere")


def test_an_absent_split_names_those_that_exist(tmp_path: Path) -> None:
    layout = find_layout(make_folders(tmp_path, "train", "validation"))
    with pytest.raises(LussError, match=r"no split 'test'.*train, validation"):
        layout.image_folder("test")


def test_categories_are_numbered_from_one_by_sorted_folder_name(tmp_path: Path) -> None:
    make_folders(tmp_path, "zebra", "Ape", "dog", ".cache")
    (tmp_path / "readme.txt").touch()
    assert category_ids(tmp_path) == {"Ape": 1, "dog": 2, "zebra": 3}


def test_a_flat_folder_has_no_categories(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert category_ids(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "mask"),
    [("dog/x.JPEG", "dog/x.png"), ("dog/a.b c.jpg", "dog/a.b c.png"), ("ü/deep/x.png", "ü/deep/x.png")],
)
def test_the_mask_of_an_image_has_its_stem_and_png(tmp_path: Path, name: str, mask: str) -> None:
    layout = find_layout(make_folders(tmp_path, "validation", "validation-segmentation"))
    assert mask_path(layout, "validation", name) == tmp_path / "validation-segmentation" / mask


def test_asking_for_the_mask_of_a_split_without_masks_names_the_folder_to_make(tmp_path: Path) -> None:
    layout = find_layout(make_folders(tmp_path, "train"))
    with pytest.raises(LussError, match="train-segmentation"):
        mask_path(layout, "train", "dog/x.jpg")
