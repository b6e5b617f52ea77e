"""What a k-means run needs to go on, and the file that keeps it."""

import math
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from luss.clustering.engine import Floats
from luss.files import replacing
from luss.processes import Reduce
from luss.refusals import refuse


@dataclass
class LloydState:
    """Where a run stands; always as it was between two iterations.

    Attributes:
        objectives: Objective of each finished restart; their number is the number of the current restart.
        iteration: Updates done in the current restart.
        centroids: (K, D) of the current restart; None before it has begun.
        best_centroids: (K, D) of the best finished restart.
    """

    objectives: list[float] = field(default_factory=list)
    iteration: int = 0
    centroids: Floats | None = None
    best_centroids: Floats | None = None

    @property
    def best_objective(self) -> float:
        """Of the finished restarts; infinite before the first is."""
        return min(self.objectives, default=math.inf)


class CheckpointFile:
    """Keeps a `LloydState` in an .npz file, which is only valid for the settings it was made with.

    Args:
        path: The file; None keeps nothing.
        settings: Everything that the result depends on, as text.
        seconds: Least time between two writes by `write_if_due`.
    """

    def __init__(self, path: Path | None, settings: str, seconds: float) -> None:
        self._path = path
        self._settings = settings
        self._seconds = seconds
        self._last = monotonic()

    def write_if_due(self, state: LloydState) -> None:
        """Writes when the last write is long enough ago."""
        if monotonic() - self._last >= self._seconds:
            self.write(state)

    def write(self, state: LloydState) -> None:
        """Writes now, atomically.

        Raises:
            LussError: The disk is full.
        """
        if self._path is None:
            return
        arrays: dict[str, Any] = {
            "settings": np.array(self._settings),
            "objectives": np.array(state.objectives, dtype=np.float64),
            "iteration": np.array(state.iteration),
        }
        for name, value in (("centroids", state.centroids), ("best_centroids", state.best_centroids)):
            if value is not None:
                arrays[name] = value
        with replacing(self._path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        self._last = monotonic()

    def load(self, num_restarts: int, shape: tuple[int, int]) -> LloydState:
        """Reads the state back.

        Args:
            num_restarts: How many the run wants. A file with more is of no use: its best may be one that is not wanted.
            shape: (K, D) of its centroids.

        Returns:
            The state; a fresh one where there is no file, it is damaged (a warning says so) or has other settings.

        Raises:
            LussError: The file cannot be opened, which says nothing about it.
        """
        if self._path is None or not self._path.exists():
            return LloydState()
        try:
            with open(self._path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                recorded = str(arrays["settings"])
                state = LloydState(
                    objectives=arrays["objectives"].tolist(),
                    iteration=int(arrays["iteration"]),
                    centroids=arrays.get("centroids"),
                    best_centroids=arrays.get("best_centroids"),
                )
                for values in (state.centroids, state.best_centroids):
                    _check(values, shape)
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            refuse(error, self._path)
            warnings.warn(f"{self._path} is damaged ({error}): k-means starts again", stacklevel=2)
            return LloydState()
        num_begun = len(state.objectives) + (state.centroids is not None)
        return state if recorded == self._settings and num_begun <= num_restarts else LloydState()


def _check(centroids: Any, shape: tuple[int, int]) -> None:
    if centroids is not None and (
        centroids.shape != shape or centroids.dtype != np.float32 or not np.isfinite(centroids).all()
    ):
        raise ValueError(
            f"centroids of {centroids.dtype} {centroids.shape} are not {shape[0]} x {shape[1]} finite numbers"
        )


def shared_state(state: LloydState, reduce: Reduce, shape: tuple[int, int]) -> LloydState:
    """The state of process 0 on all processes; the others' does not matter.

    Args:
        state: What this process has.
        reduce: The processes.
        shape: (K, D) of centroids.
    """
    facts = np.array(
        [len(state.objectives), state.iteration, state.centroids is not None, state.best_centroids is not None]
    )
    num_objectives, iteration, begun, finished = reduce.broadcast(facts.astype(np.int64)).tolist()
    own = np.array(state.objectives) if reduce.rank == 0 else np.zeros(num_objectives)
    empty = np.zeros(shape, dtype=np.float32)

    def table(present: int, values: Floats | None) -> Floats | None:
        return reduce.broadcast(empty if values is None else values) if present else None

    return LloydState(
        objectives=reduce.broadcast(own.astype(np.float64)).tolist(),
        iteration=iteration,
        centroids=table(begun, state.centroids),
        best_centroids=table(finished, state.best_centroids),
    )
