"""`luss submit`: every stage as a job of a cluster."""

import argparse
import shlex
from typing import Any

from rich.table import Table

from luss.config import load_config
from stages.commands.base import KEY_VALUE, config_arguments
from stages.jobs.source import CHOICES
from stages.running.screen import Console

HELP = "submit every stage that is neither done nor queued to SLURM"

_EPILOG = f"""examples:
  luss submit configs/imagenet_s50.yaml --partition gpu --gpus-per-node 8   every stage as a job
  luss submit CONFIG.yaml resources.pretrain.timeout_min=2880               a limit of two days for one stage
  luss submit CONFIG.yaml --dry-run                                         print the sbatch files; change nothing

{KEY_VALUE}"""
WISHES = ("partition", "account", "qos", "constraint", "nodes", "gpus_per_node")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.description = (
        "Checks settings and data, lists the images, and submits a job or job array a stage, each after those it needs.\n"
        "Submitting again submits only what is neither done nor queued.\n"
        "The settings block `resources` says what each job asks for."
    )
    parser.epilog = _EPILOG
    config_arguments(parser)
    job_arguments(parser)
    parser.add_argument("--until", metavar="STAGE", help="the last stage to submit")
    parser.add_argument("--force", metavar="STAGE", help="make this stage anew although it is done; later ones follow")
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch file of every job; change nothing")


def job_arguments(parser: argparse.ArgumentParser) -> None:
    """Where jobs go, what they ask for, and which source they run."""
    parser.add_argument(
        "--cluster",
        choices=("slurm", "local", "debug"),
        default="slurm",
        help="slurm; local: the same jobs on this machine, one stage after the other; debug: in this process",
    )
    for wish in WISHES:
        number = wish in ("nodes", "gpus_per_node")
        parser.add_argument(
            f"--{wish.replace('_', '-')}",
            type=int if number else str,
            help=f"wins over resources.*.{wish}" + (", of stages that train" if wish == "nodes" else ""),
        )
    parser.add_argument(
        "--code",
        choices=CHOICES,
        default=CHOICES[0],
        help="the source that jobs run: a copy of it made now; this one, refusing to start when it was edited; whatever is there then",
    )


def main(options: argparse.Namespace) -> None:
    """Checks, submits and prints a table."""
    run = load_config(options.config, options.words)
    from stages.jobs.launch import Row, preview, submit
    from stages.jobs.plan import Order
    from stages.running.preflight import preflight

    console = Console()
    preflight(run, console)
    words = {wish: getattr(options, wish) for wish in WISHES}
    order = Order(run, options.cluster, _again(options), options.code, words, options.until, options.force)
    table = Table(title=run.output, title_justify="left")
    for heading in ("stage", "job", "shards", "resources", "log"):
        table.add_column(heading, overflow="fold")

    def tell(row: Row, text: str = "") -> None:
        cells = (row.stage, row.job, row.shards, row.resources, row.log)
        table.add_row(*cells)
        if text:
            console.print(f"# ---- {row.stage}\n{text}")
        if order.cluster != "slurm" and not options.dry_run:
            console.print("  ".join(filter(None, cells)))

    try:
        (preview if options.dry_run else submit)(order, tell, lambda text: console.print(text))
    finally:
        # Also of a submission that broke off: its jobs are queued.
        if table.row_count and (order.cluster == "slurm" or options.dry_run):
            console.print(table)
    if not options.dry_run and order.cluster == "slurm":
        console.print(f"luss status {run.output} says how far it is")


def _again(options: argparse.Namespace) -> str:
    """The command to submit the rest with; what was forced once is not forced again."""
    flags = job_flags(options) + ([f"--until={options.until}"] if options.until else [])
    return shlex.join(["luss", "submit", str(options.config), *options.words, *flags])


def job_flags(options: argparse.Namespace) -> list[str]:
    """The options of `job_arguments` as they were given."""
    wanted: dict[str, Any] = {"cluster": options.cluster, **{wish: getattr(options, wish) for wish in WISHES}}
    wanted["code"] = options.code if options.code != CHOICES[0] else None
    return [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items() if value is not None]
