"""Running stages: order, resume, signals, one process a run, and what is written when a stage ends."""

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console

from luss import processes
from luss.data.skipped import SkippedFiles
from luss.device import resolve_device
from luss.errors import LussError
from luss.files import is_disk_full, read_json
from luss.progress import Interrupted, StopFlag
from luss.settings import RunSettings
from stages.base import Stage, StageContext, StageFolder, StageState, check_needs, stage_kind, stage_state
from stages.pipeline import STAGES, stages_of
from stages.running.console import ConsoleReporter, duration
from stages.running.lock import Waiting, run_lock, shard_lock, stage_lock
from stages.running.preflight import check_sizes
from stages.sharded import Maker, ShardedStage, make_shard


def select(
    run: RunSettings, *, until: str | None = None, only: str | None = None, force: str | None = None
) -> list[Stage]:
    """The stages to run, in order: those of the run's protocols; `only` may name any stage.

    Raises:
        LussError: Unknown stage name; a stage that none of the run's protocols has; the stage to force is not among those to run.
    """
    for name in (until, only, force):
        if name is not None and name not in STAGES:
            raise LussError(f"there is no stage {name!r}: the stages are {', '.join(STAGES)}")
    names = list(stages_of(run)) if only is None else [only]
    if until is not None:
        if until not in names:
            raise LussError(
                f"--until {until}: the protocols of this run ({', '.join(run.protocols)}) have the stages {', '.join(names)}"
            )
        names = names[: names.index(until) + 1]
    if force is not None and force not in names:
        raise LussError(f"--force {force} would do nothing: only {', '.join(names)} would run")
    return [STAGES[name] for name in names]


def run_stages(
    run: RunSettings,
    stages: Sequence[Stage],
    *,
    force: str | None = None,
    console: Console | None = None,
    waiting: Waiting = "never",
) -> None:
    """Runs every given stage that is not done; continues partial ones; moves stale ones aside and runs them anew.

    Of a sharded stage it makes the shards that are missing, and joins all.

    Args:
        run: Settings.
        stages: In order.
        force: A stage to run anew although it is done.
        console: Where to print.
        waiting: "for the dead" when a scheduler may have started this job again after its machine died: the lock that the dead one
            has left on another machine is then waited for, some minutes.

    Raises:
        LussError: A stage that is needed is not done; another process holds the run, or makes a shard of a stage; the disk is full.
        Interrupted: A signal asked to stop; everything done is on disk.
    """
    console = console or Console()
    device = processes.start(resolve_device(run.device), timeout_minutes=run.peer_timeout_min)
    folder = Path(run.output)
    try:
        with telling_full_disk(), stop_on_signals() as stop, processes.naming_lost_peers():
            first = processes.rank() == 0
            with run_lock(folder, waiting=waiting, stop=stop) if first else contextlib.nullcontext():
                for stage in stages:
                    if stage.name != "manifest":
                        check_sizes(run, folder)
                    with stage_lock(folder, stage.name) if stage.sharded and first else contextlib.nullcontext():
                        _run_one(stage, run, folder, device, stop, console, force=stage.name == force)
    finally:
        processes.stop()


def run_shards(run: RunSettings, stage: Stage, shards: Sequence[int], console: Console | None = None) -> None:
    """Makes shards of a stage one after the other, each under a lock of its own; other processes may make others meanwhile.

    The stage is done when `run_stages` has joined the shards. A shard that is on disk already is left alone.

    Args:
        run: Settings.
        stage: A sharded one.
        shards: Numbers, 0 <= shard < `stage.num_shards`.
        console: Where to print.

    Raises:
        LussError: There is no such shard; what the stage needs is not done; the stage is stale; another living process makes
            the shard or runs the stage; too many images cannot be read; the disk is full.
        Interrupted: A signal asked to stop; finished shards are on disk.
    """
    if not isinstance(stage, ShardedStage):
        names = ", ".join(name for name, each in STAGES.items() if each.sharded)
        raise LussError(f"{stage.name} has no shards: the stages that have are {names}")
    device = resolve_device(run.device)
    total = stage.num_shards(run, Path(run.output))
    for shard in shards:
        if not 0 <= shard < total:
            raise LussError(f"{stage.name} has no shard {shard}: its shards are 0 to {total - 1}")
    with telling_full_disk(), stop_on_signals() as stop:
        work = _ShardWork(run, stage, device, stop, console or Console())
        for shard in shards:
            with shard_lock(work.run_folder, stage.name, shard, stop=stop):
                work.make(shard)


