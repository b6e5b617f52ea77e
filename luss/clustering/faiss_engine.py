"""k-means arithmetic and neighbour search by faiss on the CPU. The only module that imports faiss."""

import importlib
import importlib.util
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from luss.clustering.engine import CPU_RESIDENT_BYTES, Engine, Floats, sum_by_cluster
from luss.errors import LussError

EngineName = Literal["faiss", "torch", "auto"]
"""faiss on a CPU, torch on any device; auto is faiss on a CPU where it is installed, else torch."""


def choose_engine(name: str, device: str) -> str:
    """What an `EngineName` means on a device: "faiss" or "torch".

    Raises:
        LussError: The name is unknown, or faiss is to work on another device than a CPU.
    """
    if name not in get_args(EngineName):
        raise LussError(f"engine {name!r} is unknown: choose one of {', '.join(get_args(EngineName))}")
    on_cpu = device.split(":")[0] == "cpu"
    if name == "faiss" and not on_cpu:
        raise LussError(f"the faiss engine works on the CPU: choose the torch engine for {device}, or device cpu")
    return "torch" if name == "torch" or not on_cpu or (name == "auto" and not faiss_is_installed()) else "faiss"


def faiss_is_installed() -> bool:
    """Whether one of the two builds of faiss can be imported."""
    return importlib.util.find_spec("faiss") is not None


def import_faiss() -> Any:
    """The module `faiss`.

    Raises:
        LussError: It is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise LussError(
            "the faiss engine needs faiss: install luss[cpu] (faiss-cpu) or luss[gpu] (faiss-gpu), never both, "
            "or choose the torch engine"
        ) from error


class FaissEngine(Engine):
    """Exact nearest centroids by `faiss.knn`, about 1.3 times as fast as a matrix product by torch on a CPU.

    Raises:
        LussError: faiss is not installed.
    """

    name = "faiss"
    resident_bytes = CPU_RESIDENT_BYTES

    def __init__(self) -> None:
        self._faiss = import_faiss()
        self.version: str = self._faiss.__version__
        self.threads: int = self._faiss.omp_get_max_threads()

    def place(self, rows: Floats) -> Floats:
        """The rows themselves, contiguous."""
        return np.ascontiguousarray(rows)

    def assign(self, placed: Floats, centroids: Floats) -> tuple[NDArray[np.int64], Floats]:
        distances, clusters = self._faiss.knn(placed, centroids, 1, metric=self._faiss.METRIC_L2)
        return clusters[:, 0], distances[:, 0]

    def sums(self, placed: Floats, clusters: NDArray[np.int64], num_clusters: int) -> NDArray[np.float64]:
        return sum_by_cluster(placed, clusters, num_clusters)
