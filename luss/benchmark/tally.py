"""Sparse sums: whole numbers added up under whole-number keys, merged without regard to order.

A table over (cluster, category, level) would be dense only in theory; a data set fills a small part of it. A tally
holds that part, so its size follows the distinct keys that occur and not the number of images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
"""Whole numbers: ids, keys or counts."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums under keys.

    Attributes:
        keys: (N,) distinct keys >= 0, ascending.
        values: (N, Q) sums of the Q quantities under each key.
    """

    keys: Integers
    values: Integers

    @classmethod
    def empty(cls, num_quantities: int) -> Self:
        """A tally without keys."""
        return cls(np.zeros(0, np.int64), np.zeros((0, num_quantities), np.int64))

    @classmethod
    def of(cls, keys: Integers, values: Integers) -> Self:
        """Adds up rows.

        Args:
            keys: (N,) keys >= 0 in any order, repeats allowed.
            values: (N, Q) numbers to add under each key.
        """
        if keys.size == 0:
            return cls.empty(values.shape[1])
        # A stable sort finds the sorted runs that merging concatenates, and is then near linear.
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        return cls(ordered[starts], np.add.reduceat(values[order], starts, axis=0))

    @classmethod
    def merge(cls, tallies: Iterable["Tally"]) -> Self:
        """Adds up tallies of the same quantities; at least one."""
        parts = list(tallies)
        return cls.of(np.concatenate([part.keys for part in parts]), np.concatenate([part.values for part in parts]))

    def unpack(self, shape: Sequence[int]) -> tuple[Integers, ...]:
        """Splits keys made by `pack` into one (N,) array a dimension."""
        return tuple(part.astype(np.int64, copy=False) for part in np.unravel_index(self.keys, tuple(shape)))

    def __len__(self) -> int:
        return len(self.keys)


def pack(shape: Sequence[int], *indices: Integers | int) -> Integers:
    """Makes one key of an index a dimension, in row-major order.

    Args:
        shape: The number of values of each dimension.
        indices: As many as `shape` has dimensions: (N,) arrays, or one number for all.
    """
    key: Integers = np.zeros((), np.int64)
    for size, index in zip(shape, indices, strict=True):
        key = np.asarray(key * size + index, dtype=np.int64)
    return key


def histogram(keys: Integers, size: int) -> tuple[Integers, Integers]:
    """Counts how often each key occurs.

    Args:
        keys: Keys in 0..size-1, of any shape.
        size: Number of possible keys.

    Returns:
        (N,) keys that occur, ascending, and (N,) how often.
    """
    flat = keys.ravel()
    # One slot a possible key is the fastest way, until the slots outgrow the pixels by far (noise with thousands of
    # ids).
    if size <= max(1 << 20, 4 * flat.size):
        counts = np.bincount(flat, minlength=size)
        present = np.flatnonzero(counts)
        return present, counts[present]
    return np.unique(flat, return_counts=True)
