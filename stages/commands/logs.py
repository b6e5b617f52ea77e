"""`luss logs`: what a stage's job has printed."""

import argparse
import time
from pathlib import Path

from luss.errors import LussError
from stages.commands.base import run_argument
from stages.running.screen import Console

HELP = "print the log of a stage's job"

_POLL_SECONDS = 1.0
# How often the scheduler is asked whether anybody still writes.
_ASK_SECONDS = 15.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    run_argument(parser)
    parser.add_argument("stage", metavar="STAGE", help="such as pretrain")
    parser.add_argument("--follow", action="store_true", help="go on printing until the job ends")
    parser.add_argument(
        "--task", metavar="JOB", default="", help="the task of an array, such as 17_3; else a failed or the newest one"
    )


def main(options: argparse.Namespace) -> None:
    """Prints the log of process 0, and names those of the others."""
    from stages.pipeline import STAGES

    if options.stage not in STAGES:
        raise LussError(f"there is no stage {options.stage!r}: the stages are {', '.join(STAGES)}")
    files = _wait_for_log(options) if options.follow else _find(options)
    if not files:
        raise LussError(
            f"{options.stage} of {options.run} has printed nothing yet: `luss status {options.run}` says why"
        )
    console, notes = Console(), Console(stderr=True)
    if len(files) > 1:
        notes.write(f"# other processes: {', '.join(map(str, files[1:]))}\n")
    notes.write(f"# {files[0]}\n")
    position = _print_from(files[0], 0, console)
    # Once nobody reads, there is nothing more to do.
    while options.follow and not console.quiet and _alive(options):
        until = time.monotonic() + _ASK_SECONDS
        while time.monotonic() < until and not console.quiet:
            time.sleep(_POLL_SECONDS)
            position = _print_from(files[0], position, console)
    _print_from(files[0], position, console)


def _find(options: argparse.Namespace) -> list[Path]:
    """Files of the most telling task: one that failed, one at work, the newest; without jobs, the log of `luss run`."""
    from stages.jobs.queue import task_states
    from stages.jobs.records import log_files, read_jobs

    record = read_jobs(options.run, options.stage)
    if options.task:
        return log_files(options.run, options.stage, options.task)
    if record is not None:
        states = task_states(record.jobs)
        rank = {"completed": 2, "gone": 2, "running": 1, "pending": 1, "requeued": 1}
        found = [
            (rank.get(states[task].kind, 0), log_files(options.run, options.stage, task))
            for task in reversed(record.task_ids())
        ]
        best = min((pair for pair in found if pair[1]), key=lambda pair: pair[0], default=None)
        if best is not None:
            return best[1]
    return sorted((options.run / options.stage / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]


def _wait_for_log(options: argparse.Namespace) -> list[Path]:
    files = _find(options)
    while not files and _alive(options):
        time.sleep(_ASK_SECONDS / 3)
        files = _find(options)
    return files


def _alive(options: argparse.Namespace) -> bool:
    from stages.jobs.queue import task_states
    from stages.jobs.records import read_jobs

    record = read_jobs(options.run, options.stage)
    return record is not None and any(state.alive for state in task_states(record.jobs).values())


def _print_from(path: Path, position: int, console: Console) -> int:
    """Prints what has come since `position`; returns the new one."""
    with open(path, "rb") as file:
        file.seek(position)
        console.write(file.read().decode(errors="replace"))
        return file.tell()
