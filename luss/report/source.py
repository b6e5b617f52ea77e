"""What a report is made from: a run's folder, its settings, and the state of its stages as the caller found it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luss.settings import RunSettings


@dataclass(frozen=True)
class StageRow:
    """One stage of a run.

    Attributes:
        name: Its name, which is also its folder's.
        state: missing, partial, done or stale.
        detail: Progress of a partial stage, or why a stage is stale.
        seconds: Work time so far.
        peak_memory_mb: Peak resident memory; 0 when not known.
        finished: When it was finished, ISO 8601; empty when not.
        identity: Of its result; empty when not finished.
        inputs: Identity of the results it was made from, by stage.
    """

    name: str
    state: str
    detail: str = ""
    seconds: float = 0.0
    peak_memory_mb: int = 0
    finished: str = ""
    identity: str = ""
    inputs: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricRow:
    """Metrics on one split.

    Attributes:
        kind: run, protocol (of the same run), floor or baseline.
        label: What was measured.
        split: On which images.
        values: In percent, and `num_images`; those of `metrics.json`.
    """

    kind: str
    label: str
    split: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ReportSource:
    """A run as a report sees it.

    Attributes:
        folder: The run's folder.
        settings: The settings it was last started with.
        stages: Its stages in order.
        metrics: What was measured and belongs to the present results, the run's own first.
        masks: Folder of the masks of each evaluated split that has some.
        num_classes: Largest id in masks and predictions.
        folders_are_categories: Whether the first folder of a training image's name is its category.
        problems: What the caller already found missing, in words.
    """

    folder: Path
    settings: RunSettings
    stages: Mapping[str, StageRow]
    metrics: tuple[MetricRow, ...] = ()
    masks: Mapping[str, Path] = field(default_factory=dict)
    num_classes: int = 0
    folders_are_categories: bool = False
    problems: tuple[str, ...] = ()

    def of(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.folder / stage

    def has(self, stage: str) -> bool:
        """Whether the stage has a whole result, be it of older settings."""
        return stage in self.stages and bool(self.stages[stage].identity)

    def is_done(self, stage: str) -> bool:
        """Whether the stage's result belongs to the present settings."""
        return stage in self.stages and self.stages[stage].state == "done"

    def fits(self, stage: str, need: str) -> bool:
        """Whether the result of `stage` was made from the present result of `need`."""
        return self.has(stage) and self.has(need) and self.stages[stage].inputs.get(need) == self.stages[need].identity
