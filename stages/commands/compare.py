"""`luss compare`: a grid of runs side by side."""

import argparse
import shlex
from typing import TYPE_CHECKING

from luss.errors import LussError
from stages.commands.base import KEY_VALUE, config_arguments
from stages.commands.submit import WISHES, job_arguments, job_flags
from stages.running.screen import Console

if TYPE_CHECKING:
    from stages.comparing.running import Comparison

HELP = "run every combination of learners, settings and seeds, and show them in one table and on one page"

_EPILOG = f"""examples:
  luss compare configs/demo.yaml pretrain.lr=[0.001,0.002] seed=[0,1,2] name=rates                three seeds of two rates
  luss compare configs/objects27_cpu.yaml [configs/methods/swav.yaml,configs/methods/pass_s.yaml] seed=[0,1] name=learners
  luss compare configs/demo.yaml seed=[0,1,2] name=seeds --until cluster --dry-run                say what would run

A word whose value is a list for a setting that takes none is an axis: every value of it is a run; for a setting that takes a list it is a list
of lists. A list of files in brackets is an axis too: each file is laid over the configuration. No spaces in a list, or quotes around the word.
{KEY_VALUE}"""

_LOG_WIDTH = 160


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.description = (
        "Runs a grid: each combination is a run of its own in outputs/NAME/, checked before the first one starts.\n"
        "What two runs would make alike is made once. The same command continues, and an axis with more values\n"
        "adds runs to those that are done. Results: table.csv, table.json and compare.html in outputs/NAME/."
    )
    parser.epilog = _EPILOG
    config_arguments(parser)
    parser.add_argument(
        "--budget-minutes", type=float, metavar="M",
        help="the same time instead of the same epochs: every learner pretrains as many epochs as take M minutes on this machine, which "
        "is measured before",
    )  # fmt: skip
    parser.add_argument("--until", metavar="STAGE", help="the last stage of every run")
    parser.add_argument("--dry-run", action="store_true", help="say what is done and what would run; change nothing")
    parser.add_argument(
        "--submit", action="store_true", help="submit the runs as jobs, as luss submit does; again, to see the results"
    )
    job_arguments(parser)


def main(options: argparse.Namespace) -> None:
    """Checks everything, runs or submits, and prints the table.

    Raises:
        SystemExit: With code 1, where a run has failed.
    """
    from stages.comparing.grid import check_cells, read_grid
    from stages.comparing.overview import planned
    from stages.comparing.record import opened_record
    from stages.comparing.running import PAGE, Comparison
    from stages.comparing.table import printed
    from stages.jobs.launch import check_cluster
    from stages.running.lock import run_lock

    _check(options)
    console = Console()
    grid = read_grid(options.config, options.words)
    record = opened_record(grid, _again(options), options.budget_minutes)
    comparison = Comparison(grid, record, options.until, console)
    check_cells(grid, options.until, console)
    if options.dry_run:
        comparison.apply_budget(dry=True)
        console.print(planned(comparison))
        return
    if options.submit:
        check_cluster(options.cluster)
    with run_lock(grid.folder):
        comparison.prepare()
        comparison.apply_budget()
        if options.submit:
            _submit(comparison, options)
        else:
            comparison.run()
        results = comparison.collect()
    # A log has room for all columns.
    (console if console.is_terminal else Console(width=_LOG_WIDTH)).print(printed(results))
    for text in (*results.notes, f"open {grid.folder / PAGE} in a browser"):
        console.print(text)
    if any(cell.name in record.errors for cell in grid.cells):
        raise SystemExit(1)


def _check(options: argparse.Namespace) -> None:
    if not options.submit:
        given = [wish for wish in WISHES if getattr(options, wish) is not None]
        if given:
            raise LussError(f"--{given[0].replace('_', '-')} is for jobs: add --submit, or leave it out")
    if options.budget_minutes is None:
        return
    if not options.budget_minutes > 0:
        raise LussError(f"--budget-minutes is {options.budget_minutes:g}: it must be more than 0")
    if options.submit:
        raise LussError(
            "--budget-minutes measures this machine, and jobs work elsewhere: give the epochs (pretrain.epochs=N), or leave --submit out"
        )
    if any(word.partition("=")[0] == "pretrain.epochs" for word in options.words):
        raise LussError("pretrain.epochs is what --budget-minutes finds: leave one of them out")


def _submit(comparison: "Comparison", options: argparse.Namespace) -> None:
    from stages.jobs.plan import Order

    words = {wish: getattr(options, wish) for wish in WISHES}
    command = shlex.join(_again(options))

    def tell(name: str, text: str) -> None:
        comparison.console.print(f"{name}: {text}")

    comparison.submit(lambda run: Order(run, options.cluster, command, options.code, words, options.until), tell)


def _again(options: argparse.Namespace) -> list[str]:
    """What to type to continue."""
    wanted = {"budget-minutes": options.budget_minutes, "until": options.until}
    flags = [f"--{name}={value}" for name, value in wanted.items() if value is not None]
    jobs = ["--submit", *job_flags(options)] if options.submit else []
    return ["luss", "compare", str(options.config), *options.words, *flags, *jobs]
