"""Layout descriptors: what lies where in an image, compared after whitening.

Averaging a feature map over the whole image forgets where things are. With little training, layout tells more about the category than any
average (docs/results.md): cells of feature maps, standardised per channel and normalised per cell, beside histograms of oriented gradients (HOG:
Dalal and Triggs 2005), which no colour changes; all reduced by a whitened PCA (Jegou and Chum 2012).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from luss.errors import LussError
from luss.features.incremental import fit_pca
from luss.features.store import FeatureStore, FeatureWriter
from luss.processes import Reduce, in_step

NUM_ORIENTATIONS = 9
_CHUNK = 1024
_EPSILON = 1e-6
_ALONE = Reduce()


def oriented_gradients(images: Tensor) -> Tensor:
    """Gradient magnitude by unsigned orientation: (B, 3, H, W) -> (B, 9, H, W)."""
    light = images.float().mean(dim=1)
    across = F.pad(light[:, :, 2:] - light[:, :, :-2], (1, 1))
    down = F.pad(light[:, 2:] - light[:, :-2], (0, 0, 1, 1))
    angle = torch.atan2(down, across) % torch.pi
    bins = (angle / torch.pi * NUM_ORIENTATIONS).long().clamp(max=NUM_ORIENTATIONS - 1)
    result = torch.zeros(len(light), NUM_ORIENTATIONS, *light.shape[1:], device=light.device)
    return result.scatter_(1, bins[:, None], torch.hypot(across, down)[:, None])


def descriptor_widths(stages: Sequence[int], channels: Sequence[int]) -> list[int]:
    """Numbers that each stage gives a cell.

    Args:
        stages: 0 = the gradients, 1, 2, ... = the backbone's.
        channels: Of the backbone's feature maps, shallow to deep.

    Raises:
        LussError: A stage that the backbone does not have.
    """
    widths = [NUM_ORIENTATIONS, *channels]
    for stage in stages:
        if not 0 <= stage < len(widths):
            raise LussError(
                f"extract_features.layout_stages names stage {stage}, but the backbone has the stages 1 to {len(channels)} (0 = gradients)"
            )
    return [widths[stage] for stage in stages]


def layout_descriptor(maps: Sequence[Tensor], stages: Sequence[int], grid: int) -> Tensor:
    """Average features of every cell of a grid over an image, raw.

    Args:
        maps: `oriented_gradients`, then feature maps (B, L_s, H_s, W_s) of stages 1, 2, ..., shallow to deep.
        stages: Which of them, 0 = the gradients.
        grid: Cells a side.

    Returns:
        (B, sum of L_s * grid * grid) float32; for each stage channels, then rows, then columns.
    """
    cells = [F.adaptive_avg_pool2d(maps[stage].float(), grid).flatten(1) for stage in stages]
    return torch.cat(cells, dim=1)


class _Standardiser:
    """Per channel zero mean and unit variance over the data set, then one length per cell: the weight of its stage.

    Histograms of gradients keep their zero and their scale: an empty cell is empty.
    """

    def __init__(
        self,
        store: FeatureStore,
        channels: Sequence[int],
        weights: Sequence[float],
        grid: int,
        reduce: Reduce,
        check: Callable[[], None],
    ) -> None:
        self.channels, self.weights, self.cells = list(channels), list(weights), grid * grid
        if sum(self.channels) * self.cells != store.dim:
            raise LussError(
                f"the descriptors have {store.dim} values, not {sum(self.channels)} x {self.cells}: extract the features again"
            )
        total, squares = np.zeros(sum(channels)), np.zeros(sum(channels))
        own = store.share(reduce.rank, reduce.world_size)
        with in_step(reduce):
            for start in range(own.start, own.stop, _CHUNK):
                check()
                cells = self._cells(store.read(start, min(start + _CHUNK, own.stop))).astype(np.float64)
                total += cells.sum(axis=(0, 2))
                squares += np.square(cells).sum(axis=(0, 2))
        total, squares, count = reduce.sum(total), reduce.sum(squares), len(store) * self.cells
        self.mean = total / count
        self.deviation = np.sqrt(np.maximum(squares / count - self.mean**2, 0)) + _EPSILON
        start = 0
        for width in self.channels:
            if width == NUM_ORIENTATIONS:
                self.mean[start : start + width], self.deviation[start : start + width] = 0.0, 1.0
            start += width

    def _cells(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, all channels, cells)."""
        parts, start = [], 0
        for channels in self.channels:
            stop = start + channels * self.cells
            parts.append(rows[:, start:stop].reshape(len(rows), channels, self.cells))
            start = stop
        return np.concatenate(parts, axis=1)

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        cells = (self._cells(rows) - self.mean[:, None]) / self.deviation[:, None]
        parts, start = [], 0
        for channels, weight in zip(self.channels, self.weights, strict=True):
            part = cells[:, start : start + channels]
            length = np.linalg.norm(part, axis=1, keepdims=True) + _EPSILON
            parts.append((part * (weight / self.cells**0.5 / length)).reshape(len(rows), -1))
            start += channels
        return np.concatenate(parts, axis=1).astype(np.float32)


