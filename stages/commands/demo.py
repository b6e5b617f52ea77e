"""`luss demo`: the embedded data set through every stage, and an untrained network beside it."""

import argparse
import time
from pathlib import Path

from luss.config import load_config
from stages.commands.base import KEY_VALUE
from stages.running.screen import Console

HELP = "the embedded data set through every stage, and an untrained network beside it"

_EPILOG = f"""examples:
  luss demo                                     a few minutes on two CPU cores
  luss demo pretrain.epochs=5 output=trials/a   shorter and elsewhere; the floor goes to trials/a-floor

{KEY_VALUE}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--config", type=Path, default=Path("demo"), help="YAML file or name (default: demo)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run; change nothing")
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="settings that win over the file, such as pretrain.epochs=5"
    )


def main(options: argparse.Namespace) -> None:
    """Runs the pipeline twice, prints both rows and writes the page of the first."""
    run = load_config(options.config, options.words)
    floor = load_config(
        options.config, [*options.words, f"name={run.name}-floor", f"output={run.output}-floor", "pretrain.epochs=0"]
    )
    from stages.commands.report import write_report
    from stages.pipeline import stages_of
    from stages.running.preflight import preflight
    from stages.running.results import print_results, status_table
    from stages.running.runner import run_stages, select
    from stages.running.state import States

    console = Console()
    started = time.monotonic()
    for title, settings in (("the pipeline", run), ("the floor: the same stages over an untrained backbone", floor)):
        console.rule(title)
        preflight(settings, console)
        if options.dry_run:
            console.print(status_table(States(settings), set(stages_of(settings))))
            continue
        run_stages(settings, select(settings), console=console)
    if options.dry_run:
        return
    print_results([run, floor], console)
    write_report(Path(run.output), Path(run.output) / "report", console)
    console.print(f"demo finished in {time.monotonic() - started:.0f} s")
