"""A table of feature vectors on disk: immutable .npy shards, written by any number of processes, read by memory map.

Shards rather than one file, because a killed pass then continues at the missing shards; .npy rather than HDF5, because
a sorted gather from a memory map is about 40 times faster. Every shard ends in a short seal that names what it was made
from: numpy ignores bytes after the array, so `numpy.load` reads a shard as it is, and no side file can get out of step.
"""

import hashlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from luss.errors import LussError
from luss.files import read_record, remove_partials, replacing, write_json
from luss.refusals import refuse

FeatureDtype = Literal["float16", "float32"]

_INDEX_NAME = "store.json"
_REMEDY = "run the extraction again (it redoes what is missing)"


@dataclass(frozen=True)
class _Layout:
    """What `store.json` holds: enough to know every shard's name, shape and seal."""

    num_rows: int
    dim: int
    dtype: FeatureDtype
    shard_size: int
    fingerprint: str

    def __post_init__(self) -> None:
        for name in ("num_rows", "dim", "shard_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < 1 << 62:
                raise LussError(f"a feature store needs {name} of at least 1, not {value!r:.50}")
        if self.dtype not in get_args(FeatureDtype):
            raise LussError(f"features are stored as {' or '.join(get_args(FeatureDtype))}, not {self.dtype!r}")

    @property
    def num_shards(self) -> int:
        return math.ceil(self.num_rows / self.shard_size)

    def rows_of(self, shard: int) -> range:
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of {self.num_shards}")
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_rows))

    def seal(self, shard: int) -> bytes:
        """32 bytes that differ whenever the array in the shard could."""
        rows = self.rows_of(shard)
        return hashlib.sha256(f"{rows.start} {rows.stop} {self.dim} {self.dtype} {self.fingerprint}".encode()).digest()

    def open_shard(self, folder: Path, shard: int) -> NDArray[Any] | None:
        """The shard as a memory map, or None where it is absent, cut short or made from something else.

        Raises:
            LussError: It cannot be opened, which says nothing about it.
        """
        path = shard_path(folder, shard)
        seal = self.seal(shard)
        try:
            # Not numpy.load, which would unpack an archive.
            array = np.lib.format.open_memmap(path, mode="r")
            with open(path, "rb") as file:
                file.seek(-len(seal), os.SEEK_END)
                sealed = file.read() == seal
        except Exception as error:  # a damaged header makes NumPy raise several kinds
            refuse(error, path)
            return None
        expected = (len(self.rows_of(shard)), self.dim)
        return array if sealed and array.shape == expected and array.dtype == self.dtype else None


def shard_path(folder: Path, shard: int) -> Path:
    """The file of one shard: `shard-00000.npy` and so on."""
    return folder / f"shard-{shard:05d}.npy"


class FeatureWriter:
    """Fills a feature store shard by shard; several processes may write into one folder at once.

    Args:
        folder: The store's folder; made when absent.
        num_rows: Rows of the finished table, at least 1.
        dim: Length of a vector, at least 1.
        dtype: "float16" or "float32".
        shard_size: Rows a shard, at least 1; the last one may hold fewer.
        fingerprint: Names what the features are made from. Shards of another one do not count and are replaced.

    Attributes:
        num_shards: Number of shards of the finished store.

    Raises:
        LussError: A number or the dtype is out of range.
    """

    def __init__(
        self, folder: Path, num_rows: int, dim: int, dtype: FeatureDtype, shard_size: int, fingerprint: str
    ) -> None:
        self.folder = folder
        self._layout = _Layout(num_rows, dim, dtype, shard_size, fingerprint)
        self.num_shards = self._layout.num_shards

    def rows_of(self, shard: int) -> range:
        """The rows that belong into a shard.

        Raises:
            IndexError: There is no such shard.
        """
        return self._layout.rows_of(shard)

    def missing_shards(self) -> list[int]:
        """The shards still to be written, ascending; one that is damaged or was made from something else is missing."""
        return [shard for shard in range(self.num_shards) if not self.is_written(shard)]

    def is_written(self, shard: int) -> bool:
        """Whether a shard is complete and was made from what this writer's features are made from."""
        return self._layout.open_shard(self.folder, shard) is not None

    def write_shard(self, shard: int, array: NDArray[Any]) -> None:
        """Writes one shard atomically.

        Args:
            shard: Its number, 0 <= shard < `num_shards`.
            array: (len(rows_of(shard)), dim) finite vectors; converted to the store's dtype.

        Raises:
            LussError: A value is NaN or infinite, or is too large for float16; or the disk is full.
            ValueError: The array has the wrong shape.
        """
        rows = self.rows_of(shard)
        if array.shape != (len(rows), self._layout.dim):
            raise ValueError(f"shard {shard} takes {(len(rows), self._layout.dim)} values, not {array.shape}")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(array, dtype=self._layout.dtype)
        finite = np.isfinite(stored).all(axis=1)
        if not finite.all():
            raise LussError(
                f"the feature of row {rows.start + int(np.argmin(finite))} is NaN, infinite or too large for "
                f"{self._layout.dtype}: check the weights that made it, or store float32"
            )
        with replacing(shard_path(self.folder, shard)) as temporary, open(temporary, "wb") as file:
            np.save(file, stored, allow_pickle=False)
            file.write(self._layout.seal(shard))

    def finish(self) -> "FeatureStore":
        """Writes `store.json`, which makes the folder a store, and clears away what killed writers left.

        Raises:
            LussError: Shards are missing.
        """
        if missing := self.missing_shards():
            raise LussError(
                f"{len(missing)} of {self.num_shards} feature shards are missing in {self.folder} "
                f"(first: {missing[0]}): {_REMEDY}"
            )
        remove_partials(self.folder, "shard-*")
        # A store of another shard size or fewer rows may have left shards beyond the last one.
        surplus = (shard_path(self.folder, shard) for shard in itertools.count(self.num_shards))
        for path in itertools.takewhile(Path.exists, surplus):
            path.unlink(missing_ok=True)
        write_json(self.folder / _INDEX_NAME, asdict(self._layout))
        return FeatureStore.open(self.folder)


