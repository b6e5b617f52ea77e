"""What the masks of a split hold: sizes of objects, categories an image, which of them come together, where they are."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.folders import png_names
from luss.benchmark.pool import in_chunks
from luss.data.imagenet_s import BACKGROUND, IGNORE, read_mask
from luss.errors import LussError

CELLS = 32
"""Cells a side of the map of where objects are."""

Integers = NDArray[np.int64]


@dataclass
class MaskCounts:
    """Counts over masks; those of several lots add up.

    Attributes:
        images: By category 0..C, masks that hold it.
        pixels: By category 0..C, its pixels; one more entry at the end for those that nothing counts.
        sizes: (101,) objects, that is a category in a mask, by the percentage of counted pixels that they cover, rounded up (1..100).
        categories: Number of categories to number of masks.
        together: Two categories, the smaller id first, to number of masks that hold both.
        inside: (CELLS, CELLS) masks whose pixel in the middle of each cell is of a category.
        counted: The same for pixels that count at all.
        shapes: (height, width) to number of masks.
        problems: A line for each mask that cannot be used.
    """

    images: Integers
    pixels: Integers
    sizes: Integers = field(default_factory=lambda: np.zeros(101, np.int64))
    categories: Counter[int] = field(default_factory=Counter)
    together: Counter[tuple[int, int]] = field(default_factory=Counter)
    inside: Integers = field(default_factory=lambda: np.zeros((CELLS, CELLS), np.int64))
    counted: Integers = field(default_factory=lambda: np.zeros((CELLS, CELLS), np.int64))
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, num_categories: int) -> "MaskCounts":
        """Of no mask, for C categories."""
        return cls(np.zeros(num_categories + 1, np.int64), np.zeros(num_categories + 2, np.int64))

    @property
    def num_masks(self) -> int:
        """Masks that were counted."""
        return self.shapes.total()

    def add(self, other: "MaskCounts") -> None:
        """Adds the counts of other masks."""
        self.images += other.images
        self.pixels += other.pixels
        self.sizes += other.sizes
        self.inside += other.inside
        self.counted += other.counted
        self.categories.update(other.categories)
        self.together.update(other.together)
        self.shapes.update(other.shapes)
        self.problems += other.problems

    def count(self, mask: NDArray[np.integer]) -> None:
        """Counts one mask, (H, W) ids in 0..C and 1000.

        Raises:
            LussError: It holds another id.
        """
        highest = len(self.images) - 1
        pixels = np.bincount(mask.ravel(), minlength=IGNORE + 1)
        foreign = np.flatnonzero(pixels)
        foreign = foreign[(foreign > highest) & (foreign != IGNORE)]
        if foreign.size:
            raise LussError(f"the mask holds ids outside 0..{highest}: {', '.join(map(str, foreign[:5]))}")
        own, ignored = pixels[: highest + 1], int(pixels[IGNORE])
        present = np.flatnonzero(own[1:]) + 1
        self.shapes[mask.shape[0], mask.shape[1]] += 1
        self.images += own > 0
        self.pixels += np.append(own, ignored)
        # As the size groups of the benchmark.
        percent = np.ceil(np.float32(100) * own[present].astype(np.float32) / np.float32(max(1, own.sum())))
        np.add.at(self.sizes, percent.astype(np.int64), 1)
        self.categories[len(present)] += 1
        self.together.update(combinations(present.tolist(), 2))
        rows, columns = ((np.arange(CELLS) + 0.5) * extent // CELLS for extent in mask.shape)
        cells = mask[rows.astype(np.int64)[:, None], columns.astype(np.int64)]
        self.inside += (cells != BACKGROUND) & (cells != IGNORE)
        self.counted += cells != IGNORE


@dataclass(frozen=True)
class _MaskTask:
    """What a worker does with some masks of a folder."""

    folder: Path
    num_categories: int

    def __call__(self, names: list[str]) -> MaskCounts:
        found = MaskCounts.empty(self.num_categories)
        for name in names:
            try:
                found.count(read_mask(self.folder / name))
            except LussError as error:
                found.problems.append(f"{name}: {error}")
        return found


def count_masks(
    folder: Path,
    num_categories: int,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MaskCounts:
    """Counts all masks of a split, each read once; the counts are those of one process whatever `workers` is.

    Args:
        folder: `<category>/<name>.png`.
        num_categories: C, 1..999.
        workers: At most so many processes.
        progress: Told (masks done, masks in all).

    Raises:
        LussError: The folder is absent, or C is out of range.
    """
    if not 1 <= num_categories < IGNORE:
        raise LussError(f"the number of categories must lie in 1..{IGNORE - 1}, not {num_categories}")
    names, total, done = sorted(png_names(folder, "masks")), MaskCounts.empty(num_categories), 0
    for chunk, counts in in_chunks(_MaskTask(folder, num_categories), names, workers):
        total.add(counts)
        done += len(chunk)
        progress(done, len(names))
    return total
