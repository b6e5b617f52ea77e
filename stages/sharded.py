"""Stages that consist of shards: pieces that processes on any machine make one by one, and a join that makes one result of them.

A shard is a range of images. Whether it is made is seen from its own files, which are complete or absent. Beside them the makers leave notes
for the join in the stage's folder `shards/`, which is removed when the stage is done:

    00003.begun           somebody began: a killed maker may have left temporary files
    00003.skipped.csv     images of the shard that could not be read
    00003.progress.json   position of its maker
    00003.json            what it was made from, how long it took, and checksums of its files; written last
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luss.data.resized import ResizedBatch
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import checksum, read_record, remove_leftovers, write_json
from stages.base import AnyStage, Block, BlockOf, Stage, StageContext, StagePlace


def cut(count: int, size: int) -> list[range]:
    """Images 0..count-1 in ranges of `size`, the last one of those that are left."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass(frozen=True)
class Batch:
    """News of a maker: some images of its shard are finished.

    Attributes:
        num_images: How many, those that could not be read included.
        unreadable: Path and reason of those, and notes on others.
    """

    num_images: int
    unreadable: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, batch: ResizedBatch) -> "Batch":
        """News of a batch of images that was computed."""
        unreadable = [(path, reason) for _, path, reason in batch.unreadable]
        return cls(len(batch.indices) + len(unreadable), unreadable + batch.notes)


# The folder of the notes, in the stage's own.
SHARDS = "shards"
# In a note, and in the stage's record.
CHECKSUMS = "checksums"

Maker = Callable[[int], Iterator[Batch]]
"""Makes the shard of a number while it is iterated over; the shard is on disk at the end, and not before the last batch was taken."""


class ShardPlan(ABC):
    """How the images of a stage, or of a part of it, are cut into shards.

    Attributes:
        ranges: Image numbers of every shard.
        notes: Where makers leave their notes.
    """

    def __init__(self, ranges: Sequence[range], notes: "ShardNotes") -> None:
        """Looks at nothing on disk."""
        self.ranges = list(ranges)
        self.notes = notes

    @property
    def num_images(self) -> int:
        """Of all shards."""
        return sum(len(rows) for rows in self.ranges)

    def missing(self) -> list[int]:
        """Numbers of the shards that are not completely on disk, or were made from something else."""
        return [shard for shard in range(len(self.ranges)) if not self.is_made(shard)]

    @abstractmethod
    def is_made(self, shard: int) -> bool:
        """Whether a shard is completely on disk."""

    @abstractmethod
    def targets(self, shard: int) -> Iterable[Path]:
        """The files of a shard, those that do not exist included."""

    def checksums(self, shard: int) -> dict[str, str]:
        """Of the files of a made shard, by their paths in the stage's folder: just written, they cost no reading from the disk."""
        files = [path for path in self.targets(shard) if path.is_file()]
        return {path.relative_to(self.notes.folder).as_posix(): checksum(path) for path in files}

    def identity(self, shard: int) -> dict[str, Any]:
        """What the note of a made shard says about it."""
        return {"start": self.ranges[shard].start, "stop": self.ranges[shard].stop}


@dataclass(frozen=True)
class ShardNotes:
    """Names of the notes in a stage's folder.

    Attributes:
        folder: The stage's folder.
        prefix: Tells the shards of one part of a stage from those of another.
    """

    folder: Path
    prefix: str = ""

    def path(self, shard: int, ending: str) -> Path:
        """A note of one shard."""
        return self.folder / SHARDS / f"{self.prefix}{shard:05d}{ending}"

    def skipped(self, shard: int) -> Path:
        """The list of the shard's unreadable images."""
        return self.path(shard, ".skipped.csv")

    def begun(self, shard: int) -> Path:
        """Exists from the beginning of a shard to its end."""
        return self.path(shard, ".begun")

    def made(self, shard: int) -> Path:
        """The record of a made shard."""
        return self.path(shard, ".json")

    def read_made(self, shard: int) -> dict[str, Any]:
        """The record of a made shard; empty where there is none."""
        try:
            return read_record(self.made(shard))
        except LussError:
            return {}


