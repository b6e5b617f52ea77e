"""The work of one process: decoding and counting images.

A module of its own with few imports, so that worker processes start fast.
"""

from dataclasses import dataclass

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
                attention = None if self.attention is None else self.attention.read(pair.name)
            except LussError as error:
                problems.append(f"{pair.name}: {error}")
                continue
            found = self.counter.problems(prediction, mask, attention)
            problems += [f"{pair.name}: {problem}" for problem in found]
            if not problems and not self.check_only:
                total.add(self.counter.count_checked(prediction, mask, attention))
        return total.total(), problems
