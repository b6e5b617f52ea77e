"""The work of one process: decoding and counting images.

A module of its own with few imports, so that worker processes start fast.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luss.benchmark.counts import Accumulator, Counts
from luss.benchmark.folders import AttentionSource, Pair
from luss.benchmark.image import ImageCounter
from luss.data.imagenet_s import read_mask
from luss.errors import LussError


@dataclass(frozen=True)
class CountTask:
    """What a worker does with a chunk of images.

    Attributes:
        counter: Counts an image.
        attention: Where attention comes from, when the counter has thresholds.
        check_only: Whether to look for problems only, because there are some already.
    """

    counter: ImageCounter
    attention: AttentionSource | None
    check_only: bool

    def __call__(self, pairs: list[Pair]) -> tuple[Counts, list[str]]:
        """Counts images from their files, each decoded once.

        Returns:
            Their counts, meaningless when there are problems, and the problems.
        """
        total = Accumulator(Counts.empty(self.counter.num_classes, self.counter.thresholds))
        problems: list[str] = []
        for pair in pairs:
            try:
                prediction, mask = read_mask(pair.prediction), read_mask(pair.mask)
                size = (mask.shape[0], mask.shape[1])
                attention = None if self.attention is None else self.attention.read(pair.name, size)
            except LussError as error:
                problems.append(f"{pair.name}: {error}")
                continue
            found = self.counter.problems(prediction, mask, attention)
            problems += [f"{pair.name}: {problem}" for problem in found]
            if not problems and not self.check_only:
                total.add(self.counter.count_checked(prediction, mask, attention))
        return total.total(), problems


_task: list[Callable[[list[Any]], Any]] = []


def start_worker(task: Callable[[list[Any]], Any]) -> None:
    """Prepares a worker process: its task comes once, because opening a label file for every chunk would take longer than counting."""
    _task[:] = [task]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: workers of a killed evaluation would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work_on(items: list[Any]) -> Any:
    """The worker's task on a chunk of items."""
    return _task[0](items)
