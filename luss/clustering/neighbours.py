"""Exact search of the most similar vectors of a bank: faiss on a CPU, torch anywhere."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.clustering import faiss_engine, torch_engine
from luss.errors import LussError

EngineName = Literal["faiss", "torch", "auto"]


class Neighbours:
    """A bank of vectors that answers which of them have the largest inner product with queries.

    Example:
        ```python
        bank = Neighbours(vectors)  # (M, D), of length 1
        cosines, places = bank.nearest(queries, 10)
        ```
    """

    def __init__(self, vectors: NDArray[np.float32], *, engine: EngineName = "auto", device: str = "cpu") -> None:
        """Keeps the vectors where the engine works.

        Args:
            vectors: (M, D), M >= 1.
            engine: "faiss" (CPU), "torch" (any device), or "auto": faiss on a CPU where it is installed, else torch.
            device: Where the torch engine works, for example "cuda:0".

        Raises:
            LussError: Unknown engine; faiss on another device than a CPU, or not installed; no vectors.
        """
        if engine not in get_args(EngineName):
            raise LussError(f"engine {engine!r} is unknown: choose one of {', '.join(get_args(EngineName))}")
        if not len(vectors):
            raise LussError("a bank without vectors has no neighbours: give it one at least")
        on_cpu = device.split(":")[0] == "cpu"
        if engine == "auto":
            engine = "faiss" if on_cpu and faiss_engine.faiss_is_installed() else "torch"
        if engine == "faiss":
            if not on_cpu:
                raise LussError(
                    f"the faiss engine works on the CPU: choose the torch engine for {device}, or device cpu"
                )
            faiss_engine.import_faiss()
        self.engine = engine
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._placed = torch.from_numpy(self._vectors).to(device)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The most similar vectors of each query.

        Args:
            queries: (N, D) float32 on the engine's device.
            count: How many, >= 1; all vectors where there are fewer.

        Returns:
            (N, k) inner products, largest first, and (N, k) int64 numbers of the vectors; k = min(count, M).
        """
        count = min(count, len(self))
        if self.engine == "torch":
            return torch_engine.nearest(queries, self._placed, count)
        similarities, places = faiss_engine.nearest(queries.numpy(), self._vectors, count)
        return torch.from_numpy(similarities), torch.from_numpy(places)
