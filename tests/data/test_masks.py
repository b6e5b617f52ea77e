"""Patch masks against masks and statistics of the published generators, and at the ends of their ranges."""

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from luss.data import masks
from luss.data.masks import draw_mask, draw_masks, hide_blocks, hide_by_noise
from luss.settings import MaskSettings

pytestmark = pytest.mark.slow

GRID = (14, 14)
UNIFORM, BLOCK, EXACT = MaskSettings("uniform"), MaskSettings("block"), MaskSettings("exact_block")
IBOT = MaskSettings("block", ratio=(0.1, 0.5), probability=0.5)
CAE = MaskSettings("exact_block", ratio=(0.5, 0.5))


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray[Any]]:
    with np.load(Path(__file__).parents[1] / "golden" / "masks.npz") as arrays:
        return dict(arrays)


class Published:
    """The random numbers of the published generators, which use Python's own source, under numpy's names."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)
        self.random, self.uniform = self.source.random, self.source.uniform

    def integers(self, stop: int) -> int:
        return self.source.randint(0, stop - 1)

    def numpy(self) -> np.random.Generator:
        return cast(np.random.Generator, self)


def samples(golden: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.bool_]:
    """48 published masks."""
    return np.unpackbits(golden[f"{name}/samples"], axis=1, count=196).reshape(-1, *GRID).astype(bool)


def drawn(settings: MaskSettings, count: int = 4000, grid: tuple[int, int] = GRID) -> NDArray[np.bool_]:
    generator = np.random.default_rng(0)
    return np.stack([draw_mask(generator, grid, settings) for _ in range(count)])


def agreement(found: NDArray[np.bool_]) -> float:
    """Share of pairs of neighbouring patches that are both hidden or both shown."""
    same = (found[:, 1:] == found[:, :-1]).sum() + (found[:, :, 1:] == found[:, :, :-1]).sum()
    return float(same / (found[:, 1:].size + found[:, :, 1:].size))


# Against the published generators


@pytest.mark.parametrize(
    ("name", "seed", "settings", "ratio"),
    [("ibot_0.3", 7, BLOCK, 0.3), ("ibot_0.5", 7, BLOCK, 0.5), ("cae", 9, EXACT, 0.5)],
)
def test_the_published_random_numbers_give_the_published_masks(
    golden: Mapping[str, NDArray[Any]], name: str, seed: int, settings: MaskSettings, ratio: float
) -> None:
    source = Published(seed).numpy()
    for expected in samples(golden, name):
        np.testing.assert_array_equal(hide_blocks(source, GRID, ratio, settings), expected)


def test_the_published_ratios_between_two_ends_give_the_published_masks(golden: Mapping[str, NDArray[Any]]) -> None:
    published = Published(7)
    for expected in samples(golden, "ibot_0.1_to_0.5"):
        # iBOT draws a ratio even for a view that it then does not mask.
        ratio = published.source.choice([0.0, published.uniform(0.1, 0.5)])
        np.testing.assert_array_equal(hide_blocks(published.numpy(), GRID, ratio, BLOCK), expected)


def test_the_published_noise_gives_the_published_mask(golden: Mapping[str, NDArray[Any]]) -> None:
    found = hide_by_noise(golden["mae/noise"], 0.75)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, golden["mae/mask"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ibot_0.1_to_0.5", IBOT),
        ("ibot_0.3", MaskSettings("block", ratio=(0.3, 0.3))),
        ("ibot_0.5", MaskSettings("block", ratio=(0.5, 0.5))),
    ],
)
def test_as_many_patches_are_hidden_as_often_as_published(
    golden: Mapping[str, NDArray[Any]], name: str, settings: MaskSettings
) -> None:
    found = np.bincount(drawn(settings).sum(axis=(1, 2)), minlength=197)
    distributions = [np.cumsum(counts) / counts.sum() for counts in (golden[f"{name}/counts"], found)]
    # The largest gap of two such samples of one distribution passes 0.033 once in a thousand times.
    assert np.abs(distributions[0] - distributions[1]).max() < 0.033


@pytest.mark.parametrize(("name", "settings"), [("ibot_0.1_to_0.5", IBOT), ("cae", CAE)])
def test_every_place_is_hidden_as_often_as_published(
    golden: Mapping[str, NDArray[Any]], name: str, settings: MaskSettings
) -> None:
    # A standard error of at most 0.0094, 196 times.
    np.testing.assert_allclose(drawn(settings).mean(axis=0), golden[f"{name}/frequency"], atol=0.035)


@pytest.mark.parametrize(("settings", "published"), [(IBOT, 0.9077), (CAE, 0.8819)])
def test_neighbours_are_hidden_together_as_often_as_published(settings: MaskSettings, published: float) -> None:
    found = drawn(settings)
    # A mask's own agreement varies by 0.022 to 0.03.
    assert agreement(found[found.any(axis=(1, 2))]) == pytest.approx(published, abs=0.003)


def test_uniform_masks_hide_every_place_alike_and_no_neighbours_together() -> None:
    found = drawn(UNIFORM)
    np.testing.assert_allclose(found.mean(axis=0), 0.75, atol=0.032)
    # Of 195 others 146 are hidden with a hidden patch, 48 shown with a shown one.
    assert agreement(found) == pytest.approx(0.75 * 146 / 195 + 0.25 * 48 / 195, abs=0.002)


# Counts


@pytest.mark.parametrize("kind", ["uniform", "exact_block"])
@pytest.mark.parametrize("grid", [(14, 14), (2, 3), (2, 5), (9, 4), (1, 7), (1, 1)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.75, 0.9, 1.0])
def test_exact_masks_show_their_share_rounded_down(kind: Any, grid: tuple[int, int], ratio: float) -> None:
    size = grid[0] * grid[1]
    found = drawn(MaskSettings(kind, ratio=(ratio, ratio)), 20, grid)
    assert found.shape == (20, *grid)
    assert found.dtype == np.bool_
    # In thousandths, because 1 - 0.9 is a little less than 0.1.
    assert set((~found).sum(axis=(1, 2))) == {size * round(1000 - 1000 * ratio) // 1000}


@pytest.mark.parametrize("grid", [(14, 14), (2, 3), (9, 4), (1, 7), (6, 31)])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 1.0])
def test_blocks_never_hide_more_than_their_share(grid: tuple[int, int], ratio: float) -> None:
    found = drawn(MaskSettings("block", ratio=(ratio, ratio), least_block=2), 100, grid)
    assert found.sum(axis=(1, 2)).max() <= ratio * grid[0] * grid[1]
    # A block is smaller than the grid in both directions.
    assert found.any() == (ratio > 0 and min(grid) > 1)


def test_ratios_are_drawn_evenly_between_their_ends() -> None:
    shares = drawn(MaskSettings("uniform", ratio=(0.2, 0.6)), 2000, (20, 50)).mean(axis=(1, 2))
    assert 0.2 <= shares.min() < 0.205
    assert 0.595 < shares.max() <= 0.601
    np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.3, 0.4, 0.5], atol=0.02)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 0.26, 0.34), (1.0, 1, 1)])
def test_views_are_masked_as_often_as_asked(probability: float, low: float, high: float) -> None:
    found = drawn(MaskSettings(probability=probability), 2000, (4, 4))
    assert low <= found.any(axis=(1, 2)).mean() <= high


# Blocks


def is_rectangle(mask: NDArray[np.bool_]) -> bool:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return bool(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())


def test_a_block_has_at_least_its_smallest_area_and_an_aspect_within_its_limits() -> None:
    settings = MaskSettings("block", ratio=(0.02, 0.02), least_block=60, aspect=(0.5, 3.0))
    # 60 to 80 patches of 4000: a second block fits only where it happens to overlap the first.
    found = drawn(settings, 600, (40, 100))
    found = found[[is_rectangle(mask) for mask in found]]
    assert len(found) > 400
    heights, widths = found.any(axis=2).sum(axis=1), found.any(axis=1).sum(axis=1)
    assert (heights * widths).min() >= 54  # sides are rounded
    assert (heights / widths).min() == pytest.approx(0.5, abs=0.1)
    assert (heights / widths).max() == pytest.approx(3, abs=0.4)
    # Even in the logarithm: half of the blocks are above the geometric mean of the limits.
    assert (heights / widths > 1.5**0.5).mean() == pytest.approx(0.5, abs=0.07)


def test_an_exact_count_that_blocks_do_not_reach_is_filled_up_patch_by_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_TRIES_EXACT", 0)
    found = drawn(CAE, 500)
    assert set(found.sum(axis=(1, 2))) == {98}
    np.testing.assert_allclose(found.mean(axis=0), 0.5, atol=0.1)


# Where they come from


@pytest.mark.parametrize("settings", [UNIFORM, IBOT, CAE])
def test_a_mask_is_a_function_of_the_generator_s_state_alone(settings: MaskSettings) -> None:
    first, again, other = (draw_mask(np.random.default_rng(seed), (7, 9), settings) for seed in (3, 3, 5))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_is_drawn_after_a_mask_does_not_depend_on_the_mask() -> None:
    following = set()
    for settings in (UNIFORM, IBOT, CAE, MaskSettings(probability=0.0)):
        generator = np.random.default_rng(5)
        draw_mask(generator, GRID, settings)
        following.add(generator.random())
    assert len(following) == 1


def test_settings_and_noise_are_left_alone() -> None:
    noise = np.random.default_rng(0).random((3, 16))
    before = noise.copy()
    hide_by_noise(noise, 0.5)
    np.testing.assert_array_equal(noise, before)
    settings = MaskSettings("block", ratio=(0.1, 0.5))
    copy = dataclasses.replace(settings)
    draw_masks(np.random.default_rng(0), GRID, settings, count=2)
    assert settings == copy


def test_equal_noise_still_hides_an_exact_count() -> None:
    assert hide_by_noise(np.zeros((2, 8)), 0.75).sum(axis=1).tolist() == [6, 6]


# Groups of views


def test_views_of_a_group_are_masked_each_by_itself() -> None:
    found = draw_masks(np.random.default_rng(0), GRID, UNIFORM, count=4)
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(found, [draw_mask(generator, GRID, UNIFORM) for _ in range(4)])
    assert len({mask.tobytes() for mask in found}) == 4
    assert draw_masks(np.random.default_rng(0), GRID, UNIFORM, count=0).shape == (0, 14, 14)


def test_complementary_views_together_show_everything_once() -> None:
    settings = MaskSettings(ratio=(0.75, 0.75), complementary=True)
    found = draw_masks(np.random.default_rng(0), GRID, settings, count=5)
    assert found.sum(axis=(1, 2)).tolist() == [147, 49, 147, 49, 147]
    assert (found[0] ^ found[1]).all()
    assert (found[2] ^ found[3]).all()
    assert not np.array_equal(found[0], found[2])


def test_a_view_that_is_shown_whole_has_a_complementary_partner_that_is_too() -> None:
    settings = MaskSettings(probability=0.5, complementary=True)
    generator = np.random.default_rng(0)
    pairs = np.stack([draw_masks(generator, (4, 4), settings, count=2) for _ in range(40)])
    assert set(pairs.sum(axis=(2, 3)).flatten()) == {0, 4, 12}
    assert set(pairs.sum(axis=(1, 2, 3))) == {0, 16}
