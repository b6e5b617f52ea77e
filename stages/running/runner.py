"""Running stages: order, resume, one process a run, and what is written when a stage ends."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from luss import processes
from luss.data.skipped import SkippedFiles
from luss.device import resolve_device
from luss.errors import LussError
from luss.files import remove_dead
from luss.progress import Interrupted, StopFlag
from luss.refusals import refusals_named
from luss.settings import RunSettings
from stages.base import AnyStage, StageContext
from stages.pipeline import MANIFEST, STAGES, stages_of
from stages.running.console import ConsoleReporter, duration
from stages.running.folder import PROGRESS, StageFolder
from stages.running.lock import Waiting, run_lock, stage_lock
from stages.running.preflight import check_sizes, warn_of_absent
from stages.running.process import allow_open_files, begin_piece, peak_memory_mb
from stages.running.products import SMALL_BYTES, require_sound
from stages.running.screen import Console
from stages.running.signals import stop_on_signals
from stages.running.state import StageState, States


def select(
    run: RunSettings, *, until: str | None = None, only: str | None = None, force: str | None = None
) -> list[AnyStage]:
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
    stages: Sequence[AnyStage],
    *,
    force: str | None = None,
    console: Console | None = None,
    waiting: Waiting = "never",
) -> None:
    """Runs every given stage that is not done; continues partial ones; moves stale ones aside and runs them anew.

    Of a sharded stage it makes the shards that are missing, and joins all. Of several processes the first lists the images while the
    others wait.

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
    telling = refusals_named(folder, "run the same command again, it continues")
    try:
        with telling, stop_on_signals() as stop, processes.naming_lost_peers():
            first = processes.rank() == 0
            with run_lock(folder, waiting=waiting, stop=stop) if first else contextlib.nullcontext():
                if first:
                    remove_dead(folder, "*")
                    remove_dead(folder, "*/*")
                    warn_of_absent(run, console)
                with processes.first_alone(MANIFEST.name, stop) as listing:
                    if listing and MANIFEST in stages:
                        _run_one(MANIFEST, run, device, stop, console, force=force == MANIFEST.name)
                check_sizes(run, console if first else None)
                for stage in (stage for stage in stages if stage is not MANIFEST):
                    with stage_lock(folder, stage.name) if stage.sharded and first else contextlib.nullcontext():
                        _run_one(stage, run, device, stop, console, force=stage.name == force)
    finally:
        processes.stop()


def _run_one(
    stage: AnyStage, run: RunSettings, device: torch.device, stop: StopFlag, console: Console, *, force: bool
) -> None:
    first, folder, alone = processes.rank() == 0, Path(run.output), not stage.distributed
    if processes.world_size() > 1 and alone and stage is not MANIFEST:
        raise LussError(f"{stage.name} works in one process: start it without torchrun")

    def meet() -> None:
        if not alone:
            processes.barrier()

    states = States(run)
    state = states.of(stage)
    meet()
    if not force:
        states.refuse_damaged(stage)
    if state.kind == "done" and not force:
        if first:
            StageFolder(stage, states.place(stage, stop)).tidy()
            console.print(f"{stage.name}: done ({duration(state.seconds)})")
        return
    states.check(stage.name, stage.needs)
    require_sound(folder, [need.name for need in stage.needs], most_bytes=SMALL_BYTES)
    allow_open_files(stage.name, getattr(stage.block(run), "workers", 0))
    place = states.place(stage, stop)
    files = StageFolder(stage, place)
    if first:
        _prepare(files, state, console, force=force)
    meet()
    reporter = ConsoleReporter(
        stage.name, place.folder, console=console, seconds_before=files.seconds_before(), quiet=not first
    )
    begin_piece(run.seed)
    skipped = SkippedFiles(place.folder / _own_list(alone=alone))
    context = StageContext(**vars(place), device=device, reporter=reporter, skipped=skipped)
    try:
        if first:
            console.print(stage.name, style="bold")
        figures = stage.run(context)
        meet()
        if first:
            _absorb_ranks(place.folder)
            listed = SkippedFiles(place.folder / "skipped.csv")
            counts = {"skipped": listed.count, "read with a note in skipped.csv": listed.num_notes}
            figures |= {what: count for what, count in counts.items() if count}
            seconds = reporter.seconds()
            reporter.message(f"{stage.name}: done in {duration(seconds)}{_shown_figures(figures)}")
            files.finish(figures, seconds=seconds, peak_memory_mb=peak_memory_mb())
    except Interrupted as error:
        reason = stop.reason or str(error)
        again = "the same command without --force" if force else "the same command"
        reporter.message(f"{stage.name}: stopped ({reason}); {again} continues it")
        raise Interrupted(reason) from error
    finally:
        reporter.close()
    if first:
        (place.folder / PROGRESS).unlink(missing_ok=True)


def _prepare(files: StageFolder, state: StageState, console: Console, *, force: bool) -> None:
    """Moves what may not be continued aside and marks the stage as started."""
    if state.kind == "stale" or (force and state.kind != "missing"):
        reason = state.detail if state.kind == "stale" else "forced"
        aside = files.set_aside()
        console.print(f"{files.stage.name}: runs anew ({reason}); the old result is kept in {aside}")
    files.begin()
    _absorb_ranks(files.place.folder)


def _own_list(*, alone: bool) -> str:
    """The list of unreadable images of this process: several that write one file would cut each other's lines."""
    return "skipped.csv" if alone or processes.world_size() == 1 else f"skipped.rank-{processes.rank()}.csv"


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
