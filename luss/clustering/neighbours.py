"""Exact search of the most similar vectors of a bank: faiss on a CPU, torch anywhere."""

import numpy as np
import torch
from torch import Tensor

from luss.clustering.engine import Floats
from luss.clustering.faiss_engine import EngineName, choose_engine, import_faiss
from luss.clustering.torch_engine import CPU_BLOCK, full_float32
from luss.errors import LussError

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
