"""`luss run`: every stage that is not done."""

import argparse
from pathlib import Path

from luss.config import load_config, to_yaml
from stages.commands.base import KEY_VALUE, config_arguments, tell_changed
from stages.running.screen import Console

HELP = "run every stage that is not done"

_EPILOG = f"""examples:
  luss run configs/demo.yaml                             every stage, or the rest of them after a stop
  luss run configs/objects27_cpu.yaml data.root=PHOTOS   a folder of your own
  luss run CONFIG.yaml pretrain.epochs=50 --dry-run      say what would run with another setting, and why
  luss run CONFIG.yaml --until cluster                   stop after a stage

{KEY_VALUE}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.description = (
        "Runs every stage that is not done; continues interrupted ones;\n"
        "moves results of other settings aside and runs those stages anew."
    )
    parser.epilog = _EPILOG
    config_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--until", metavar="STAGE", help="the last stage to run")
    which.add_argument("--only", metavar="STAGE", help="run this stage alone; what it needs must be done")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--force", metavar="STAGE", help="run this stage anew although it is done; later ones follow")
    again.add_argument(
        "--rescan", action="store_const", const="manifest", dest="force",
        help="list the images anew; the other stages follow only if there are other images",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why; change nothing")
    parser.add_argument("--print-config", action="store_true", help="print every setting, resolved; run nothing")


def main(options: argparse.Namespace) -> None:
    """Checks, runs, and prints the results."""
    run, console = load_config(options.config, options.words), Console()
    if options.print_config:
        console.write(to_yaml(run))
        return
    from stages.pipeline import MANIFEST
    from stages.running.preflight import check_sizes, preflight, warn_of_absent
    from stages.running.results import print_results, status_table
    from stages.running.runner import run_stages, select
    from stages.running.state import States

    chosen = select(run, until=options.until, only=options.only, force=options.force)
    preflight(run, console)
    if options.dry_run:
        warn_of_absent(run, console)
        check_sizes(run, console)
        console.print(status_table(States(run), {stage.name for stage in chosen}, force=options.force))
        return
    if options.force != MANIFEST.name:
        tell_changed(Path(run.output), console)
    run_stages(run, chosen, force=options.force, console=console)
    print_results([run], console)
