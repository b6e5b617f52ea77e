"""`luss verify`: whether the results of a run still are what its stages wrote."""

import argparse
import time
from pathlib import Path

from rich.table import Table

from luss.errors import LussError
from stages.commands.base import run_argument
from stages.running.screen import Console

HELP = "read every product of a run and compare it with its checksum"

_EPILOG = """Checksums are taken when a stage ends (of shards and masks when they are written), so what has changed since on the disk or in
a copy is found: flipped bits, exchanged, cut or lost files. The exit code is 1 where something is damaged. Nothing is changed or deleted."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = _EPILOG
    run_argument(parser)
    parser.add_argument(
        "--stage", action="append", default=[], metavar="STAGE", help="only this stage; repeat for more"
    )


def main(options: argparse.Namespace) -> None:
    """Prints a line a stage, then what is damaged and what to do.

    Raises:
        SystemExit: With code 1, where something is damaged.
    """
    from stages.pipeline import STAGES

    if not options.run.is_dir():
        raise LussError(f"{options.run} is not the folder of a run: give one, such as outputs/demo")
    for name in options.stage:
        if name not in STAGES:
            raise LussError(f"there is no stage {name!r}: the stages are {', '.join(STAGES)}")
    console = Console()
    table = Table(title=str(options.run), title_justify="left")
    for heading in ("stage", "products", "MB", "seconds", "found"):
        table.add_column(heading, justify="left" if heading in ("stage", "found") else "right")
    damaged: dict[str, list[str]] = {}
    for name in options.stage or STAGES:
        row, damaged[name] = _looked_at(options.run / name)
        if row or name in options.stage:
            table.add_row(name, *(row or ("", "", "", "not done")))
    console.print(table)
    for name, problems in damaged.items():
        for problem in problems:
            console.print(problem)
        if problems:
            advice = f"{name}: put sound copies in their place, or make it anew: luss run CONFIG --force {name}"
            console.print(advice)
    if any(damaged.values()):
        raise SystemExit(1)


def _looked_at(folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """A row of the table, empty for a stage that is not done, and what is damaged."""
    from stages.running.folder import DONE, read_done
    from stages.running.products import checksums_of, damaged, damaged_masks

    if not (folder / DONE).is_file():
        return (), []
    started = time.monotonic()
    try:
        record = read_done(folder)
    except LussError as error:
        return ("", "", "", "its record is damaged"), [str(error)]
    wrong = [f"{folder / product} is damaged" for product in (*damaged(folder), *damaged_masks(folder))]
    num_bytes = sum(record["products"].values())
    found = (
        f"{len(wrong)} damaged" if wrong else "sound" if checksums_of(record) else "no checksums: of an earlier version"
    )
    seconds = f"{time.monotonic() - started:.1f}"
    return (str(len(record["products"])), f"{num_bytes / 1e6:.1f}", seconds, found), wrong
