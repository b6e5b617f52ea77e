"""Sizes and folders that a file sets for other data, fitted to the data at hand.

A folder of `data.extra` that is not there is left out. A batch, prototypes, components, or a queue of more than the listed images is halved until
these fill it (a queue: cut to whole batches). What was typed as a word is never changed, and `cluster.num_clusters`, which is what a person looks
for, neither. The fitted settings follow from the given ones and from what the manifest stage has listed alone: all stages, jobs and commands see the
same (`stages.running.state.States`), and fingerprints and every stage's `config.yaml` hold them.
"""

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luss.settings import RunSettings, TrainSettings
from stages.base import Stage
from stages.parts.images import EMBEDDED, is_listed, num_listed
from stages.pipeline import ATTENTION, CLUSTERS, FINETUNE, PRETRAIN, stages_of

# Stages that train on the listed images.
_TRAINED: tuple[Stage[TrainSettings], ...] = (PRETRAIN, ATTENTION, FINETUNE)
NUM_CLUSTERS = "cluster.num_clusters"


@dataclass(frozen=True)
class Unfilled:
    """A size that the images cannot fill.

    Attributes:
        key: Of the setting.
        value: What it is.
        fitting: What they can fill.
        available: How many images there are.
    """

    key: str
    value: int
    fitting: int
    available: int

    def __str__(self) -> str:
        """As a sentence without its end."""
        return f"{self.key} is {self.value}, but there are {self.available} images"

    @property
    def word(self) -> str:
        """What to type."""
        return f"{self.key}={self.fitting}"


def absent_folders(run: RunSettings, run_folder: Path) -> list[str]:
    """The folders of `data.extra` in a file that are neither there nor listed already; the embedded data set draws its own."""
    root = Path(run.data.root)
    if run.data.root == EMBEDDED or "data.extra" in run.typed or not root.is_dir():
        return []
    return [extra for extra in run.data.extra if not (root / extra).is_dir() and not is_listed(run_folder, root, extra)]


def without_absent(run: RunSettings, run_folder: Path) -> RunSettings:
    """The settings without `absent_folders`."""
    absent = absent_folders(run, run_folder)
    if not absent:
        return run
    found = copy.deepcopy(run)
    found.data.extra = [extra for extra in run.data.extra if extra not in absent]
    return found


def unfilled(run: RunSettings, run_folder: Path) -> list[Unfilled]:
    """Every size of the run's stages that is larger than the images are many; the manifest stage is done."""
    own = stages_of(run)
    # Those that are clustered and labelled, and those that the representation is learned from.
    listed, pretrained = num_listed(run_folder), num_listed(run_folder, *run.data.extra)
    found: list[Unfilled] = []
    for stage in _TRAINED:
        block = stage.block(run)
        if stage.name in own and block.epochs:
            found += _of_training(stage.name, block, pretrained if stage is PRETRAIN else listed)
    if CLUSTERS.name in own:
        num_clusters, layout_dim = run.cluster.num_clusters, run.cluster.layout_dim
        if num_clusters > listed:
            found.append(Unfilled(NUM_CLUSTERS, num_clusters, _halved(num_clusters, listed), listed))
        if layout_dim > listed:
            found.append(Unfilled("cluster.layout_dim", layout_dim, _halved(layout_dim, listed), listed))
    return found


def may_be_lowered(size: Unfilled, run: RunSettings) -> bool:
    """Whether nobody has typed it."""
    return size.key not in run.typed and size.key != NUM_CLUSTERS


def lowered(run: RunSettings, run_folder: Path) -> RunSettings:
    """The settings with every size lowered that may be; the manifest stage is done."""
    sizes = [size for size in unfilled(run, run_folder) if may_be_lowered(size, run)]
    if not sizes:
        return run
    found = copy.deepcopy(run)
    for size in sizes:
        *blocks, name = size.key.split(".")
        block: Any = found
        for each in blocks:
            block = getattr(block, each)
        setattr(block, name, size.fitting)
    return found


def _of_training(name: str, block: TrainSettings, available: int) -> Iterator[Unfilled]:
    batch, parts = _halved(block.batch_size, available), block.accumulate
    if batch < block.batch_size:
        yield Unfilled(f"{name}.batch_size", block.batch_size, batch, available)
        parts = parts if not batch % parts else 1
        if parts < block.accumulate:
            yield Unfilled(f"{name}.accumulate", block.accumulate, parts, available)
    for key, value in _numbers(block, name):
        if value <= available:
            continue
        if key.endswith(".num_prototypes"):
            yield Unfilled(key, value, _halved(value, available), available)
        elif key.endswith(".queue_length") and ".head." not in key:
            # The queue of the attention's own head is its block's.
            yield Unfilled(key, value, available - available % (batch // parts), available)


def _halved(value: int, most: int) -> int:
    while value > most:
        value //= 2
    return value


def _numbers(block: Any, prefix: str) -> Iterator[tuple[str, int]]:
    """The whole numbers of a block and the blocks in it, by dotted key."""
    for entry in dataclasses.fields(block):
        key, value = f"{prefix}.{entry.name}", getattr(block, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, key)
        elif isinstance(value, int):
            yield key, value
