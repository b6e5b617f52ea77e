"""Exact search of the most similar vectors of a bank: faiss on a CPU, torch anywhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.clustering.engine import Floats
from luss.clustering.faiss_engine import EngineName, choose_engine, import_faiss
from luss.clustering.source import Features, unit_rows
from luss.clustering.torch_engine import CPU_BLOCK, full_float32
from luss.errors import LussError

MAX_QUERIES = 10_000
"""Rows that a leave-one-out accuracy asks: its standard error is then half a percent at most, whatever the number of images."""

# Rows of the bank that are compared at once.
_CHUNK = 65536

# Scores that a GPU holds at once: 1 GB.
_GPU_SCORES = 1 << 28


class Neighbours:
    """A bank of vectors that answers which of them have the largest inner product with queries.

    Example:
        ```python
        bank = Neighbours(vectors)  # (M, D), of length 1
        cosines, places = bank.nearest(queries, 10)
        ```
    """

    def __init__(self, vectors: Floats, *, engine: EngineName = "auto", device: str = "cpu") -> None:
        """Keeps the vectors where the engine works.

        Args:
            vectors: (M, D), M >= 1.
            engine: What searches.
            device: Where the torch engine works, for example "cuda:0".

        Raises:
            LussError: Unknown engine; faiss on another device than a CPU, or not installed; no vectors.
        """
        self.engine = choose_engine(engine, device)
        if not len(vectors):
            raise LussError("a bank without vectors has no neighbours: give it one at least")
        self._faiss = import_faiss() if self.engine == "faiss" else None
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._placed = torch.from_numpy(self._vectors).to(device)

    @torch.no_grad()
    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The most similar vectors of each query.

        Args:
            queries: (N, D) float32 on the engine's device.
            count: How many, >= 1; all vectors where there are fewer.

        Returns:
            (N, k) inner products, largest first, and (N, k) int64 numbers of the vectors; k = min(count, M).
        """
        count = min(count, len(self._vectors))
        if self._faiss is not None:
            rows, metric = np.ascontiguousarray(queries.numpy()), self._faiss.METRIC_INNER_PRODUCT
            similarities, places = self._faiss.knn(rows, self._vectors, count, metric=metric)
            return torch.from_numpy(similarities), torch.from_numpy(places)
        block = CPU_BLOCK if self._placed.device.type == "cpu" else max(1, _GPU_SCORES // len(self._placed))
        with full_float32():
            found = [torch.topk(part @ self._placed.T, count, dim=1) for part in torch.split(queries, block)]
        return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def leave_one_out_accuracy(
    features: Features,
    labels: NDArray[np.integer[Any]],
    *,
    max_queries: int = MAX_QUERIES,
    engine: EngineName = "auto",
    device: str = "cpu",
    check: Callable[[], None] = lambda: None,
) -> float:
    """Share of vectors whose most similar other vector, by cosine, has their label (1-NN): how well categories lie together.

    The rows are read once, in chunks. Rows of zeros (images that could not be read) are neither asked nor answers.

    Args:
        features: (N, D) vectors of any length.
        labels: (N,) category of each; negative for none: such a row counts as one of zeros does.
        max_queries: At most so many rows are asked, evenly spaced among those with a label; all of them are answers.
        engine: What searches.
        device: Where the torch engine works.
        check: Called between chunks; may raise to stop.

    Returns:
        Accuracy, 0 to 1.

    Raises:
        LussError: As `Neighbours`; the lengths differ; fewer than two rows count.
    """
    if len(labels) != len(features):
        raise LussError(f"{len(labels)} labels do not fit {len(features)} vectors: one of each an image")
    counted = np.flatnonzero(labels >= 0)
    asked = counted[np.unique(np.linspace(0, len(counted) - 1, min(max_queries, len(counted))).astype(np.int64))]
    rows = unit_rows(features.gather(asked))
    asked, rows = asked[rows.any(axis=1)], rows[rows.any(axis=1)]
    queries, best, nearest = torch.from_numpy(rows).to(device), np.full(len(asked), -np.inf), np.full(len(asked), -1)
    for start, chunk in features.chunks(_CHUNK):
        check()
        answers = start + np.flatnonzero((labels[start : start + len(chunk)] >= 0) & chunk.any(axis=1))
        if not len(answers) or not len(asked):
            continue
        bank = Neighbours(unit_rows(chunk[answers - start]), engine=engine, device=device)
        cosines, places = (each.cpu().numpy() for each in bank.nearest(queries, 2))
        found = answers[places]
        # One of the two most similar may be the row itself.
        others = np.where(found == asked[:, None], -np.inf, cosines)
        first = (np.arange(len(asked)), others.argmax(axis=1))
        better = others[first] > best
        best[better], nearest[better] = others[first][better], found[first][better]
    if (nearest < 0).any() or not len(asked):
        raise LussError("fewer than two images with a label have a feature vector: leave 1-NN out")
    return float((labels[nearest] == labels[asked]).mean())
