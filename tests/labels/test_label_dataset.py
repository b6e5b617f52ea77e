"""Pseudo labels as a torch data set, alone and in loader workers."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from luss.errors import LussError
from luss.labels.dataset import PseudoLabels
from luss.labels.writer import LabelRecord, LabelWriter

pytestmark = pytest.mark.slow

SIZES = [(12, 20), (9, 9), (30, 8), (16, 16), (5, 40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished store of five images in two shards, with the images themselves under `images`."""
    writer = LabelWriter(tmp_path / "labels", [(0, 3), (3, 5)], num_clusters=9, fingerprint="f")
    generator = np.random.default_rng(0)
    records = []
    for index, (height, width) in enumerate(SIZES):
        labels = generator.integers(1, 10, (4, 5)).astype(np.uint16)
        attention = generator.integers(0, 256, (4, 5)).astype(np.uint8)
        records.append(LabelRecord(f"n0/{index}.png", (height, width), labels, attention))
        path = tmp_path / "images" / f"n0/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (index, 0, 0)).save(path)
    writer.write_shard(0, records[:3])
    writer.write_shard(1, records[3:])
    writer.finish(0.5, "given")
    return tmp_path


def test_a_sample_holds_image_label_and_name(folder: Path) -> None:
    samples = PseudoLabels(folder / "labels", folder / "images")
    assert len(samples) == len(SIZES)
    for index, size in enumerate(SIZES):
        sample = samples[index]
        assert sample["label"].dtype == torch.int64
        assert tuple(sample["label"].shape) == size
        assert sample["image"].size == size[::-1]
        assert sample["image"].getpixel((0, 0)) == (index, 0, 0)
        assert sample["name"] == f"n0/{index}.png"


def test_without_a_root_there_is_no_image(folder: Path) -> None:
    assert PseudoLabels(folder / "labels" / "labels.h5")[0]["image"] is None


def test_a_higher_threshold_gives_more_background(folder: Path) -> None:
    none, some, most = (
        sum(int((PseudoLabels(folder / "labels", threshold=tau)[i]["label"] == 0).sum()) for i in range(5))
        for tau in (0.0, None, 0.9)
    )
    assert none == 0
    assert 0 < some < most


def test_the_transform_makes_the_item(folder: Path) -> None:
    samples = PseudoLabels(folder / "labels", folder / "images", transform=lambda sample: sorted(sample))
    assert samples[2] == ["image", "label", "name"]


def test_an_image_that_was_changed_since_is_refused(folder: Path) -> None:
    Image.new("RGB", (7, 7)).save(folder / "images" / "n0/1.png")
    samples = PseudoLabels(folder / "labels", folder / "images")
    with pytest.raises(LussError, match=r"1\.png is 7 x 7, but the image that was labelled is 9 x 9"):
        samples[1]


def test_a_threshold_outside_zero_to_one_is_refused(folder: Path) -> None:
    with pytest.raises(LussError, match="threshold is 2"):
        PseudoLabels(folder / "labels", threshold=2)


def test_pickling_carries_no_open_file(folder: Path) -> None:
    samples = PseudoLabels(folder / "labels")
    before = samples[4]["label"]
    copy = pickle.loads(pickle.dumps(samples))
    assert len(pickle.dumps(samples)) < 1000
    assert torch.equal(copy[4]["label"], before)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_read_the_same_labels(folder: Path, context: str) -> None:
    samples = PseudoLabels(folder / "labels", folder / "images")
    expected: list[Any] = [samples[index] for index in range(5)]  # opens files in this process before workers start
    loader = DataLoader(samples, batch_size=None, num_workers=2, multiprocessing_context=context)
    loaded = list(loader)
    assert [sample["name"] for sample in loaded] == [sample["name"] for sample in expected]
    for found, wanted in zip(loaded, expected, strict=True):
        assert torch.equal(found["label"], wanted["label"])
        assert found["image"].tobytes() == wanted["image"].tobytes()
    assert torch.equal(samples[0]["label"], expected[0]["label"])
