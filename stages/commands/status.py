"""`luss status`: the state of every stage of a run."""

import argparse

from rich.console import Console

from stages.commands.base import run_argument

HELP = "state of every stage of a run"
arguments = run_argument


def main(options: argparse.Namespace) -> None:
    """Prints a table."""
    from stages.summary import settings_of_run, status_table

    Console().print(status_table(settings_of_run(options.run), set()))