@dataclass
class _ShardWork:
    """What the shards that one process makes have in common: the network is loaded once."""

    run: RunSettings
    stage: ShardedStage
    device: torch.device
    stop: StopFlag
    console: Console
    run_folder: Path = field(init=False)
    files: StageFolder = field(init=False)
    maker: Maker | None = None
    start_id: str = ""

    def __post_init__(self) -> None:
        self.run_folder = Path(self.run.output)
        self.files = StageFolder(self.stage, self.run, self.run_folder, STAGES)

    def make(self, shard: int) -> None:
        """Makes one shard, whose lock is held, unless it is there."""
        name = self.stage.name
        if not self._begin():
            self.console.print(f"{name}: done", highlight=False)
            return
        plan = self.stage.plan(self.run, self.run_folder)
        total = len(plan.ranges)
        if plan.is_made(shard):
            self.console.print(f"{name}: shard {shard} of {total} is there", highlight=False)
            return
        progress = plan.notes.path(shard, ".progress.json")
        reporter = ConsoleReporter(
            f"{name} shard {shard}",
            self.files.folder,
            console=self.console,
            seconds_before=float(read_json(progress)["seconds"]) if progress.is_file() else 0.0,
            progress=progress,
        )
        skipped = SkippedFiles(plan.notes.skipped(shard))
        context = StageContext(
            self.run, self.run_folder, self.files.folder, self.device, reporter, self.stop, skipped, self._confirm
        )
        _reset_peak_memory()
        _seed(self.run.seed)

        def facts() -> dict[str, Any]:
            return {"seconds": round(reporter.seconds(), 1), "peak_memory_mb": _peak_memory_mb()}

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
        kind = stage_kind(self.stage, self.run, self.run_folder, STAGES)
        if kind == "done":
            return False
        if kind == "stale":
            reason = stage_state(self.stage, self.run, self.run_folder, STAGES).detail
            raise LussError(
                f"{self.stage.name} in {self.run_folder} is stale ({reason}), and a single shard moves no results aside: "
                "run or submit the stage"
            )
        check_needs(self.stage.name, self.stage.needs, self.run, self.run_folder, STAGES)
        start_id = self.files.begin_shard()
        if self.maker is not None and start_id != self.start_id:
            raise self._moved()
        self.start_id = start_id
        self._confirm()
        return True

    def _confirm(self) -> None:
        """Makes sure that the stage is still the one that was begun, of the same inputs."""
        kind = stage_kind(self.stage, self.run, self.run_folder, STAGES)
        if kind != "partial" or self.files.start_id() != self.start_id:
            raise self._moved()

    def _moved(self) -> LussError:
        return LussError(
            f"{self.stage.name} in {self.run_folder} was moved aside, ended or changed by another process meanwhile: nothing was "
            "written, run this again"
        )


