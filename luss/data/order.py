"""Which images a step takes: the same for any number of processes, from any position on."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray


def epoch_order(num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch: a permutation that depends only on (seed, epoch)."""
    return np.random.default_rng([seed, epoch, 0x0DE5]).permutation(num_images)


@dataclass(eq=False)
class RemainingBatches:
    """Every batch of one process from a step to the end of the training, as lists of (epoch, index): loader workers live through all epochs.

    The global batch of a step is the same whatever the number of processes: process r takes the r-th part of each micro-batch.
    `first_step` is the first step of the whole training that is still to do.
    """

    num_images: int
    _: KW_ONLY
    seed: int
    epochs: int
    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    first_step: int = 0

    def __post_init__(self) -> None:
        self.steps_per_epoch = self.num_images // self.batch_size

    def __len__(self) -> int:
        return (self.steps_per_epoch * self.epochs - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        micro = self.batch_size // self.accumulate
        share = micro // self.world_size
        for epoch in range(self.first_step // max(1, self.steps_per_epoch), self.epochs):
            order = epoch_order(self.num_images, seed=self.seed, epoch=epoch)
            for step in range(max(0, self.first_step - epoch * self.steps_per_epoch), self.steps_per_epoch):
                for part in range(self.accumulate):
                    first = step * self.batch_size + part * micro + self.rank * share
                    yield [(epoch, int(index)) for index in order[first : first + share]]
