import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from naive_evaluation import plain

import luss.benchmark.pool as pool
from luss.benchmark.evaluator import count_folders
from luss.benchmark.folders import AttentionFolder
from luss.benchmark.label_attention import LabelAttention, attention_source
from luss.data.imagenet_s import write_mask
from luss.errors import LussError
from luss.labels.writer import LabelRecord, LabelWriter

SIZE = (30, 44)


def write_labels(folder, names, *, value=None):
    """A label store with random attention, or one value everywhere."""
    generator = np.random.default_rng(0)
    records = []
    for name in names:
        shape = (5, 7) if value is None else (1, 1)
        attention = generator.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, np.uint8)
        records.append(LabelRecord(name, SIZE, np.ones(shape, np.uint16), attention))
    writer = LabelWriter(folder, [(0, 2), (2, len(names))], num_clusters=3, fingerprint="x")
    writer.write_shard(0, records[:2])
    writer.write_shard(1, records[2:])
    return writer.finish(0.5, "given"), [record.attention for record in records]


@pytest.fixture
def labels(tmp_path):
    """The label file of four images, and their attention."""
    return write_labels(tmp_path / "labels", [f"n{i % 2}/image.{i}.JPEG" for i in range(4)])


@pytest.mark.parametrize("size", [SIZE, (3, 100), (1, 1)])
def test_attention_is_resized_bilinearly_to_the_mask(labels, size):
    path, stored = labels
    source = LabelAttention.open(path)
    for index, attention in enumerate(stored):
        values = torch.from_numpy(attention / np.float32(255))[None, None]
        expected = F.interpolate(values, size=size, mode="bilinear", align_corners=False)[0, 0]
        found = source.read(f"n{index % 2}/image.{index}", size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_value_that_equals_a_threshold_is_not_below_it(tmp_path):
    path, _ = write_labels(tmp_path, ["a.png", "b.png", "c.png"], value=102)
    assert (LabelAttention.open(path).read("a", SIZE) >= np.float32(0.4)).all()


def test_two_processes_with_a_label_file_give_what_one_gives(labels, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "IMAGES_A_WORKER", 1)
    generator = np.random.default_rng(1)
    for index in range(4):
        for kind in ("predictions", "masks"):
            write_mask(tmp_path / kind / f"n{index % 2}/image.{index}.png", generator.integers(0, 4, SIZE))
    one, two = (
        count_folders(
            tmp_path / "predictions",
            tmp_path / "masks",
            num_classes=3,
            attention=LabelAttention.open(labels[0]),
            workers=workers,
        )
        for workers in (1, 2)
    )
    assert plain(one) == plain(two)
    assert len(one.thresholds) == 81


def test_it_pickles_small_whatever_it_has_read(labels):
    source = LabelAttention.open(labels[0])
    source.read("n0/image.0", SIZE)
    packed = pickle.dumps(source)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed).read("n0/image.0", SIZE), source.read("n0/image.0", SIZE))


def test_an_image_without_a_label_map_is_named(labels):
    with pytest.raises(LussError, match=r"'n0/image\.9' has no label map in .*labels\.h5"):
        LabelAttention.open(labels[0]).shape("n0/image.9")


def test_images_that_differ_in_their_ending_are_told_apart_by_it(tmp_path):
    path, stored = write_labels(tmp_path, ["x.jpg", "x.png", "y.jpg"])
    source = LabelAttention.open(path)
    with pytest.raises(LussError, match=r"'x' may be 'x\.jpg' in .* and 'x\.png' in"):
        source.shape("x")
    assert source.read("x.png", (5, 7))[0, 0] == np.float32(stored[1][0, 0]) / np.float32(255)


def test_the_maps_of_validation_beside_those_of_training_are_found(tmp_path):
    write_labels(tmp_path / "pseudo_labels" / "labels", ["a.jpg", "b.jpg", "c.jpg"])
    write_labels(tmp_path / "pseudo_labels" / "validation-labels", ["c.jpg", "d.jpg", "e.jpg"])
    for folder in (tmp_path, tmp_path / "pseudo_labels"):
        source = attention_source(folder)
        assert source.shape("a") is None
        assert source.shape("e") is None
        with pytest.raises(LussError, match="'c' may be"):
            source.shape("c")


def test_what_a_path_stands_for_is_seen_from_what_it_holds(labels, tmp_path):
    path, _ = labels
    assert isinstance(attention_source(path), LabelAttention)
    assert isinstance(attention_source(path.parent), LabelAttention)
    (tmp_path / "maps").mkdir()
    assert attention_source(tmp_path / "maps") == AttentionFolder(tmp_path / "maps")
    (tmp_path / "text.txt").write_text("no attention")
    for wrong in (tmp_path / "absent", tmp_path / "text.txt"):
        with pytest.raises(LussError, match="is no attention"):
            attention_source(wrong)
