"""An incremental PCA over rows that several processes hold, with the result of one process."""

import io
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import IncrementalPCA

from luss.features.store import FeatureStore
from luss.processes import Reduce, in_step

Transform = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fit_pca(
    store: FeatureStore, transform: Transform, *, dim: int, piece: int, reduce: Reduce, check: Callable[[], None]
) -> IncrementalPCA:
    """Fits a PCA on transformed rows of a store; each process reads its own share (`FeatureStore.share`).

    The fit goes from process to process as the rows do, rather than over a sum of covariances: descriptors have up to
    tens of thousands of values, whose covariance is gigabytes, and an incremental PCA depends on the order of its
    pieces, so that only this order gives the components of one process. Its work is small beside the clustering.

    Args:
        store: The rows.
        transform: What is done with (n, D) rows first.
        dim: Components, at most the number of rows.
        piece: Least rows for one step of the fit, at least `dim`.
        reduce: The processes.
        check: Called between pieces; may raise to stop.

    Returns:
        The fitted PCA, the same on every process.

    Raises:
        LussError: A shard cannot be read.
        Interrupted: `check` said so, on any process.
    """
    pca = IncrementalPCA(n_components=dim)
    shares = [store.share(rank, reduce.world_size) for rank in range(reduce.world_size)]
    holder = 0
    for rows in pieces(len(store), piece):
        owner = next(rank for rank, share in enumerate(shares) if rows.start in share)
        if owner != holder:
            _hand_over(pca, reduce, holder)
            holder = owner
        with in_step(reduce):
            check()
            values = _own_rows(store, rows, shares[reduce.rank])
        if rows.stop > shares[owner].stop:  # it reaches into the next share
            values = np.concatenate(reduce.gather(values))
        if reduce.rank == owner:
            pca.partial_fit(transform(values))
    _hand_over(pca, reduce, holder)
    return pca


def pieces(num_rows: int, size: int) -> Iterator[range]:
    """Ranges of at least `size` rows that cover all rows: the last two are joined."""
    count = max(1, num_rows // size)
    bounds: Sequence[int] = [num_rows * part // count for part in range(count + 1)]
    return (range(start, stop) for start, stop in itertools.pairwise(bounds))


def _own_rows(store: FeatureStore, rows: range, share: range) -> NDArray[np.float32]:
    start = max(rows.start, share.start)
    return store.read(start, max(start, min(rows.stop, share.stop))) if start in share else store.read(0, 0)


def _hand_over(pca: IncrementalPCA, reduce: Reduce, holder: int) -> None:
    """Brings what process `holder` has fitted to all."""
    if reduce.world_size == 1:
        return
    state = io.BytesIO()
    if reduce.rank == holder:
        # scikit-learn's fitted attributes end in an underscore: numbers and arrays of numbers.
        fitted = {name: value for name, value in vars(pca).items() if name.endswith("_") and not name.startswith("_")}
        np.savez(state, allow_pickle=False, **fitted)
    with np.load(io.BytesIO(reduce.send(state.getvalue(), holder)), allow_pickle=False) as arrays:
        for name, value in arrays.items():
            setattr(pca, name, value[()])