@contextlib.contextmanager
def telling_full_disk() -> Iterator[None]:
    """Turns the system's error about a full disk into a message."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise LussError(
                f"the disk is full ({error}): free some space and run the same command again, it continues"
            ) from error
        raise


def _run_one(
    stage: Stage,
    run: RunSettings,
    run_folder: Path,
    device: torch.device,
    stop: StopFlag,
    console: Console,
    *,
    force: bool,
) -> None:
    first = processes.rank() == 0
    if processes.world_size() > 1 and not stage.distributed:
        raise LussError(f"{stage.name} works in one process: start it without torchrun")
    files = StageFolder(stage, run, run_folder, STAGES)
    state = stage_state(stage, run, run_folder, STAGES)
    processes.barrier()
    if state.kind == "done" and not force:
        if first:
            console.print(f"{stage.name}: done ({duration(state.seconds)})", highlight=False)
        return
    check_needs(stage.name, stage.needs, run, run_folder, STAGES)
    if first:
        _prepare(files, state, console, force=force)
    processes.barrier()
    reporter = ConsoleReporter(
        stage.name, files.folder, console=console, seconds_before=files.seconds_before(), quiet=not first
    )
    _reset_peak_memory()
    _seed(run.seed)
    skipped = SkippedFiles(files.folder / _own_list())
    context = StageContext(run, run_folder, files.folder, device, reporter, stop, skipped)
    try:
        if first:
            console.print(f"[bold]{stage.name}[/bold]", highlight=False)
        figures = stage.run(context)
        processes.barrier()
        if first:
            _absorb_ranks(files.folder)
            num_skipped = SkippedFiles(files.folder / "skipped.csv").count
            figures |= {"skipped": num_skipped} if num_skipped else {}
            seconds = reporter.seconds()
            reporter.message(f"{stage.name}: done in {duration(seconds)}{_shown_figures(figures)}")
            files.finish(figures, seconds=seconds, peak_memory_mb=_peak_memory_mb())
    except Interrupted as error:
        reason = stop.reason or str(error)
        again = "the same command without --force" if force else "the same command"
        reporter.message(f"{stage.name}: stopped ({reason}); {again} continues it")
        raise Interrupted(reason) from error
    finally:
        reporter.close()
    if first and (files.folder / "progress.json").exists():
        (files.folder / "progress.json").unlink()


def _prepare(files: StageFolder, state: StageState, console: Console, *, force: bool) -> None:
    """Moves what may not be continued aside and marks the stage as started."""
    if state.kind == "stale" or (force and state.kind != "missing"):
        reason = state.detail if state.kind == "stale" else "forced"
        console.print(
            f"{files.stage.name}: runs anew ({reason}); the old result is kept in {files.set_aside()}", highlight=False
        )
    files.begin()
    _absorb_ranks(files.folder)


def _own_list() -> str:
    """The list of unreadable images of this process: several that write one file would cut each other's lines."""
    return "skipped.csv" if processes.world_size() == 1 else f"skipped.rank-{processes.rank()}.csv"


def _absorb_ranks(folder: Path) -> None:
    """Makes one list of those that the processes have kept."""
    lists = sorted(folder.glob("skipped.rank-*.csv"))
    if lists:
        SkippedFiles(folder / "skipped.csv").absorb(lists)
        for path in lists:
            path.unlink()


def _shown_figures(figures: dict[str, Any]) -> str:
    parts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
             if isinstance(value, (int, float, str))]  # fmt: skip
    return f": {', '.join(parts)}" if parts else ""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGTERM, SIGUSR2 (a scheduler's warning) and Ctrl-C set; a second Ctrl-C stops at once.

    In another thread than the main one, where Python handles no signals, nothing sets it.
    """
    stop = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        # A warning says that the scheduler will start the work again: it is what a job that got both must remember.
        if not stop or number == signal.SIGUSR2:
            stop.set(f"{signal.Signals(number).name} received")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries may use the global generator)
    torch.manual_seed(seed)


def _reset_peak_memory() -> None:
    # Linux resets the high-water mark on this write; elsewhere the figure is that of the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory_mb() -> int:
    """Peak resident memory of this process since the last reset, in MB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) // 1024
    except (OSError, IndexError, ValueError):
        return int(psutil.Process(os.getpid()).memory_info().rss) >> 20
