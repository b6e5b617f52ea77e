"""`luss cancel`: ends the jobs of a run."""

import argparse
from pathlib import Path

from stages.commands.base import run_argument
from stages.running.screen import Console

HELP = "cancel everything that is queued or running for a run"
arguments = run_argument


def main(options: argparse.Namespace) -> None:
    """Cancels and says what."""
    from stages.jobs.queue import cancel_run
    from stages.pipeline import STAGES
    from stages.running.results import settings_of_run

    run = settings_of_run(options.run)
    ended = cancel_run(Path(run.output), list(STAGES))
    said = (
        f"cancelled {', '.join(ended)}: luss submit continues what they were at"
        if ended
        else "nothing is queued or running"
    )
    Console().print(said)
