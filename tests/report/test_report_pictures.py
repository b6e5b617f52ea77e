"""Pictures and label maps as they travel in the page."""

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_run import GRID, attention, make_run

from luss.report.clusters import Pick
from luss.report.gallery import open_gallery
from luss.report.pictures import MAX_POSITIONS, PictureReader, packed_map, thumbnail


def unpacked_ids(packed: dict) -> np.ndarray:
    runs = np.array(packed["ids"]).reshape(-1, 2)
    return np.repeat(runs[:, 0], runs[:, 1]).reshape(packed["rows"], packed["columns"])


def unpacked_attention(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["attention"]), np.uint8).reshape(packed["rows"], packed["columns"])


def test_a_label_map_comes_back_as_it_was() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(np.array([1, 2, 2, 919, 40000], np.uint16), (13, 7))
    strength = generator.integers(0, 256, (13, 7)).astype(np.uint8)
    packed = packed_map(labels, strength)
    np.testing.assert_array_equal(unpacked_ids(packed), labels)
    np.testing.assert_array_equal(unpacked_attention(packed), strength)


@pytest.mark.parametrize("shape", [(300, 400), (1, 60_000), (60_000, 1)])
def test_a_large_map_is_thinned_and_stays_a_map(shape: tuple[int, int]) -> None:
    packed = packed_map(np.full(shape, 3, np.uint16), np.full(shape, 200, np.uint8))
    assert 0 < packed["rows"] * packed["columns"] <= max(MAX_POSITIONS, max(shape) // 2)
    assert set(unpacked_ids(packed).ravel()) == {3}
    assert set(unpacked_attention(packed).ravel()) == {200}


def test_thumbnails_keep_their_aspect_and_small_images_their_size() -> None:
    assert thumbnail(Image.new("RGB", (800, 200)), 160).size == (160, 40)
    assert thumbnail(Image.new("RGB", (3, 9000)), 160).size == (1, 160)
    assert thumbnail(Image.new("RGB", (30, 20)), 160).size == (30, 20)


def test_a_picture_that_is_gone_says_why(tmp_path: Path) -> None:
    source = make_run(tmp_path, masks=False)
    gallery = open_gallery(source)
    gallery.manifest.path(20).unlink()
    picture = PictureReader(gallery.manifest, gallery.store, 10**6).picture(Pick(20, "nearest", 0.5))
    assert picture["problem"] == "no such file"
    assert "jpeg" not in picture


def test_an_image_finds_its_own_map_where_earlier_ones_could_not_be_read(tmp_path: Path) -> None:
    source = make_run(tmp_path, masks=False)
    gallery = open_gallery(source)
    assert gallery.store is not None

    class Shifted:
        """A store without image 0."""

        def __len__(self) -> int:
            return len(gallery.manifest) - 1

        def name(self, index: int) -> str:
            return gallery.manifest.name(index + 1)

        def index_of(self, name: str) -> int:
            return next(i for i in range(len(self)) if self.name(i) == name)

        def raw(self, index: int):
            return np.full(GRID, index + 1, np.uint16), attention(index)

    reader = PictureReader(gallery.manifest, Shifted(), 10**6)  # type: ignore[arg-type]
    last = len(gallery.manifest) - 1
    assert unpacked_ids(reader.picture(Pick(last, "nearest", 1.0))["map"])[0, 0] == last
