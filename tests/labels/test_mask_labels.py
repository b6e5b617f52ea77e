"""Masks as labels to learn from."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luss.data.imagenet_s import find_layout, write_mask
from luss.data.manifest import Manifest, build_manifest
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.labels.sampling import resize_nearest
from luss.labels.source import MaskLabels


@pytest.fixture
def ids() -> np.ndarray:
    """A mask of 40 x 30 pixels with ids above 255 and ignored pixels."""
    return np.random.default_rng(0).choice(np.array([0, 1, 299, 300, 1000], np.uint16), (30, 40))


@pytest.fixture
def labels(tmp_path: Path, ids: np.ndarray) -> MaskLabels:
    (tmp_path / "train-semi" / "dog").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "train-semi" / "dog" / "x.JPEG", format="JPEG")
    write_mask(tmp_path / "train-semi-segmentation" / "dog" / "x.png", ids)
    build_manifest(tmp_path / "train-semi", tmp_path / "lists", "train-semi", skipped=SkippedFiles(tmp_path / "s.csv"))
    manifest = Manifest.open(tmp_path / "lists", "train-semi")
    return MaskLabels(manifest, find_layout(tmp_path), "train-semi", num_classes=300)


def replace_mask(labels: MaskLabels, ids: np.ndarray) -> None:
    write_mask(labels.layout.masks["train-semi"] / "dog" / "x.png", ids)


def test_an_image_is_known_by_its_name_and_its_size(labels: MaskLabels) -> None:
    assert (len(labels), labels.name(0), labels.image_size(0)) == (1, "dog/x.JPEG", (30, 40))


def test_a_crop_of_whole_pixels_is_a_slice_of_the_mask(labels: MaskLabels, ids: np.ndarray) -> None:
    crop = labels.crop(0, (7, 4, 20, 20), size=20)
    np.testing.assert_array_equal(crop, ids[4:24, 7:27])
    np.testing.assert_array_equal(labels.crop(0, (7, 4, 20, 20), size=20, flip=True), crop[:, ::-1])


def test_a_reduced_crop_takes_the_pixels_below_its_centres(labels: MaskLabels, ids: np.ndarray) -> None:
    # Ten pixels over thirty: the centre of each is the middle one of three.
    np.testing.assert_array_equal(labels.crop(0, (5, 0, 30, 30), size=10), ids[1::3, 6:36:3])


def test_a_grid_covers_the_whole_mask(labels: MaskLabels, ids: np.ndarray) -> None:
    np.testing.assert_array_equal(labels.grid(0, (6, 8)), ids[2::5, 2::5])


def test_an_enlarged_map_repeats_its_ids() -> None:
    small = np.array([[1, 2], [3, 4]], np.uint16)
    np.testing.assert_array_equal(resize_nearest(small, (6, 4)), small.repeat(3, axis=0).repeat(2, axis=1))


def test_labels_travel_to_loader_workers(labels: MaskLabels, ids: np.ndarray) -> None:
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(labels)).mask(0), ids)


def test_an_id_that_is_no_category_is_refused_with_the_file(labels: MaskLabels, ids: np.ndarray) -> None:
    ids[3, 3] = 301
    replace_mask(labels, ids)
    with pytest.raises(LussError, match=r"x\.png holds the id 301, but there are 300 categories"):
        labels.mask(0)


def test_a_mask_of_another_size_is_refused_with_both_sizes(labels: MaskLabels, ids: np.ndarray) -> None:
    replace_mask(labels, ids[:, :39])
    with pytest.raises(LussError, match=r"x\.png is 39 x 30, but its image is 40 x 30"):
        labels.crop(0, (0, 0, 30, 30), size=10)


def test_a_missing_mask_is_refused_with_its_name(labels: MaskLabels) -> None:
    (labels.layout.masks["train-semi"] / "dog" / "x.png").unlink()
    with pytest.raises(LussError, match=r"x\.png does not exist"):
        labels.mask(0)
