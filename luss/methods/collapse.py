"""Watches the signs of collapse in a method's scalars and says once what usually helps."""

import math
from collections.abc import Mapping

from luss.progress import Reporter

_PATIENCE = 5
_WARM_UP_LINES = 3


class CollapseWatch:
    """A reporter that passes everything on and warns when several log lines in a row look collapsed.

    Collapsed means: embeddings span about one direction (`feature_rank` under 2), or nearly all images choose the same few prototypes
    (`used_prototypes` under 5 % of those that the batch could use).
    """

    def __init__(self, reporter: Reporter) -> None:
        """`reporter`: where everything goes."""
        self.reporter = reporter
        self.lines = self.suspicious = 0
        self.warned = False

    def metrics(self, values: Mapping[str, float]) -> None:
        """Checks a log line and passes it on."""
        self.reporter.metrics(values)
        self.lines += 1
        rank, used = values.get("feature_rank", math.inf), values.get("used_prototypes", 1.0)
        collapsed = self.lines > _WARM_UP_LINES and (rank < 2 or used < 0.05)
        self.suspicious = self.suspicious + 1 if collapsed else 0
        if self.suspicious >= _PATIENCE and not self.warned:
            self.warned = True
            self.reporter.warn(
                f"the representation seems to have collapsed (feature rank {rank:.1f}, {100 * used:.0f} % of prototypes in use): lower "
                "pretrain.lr, freeze the prototypes longer (pretrain.clustering.freeze_prototypes_steps), use fewer prototypes or a larger "
                "batch or queue, or a smaller pretrain.clustering.epsilon"
            )

    def start(self, unit: str, total: int, done: int) -> None:
        """Passed on."""
        self.reporter.start(unit, total, done)

    def advance(self, done: int, **figures: float) -> None:
        """Passed on."""
        self.reporter.advance(done, **figures)

    def rewind(self, step: int) -> None:
        """Passed on."""
        self.reporter.rewind(step)

    def message(self, text: str) -> None:
        """Passed on."""
        self.reporter.message(text)

    def warn(self, text: str) -> None:
        """Passed on."""
        self.reporter.warn(text)
