"""What is counted over masks, against counting pixel by pixel."""

import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from luss.benchmark.masks import CELLS, MaskCounts, count_masks
from luss.data.imagenet_s import write_mask
from luss.errors import LussError

NUM_CATEGORIES = 4


def made(number: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(number):
        mask = random.choice([0, 0, 1, 2, 3, 1000], (random.integers(3, 9), random.integers(3, 9)))
        mask[:2, :2] = random.choice([0, 4])
        found.append(mask)
    return found


def test_counts_are_those_of_a_walk_over_all_pixels() -> None:
    counts = MaskCounts.empty(NUM_CATEGORIES)
    pixels, images, sizes, number_of, pairs = Counter(), Counter(), Counter(), Counter(), Counter()
    masks = made(30)
    for mask in masks:
        counts.count(mask)
        own = Counter(mask.ravel().tolist())
        pixels.update(own)
        present = sorted(set(own) - {0, 1000})
        images.update(set(own) - {1000})
        sizes.update(math.ceil(round(100 * own[c] / (mask.size - own[1000]), 4)) for c in present)
        number_of[len(present)] += 1
        pairs.update(combinations(present, 2))
    assert counts.pixels.tolist() == [pixels[i] for i in (0, 1, 2, 3, 4, 1000)]
    assert counts.images.tolist() == [images[i] for i in range(5)]
    assert counts.sizes.tolist() == [sizes[i] for i in range(101)]
    assert counts.categories == number_of
    assert counts.together == pairs
    assert counts.num_masks == 30
    assert counts.shapes == Counter(mask.shape for mask in masks)


def test_the_map_of_places_says_where_objects_are() -> None:
    counts = MaskCounts.empty(1)
    mask = np.zeros((2 * CELLS, 3 * CELLS), int)
    mask[: CELLS // 2] = 1
    mask[:, -3:] = 1000
    counts.count(mask)
    assert counts.inside[: CELLS // 4, : CELLS - 1].all()
    assert not counts.inside[CELLS // 4 :].any()
    assert counts.counted[:, -1].sum() == 0
    assert counts.counted.sum() == CELLS * (CELLS - 1)


def test_folders_are_counted_alike_by_any_number_of_processes_and_damaged_masks_are_named(tmp_path: Path) -> None:
    for index, mask in enumerate(made(66)):
        write_mask(tmp_path / "a" / f"{index:02}.png", mask)
    (tmp_path / "a" / "07.png").write_bytes(b"cut")
    write_mask(tmp_path / "a" / "08.png", np.full((2, 2), 9))
    told: list[tuple[int, int]] = []
    alone = count_masks(tmp_path, NUM_CATEGORIES, progress=lambda *numbers: told.append(numbers))
    together = count_masks(tmp_path, NUM_CATEGORIES, workers=2)
    assert alone.num_masks == 64
    assert [problem.partition(":")[0] for problem in alone.problems] == ["a/07.png", "a/08.png"]
    assert "ids outside 0..4: 9" in alone.problems[1]
    assert told[-1] == (66, 66)
    for name, value in vars(alone).items():
        np.testing.assert_equal(vars(together)[name], value)


def test_more_categories_than_a_mask_can_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"1\.\.999"):
        count_masks(tmp_path, 1000)
