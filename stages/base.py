"""What a stage is, and what identifies its result. Stages know the stages that they need, and nothing of who runs them.

A stage's folder holds `config.yaml`, its products, `metrics.jsonl`, `log/`, and `DONE.json`, which is written last
(`stages.running.folder`). All state is found on disk. Half a file never counts: products are written to temporary names and renamed
(`luss.files`).
"""

import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch

from luss.data.skipped import SkippedFiles
from luss.progress import Reporter, StopFlag
from luss.settings import RunSettings
from luss.settings.fields import changing_settings

# What a stage needs to go on, and nobody after its end.
CHECKPOINTS = "checkpoints"
# As many files as there are images.
MASKS = "masks"

Block = TypeVar("Block", covariant=True)
"""The settings block of a stage."""

BlockOf = Callable[[RunSettings], Block]
"""Finds the settings block of a stage among the settings of a run."""

Work = Literal["light", "trained", "array", "threads", "neighbours", "counting"]
"""What a stage's job takes; `stages.jobs.resources` knows how much of it."""


@dataclass
class StagePlace:
    """Where a stage stands: what its shards follow from, and no more.

    Attributes:
        run: All settings.
        run_folder: The run's folder.
        folder: The stage's own folder.
        fingerprint: Of the stage, found once.
        listing: Holds the listing of images against other processes, which wait.
        stop: Asked between steps, shards and batches.
    """

    run: RunSettings
    run_folder: Path
    folder: Path
    fingerprint: str
    listing: Callable[[], AbstractContextManager[None]]
    stop: StopFlag

    def of(self, stage: "AnyStage") -> Path:
        """The folder of a stage of the run."""
        return self.run_folder / stage.name


@dataclass
class StageContext(StagePlace):
    """What a stage works with.

    Attributes:
        device: Where to compute.
        reporter: Where news go.
        skipped: The stage's list of unreadable images; of this process, where several work together.
        confirm: Raises unless what is made still belongs to the stage; asked before a shard is written.
    """

    device: torch.device
    reporter: Reporter
    skipped: SkippedFiles
    confirm: Callable[[], None] = lambda: None


class Stage(ABC, Generic[Block]):
    """One job of the pipeline. Subclasses wire library pieces to files; `stages.pipeline` says which stages there are."""

    # Raised when the meaning of a product changes: old results become stale.
    version: ClassVar[int] = 1
    # Whether the result depends on the run's seed.
    seeded: ClassVar[bool] = False
    # Whether the result depends on which splits are evaluated.
    by_split: ClassVar[bool] = False
    # Whether several processes (torchrun) work on it together.
    distributed: ClassVar[bool] = False
    # Whether it consists of pieces that processes without any tie make one by one (see `stages.sharded`).
    sharded: ClassVar[bool] = False
    # Whether what it makes again has the same identity where it is the same (see `result_id`).
    by_content: ClassVar[bool] = False
    work: ClassVar[Work] = "light"

    def __init__(self, name: str, block: BlockOf[Block], *needs: "AnyStage") -> None:
        """A stage of a pipeline.

        Args:
            name: Its folder in a run, and what a person calls it.
            block: Finds its settings among those of a run.
            needs: The stages whose products it reads, each after those that it needs itself.
        """
        self.name, self.block, self.needs = name, block, needs

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """The settings that can change this stage's result and differ from their defaults, by dotted key."""
        found = {f"{self.name}.{key}": value for key, value in changing_settings(self.block(run)).items()}
        if self.seeded and run.seed:
            found["seed"] = run.seed
        if self.by_split:
            found["data.evaluate"] = list(run.data.evaluate)
        return found

    def extra_identity(self, run_folder: Path) -> tuple[str, str]:
        """What decides the result besides settings and needed stages, such as edits of a finished product.

        Returns:
            Its identity, empty where there is nothing of the kind, and what to say where it has changed.
        """
        return "", ""

    def result_id(self, figures: Mapping[str, Any]) -> str:
        """Identity of a product that is finished: where it changes, what was made from it is stale.

        A stage that can tell whether it has made the same again says so by the same identity; others get a new one each time.

        Args:
            figures: What `run` returned.
        """
        return uuid.uuid4().hex

    def id_for(self, reader: "AnyStage", record: Mapping[str, Any]) -> str | None:
        """The identity of what `reader`, a stage that needs this one, reads of the product that `record` tells of; None where it is not done."""
        return record.get("id")

    def try_step(self, run: RunSettings, num_images: int) -> None:
        """Tries, before any image is read, whether a training can take a step with its settings; other stages have nothing to try.

        Args:
            run: The run's settings.
            num_images: Images of a process in one pass; as many as tell one from many are enough.

        Raises:
            LussError: It cannot.
        """

    @abstractmethod
    def run(self, context: StageContext) -> dict[str, Any]:
        """Does the work, continuing what is on disk.

        Returns:
            Figures for `DONE.json` and the screen.

        Raises:
            Interrupted: A stop was asked for; the next run continues.
            LussError: Something the user can mend.
        """


AnyStage = Stage[Any]


def fingerprint(stage: AnyStage, run: RunSettings, known: dict[str, str] | None = None) -> str:
    """Identity of a stage's result: its name, version, changing settings, extra identity, and the fingerprints of what it needs.

    `known` has those that were found already, by stage; those that are found now are added.

    Returns:
        16 hexadecimal digits.
    """
    known = {} if known is None else known
    if stage.name not in known:
        needs = {need.name: fingerprint(need, run, known) for need in stage.needs}
        extra = stage.extra_identity(Path(run.output))[0]
        content = [stage.name, stage.version, stage.settings(run), needs, *([extra] if extra else [])]
        known[stage.name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return known[stage.name]


def in_order(ends: Sequence[AnyStage]) -> list[AnyStage]:
    """The given stages and all that they need, each once and after those it needs."""
    found: dict[str, AnyStage] = {}
    for stage in ends:
        found |= {each.name: each for each in (*in_order(stage.needs), stage) if each.name not in found}
    return list(found.values())
