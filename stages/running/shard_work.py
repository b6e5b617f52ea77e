"""Making single shards of a stage, beside other processes that make others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luss.data.skipped import SkippedFiles
from luss.device import resolve_device
from luss.errors import LussError
from luss.progress import Interrupted, StopFlag
from luss.refusals import refusals_named
from luss.settings import RunSettings
from stages.base import AnyStage, StageContext
from stages.pipeline import STAGES
from stages.running.console import ConsoleReporter, duration
from stages.running.folder import StageFolder, read_progress
from stages.running.lock import shard_lock
from stages.running.process import allow_open_files, begin_piece, peak_memory_mb
from stages.running.products import SMALL_BYTES, require_sound
from stages.running.screen import Console
from stages.running.signals import stop_on_signals
from stages.running.state import States
from stages.sharded import Maker, ShardedStage, ShardPlan, make_shard


def run_shards(run: RunSettings, stage: AnyStage, shards: Sequence[int], console: Console | None = None) -> None:
    """Makes shards of a stage one after the other, each under a lock of its own; other processes may make others meanwhile.

    The stage is done when `run_stages` has joined the shards. A shard that is on disk already is left alone.

    Raises:
        LussError: There is no such shard; what the stage needs is not done; the stage is stale; another living process makes
            the shard or runs the stage; too many images cannot be read; the disk is full.
        Interrupted: A signal asked to stop; finished shards are on disk.
    """
    if not isinstance(stage, ShardedStage):
        names = ", ".join(name for name, each in STAGES.items() if each.sharded)
        raise LussError(f"{stage.name} has no shards: the stages that have are {names}")
    device = resolve_device(run.device)
    total = States(run).num_shards(stage)
    for shard in shards:
        if not 0 <= shard < total:
            raise LussError(f"{stage.name} has no shard {shard}: its shards are 0 to {total - 1}")
    telling = refusals_named(Path(run.output), "run the same command again, it continues")
    with telling, stop_on_signals() as stop:
        work = _ShardWork(run, stage, device, stop, console or Console())
        for shard in shards:
            with shard_lock(work.place.run_folder, stage.name, shard, stop=stop):
                work.make(shard)


class _ShardWork:
    """What the shards that one process makes have in common: the network is loaded once."""

    def __init__(
        self, run: RunSettings, stage: ShardedStage[Any], device: torch.device, stop: StopFlag, console: Console
    ) -> None:
        self.run, self.stage, self.device, self.stop, self.console = run, stage, device, stop, console
        self.place = States(run).place(stage, stop)
        self.files = StageFolder(stage, self.place)
        self.plan: ShardPlan | None = None
        self.maker: Maker | None = None
        self.start_id = ""

    def make(self, shard: int) -> None:
        """Makes one shard, whose lock is held, unless it is there."""
        name = self.stage.name
        if not self._begin():
            self.console.print(f"{name}: done")
            return
        # Once for all shards: that of masks reads every image's name, 9 s for 2 million.
        plan = self.plan = self.plan or self.stage.plan(self.place)
        total = len(plan.ranges)
        if plan.is_made(shard):
            self.console.print(f"{name}: shard {shard} of {total} is there")
            return
        progress = plan.notes.path(shard, ".progress.json")
        title, seconds = f"{name} shard {shard}", float(read_progress(progress).get("seconds", 0.0))
        reporter = ConsoleReporter(
            title, self.place.folder, console=self.console, seconds_before=seconds, progress=progress
        )
        skipped = SkippedFiles(plan.notes.skipped(shard))
        context = StageContext(
            **vars(self.place), device=self.device, reporter=reporter, skipped=skipped, confirm=self._confirm
        )
        allow_open_files(name, getattr(self.stage.block(self.run), "workers", 0))
        begin_piece(self.run.seed)

        def facts() -> dict[str, Any]:
            return {"seconds": round(reporter.seconds(), 1), "peak_memory_mb": peak_memory_mb()}

        try:
            self.maker = self.maker or self.stage.maker(context, plan)
            num_images, done = len(plan.ranges[shard]), 0
            reporter.start("image", num_images, 0)
            for count in make_shard(context, plan, shard, self.maker, facts=facts):
                done += count
                reporter.advance(done)
            reporter.message(f"{name}: shard {shard} of {total} made in {duration(reporter.seconds())}")
        except Interrupted as error:
            reason = self.stop.reason or str(error)
            reporter.message(f"{name}: shard {shard} stopped ({reason}); the same command makes it again")
            raise Interrupted(reason) from error
        finally:
            reporter.close()
        progress.unlink(missing_ok=True)

    def _begin(self) -> bool:
        """Marks the stage as started; False when it is done already."""
        states = States(self.run)
        kind = states.kind(self.stage)
        if kind == "done":
            return False
        if kind == "stale":
            reason = states.of(self.stage).detail
            raise LussError(
                f"{self.stage.name} in {self.place.run_folder} is stale ({reason}), and a single shard moves no results aside: "
                "run or submit the stage"
            )
        states.check(self.stage.name, self.stage.needs)
        require_sound(self.place.run_folder, [need.name for need in self.stage.needs], most_bytes=SMALL_BYTES)
        start_id = self.files.begin_shard()
        if self.maker is not None and start_id != self.start_id:
            raise self._moved()
        self.start_id = start_id
        self._confirm()
        return True

    def _confirm(self) -> None:
        """Makes sure that the stage is still the one that was begun, of the same inputs."""
        kind = States(self.run).kind(self.stage)
        if kind != "partial" or self.files.start_id() != self.start_id:
            raise self._moved()

    def _moved(self) -> LussError:
        return LussError(
            f"{self.stage.name} in {self.place.run_folder} was moved aside, ended or changed by another process meanwhile: nothing was "
            "written, run this again"
        )