class ShardedStage(Stage[Block]):
    """A stage whose `run` makes the missing shards and joins them; `stages.running.shard_work` makes some alone."""

    sharded: ClassVar[bool] = True

    def __init__(self, name: str, block: BlockOf[Block], manifest: AnyStage, *needs: AnyStage) -> None:
        """As `Stage`; the number of shards follows from what `manifest` has listed."""
        super().__init__(name, block, manifest, *needs)
        self.manifest = manifest

    @abstractmethod
    def plan(self, place: StagePlace) -> ShardPlan:
        """The shards; the manifest is done, other needs may not be."""

    @abstractmethod
    def maker(self, context: StageContext, plan: Any) -> Maker:
        """Loads what making shards takes, once for all shards of a process."""

    @abstractmethod
    def join(self, context: StageContext, plan: Any) -> dict[str, Any]:
        """Makes one result of the shards, which are all on disk.

        Returns:
            Figures as `run` does.
        """

    def run(self, context: StageContext) -> dict[str, Any]:
        """Makes the shards that are missing, and joins all."""
        plan = self.plan(context)
        make_missing(context, plan, lambda: self.maker(context, plan))
        context.skipped.clear()
        absorb_lists(context, plan)
        return self.join(context, plan)


def make_missing(context: StageContext, plan: ShardPlan, load: Callable[[], Maker]) -> None:
    """Makes the shards of a plan that are not on disk; `load` gives the maker, and is called only when a shard is missing.

    Raises:
        LussError: More images cannot be read than may be; names the shard.
        Interrupted: A stop was asked for; finished shards are on disk.
    """
    missing = plan.missing()
    done = plan.num_images - sum(len(plan.ranges[shard]) for shard in missing)
    context.reporter.start("image", plan.num_images, done)
    if not missing:
        return
    make = load()
    for shard in missing:
        for num_images in make_shard(context, plan, shard, make):
            done += num_images
            context.reporter.advance(done)


def make_shard(
    context: StageContext, plan: ShardPlan, shard: int, make: Maker, *, facts: Callable[[], dict[str, Any]] = dict
) -> Iterator[int]:
    """Makes one shard and its notes. The caller must be the only one to make it; `facts` gives what else the record shall hold at the end.

    Yields:
        The number of images of each batch.

    Raises:
        LussError: More images cannot be read than may be; names the shard, and the shard is not written.
        Interrupted: A stop was asked for.
    """
    notes, total = plan.notes, plan.num_images
    if notes.begun(shard).exists():
        remove_leftovers([*plan.targets(shard), notes.made(shard)])
    for note in (notes.made(shard), notes.skipped(shard)):
        note.unlink(missing_ok=True)
    notes.begun(shard).parent.mkdir(parents=True, exist_ok=True)
    notes.begun(shard).touch()
    skipped, num_left = SkippedFiles(notes.skipped(shard)), len(plan.ranges[shard])
    for batch in make(shard):
        context.stop.check()
        for path, reason in batch.unreadable:
            skipped.add(Path(path), reason)
        try:
            skipped.check(total, context.run.data.max_skipped_share)
        except LussError as error:
            raise LussError(f"shard {shard} of {context.folder.name} failed: {error}") from error
        yield batch.num_images
        num_left -= batch.num_images
        if num_left <= 0:
            context.confirm()
    write_json(notes.made(shard), {**plan.identity(shard), **facts(), CHECKSUMS: plan.checksums(shard)})
    notes.begun(shard).unlink(missing_ok=True)


def absorb_lists(context: StageContext, plan: ShardPlan) -> None:
    """Adds the shards' lists of unreadable images to the stage's, and checks that they are not too many.

    Raises:
        LussError: They are; names the shards.
    """
    lists = {shard: path for shard in range(len(plan.ranges)) if (path := plan.notes.skipped(shard)).is_file()}
    context.skipped.absorb(lists.values())
    try:
        # Those of this plan alone: the stage's list may hold images of another part of it.
        num_skipped = sum(SkippedFiles(path).count for path in lists.values())
        context.skipped.check(plan.num_images, context.run.data.max_skipped_share, count=num_skipped)
    except LussError as error:
        shown = ", ".join(map(str, list(lists)[:8])) + (", ..." if len(lists) > 8 else "")
        raise LussError(f"shards {shown} of {context.folder.name} hold unreadable images: {error}") from error