class FeatureStore:
    """Read access to a finished store. Shards are mapped when first touched; stores can be pickled, forked and spawned.

    Make one with `FeatureStore.open`.

    Attributes:
        folder: Where it lies.
        dim: Length of a vector.
        dtype: How the vectors are stored; they are always read as float32.
        fingerprint: What the writer said the features were made from.
        shard_size: Rows a shard; the last one may hold fewer.
    """

    def __init__(self, folder: Path, layout: _Layout) -> None:
        self.folder, self._layout = folder, layout
        self.dim, self.dtype, self.fingerprint = layout.dim, layout.dtype, layout.fingerprint
        self.shard_size = layout.shard_size
        self._shards: dict[int, NDArray[Any]] = {}

    @classmethod
    def open(cls, folder: Path) -> "FeatureStore":
        """Opens the store in a folder and checks the size and seal of every shard, not the values.

        Raises:
            LussError: The folder holds no finished store, or the store is damaged.
        """
        index = folder / _INDEX_NAME
        if not index.exists():
            raise LussError(f"{folder} holds no finished feature store: {_REMEDY}")
        try:
            layout = _Layout(**read_record(index))
        except (TypeError, LussError) as error:
            raise LussError(f"{index} is damaged ({error}): {_REMEDY}") from error
        store = cls(folder, layout)
        for shard in range(layout.num_shards):
            store._shard(shard)
        # Mapping again on demand keeps the number of open maps at what is really read.
        store._shards.clear()
        return store

    def __len__(self) -> int:
        """Number of rows."""
        return self._layout.num_rows

    def share(self, rank: int, world_size: int) -> range:
        """The rows of one of `world_size` processes: whole shards, one after another, as many for each as can be."""
        first, after = (part * self._layout.num_shards // world_size for part in (rank, rank + 1))
        return range(min(first * self.shard_size, len(self)), min(after * self.shard_size, len(self)))

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start <= i < stop as a new (stop - start, dim) float32 array.

        Raises:
            IndexError: The range is not inside the store.
            LussError: A shard has vanished or is damaged.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of a store of {len(self)} rows")
        result = np.empty((stop - start, self.dim), dtype=np.float32)
        for shard in range(start // self.shard_size, math.ceil(stop / self.shard_size)):
            rows = self._layout.rows_of(shard)
            first, last = max(start, rows.start), min(stop, rows.stop)
            result[first - start : last - start] = self._shard(shard)[first - rows.start : last - rows.start]
        return result

    def gather(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """The rows at `indices` (n,), in any order and with repeats, as a new (n, dim) float32 array.

        Raises:
            IndexError: An index is not inside the store.
            LussError: A shard has vanished or is damaged.
        """
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of a store of {len(self)} rows")
        result = np.empty((len(indices), self.dim), dtype=np.float32)
        shard_of = indices // self.shard_size
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            result[places] = self._shard(int(shard))[indices[places] - self._layout.rows_of(int(shard)).start]
        return result

    def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Rows from `start` on in order, as (first row, (n, dim) float32) with n = `chunk_size` except for the last."""
        for first in range(start, len(self), chunk_size):
            yield first, self.read(first, min(first + chunk_size, len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_shards": {}}

    def _shard(self, shard: int) -> NDArray[Any]:
        if shard not in self._shards:
            array = self._layout.open_shard(self.folder, shard)
            if array is None:
                raise LussError(
                    f"{shard_path(self.folder, shard)} is missing, cut short or made from something else: {_REMEDY}"
                )
            self._shards[shard] = array
        return self._shards[shard]


class Share:
    """Rows of a store that one of several processes works on, numbered from 0; nothing else of the store is read.

    Args:
        store: All rows.
        rows: Which of them, without gaps; possibly none.
    """

    def __init__(self, store: FeatureStore, rows: range) -> None:
        self.dim, self._store, self._rows = store.dim, store, rows

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """As `FeatureStore.chunks`."""
        for first in range(start, len(self), chunk_size):
            begin = self._rows.start + first
            yield first, self._store.read(begin, min(begin + chunk_size, self._rows.stop))

    def gather(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """As `FeatureStore.gather`."""
        return self._store.gather(indices + self._rows.start)
