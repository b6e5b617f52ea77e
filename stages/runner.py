"""Running stages: order, resume, signals, one process a run, and what is written when a stage ends."""

import contextlib
import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console

from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import is_disk_full
from luss.progress import Interrupted, StopFlag
from luss.settings import RunSettings
from luss.training import distributed
from stages.base import Stage, StageContext, StageFolder, StageState, stage_state
from stages.console import ConsoleReporter, duration
from stages.lock import run_lock
from stages.registry import ORDER, STAGES


def select(*, until: str | None = None, only: str | None = None, force: str | None = None) -> list[Stage]:
    """The stages to run, in order.

    Raises:
        LussError: Unknown stage name; the stage to force is not among those to run.
    """
    for name in (until, only, force):
        if name is not None and name not in STAGES:
            raise LussError(f"there is no stage {name!r}: the stages are {', '.join(ORDER)}")
    names = ORDER[: ORDER.index(until) + 1] if until is not None else ORDER
    if only is not None:
        names = [only]
    if force is not None and force not in names:
        raise LussError(f"--force {force} would do nothing: only {', '.join(names)} would run")
    return [STAGES[name] for name in names]


def run_stages(
    run: RunSettings, stages: Sequence[Stage], *, force: str | None = None, console: Console | None = None
) -> None:
    """Runs every given stage that is not done; continues partial ones; moves stale ones aside and runs them anew.

    Args:
        run: Settings.
        stages: In order.
        force: A stage to run anew although it is done.
        console: Where to print.

    Raises:
        LussError: A stage that is needed is not done; another process holds the run; the disk is full.
        Interrupted: A signal asked to stop; everything done is on disk.
    """
    console = console or Console()
    device = distributed.start(resolve_device(run.device))
    folder = Path(run.output)
    lock = run_lock(folder) if distributed.rank() == 0 else contextlib.nullcontext()
    try:
        with lock, stop_on_signals() as stop:
            for stage in stages:
                _run_one(stage, run, folder, device, stop, console, force=stage.name == force)
    except OSError as error:
        if is_disk_full(error):
            raise LussError(
                f"the disk is full ({error}): free some space and run the same command again, it continues"
            ) from error
        raise
    finally:
        distributed.stop()


def resolve_device(name: str) -> torch.device:
    """The device that a setting names; "auto" is CUDA where there is one.

    Raises:
        LussError: No such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LussError(f"device is {name!r}, which this machine does not have: use auto or cpu") from error
    return device


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
    first = distributed.rank() == 0
    if distributed.world_size() > 1 and not stage.distributed:
        raise LussError(f"{stage.name} works in one process: start it without torchrun")
    files = StageFolder(stage, run, run_folder, STAGES)
    state = stage_state(stage, run, run_folder, STAGES)
    distributed.barrier()
    if state.kind == "done" and not force:
        if first:
            console.print(f"{stage.name}: done ({duration(state.seconds)})", highlight=False)
        return
    _check_needs(stage, run, run_folder)
    if first:
        _prepare(files, state, console, force=force)
    distributed.barrier()
    reporter = ConsoleReporter(
        stage.name, files.folder, console=console, seconds_before=files.seconds_before(), quiet=not first
    )
    _reset_peak_memory()
    _seed(run.seed)
    skipped = SkippedFiles(files.folder / "skipped.csv")
    context = StageContext(run, run_folder, files.folder, device, reporter, stop, skipped)
    try:
        if first:
            console.print(f"[bold]{stage.name}[/bold]", highlight=False)
        figures = stage.run(context)
        distributed.barrier()
        if first:
            seconds = reporter.seconds()
            reporter.message(f"{stage.name}: done in {duration(seconds)}{_shown_figures(figures)}")
            files.finish(figures, seconds=seconds, peak_memory_mb=_peak_memory_mb())
    except Interrupted as error:
        reason = stop.reason or str(error)
        reporter.message(f"{stage.name}: stopped ({reason}); the same command continues it")
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


def _check_needs(stage: Stage, run: RunSettings, run_folder: Path) -> None:
    for need in stage.needs:
        state = stage_state(STAGES[need], run, run_folder, STAGES)
        if state.kind != "done":
            detail = f" ({state.detail})" if state.detail else ""
            raise LussError(
                f"{stage.name} needs {need}, which is {state.kind}{detail} in {run_folder}: run {need} first"
            )


def _shown_figures(figures: dict[str, Any]) -> str:
    parts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
             if isinstance(value, (int, float, str))]  # fmt: skip
    return f": {', '.join(parts)}" if parts else ""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGTERM and Ctrl-C set; a second Ctrl-C stops at once."""
    stop = StopFlag()

    def ask(number: int, frame: object) -> None:
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set(f"{signal.Signals(number).name} received")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
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
