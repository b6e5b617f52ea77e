"""Label maps and crops at any size: nearest ids, bilinear attention, a strict threshold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter


def store_of(folder: Path, *records: LabelRecord, threshold: float = 0.4) -> LabelStore:
    writer = LabelWriter(folder, [(0, len(records))], num_clusters=1000, fingerprint="f")
    writer.write_shard(0, records)
    return LabelStore.open(writer.finish(threshold, "given"))


def random_record(height: int, width: int, image_size: tuple[int, int]) -> LabelRecord:
    generator = np.random.default_rng((height, width))
    labels = generator.integers(1, 1001, (height, width)).astype(np.uint16)
    return LabelRecord("a", image_size, labels, generator.integers(0, 256, (height, width)).astype(np.uint8))


@pytest.mark.parametrize("size", [(375, 500), (33, 43), (20, 17), (97, 11), (1, 4)])
@pytest.mark.parametrize("threshold", [0.0, 0.37, 0.8])
def test_a_label_map_equals_torch_interpolation(tmp_path: Path, size: tuple[int, int], threshold: float) -> None:
    record = random_record(33, 43, (375, 500))
    found = store_of(tmp_path, record).label_map(0, size, threshold=threshold)
    labels = torch.from_numpy(record.labels.astype(np.float32))[None, None]
    attention = torch.from_numpy(record.attention.astype(np.float32) / 255)[None, None]
    expected = interpolate(labels, size, mode="nearest-exact")[0, 0].numpy()
    resized = interpolate(attention, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    # Where attention equals the threshold, or a pixel's centre lies on the border of two positions, rounding decides.
    borders = [np.arange(1, 2 * n, 2) * grid % (2 * n) == 0 for n, grid in zip(size, (33, 43), strict=True)]
    clear = (np.abs(resized - threshold) > 1e-5) & ~borders[0][:, None] & ~borders[1]
    assert found.dtype == np.uint16
    assert clear.mean() > 0.6
    np.testing.assert_array_equal(found[clear], np.where(resized < threshold, 0, expected)[clear])


def test_without_a_size_the_map_has_the_size_of_the_image(tmp_path: Path) -> None:
    assert store_of(tmp_path, random_record(5, 7, (41, 53))).label_map(0).shape == (41, 53)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (700, 900)])
def test_blocks_of_rows_join_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    store = store_of(tmp_path, random_record(9, 11, shape))
    monkeypatch.setattr("luss.labels.sampling.BLOCK_PIXELS", 1 << 40)
    whole = store.label_map(0)
    monkeypatch.setattr("luss.labels.sampling.BLOCK_PIXELS", 1000)
    np.testing.assert_array_equal(store.label_map(0), whole)


def test_attention_equal_to_the_threshold_is_kept_and_anything_below_is_not(tmp_path: Path) -> None:
    records = [
        LabelRecord(str(level), (7, 11), np.full((2, 3), 5, np.uint16), np.full((2, 3), level, np.uint8))
        for level in range(256)
    ]
    store = store_of(tmp_path, *records)
    for level in range(256):
        assert (store.label_map(level, threshold=level / 255) == 5).all()
        assert (store.label_map(level, threshold=min(1.0, level / 255 + 1e-4)) == 0).all() or level == 255


def test_the_threshold_changes_without_a_new_pass(tmp_path: Path) -> None:
    record = LabelRecord("a", (1, 2), np.array([[3, 4]], np.uint16), np.array([[100, 200]], np.uint8))
    store = store_of(tmp_path, record, threshold=0.5)
    assert store.label_map(0).tolist() == [[0, 4]]
    assert store.label_map(0, threshold=0.1).tolist() == [[3, 4]]
    assert store.label_map(0, threshold=0.9).tolist() == [[0, 0]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.integers(0, 60), top=st.integers(0, 30), side=st.integers(1, 33), flip=st.booleans())
def test_a_crop_equals_the_cropped_full_size_map(
    tmp_path_factory: pytest.TempPathFactory, left: int, top: int, side: int, flip: bool
) -> None:
    store = store_of(tmp_path_factory.mktemp("crop"), random_record(8, 12, (63, 93)))
    expected = store.label_map(0)[top : top + side, left : left + side]
    found = store.crop(0, (left, top, side, side), size=side, flip=flip)
    np.testing.assert_array_equal(found, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [8, 16, 24, 64])
def test_a_scaled_crop_of_blocks_equals_the_blocks(tmp_path: Path, size: int, flip: bool) -> None:
    labels = np.arange(1, 97, dtype=np.uint16).reshape(8, 12)
    store = store_of(tmp_path, LabelRecord("a", (64, 96), labels, np.full((8, 12), 255, np.uint8)))
    # The rectangle is 4 blocks high and 8 wide; squeezed into a square, each block is size / 8 wide.
    expected = labels[1:5, 2:10].repeat(size // 4, 0).repeat(size // 8, 1)
    found = store.crop(0, (16, 8, 64, 32), size=size, flip=flip)
    np.testing.assert_array_equal(found, expected[:, ::-1] if flip else expected)


def test_a_crop_over_the_border_repeats_the_edge(tmp_path: Path) -> None:
    record = LabelRecord("a", (2, 2), np.array([[1, 2], [3, 4]], np.uint16), np.full((2, 2), 255, np.uint8))
    found = store_of(tmp_path, record).crop(0, (-1, -1, 4, 4), size=4)
    assert found.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