def reduce_descriptors(
    store: FeatureStore,
    folder: Path,
    *,
    channels: Sequence[int],
    weights: Sequence[float],
    grid: int,
    dim: int,
    whitening: float,
    check: Callable[[], None] = lambda: None,
    reduce: Reduce = _ALONE,
) -> FeatureStore:
    """Standardises descriptors and reduces them by a whitened PCA, streaming: memory does not grow with the number of images.

    Args:
        store: Raw descriptors, see `layout_descriptor`.
        folder: Where the reduced rows go, in shards of the same rows; finished ones are used again.
        channels: Channels of each stage in a row.
        weights: Length of each stage's part of a row.
        grid: Cells a side.
        dim: Components kept, at most the number of images.
        whitening: Power of the division by each component's deviation: 0 = plain PCA, 1 = fully whitened.
        check: Called between chunks; may raise to stop.
        reduce: The processes that share the work; each reads and writes the shards of its share (`FeatureStore.share`).

    Returns:
        (N, dim) store.

    Raises:
        LussError: Fewer images, or numbers in a descriptor, than components.
    """
    if min(len(store), store.dim) < dim:
        raise LussError(f"cluster.layout_dim is {dim} for {len(store)} descriptors of {store.dim} numbers: lower it")
    made_from = f"{store.fingerprint}-{list(channels)}-{list(weights)}-{grid}-{whitening}"
    writer = FeatureWriter(folder, len(store), dim, "float32", store.shard_size, made_from)
    # Process 0's answer: another could look when somebody has begun to write.
    present = np.isin(np.arange(writer.num_shards), writer.missing_shards(), invert=True)
    missing: list[int] = np.flatnonzero(~reduce.broadcast(present)).tolist()
    if missing:
        standardise = _Standardiser(store, channels, weights, grid, reduce, check)
        pca = fit_pca(store, standardise, dim=dim, piece=max(dim, _CHUNK), reduce=reduce, check=check)
        scale = np.power(np.sqrt(np.maximum(pca.explained_variance_, 1e-12)), whitening)
        with in_step(reduce):
            for shard in missing:
                rows = writer.rows_of(shard)
                if rows.start in store.share(reduce.rank, reduce.world_size):
                    reduced = np.empty((len(rows), dim), dtype=np.float32)
                    for start in range(rows.start, rows.stop, _CHUNK):
                        check()
                        stop = min(start + _CHUNK, rows.stop)
                        part = pca.transform(standardise(store.read(start, stop)))
                        reduced[start - rows.start : stop - rows.start] = part / scale
                    writer.write_shard(shard, reduced)
    with in_step(reduce):
        if reduce.rank == 0:
            writer.finish()
    return FeatureStore.open(folder)
