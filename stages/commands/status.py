"""`luss status`: the state of every stage of a run, on disk and in the queue."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from luss.errors import LussError
from luss.settings import RunSettings
from stages.commands.base import run_argument

if TYPE_CHECKING:
    from stages.jobs.queue import QueueView

HELP = "state of every stage of a run; of submitted ones also the jobs, and what to do next"
arguments = run_argument


def main(options: argparse.Namespace) -> None:
    """Prints a table; where jobs were submitted, also their states and the next step."""
    from stages.jobs.queue import summary, view_queue
    from stages.running.results import settings_of_run, status_table

    console, run = Console(), settings_of_run(options.run)
    queue, advice = {}, ""
    try:
        view = view_queue(options.run, _stages(run))
        queue = {stage: summary(list(view.of(stage).values())) for stage in view.records}
        advice = _advice(run, options.run, view) if view.records else ""
    except LussError as error:
        advice = f"the queue cannot be asked: {error}"
    console.print(status_table(run, set(), queue=queue))
    if advice:
        console.print(advice, highlight=False, markup=False, soft_wrap=True)


def _stages(run: RunSettings) -> list[str]:
    from stages.pipeline import stages_of

    return list(stages_of(run))


def _advice(run: RunSettings, folder: Path, view: "QueueView") -> str:
    from stages.base import stage_state
    from stages.jobs.queue import next_step
    from stages.pipeline import STAGES, stages_of

    disk = {name: stage_state(stage, run, folder, STAGES) for name, stage in stages_of(run).items()}
    return next_step(folder, disk, view)
