"""k-means arithmetic by torch, in float32 on any device."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.clustering.engine import CPU_RESIDENT_BYTES, Engine, Floats, sum_by_cluster
from luss.errors import LussError

# On a CPU a block of scores should stay in the cache; a GPU wants few, large products.
CPU_BLOCK = 1024
_GPU_BLOCK = 32768


class Placed(NamedTuple):
    """(n, D) rows on the device, and half of their (n,) squared lengths."""

    rows: Tensor
    half_squares: Tensor


class TorchEngine(Engine):
    """Nearest centroids by a matrix product. Chunks may fill half of a GPU's free memory: passes then need no transfer.

    Args:
        device: As torch names it, for example "cpu" or "cuda:0".

    Raises:
        LussError: The device is unknown or absent.
    """

    name = "torch"

    def __init__(self, device: str) -> None:
        try:
            self._device = torch.device(device)
            torch.empty(1, device=self._device)
        except (RuntimeError, AssertionError) as error:
            raise LussError(f"torch cannot use device {device!r} ({error}): choose cpu or a device it has") from error
        self.version: str = torch.__version__
        self.threads: int = torch.get_num_threads()
        self.resident_bytes = CPU_RESIDENT_BYTES
        if self._device.type == "cuda":
            self.resident_bytes = torch.cuda.mem_get_info(self._device)[0] // 2
        self._block = CPU_BLOCK if self._device.type == "cpu" else _GPU_BLOCK

    @torch.no_grad()
    def place(self, rows: Floats) -> Placed:
        """The rows on the device."""
        on_device = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)
        return Placed(on_device, 0.5 * torch.linalg.vector_norm(on_device, dim=1).square())

    @torch.no_grad()
    def assign(self, placed: Placed, centroids: Floats) -> tuple[NDArray[np.int64], Floats]:
        on_device = torch.from_numpy(np.ascontiguousarray(centroids)).to(self._device)
        # Nearest means largest x.c - |c|^2 / 2: |x|^2 is the same for every centroid and is added after the search.
        offsets = on_device.square().sum(1) * -0.5
        clusters, scores = [], []
        with full_float32():
            for block in torch.split(placed.rows, self._block):
                best = torch.addmm(offsets, block, on_device.T).max(1)
                clusters.append(best.indices)
                scores.append(best.values)
        distances = (2 * (placed.half_squares - torch.cat(scores))).clamp_min(0)
        return torch.cat(clusters).cpu().numpy(), distances.cpu().numpy()

    @torch.no_grad()
    def sums(self, placed: Placed, clusters: NDArray[np.int64], num_clusters: int) -> NDArray[np.float64]:
        if self._device.type == "cpu":
            return sum_by_cluster(placed.rows.numpy(), clusters, num_clusters)
        on_device = torch.from_numpy(clusters).to(self._device)
        return one_hot_sums(placed.rows, on_device, num_clusters, block_size=self._block)


def one_hot_sums(rows: Tensor, clusters: Tensor, num_clusters: int, *, block_size: int) -> NDArray[np.float64]:
    """Sums rows by cluster as products with one-hot rows: `index_add_` on a GPU adds in an order that varies.

    Args:
        rows: (n, D) float32.
        clusters: (n,) int64 on the same device.
        num_clusters: K.
        block_size: Rows in one product, summed in float32; products are added in float64.

    Returns:
        (K, D) sums.
    """
    total = np.zeros((num_clusters, rows.shape[1]))
    with full_float32():
        for block, block_clusters in zip(torch.split(rows, block_size), torch.split(clusters, block_size), strict=True):
            one_hot = torch.zeros(num_clusters, len(block), device=rows.device)
            one_hot.scatter_(0, block_clusters[None], 1.0)
            total += (one_hot @ block).cpu().numpy()
    return total


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Keeps TF32 and bfloat16 out of products: they would move rows to other clusters."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
