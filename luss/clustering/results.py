"""Reading what a clustering has left, which must be numbers that fit each other."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.clustering.engine import Floats
from luss.errors import LussError
from luss.refusals import refuse


def read_centroids(path: Path, num_clusters: int | None = None, dim: int | None = None) -> Floats:
    """Reads `centroids.npy`.

    Args:
        path: The file.
        num_clusters, dim: C and L that it must have; None = any.

    Returns:
        (C, L) float32, finite.

    Raises:
        LussError: It is absent or damaged, of another shape, or holds what is no number.
    """
    found = _array(path)
    wanted = (num_clusters, dim)
    if found.ndim != 2 or any(size not in (None, own) for size, own in zip(wanted, found.shape, strict=True)):
        shape = " x ".join("any" if size is None else str(size) for size in wanted)
        raise _damaged(path, f"its shape is {found.shape}, not {shape}")
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        raise _damaged(path, "it holds what is no number")
    return np.asarray(found, np.float32)


def read_assignments(path: Path, num_rows: int, num_clusters: int) -> NDArray[np.integer[Any]]:
    """Maps `assignments.npy` into memory.

    Returns:
        (num_rows,) clusters 0..num_clusters - 1.

    Raises:
        LussError: It is absent or damaged, of another length, or names a cluster that there is not.
    """
    found = _array(path, mmap_mode="r")
    if found.shape != (num_rows,) or found.dtype.kind not in "iu":
        raise _damaged(path, f"it is {found.dtype} of shape {found.shape}, not whole numbers of shape ({num_rows},)")
    if num_rows and (found.min() < 0 or found.max() >= num_clusters):
        raise _damaged(
            path, f"it names the cluster {found.max() + 1} or {found.min() + 1}, but there are 1 to {num_clusters}"
        )
    return found


def _array(path: Path, **options: Any) -> NDArray[Any]:
    try:
        return np.asanyarray(np.load(path, allow_pickle=False, **options))
    except (OSError, ValueError, EOFError) as error:
        refuse(error, path)
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> LussError:
    stage = path.parent.name
    return LussError(
        f"{path} is damaged or absent ({reason}): put a sound copy in its place, or make the stage anew: luss run CONFIG --force {stage}"
    )
