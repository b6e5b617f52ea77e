"""Views: where they are cut, that only the sample decides what is random, and the order of batches."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from luss.data import views
from luss.data.images import UnreadableImage, read_image
from luss.data.manifest import Manifest, build_manifest
from luss.data.order import RemainingBatches, epoch_order
from luss.data.skipped import SkippedFiles
from luss.data.views import (
    ImageSource,
    ViewDataset,
    ViewGroup,
    Views,
    cut,
    draw_rectangle,
    first_readable,
    sample_generator,
)
from luss.errors import LussError
from luss.settings import MaskSettings, ViewSettings, no_colours

SIZES = [(60, 40), (40, 60), (50, 50), (30, 90), (64, 48), (33, 47)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours, so that resized pictures can be compared."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def manifest_of(folder: Path, sizes: list[tuple[int, int]], name: str = "train", seed: int = 0) -> Manifest:
    root = folder / f"images-{name}"
    root.mkdir()
    for index, (width, height) in enumerate(sizes):
        picture(width, height, seed + index).save(root / f"{index}.png")
    build_manifest(root, folder / "manifest", name, skipped=SkippedFiles(folder / f"skipped-{name}.csv"))
    return Manifest.open(folder / "manifest", name)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return manifest_of(tmp_path, SIZES)


GROUPS = (ViewSettings(2, 24, (0.14, 1.0)), ViewSettings(3, 16, (0.05, 0.14)))


def dataset(*manifests: Manifest, groups: tuple[ViewSettings, ...] = GROUPS, seed: int = 3) -> ViewDataset:
    return ViewDataset(manifests, groups, seed=seed, max_pixels=100_000, patch=8)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (Views, ViewGroup)):
        return same(vars(one), vars(other))
    return bool(one == other)


# Rectangles


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.sampled_from([(0.08, 1.0), (0.05, 0.14), (0.3, 0.3)]),
    st.integers(0, 9),
)
def test_rectangles_lie_inside_the_image_at_whole_pixels(
    width: int, height: int, scale: tuple[float, float], seed: int
) -> None:
    left, top, crop_width, crop_height = draw_rectangle(np.random.default_rng(seed), width, height, scale)
    assert 0 <= left <= left + crop_width <= width
    assert 0 <= top <= top + crop_height <= height
    assert crop_width >= 1
    assert crop_height >= 1
    assert all(float(value).is_integer() for value in (left, top, crop_width, crop_height))


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.05, 0.14), (0.14, 1.0)])
def test_areas_and_aspects_stay_within_their_limits_and_fill_them(scale: tuple[float, float]) -> None:
    generator = np.random.default_rng(0)
    rectangles = np.array([draw_rectangle(generator, 500, 400, scale) for _ in range(600)])
    areas = rectangles[:, 2] * rectangles[:, 3] / (500 * 400)
    aspects = rectangles[:, 2] / rectangles[:, 3]
    span = scale[1] - scale[0]
    assert scale[0] * 0.98 <= areas.min() < scale[0] + 0.1 * span
    assert scale[1] - 0.2 * span < areas.max() <= min(1.0, scale[1] * 1.02)
    assert 0.74 <= aspects.min() < 0.8
    assert 1.25 < aspects.max() <= 1.36
    # Corners are drawn evenly over where the crop fits.
    free = (rectangles[:, :2] / np.maximum(1, np.array([500, 400]) - rectangles[:, 2:4]))[areas < 0.5]
    np.testing.assert_allclose(free.mean(axis=0), 0.5, atol=0.06)


def test_aspects_are_even_in_their_logarithm_so_that_wide_and_tall_crops_are_as_frequent() -> None:
    generator = np.random.default_rng(0)
    rectangles = np.array([draw_rectangle(generator, 2000, 2000, (0.1, 0.3)) for _ in range(4000)])
    logarithms = np.log(rectangles[:, 2] / rectangles[:, 3]) / math.log(4 / 3)
    # Even numbers between 3/4 and 4/3 would have a median of 0.14 and quartiles of -0.38 and 0.6; the standard error is 0.016.
    np.testing.assert_allclose(np.quantile(logarithms, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.06)


@pytest.mark.parametrize(("width", "height"), [(150, 100), (100, 240)])
def test_ten_crops_are_tried_before_the_centred_one(width: int, height: int) -> None:
    # The whole area fits at the image's own aspect only, which is beyond the limits: every try takes its area and its aspect, and fails.
    generator, reference = np.random.default_rng(3), np.random.default_rng(3)
    draw_rectangle(generator, width, height, (1.0, 1.0))
    reference.random(10 * 2)
    assert generator.random() == reference.random()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13)), ((1, 400), (0, 199, 1, 1))],
)
def test_very_long_images_give_their_largest_centred_crop(size: tuple[int, int], expected: tuple[int, ...]) -> None:
    # Half of the area never fits at these aspects.
    assert draw_rectangle(np.random.default_rng(0), *size, (0.5, 1.0)) == expected


# Cutting


def test_a_view_is_pillow_s_crop_and_resize() -> None:
    image = picture(60, 40)
    view = cut(image, (60, 40), (7, 5, 30, 20), size=(16, 12), flip=False)
    expected = image.resize((16, 12), Image.Resampling.BILINEAR, box=(7, 5, 37, 25))
    assert view.shape == (3, 12, 16)
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(view.transpose(1, 2, 0), np.asarray(expected))
    # Pillow's crop first, then resize, differs only where the filter would look beyond the crop.
    cropped = np.asarray(image.crop((7, 5, 37, 25)).resize((16, 12), Image.Resampling.BILINEAR))
    assert np.abs(view.transpose(1, 2, 0).astype(int) - cropped).max() <= 6


def test_a_crop_at_its_own_size_copies_pixels() -> None:
    image = picture(60, 40)
    view = cut(image, (60, 40), (7, 5, 30, 20), size=(30, 20), flip=False)
    np.testing.assert_array_equal(view.transpose(1, 2, 0), np.asarray(image)[5:25, 7:37])


def test_a_flipped_view_is_mirrored_left_to_right_and_stored_whole() -> None:
    image = picture(60, 40)
    plain, flipped = (cut(image, (60, 40), (7, 5, 30, 20), size=(16, 12), flip=flip) for flip in (False, True))
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    assert flipped.flags.c_contiguous


@pytest.mark.parametrize("rectangle", [(0, 0, 403, 301), (100, 40, 200, 200), (203, 101, 200, 200)])
def test_an_image_decoded_at_a_reduced_size_gives_nearly_the_same_view(
    tmp_path: Path, rectangle: tuple[float, float, float, float]
) -> None:
    # Odd sides: the decoder rounds them up, and right and bottom edges must not fall outside.
    picture(403, 301).save(tmp_path / "a.jpg", quality=95)
    whole, reduced = read_image(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg", min_side=75)
    assert reduced.width < whole.width / 3
    one, other = (
        cut(image, (403, 301), rectangle, size=(32, 32), flip=False).astype(int) for image in (whole, reduced)
    )
    assert np.abs(one - other).mean() < 3


# Samples


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone(manifest: Manifest) -> None:
    data = dataset(manifest)
    first = data[2, 4]
    assert data[0, 1]["index"] == 1  # other samples in between change nothing
    assert same(data[2, 4], first)
    assert same(dataset(manifest)[2, 4], first)
    for other in (data[3, 4], dataset(manifest, seed=4)[2, 4]):
        assert not same(other["groups"][0][1], first["groups"][0][1])
    assert not same(data[2, 3]["groups"][0][3], first["groups"][0][3])


def test_generators_of_different_samples_are_independent() -> None:
    values = {sample_generator(*key).random() for key in itertools.product(range(4), repeat=3)}
    assert len(values) == 64


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(manifest: Manifest, workers: int) -> None:
    data = dataset(manifest)
    batches = [[(1, 0), (1, 3)], [(1, 5), (1, 2)]]

    def load(count: int) -> list[Views]:
        return list(DataLoader(data, batch_sampler=batches, num_workers=count, collate_fn=data.collate))

    assert same(load(workers), load(0))


def test_a_batch_holds_every_view_with_its_geometry(manifest: Manifest) -> None:
    data = dataset(manifest)
    batch = data.collate([data[0, index] for index in (4, 1)])
    assert [tuple(group.images.shape) for group in batch.groups] == [(2, 2, 3, 24, 24), (3, 2, 3, 16, 16)]
    assert [tuple(group.rectangles.shape) for group in batch.groups] == [(2, 2, 4), (3, 2, 4)]
    assert [tuple(group.colours.shape) for group in batch.groups] == [(2, 2, 7), (3, 2, 7)]
    assert [group.masks for group in batch.groups] == [None, None]
    assert batch.indices.tolist() == [4, 1]
    assert batch.sizes.tolist() == [list(SIZES[4]), list(SIZES[1])]
    assert batch.unreadable == []
    for place, index in enumerate((4, 1)):
        image = read_image(manifest.path(index))
        for group, settings_ in enumerate(GROUPS):
            for view in range(settings_.count):
                rectangle = tuple(batch.groups[group].rectangles[view, place].tolist())
                flip = bool(batch.groups[group].flips[view, place])
                expected = cut(image, image.size, rectangle, size=(settings_.size,) * 2, flip=flip)
                np.testing.assert_array_equal(batch.groups[group].images[view, place].numpy(), expected)
                area = rectangle[2] * rectangle[3] / math.prod(image.size)
                assert area <= settings_.scale[1] * 1.1 or settings_.scale[1] == 1.0


def test_half_of_the_views_are_mirrored_and_none_of_a_group_without_flips_and_colours(manifest: Manifest) -> None:
    groups = (ViewSettings(4, 8, (0.5, 1.0)), ViewSettings(4, 8, (0.5, 1.0), flip=0.0, colours=no_colours()))
    data = dataset(manifest, groups=groups)
    batch = data.collate([data[epoch, 0] for epoch in range(60)])
    assert 0.4 < float(batch.groups[0].flips.float().mean()) < 0.6
    assert not batch.groups[1].flips.any()
    unchanged = torch.tensor([1.0, 1, 1, 0, 0, 0, 0])
    assert (batch.groups[1].colours == unchanged).all()
    assert (batch.groups[0].colours != unchanged).any(dim=2).float().mean() > 0.7


def test_a_group_that_shows_whole_images_shows_them(manifest: Manifest) -> None:
    data = dataset(manifest, groups=(ViewSettings(1, 20, (1.0, 1.0)),))
    sample = data[0, 2]
    assert sample["groups"][0][1].tolist() == [[0, 0, 50, 50]]


# Images of several manifests, unreadable ones


def test_indices_run_through_several_manifests(tmp_path: Path) -> None:
    first, second = manifest_of(tmp_path, SIZES[:2], "one"), manifest_of(tmp_path, SIZES[2:5], "two", seed=7)
    source = ImageSource([first, second], max_pixels=100_000)
    assert len(source) == 5
    assert [source.locate(index) for index in range(5)] == [
        (first, 0),
        (first, 1),
        (second, 0),
        (second, 1),
        (second, 2),
    ]
    for index, size in enumerate(SIZES[:5]):
        image, original, _ = source.read(index)
        assert image.size == original == size
    assert len(dataset(first, second)) == 5


def test_an_image_that_cannot_be_read_is_replaced_by_its_successor_and_reported(manifest: Manifest) -> None:
    for index in (4, 5):
        manifest.path(index).write_bytes(b"no image")
    data = dataset(manifest)
    sample = data[0, 4]
    # After the last comes the first.
    assert sample["index"] == 0
    assert [Path(path).name for path, _ in sample["unreadable"]] == ["4.png", "5.png"]
    assert all(reason for _, reason in sample["unreadable"])
    batch = data.collate([data[0, 3], sample])
    assert batch.indices.tolist() == [3, 0]
    assert batch.unreadable == sample["unreadable"]


def test_many_unreadable_images_in_a_row_are_an_error_that_names_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_MAX_SUBSTITUTES", 5)
    tried: list[int] = []

    def read(index: int) -> tuple[Image.Image, tuple[int, int], views.Notes]:
        tried.append(index)
        raise UnreadableImage(Path(f"{index}.jpg"), "gone")

    with pytest.raises(LussError, match=r"5 images in a row .* 7\.jpg \(gone\).*mounted"):
        first_readable(7, 100, read)
    assert tried == [7, 8, 9, 10, 11]
    tried.clear()
    with pytest.raises(LussError, match="3 images in a row"):
        first_readable(1, 3, read)
    assert tried == [1, 2, 0]


# The order of batches


def batches(
    *, rank: int = 0, world_size: int = 1, first_step: int = 0, accumulate: int = 1, epochs: int = 1
) -> list[list[tuple[int, int]]]:
    order = RemainingBatches(
        27,
        seed=1,
        epochs=epochs,
        batch_size=8,
        accumulate=accumulate,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
    )
    result = list(order)
    assert len(order) == len(result)
    return result


def test_an_epoch_s_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    orders = [tuple(epoch_order(50, seed=seed, epoch=epoch).tolist()) for seed in range(2) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 6
    assert tuple(epoch_order(50, seed=1, epoch=2).tolist()) == orders[-1]


def test_an_epoch_s_batches_are_whole_and_show_no_image_twice() -> None:
    steps = batches()
    assert [len(batch) for batch in steps] == [8, 8, 8]
    assert {epoch for batch in steps for epoch, _ in batch} == {0}
    assert len({index for batch in steps for _, index in batch}) == 24


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_see_the_same_batches_whatever_their_number(world_size: int, accumulate: int) -> None:
    shares = [batches(rank=rank, world_size=world_size, accumulate=accumulate) for rank in range(world_size)]
    together = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == batches(accumulate=accumulate)
    assert {len(batch) for share in shares for batch in share} == {8 // accumulate // world_size}


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_make_up_the_global_batch(accumulate: int) -> None:
    parts = batches(accumulate=accumulate)
    whole = [list(itertools.chain(*parts[step * accumulate : (step + 1) * accumulate])) for step in range(3)]
    assert whole == batches()


@pytest.mark.parametrize("first_step", range(7))
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_skips_exactly_the_steps_done(first_step: int, accumulate: int) -> None:
    for rank in range(2):
        whole = batches(rank=rank, world_size=2, accumulate=accumulate, epochs=2)
        resumed = batches(rank=rank, world_size=2, accumulate=accumulate, epochs=2, first_step=first_step)
        assert resumed == whole[first_step * accumulate :]


def test_fewer_images_than_a_batch_make_no_batches() -> None:
    assert list(RemainingBatches(7, seed=1, epochs=3, batch_size=8)) == []


# Colours, filters and masks of each group; what a network gets


def test_every_group_has_its_own_colours_and_filter(manifest: Manifest) -> None:
    bright = no_colours()
    bright.solarise_probability = 1.0
    groups = (
        ViewSettings(1, 24, (1.0, 1.0), flip=0.0, colours=no_colours()),
        ViewSettings(1, 24, (1.0, 1.0), flip=0.0, colours=bright, interpolation="bicubic"),
    )
    data = dataset(manifest, groups=groups)
    plain, other = data.collate([data[0, 2]]).groups
    image = read_image(manifest.path(2))
    for group, resampling in ((plain, Image.Resampling.BILINEAR), (other, Image.Resampling.BICUBIC)):
        expected = np.asarray(image.resize((24, 24), resampling)).transpose(2, 0, 1)
        np.testing.assert_array_equal(group.images[0, 0].numpy(), expected)
    assert plain.colours[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert other.colours[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 1]


def test_masks_are_part_of_the_sample_and_change_no_other_draw(manifest: Manifest) -> None:
    masked = tuple(ViewSettings(g.count, g.size, g.scale, mask=MaskSettings(ratio=(0.5, 0.5))) for g in GROUPS)
    data = dataset(manifest, groups=masked)
    batch, again = (data.collate([data[1, 4], data[1, 0]]) for _ in range(2))
    unmasked = dataset(manifest).collate([dataset(manifest)[1, 4], dataset(manifest)[1, 0]])
    for group, same_group, plain, side in zip(batch.groups, again.groups, unmasked.groups, (3, 2), strict=True):
        assert group.masks is not None
        assert group.masks.shape == (group.count, 2, side, side)
        assert (group.masks.flatten(2).sum(dim=2) == side * side - side * side // 2).all()
        assert same(group, same_group)
        assert torch.equal(group.images, plain.images)
        assert torch.equal(group.colours, plain.colours)


def test_prepared_views_are_normalised_and_stay_one_tensor_a_group(manifest: Manifest) -> None:
    groups = (ViewSettings(2, 24, flip=0.0, colours=no_colours()), ViewSettings(3, 16, colours=no_colours()))
    data = dataset(manifest, groups=groups)
    batch = data.collate([data[0, 1], data[0, 3]])
    ready = batch.prepared(torch.device("cpu"), lambda images: images * 2 - 1)
    for before, after in zip(batch.groups, ready.groups, strict=True):
        torch.testing.assert_close(after.images, before.images.float() / 255 * 2 - 1)
        assert after.flat().data_ptr() == after.images.data_ptr()
        assert torch.equal(after.flat()[1], after.images[0, 1])
