"""`luss status`: the state of every stage of a run, on disk and in the queue."""

import argparse
from pathlib import Path

from luss.errors import LussError
from stages.commands.base import run_argument, tell_changed
from stages.running.screen import Console

HELP = "state of every stage of a run; of submitted ones also the jobs, and what to do next"
arguments = run_argument


def main(options: argparse.Namespace) -> None:
    """Prints a table, of a comparison one of its runs; where jobs were submitted, also their states and the next step."""
    from stages.comparing.overview import status_of_cells
    from stages.comparing.record import is_comparison
    from stages.jobs.queue import next_step, summary, view_queue, why_waiting
    from stages.pipeline import stages_of
    from stages.running.results import settings_of_run, status_table
    from stages.running.state import States

    if is_comparison(options.run):
        Console().print(status_of_cells(options.run))
        return
    console, run = Console(), settings_of_run(options.run)
    folder = Path(run.output)
    # Looked at once, for the table and for what to do next.
    states, own = States(run), stages_of(run)
    queue: dict[str, str] = {}
    advice: list[str] = []
    try:
        view = view_queue(folder, list(own))
        queue = {stage: summary(list(view.of(stage).values())) for stage in view.records}
        if view.records:
            disk = {name: states.of(stage) for name, stage in own.items()}
            advice = [*why_waiting(view), next_step(folder, disk, view)]
    except LussError as error:
        advice = [f"the queue cannot be asked: {error}"]
    console.print(status_table(states, set(), queue=queue))
    tell_changed(folder, console)
    for line in advice:
        console.print(line)
