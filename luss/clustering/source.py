"""Feature vectors as Lloyd's loop reads them: checked, of length 1 or centred, and kept on the engine if they fit."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from luss.clustering.engine import Engine, Floats
from luss.errors import LussError
from luss.features.store import FeatureStore
from luss.processes import Reduce, in_step
from luss.progress import Interrupted

Metric = Literal["cosine", "euclidean"]


class Features(Protocol):
    """What k-means reads: `luss.features.store.FeatureStore`, or anything with the same four members."""

    @property
    def dim(self) -> int:
        """Length D of a vector."""

    def __len__(self) -> int:
        """Number N of rows."""

    def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, Floats]]:
        """The rows from `start` on in order, `chunk_size` at once, as (first row, (n, D) float32)."""

    def gather(self, indices: NDArray[np.integer[Any]]) -> Floats:
        """(n, D) float32 rows at ascending `indices` (n,)."""


class Share(Features):
    """`Features` that one of several processes works on, numbered from 0, possibly none; nothing else of the store is read.

    Args:
        store: All rows.
        rows: Which of them, without gaps.
    """

    def __init__(self, store: FeatureStore, rows: range) -> None:
        self._store = store
        self._rows = rows

    @property
    def dim(self) -> int:
        return self._store.dim

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, Floats]]:
        for first in range(start, len(self), chunk_size):
            begin = self._rows.start + first
            yield first, self._store.read(begin, min(begin + chunk_size, self._rows.stop))

    def gather(self, indices: NDArray[np.integer[Any]]) -> Floats:
        return self._store.gather(indices + self._rows.start)


def unit_rows(rows: Floats) -> Floats:
    """(n, D) rows brought to length 1; a row of zeros stays."""
    lengths: Floats = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return np.divide(rows, np.maximum(lengths, np.finfo(np.float32).tiny)[:, None], dtype=np.float32)


class Source:
    """Hands out rows as Lloyd's loop wants them, keeping as many chunks placed between passes as `resident_bytes` allows.

    The settings are those of `kmeans`.

    Attributes:
        num_rows: Rows of all processes.
        first_row: The first of this process among them.
    """

    def __init__(
        self,
        features: Features,
        engine: Engine,
        metric: Metric,
        chunk_size: int,
        resident_bytes: int | None,
        should_stop: Callable[[], bool],
        reduce: Reduce,
    ) -> None:
        self.features, self.engine, self.metric, self.reduce = features, engine, metric, reduce
        sizes = np.concatenate(reduce.gather(np.array([len(features)])))
        self.num_rows = int(sizes.sum())
        self.first_row = int(sizes[: reduce.rank].sum())
        self._chunk_size = chunk_size
        budget = engine.resident_bytes if resident_bytes is None else resident_bytes
        self._num_resident = budget // (4 * features.dim * max(min(chunk_size, len(features)), 1))
        self._resident: list[tuple[int, int, Any]] = []
        self._should_stop = should_stop
        self._mean = np.zeros(features.dim, dtype=np.float32)

    def survey(self) -> int:
        """Looks once at every row: finds bad ones, the mean, and a checksum of the data, which it returns.

        The checksum also tells how the rows are spread over processes.

        Raises:
            LussError: A row holds NaN or infinity.
            Interrupted: `should_stop` said so.
        """
        checksum, total = 0, np.zeros(self.features.dim)
        with in_step(self.reduce):
            for start, rows in self.features.chunks(self._chunk_size):
                self._stop_if_asked()
                finite = np.isfinite(rows).all(axis=1)
                if not finite.all():
                    raise LussError(
                        f"the feature of row {self.first_row + start + int(np.argmin(finite))} is NaN or infinite: "
                        "run the feature extraction again, and check the weights it used"
                    )
                checksum = zlib.crc32(np.ascontiguousarray(rows).data, checksum)
                total += rows.sum(axis=0, dtype=np.float64)
        if self.metric == "euclidean":
            self._mean = (self.reduce.sum(total) / self.num_rows).astype(np.float32)
        if self.reduce.world_size == 1:
            return checksum
        parts = self.reduce.gather(np.array([checksum, len(self.features)]))
        return zlib.crc32(np.concatenate(parts).tobytes())

    def prepare(self, rows: Floats) -> Floats:
        """(n, D) rows of length 1 (cosine), or from the mean of all rows, where float32 is finest (euclidean)."""
        return unit_rows(rows) if self.metric == "cosine" else rows - self._mean

    def restore(self, centroids: Floats) -> Floats:
        """Takes centroids of prepared rows back to where the rows are."""
        return centroids + self._mean

    def gather(self, indices: NDArray[np.int64]) -> Floats:
        """(n, D) prepared rows at ascending `indices` (n,) among those of all processes, on each of them."""
        own = indices[(indices >= self.first_row) & (indices < self.first_row + len(self.features))] - self.first_row
        with in_step(self.reduce):
            rows = self.prepare(self.features.gather(own))
        return np.concatenate(self.reduce.gather(rows))

    def placed(self) -> Iterator[tuple[int, int, Any]]:
        """This process's prepared rows on the engine, as (its first row, row after the last, placed).

        Raises:
            Interrupted: `should_stop` said so.
        """
        for item in self._resident:
            self._stop_if_asked()
            yield item
        first = self._resident[-1][1] if self._resident else 0
        for start, rows in self.features.chunks(self._chunk_size, first):
            self._stop_if_asked()
            item = (start, start + len(rows), self.engine.place(self.prepare(rows)))
            if len(self._resident) < self._num_resident:
                self._resident.append(item)
            yield item

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise Interrupted("k-means was asked to stop")
