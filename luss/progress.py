"""How long work tells where it stands and learns that it should stop, without knowing a terminal, a file or a signal."""

from collections.abc import Mapping
from typing import Protocol


class Interrupted(Exception):
    """Work stopped on request; everything done so far is on disk and the same command continues it."""


class Reporter(Protocol):
    """Where a stage's news go."""

    def start(self, unit: str, total: int, done: int) -> None:
        """A piece of work of `total` units begins, of which `done` were finished before."""

    def advance(self, done: int, **figures: float) -> None:
        """`done` units are finished now; `figures` such as images_per_second are shown beside."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """One line of `metrics.jsonl`."""

    def rewind(self, step: int) -> None:
        """Forget metric lines of steps from `step` on: they will be written again."""

    def message(self, text: str) -> None:
        """A line for the log."""

    def warn(self, text: str) -> None:
        """A line that should be seen."""


class StopFlag:
    """Set by a signal handler, asked between steps."""

    def __init__(self) -> None:
        """Not set."""
        self.reason = ""

    def set(self, reason: str) -> None:
        """Asks the work to stop; `reason` is shown."""
        self.reason = reason

    def __bool__(self) -> bool:
        return bool(self.reason)

    def check(self) -> None:
        """Raises:
        Interrupted: The flag is set.
        """
        if self.reason:
            raise Interrupted(self.reason)
