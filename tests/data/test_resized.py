"""Whole images at inference sizes, in batches of one shape."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from luss.data.manifest import Manifest, build_manifest
from luss.data.resized import (
    ResizedBatch,
    cropped_batches,
    nearest_multiple,
    resized_batches,
    shape_batches,
    target_size,
)
from luss.data.skipped import SkippedFiles
from luss.settings import ExtractFeaturesSettings, WholeImageSettings

SIZES = [(80, 60), (60, 80), (80, 60), (50, 50), (300, 20), (81, 60), (64, 64)]


def gradient(width: int, height: int) -> Image.Image:
    """Red says the column and green the row, as shares of the image; blue is constant."""
    red = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    green = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    return Image.fromarray((np.stack([red, green, np.full_like(red, 0.5)], axis=2) * 255).round().astype(np.uint8))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    root = tmp_path / "images"
    root.mkdir()
    for index, size in enumerate(SIZES):
        gradient(*size).save(root / f"{index}.png")
    build_manifest(root, tmp_path / "manifest", "train", skipped=SkippedFiles(tmp_path / "skipped.csv"))
    return Manifest.open(tmp_path / "manifest", "train")


def resized(manifest: Manifest, indices: list[int], *, workers: int = 0, batch_size: int = 3) -> list[ResizedBatch]:
    return list(
        resized_batches(
            manifest,
            indices,
            WholeImageSettings(short_side=32, size_multiple=8, max_aspect=4.0, batch_size=batch_size, workers=workers),
            max_pixels=100_000,
        )
    )


def cropped(manifest: Manifest, indices: list[int], *, resize: int = 40, crop: int = 32) -> list[ResizedBatch]:
    return list(
        cropped_batches(
            manifest,
            indices,
            ExtractFeaturesSettings(resize=resize, crop=crop, batch_size=3, workers=0),
            max_pixels=100_000,
        )
    )


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((500, 375), {}, (341, 256)),
        ((375, 500), {}, (256, 341)),
        ((300, 300), {}, (256, 256)),
        ((10, 20), {}, (256, 512)),
        ((500, 375), {"size_multiple": 16}, (336, 256)),
        ((375, 500), {"size_multiple": 16}, (256, 336)),
        ((505, 500), {"size_multiple": 32}, (256, 256)),
        ((10_000, 100), {}, (2048, 256)),
        ((100, 10_000), {"max_aspect": 2.0}, (256, 512)),
    ],
)
def test_the_short_side_is_given_and_the_long_one_follows(
    size: tuple[int, int], options: dict[str, float], expected: tuple[int, int]
) -> None:
    assert target_size(*size, short_side=256, **options) == expected  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 8, 16]), st.sampled_from([1.0, 2.0, 8.0]))
def test_targets_keep_orientation_and_aspect_up_to_rounding(
    width: int, height: int, multiple: int, max_aspect: float
) -> None:
    target = target_size(width, height, short_side=64, size_multiple=multiple, max_aspect=max_aspect)
    assert min(target) == 64
    assert (target[0] >= target[1]) == (width >= height) or target[0] == target[1]
    assert max(target) % multiple == 0
    wanted = 64 * min(max(width, height) / min(width, height), max_aspect)
    assert abs(max(target) - wanted) <= max(1, multiple / 2)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((500, 375), {"multiple": 14}, (336, 252)),
        ((375, 500), {"multiple": 16}, (256, 336)),
        ((500, 375), {"multiple": 14, "size_multiple": 16}, (336, 252)),
        ((500, 375), {"multiple": 14, "size_multiple": 32}, (336, 252)),
        ((10_000, 100), {"multiple": 14}, (2016, 252)),
        ((300, 300), {"multiple": 600}, (600, 600)),
    ],
)
def test_both_sides_are_multiples_of_what_the_network_takes(
    size: tuple[int, int], options: dict[str, int], expected: tuple[int, int]
) -> None:
    found = target_size(*size, short_side=256, **options)
    assert found == expected
    assert all(side % options["multiple"] == 0 for side in found)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([2, 14, 32]), st.sampled_from([1, 8, 16]))
def test_every_image_can_pass_a_network_of_patches(width: int, height: int, multiple: int, size_multiple: int) -> None:
    target = target_size(width, height, short_side=64, multiple=multiple, size_multiple=size_multiple, max_aspect=4.0)
    assert min(target) == nearest_multiple(64, multiple)
    assert all(side % multiple == 0 for side in target)
    assert (target[0] >= target[1]) == (width >= height) or target[0] == target[1]


def test_batches_and_crops_have_the_sides_that_the_network_takes(manifest: Manifest) -> None:
    whole = WholeImageSettings(short_side=32, size_multiple=8, max_aspect=4.0, batch_size=3, workers=0)
    square = ExtractFeaturesSettings(resize=40, crop=32, batch_size=3, workers=0)
    indices = list(range(7))
    for batch in resized_batches(manifest, indices, whole, max_pixels=100_000, multiple=14):
        assert min(batch.images.shape[2:]) == 28
        assert all(side % 14 == 0 for side in batch.images.shape[2:])
    crops = list(cropped_batches(manifest, indices, square, max_pixels=100_000, multiple=14))
    assert all(batch.images.shape[2:] == (28, 28) for batch in crops)


def test_batches_have_one_shape_and_cover_every_index_once() -> None:
    sizes = [(64, 64), (64, 128), (64, 64), (512, 64), (64, 64), (64, 128), (64, 128), (64, 64)]
    indices = [10, 11, 12, 13, 14, 15, 16, 17]
    of = dict(zip(indices, sizes, strict=True))
    found = shape_batches(sizes, indices, 3)
    assert sorted(index for batch in found for index in batch) == indices
    assert all(len({of[index] for index in batch}) == 1 for batch in found)
    # Larger shapes come in smaller batches.
    assert max(len(batch) for batch in found if of[batch[0]] == (64, 64)) == 3
    assert max(len(batch) for batch in found if of[batch[0]] == (64, 128)) == 1
    assert shape_batches(sizes, indices, 3) == found


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_once_at_its_target_size(manifest: Manifest, workers: int) -> None:
    batches = resized(manifest, list(range(7)), workers=workers)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(7))
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        for index in batch.indices:
            width, height = target_size(*SIZES[index], short_side=32, size_multiple=8, max_aspect=4.0)
            assert batch.images.shape[1:] == (3, height, width)
    assert any(len(batch.indices) > 1 for batch in batches)


def test_only_the_asked_images_come(manifest: Manifest) -> None:
    assert sorted(index for batch in resized(manifest, [5, 2]) for index in batch.indices) == [2, 5]
    assert resized(manifest, []) == []


def test_a_resized_image_shows_all_of_it(manifest: Manifest) -> None:
    for batch in resized(manifest, list(range(7))):
        for image in batch.images:
            _, height, width = image.shape
            red = (torch.arange(width) + 0.5) / width * 255
            green = (torch.arange(height) + 0.5) / height * 255
            torch.testing.assert_close(image[0].float(), red.expand(height, -1), atol=4, rtol=0)
            torch.testing.assert_close(image[1].float(), green[:, None].expand(-1, width), atol=4, rtol=0)


@pytest.mark.parametrize("crop", [False, True])
def test_an_image_that_cannot_be_read_is_left_out_and_reported(manifest: Manifest, crop: bool) -> None:
    manifest.path(2).write_bytes(b"no image")
    manifest.path(4).unlink()
    batches = cropped(manifest, list(range(7))) if crop else resized(manifest, list(range(7)))
    assert sorted(index for batch in batches for index in batch.indices) == [0, 1, 3, 5, 6]
    assert all(len(batch.images) == len(batch.indices) for batch in batches)
    bad = sorted(entry for batch in batches for entry in batch.unreadable)
    assert [(index, Path(path).name) for index, path, _ in bad] == [(2, "2.png"), (4, "4.png")]
    assert all(reason for _, _, reason in bad)


@pytest.mark.parametrize("crop", [False, True])
def test_a_batch_of_which_nothing_can_be_read_is_empty(manifest: Manifest, crop: bool) -> None:
    manifest.path(3).write_bytes(b"")
    (batch,) = cropped(manifest, [3]) if crop else resized(manifest, [3])
    assert batch.indices == []
    assert len(batch.images) == 0
    assert [entry[0] for entry in batch.unreadable] == [3]


def test_crops_are_squares_in_the_order_asked_for(manifest: Manifest) -> None:
    batches = cropped(manifest, [6, 0, 4, 1])
    assert [batch.indices for batch in batches] == [[6, 0, 4], [1]]
    assert all(batch.images.shape[1:] == (3, 32, 32) for batch in batches)


@pytest.mark.parametrize(("resize", "crop"), [(40, 32), (32, 32), (40, 10)])
def test_a_crop_is_the_middle_of_the_resized_image(manifest: Manifest, resize: int, crop: int) -> None:
    for index, (width, height) in enumerate(SIZES):
        (batch,) = cropped(manifest, [index], resize=resize, crop=crop)
        side = min(width, height) * crop / resize
        places = (torch.arange(crop) + 0.5) / crop - 0.5
        red = (0.5 + places * side / width) * 255
        green = (0.5 + places * side / height) * 255
        torch.testing.assert_close(batch.images[0, 0].float(), red.expand(crop, -1), atol=5, rtol=0)
        torch.testing.assert_close(batch.images[0, 1].float(), green[:, None].expand(-1, crop), atol=5, rtol=0)
